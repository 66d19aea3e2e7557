//! `hub`: the hub's API and nothing else. Every other profile begins with it,
//! for without the hub a server cannot report that it is alive.

use super::{EgressProfile, NetworkSettings};

pub struct Hub;

impl EgressProfile for Hub {
    fn name(&self) -> &'static str {
        "hub"
    }

    fn description(&self) -> &'static str {
        "no network but the hub"
    }

    fn rules(&self, settings: &NetworkSettings) -> Vec<String> {
        vec![format!(
            "ip daddr {} tcp dport {} ct state new accept",
            settings.subnet.gateway(),
            settings.hub_port
        )]
    }

    fn needs_uplink(&self) -> bool {
        false
    }
}
