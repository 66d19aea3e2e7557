//! Makes files in a home of nobody's that was attached to this waiting sandbox, and tells what it
//! sees there: for [`adrastea_init::trial`]. Nothing of a user is there yet. Must never be asked
//! of a sandbox that is to be somebody's: what it makes stays.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::Path,
};

use adrastea_init::trial::{
    FILE, FOLDER, FOREIGN, HOME_NAME, LINKED, MADE, MOVED, PLACE, Seen, TEXT, told,
};

/// One line: what was seen, or what could not be done.
pub fn attempt() -> String {
    let home = match fs::read(HOME_NAME) {
        Ok(home) => home,
        Err(error) => return failed("read", HOME_NAME, &error),
    };
    let home = Path::new(OsStr::from_bytes(&home));
    make(home).and_then(|()| look(home)).unwrap_or_else(|reason| reason)
}

fn failed(verb: &str, what: &str, error: &io::Error) -> String {
    format!("failed to {verb} {what}: {error}")
}

fn make(home: &Path) -> Result<(), String> {
    let done = |verb: &str, name: &str, result: io::Result<()>| {
        result.map_err(|error| failed(verb, name, &error))
    };
    let at = |name: &str| home.join(name);
    let (mode, second) = (Permissions::from_mode(MADE[0].1), at(FOLDER).join(FILE));
    done("write", FILE, fs::write(at(FILE), TEXT))?;
    done("set the mode of", FILE, fs::set_permissions(at(FILE), mode))?;
    done("make", FOLDER, fs::create_dir(at(FOLDER)))?;
    done("write into", FOLDER, fs::write(&second, TEXT))?;
    done("move to", MOVED, fs::rename(&second, at(MOVED)))?;
    done("link to", LINKED, fs::hard_link(at(MOVED), at(LINKED)))
}

fn look(home: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    for name in MADE.map(|(name, _)| name).into_iter().chain([FOREIGN]) {
        let seen = fs::symlink_metadata(home.join(name));
        let seen = seen.map_err(|error| failed("look at", name, &error))?;
        let mode = seen.mode() & 0o7777;
        files.push((name, Seen { uid: seen.uid(), gid: seen.gid(), mode }));
    }
    let beside = fs::symlink_metadata(home.join("..").join(PLACE)).is_ok();
    Ok(told(&files, File::open(home.join(FOREIGN)).is_ok(), beside))
}
