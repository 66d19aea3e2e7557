//! What a sandbox *is*: a validated [`plan::Plan`], the hardened OCI spec built
//! from it by pure code, one file per runtime, the engine that runs it, and the
//! init inside.
//!
//! Knows nothing of users, homes, egress or the gRPC service. Adding a runtime
//! is one file and two lines here.

pub mod advisories;
pub mod engine;
pub mod floor;
pub mod gvisor;
pub mod kata;
pub mod plan;
pub mod runc;
pub mod spec;
pub mod version;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::{
    engine::{Annotation, Handler},
    plan::{Plan, SandboxId},
    spec::SpecError,
    version::{Version, VersionFloor},
};

/// What the operator's configuration says of one runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// The OCI runtime's binary.
    pub binary: PathBuf,
    /// Where the runtime keeps its state; below the instance's run directory.
    pub root: PathBuf,
    /// What the binary says it is: the first word that it prints, and its version.
    pub program: String,
    pub version: Version,
    /// Of a runtime that starts a machine, the files it is made of.
    pub machine: Option<MachineFiles>,
    /// The runtime's own shim, where it stands in the place of the engine's ordinary one.
    pub shim: Option<ShimFiles>,
}

/// Where a shim of a runtime's own is, and the file that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimFiles {
    pub program: PathBuf,
    pub configuration: PathBuf,
}

/// A shim that a runtime has of its own, and that may stand in the place of the engine's
/// ordinary one.
#[derive(Debug)]
pub struct OwnShim {
    pub program: &'static str,
    /// What it calls the file that it reads.
    pub kind: &'static str,
    /// What it needs to see in the spec. The runtime must not see it: the launcher's program
    /// before it takes it out, and takes no other one.
    pub annotation: Annotation,
    /// What that file says: which program it calls, and below which directory that keeps its state.
    pub configuration: fn(binary: &Path, root: &Path) -> String,
    /// What it says of a sandbox whose processes somebody has killed all at once.
    pub killed: u32,
}

/// What a virtual machine is made of, each by its path on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFiles {
    /// The program that is the machine.
    pub monitor: PathBuf,
    /// The program that serves it files of the node.
    pub file_server: PathBuf,
    pub kernel: PathBuf,
    /// The root file system in which the runtime's own agent is.
    pub image: PathBuf,
}

/// How strong the wall to the node's kernel is; a later one is stronger. Policy sets floors by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// The tenant calls the node's kernel, through a filter.
    SharedKernel,
    /// The tenant calls a kernel of its own, in user space.
    OwnKernel,
    /// The tenant calls a kernel of its own, behind the processor's own wall.
    OwnMachine,
}

/// Whose kernel the tenant's processes see, and so who can tell what about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The node's: the init is a process of the node, and every wall is seen from outside.
    Node,
    /// One of the sandbox's own. From outside its jail is seen; what the tenant's
    /// processes are behind is told by the init, before any of them has run.
    Own,
    /// That of a virtual machine. From outside its monitor and whoever serves it are seen, none
    /// of which stands behind the walls of the spec; the inside is told by the init.
    Machine,
}

/// A promise that a runtime cannot keep, or keeps in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limitation {
    /// For people who choose.
    pub what: &'static str,
    pub why: &'static str,
}

/// One way to run a sandbox. Everything here is pure.
pub trait Runtime: Send + Sync {
    /// The name in configuration and on the wire.
    fn name(&self) -> &'static str;

    /// In plain words, for a start form.
    fn description(&self) -> &'static str;

    fn strength(&self) -> Strength;

    fn kernel(&self) -> Kernel;

    /// What it cannot do.
    fn limitations(&self) -> &'static [Limitation] {
        &[]
    }

    /// The process of the node that opens files for the tenant, by its `argv[0]`, where it is
    /// not the tenant's own: in its mount namespace a home is attached.
    fn file_server(&self) -> Option<&'static str> {
        None
    }

    /// What of it was never seen to hold on a machine of this project, if anything: the operator
    /// has to say that it is wanted all the same, and people who choose are told.
    fn unproved(&self) -> Option<&'static str> {
        None
    }

    /// Whether the home is bound before the start, from [`Plan::bound_home`]: nothing can be
    /// attached later.
    fn binds_home(&self) -> bool {
        false
    }

    /// Whether what covers a user's configuration in the home cannot be moved away inside.
    fn holds_covers(&self) -> bool {
        true
    }

    /// Why it cannot be driven by way of the program that prints this of itself, if so: another one
    /// under the same name and version.
    fn refuses_program(&self, _printed: &str) -> Option<&'static str> {
        None
    }

    /// Why no sandbox of that program and version can wait for its user with a server that has
    /// loaded, if so: it starts cold, and this is told.
    fn refuses_to_wait(&self, _program: &str, _version: Version) -> Option<&'static str> {
        None
    }

    /// Whether a new file in a home belongs to the sandbox's root for a moment, until it is given
    /// to the user: a home seen through mapped ids must then have that number, too.
    fn makes_files_as_root(&self) -> bool {
        false
    }

    /// Why a home cannot be at this path inside, if so.
    fn refuses_home(&self, _home: &Path) -> Option<&'static str> {
        None
    }

    /// Capabilities that the processes of such a kernel keep, in the sandbox's own user
    /// namespace; a mask as in `/proc/PID/status`.
    fn jail_capabilities(&self) -> u64 {
        0
    }

    /// Kinds of namespaces in which those processes stay in the node's.
    fn node_namespaces(&self) -> &'static [&'static str] {
        &[]
    }

    /// What else such a kernel has in its `/dev`, by name: devices of its own making.
    fn own_devices(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the tenant's memory is shared memory of the node's kernel, for which such a kernel
    /// asks for large pages.
    fn asks_for_large_pages(&self) -> bool {
        false
    }

    /// Links that the program makes itself in the sandbox's network namespace.
    fn own_links(&self) -> &'static [&'static str] {
        &[]
    }

    /// Mount points inside whose flags and bounds are the program's own, not the plan's.
    fn own_mounts(&self) -> &'static [&'static str] {
        &[]
    }

    /// Where, outside of everything that is the instance's, the program keeps something of one
    /// sandbox, should it be killed.
    fn leavings(&self, _id: &SandboxId) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The processes of the node that a sandbox may have in which the tenant is to have `asked`.
    fn host_processes(&self, asked: u32) -> u32 {
        asked
    }

    /// Turns the hardened base into what this runtime needs. The result must
    /// not be weaker: [`floor::check`] refuses it otherwise.
    fn adapt(&self, base: Spec, plan: &Plan) -> Result<Spec, SpecError>;

    /// The file that the program reads for one sandbox alone, if it is driven by one.
    fn configuration(
        &self,
        _plan: &Plan,
        _settings: &RuntimeSettings,
    ) -> Result<Option<String>, SpecError> {
        Ok(None)
    }

    /// The limits of the control group around everything that the node runs for one sandbox,
    /// where the program itself sets none.
    fn around(&self, _plan: &Plan) -> Option<Around> {
        None
    }

    /// How the engine runs it; `configuration` is where the file of [`Runtime::configuration`] is.
    fn handler(&self, settings: &RuntimeSettings, configuration: &Path) -> Handler;

    /// The program that may stand in the place of the engine's ordinary shim, if there is one.
    fn own_shim(&self) -> Option<&'static OwnShim> {
        None
    }

    /// What every call of the program is told. With any, the launcher's own program stands
    /// before it: the engine's shim passes none.
    fn flags(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether that version must not see the node's `/proc/sys/net`.
    fn hides_network_settings(&self, _version: Version) -> bool {
        false
    }

    /// Whether that program takes mask and value for each other where a filter compares under a
    /// mask. The launcher's own program then stands before it and swaps them.
    fn swaps_masks(&self, _program: &str, _version: Version) -> bool {
        false
    }

    /// The first versions without known escapes.
    fn version_floor(&self) -> &'static VersionFloor;
}

/// The limits of a control group that the launcher makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub processes: u32,
}

/// Every runtime there is. The test matrix grows from this list.
pub fn all() -> &'static [&'static dyn Runtime] {
    &[&runc::Runc, &gvisor::Gvisor, &kata::Kata]
}

/// The runtime of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Runtime> {
    all().iter().copied().find(|runtime| runtime.name() == name)
}

/// The spec of a sandbox under a runtime: base, adapted, and checked against the floor.
pub fn build_spec(runtime: &dyn Runtime, plan: &Plan) -> Result<Spec, SpecError> {
    let adapted = runtime.adapt(spec::base(plan)?, plan)?;
    floor::check(adapted, plan, runtime.kernel())
}

/// What a runtime reads for one sandbox alone, checked against the floor; none for most.
pub fn build_configuration(
    runtime: &dyn Runtime,
    plan: &Plan,
    settings: &RuntimeSettings,
) -> Result<Option<String>, SpecError> {
    let Some(text) = runtime.configuration(plan, settings)? else { return Ok(None) };
    floor::check_configuration(&text, plan)?;
    Ok(Some(text))
}
