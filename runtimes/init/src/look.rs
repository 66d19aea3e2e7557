//! Looks at what is around the init, for [`adrastea_init::report`]. Reads only; what
//! cannot be read is left out, which the launcher takes for a wall that does not stand.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::PathBuf,
};

use adrastea_init::report::{Report, TOLD_MODES};

use crate::sys;

pub fn look() -> Report {
    let environment = env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    let modes = TOLD_MODES.iter().filter_map(|path| {
        let mode = fs::symlink_metadata(path).ok()?.mode() & 0o7777;
        Some(((*path).to_owned(), mode))
    });
    Report {
        status: fs::read_to_string("/proc/self/status").unwrap_or_default(),
        mountinfo: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        environment: environment.collect(),
        rlimits: sys::resource_limits(),
        modes: modes.collect(),
        devices: devices(),
        descriptors: descriptors(),
        program: fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::new()),
        no_new_privileges: sys::has_no_new_privileges(),
    }
}

fn devices() -> BTreeMap<String, Option<(u64, u64)>> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let metadata = fs::symlink_metadata(entry.path()).ok()?;
            let kind = metadata.file_type();
            let numbers = (kind.is_char_device() || kind.is_block_device()).then(|| {
                let device = metadata.rdev();
                (u64::from(libc::major(device)), u64::from(libc::minor(device)))
            });
            Some((entry.file_name().to_string_lossy().into_owned(), numbers))
        })
        .collect()
}

fn descriptors() -> Vec<(u32, String)> {
    let own = PathBuf::from(format!("/proc/{}/fd", sys::own_pid()));
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let mut open: Vec<_> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            // The one we read the directory by.
            (target != own).then(|| (number, target.display().to_string()))
        })
        .collect();
    open.sort();
    open
}
