//! What a sandbox that is a virtual machine needs of the node beside the others' steps: its home
//! bound beforehand, a limited control group around what the runtime starts, and the file that
//! the runtime reads; and what of it is to be removed when nobody else has done so.

use std::{fs, os::fd::AsFd as _};

use adrastea_init::report::Report;
use adrastea_runtimes::{
    Kernel, Runtime,
    plan::{Plan, SandboxId},
};
use oci_spec::runtime::{Process, Spec};

use super::{
    failure::Failure,
    node::{NodeGround, home_failure},
    observe::{machine_processes, observe_machine},
    proof,
    sandbox::{self, Sandbox},
};
use crate::host::{
    Attempt as _, HostError, cgroup_limits::surround, cgroups::Hierarchy, confinement, directories,
    mounts, tolerate_absence,
};

impl NodeGround {
    /// The user's home, at the place from which the runtime binds it.
    pub(super) fn bind_home(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        let facts = &sandbox.record.facts;
        let place = sandbox.plan().bound_home();
        directories::make_root_directory(&place, 0o700, 0)?;
        let name = sandbox.record.key.owner().on_disk();
        self.homes
            .open(&self.home_root, &name, facts.disk_uid, facts.disk_gid)
            .and_then(|home| mounts::attach_here(home.as_fd(), &place))
            .map_err(home_failure)
    }

    pub(super) fn surround_machine(
        &self,
        sandbox: &Sandbox,
        configuration: &str,
    ) -> Result<(), HostError> {
        if let Some(limits) = sandbox.runtime().and_then(|it| it.around(&sandbox.plan())) {
            surround(&self.cgroups, &sandbox.cgroup, &limits)?;
        }
        directories::write_atomically(&sandbox.configuration(), configuration.as_bytes(), 0o600)
    }

    /// A machine ends before others when the node runs out of memory: its shim is told otherwise
    /// by the engine, and tells whom it starts.
    pub(super) fn end_machine_early(
        &self,
        sandbox: &Sandbox,
        plan: &Plan,
        base: &Spec,
    ) -> Result<(), HostError> {
        if sandbox.runtime().is_none_or(|it| it.kernel() != Kernel::Machine) {
            return Ok(());
        }
        end_early(plan, base, &self.cgroups)
    }

    pub(super) fn broken_walls_of_machine(
        &self,
        sandbox: &Sandbox,
        runtime: &dyn Runtime,
        plan: &Plan,
        base: &Spec,
        pid: u32,
        report: Option<&Report>,
    ) -> Result<Vec<String>, HostError> {
        let seen = observe_machine(&sandbox.configuration(), plan, pid, &self.cgroups)?;
        Ok(proof::broken_walls_of_machine(&seen, report, runtime, plan, base))
    }

    /// The file beside the sandbox, and what a runtime that was killed keeps outside of all that
    /// is the instance's. Only under this id, and never what is mounted there.
    pub(super) fn remove_machine(&self, id: &SandboxId) -> Result<(), HostError> {
        let file = sandbox::configuration(&self.layout.sandbox_directory(id.as_str()));
        // The second is that of a launcher that was killed while it wrote.
        for file in [&file, &file.with_extension("new")] {
            tolerate_absence(fs::remove_file(file)).attempt("remove", file)?;
        }
        remove_leavings(id)
    }
}

/// See [`NodeGround::end_machine_early`].
pub fn end_early(plan: &Plan, base: &Spec, cgroups: &Hierarchy) -> Result<(), HostError> {
    let score = base.process().as_ref().and_then(Process::oom_score_adj);
    machine_processes(plan, cgroups)?
        .into_iter()
        .try_for_each(|pid| confinement::ends_early(pid, score.unwrap_or(1000)))
}

/// See [`NodeGround::remove_machine`].
pub fn remove_leavings(id: &SandboxId) -> Result<(), HostError> {
    let leavings = adrastea_runtimes::all().iter().flat_map(|runtime| runtime.leavings(id));
    leavings.into_iter().try_for_each(|place| mounts::remove_with_mounts(&place))
}
