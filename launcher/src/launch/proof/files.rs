//! What is mounted, where, and how; and which devices there are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Mount, Spec};

use super::{Broken, Observed, WORLD_WRITABLE};
use crate::host::mounts::MountLine;

/// The device nodes a sandbox has, with their numbers.
const DEVICES: [(&str, (u64, u64)); 6] = [
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
];

/// What else is in `/dev`: links, and places where something is mounted.
const NO_DEVICES: [&str; 8] = ["fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"];

/// Flags that a promised mount must have if its options name them.
const FLAGS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The kernel counts a tmpfs in pages.
pub(super) const PAGE: u64 = 4096;

pub fn check(seen: &Observed, base: &Spec, broken: &mut Broken) {
    let empty = Vec::new();
    let promised = base.mounts().as_ref().unwrap_or(&empty);
    root(seen, broken);
    for mount in promised {
        planned(seen, mount, broken);
    }
    let none = Vec::new();
    let linux = base.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref()).unwrap_or(&none);
    let readonly = linux.and_then(|linux| linux.readonly_paths().as_ref()).unwrap_or(&none);
    for path in masked {
        broken.unless(is_masked(seen, Path::new(path)), "masks", format!("{path} can be read"));
    }
    for path in readonly {
        let line = topmost(seen, Path::new(path));
        let stands = is_absent(seen, Path::new(path)) || line.is_some_and(|line| has(line, "ro"));
        broken.unless(stands, "masks", format!("{path} can be written"));
    }
    unplanned(seen, promised, &[masked, readonly].map(Vec::as_slice).concat(), broken);
    devices(&seen.devices, broken);
    modes(|directory| seen.modes.get(directory).copied(), broken);
}

pub(super) fn modes(of: impl Fn(&str) -> Option<u32>, broken: &mut Broken) {
    for directory in WORLD_WRITABLE {
        match of(directory) {
            Some(0o1777) => {}
            Some(mode) => broken.add("modes", format!("{directory} has {mode:o} instead of 1777")),
            None => broken.add("modes", format!("{directory} could not be read")),
        }
    }
}

pub(super) fn has(mount: &MountLine, option: &str) -> bool {
    mount.options.iter().any(|present| present == option)
}

/// The mount that is seen at a path: the last one there.
fn topmost<'seen>(seen: &'seen Observed, point: &Path) -> Option<&'seen MountLine> {
    seen.mounts.iter().rev().find(|mount| mount.point == point)
}

fn is_absent(seen: &Observed, path: &Path) -> bool {
    !seen.present.contains(path)
}

fn root(seen: &Observed, broken: &mut Broken) {
    let Some(root) = topmost(seen, Path::new("/")) else {
        return broken.add("mounts", "there is no root");
    };
    for option in ["ro", "nosuid", "nodev"] {
        broken.unless(has(root, option), "mounts", format!("the root is not {option}"));
    }
}

/// A mount of the base: there, of its kind, with its flags and its bounds.
fn planned(seen: &Observed, promised: &Mount, broken: &mut Broken) {
    let point = promised.destination();
    let shown = point.display();
    let Some(line) = topmost(seen, point) else {
        return broken.add("mounts", format!("{shown} is not mounted"));
    };
    let kind = promised.typ().as_deref().unwrap_or_default();
    broken.unless(
        line.file_system == kind,
        "mounts",
        format!("{shown} is a {} instead of a {kind}", line.file_system),
    );
    flags_and_bounds(line, promised, broken);
}

/// The flags that a mount's options name, and its bounds in bytes and files.
pub(super) fn flags_and_bounds(line: &MountLine, promised: &Mount, broken: &mut Broken) {
    let shown = promised.destination().display();
    let options = promised.options().as_deref().unwrap_or_default();
    for flag in FLAGS.iter().filter(|flag| options.iter().any(|option| option == *flag)) {
        broken.unless(has(line, flag), "mounts", format!("{shown} is not {flag}"));
    }
    for (name, what) in [("size=", "bytes"), ("nr_inodes=", "inodes")] {
        let Some(most) = bound(options, name) else { continue };
        let most = if what == "bytes" { most.next_multiple_of(PAGE) } else { most };
        let found = bound(&line.super_options, name);
        broken.unless(
            found.is_some_and(|found| found <= most),
            "mounts",
            format!("{shown} holds {found:?} {what} instead of {most}"),
        );
    }
}

/// A number among a mount's options.
pub(super) fn bound(options: &[String], name: &str) -> Option<u64> {
    options.iter().find_map(|option| number(option.strip_prefix(name)?))
}

/// `4096`, or `64k` as a tmpfs tells its size.
fn number(text: &str) -> Option<u64> {
    match text.strip_suffix('k') {
        Some(thousands) => thousands.parse::<u64>().ok()?.checked_mul(1024),
        None => text.parse().ok(),
    }
}

/// Nothing, an empty directory that stays empty, or the device that gives nothing.
fn is_masked(seen: &Observed, path: &Path) -> bool {
    is_absent(seen, path)
        || topmost(seen, path).is_some_and(|line| {
            line.file_system == "tmpfs" && line.root == "/" && has(line, "ro")
                || is_node(line, "null")
        })
}

/// Single device nodes are bound from the host in a user namespace; they are no file systems.
fn is_node(line: &MountLine, name: &str) -> bool {
    ["devtmpfs", "tmpfs"].contains(&line.file_system.as_str()) && line.root == format!("/{name}")
}

fn unplanned(seen: &Observed, promised: &[Mount], covered: &[String], broken: &mut Broken) {
    let mut points: Vec<PathBuf> = Vec::new();
    for line in &seen.mounts {
        let point = line.point.display();
        let node = DEVICES
            .iter()
            .any(|(name, _)| line.point == Path::new("/dev").join(name) && is_node(line, name));
        let is_planned = line.point == Path::new("/")
            || promised.iter().any(|mount| *mount.destination() == line.point)
            || covered.iter().any(|path| Path::new(path) == line.point)
            || node;
        broken.unless(is_planned, "mounts", format!("`{point}` was not planned"));
        broken.unless(
            !points.contains(&line.point),
            "mounts",
            format!("something lies below `{point}`"),
        );
        broken.unless(!line.propagates, "mounts", format!("`{point}` follows the host's mounts"));
        points.push(line.point.clone());
    }
}

pub(super) fn devices(present: &BTreeMap<String, Option<(u64, u64)>>, broken: &mut Broken) {
    for (name, numbers) in DEVICES {
        let found = present.get(name).copied().flatten();
        broken.unless(
            found == Some(numbers),
            "devices",
            format!("/dev/{name} is {found:?} instead of {numbers:?}"),
        );
    }
    for (name, numbers) in present {
        let is_known = DEVICES.iter().any(|(known, _)| known == name)
            || (NO_DEVICES.contains(&name.as_str()) && numbers.is_none());
        broken.unless(is_known, "devices", format!("/dev/{name} was not planned"));
    }
}
