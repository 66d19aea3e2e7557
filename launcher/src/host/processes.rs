//! What the kernel says of a process, from outside (proc(5)). Reads only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Attempt as _, HostError};

/// The lines of `/proc/PID/status` that a proof needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessStatus {
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub groups: Vec<u32>,
    pub no_new_privileges: bool,
    pub seccomp_mode: u32,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
}

pub fn status(pid: u32) -> Result<ProcessStatus, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    Ok(parse_status(&fs::read_to_string(&path).attempt("read", &path)?))
}

fn parse_status(text: &str) -> ProcessStatus {
    let numbers = |value: &str| {
        value.split_whitespace().filter_map(|number| number.parse().ok()).collect::<Vec<u32>>()
    };
    // A set that cannot be read counts as full.
    let set = |value: &str| u64::from_str_radix(value.trim(), 16).unwrap_or(u64::MAX);
    let mut status = ProcessStatus { capabilities: [u64::MAX; 5], ..ProcessStatus::default() };
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key {
            "Uid" => status.uids = numbers(value),
            "Gid" => status.gids = numbers(value),
            "Groups" => status.groups = numbers(value),
            "NoNewPrivs" => status.no_new_privileges = value.trim() == "1",
            "Seccomp" => status.seccomp_mode = value.trim().parse().unwrap_or(0),
            "CapInh" => status.capabilities[0] = set(value),
            "CapPrm" => status.capabilities[1] = set(value),
            "CapEff" => status.capabilities[2] = set(value),
            "CapBnd" => status.capabilities[3] = set(value),
            "CapAmb" => status.capabilities[4] = set(value),
            _ => {}
        }
    }
    status
}

/// Any small file below `/proc/PID`.
pub fn read(pid: u32, file: &str) -> Result<String, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::read_to_string(&path).attempt("read", &path)
}

/// The inode that names a namespace of a process: `user`, `net`, `pid`, …
pub fn namespace(pid: u32, kind: &str) -> Result<u64, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
    namespace_at(&path)
}

/// The inode of a namespace behind a path: `/proc/…/ns/…` or a pinned file.
pub fn namespace_at(path: &Path) -> Result<u64, HostError> {
    fs::metadata(path)
        .map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))
        .attempt("read", path)
}

/// The executable files that the descriptors of a process lead to: what it holds open.
pub fn open_descriptors(pid: u32) -> Result<Vec<(u32, String)>, HostError> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut descriptors = Vec::new();
    for entry in fs::read_dir(&folder).attempt("read", &folder)? {
        let entry = entry.attempt("read", &folder)?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let target = match fs::read_link(entry.path()) {
            Ok(target) => target.display().to_string(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(HostError::new("read", entry.path(), error)),
        };
        descriptors.push((number, target));
    }
    descriptors.sort();
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_counts_as_not_standing() {
        let status = parse_status("Name:\tx\n");
        assert_eq!(status.capabilities, [u64::MAX; 5]);
        assert!(!status.no_new_privileges);
        assert_eq!(status.seccomp_mode, 0);
    }

    #[test]
    fn a_status_is_read() {
        let text = "Uid:\t7\t7\t7\t7\nGroups:\t \nNoNewPrivs:\t1\nSeccomp:\t2\nCapInh:\t0000000000000000\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\t00000000a80425fb\nCapAmb:\t0\n";
        let status = parse_status(text);
        assert_eq!(status.uids, [7, 7, 7, 7]);
        assert!(status.groups.is_empty() && status.no_new_privileges && status.seccomp_mode == 2);
        assert_eq!(status.capabilities, [0, 0, 0, 0xa804_25fb, 0]);
    }
}
