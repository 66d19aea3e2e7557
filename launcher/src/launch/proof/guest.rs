//! The inside of a virtual machine, as the init tells it before any code of the tenant has run.
//! Its kernel is a Linux of its own: each promise of the spec has a word there, but for the mount
//! points that are the runtime's own (its limitations say so). Pure.
//!
//! That paths of /proc are masked is not among them: they tell of the machine's kernel alone, and
//! the node cannot see which of them that kernel has.

use std::path::Path;

use adrastea_init::report::Report;
use adrastea_runtimes::{Runtime, plan::Plan};
use oci_spec::runtime::{Mount, Spec};

use super::{Broken, files, process};
use crate::host::{
    mounts::{MountLine, parse_mountinfo},
    processes::{ProcessStatus, parse_status},
};

/// What serves a machine the node's files.
const SERVED: &str = "virtiofs";

pub(super) fn check(
    report: &Report,
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    let mut status = parse_status(&report.status);
    status.no_new_privileges = report.no_new_privileges;
    let ProcessStatus { uids, gids, groups, pid_inside, .. } = &status;
    for (what, ids, own) in [("uids", uids, plan.user.uid), ("gids", gids, plan.user.gid)] {
        let stands = ids.len() == 4 && ids.iter().all(|id| *id == own);
        broken.unless(stands, "identity", format!("the {what} inside are {ids:?}"));
    }
    let only_own = groups.iter().all(|group| *group == plan.user.gid);
    broken.unless(only_own, "identity", format!("additional groups {groups:?}"));
    let number = *pid_inside;
    broken.unless(number == Some(1), "namespaces", format!("the init is process {number:?}"));
    process::without_privilege(&status, 0, broken);
    let program = report.program.display().to_string();
    process::started(&program, &report.environment, plan, base, broken);
    process::limits(&report.rlimits, base, broken);
    let most = plan.limits.processes.to_string();
    let counted = report.rlimits.get("processes");
    broken.unless(
        counted.is_some_and(|(soft, hard)| *soft == most && *hard == most),
        "rlimits",
        format!("processes is {counted:?} instead of {most}"),
    );
    process::descriptors(&report.descriptors, broken);
    let mut devices = report.devices.clone();
    // A link of that name; a device would have numbers.
    devices.retain(|name, numbers| {
        numbers.is_some() || !runtime.own_devices().contains(&name.as_str())
    });
    files::devices(&devices, broken);
    files::modes(|directory| report.modes.get(directory).copied(), broken);
    mounts(&parse_mountinfo(&report.mountinfo), runtime, plan, base, broken);
}

fn mounts(
    seen: &[MountLine],
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    let empty = Vec::new();
    let promised = base.mounts().as_ref().unwrap_or(&empty);
    let topmost = |point: &Path| seen.iter().rev().find(|mount| mount.point == point);
    let home = plan.user.home.as_path();
    for (point, flags) in [(Path::new("/"), ["ro", "nodev"]), (home, ["nosuid", "nodev"])] {
        let shown = point.display();
        let Some(line) = topmost(point) else {
            broken.add("mounts", format!("{shown} is not mounted"));
            continue;
        };
        let found = &line.file_system;
        broken.unless(found == SERVED, "mounts", format!("{shown} is a {found}"));
        for flag in flags {
            broken.unless(files::has(line, flag), "mounts", format!("{shown} is not {flag}"));
        }
    }
    for mount in promised {
        if let Some(line) = topmost(mount.destination()) {
            planned(line, mount, runtime, broken);
        } else {
            broken.add("mounts", format!("{} is not mounted", mount.destination().display()));
        }
    }
    let none = Vec::new();
    let linux = base.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref()).unwrap_or(&none);
    let readonly = linux.and_then(|linux| linux.readonly_paths().as_ref()).unwrap_or(&none);
    for line in seen {
        let point = line.point.display();
        let is = |path: &String| Path::new(path) == line.point;
        let is_planned = line.point == Path::new("/")
            || line.point == home
            || promised.iter().any(|mount| *mount.destination() == line.point)
            || masked.iter().chain(readonly).any(is);
        broken.unless(is_planned, "mounts", format!("`{point}` was not planned"));
        let covers = readonly.iter().any(is) && !files::has(line, "ro");
        broken.unless(!covers, "masks", format!("{point} can be written"));
        let alone = seen.iter().filter(|other| other.point == line.point).count() == 1;
        broken.unless(alone, "mounts", format!("something lies below `{point}`"));
    }
}

fn planned(line: &MountLine, promised: &Mount, runtime: &dyn Runtime, broken: &mut Broken) {
    let point = promised.destination();
    let shown = point.display();
    let kind = promised.typ().as_deref().unwrap_or_default();
    let found = &line.file_system;
    broken.unless(found == kind, "mounts", format!("{shown} is a {found} instead of a {kind}"));
    if runtime.own_mounts().iter().any(|own| Path::new(own) == point) {
        return;
    }
    files::flags_and_bounds(line, promised, broken);
}
