//! Egress profiles: what a claimed sandbox may reach. One file each.
//!
//! A profile only *allows*, in lines of the sandbox's chain in the router's
//! table; the frame around the lines (replies, the refusal at the end, no
//! spoofing, no other sandbox, IPv6 dropped) is not its to change, and a packet
//! its lines do not accept is refused. Adding a profile is one file and one line
//! in [`all`].

mod hub;
mod web;

use super::NetworkSettings;

/// What a sandbox may reach, by name.
pub trait EgressProfile: Send + Sync {
    /// The name in configuration; `[a-z0-9_]`, as it becomes part of a chain's name.
    fn name(&self) -> &'static str;

    /// In plain words, for people who choose.
    fn description(&self) -> &'static str;

    /// Lines of an nftables chain that sees new packets of the sandbox on their way out.
    ///
    /// The sets `@never_public` (ranges that are not the internet) and
    /// `@node_addresses` (the node's own) may be used.
    fn rules(&self, settings: &NetworkSettings) -> Vec<String>;

    /// Whether it leads out of the node.
    fn needs_uplink(&self) -> bool;
}

/// Every egress profile there is. The test matrix grows from this list.
pub fn all() -> &'static [&'static dyn EgressProfile] {
    &[&hub::Hub, &web::Web]
}

/// The profile of that name.
pub fn by_name(name: &str) -> Option<&'static dyn EgressProfile> {
    all().iter().copied().find(|profile| profile.name() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_fit_a_chain() {
        let names: BTreeSet<_> = all().iter().map(|profile| profile.name()).collect();
        assert_eq!(names.len(), all().len());
        for name in names {
            assert!(name.len() <= 24, "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }
}
