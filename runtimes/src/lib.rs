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
pub mod plan;
pub mod runc;
pub mod spec;
pub mod version;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::{
    engine::Handler,
    plan::Plan,
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
}

/// How strong the wall to the node's kernel is; a later one is stronger. Policy sets floors by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// The tenant calls the node's kernel, through a filter.
    SharedKernel,
    /// The tenant calls a kernel of its own, in user space.
    OwnKernel,
}

/// Whose kernel the tenant's processes see, and so who can tell what about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The node's: the init is a process of the node, and every wall is seen from outside.
    Node,
    /// One of the sandbox's own. From outside its jail is seen; what the tenant's
    /// processes are behind is told by the init, before any of them has run.
    Own,
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

    /// Whether what covers a user's configuration in the home cannot be moved away inside.
    fn holds_covers(&self) -> bool {
        true
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

    /// The processes of the node that a sandbox may have in which the tenant is to have `asked`.
    fn host_processes(&self, asked: u32) -> u32 {
        asked
    }

    /// Turns the hardened base into what this runtime needs. The result must
    /// not be weaker: [`floor::check`] refuses it otherwise.
    fn adapt(&self, base: Spec, plan: &Plan) -> Result<Spec, SpecError>;

    /// How the engine runs it.
    fn handler(&self, settings: &RuntimeSettings) -> Handler;

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

/// Every runtime there is. The test matrix grows from this list.
pub fn all() -> &'static [&'static dyn Runtime] {
    &[&runc::Runc, &gvisor::Gvisor]
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
