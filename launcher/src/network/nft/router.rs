//! The router's table: every rule about sandboxes. It lies in the router's own
//! network namespace, so that a reload of the host's firewall cannot open it.
//!
//! Order of a packet: nobody speaks with an address that is not theirs → the way
//! from the host, or the sandbox's own chain → refused. What no rule knows is
//! dropped by the policy of every chain.

use std::{fmt::Write, net::Ipv4Addr};

use super::{
    super::{Gate, Live, MacAddress, NetworkSettings},
    elements,
};

/// The table's name inside the router.
pub const TABLE: &str = "adrastea";
/// The router's link to the host.
pub const UPLINK: &str = "uplink";
/// The chain of a sandbox that is not claimed yet.
pub const CLOSED_CHAIN: &str = "closed";

/// Ranges that are not the internet (IANA's special-purpose registry), and 6to4's relay.
const NEVER_PUBLIC: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The chain of a profile.
pub fn profile_chain(profile: &str) -> String {
    format!("egress_{profile}")
}

/// The chain that a sandbox's packets take.
pub fn chain_of(gate: Gate, profile: &str) -> String {
    match gate {
        Gate::Closed => CLOSED_CHAIN.into(),
        Gate::Open => profile_chain(profile),
    }
}

/// The whole table, with the elements of the sandboxes that live.
pub fn render(settings: &NetworkSettings, node_addresses: &[Ipv4Addr], live: &[Live]) -> String {
    let subnet = settings.subnet;
    let (gateway, server_port) = (subnet.gateway(), settings.server_port);
    let mut live: Vec<&Live> = live.iter().collect();
    live.sort_by(|left, right| left.attachment.id.cmp(&right.attachment.id));
    let links = |entry: &Live| elements::link_name(&entry.attachment.id);

    let members = live.iter().map(|entry| {
        let address = entry.attachment.address;
        let mac = MacAddress::of(address);
        format!("\"{}\" . {address} . {mac}", links(entry))
    });
    let opened = live
        .iter()
        .filter(|entry| entry.gate == Gate::Open)
        .map(|entry| format!("\"{}\"", links(entry)));
    let egress = live.iter().map(|entry| {
        let chain = chain_of(entry.gate, &entry.attachment.egress);
        format!("\"{}\" : jump {chain}", links(entry))
    });
    let mut never_public: Vec<String> = NEVER_PUBLIC.map(String::from).to_vec();
    never_public.push(subnet.to_string());

    let mut text = format!("table inet {TABLE} {{\n");
    text += "\t# Who may speak: the link, with its address, from its card.\n";
    text += &set("set", elements::MEMBERS, "ifname . ipv4_addr . ether_addr", "", members);
    text += "\t# Claimed sandboxes: only they can be reached.\n";
    text += &set("set", elements::OPENED, "ifname", "", opened);
    text += "\t# What each may reach.\n";
    text += &set("map", elements::EGRESS, "ifname : verdict", "", egress);
    text += &set(
        "set",
        "never_public",
        "ipv4_addr",
        "\t\tflags interval\n\t\tauto-merge\n",
        never_public.into_iter(),
    );
    text += &set(
        "set",
        "node_addresses",
        "ipv4_addr",
        "",
        node_addresses.iter().map(ToString::to_string),
    );
    let _ = write!(
        text,
        "\
\tchain {CLOSED_CHAIN} {{
\t\tcounter drop
\t}}
"
    );
    for profile in settings.profiles() {
        let _ = writeln!(text, "\tchain {} {{", profile_chain(profile.name()));
        let _ = writeln!(text, "\t\tct state established,related accept");
        for line in profile.rules(settings) {
            let _ = writeln!(text, "\t\t{line}");
        }
        let _ = writeln!(text, "\t\tcounter reject with icmp type admin-prohibited\n\t}}");
    }
    let _ = write!(
        text,
        "\
\tchain to_sandbox {{
\t\tct state established,related accept
\t\tip saddr {gateway} tcp dport {server_port} ct state new accept
\t\tcounter drop
\t}}
\tchain anti_spoof {{
\t\ttype filter hook prerouting priority raw; policy drop;
\t\tmeta nfproto != ipv4 counter drop
\t\tiifname \"{UPLINK}\" ip saddr {subnet} ip saddr != {gateway} counter drop
\t\tiifname \"{UPLINK}\" accept
\t\tiifname . ip saddr . ether saddr @{MEMBERS} accept
\t\tcounter drop
\t}}
\tchain through {{
\t\ttype filter hook forward priority filter; policy drop;
\t\tct state invalid counter drop
\t\t# A connection begins with its beginning: what is left of a former sandbox's does not count.
\t\tct state new tcp flags & (fin | syn | rst | ack) != syn counter drop
\t\tiifname \"{UPLINK}\" oifname @{OPENED} jump to_sandbox
\t\toifname \"{UPLINK}\" iifname vmap @{EGRESS}
\t\tcounter drop
\t}}
\tchain to_router {{
\t\ttype filter hook input priority filter; policy drop;
\t\tcounter drop
\t}}
\tchain from_router {{
\t\ttype filter hook output priority filter; policy drop;
\t\t# The refusals above, and what the kernel says of a packet it could not deliver.
\t\tip protocol icmp icmp type {{ destination-unreachable, time-exceeded }} accept
\t\tcounter drop
\t}}
}}
",
        MEMBERS = elements::MEMBERS,
        OPENED = elements::OPENED,
        EGRESS = elements::EGRESS,
    );
    text
}

fn set(
    kind: &str,
    name: &str,
    of: &str,
    flags: &str,
    elements: impl Iterator<Item = String>,
) -> String {
    let elements: Vec<String> = elements.collect();
    let mut text = format!("\t{kind} {name} {{\n\t\ttype {of}\n{flags}");
    if !elements.is_empty() {
        let _ = writeln!(text, "\t\telements = {{\n\t\t\t{}\n\t\t}}", elements.join(",\n\t\t\t"));
    }
    text + "\t}\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::network::{Attachment, settings::tests::example};

    fn live() -> Vec<Live> {
        let entry = |id: &str, last, egress: &str, gate| Live {
            attachment: Attachment {
                id: id.parse().unwrap(),
                address: Ipv4Addr::new(10, 88, 1, last),
                network_namespace: "/run/adrastea/sandboxes/x/network.ns".into(),
                egress: egress.into(),
                own_stack: false,
                own_links: &[],
            },
            gate,
        };
        vec![
            entry("zebra0000000", 2, "web", Gate::Open),
            entry("alpha0000000", 1, "hub", Gate::Closed),
            entry("mouse0000000", 3, "hub", Gate::Open),
        ]
    }

    #[test]
    fn with_a_way_out() {
        let node = [Ipv4Addr::new(192, 0, 2, 10)];
        insta::assert_snapshot!(render(&example(), &node, &live()));
    }

    #[test]
    fn without_a_way_out() {
        let settings = NetworkSettings { uplink: None, resolvers: vec![], ..example() };
        insta::assert_snapshot!(render(&settings, &[], &[]));
    }
}
