//! Everything that has no reason to differ from the base: compared whole.
//!
//! What [`super::walls`] has judged is replaced by the base's own; then the two
//! must be equal. The named comparisons before that only make the error say which wall.

use oci_spec::runtime::{Linux, Process, Spec};

use super::{Breach, Wall};

pub fn check(candidate: &Spec, base: &Spec, breaches: &mut Vec<Breach>) {
    let before = breaches.len();
    let mut differs = |wall: Wall, detail: &str, equal: bool| {
        if !equal {
            breaches.push(Breach { wall, detail: detail.to_owned() });
        }
    };

    differs(Wall::Rootfs, "not the plan's, or writable", candidate.root() == base.root());
    differs(Wall::Hooks, "there are hooks", candidate.hooks() == base.hooks());
    differs(
        Wall::Annotations,
        "there are annotations",
        candidate.annotations() == base.annotations(),
    );
    if let (Some(candidate), Some(base)) = (candidate.process(), base.process()) {
        process(candidate, base, &mut differs);
    }
    if let (Some(candidate), Some(base)) = (candidate.linux(), base.linux()) {
        linux(candidate, base, &mut differs);
    }

    if before == breaches.len() && !is_equal_otherwise(candidate, base) {
        breaches
            .push(Breach { wall: Wall::Other, detail: "a field differs from the base".to_owned() });
    }
}

fn process(candidate: &Process, base: &Process, differs: &mut impl FnMut(Wall, &str, bool)) {
    differs(
        Wall::Capabilities,
        "not five empty sets",
        candidate.capabilities() == base.capabilities(),
    );
    differs(
        Wall::NoNewPrivileges,
        "not set",
        candidate.no_new_privileges() == base.no_new_privileges(),
    );
    differs(Wall::User, "another user, group or umask", candidate.user() == base.user());
    differs(Wall::Environment, "not the constants", candidate.env() == base.env());
    differs(
        Wall::Command,
        "not the init, or not in `/`",
        candidate.args() == base.args() && candidate.cwd() == base.cwd(),
    );
}

fn linux(candidate: &Linux, base: &Linux, differs: &mut impl FnMut(Wall, &str, bool)) {
    differs(Wall::Namespaces, "not the seven", candidate.namespaces() == base.namespaces());
    differs(
        Wall::IdMap,
        "not the one of the user namespace",
        candidate.uid_mappings() == base.uid_mappings()
            && candidate.gid_mappings() == base.gid_mappings(),
    );
    differs(
        Wall::Propagation,
        "not private",
        candidate.rootfs_propagation() == base.rootfs_propagation(),
    );
    differs(Wall::Devices, "device nodes are added", candidate.devices() == base.devices());
    differs(Wall::Cgroup, "not the plan's", candidate.cgroups_path() == base.cgroups_path());
}

/// Whether the two are one after all that may be stricter is set to the base's.
fn is_equal_otherwise(candidate: &Spec, base: &Spec) -> bool {
    if candidate == base {
        return true;
    }
    let mut candidate = candidate.clone();
    candidate.set_mounts(base.mounts().clone());
    if let (Some(process), Some(base)) = (candidate.process_mut(), base.process()) {
        process.set_rlimits(base.rlimits().clone());
        process.set_oom_score_adj(base.oom_score_adj());
    }
    if let (Some(linux), Some(base)) = (candidate.linux_mut(), base.linux()) {
        linux.set_masked_paths(base.masked_paths().clone());
        linux.set_readonly_paths(base.readonly_paths().clone());
        if let (Some(resources), Some(base)) = (linux.resources_mut(), base.resources()) {
            resources.set_devices(base.devices().clone());
            resources.set_pids(*base.pids());
            if let (Some(memory), Some(base)) = (resources.memory_mut(), base.memory()) {
                memory.set_limit(base.limit()).set_swap(base.swap());
            }
            if let (Some(cpu), Some(base)) = (resources.cpu_mut(), base.cpu()) {
                cpu.set_quota(base.quota()).set_shares(base.shares());
            }
        }
    }
    candidate == *base
}
