//! What the figures were made on. What cannot be read is told as unknown.

use std::{collections::HashMap, fs, thread::available_parallelism};

use crate::{
    bench::report::Machine,
    boot,
    config::{Config, ContainerdMode},
    host::{cgroups::Hierarchy, commands},
};

const UNKNOWN: &str = "unknown";

pub async fn facts(config: &Config) -> Machine {
    let containerd = match config.containerd.mode {
        ContainerdMode::Managed => {
            first_line(commands::output(&config.containerd.binary, &["--version"]).ok())
        }
        ContainerdMode::Existing => {
            first_line(boot::existing_containerd_version(config).await.ok())
        }
    };
    let processor = table("/proc/cpuinfo", ':').remove("model name");
    let distribution = table("/etc/os-release", '=').remove("PRETTY_NAME");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    Machine {
        processor: processor.unwrap_or_else(|| UNKNOWN.into()),
        cores: available_parallelism().map_or(0, std::num::NonZero::get),
        memory_mib: memory("MemTotal") >> 10,
        kernel: first_line(kernel),
        distribution: distribution.unwrap_or_else(|| UNKNOWN.into()),
        cgroup_version: Hierarchy::detect().version(),
        launcher: format!("adrastea {}", env!("CARGO_PKG_VERSION")),
        containerd,
        load_before: load(),
        load_after: 0.0,
    }
}

/// As the runtime's own command tells it.
pub fn runtime_version(config: &Config, runtime: &str) -> String {
    let settings = config.runtimes.get(runtime);
    first_line(settings.and_then(|it| commands::output(&it.binary, &["--version"]).ok()))
}

/// The load average over one minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

pub fn free_memory_mib() -> f64 {
    #[allow(clippy::cast_precision_loss)] // memory is below 2^52
    let mib = memory("MemAvailable") as f64 / 1024.0;
    mib
}

/// A line of /proc/meminfo, in KiB.
fn memory(name: &str) -> u64 {
    let line = table("/proc/meminfo", ':').remove(name).unwrap_or_default();
    line.trim_end_matches(" kB").parse().unwrap_or(0)
}

fn first_line(text: Option<String>) -> String {
    let text = text.unwrap_or_else(|| UNKNOWN.into());
    text.lines().next().unwrap_or(UNKNOWN).trim().to_owned()
}

/// Lines of names and values; of the same name the last one.
fn table(path: &str, between: char) -> HashMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let (name, value) = line.split_once(between)?;
        Some((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
    };
    text.lines().filter_map(line).collect()
}
