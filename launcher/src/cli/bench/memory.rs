//! What idle servers take: their control groups, and the engine's processes beside
//! them. Read from the kernel, since the launcher does not count shims.

use crate::{
    bench::{
        report::{Memory, MemoryPoint},
        statistics::{rounded, slope},
    },
    config::Config,
    host::{cgroups::Hierarchy, processes, shims},
};

const MIB: f64 = 1_048_576.0;

/// The memory of these sandboxes, and of the shims that hold them.
pub fn of(config: &Config, sandboxes: &[String]) -> anyhow::Result<MemoryPoint> {
    let cgroups = Hierarchy::detect();
    let mut inside = 0;
    for id in sandboxes {
        inside += cgroups.working_set(&format!("/{}/{id}", config.instance))?;
    }
    let shims = shims::list(&config.instance)?;
    // Those that have ended meanwhile take nothing.
    let beside = shims
        .iter()
        .filter(|shim| sandboxes.contains(&shim.sandbox))
        .filter_map(|shim| processes::proportional_memory(shim.pid).ok())
        .sum::<u64>();
    #[allow(clippy::cast_precision_loss)] // memory is below 2^52
    let mib = |bytes: u64| rounded(bytes as f64 / MIB);
    Ok(MemoryPoint { users: sandboxes.len(), sandboxes_mib: mib(inside), shims_mib: mib(beside) })
}

/// None without a point.
pub fn summed_up(points: Vec<MemoryPoint>) -> Option<Memory> {
    #[allow(clippy::cast_precision_loss)] // a handful of users
    let line: Vec<(f64, f64)> = points
        .iter()
        .map(|point| (point.users as f64, point.sandboxes_mib + point.shims_mib))
        .collect();
    let per_user_mib = slope(&line).map(rounded);
    (!points.is_empty()).then_some(Memory { points, per_user_mib })
}
