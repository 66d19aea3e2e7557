//! The floor: what a runtime's driver made of the base may be stricter than the
//! base, never weaker.
//!
//! Everything the checks below do not know must be as in the base, so that a
//! field nobody thought of cannot widen a wall. Pure; called by
//! [`crate::build_spec`] for every sandbox.

mod filter;
mod machine;
mod own_kernel;
mod rest;
mod walls;

use std::fmt;

use oci_spec::runtime::Spec;

use crate::{
    Kernel,
    plan::Plan,
    spec::{self, SpecError},
};

/// One wall of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    Capabilities,
    NoNewPrivileges,
    User,
    IdMap,
    Namespaces,
    Rootfs,
    Propagation,
    Mounts,
    MaskedPaths,
    ReadonlyPaths,
    Devices,
    Seccomp,
    Memory,
    Cpu,
    Processes,
    Rlimits,
    OomScore,
    Environment,
    Command,
    Cgroup,
    Hooks,
    Annotations,
    /// Anything else that differs from the base.
    Other,
}

impl fmt::Display for Wall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no_new_privs",
            Self::User => "user",
            Self::IdMap => "id map",
            Self::Namespaces => "namespaces",
            Self::Rootfs => "rootfs",
            Self::Propagation => "mount propagation",
            Self::Mounts => "mounts",
            Self::MaskedPaths => "masked paths",
            Self::ReadonlyPaths => "read-only paths",
            Self::Devices => "devices",
            Self::Seccomp => "seccomp",
            Self::Memory => "memory limit",
            Self::Cpu => "cpu limit",
            Self::Processes => "process limit",
            Self::Rlimits => "rlimits",
            Self::OomScore => "oom score",
            Self::Environment => "environment",
            Self::Command => "command",
            Self::Cgroup => "cgroup",
            Self::Hooks => "hooks",
            Self::Annotations => "annotations",
            Self::Other => "other",
        })
    }
}

/// One wall that is lower than the base has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    pub wall: Wall,
    pub detail: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.wall, self.detail)
    }
}

/// Refuses a spec that is weaker than the base of the same plan, naming every breach.
///
/// A kernel of its own changes three things, each of which leaves the node's walls as they
/// are: such a runtime may make the user namespace itself, with the plan's map; may bind the
/// directory above the home onto itself; and may let `clone3` make namespaces, for they are
/// that kernel's.
///
/// A virtual machine changes five: there is no user namespace (the file server translates ids by
/// the plan's map, [`check_configuration`]), the home is bound before the start, processes are
/// counted for the user instead of the control group, that group lies below the one with the
/// limits, and no profile of the node's is named.
///
/// Gives the spec back as it was, so that only one that was checked goes on.
pub fn check(mut candidate: Spec, plan: &Plan, kernel: Kernel) -> Result<Spec, SpecError> {
    let base = spec::base_without_filter(plan)?;
    let mut breaches = Vec::new();
    let filter = candidate.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().take());
    filter::check(filter.as_ref(), spec::seccomp::profile()?, kernel, &mut breaches);
    // Everything else, which may not differ by a filter any more.
    let shared = match kernel {
        Kernel::Node => None,
        Kernel::Own => Some(own_kernel::as_if_shared(&candidate, &base, plan)),
        Kernel::Machine => Some(machine::as_if_shared(&candidate, &base, plan, &mut breaches)),
    };
    let judged = shared.as_ref().unwrap_or(&candidate);
    walls::check(judged, &base, &mut breaches);
    rest::check(judged, &base, &mut breaches);
    if !breaches.is_empty() {
        return Err(SpecError::Weaker { breaches });
    }
    if let Some(linux) = candidate.linux_mut() {
        linux.set_seccomp(filter);
    }
    Ok(candidate)
}

/// Refuses a file beside the spec that does not say what stands in the place of the walls which a
/// virtual machine lacks, or says anything that is not known here.
pub fn check_configuration(text: &str, plan: &Plan) -> Result<(), SpecError> {
    let mut breaches = Vec::new();
    machine::check_configuration(text, plan, &mut breaches);
    if breaches.is_empty() { Ok(()) } else { Err(SpecError::Weaker { breaches }) }
}

/// What the file server of a machine must be told of ids.
pub fn expected_translation(plan: &Plan) -> Vec<String> {
    machine::expected_translation(plan)
}

#[cfg(test)]
mod any_plan;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod tests;
