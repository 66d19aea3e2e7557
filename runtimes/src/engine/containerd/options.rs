//! The messages inside `Any` fields: runtime options and the OCI spec.
//!
//! Must never carry anything but what [`Handler`] and the spec say: containerd
//! stores both in its database.

use std::path::Path;

use containerd_client::services::v1::container::Runtime;
use oci_spec::runtime::Spec;
use prost::Message;
use prost_types::Any;

use crate::engine::{Handler, HandlerOptions};

/// Plain, without `type.googleapis.com/`: containerd 1.x refuses the long form.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
const CONFIGURED_OPTIONS: &str = "runtimeoptions.v1.Options";
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// `containerd.runc.v1.Options`, of which `containerd-client` has no code; only
/// the fields we set (<https://github.com/containerd/containerd/blob/main/api/types/runc/options/oci.proto>).
#[derive(Clone, PartialEq, Eq, Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
    #[prost(string, tag = "7")]
    root: String,
}

/// `runtimeoptions.v1.Options`, the same
/// (<https://github.com/containerd/containerd/blob/main/api/types/runtimeoptions/v1/api.proto>).
#[derive(Clone, PartialEq, Eq, Message)]
struct ConfiguredOptions {
    #[prost(string, tag = "2")]
    config_path: String,
}

/// How containerd is told to run a container.
pub(super) fn runtime(handler: &Handler) -> Runtime {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (type_url, value) = match &handler.options {
        HandlerOptions::Runc { binary, root } => {
            let options = RuncOptions { binary_name: text(binary), root: text(root) };
            (RUNC_OPTIONS, options.encode_to_vec())
        }
        HandlerOptions::Configured { configuration } => {
            let options = ConfiguredOptions { config_path: text(configuration) };
            (CONFIGURED_OPTIONS, options.encode_to_vec())
        }
    };
    Runtime {
        name: handler.runtime.clone(),
        options: Some(Any { type_url: type_url.to_owned(), value }),
    }
}

/// The spec as containerd hands it to the shim.
pub(super) fn spec(spec: &Spec) -> Result<Any, serde_json::Error> {
    Ok(Any { type_url: SPEC.to_owned(), value: serde_json::to_vec(spec)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn runc_options_have_the_field_numbers_of_containerd() {
        let handler = Handler {
            runtime: "io.containerd.runc.v2".to_owned(),
            options: HandlerOptions::Runc { binary: "/a".into(), root: "/b".into() },
        };
        let options = runtime(&handler).options.unwrap();
        assert_eq!(options.type_url, "containerd.runc.v1.Options");
        assert_eq!(options.value, [0x32, 2, b'/', b'a', 0x3a, 2, b'/', b'b']);
    }

    #[test]
    fn configured_options_have_the_field_number_of_containerd() {
        let handler = Handler {
            runtime: "/opt/kata/bin/containerd-shim-kata-v2".to_owned(),
            options: HandlerOptions::Configured { configuration: "/c".into() },
        };
        let told = runtime(&handler);
        assert_eq!(told.name, "/opt/kata/bin/containerd-shim-kata-v2");
        let options = told.options.unwrap();
        assert_eq!(options.type_url, "runtimeoptions.v1.Options");
        assert_eq!(options.value, [0x12, 2, b'/', b'c']);
    }
}
