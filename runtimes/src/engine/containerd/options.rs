//! The messages inside `Any` fields: runtime options and the OCI spec.
//!
//! Must never carry anything but what [`Handler`] and the spec say: containerd
//! stores both in its database.

use std::path::Path;

use containerd_client::services::v1::container::Runtime;
use oci_spec::runtime::Spec;
use prost::Message;
use prost_types::Any;

use crate::engine::{Annotation, Handler, HandlerOptions};

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
    #[prost(string, tag = "1")]
    type_url: String,
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
        HandlerOptions::Configured { configuration, kind } => {
            let type_url = kind.unwrap_or_default().to_owned();
            let options = ConfiguredOptions { type_url, config_path: text(configuration) };
            (CONFIGURED_OPTIONS, options.encode_to_vec())
        }
    };
    Runtime {
        name: handler.runtime.clone(),
        options: Some(Any { type_url: type_url.to_owned(), value }),
    }
}

/// The spec as containerd hands it to the shim.
pub(super) fn spec(spec: &Spec, annotation: Option<Annotation>) -> Result<Any, serde_json::Error> {
    let value = match annotation {
        None => serde_json::to_vec(spec)?,
        Some((name, value)) => {
            let mut marked = spec.clone();
            let mut all = marked.annotations().clone().unwrap_or_default();
            all.insert(name.to_owned(), value.to_owned());
            marked.set_annotations(Some(all));
            serde_json::to_vec(&marked)?
        }
    };
    Ok(Any { type_url: SPEC.to_owned(), value })
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
            annotation: None,
        };
        let options = runtime(&handler).options.unwrap();
        assert_eq!(options.type_url, "containerd.runc.v1.Options");
        assert_eq!(options.value, [0x32, 2, b'/', b'a', 0x3a, 2, b'/', b'b']);
    }

    #[test]
    fn configured_options_have_the_field_numbers_of_containerd() {
        let mut handler = Handler {
            runtime: "/opt/kata/bin/containerd-shim-kata-v2".to_owned(),
            options: HandlerOptions::Configured { configuration: "/c".into(), kind: None },
            annotation: None,
        };
        let told = runtime(&handler);
        assert_eq!(told.name, "/opt/kata/bin/containerd-shim-kata-v2");
        let options = told.options.unwrap();
        assert_eq!(options.type_url, "runtimeoptions.v1.Options");
        assert_eq!(options.value, [0x12, 2, b'/', b'c']);
        handler.options =
            HandlerOptions::Configured { configuration: "/c".into(), kind: Some("k") };
        let options = runtime(&handler).options.unwrap();
        assert_eq!(options.value, [0x0a, 1, b'k', 0x12, 2, b'/', b'c']);
    }

    #[test]
    fn a_shims_annotation_is_added_to_what_the_engine_is_given_alone() {
        let mut plain = Spec::default();
        plain.set_annotations(None);
        let value = |annotation| -> serde_json::Value {
            serde_json::from_slice(&spec(&plain, annotation).unwrap().value).unwrap()
        };
        assert_eq!(value(None).get("annotations"), None);
        let marked = value(Some(("a.b/c", "d")));
        assert_eq!(marked["annotations"], serde_json::json!({"a.b/c": "d"}));
        assert!(plain.annotations().is_none());
    }
}
