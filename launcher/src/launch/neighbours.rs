//! The namespaces of the sandboxes that live, so that a new one can be seen to
//! share none of them with anybody.
//!
//! What was read once is kept while the sandbox's control group is there. Whoever
//! proves later sees the other, so of two that start at once one always looks.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use adrastea_runtimes::plan::SandboxId;

use super::proof::NAMESPACES;
use crate::host::{HostError, cgroups::Hierarchy, processes};

/// The inode of each kind of namespace of one process.
pub type Namespaces = BTreeMap<&'static str, u64>;

pub fn namespaces(pid: u32) -> Result<Namespaces, HostError> {
    NAMESPACES.into_iter().map(|kind| Ok((kind, processes::namespace(pid, kind)?))).collect()
}

#[derive(Default)]
pub struct Neighbours(Mutex<BTreeMap<String, Namespaces>>);

impl Neighbours {
    /// Kinds of namespaces that this sandbox has in common with others, and with whom.
    pub fn sharing(
        &self,
        id: &SandboxId,
        own: &Namespaces,
        cgroups: &Hierarchy,
        cgroup: &str,
    ) -> Vec<(&'static str, String)> {
        let parent = cgroup.rsplit_once('/').map_or("", |(parent, _)| parent);
        let now = |name: &str| {
            let pid = cgroups.processes(&format!("{parent}/{name}")).into_iter().next()?;
            namespaces(pid).ok()
        };
        let present = cgroups.children(parent);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| present.contains(name));
        let mut shared = Vec::new();
        for name in present.into_iter().filter(|name| name != id.as_str()) {
            if !known.contains_key(&name)
                && let Some(found) = now(&name)
            {
                known.insert(name.clone(), found);
            }
            let Some(theirs) = known.get(&name) else { continue };
            if common(own, theirs).is_empty() {
                continue;
            }
            // The kernel gives numbers again: what has ended meanwhile is nobody's neighbour,
            // and one that was still being built has its own by now, or is caught by its own proof.
            match now(&name) {
                Some(found) => {
                    shared.extend(common(own, &found).into_iter().map(|kind| (kind, name.clone())));
                    known.insert(name, found);
                }
                None => drop(known.remove(&name)),
            }
        }
        known.insert(id.to_string(), own.clone());
        shared
    }
}

fn common(one: &Namespaces, other: &Namespaces) -> Vec<&'static str> {
    one.iter()
        .filter(|(kind, inode)| other.get(*kind) == Some(inode))
        .map(|(kind, _)| *kind)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_is_named() {
        let one: Namespaces = NAMESPACES.into_iter().zip(1..).collect();
        let mut other: Namespaces = NAMESPACES.into_iter().zip(11..).collect();
        assert!(common(&one, &other).is_empty());
        other.insert("uts", one["uts"]);
        assert_eq!(common(&one, &other), ["uts"]);
    }
}
