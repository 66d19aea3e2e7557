//! What the operator's configuration says of the network, checked.
//!
//! Every text that reaches a rule or a path is checked here first; nothing else
//! may build them from unchecked text.

use std::{net::Ipv4Addr, path::PathBuf};

use super::{NetworkError, Subnet, rules};

/// The kernel's limit for an interface's name, without the closing NUL.
pub const LONGEST_LINK_NAME: usize = 15;

/// The network of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    pub instance: String,
    pub subnet: Subnet,
    /// Where the hub's API listens, on the gateway address.
    pub hub_port: u16,
    /// The one port of a sandbox that can be reached.
    pub server_port: u16,
    /// The host's link to the world; without it there is no way out of the node.
    pub uplink: Option<String>,
    pub resolvers: Vec<Ipv4Addr>,
    /// Host users, beside root, whose processes may connect to servers.
    pub server_uids: Vec<u32>,
    /// The instance's own directory of what a boot takes away.
    pub run: PathBuf,
}

impl NetworkSettings {
    /// Checks everything that is later put into rules and paths.
    pub fn check(&self) -> Result<(), NetworkError> {
        let refuse = |key, value: &dyn std::fmt::Display, reason| {
            Err(NetworkError::Setting { key, value: value.to_string(), reason })
        };
        let mut letters = self.instance.bytes();
        let well_formed = letters.next().is_some_and(|byte| byte.is_ascii_lowercase())
            && letters
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && self.instance.len() <= 32;
        if !well_formed {
            return refuse(
                "instance",
                &self.instance,
                "it takes 1 to 32 characters of [a-z0-9-], the first a letter",
            );
        }
        if let Some(uplink) = &self.uplink {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
            if uplink.is_empty() || uplink.len() > LONGEST_LINK_NAME || !uplink.bytes().all(allowed)
            {
                return refuse("network.uplink", uplink, "it is no name of a network interface");
            }
            if uplink == "lo" || *uplink == self.link() {
                return refuse("network.uplink", uplink, "it must lead out of the node");
            }
        }
        for (key, port) in
            [("network.hub_port", self.hub_port), ("network.server_port", self.server_port)]
        {
            if port == 0 {
                return refuse(key, &port, "a port is 1 to 65535");
            }
        }
        for resolver in &self.resolvers {
            if resolver.is_loopback()
                || resolver.is_multicast()
                || resolver.is_unspecified()
                || resolver.is_broadcast()
                || resolver.is_link_local()
                || self.subnet.contains(*resolver)
            {
                return refuse(
                    "network.resolvers",
                    resolver,
                    "a sandbox cannot reach a resolver there",
                );
            }
        }
        Ok(())
    }

    /// The host's link to the router, named after the instance.
    pub fn link(&self) -> String {
        self.instance.chars().take(LONGEST_LINK_NAME).collect()
    }

    /// Where the router's network namespace is pinned.
    pub fn router_namespace(&self) -> PathBuf {
        self.run.join("router.ns")
    }

    /// Where `ip netns` finds it.
    pub fn router_name(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.instance)
    }

    /// The profile of that name, if this node can give it.
    pub fn profile(&self, name: &str) -> Result<&'static dyn rules::EgressProfile, NetworkError> {
        let profile = rules::by_name(name)
            .ok_or_else(|| NetworkError::UnknownEgress { name: name.chars().take(64).collect() })?;
        if profile.needs_uplink() && self.uplink.is_none() {
            return Err(NetworkError::NoUplink { name: profile.name() });
        }
        Ok(profile)
    }

    /// The profiles this node can give.
    pub fn profiles(&self) -> impl Iterator<Item = &'static dyn rules::EgressProfile> {
        rules::all()
            .iter()
            .copied()
            .filter(|profile| self.uplink.is_some() || !profile.needs_uplink())
    }
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

    use super::*;

    pub fn example() -> NetworkSettings {
        NetworkSettings {
            instance: "adrastea".into(),
            subnet: "10.88.0.0/16".parse().unwrap(),
            hub_port: 8081,
            server_port: 8888,
            uplink: Some("eth0".into()),
            resolvers: vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(10, 1, 2, 3)],
            server_uids: vec![990],
            run: "/run/adrastea".into(),
        }
    }

    #[test]
    fn texts_that_could_become_rules_are_refused() {
        example().check().unwrap();
        for instance in ["", "A", "9a", "a b", "a;flush ruleset", "../x", "a/b", &"a".repeat(33)] {
            let settings = NetworkSettings { instance: instance.into(), ..example() };
            assert!(settings.check().is_err(), "{instance}");
        }
        for uplink in ["", "eth0\" accept", "lo", "adrastea", "a/b", "sixteen-letters-", "é"] {
            let settings = NetworkSettings { uplink: Some(uplink.into()), ..example() };
            assert!(settings.check().is_err(), "{uplink}");
        }
        for resolver in ["127.0.0.53", "10.88.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.251"] {
            let settings =
                NetworkSettings { resolvers: vec![resolver.parse().unwrap()], ..example() };
            assert!(settings.check().is_err(), "{resolver}");
        }
        assert!(NetworkSettings { hub_port: 0, ..example() }.check().is_err());
    }

    #[test]
    fn a_profile_needs_its_uplink() {
        assert!(example().profile("web").is_ok());
        let closed = NetworkSettings { uplink: None, ..example() };
        assert!(matches!(closed.profile("web"), Err(NetworkError::NoUplink { name: "web" })));
        assert!(closed.profile("hub").is_ok());
        assert!(matches!(closed.profile("x"), Err(NetworkError::UnknownEgress { .. })));
    }
}
