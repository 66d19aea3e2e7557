//! Where what is counted can be had: the table `[metrics]`.

use std::net::SocketAddr;

use serde::Deserialize;

use crate::network::Subnet;

#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port that answer `GET /metrics` over HTTP, without encryption, to
    /// whoever can connect. Default: none.
    pub listen: Option<SocketAddr>,
}

impl MetricsConfig {
    /// What is wrong with it: where sandboxes could come near, nothing listens.
    pub fn problem(&self, sandboxes: Option<Subnet>) -> Option<String> {
        let address = self.listen?;
        let SocketAddr::V4(v4) = address else { return None };
        sandboxes.filter(|subnet| subnet.contains(*v4.ip())).map(|_| {
            format!(
                "metrics.listen `{address}` is an address of network.subnet, where sandboxes are"
            )
        })
    }
}
