//! runc: the host's kernel, hardened. The fastest runtime, and the one whose
//! walls are all named in the spec: it takes the base as it is.

use oci_spec::runtime::Spec;

use crate::{
    Runtime, RuntimeSettings,
    engine::{Handler, HandlerOptions},
    plan::Plan,
    spec::SpecError,
    version::{Advisory, Fix, VersionFloor},
};

pub struct Runc;

impl Runtime for Runc {
    fn name(&self) -> &'static str {
        "runc"
    }

    fn description(&self) -> &'static str {
        "Containers of the node's own kernel: the fastest start, walls of the kernel"
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
        &FLOOR
    }
}

/// From runc's CHANGELOG.md and its security advisories on GitHub. Distributions that backport
/// fixes keep the old number: that is what an operator's written override is for.
static FLOOR: VersionFloor = VersionFloor {
    runtime: "runc",
    advisories: &[
        // GHSA-xr7r-f8xq-vfvv
        Advisory {
            name: "CVE-2024-21626",
            what: "a leaked descriptor gives the host's file system",
            fixes: &[Fix(1, 1, 12)],
        },
        // GHSA-jfvp-7x6p-h2pv
        Advisory {
            name: "CVE-2024-45310",
            what: "empty files can be made on the host",
            fixes: &[Fix(1, 1, 14), Fix(1, 2, 0)],
        },
        // GHSA-9493-h29p-rfm2
        Advisory {
            name: "CVE-2025-31133",
            what: "masked paths can be redirected to the host's /proc",
            fixes: &[Fix(1, 2, 8), Fix(1, 3, 3), Fix(1, 4, 0)],
        },
        // GHSA-qw9x-cqr3-wc7r
        Advisory {
            name: "CVE-2025-52565",
            what: "the console's bind mount can be redirected",
            fixes: &[Fix(1, 2, 8), Fix(1, 3, 3), Fix(1, 4, 0)],
        },
        // GHSA-cgrx-mc8f-2prm
        Advisory {
            name: "CVE-2025-52881",
            what: "writes to /proc can be redirected",
            fixes: &[Fix(1, 2, 8), Fix(1, 3, 3), Fix(1, 4, 0)],
        },
        // GHSA-xjvp-4fhw-gc47; the 1.2 line has no release with the fix
        Advisory {
            name: "CVE-2026-41579",
            what: "an image's `/dev` link gives limited writes on the host",
            fixes: &[Fix(1, 3, 6), Fix(1, 4, 3)],
        },
    ],
};
