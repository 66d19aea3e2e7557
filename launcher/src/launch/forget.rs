//! What becomes of the home of a user whom the hub has deleted for good, and the
//! administrator's say over homes that were set aside.
//!
//! ```text
//!            forget                    due, or purge
//! owned ────────────> set aside ─────────────────────> gone
//!   ^                     │
//!   └────── restore ──────┘
//! ```
//! Every arrow is journalled before the first move ([`crate::store::RetiredState`])
//! and is finished by whoever comes next: another call, the tending loop, or the
//! next launcher. Must never touch the home of a user who may have a server: such
//! an owner rests while anything moves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use adrastea_proto::v1::{self, FailureReason, HomeFate};

use super::{Launcher, StopWish, failure::Failure, lock};
use crate::{
    config::OnDelete,
    failpoint,
    names::Owner,
    store::{RetiredHome, RetiredState, now},
};

/// After a failure, the tending loop tries again so much later.
const RETRY: Duration = Duration::from_secs(300);

/// What is remembered of homes for the life of a launcher.
#[derive(Default)]
pub struct Homes {
    /// One thing at a time happens to homes that are set aside.
    busy: tokio::sync::Mutex<()>,
    /// Owners who start nothing just now.
    resting: Mutex<HashMap<Owner, u32>>,
    /// By number: why it failed, and when.
    problems: Mutex<HashMap<i64, (String, Instant)>>,
}

/// Why an administrator's wish about a home is refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum HomeRefused {
    #[error("no home of that name is set aside")]
    Unknown,
    #[error("it is {0}")]
    Elsewhere(&'static str),
    #[error("user `{user}` of hub `{hub}` has another home by now")]
    Taken { hub: String, user: String },
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for HomeRefused {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Ends an owner's rest, also when whoever asked has gone away.
struct Rest<'homes>(&'homes Homes, Owner);

impl Homes {
    fn rest(&self, owner: &Owner) -> Rest<'_> {
        *lock(&self.resting).entry(owner.clone()).or_default() += 1;
        Rest(self, owner.clone())
    }

    pub fn is_resting(&self, owner: &Owner) -> bool {
        lock(&self.resting).contains_key(owner)
    }

    fn note<T>(&self, home: &RetiredHome, result: Result<T, Failure>) -> Result<T, Failure> {
        let mut problems = lock(&self.problems);
        match &result {
            Ok(_) => {
                problems.remove(&home.number);
            }
            Err(failure) => {
                tracing::error!(
                    home = home.name(),
                    message = failure.message,
                    "failed to deal with a home that is set aside; it is tried again"
                );
                problems.insert(home.number, (failure.message.clone(), Instant::now()));
            }
        }
        result
    }

    fn problem(&self, home: &RetiredHome) -> String {
        lock(&self.problems).get(&home.number).map_or_else(String::new, |(text, _)| text.clone())
    }

    /// Whether it failed a moment ago.
    fn waits(&self, home: &RetiredHome) -> bool {
        lock(&self.problems).get(&home.number).is_some_and(|(_, since)| since.elapsed() < RETRY)
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        let mut resting = lock(&self.0.resting);
        if let Some(count) = resting.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                resting.remove(&self.1);
            }
        }
    }
}

fn in_words(state: RetiredState) -> &'static str {
    match state {
        RetiredState::Moving => "being set aside",
        RetiredState::Aside => "set aside",
        RetiredState::Purging => "being purged: some of it may be gone",
        RetiredState::Returning => "being restored",
        RetiredState::Gone => "gone",
    }
}

fn fate(home: &RetiredHome) -> v1::ForgetResponse {
    let fate = if home.purge_at.is_some() { HomeFate::ToBePurged } else { HomeFate::Archived };
    v1::ForgetResponse { home: fate.into(), purged_at: home.purge_at.unwrap_or(0) }
}

impl Launcher {
    /// Whether a start of this owner must wait: the home is on its way somewhere.
    pub(super) fn home_is_moving(&self, owner: &Owner) -> Result<bool, crate::store::StoreError> {
        if self.homes.is_resting(owner) {
            return Ok(true);
        }
        self.store.is_home_moving(owner)
    }

    /// Stops all servers of a deleted user, and does with the home what policy says.
    pub async fn forget(
        self: &Arc<Self>,
        owner: Owner,
        wish: StopWish,
    ) -> Result<v1::ForgetResponse, Failure> {
        let _rest = self.homes.rest(&owner);
        // Whoever was let in before is in the registry now.
        drop(self.beginning.lock().await);
        let servers: Vec<_> = self
            .list(Some(&owner.hub))
            .into_iter()
            .filter(|entry| entry.sandbox.record.key.owner() == owner)
            .collect();
        for entry in servers.iter().filter(|entry| !entry.is_gone()) {
            entry.wish_to_stop(wish.clone());
        }
        for entry in &servers {
            entry.wait_gone().await;
        }
        let _alone = self.homes.busy.lock().await;
        // The next user of that name has no business with the last words of this one.
        lock(&self.registry).retain(|key, entry| key.owner() != owner || !entry.is_gone());
        self.store.forget_ended(&owner)?;
        let pending =
            self.store.retired()?.into_iter().rev().find(|home| {
                home.on_disk == owner.on_disk() && home.state != RetiredState::Returning
            });
        let policy = self.config().home.clone();
        if policy.on_delete == OnDelete::Keep && pending.is_none() {
            let kept = self.ground.has_home(&owner.on_disk())?;
            let home = if kept { HomeFate::Kept } else { HomeFate::Absent };
            return Ok(v1::ForgetResponse { home: home.into(), purged_at: 0 });
        }
        let purge_at = policy.retention().map(|seconds| now().saturating_add(seconds));
        let retired = match policy.on_delete {
            OnDelete::Keep => None,
            OnDelete::Archive | OnDelete::Purge => self.store.retire(&owner, purge_at)?,
        };
        failpoint::hit("home", "retired");
        match retired.or(pending) {
            // There was no identity, so there is no home of this ledger's.
            None => Ok(v1::ForgetResponse { home: HomeFate::Absent.into(), purged_at: 0 }),
            Some(home) if home.state == RetiredState::Moving => {
                let moved = self.set_aside(&home);
                if self.homes.note(&home, moved)? {
                    self.purge_what_is_due(&home);
                    tracing::info!(
                        hub = owner.hub,
                        user = owner.user.as_str(),
                        home = home.name(),
                        "set a home aside"
                    );
                    Ok(fate(&home))
                } else {
                    Ok(v1::ForgetResponse { home: HomeFate::Absent.into(), purged_at: 0 })
                }
            }
            Some(home) => Ok(fate(&home)),
        }
    }

    /// Without a retention time nobody waits for the next look.
    fn purge_what_is_due(self: &Arc<Self>, home: &RetiredHome) {
        if home.purge_at.is_some_and(|at| at <= now()) {
            let launcher = Arc::clone(self);
            tokio::spawn(async move { launcher.tend_homes().await });
        }
    }

    /// Moves what is journalled as moving. False if there was no home.
    fn set_aside(&self, home: &RetiredHome) -> Result<bool, Failure> {
        let moved = self.ground.set_home_aside(home)?;
        failpoint::hit("home", "aside");
        let state = if moved { RetiredState::Aside } else { RetiredState::Gone };
        self.store.set_retired(home.number, state)?;
        Ok(moved)
    }

    fn bring_back(&self, home: &RetiredHome) -> Result<(), Failure> {
        self.ground.bring_home_back(home)?;
        failpoint::hit("home", "back");
        Ok(self.store.reinstate(home)?)
    }

    async fn purge(self: &Arc<Self>, home: &RetiredHome) -> Result<(), Failure> {
        self.store.set_retired(home.number, RetiredState::Purging)?;
        failpoint::hit("purge", "begun");
        let (ground, purged) = (Arc::clone(&self.ground), home.clone());
        // However large it is, nobody waits for it but whoever asked.
        tokio::task::spawn_blocking(move || ground.purge_home(&purged)).await.map_err(|_| {
            Failure::new(FailureReason::Internal, "the purge ended early", "it is tried again")
        })??;
        failpoint::hit("purge", "emptied");
        self.store.set_retired(home.number, RetiredState::Gone)?;
        tracing::info!(hub = home.hub, user = home.user, home = home.name(), "purged a home");
        Ok(())
    }

    /// Finishes what was begun, and purges what is due. Returns when all of it was tried.
    pub async fn tend_homes(self: &Arc<Self>) -> Result<(), Failure> {
        let _alone = self.homes.busy.lock().await;
        for home in self.store.retired()? {
            if self.homes.waits(&home) {
                continue;
            }
            let due = home.purge_at.is_some_and(|at| at <= now());
            let done = match home.state {
                RetiredState::Moving => self.set_aside(&home).map(|_| ()),
                RetiredState::Returning => self.bring_back(&home),
                RetiredState::Purging => self.purge(&home).await,
                RetiredState::Aside if due => self.purge(&home).await,
                RetiredState::Aside | RetiredState::Gone => Ok(()),
            };
            // One that cannot be dealt with holds no other one up.
            let _ = self.homes.note(&home, done);
        }
        Ok(())
    }

    fn retired_home(&self, name: &str) -> Result<RetiredHome, HomeRefused> {
        let found = self.store.retired()?.into_iter().find(|home| home.name() == name);
        found.ok_or(HomeRefused::Unknown)
    }

    /// Purges a home that is set aside now, whenever it would be due.
    pub async fn purge_home(self: &Arc<Self>, name: &str) -> Result<(), HomeRefused> {
        let _alone = self.homes.busy.lock().await;
        let home = self.retired_home(name)?;
        match home.state {
            RetiredState::Aside | RetiredState::Purging => {
                let done = self.purge(&home).await;
                Ok(self.homes.note(&home, done).map_err(HomeRefused::Failed)?)
            }
            state => Err(HomeRefused::Elsewhere(in_words(state))),
        }
    }

    /// Gives a home that is set aside back to its user, with its numbers.
    pub async fn restore_home(&self, name: &str) -> Result<RetiredHome, HomeRefused> {
        let _alone = self.homes.busy.lock().await;
        let home = self.retired_home(name)?;
        let owner = crate::names::ServerKey::new(&home.hub, &home.user, "")
            .map_err(|_| HomeRefused::Unknown)?
            .owner();
        let _rest = self.homes.rest(&owner);
        if !matches!(home.state, RetiredState::Aside | RetiredState::Returning) {
            return Err(HomeRefused::Elsewhere(in_words(home.state)));
        }
        if self.store.identity_of(&owner)?.is_some() {
            return Err(HomeRefused::Taken { hub: home.hub, user: home.user });
        }
        self.store.set_retired(home.number, RetiredState::Returning)?;
        failpoint::hit("home", "returning");
        let done = self.bring_back(&home);
        self.homes.note(&home, done).map_err(HomeRefused::Failed)?;
        tracing::info!(hub = home.hub, user = home.user, home = home.name(), "restored a home");
        Ok(home)
    }

    /// Every home the ledger knows of.
    pub fn describe_homes(&self) -> Result<Vec<v1::Home>, Failure> {
        let owned = self.store.identities()?.into_iter().map(|identity| v1::Home {
            name: identity.on_disk,
            hub: identity.hub,
            user: identity.user,
            disk_uid: identity.id,
            disk_gid: identity.id,
            state: v1::HomeState::Owned.into(),
            owned_since: identity.since,
            ..v1::Home::default()
        });
        let retired = self.store.retired()?.into_iter().map(|home| v1::Home {
            name: home.name(),
            problem: self.homes.problem(&home),
            disk_uid: home.id,
            disk_gid: home.id,
            state: match home.state {
                RetiredState::Moving => v1::HomeState::BeingSetAside,
                RetiredState::Aside => v1::HomeState::SetAside,
                RetiredState::Purging | RetiredState::Gone => v1::HomeState::BeingPurged,
                RetiredState::Returning => v1::HomeState::BeingRestored,
            }
            .into(),
            owned_since: home.owned_since,
            set_aside_at: home.retired_at,
            purged_at: home.purge_at.unwrap_or(0),
            hub: home.hub,
            user: home.user,
        });
        Ok(owned.chain(retired).collect())
    }
}
