//! The walls that are seen to stand before a sandbox is claimed: what the
//! kernel says from outside, compared with what was promised. Pure; what is
//! looked at is in [`super::observe`].
//!
//! What was promised is read from the hardened base itself, so that no second
//! list can fall behind it. A check must never pass for want of information:
//! what could not be read counts as a wall that does not stand.

mod files;
mod groups;
mod guest;
mod home;
mod inside;
pub mod jail;
pub mod machine;
mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use adrastea_init::report::Report;
use adrastea_runtimes::{Runtime, plan::Plan};
use oci_spec::runtime::Spec;

pub use home::broken_home;

use crate::host::{cgroups::Memory, mounts::MountLine, processes::ProcessStatus};
use jail::Jail;
use machine::Machine;

/// The limits of a control group, as they are.
#[derive(Clone, Debug, Default)]
pub struct GroupLimits {
    pub memory: Memory,
    pub processes: Option<u64>,
    pub cpu_millis: Option<u64>,
}

/// What was seen of a waiting sandbox, from the host.
#[derive(Clone, Debug)]
pub struct Observed {
    pub status: ProcessStatus,
    pub uid_map: String,
    pub gid_map: String,
    /// By kind (`user`, `net`, …): of the sandbox, and of the launcher itself.
    pub namespaces: BTreeMap<&'static str, u64>,
    pub host_namespaces: BTreeMap<&'static str, u64>,
    /// The inodes that were pinned beforehand.
    pub pinned_user: u64,
    pub pinned_network: u64,
    /// Kinds of namespaces that a live neighbour is in, too, and its id.
    pub shared_with: Vec<(&'static str, String)>,
    /// The program that waits, its environment, and who owns its files in `/proc`.
    pub program: String,
    pub environment: Vec<String>,
    pub guarded_by: u32,
    /// By the kernel's name: soft and hard limit.
    pub rlimits: BTreeMap<String, (String, String)>,
    pub oom_score_adj: Option<i32>,
    pub mounts: Vec<MountLine>,
    /// Paths that were to be masked or made read-only, and are there at all.
    pub present: BTreeSet<PathBuf>,
    /// Modes of `/tmp`, `/dev/shm` and the like, as they came out.
    pub modes: BTreeMap<&'static str, u32>,
    /// What is in `/dev`: for a device node, its numbers.
    pub devices: BTreeMap<String, Option<(u64, u64)>>,
    pub descriptors: Vec<(u32, String)>,
    pub cgroup: String,
    /// Every process of the control group.
    pub processes: BTreeSet<u32>,
    pub pid: u32,
    pub limits: GroupLimits,
    /// The version of Landlock the init stands behind, and the best it could.
    pub landlock: u32,
    pub landlock_offered: u32,
    /// The mandatory label it runs under, if the node has labels.
    pub label: Option<String>,
    /// Whether it has a core-scheduling cookie; none if the node has no such thing.
    pub core_cookie: Option<bool>,
}

/// The kinds of namespaces, all of which must be the sandbox's own.
pub const NAMESPACES: [&str; 7] = ["user", "net", "pid", "mnt", "ipc", "uts", "cgroup"];

/// Directories whose mode runtimes got wrong before.
pub const WORLD_WRITABLE: [&str; 2] = ["/tmp", "/dev/shm"];

/// Collects what does not stand.
struct Broken(Vec<String>);

impl Broken {
    fn add(&mut self, wall: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{wall}: {what}"));
    }

    fn unless(&mut self, stands: bool, wall: &str, what: impl std::fmt::Display) {
        if !stands {
            self.add(wall, what);
        }
    }
}

/// Every promised wall that does not stand, in words; empty if all do.
/// `base` is the hardened base of the plan.
pub fn broken_walls(seen: &Observed, plan: &Plan, base: &Spec) -> Vec<String> {
    let mut broken = Broken(Vec::new());
    process::check(seen, plan, base, &mut broken);
    files::check(seen, base, &mut broken);
    groups::check(seen, plan, &mut broken);
    broken.0
}

/// The same for a sandbox with a kernel of its own: its jail as seen from outside, and what
/// the init tells of the inside.
pub fn broken_walls_of_own_kernel(
    seen: &Jail,
    report: Option<&Report>,
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
) -> Vec<String> {
    let mut broken = Broken(Vec::new());
    jail::check(seen, runtime, plan, base, &mut broken);
    if let Some(report) = report {
        inside::check(report, runtime, plan, base, &mut broken);
    }
    broken.0
}

/// The same for a virtual machine: what the node runs of it, and what the init tells of the inside.
pub fn broken_walls_of_machine(
    seen: &Machine,
    report: Option<&Report>,
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
) -> Vec<String> {
    let mut broken = Broken(Vec::new());
    machine::check(seen, runtime.around(plan), plan, base, &mut broken);
    if let Some(report) = report {
        guest::check(report, runtime, plan, base, &mut broken);
    }
    broken.0
}

/// What the init found of the filter's rules on arguments, which cannot be read from outside:
/// the kernel tells only that there is a filter.
pub fn broken_filter(let_through: Option<&[String]>) -> Option<String> {
    match let_through {
        Some([]) => None,
        Some(names) => Some(format!("seccomp: the filter lets through {}", names.join(", "))),
        None => Some("seccomp: the init did not try the filter".into()),
    }
}

#[cfg(test)]
mod jail_tests;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::plan as test_plan;
