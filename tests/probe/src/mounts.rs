//! Changing the view of the file system (E4), and how it is mounted (F5).
//!
//! Targets are such that a permitted call fails later: no file system of that
//! name, no mount point there.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt};

use crate::{
    check::{
        Argument::{Null, Number, Text},
        Check,
    },
    sys,
};

const HERE: i64 = libc::AT_FDCWD as i64;
/// OPEN_TREE_CLONE
const CLONE: i64 = 1;

pub const CHECKS: &[Check] = &[
    Check::call(
        "mount.new",
        libc::SYS_mount,
        &[Text(c"none"), Text(c"/tmp"), Text(c"adrastea-none"), Number(0), Null],
    ),
    Check::call(
        "mount.bind",
        libc::SYS_mount,
        &[Text(c"/adrastea-none"), Text(c"/tmp"), Null, Number(libc::MS_BIND as i64), Null],
    ),
    Check::call(
        "mount.remount",
        libc::SYS_mount,
        &[Null, Text(c"/proc/self"), Null, Number((libc::MS_REMOUNT | libc::MS_BIND) as i64), Null],
    ),
    Check::call(
        "mount.propagation",
        libc::SYS_mount,
        &[Null, Text(c"/proc/self"), Null, Number(libc::MS_SHARED as i64), Null],
    ),
    Check::call("umount", libc::SYS_umount2, &[Text(c"/proc/self"), Number(0)]),
    Check::call("umount.detach", libc::SYS_umount2, &[Text(c"/proc/self"), Number(2)]),
    Check::call("pivot_root", libc::SYS_pivot_root, &[Text(c"/proc/self"), Text(c"/proc/self")]),
    Check::call("chroot", libc::SYS_chroot, &[Text(c"/")]),
    Check::call("fsopen", libc::SYS_fsopen, &[Text(c"tmpfs"), Number(0)]),
    Check::call("fsconfig", libc::SYS_fsconfig, &[Number(-1), Number(6), Null, Null, Number(0)]),
    Check::call("fsmount", libc::SYS_fsmount, &[Number(-1), Number(0), Number(0)]),
    Check::call("fspick", libc::SYS_fspick, &[Number(HERE), Text(c"/"), Number(0)]),
    Check::call("open_tree.clone", libc::SYS_open_tree, &[Number(HERE), Text(c"/"), Number(CLONE)]),
    Check::call(
        "move_mount",
        libc::SYS_move_mount,
        &[Number(-1), Text(c""), Number(-1), Text(c""), Number(0x44)],
    ),
    Check::call(
        "mount_setattr",
        libc::SYS_mount_setattr,
        &[Number(-1), Text(c""), Number(0x1000), Null, Number(32)],
    ),
    Check::call("statmount", 457, &[Null, Null, Number(0), Number(0)]),
    Check::call("listmount", 458, &[Null, Null, Number(0), Number(0)]),
    Check::function("mount.rootfs", || options("/")),
    Check::function("mount.flags-missing", writable_without_flags),
    Check::function("mount.shared", shared),
    Check::function("mode./", || mode("/")),
    Check::function("mode./dev", || mode("/dev")),
    Check::function("mode./dev/shm", || mode("/dev/shm")),
    Check::function("mode./run", || mode("/run")),
    Check::function("mode./tmp", || mode("/tmp")),
    Check::function("create./", || create("/adrastea-probe")),
    Check::function("create./etc", || create("/etc/adrastea-probe")),
    Check::function("create./usr", || create("/usr/adrastea-probe")),
    Check::function("create./dev", || create("/dev/adrastea-probe")),
    Check::function("create./run", || create("/run/adrastea-probe")),
    Check::function("create./tmp", || create("/tmp/adrastea-probe")),
    Check::function("create./dev/shm", || create("/dev/shm/adrastea-probe")),
    Check::function("setuid-file./tmp", || setuid_file("/tmp/adrastea-probe-suid")),
];

struct Mount {
    options: Vec<String>,
    kind: String,
    is_shared: bool,
}

/// The topmost mount at every place (proc_pid_mountinfo(5)).
fn mounts() -> BTreeMap<String, Mount> {
    let text = sys::text_of("/proc/self/mountinfo");
    text.lines()
        .filter_map(|line| {
            let (own, rest) = line.split_once(" - ")?;
            let fields: Vec<&str> = own.split(' ').collect();
            let mount = Mount {
                options: fields.get(5)?.split(',').map(str::to_owned).collect(),
                kind: rest.split(' ').next()?.to_owned(),
                is_shared: fields.iter().skip(6).any(|field| field.starts_with("shared:")),
            };
            Some(((*fields.get(4)?).to_owned(), mount))
        })
        .collect()
}

fn options(place: &str) -> String {
    const INTERESTING: [&str; 5] = ["ro", "rw", "nosuid", "nodev", "noexec"];
    mounts().remove(place).map_or_else(
        || "absent".to_owned(),
        |mount| {
            let options = mount.options.into_iter();
            options.filter(|one| INTERESTING.contains(&one.as_str())).collect::<Vec<_>>().join(",")
        },
    )
}

/// Directories that can be written and are not both nosuid and nodev. A devpts is nothing but
/// devices; a single device node (its file system is the host's) is no place for files.
fn writable_without_flags() -> String {
    let has = |mount: &Mount, option: &str| mount.options.iter().any(|one| one == option);
    let bad: Vec<String> = mounts()
        .into_iter()
        .filter(|(place, mount)| {
            has(mount, "rw")
                && mount.kind != "devpts"
                && !(has(mount, "nosuid") && has(mount, "nodev"))
                && fs::metadata(place).is_ok_and(|metadata| metadata.is_dir())
        })
        .map(|(place, _)| place)
        .collect();
    if bad.is_empty() { "none".to_owned() } else { bad.join(" ") }
}

fn shared() -> String {
    let places: Vec<String> =
        mounts().into_iter().filter(|(_, mount)| mount.is_shared).map(|(place, _)| place).collect();
    if places.is_empty() { "none".to_owned() } else { places.join(" ") }
}

fn mode(place: &str) -> String {
    fs::metadata(place).map_or_else(
        |error| sys::io_error_name(&error),
        |metadata| format!("{:04o}", metadata.mode() & 0o7777),
    )
}

fn create(path: &str) -> String {
    let result = fs::File::create_new(path);
    let _ = fs::remove_file(path);
    sys::io_outcome(result)
}

/// A set-uid copy of a program that would tell: without effect where the mount is nosuid and
/// no_new_privs holds; what counts is that nothing is gained.
fn setuid_file(path: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    if let Err(error) = fs::write(path, "#!/bin/true\n") {
        return sys::io_error_name(&error);
    }
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o4755));
    let is_nosuid = mounts()
        .iter()
        .filter(|(place, _)| path.starts_with(place.as_str()))
        .max_by_key(|(place, _)| place.len())
        .is_some_and(|(_, mount)| mount.options.iter().any(|option| option == "nosuid"));
    let _ = fs::remove_file(path);
    if is_nosuid { "nosuid".to_owned() } else { "effective".to_owned() }
}
