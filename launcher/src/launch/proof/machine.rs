//! The processes of the node that are one virtual machine: monitor, shim and file server. They
//! are the node's root, so what is looked at is what stands in the place of the walls that the
//! spec has: filters, the translation of ids, the network namespace, and the control group around
//! all of them. Pure.
//!
//! What it expects was read in Kata's sources and seen on a machine without KVM; whatever differs
//! is a wall that does not stand.

use std::{collections::BTreeSet, path::Path};

use adrastea_runtimes::{Around, floor, plan::Plan};
use oci_spec::runtime::Spec;

use super::{Broken, GroupLimits, groups, process};
use crate::host::processes::ProcessStatus;

/// What was seen of a machine, from the host.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The task the engine knows.
    pub pid: u32,
    /// The file that the runtime read for this sandbox, and the programs it names.
    pub configuration: String,
    pub programs: Programs,
    /// Every process of the group below the one with the limits.
    pub parts: Vec<Part>,
    /// Processes that are in the group with the limits itself.
    pub beside: BTreeSet<u32>,
    pub pinned_network: u64,
    pub limits: GroupLimits,
    pub core_cookie: Option<bool>,
}

/// The programs of which a machine is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    pub monitor: String,
    pub file_server: String,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub pid: u32,
    pub program: String,
    /// Its command line.
    pub words: Vec<String>,
    pub status: ProcessStatus,
    pub network: u64,
    pub cgroup: String,
    pub oom_score_adj: Option<i32>,
}

impl Machine {
    fn of(&self, program: &str) -> Vec<&Part> {
        self.parts.iter().filter(|part| part.program == program).collect()
    }
}

const SHIM: &str = "containerd-shim-kata-v2";

pub(super) fn check(
    seen: &Machine,
    around: Option<Around>,
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    if let Err(error) = floor::check_configuration(&seen.configuration, plan) {
        broken.add("machine", format!("its file is not what it was written as: {error}"));
    }
    let Programs { monitor, file_server } = &seen.programs;
    let monitors = seen.of(monitor);
    if let [monitor] = monitors.as_slice() {
        self::monitor(monitor, seen, base, broken);
    } else {
        broken.add("machine", format!("{} monitors `{monitor}`", monitors.len()));
    }
    let servers = seen.of(file_server);
    for server in &servers {
        self::file_server(server, plan, base, broken);
    }
    let filtered = servers.iter().any(|server| server.status.seccomp_mode == 2);
    broken.unless(filtered, "machine", format!("no `{file_server}` stands behind a filter"));
    for part in &seen.parts {
        let name = Path::new(&part.program).file_name().unwrap_or_default();
        let known = [monitor, file_server].contains(&&part.program) || name == SHIM;
        broken.unless(known, "machine", format!("`{}` was not planned", part.program));
        let mut group = Broken(Vec::new());
        groups::member_of(&part.cgroup, &plan.machine_cgroup(), &mut group);
        broken.0.extend(group.0.into_iter().map(|what| format!("{what} ({})", part.program)));
        let traced = part.status.tracer;
        broken.unless(traced == Some(0), "tracing", format!("by {traced:?} ({})", part.program));
    }
    let is_part = seen.parts.iter().any(|part| part.pid == seen.pid);
    broken.unless(is_part, "cgroup", "the task is not in it");
    broken.unless(
        seen.beside.is_empty(),
        "cgroup",
        format!("processes {:?} beside the machine", seen.beside),
    );
    match around {
        Some(around) => groups::around(&seen.limits, &around, broken),
        None => broken.add("limits", "none are known"),
    }
    broken.unless(seen.core_cookie != Some(false), "core scheduling", "there is no cookie");
}

fn monitor(part: &Part, seen: &Machine, base: &Spec, broken: &mut Broken) {
    let told = part.words.windows(2).find(|pair| pair[0] == "-sandbox").map(|pair| &pair[1]);
    let filter = told.is_some_and(|told| {
        let told: Vec<_> = told.split(',').collect();
        ["on", "obsolete=deny", "elevateprivileges=deny", "spawn=deny", "resourcecontrol=deny"]
            .iter()
            .all(|word| told.contains(word))
            && told.len() == 5
    });
    broken.unless(filter, "machine", format!("the monitor's filter is {told:?}"));
    let mode = part.status.seccomp_mode;
    broken.unless(mode == 2, "machine", format!("the monitor's filter has mode {mode}"));
    broken.unless(
        part.network == seen.pinned_network,
        "namespaces",
        "the monitor's net is not the one that was prepared",
    );
    process::oom_score(part.oom_score_adj, base, broken);
}

fn file_server(part: &Part, plan: &Plan, base: &Spec, broken: &mut Broken) {
    let beginning = |word: &&String, with: &str| word.starts_with(with);
    let translation: Vec<_> =
        part.words.iter().filter(|word| beginning(word, "--translate")).collect();
    let stands = translation.into_iter().eq(floor::expected_translation(plan).iter());
    broken.unless(stands, "id translation", "it is not the sandbox's map and nothing beside it");
    for (option, only) in [("--sandbox", "--sandbox=namespace"), ("--seccomp", "--seccomp=kill")] {
        let mut said = part.words.iter().filter(|word| beginning(word, option));
        let stands = said.next().is_some_and(|word| word == only) && said.next().is_none();
        broken.unless(stands, "machine", format!("the file server is not told {only} alone"));
    }
    process::oom_score(part.oom_score_adj, base, broken);
}
