//! Sandboxes that wait for users, where a profile has them for a runtime: whether there can be
//! any, how many wait, and which starts took one. All of it is the launcher's word.
//!
//! Must never call a start warm that took none, nor take one for a start that is to be cold.

use std::time::{Duration, Instant};

use adrastea_proto::v1;
use anyhow::Context as _;

use super::{super::client, node::Node};
use crate::config::Config;

/// How long the pool may take to be full again before the next start is made all the same.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(100);

/// A name of the environment that a server reads while it loads: nothing that has loaded
/// without it fits a start that has it.
pub const COLD: &str = "JUPYTERHUB_SINGLEUSER_COLD";
/// The first of a start's steps that a sandbox which waited has behind it.
const MADE: &str = "engine-create";

/// Where sandboxes wait that differ in nothing else from what is measured.
pub struct Pool {
    pub profile: String,
}

/// The profile's pool for this runtime, or why there is none.
pub async fn of(
    node: &Node,
    config: &Config,
    runtime: &str,
) -> anyhow::Result<Result<Pool, String>> {
    let Some(profile) = profile(node, config, runtime) else {
        return Ok(Err("no profile of the same image and limits has a pool for it".into()));
    };
    if look(node, &profile).await?.drained {
        return Ok(Err(format!("the pool of profile `{profile}` is drained")));
    }
    // What was in the way once, an image that came later perhaps, is looked for again.
    let request = v1::RefillPoolRequest { profile: profile.clone() };
    node.admin().refill_pool(request).await.map_err(|status| client::said(&status))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pool = look(node, &profile).await?;
        if !pool.waiting.is_empty() {
            return Ok(Ok(Pool { profile }));
        }
        if !pool.problem.is_empty() {
            return Ok(Err(pool.problem));
        }
        if Instant::now() > deadline {
            return Ok(Err(format!("no sandbox of profile `{profile}` waits")));
        }
        tokio::time::sleep(PACE).await;
    }
}

/// One whose pool is for this runtime, and that gives what the measured one gives.
fn profile(node: &Node, config: &Config, runtime: &str) -> Option<String> {
    let measured = config.profiles.get(&node.offer.profile)?;
    let limits = |offer: &v1::Offer| (offer.memory_default_bytes, offer.cpu_default_millis);
    let fits = |offer: &&v1::Offer| {
        config.profiles.get(&offer.profile).is_some_and(|profile| {
            config.slots(&offer.profile).is_some()
                && profile.runtimes.first().is_some_and(|first| first == runtime)
                && offer.runtimes.iter().any(|offered| offered == runtime)
                && (&profile.image, &profile.command) == (&measured.image, &measured.command)
                && limits(offer) == limits(&node.offer)
        })
    };
    // Its own before another one's.
    let own = std::iter::once(&node.offer).chain(&node.offers).find(fits)?;
    Some(own.profile.clone())
}

async fn look(node: &Node, profile: &str) -> anyhow::Result<v1::ProfilePool> {
    let list = node.admin().list_pool(v1::ListPoolRequest::default()).await;
    let profiles = list.map_err(|status| client::said(&status))?.into_inner().profiles;
    let found = profiles.into_iter().find(|pool| pool.profile == profile);
    found.with_context(|| format!("the launcher knows no pool of profile `{profile}`"))
}

/// Returns when nobody makes a sandbox any more that waits: what is measured next has the node
/// for itself. Without patience for ever: what is missing then shows as a miss.
pub async fn settled(node: &Node, pools: &[Option<Pool>]) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for pool in pools.iter().flatten() {
        loop {
            let now = look(node, &pool.profile).await?;
            let full = now.waiting.len() >= now.target as usize;
            if full || !now.problem.is_empty() || now.drained || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(PACE).await;
        }
    }
    Ok(())
}

/// What waited at one moment.
pub struct Before {
    pub ids: Vec<String>,
    failures: u64,
}

impl Pool {
    pub async fn before(&self, node: &Node) -> anyhow::Result<Before> {
        let now = look(node, &self.profile).await?;
        let ids = now.waiting.into_iter().map(|one| one.sandbox_id).collect();
        Ok(Before { ids, failures: now.failures })
    }

    /// How many claims of sandboxes that waited then have failed since: their servers loaded anew.
    pub async fn failed_since(&self, node: &Node, before: &Before) -> anyhow::Result<u64> {
        Ok(look(node, &self.profile).await?.failures.saturating_sub(before.failures))
    }
}

impl Before {
    /// Whether this start took one of them, and was not made anew after its claim had failed.
    pub fn took(&self, started: &v1::Sandbox) -> bool {
        self.ids.contains(&started.sandbox_id) && !was_made(started)
    }
}

/// Whether a start made its sandbox itself.
pub fn was_made(started: &v1::Sandbox) -> bool {
    started.steps.iter().any(|step| step.step == MADE)
}
