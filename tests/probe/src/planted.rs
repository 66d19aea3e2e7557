//! For the hostile tenant: files that would give rights away (a setuid program, one with
//! file capabilities, device nodes), put somewhere by who may, and tried by who may not.
//!
//! Nothing is read from or written to a device.

use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{hold, say};

const PATIENCE: Duration = Duration::from_secs(30);
/// `cap_setuid,cap_sys_admin=ep`, version 2.
const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0x80, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Name, major and minor: one that no sandbox has, and one that its control group allows.
const NODES: [(&str, u32, u32); 2] = [("planted-memory", 1, 1), ("planted-null", 1, 3)];
const PROGRAMS: [&str; 2] = ["planted-setuid", "planted-capabilities"];
const LAST: &str = "planted-done";

/// Puts all of them into a directory; the mark that they are there comes last.
pub fn plant(directory: &str) -> io::Result<()> {
    for name in PROGRAMS {
        let path = format!("{directory}/{name}");
        fs::copy("/proc/self/exe", &path)?;
        let mode = if name == "planted-setuid" { 0o6755 } else { 0o755 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let path = CString::new(format!("{directory}/planted-capabilities"))?;
    let (name, value) = (c"security.capability", CAPABILITIES);
    // SAFETY: both names are C strings, and the length is the value's.
    let set = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    for (name, major, minor) in NODES {
        let path = format!("{directory}/{name}");
        let text = CString::new(path.as_str())?;
        // SAFETY: the path is a C string; the rest are numbers.
        let made = unsafe {
            libc::mknod(text.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(major, minor))
        };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    fs::write(format!("{directory}/{LAST}"), "")?;
    say("planted");
    Ok(())
}

/// Waits until they are there, and tries each.
pub fn attempt(directories: &[&str]) -> io::Result<()> {
    say("waiting");
    let deadline = Instant::now() + PATIENCE;
    for directory in directories {
        while !Path::new(&format!("{directory}/{LAST}")).exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        for name in PROGRAMS {
            match Command::new(format!("{directory}/{name}")).arg("who").output() {
                Ok(output) => {
                    for line in String::from_utf8_lossy(&output.stdout).lines() {
                        say(&format!("{directory} {name} {line}"));
                    }
                }
                Err(error) => say(&format!("{directory} {name} does not run: {error}")),
            }
        }
        for (name, ..) in NODES {
            match fs::File::open(format!("{directory}/{name}")) {
                Ok(_) => say(&format!("{directory} {name} opened")),
                Err(error) => say(&format!("{directory} {name} refused: {error}")),
            }
        }
    }
    say("tried");
    hold()
}
