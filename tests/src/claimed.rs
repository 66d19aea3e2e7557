//! Starts that take a sandbox that has waited: every start of a tenant in a column that claims
//! ([`crate::column::claims`]).
//!
//! Must never let a cold start pass: one that took no waiting sandbox is an error, and so is one
//! whose server was started anew in it.

use std::{
    thread,
    time::{Duration, Instant},
};

use adrastea_proto::v1;
use anyhow::{Context as _, anyhow, bail, ensure};

use crate::{
    Instance, Started,
    client::{Output, alone},
    column, image,
};

/// How long one may be made, with everything else that runs.
const MAKING: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(10);
/// What the program that waited says when it has taken a claim, before anything of the tenant's.
pub const WAITED: &str = "waited\n";

/// The words of a tenant's command in this column: in one that claims, the program that has waited
/// is to become it.
pub fn command<'word>(words: &[&'word str]) -> Vec<&'word str> {
    if column::claims() { [&[image::WAITS, BECOME][..], words].concat() } else { words.to_vec() }
}

/// What the program that has waited becomes something by; also when it is started anew.
pub const BECOME: &str = "become";

/// A profile's command and pool in this column, where the other columns have `command`.
pub fn profile_lines(command: &str) -> String {
    if column::claims() {
        format!("command = [\"{}\"]\npool = {{ minimum = 1, maximum = 2 }}", image::WAITS)
    } else {
        format!("command = [{command}]")
    }
}

/// At the configuration's end: nothing keeps the pool from being filled at once.
pub fn pool_section() -> &'static str {
    if column::claims() { "[pool]\ncpu = 100.0\n" } else { "" }
}

impl Instance {
    /// Whether a start with this profile must take one that waits.
    fn claims(&self, profile: &str) -> bool {
        let beginning = format!("[profiles.{profile}]\n");
        let own = self.config_text().split_once(&beginning).map_or("", |(_, rest)| rest);
        let own = own.split_once("\n[").map_or(own, |(own, _)| own);
        column::claims() && own.contains("\npool = ")
    }

    /// What is known of a profile's pool at this moment.
    pub async fn pool_of(&self, profile: &str) -> anyhow::Result<v1::ProfilePool> {
        let list =
            self.admin().await?.list_pool(v1::ListPoolRequest::default()).await?.into_inner();
        let found = list.profiles.into_iter().find(|pool| pool.profile == profile);
        found.with_context(|| format!("`{profile}` has no pool"))
    }

    async fn pool_that_waits(&self, profile: &str) -> anyhow::Result<v1::ProfilePool> {
        let deadline = Instant::now() + MAKING;
        loop {
            let pool = self.pool_of(profile).await?;
            if !pool.waiting.is_empty() {
                return Ok(pool);
            }
            ensure!(Instant::now() < deadline, "nothing waits: {pool:?}");
            tokio::time::sleep(PACE).await;
        }
    }

    /// As [`Instance::try_start`], with what waits.
    pub(crate) async fn try_claim(&self, request: v1::StartRequest) -> anyhow::Result<Started> {
        let profile = request.profile.clone();
        if !self.claims(&profile) {
            return self.try_start_any(request).await;
        }
        let _turn = self.claiming.lock().await;
        let before = self.pool_that_waits(&profile).await?;
        let started = self.try_start_any(request).await?;
        let Started::Ready(ready) = &started else { return Ok(started) };
        let after = self.pool_of(&profile).await?;
        let waited = before.waiting.iter().any(|one| one.sandbox_id == ready.id());
        let claimed = waited && after.hits == before.hits + 1 && after.failures == before.failures;
        ensure!(claimed, "{} started cold: {before:?}, and then {after:?}", ready.id());
        Ok(started)
    }

    /// The command line with these words, which run a program in a sandbox of this profile: what
    /// that program said, and how it ended.
    pub fn run_claiming(&self, profile: &str, words: &[&str]) -> anyhow::Result<Output> {
        if !self.claims(profile) {
            return self.cli(words);
        }
        let turn = loop {
            match self.claiming.try_lock() {
                Ok(turn) => break turn,
                Err(_) => thread::sleep(PACE),
            }
        };
        let before = alone(self.pool_that_waits(profile))?;
        let mut output = thread::scope(|scope| {
            let run = scope.spawn(|| self.cli(words));
            while !run.is_finished() && alone(self.pool_of(profile))?.hits == before.hits {
                thread::sleep(PACE);
            }
            drop(turn);
            run.join().map_err(|_| anyhow!("a thread panicked"))?
        })?;
        match output.stdout.strip_prefix(WAITED) {
            Some(said) => output.stdout = said.to_owned(),
            None => bail!("it started cold: {output:?}"),
        }
        Ok(output)
    }
}
