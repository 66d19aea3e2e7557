//! The mounts of every sandbox: kernel file systems of its own and small,
//! bounded tmpfs. Nothing of the host, and not the home (attached at the claim).
//!
//! /sys/fs/cgroup is not mounted: a tenant has no business in its own limits,
//! and on a host with cgroup v1 the tree would show every controller's files.

use oci_spec::runtime::{Mount, MountBuilder};

use super::SpecError;
use crate::plan::Plan;

/// The group `tty` of Debian and most others: who may write to a terminal.
const TTY_GROUP: u32 = 5;

/// One inode per this many bytes, the kernel's own proportion for a tmpfs.
const BYTES_PER_INODE: u64 = 4096;

pub fn all(plan: &Plan) -> Result<Vec<Mount>, SpecError> {
    let limits = &plan.limits;
    let table: [(&str, &str, &str, Vec<String>); 8] = [
        ("/proc", "proc", "proc", options(&["nosuid", "noexec", "nodev"])),
        // Read-only once the runtime has bound the devices into it.
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            sized(&["nosuid", "noexec", "strictatime", "ro"], 0o755, 64 * 1024, 64),
        ),
        ("/dev/pts", "devpts", "devpts", {
            let mut terminal = options(&["nosuid", "noexec", "newinstance", "ptmxmode=0666"]);
            terminal.extend([
                "mode=0620".to_owned(),
                format!("gid={TTY_GROUP}"),
                "max=256".to_owned(),
            ]);
            terminal
        }),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            sized(
                &["nosuid", "noexec", "nodev"],
                0o1777,
                limits.shm_bytes,
                inodes(limits.shm_bytes),
            ),
        ),
        ("/dev/mqueue", "mqueue", "mqueue", options(&["nosuid", "noexec", "nodev"])),
        // Shows only what belongs to the sandbox's network namespace, which the user namespace owns.
        ("/sys", "sysfs", "sysfs", options(&["nosuid", "noexec", "nodev", "ro"])),
        // Programs are built and run there (pip, compilers), so not noexec.
        (
            "/tmp",
            "tmpfs",
            "tmpfs",
            sized(&["nosuid", "nodev"], 0o1777, limits.tmp_bytes, inodes(limits.tmp_bytes)),
        ),
        ("/run", "tmpfs", "tmpfs", sized(&["nosuid", "noexec", "nodev"], 0o755, 1024 * 1024, 256)),
    ];
    table
        .into_iter()
        .map(|(destination, kind, source, options)| {
            Ok(MountBuilder::default()
                .destination(destination)
                .typ(kind)
                .source(source)
                .options(options)
                .build()?)
        })
        .collect()
}

fn options(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Options of a tmpfs that is bounded in bytes and in inodes.
fn sized(names: &[&str], mode: u32, bytes: u64, inodes: u64) -> Vec<String> {
    let mut all = options(names);
    all.extend([
        format!("mode={mode:04o}"),
        format!("size={bytes}"),
        format!("nr_inodes={inodes}"),
    ]);
    all
}

fn inodes(bytes: u64) -> u64 {
    (bytes / BYTES_PER_INODE).max(64)
}
