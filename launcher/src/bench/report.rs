//! The report's schema: what `report.json` holds. Public, and described by
//! `docs/bench-report.schema.json`; a change that a reader can stumble over
//! needs another number in [`SCHEMA`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::statistics::Spread;

pub const SCHEMA: &str = "adrastea.bench/3";

/// A start for which nothing was kept ready.
pub const COLD: &str = "cold";
/// One that took a sandbox which waited with its server loaded.
pub const WARM: &str = "warm";

#[derive(Debug, Serialize)]
pub struct Report {
    pub schema: &'static str,
    /// Seconds since the epoch, at the beginning.
    pub made_at: u64,
    pub seconds: f64,
    pub machine: Machine,
    pub profile: ProfileFacts,
    pub plan: Plan,
    /// Runtimes in the order in which the profile offers them.
    pub runtimes: Vec<RuntimeReport>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub distribution: String,
    pub cgroup_version: u32,
    pub launcher: String,
    pub containerd: String,
    /// Load averages over one minute.
    pub load_before: f64,
    pub load_after: f64,
}

#[derive(Debug, Serialize)]
pub struct ProfileFacts {
    pub name: String,
    pub memory_mib: u64,
    pub cpu_millis: u64,
}

#[derive(Debug, Serialize)]
pub struct Plan {
    pub quick: bool,
    /// Asked for; how many there were is in each spread.
    pub rounds: usize,
    pub storms: Vec<usize>,
    pub inside_rounds: usize,
}

#[derive(Debug, Serialize)]
pub struct RuntimeReport {
    pub runtime: String,
    pub version: String,
    /// By kind: [`COLD`], and [`WARM`] where sandboxes wait.
    pub starts: BTreeMap<&'static str, Starts>,
    pub storms: BTreeMap<&'static str, Vec<Storm>>,
    pub memory: Option<Memory>,
    pub inside: Vec<Measurement>,
}

#[derive(Debug, Serialize)]
pub struct Starts {
    /// Until the server answers.
    pub total_ms: Option<Spread>,
    /// From the same call until the first cell was answered in a kernel of that server;
    /// `left_out` says why there is none.
    pub first_cell_ms: Option<Spread>,
    /// As the launcher timed them, in their order.
    pub steps: Vec<Step>,
    pub stop_ms: Option<Spread>,
    /// Starts that were to be of this kind and were not: their times are in no spread.
    pub misses: usize,
    pub failures: Failures,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub step: String,
    pub ms: Spread,
}

/// What did not succeed. Its time is in no spread.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Failures {
    pub count: usize,
    /// Each reason once.
    pub reasons: Vec<String>,
}

impl Failures {
    pub fn add(&mut self, reason: String) {
        self.count += 1;
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Storm {
    pub at_once: usize,
    /// From the first call until the last server answers; absent if one was of another kind.
    pub total_ms: Option<f64>,
    pub start_ms: Option<Spread>,
    /// The worst place in the launcher's queue that was told to anybody.
    pub longest_queue: u32,
    /// As with [`Starts::misses`].
    pub misses: usize,
    pub failures: Failures,
}

#[derive(Debug, Serialize)]
pub struct Memory {
    pub points: Vec<MemoryPoint>,
    /// What one more idle user takes: the slope over the points.
    pub per_user_mib: Option<f64>,
}

/// All idle servers of a storm together.
#[derive(Debug, Serialize)]
pub struct MemoryPoint {
    pub users: usize,
    /// The sandboxes' control groups, without what the kernel would give back at once.
    pub sandboxes_mib: f64,
    /// The engine's processes beside them, shared pages divided among their users.
    pub shims_mib: f64,
}

/// Something measured inside a sandbox.
#[derive(Debug, Serialize)]
pub struct Measurement {
    pub name: String,
    pub unit: String,
    pub better: Better,
    pub value: Option<Spread>,
    /// Why there is no value.
    pub missing: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

impl Report {
    pub fn failures(&self) -> usize {
        let of = |runtime: &RuntimeReport| {
            let starts: usize = runtime.starts.values().map(|starts| starts.failures.count).sum();
            starts
                + runtime.storms.values().flatten().map(|storm| storm.failures.count).sum::<usize>()
        };
        self.runtimes.iter().map(of).sum()
    }
}
