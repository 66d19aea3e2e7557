//! The inside of a sandbox with a kernel of its own, as its init tells it before any
//! code of the tenant has run. Pure.
//!
//! Such a kernel has no word for some promises (`nosuid` of a mount, the number of
//! inodes): they are in the runtime's limitations, and nowhere else may one be left out.

use std::path::Path;

use adrastea_init::report::Report;
use adrastea_runtimes::{Runtime, plan::Plan};
use oci_spec::runtime::{Mount, Spec};

use super::{Broken, files, process};
use crate::host::{
    mounts::{MountLine, parse_mountinfo},
    processes::{ProcessStatus, parse_status},
};

/// Flags that such a kernel shows.
const FLAGS: [&str; 2] = ["ro", "noexec"];

/// File systems that it may lack altogether.
const MAY_LACK: [&str; 1] = ["mqueue"];

pub(super) fn check(
    report: &Report,
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    let mut status = parse_status(&report.status);
    status.no_new_privileges = report.no_new_privileges;
    // Not every kernel tells the ambient set; it is never larger than the permitted one.
    if !report.status.contains("\nCapAmb:") {
        status.capabilities[4] = status.capabilities[1];
    }
    let ProcessStatus { uids, gids, groups, .. } = &status;
    for (what, ids, own) in [("uids", uids, plan.user.uid), ("gids", gids, plan.user.gid)] {
        let stands = ids.len() == 4 && ids.iter().all(|id| *id == own);
        broken.unless(stands, "identity", format!("the {what} inside are {ids:?}"));
    }
    let only_own = groups.iter().all(|group| *group == plan.user.gid);
    broken.unless(only_own, "identity", format!("additional groups {groups:?}"));
    process::without_privilege(&status, 0, broken);
    let program = report.program.display().to_string();
    process::started(&program, &report.environment, plan, base, broken);
    process::limits(&report.rlimits, base, broken);
    process::descriptors(&report.descriptors, broken);
    let mut devices = report.devices.clone();
    devices.retain(|name, _| !runtime.own_devices().contains(&name.as_str()));
    files::devices(&devices, broken);
    files::modes(|directory| report.modes.get(directory).copied(), broken);
    device_directory(report.modes.get("/dev").copied(), broken);
    mounts(&parse_mountinfo(&report.mountinfo), plan, base, broken);
}

/// It has to be writable, or no device in it could be opened for writing; so nobody but its
/// root, whom no process inside is, may change what is in it.
fn device_directory(mode: Option<u32>, broken: &mut Broken) {
    let mode = mode.unwrap_or(0o777);
    broken.unless(mode & 0o022 == 0, "modes", format!("/dev has {mode:o}, or could not be read"));
}

fn mounts(seen: &[MountLine], plan: &Plan, base: &Spec, broken: &mut Broken) {
    let empty = Vec::new();
    let promised = base.mounts().as_ref().unwrap_or(&empty);
    let topmost = |point: &Path| seen.iter().rev().find(|mount| mount.point == point);
    let root = topmost(Path::new("/"));
    broken.unless(root.is_some_and(|root| files::has(root, "ro")), "mounts", "the root is not ro");
    for mount in promised {
        if let Some(line) = topmost(mount.destination()) {
            planned(line, mount, broken);
        } else {
            let kind = mount.typ().as_deref().unwrap_or_default();
            let shown = mount.destination().display();
            broken.unless(MAY_LACK.contains(&kind), "mounts", format!("{shown} is absent"));
        }
    }
    for mount in seen {
        let is_planned = mount.point == Path::new("/")
            || plan.above_home() == Some(&mount.point)
            || promised.iter().any(|other| *other.destination() == mount.point);
        let point = mount.point.display();
        broken.unless(is_planned, "mounts", format!("`{point}` was not planned"));
        let alone = seen.iter().filter(|other| other.point == mount.point).count() == 1;
        broken.unless(alone, "mounts", format!("something lies below `{point}`"));
    }
}

fn planned(line: &MountLine, promised: &Mount, broken: &mut Broken) {
    let shown = promised.destination().display();
    let kind = promised.typ().as_deref().unwrap_or_default();
    let found = &line.file_system;
    broken.unless(found == kind, "mounts", format!("{shown} is a {found} instead of a {kind}"));
    let options = promised.options().as_deref().unwrap_or_default();
    // The directory of devices of such a kernel is its own: see `device_directory`.
    let is_dev = promised.destination() == Path::new("/dev");
    for flag in FLAGS.iter().filter(|flag| options.iter().any(|option| option == *flag)) {
        let stands = files::has(line, flag) || is_dev && *flag == "ro";
        broken.unless(stands, "mounts", format!("{shown} is not {flag}"));
    }
    let Some(most) = files::bound(options, "size=").filter(|_| !is_dev) else { return };
    let found = files::bound(&line.super_options, "size=");
    let stands = found.is_some_and(|found| found <= most.next_multiple_of(files::PAGE));
    broken.unless(stands, "mounts", format!("{shown} holds {found:?} bytes instead of {most}"));
}
