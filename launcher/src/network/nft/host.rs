//! The host's table: the second wall towards the node, and the only place that
//! can tell which local user connects to a server.
//!
//! It speaks only of our own link and address, so a host's other rules keep
//! their meaning; an `accept` here does not overrule another table's `drop`.

use std::fmt::Write;

use super::super::NetworkSettings;

/// What the host was like before; the table remembers it for the undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Whether the host as a whole forwards packets: it is a router already.
    pub forwards: bool,
    /// Whether the uplink forwarded packets before we switched it on.
    pub uplink_forwarded: bool,
}

const REMEMBERED: &str = "uplink forwarding before: ";

/// The table's comment.
fn comment(facts: HostFacts) -> String {
    format!("{REMEMBERED}{}", u8::from(facts.uplink_forwarded))
}

/// What a table's comment remembers of the uplink, if it is one of ours.
pub fn remembered_forwarding(comment: &str) -> Option<bool> {
    match comment.strip_prefix(REMEMBERED)? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// The whole table; its name is the instance's.
pub fn render(settings: &NetworkSettings, facts: HostFacts) -> String {
    let (subnet, link) = (settings.subnet, settings.link());
    let (gateway, hub_port, server_port) =
        (subnet.gateway(), settings.hub_port, settings.server_port);
    let mut uids = vec![0];
    uids.extend(&settings.server_uids);
    uids.sort_unstable();
    uids.dedup();
    let uids: Vec<String> = uids.iter().map(u32::to_string).collect();
    let uids = uids.join(", ");

    let mut text =
        format!("table inet {} {{\n\tcomment \"{}\"\n", settings.instance, comment(facts));
    let _ = write!(
        text,
        "\
\tchain from_sandboxes {{
\t\tmeta nfproto != ipv4 counter drop
\t\tct state established,related accept
\t\tip saddr {subnet} ip saddr != {gateway} ip daddr {gateway} tcp dport {hub_port} ct state new accept
\t\tcounter drop
\t}}
\tchain to_sandboxes {{
\t\tmeta nfproto != ipv4 counter drop
\t\tct state established,related accept
\t\tip saddr {gateway} ip daddr {subnet} tcp dport {server_port} meta skuid {{ {uids} }} ct state new accept
\t\tcounter reject with icmp type admin-prohibited
\t}}
\tchain to_node {{
\t\ttype filter hook input priority filter; policy accept;
\t\tiifname \"{link}\" jump from_sandboxes
\t\t# The gateway address is for sandboxes and the node, not for its neighbours.
\t\tiifname != {{ \"{link}\", \"lo\" }} ip daddr {gateway} counter drop
\t}}
\tchain from_node {{
\t\ttype filter hook output priority filter; policy accept;
\t\toifname \"{link}\" jump to_sandboxes
\t}}
\tchain leaving {{
"
    );
    if let Some(uplink) = &settings.uplink {
        let _ = write!(
            text,
            "\
\t\tmeta nfproto != ipv4 counter drop
\t\tip daddr {{ 127.0.0.0/8, 169.254.0.0/16 }} counter drop
\t\toifname \"{uplink}\" ip saddr {subnet} ip saddr != {gateway} accept
"
        );
    }
    text += "\t\tcounter drop\n\t}\n\tchain arriving {\n";
    if let Some(uplink) = &settings.uplink {
        let _ = writeln!(text, "\t\tiifname \"{uplink}\" ct state established,related accept");
    }
    let _ = write!(
        text,
        "\
\t\tcounter drop
\t}}
\tchain through_node {{
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"{link}\" jump leaving
\t\toifname \"{link}\" jump arriving
"
    );
    if let (Some(uplink), false) = (&settings.uplink, facts.forwards) {
        let _ = write!(
            text,
            "\
\t\t# The uplink forwards for our replies only: this host is no router for its neighbours.
\t\tiifname \"{uplink}\" ct status dnat accept
\t\tiifname \"{uplink}\" ct state new counter drop
"
        );
    }
    text += "\t}\n";
    if let Some(uplink) = &settings.uplink {
        let _ = write!(
            text,
            "\
\tchain masked {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\toifname \"{uplink}\" ip saddr {subnet} masquerade
\t}}
"
        );
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::settings::tests::example;

    #[test]
    fn with_a_way_out() {
        let facts = HostFacts { forwards: false, uplink_forwarded: false };
        insta::assert_snapshot!(render(&example(), facts));
    }

    #[test]
    fn on_a_host_that_routes_already() {
        let facts = HostFacts { forwards: true, uplink_forwarded: true };
        insta::assert_snapshot!(render(&example(), facts));
    }

    #[test]
    fn without_a_way_out() {
        let settings = NetworkSettings { uplink: None, ..example() };
        let facts = HostFacts { forwards: false, uplink_forwarded: false };
        insta::assert_snapshot!(render(&settings, facts));
    }

    #[test]
    fn the_comment_is_read_back() {
        for uplink_forwarded in [false, true] {
            let facts = HostFacts { forwards: false, uplink_forwarded };
            assert_eq!(remembered_forwarding(&comment(facts)), Some(uplink_forwarded));
        }
        assert_eq!(remembered_forwarding("somebody else's"), None);
    }
}
