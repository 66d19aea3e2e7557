//! runc: the host's kernel, hardened. The fastest runtime, and the one whose
//! walls are all named in the spec: it takes the base as it is.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::{
    Kernel, Runtime, RuntimeSettings, Strength, advisories,
    engine::{Handler, HandlerOptions},
    plan::Plan,
    spec::SpecError,
    version::{Version, VersionFloor},
};

pub struct Runc;

/// In its `seccomp/mod.rs`, what the OCI specification calls the value is the mask, and the other
/// way round. Should a later one do so still, the proof refuses it.
const LAST_SWAPPING_YOUKI: Version = Version { major: 0, minor: 7, patch: 0, released: true };

impl Runtime for Runc {
    fn name(&self) -> &'static str {
        "runc"
    }

    fn description(&self) -> &'static str {
        "Containers of the node's own kernel: the fastest start, walls of the kernel"
    }

    fn strength(&self) -> Strength {
        Strength::SharedKernel
    }

    fn kernel(&self) -> Kernel {
        Kernel::Node
    }

    fn adapt(&self, base: Spec, _plan: &Plan) -> Result<Spec, SpecError> {
        Ok(base)
    }

    fn handler(&self, settings: &RuntimeSettings, _configuration: &Path) -> Handler {
        Handler {
            runtime: "io.containerd.runc.v2".to_owned(),
            options: HandlerOptions::Runc {
                binary: settings.binary.clone(),
                root: settings.root.clone(),
            },
            annotation: None,
        }
    }

    fn swaps_masks(&self, program: &str, version: Version) -> bool {
        program == "youki" && version <= LAST_SWAPPING_YOUKI
    }

    fn version_floor(&self) -> &'static VersionFloor {
        &advisories::RUNC
    }
}
