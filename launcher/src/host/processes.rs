//! What the kernel says of a process, from outside (proc(5)). Reads only.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Attempt as _, HostError, read_kernel_file};

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
    /// Its number in its own pid namespace, and who traces it (0: nobody).
    pub pid_inside: Option<u32>,
    pub tracer: Option<u32>,
}

pub fn status(pid: u32) -> Result<ProcessStatus, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    Ok(parse_status(&read_kernel_file(&path).attempt("read", &path)?))
}

pub fn parse_status(text: &str) -> ProcessStatus {
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
            "NSpid" => status.pid_inside = numbers(value).last().copied(),
            "TracerPid" => status.tracer = value.trim().parse().ok(),
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

/// The program a process runs, as the process itself would name it.
pub fn program(pid: u32) -> Result<String, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    fs::read_link(&path).map(|target| target.display().to_string()).attempt("read", &path)
}

/// What a process calls itself: the first word of its command line, empty if it has none.
/// A process of the tenant's can say anything.
pub fn name(pid: u32) -> Result<String, HostError> {
    let text = read(pid, "cmdline")?;
    Ok(text.split('\0').next().unwrap_or_default().to_owned())
}

/// All of its command line.
pub fn words(pid: u32) -> Result<Vec<String>, HostError> {
    Ok(read(pid, "cmdline")?.split_terminator('\0').map(str::to_owned).collect())
}

/// Whether the kernel runs it for itself: for a virtual machine it does, in the machine's control
/// group. No program can say that of itself.
pub fn is_of_kernel(pid: u32) -> Result<bool, HostError> {
    Ok(is_kernel_thread(&read(pid, "stat")?))
}

fn is_kernel_thread(stat: &str) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    // The name stands in parentheses and can hold any of them.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// The environment a process was started with.
pub fn environment(pid: u32) -> Result<Vec<String>, HostError> {
    let text = read(pid, "environ")?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Who owns what `/proc` tells of a process: its own user, or, if it may not be inspected,
/// the root of its user namespace (proc(5), PR_SET_DUMPABLE).
pub fn guarded_by(pid: u32) -> Result<u32, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/fd"));
    fs::metadata(&path)
        .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))
        .attempt("read", &path)
}

/// Bytes of memory, where pages that several processes share are divided among them.
pub fn proportional_memory(pid: u32) -> Result<u64, HostError> {
    let text = read(pid, "smaps_rollup")?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("Pss:")?.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    Ok(kib.unwrap_or(0) << 10)
}

/// Soft and hard resource limits, by the kernel's name without its "Max".
pub fn limits(pid: u32) -> Result<BTreeMap<String, (String, String)>, HostError> {
    Ok(parse_limits(&read(pid, "limits")?))
}

/// Columns are at least two blanks apart; names hold single ones.
fn parse_limits(text: &str) -> BTreeMap<String, (String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut columns = line.split("  ").map(str::trim).filter(|column| !column.is_empty());
            let name = columns.next()?.strip_prefix("Max ")?.to_owned();
            Some((name, (columns.next()?.to_owned(), columns.next()?.to_owned())))
        })
        .collect()
}

/// Any small file below `/proc/PID`.
pub fn read(pid: u32, file: &str) -> Result<String, HostError> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    read_kernel_file(&path).attempt("read", &path)
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
        assert_eq!((status.pid_inside, status.tracer), (None, None));
    }

    #[test]
    fn a_thread_of_the_kernel_is_known_by_its_flags() {
        let of_kernel = "1234 (vhost-1200) S 2 0 0 0 -1 2129984 0 0 0 0";
        assert!(is_kernel_thread(of_kernel));
        for other in [
            "1200 (qemu-system-x86) S 1 1 1 0 -1 4194560 0 0 0 0",
            // What it calls itself is no flag.
            "1200 (x) S 2 0 0 0 -1 2129984 0) S 1 1 1 0 -1 4194560 0 0",
            "1200 (x)",
            "",
        ] {
            assert!(!is_kernel_thread(other), "{other}");
        }
        assert!(!is_of_kernel(std::process::id()).unwrap_or(true));
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \nMax core file size        0                    0                    bytes     \nMax nice priority         0                    1                    \nMax cpu time              unlimited            unlimited            seconds   \n";
        let limits = parse_limits(text);
        assert_eq!(limits["core file size"], ("0".to_owned(), "0".to_owned()));
        assert_eq!(limits["nice priority"], ("0".to_owned(), "1".to_owned()));
        assert_eq!(limits["cpu time"].0, "unlimited");
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
