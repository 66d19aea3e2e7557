//! Every server this launcher knows of, in the order of their keys: one user's are beside each
//! other, so that a start looks at these alone, however many others there are.
//!
//! Must never forget a server that lives.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::Entry;
use crate::names::{Owner, ServerKey};

/// The answer to "what happened?" is kept for the last thousand servers.
const KEPT: usize = 1000;
/// How many starts may pass before it is looked whether there are more than that.
const PACE: usize = 64;

#[derive(Default)]
pub struct Registry {
    entries: BTreeMap<ServerKey, Arc<Entry>>,
    starts: usize,
}

impl Deref for Registry {
    type Target = BTreeMap<ServerKey, Arc<Entry>>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl DerefMut for Registry {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.entries
    }
}

impl Registry {
    /// One user's servers, live or not.
    pub fn of_owner(&self, owner: &Owner) -> impl Iterator<Item = (&ServerKey, &Arc<Entry>)> {
        let Owner { hub, user } = owner.clone();
        let first = ServerKey { hub, user, server: String::new() };
        self.entries.range(first..).take_while(|(key, _)| key.has_owner(owner))
    }

    /// How many live besides this one, if that is `most` or more.
    pub fn too_many_besides(&self, one: &ServerKey, most: u32) -> Option<u32> {
        // There are no more live ones than there are: nearly always nobody has to be asked.
        if self.entries.len() < most as usize {
            return None;
        }
        let live = self.entries.iter().filter(|(key, entry)| *key != one && !entry.is_gone());
        u32::try_from(live.count()).ok().filter(|live| *live >= most)
    }

    /// Before one more is entered: of those that are gone, what is beyond [`KEPT`] is forgotten,
    /// the oldest first.
    pub fn forget_oldest_gone(&mut self) {
        self.starts += 1;
        if self.entries.len() <= KEPT || !self.starts.is_multiple_of(PACE) {
            return;
        }
        let mut gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_gone())
            .map(|(key, entry)| (entry.number, key.clone()))
            .collect();
        gone.sort();
        for (_, key) in gone.drain(..gone.len().saturating_sub(KEPT)) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use adrastea_proto::v1::Phase;

    use super::*;
    use crate::{
        launch::{
            Feed,
            sandbox::{Layout, Sandbox},
        },
        store::{SandboxRecord, SandboxState, test_facts},
    };

    fn enter(registry: &mut Registry, hub: &str, user: &str, server: &str, phase: Phase) {
        let key = ServerKey::new(hub, user, server).unwrap();
        let record = SandboxRecord {
            id: "saaaaaaaaaaa".parse().unwrap(),
            key: key.clone(),
            generation: 1,
            request_id: "r".into(),
            request_hash: Vec::new(),
            state: SandboxState::Starting,
            facts: test_facts(),
            run_range_first: 1,
            address_index: 1,
            exit: None,
        };
        let layout = Layout { instance: "i".into(), state: "/state".into(), run: "/run".into() };
        let sandbox = Sandbox::new(record, Ipv4Addr::LOCALHOST, &layout);
        let entry = Entry::new(sandbox, 8888, phase, Arc::new(Feed::keeping(1)));
        registry.insert(key, Arc::new(entry));
    }

    #[test]
    fn a_users_servers_are_found_and_no_neighbours() {
        let mut registry = Registry::default();
        for (hub, user, server) in [
            ("a", "ana", ""),
            ("a", "ana", "second"),
            ("a", "ana", "\u{e9}"),
            ("a", "an", "a"),
            ("a", "ana2", ""),
            ("b", "ana", ""),
            ("A", "ana", "z"),
        ] {
            enter(&mut registry, hub, user, server, Phase::Ready);
        }
        let owner = ServerKey::new("a", "ana", "any").unwrap().owner();
        let found: Vec<_> = registry.of_owner(&owner).map(|(key, _)| key.server.as_str()).collect();
        assert_eq!(found, ["", "second", "\u{e9}"]);
        let nobody = ServerKey::new("a", "zoe", "").unwrap().owner();
        assert_eq!(registry.of_owner(&nobody).count(), 0);
    }

    #[test]
    fn only_what_lives_fills_the_node() {
        let mut registry = Registry::default();
        for (number, phase) in [Phase::Ready, Phase::Gone, Phase::Stopping].into_iter().enumerate()
        {
            enter(&mut registry, "a", &format!("user-{number}"), "", phase);
        }
        let key = |user: &str| ServerKey::new("a", user, "").unwrap();
        assert_eq!(registry.too_many_besides(&key("new"), 4), None);
        assert_eq!(registry.too_many_besides(&key("new"), 3), None);
        assert_eq!(registry.too_many_besides(&key("new"), 2), Some(2));
        // A newer start of a server takes its place.
        assert_eq!(registry.too_many_besides(&key("user-0"), 2), None);
        assert_eq!(registry.too_many_besides(&key("user-0"), 1), Some(1));
    }

    #[test]
    fn of_those_that_are_gone_the_oldest_are_forgotten() {
        let mut registry = Registry::default();
        for number in 0..KEPT + 200 {
            let phase = if number < 100 { Phase::Ready } else { Phase::Gone };
            enter(&mut registry, "a", &format!("user-{number}"), "", phase);
            registry.forget_oldest_gone();
        }
        for _ in 0..PACE {
            registry.forget_oldest_gone();
        }
        let is_there = |number: usize| {
            registry.contains_key(&ServerKey::new("a", &format!("user-{number}"), "").unwrap())
        };
        assert_eq!(registry.len(), 100 + KEPT);
        assert!((0..100).all(is_there), "one that lives was forgotten");
        assert!(!(100..200).any(is_there) && (200..KEPT + 200).all(is_there));
    }
}
