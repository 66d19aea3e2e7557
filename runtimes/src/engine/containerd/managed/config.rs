//! The managed containerd's configuration: as little of it as runs sandboxes.
//!
//! Pure code. Must never switch on a plugin that listens on a network, or that
//! writes outside the directories we name.

use std::path::Path;

use super::ManagedSettings;
use crate::engine::{EngineError, containerd::call::failed};

/// Without these containerd would run, and answer "unknown service" later:
/// with them in this list it refuses to start.
const REQUIRED: [&str; 9] = [
    "io.containerd.grpc.v1.containers",
    "io.containerd.grpc.v1.content",
    "io.containerd.grpc.v1.diff",
    "io.containerd.grpc.v1.images",
    "io.containerd.grpc.v1.leases",
    "io.containerd.grpc.v1.snapshots",
    "io.containerd.grpc.v1.tasks",
    "io.containerd.grpc.v1.version",
    "io.containerd.snapshotter.v1.overlayfs",
];

/// Left out: the Kubernetes parts, other snapshotters, what starts helpers of
/// others (NRI, image verifiers, restart), and `opt`, which makes directories
/// below /opt. Names of both generations; containerd ignores those it lacks.
const DISABLED: [&str; 23] = [
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.differ.v1.erofs",
    "io.containerd.grpc.v1.cri",
    "io.containerd.grpc.v1.transfer",
    "io.containerd.image-verifier.v1.bindir",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.nri.v1.nri",
    "io.containerd.sandbox.controller.v1.shim",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.native",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.transfer.v1.local",
];

/// The configuration's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// containerd 1.7.
    Two,
    /// containerd 2.
    Three,
}

impl Format {
    /// From `containerd <package> <version> <commit>`.
    pub(super) fn of_version(text: &str) -> Option<Self> {
        let version = text.split_whitespace().nth(2)?.trim_start_matches('v');
        let mut numbers = version.split(['.', '~', '+', '-']);
        let major: u32 = numbers.next()?.parse().ok()?;
        let minor: u32 = numbers.next()?.parse().ok()?;
        match (major, minor) {
            (1, 7..) => Some(Self::Two),
            (2.., _) => Some(Self::Three),
            _ => None,
        }
    }
}

pub(super) fn render(format: Format, settings: &ManagedSettings) -> Result<String, EngineError> {
    let version = match format {
        Format::Two => 2,
        Format::Three => 3,
    };
    let list = |plugins: &[&str]| {
        let lines: Vec<String> = plugins
            .iter()
            .map(|plugin| {
                format!(
                    "  \"{plugin}\",
"
                )
            })
            .collect();
        lines.concat()
    };
    let socket = settings.socket();
    Ok(format!(
        "# Written at every start of containerd; changes here are lost.\n\
         version = {version}\n\
         root = {root}\n\
         state = {state}\n\
         oom_score = 0\n\
         required_plugins = [\n{required}]\n\
         disabled_plugins = [\n{disabled}]\n\
         \n\
         [grpc]\n\
         address = {address}\n\
         uid = 0\n\
         gid = 0\n\
         \n\
         [ttrpc]\n\
         address = {ttrpc}\n\
         uid = 0\n\
         gid = 0\n\
         \n\
         [debug]\n\
         address = \"\"\n\
         level = \"info\"\n\
         \n\
         [metrics]\n\
         address = \"\"\n",
        root = quote(&settings.root)?,
        state = quote(&settings.state())?,
        address = quote(&socket)?,
        ttrpc = quote(&socket.with_extension("sock.ttrpc"))?,
        required = list(&REQUIRED),
        disabled = list(&DISABLED),
    ))
}

/// A TOML literal string: nothing in it is special but its end. Colons are
/// refused as well: they part the directories of an overlay.
fn quote(path: &Path) -> Result<String, EngineError> {
    match path.to_str() {
        Some(text)
            if path.is_absolute()
                && !text.contains([':', ',', '\''])
                && !text.contains(char::is_control) =>
        {
            Ok(format!("'{text}'"))
        }
        _ => Err(failed(
            "use",
            path.display().to_string(),
            "containerd's directories take plain absolute paths without colon, comma or quote",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_format_follows_the_version() {
        let of = |version: &str| Format::of_version(&format!("containerd example {version} abc"));
        assert_eq!(of("2.1.9+unknown"), Some(Format::Three));
        assert_eq!(of("v2.0.0-rc.1"), Some(Format::Three));
        assert_eq!(of("1.7.24~ds1"), Some(Format::Two));
        assert_eq!(of("1.6.20~ds1"), None);
        assert_eq!(Format::of_version(""), None);
    }

    #[test]
    fn paths_cannot_add_settings() {
        let settings = |root: &str| ManagedSettings {
            binary: "/b".into(),
            root: root.into(),
            run: "/run/x".into(),
        };
        let text = render(Format::Three, &settings("/r")).unwrap();
        assert!(text.contains("root = '/r'\nstate = '/run/x/state'\n"), "{text}");
        assert!(text.contains("address = '/run/x/containerd.sock'\n"), "{text}");
        for root in ["relative", "/a:b", "/a'\nversion = 1", "/a\n"] {
            assert!(render(Format::Three, &settings(root)).is_err(), "{root:?}");
        }
    }
}
