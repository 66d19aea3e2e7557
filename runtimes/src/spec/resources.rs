//! The cgroup: memory without swap, processor time, processes, devices.
//!
//! Given to the runtime once and in OCI's own terms, which hold for both
//! versions of cgroups.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::SpecError;
use crate::plan::Plan;

/// The kernel's default, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// The kernel's default weight of one group, taken as the weight of one processor.
const SHARES_PER_CPU: u64 = 1024;

/// The least the kernel takes.
const LEAST_SHARES: u64 = 2;

/// Character devices a tenant may open: major, and minor or all of them.
const DEVICES: [(i64, Option<i64>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

pub fn all(plan: &Plan) -> Result<LinuxResources, SpecError> {
    let limits = &plan.limits;
    // The plan is validated: no value is beyond what a signed number holds.
    let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
    let quota =
        i64::try_from(limits.cpu_millis.saturating_mul(CPU_PERIOD) / 1000).unwrap_or(i64::MAX);
    let shares = (limits.cpu_millis.saturating_mul(SHARES_PER_CPU) / 1000).max(LEAST_SHARES);
    Ok(LinuxResourcesBuilder::default()
        .devices(devices()?)
        .memory(
            LinuxMemoryBuilder::default()
                .limit(memory)
                // Memory and swap together: no swap, so no secret on a disk and no thrashing.
                .swap(memory)
                .build()?,
        )
        .cpu(LinuxCpuBuilder::default().shares(shares).quota(quota).period(CPU_PERIOD).build()?)
        .pids(LinuxPidsBuilder::default().limit(i64::from(limits.processes)).build()?)
        .build()?)
}

/// Nothing, then the list. A device node cannot be made either; this holds should one appear.
fn devices() -> Result<Vec<LinuxDeviceCgroup>, SpecError> {
    let mut rules = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .typ(LinuxDeviceType::A)
            .access("rwm")
            .build()?,
    ];
    for (major, minor) in DEVICES {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(major)
            .access("rw");
        rules.push(
            match minor {
                Some(minor) => rule.minor(minor),
                None => rule,
            }
            .build()?,
        );
    }
    Ok(rules)
}
