//! The walls that may be made higher: each is compared with the base in its own
//! way. An absent value is always weaker than one that is there. The filter of
//! system calls is in [`super::filter`].

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::{Linux, LinuxResources, Mount, Process, Spec};

use super::{Breach, Wall};

/// Mount options that only take something away.
const STRICTER_OPTIONS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

type Breaches = Vec<Breach>;

fn breach(breaches: &mut Breaches, wall: Wall, detail: impl Into<String>) {
    breaches.push(Breach { wall, detail: detail.into() });
}

pub fn check(candidate: &Spec, base: &Spec, breaches: &mut Breaches) {
    mounts(list(candidate.mounts().as_ref()), list(base.mounts().as_ref()), breaches);
    match (candidate.process(), base.process()) {
        (Some(candidate), Some(base)) => process(candidate, base, breaches),
        _ => breach(breaches, Wall::Command, "absent"),
    }
    match (candidate.linux(), base.linux()) {
        (Some(candidate), Some(base)) => linux(candidate, base, breaches),
        _ => breach(breaches, Wall::Namespaces, "the linux section is absent"),
    }
}

fn list<T>(values: Option<&Vec<T>>) -> &[T] {
    values.map(Vec::as_slice).unwrap_or_default()
}

fn process(candidate: &Process, base: &Process, breaches: &mut Breaches) {
    let limits: BTreeMap<String, (u64, u64)> = list(candidate.rlimits().as_ref())
        .iter()
        .map(|limit| (limit.typ().to_string(), (limit.soft(), limit.hard())))
        .collect();
    for limit in list(base.rlimits().as_ref()) {
        let name = limit.typ().to_string();
        match limits.get(&name) {
            Some((soft, hard)) if *soft <= limit.soft() && *hard <= limit.hard() => {}
            Some(_) => breach(breaches, Wall::Rlimits, format!("{name} is higher")),
            None => breach(breaches, Wall::Rlimits, format!("{name} is absent")),
        }
    }
    if limits.len() != list(candidate.rlimits().as_ref()).len() {
        breach(breaches, Wall::Rlimits, "one is given twice");
    }
    if candidate.oom_score_adj() < base.oom_score_adj() {
        breach(breaches, Wall::OomScore, "lower, so others die first");
    }
}

fn linux(candidate: &Linux, base: &Linux, breaches: &mut Breaches) {
    let masked: BTreeSet<_> = list(candidate.masked_paths().as_ref()).iter().collect();
    for path in list(base.masked_paths().as_ref()) {
        if !masked.contains(path) {
            breach(breaches, Wall::MaskedPaths, format!("`{path}` is absent"));
        }
    }
    let readonly: BTreeSet<_> = list(candidate.readonly_paths().as_ref()).iter().collect();
    for path in list(base.readonly_paths().as_ref()) {
        if !readonly.contains(path) && !masked.contains(path) {
            breach(breaches, Wall::ReadonlyPaths, format!("`{path}` is absent"));
        }
    }
    match (candidate.resources(), base.resources()) {
        (Some(candidate), Some(base)) => resources(candidate, base, breaches),
        _ => breach(breaches, Wall::Memory, "no limits at all"),
    }
}

fn mounts(candidate: &[Mount], base: &[Mount], breaches: &mut Breaches) {
    // In the base's order: a mount moved behind another one could cover it.
    let mut from = 0;
    for mount in candidate {
        let destination = mount.destination().display();
        let Some(offset) =
            base[from..].iter().position(|other| other.destination() == mount.destination())
        else {
            breach(
                breaches,
                Wall::Mounts,
                format!("`{destination}` is not in the base, or not in its order"),
            );
            continue;
        };
        let model = &base[from + offset];
        from += offset + 1;

        if (mount.typ(), mount.source()) != (model.typ(), model.source()) {
            breach(breaches, Wall::Mounts, format!("`{destination}` is of something else"));
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            breach(breaches, Wall::Mounts, format!("`{destination}` has an id map"));
        }
        let options: BTreeSet<_> =
            list(mount.options().as_ref()).iter().map(String::as_str).collect();
        let expected: BTreeSet<_> =
            list(model.options().as_ref()).iter().map(String::as_str).collect();
        for option in expected.difference(&options) {
            breach(breaches, Wall::Mounts, format!("`{destination}` lacks `{option}`"));
        }
        for option in options.difference(&expected) {
            if !STRICTER_OPTIONS.contains(option) {
                breach(breaches, Wall::Mounts, format!("`{destination}` has `{option}`"));
            }
        }
    }
}

fn resources(candidate: &LinuxResources, base: &LinuxResources, breaches: &mut Breaches) {
    let memory = |resources: &LinuxResources| {
        let memory = resources.memory().unwrap_or_default();
        [memory.limit(), memory.swap()]
    };
    let [limit, swap] = memory(candidate);
    let [base_limit, base_swap] = memory(base);
    if !is_lower(limit, base_limit) {
        breach(breaches, Wall::Memory, "higher or absent");
    }
    // Memory and swap together, so anything above the memory limit itself is swap.
    if !is_lower(swap, base_swap) || swap != limit {
        breach(breaches, Wall::Memory, "swap is possible");
    }

    let cpu = |resources: &LinuxResources| {
        let cpu = resources.cpu().clone().unwrap_or_default();
        (cpu.quota(), cpu.period(), cpu.shares())
    };
    let (quota, period, shares) = cpu(candidate);
    let (base_quota, base_period, base_shares) = cpu(base);
    if !is_lower(quota, base_quota) || period != base_period {
        breach(breaches, Wall::Cpu, "the quota is higher or absent");
    }
    if shares.is_none_or(|shares| base_shares.is_some_and(|base| shares > base)) {
        breach(breaches, Wall::Cpu, "the weight is higher or absent");
    }

    let processes = |resources: &LinuxResources| resources.pids().map(|pids| pids.limit());
    if !is_lower(processes(candidate), processes(base)) {
        breach(breaches, Wall::Processes, "higher or absent");
    }

    let devices = list(candidate.devices().as_ref());
    let base_devices = list(base.devices().as_ref());
    if devices.first() != base_devices.first() {
        breach(breaches, Wall::Devices, "not all is denied first");
    }
    if let Some(device) =
        devices.iter().find(|device| device.allow() && !base_devices.contains(device))
    {
        breach(breaches, Wall::Devices, format!("`{device}` is allowed"));
    }
}

/// A positive limit that is no higher (zero and below mean "no limit" to some runtimes).
fn is_lower(candidate: Option<i64>, base: Option<i64>) -> bool {
    match (candidate, base) {
        (Some(candidate), Some(base)) => candidate > 0 && candidate <= base,
        _ => false,
    }
}
