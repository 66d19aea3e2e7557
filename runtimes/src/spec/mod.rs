//! From a plan to the hardened OCI spec that every runtime starts from: pure
//! code, no effects, the same plan always gives the same spec.
//!
//! Called by [`crate::build_spec`]. Must never hold a secret, an annotation, a
//! hook or anything a request could name; what a runtime makes of it is held
//! against it by [`crate::floor`].

mod caps;
pub(crate) mod masks;
mod mounts;
mod namespaces;
mod process;
mod resources;
pub(crate) mod seccomp;
mod syscalls;

use std::collections::BTreeSet;

use oci_spec::{
    OciSpecError,
    runtime::{Linux, LinuxBuilder, LinuxSeccompAction, RootBuilder, Spec, SpecBuilder},
};

use crate::{
    floor::Breach,
    plan::{InvalidPlan, Plan},
};

/// The version of the OCI runtime specification we write for.
const OCI_VERSION: &str = "1.1.0";

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("the plan of sandbox `{id}` makes no sense")]
    InvalidPlan {
        id: String,
        #[source]
        source: InvalidPlan,
    },
    #[error("failed to build the OCI spec")]
    Build(#[from] OciSpecError),
    /// A runtime that starts machines was not told what they are made of.
    #[error("the runtime's settings name no files of a machine")]
    NoMachine,
    /// A driver widened the base. Each breach names the wall.
    #[error("the runtime's spec is weaker than the base: {}", list(breaches))]
    Weaker { breaches: Vec<Breach> },
}

fn list(breaches: &[Breach]) -> String {
    breaches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The hardened base.
pub fn base(plan: &Plan) -> Result<Spec, SpecError> {
    let mut spec = base_without_filter(plan)?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(Some(seccomp::profile()?.clone()));
    }
    Ok(spec)
}

/// The base but for its filter of system calls: that is the same for every sandbox, and by far
/// the largest part. No sandbox may be made of it.
pub(crate) fn base_without_filter(plan: &Plan) -> Result<Spec, SpecError> {
    plan.validate().map_err(|source| SpecError::InvalidPlan { id: plan.id.to_string(), source })?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(RootBuilder::default().path(&plan.rootfs).readonly(true).build()?)
        .mounts(mounts::all(plan)?)
        .process(process::init(plan)?)
        .hostname(&plan.hostname)
        .linux(linux(plan)?)
        .build()?;
    // The library's default spec has some; engines and runtimes obey annotations.
    spec.set_annotations(None).set_hooks(None);
    Ok(spec)
}

fn linux(plan: &Plan) -> Result<Linux, SpecError> {
    Ok(LinuxBuilder::default()
        // No id maps: the user namespace that is joined has them, and runc takes only one of
        // the two. That it is the plan's map is proved from outside, before any tenant's code.
        .namespaces(namespaces::all(plan)?)
        .cgroups_path(&plan.cgroup)
        .resources(resources::all(plan)?)
        .devices(Vec::new())
        // Nothing mounted later on the host appears inside, nothing mounted inside outside.
        .rootfs_propagation("private")
        .masked_paths(masks::masked())
        .readonly_paths(masks::readonly())
        .build()?)
}

/// The system calls that the filter lets through, some of them by their arguments only.
pub fn allowed_calls() -> Result<BTreeSet<String>, SpecError> {
    let profile = seccomp::profile()?;
    let rules = profile.syscalls().iter().flatten();
    let allowing = rules.filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow);
    Ok(allowing.flat_map(|rule| rule.names().clone()).collect())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod traced;
