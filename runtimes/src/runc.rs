//! runc: the host's kernel, hardened. The fastest runtime, and the one whose
//! walls are all named in the spec: it takes the base as it is.

use oci_spec::runtime::Spec;

use crate::{
    Kernel, Runtime, RuntimeSettings, Strength, advisories,
    engine::{Handler, HandlerOptions},
    plan::Plan,
    spec::SpecError,
    version::VersionFloor,
};

pub struct Runc;

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

    fn handler(&self, settings: &RuntimeSettings) -> Handler {
        Handler {
            runtime: "io.containerd.runc.v2".to_owned(),
            options: HandlerOptions::Runc {
                binary: settings.binary.clone(),
                root: settings.root.clone(),
            },
        }
    }

    fn version_floor(&self) -> &'static VersionFloor {
        &advisories::RUNC
    }
}
