//! Which start can take which slot. Pure.
//!
//! A slot knows what every server of its kind has in common: profile, runtime, image, limits,
//! egress, and the environment that an image's program may have read while it loaded. A start
//! that differs in any of these gets a sandbox of its own; it must never get a slot that has
//! read something else.

use std::collections::BTreeMap;

use crate::{config_check::matches_any, policy::Decision, store::Facts};

/// Names that a server reads while it loads, and never again. Where one of them comes from the
/// hub and not from the profile, a slot has loaded without it.
const READ_WHILE_LOADING: &[&str] = &[
    "JUPYTERHUB_SINGLEUSER_*",
    "JUPYTERHUB_ALLOW_TOKEN_IN_URL",
    "JUPYTERHUB_ADMIN_ACCESS",
    "JUPYTERHUB_SSL_*",
    "JUPYTERLAB_*",
    "JUPYTER_*",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "XDG_*",
];

/// What all starts have in common that can take a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    facts: Facts,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// Without what is a user's own, or known at the claim only.
fn common(facts: Facts) -> Facts {
    Facts { disk_uid: 0, disk_gid: 0, started_at: 0, home_mapped: true, ..facts }
}

impl Class {
    /// That of the slots made for this decision.
    pub fn of(decision: &Decision, facts: Facts) -> Self {
        Self {
            facts: common(facts),
            command: decision.command.clone(),
            environment: decision.environment.clone(),
        }
    }

    /// Why a start cannot take such a slot, if so.
    pub fn refuses(&self, decision: &Decision, facts: &Facts) -> Option<&'static str> {
        if common(facts.clone()) != self.facts {
            return Some("size");
        }
        if !decision.command.starts_with(&self.command) {
            return Some("command");
        }
        let changed = self
            .environment
            .iter()
            .any(|(name, value)| decision.environment.get(name) != Some(value));
        let added = decision.environment.keys().any(|name| {
            matches_any(name, READ_WHILE_LOADING) && !self.environment.contains_key(name)
        });
        (changed || added).then_some("environment")
    }
}
