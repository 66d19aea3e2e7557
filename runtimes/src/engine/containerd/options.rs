//! The messages inside `Any` fields: runtime options and the OCI spec.
//!
//! Must never carry anything but what [`Handler`] and the spec say: containerd
//! stores both in its database.

use containerd_client::services::v1::container::Runtime;
use oci_spec::runtime::Spec;
use prost::Message;
use prost_types::Any;

use crate::engine::{Handler, HandlerOptions};

/// Plain, without `type.googleapis.com/`: containerd 1.x refuses the long form.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
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

/// How containerd is told to run a container.
pub(super) fn runtime(handler: &Handler) -> Runtime {
    let HandlerOptions::Runc { binary, root } = &handler.options;
    let options = RuncOptions {
        binary_name: binary.to_string_lossy().into_owned(),
        root: root.to_string_lossy().into_owned(),
    };
    Runtime {
        name: handler.runtime.clone(),
        options: Some(Any { type_url: RUNC_OPTIONS.to_owned(), value: options.encode_to_vec() }),
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
}
