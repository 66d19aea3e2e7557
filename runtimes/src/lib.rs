//! What a sandbox *is*: a validated [`plan::Plan`], the hardened OCI spec built
//! from it by pure code, one file per runtime, the engine that runs it, and the
//! init inside.
//!
//! Knows nothing of users, homes, egress or the gRPC service. Adding a runtime
//! is one file and one line in [`all`].

pub mod engine;
pub mod floor;
pub mod plan;
pub mod runc;
pub mod spec;
pub mod version;

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::{engine::Handler, plan::Plan, spec::SpecError, version::VersionFloor};

/// What the operator's configuration says of one runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// The OCI runtime's binary.
    pub binary: PathBuf,
    /// Where the runtime keeps its state; below the instance's run directory.
    pub root: PathBuf,
}

/// One way to run a sandbox. Everything here is pure.
pub trait Runtime: Send + Sync {
    /// The name in configuration and on the wire.
    fn name(&self) -> &'static str;

    /// In plain words, for a start form.
    fn description(&self) -> &'static str;

    /// Turns the hardened base into what this runtime needs. The result must
    /// not be weaker: [`floor::check`] refuses it otherwise.
    fn adapt(&self, base: Spec, plan: &Plan) -> Result<Spec, SpecError>;

    /// How the engine runs it.
    fn handler(&self, settings: &RuntimeSettings) -> Handler;

    /// The first versions without known escapes.
    fn version_floor(&self) -> &'static VersionFloor;
}

/// Every runtime there is. The test matrix grows from this list.
pub fn all() -> &'static [&'static dyn Runtime] {
    &[&runc::Runc]
}

/// The runtime of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Runtime> {
    all().iter().copied().find(|runtime| runtime.name() == name)
}

/// The spec of a sandbox under a runtime: base, adapted, and checked against the floor.
pub fn build_spec(runtime: &dyn Runtime, plan: &Plan) -> Result<Spec, SpecError> {
    let adapted = runtime.adapt(spec::base(plan)?, plan)?;
    floor::check(&adapted, plan)?;
    Ok(adapted)
}
