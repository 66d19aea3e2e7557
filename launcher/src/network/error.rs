//! What can go wrong with the network.

use std::path::PathBuf;

use crate::host::HostError;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("failed to {verb} `{thing}`")]
    Kernel {
        verb: &'static str,
        thing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{value}` is no value for `{key}`: {reason}")]
    Setting { key: &'static str, value: String, reason: &'static str },
    #[error("there is no egress profile `{name}`")]
    UnknownEgress { name: String },
    #[error("egress profile `{name}` leads out of the node, and no uplink is configured")]
    NoUplink { name: &'static str },
    #[error("link `{name}` is missing")]
    MissingLink { name: String },
    /// Somebody else's link has the name of ours.
    #[error("link `{name}` is not of this instance")]
    ForeignLink { name: String },
    #[error("`{path}` is the network namespace of the host or the router")]
    SharedNamespace { path: PathBuf },
    #[error("`{address}` is no sandbox's address")]
    ForeignAddress { address: std::net::Ipv4Addr },
    #[error("the network is in use by {count} sandboxes")]
    InUse { count: usize },
    /// Something promised does not stand; nothing may run behind it.
    #[error("network wall `{wall}` does not stand: {detail}")]
    Wall { wall: &'static str, detail: String },
}

impl NetworkError {
    pub(super) fn wall(wall: &'static str, detail: String) -> Self {
        Self::Wall { wall, detail }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoUplink { .. } => {
                Some("set `network.uplink`, or give the profile another egress")
            }
            Self::UnknownEgress { .. } => {
                Some("the egress profiles of this version are `hub` and `web`")
            }
            Self::ForeignLink { .. } => Some("choose another instance name, or remove the link"),
            Self::Wall { .. } => Some(
                "changed tables are put back within seconds: try again; a sandbox that lost its link must be started anew",
            ),
            _ => None,
        }
    }
}
