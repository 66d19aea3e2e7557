//! `web`: names from the given resolvers, and web pages of the public internet.
//! Never a private range, the metadata address, or the node itself.

use super::{EgressProfile, NetworkSettings, hub::Hub};

pub struct Web;

impl EgressProfile for Web {
    fn name(&self) -> &'static str {
        "web"
    }

    fn description(&self) -> &'static str {
        "web pages of the public internet (ports 80 and 443)"
    }

    fn rules(&self, settings: &NetworkSettings) -> Vec<String> {
        let mut lines = Hub.rules(settings);
        if !settings.resolvers.is_empty() {
            // Before the private ranges: a site's own resolver often lies in one.
            let resolvers: Vec<_> = settings.resolvers.iter().map(ToString::to_string).collect();
            lines.push(format!(
                "ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 ct state new accept",
                resolvers.join(", ")
            ));
        }
        lines.push("ip daddr @never_public counter reject with icmp type admin-prohibited".into());
        lines
            .push("ip daddr @node_addresses counter reject with icmp type admin-prohibited".into());
        lines.push("tcp dport { 80, 443 } ct state new accept".into());
        lines
    }

    fn needs_uplink(&self) -> bool {
        true
    }
}
