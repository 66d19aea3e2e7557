//! Room on the disks of state, run and homes, and whether layers there can be idmapped.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{Finding, fine, note, problem};
use crate::{config::Config, host::mounts, quantity::display_bytes};

/// File systems whose mounts can be idmapped (FS_ALLOW_IDMAP), as of Linux 6.12.
const IDMAPPED: [&str; 9] =
    ["btrfs", "ceph", "erofs", "ext4", "f2fs", "squashfs", "tmpfs", "xfs", "zfs"];

/// Below this nothing can be started safely: an import, a log or the journal fills it in minutes.
const TOO_LITTLE: u64 = 1 << 30;
/// From here on a small share of a large disk is still plenty.
const PLENTY: u64 = 50 << 30;

/// How much is left.
#[derive(Clone, Copy, Debug)]
struct Room {
    free: u64,
    total: u64,
}

impl Room {
    /// In hundredths; what has no limit is empty.
    fn percent(self) -> u64 {
        (self.free.saturating_mul(100)).checked_div(self.total).unwrap_or(100)
    }
}

pub fn findings(config: &Config) -> Vec<Finding> {
    let places = [
        ("state", config.state_directory()),
        ("run", config.run_directory()),
        ("homes", config.home_root()),
    ];
    let mut findings: Vec<_> =
        places.iter().map(|(what, path)| room(what, &nearest(path))).collect();
    findings.push(idmapped(&nearest(&config.state_directory())));
    findings
}

/// The path, or what is there of it.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn room(what: &str, path: &Path) -> Finding {
    match statvfs(path) {
        Ok(found) => judge(
            what,
            Room {
                free: found.blocks_available() * found.fragment_size(),
                total: found.blocks() * found.fragment_size(),
            },
            Room { free: found.files_available(), total: found.files() },
        ),
        Err(error) => problem(
            format!("the disk of {what} ({}) cannot be looked at: {error}", path.display()),
            "mount it",
        ),
    }
}

fn judge(what: &str, bytes: Room, inodes: Room) -> Finding {
    let text = format!(
        "disk of {what}: {} ({} %) and {} % of its inodes are free",
        display_bytes(bytes.free),
        bytes.percent(),
        inodes.percent()
    );
    let fix = "make room: `adrastea home ls` and `adrastea image ls` tell what could go";
    // A file system without a limit of inodes says zero of zero, which is not full.
    if bytes.free < TOO_LITTLE || inodes.percent() == 0 {
        problem(text, fix)
    } else if (bytes.percent() < 10 && bytes.free < PLENTY) || inodes.percent() < 10 {
        note(text, fix)
    } else {
        fine(text)
    }
}

fn idmapped(path: &Path) -> Finding {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts::parse_mountinfo(&table);
    let below = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let kind = below
        .max_by_key(|mount| mount.point.as_os_str().len())
        .map_or("an unknown file system", |mount| mount.file_system.as_str());
    if IDMAPPED.contains(&kind) {
        fine(format!("layers of images can be idmapped on {kind}"))
    } else {
        problem(
            format!("layers of images lie on {kind}, which cannot be idmapped"),
            format!("put paths.state on one of {}", IDMAPPED.join(", ")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Severity, *};

    #[test]
    fn what_runs_out_first_decides() {
        let room = |free, total| Room { free, total };
        let disk = |free: u64, total: u64| room(free << 30, total << 30);
        for (bytes, inodes, severity) in [
            (disk(50, 100), room(50, 100), Severity::Fine),
            (disk(50, 100), room(0, 100), Severity::Problem),
            (disk(50, 100), room(9, 100), Severity::Note),
            (disk(0, 100), room(50, 100), Severity::Problem),
            (disk(9, 100), room(50, 100), Severity::Note),
            (disk(2, 252), room(50, 100), Severity::Note),
            (disk(60, 10_000), room(50, 100), Severity::Fine),
            // A file system without a limit of inodes says zero of zero.
            (disk(50, 100), room(0, 0), Severity::Fine),
        ] {
            let finding = judge("state", bytes, inodes);
            assert_eq!(finding.severity, severity, "{bytes:?} {inodes:?}");
            assert_eq!(finding.fix.is_empty(), severity == Severity::Fine);
        }
    }
}
