//! The pool: sandboxes that are made, proved and loaded before anybody asks for them.
//!
//! ```text
//!             making ──ready──> waiting ──taken by a start──> claiming ──> the server's life
//!                │                 │                             │
//!             failed      too old, not wanted,                 failed: torn down, and
//!                │        its program ended                    the start goes the cold way
//!                └────────> torn down <──────────────────────────┘
//! ```
//! A slot is a sandbox like any other, with an id, leases and a journal of its own from birth.
//! It has never seen a token, a home, a user or the network: those come with the claim, which is
//! that of a cold start ([`super::claim`]). It is taken once, under the pool's lock and in the
//! ledger, and ends with its server. Waiting ones do not survive their launcher.
//!
//! Nobody waits for the pool: a start that finds no slot goes the cold way at once.

mod class;
mod make;
mod size;
mod tend;
mod trial;
mod warm;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

pub use tend::{PoolState, SlotState};
pub use warm::{start, start_over};

use super::{entry::Entry, prepare::Prepared};
use crate::{policy::Decision, store::Facts, telemetry};
use class::Class;
use size::Demand;

/// How long what an init said may still be under way when its end is known.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A sandbox that waits for its user.
pub struct Slot {
    pub profile: String,
    class: Class,
    /// Its own, known to nobody but the pool.
    pub entry: Arc<Entry>,
    prepared: Prepared,
    /// What it gets of the processors once it is somebody's.
    weight: String,
    born: Instant,
    /// Processor time it took until it was ready.
    cpu: Duration,
}

/// What the pool knows of one profile.
#[derive(Default)]
struct OfProfile {
    waiting: Vec<Slot>,
    demand: Demand,
    counts: Counts,
    /// Why no slot of it is made now, and until when.
    aside: Option<Aside>,
    /// By the administrator's word.
    drained: bool,
    target: u32,
}

/// What became of starts, by what the pool did for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub hits: u64,
    pub misses: u64,
    /// Claims that failed; their starts went the cold way.
    pub failures: u64,
}

struct Aside {
    reason: String,
    until: Instant,
    /// How often in a row.
    times: u32,
}

#[derive(Default)]
struct Inner {
    profiles: BTreeMap<String, OfProfile>,
    making: Option<Arc<Entry>>,
    /// Nothing is made before.
    rest_until: Option<Instant>,
    /// How often what was in the way of making slots may have gone.
    changes: u64,
    closed: bool,
}

#[derive(Default)]
pub struct Pool {
    inner: Mutex<Inner>,
    wake: Notify,
    /// Held while the pool is changed by its own will: one at a time.
    tending: tokio::sync::Mutex<()>,
    /// That homes can be mapped was seen once.
    maps_homes: AtomicBool,
}

impl Pool {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed that the pool depends on.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// What was in the way of making slots may not be any more: it is tried now, not after its rest.
    pub fn try_again(&self) {
        let mut inner = self.inner();
        inner.changes += 1;
        for of in inner.profiles.values_mut() {
            of.aside = None;
        }
        drop(inner);
        self.wake();
    }

    /// A slot for this start, the oldest one that fits. Only for profiles that have a pool.
    pub fn take(&self, decision: &Decision, facts: &Facts) -> Option<Slot> {
        let mut inner = self.inner();
        let of = inner.profiles.get_mut(&decision.profile)?;
        let mut why = "empty";
        let fitting = of.waiting.iter().position(|slot| {
            let refused = slot.class.refuses(decision, facts);
            why = refused.unwrap_or(why);
            refused.is_none() && slot.entry.ended.borrow().is_none()
        });
        if why == "empty" || fitting.is_some() {
            of.demand.note(Instant::now());
        }
        let slot = fitting.map(|index| of.waiting.remove(index));
        if let Some(slot) = &slot {
            of.counts.hits += 1;
            telemetry::pool_claimed("hit", &decision.profile);
            telemetry::pool_aged(&decision.profile, slot.born.elapsed());
        } else {
            of.counts.misses += 1;
            telemetry::pool_claimed(
                if why == "empty" { "empty" } else { "unfit" },
                &decision.profile,
            );
            tracing::debug!(key = %decision.key, why, "no slot");
        }
        drop(inner);
        self.wake();
        slot
    }

    /// A claim has failed, and its start goes the cold way.
    fn note_failure(&self, profile: &str) {
        telemetry::pool_claimed("failed", profile);
        if let Some(of) = self.inner().profiles.get_mut(profile) {
            of.counts.failures += 1;
        }
    }

    /// Every sandbox of the pool, also the one that is being made.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        let inner = self.inner();
        let waiting = inner.profiles.values().flat_map(|of| &of.waiting);
        waiting.map(|slot| Arc::clone(&slot.entry)).chain(inner.making.clone()).collect()
    }

    /// One slot less, for somebody who needs what it holds: the oldest.
    fn give(&self) -> Option<Slot> {
        let mut inner = self.inner();
        let oldest = inner
            .profiles
            .values_mut()
            .filter(|of| !of.waiting.is_empty())
            .min_by_key(|of| of.waiting.first().map(|slot| slot.born))?;
        Some(oldest.waiting.remove(0))
    }
}
