//! Keeps the pool as it is to be: as many slots as are wanted, none that is too old or of a
//! kind that nobody wants any more, within the budget, and behind everybody who waits.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Aside, Counts, Pool, Slot,
    make::{self, NoSlot, Wanted},
    size,
};
use crate::{config::Config, launch::Launcher, telemetry};

/// How often it is looked at without a reason.
const PACE: Duration = Duration::from_secs(1);

/// The longest a slot gives way to starts: later the pool would be empty for ever on a node
/// where somebody always starts.
const GIVES_WAY: Duration = Duration::from_secs(10);

/// How long nothing is made of a kind that failed; doubled each time, up to the second.
const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// A profile's pool, for whoever asks.
#[derive(Clone, Debug)]
pub struct PoolState {
    pub profile: String,
    pub minimum: u32,
    pub maximum: u32,
    /// How many there are to be now.
    pub target: u32,
    pub slots: Vec<SlotState>,
    pub counts: Counts,
    pub drained: bool,
    /// Why none is made.
    pub aside: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SlotState {
    pub id: String,
    pub age: Duration,
    /// What its control group uses, and what it took to make.
    pub memory_bytes: u64,
    pub cpu: Duration,
}

impl Launcher {
    /// Keeps the pool filled until it is closed.
    pub async fn tend_pool(self: &Arc<Self>) {
        while !self.pool.inner().closed {
            if !self.tend_pool_once().await {
                let _ = tokio::time::timeout(PACE, self.pool.wake.notified()).await;
            }
        }
    }

    /// Removes what should not be there, then makes one slot if one is missing. True if it did.
    pub async fn tend_pool_once(self: &Arc<Self>) -> bool {
        let _alone = self.pool.tending.lock().await;
        let seen = self.pool.inner().changes;
        let wanted = self.wanted_slots(seen);
        let surplus = self.pool.surplus(&wanted, Duration::from_secs(self.config().pool.max_age));
        for (slot, why) in &surplus {
            make::remove(self, &slot.entry, why).await;
        }
        let missing = self.missing_slot(&wanted);
        self.tell_of_pool();
        let Some(wanted) = missing else { return false };
        self.turns.quiet(GIVES_WAY).await;
        if self.pool.inner().closed || !self.may_fill_pool() {
            return false;
        }
        let began = Instant::now();
        let made = make::make(self, wanted).await;
        let is_made = made.is_ok();
        let mut late = None;
        match made {
            Ok(slot) => {
                let pause = size::pause(slot.cpu, began.elapsed(), self.config().pool.cpu.millis());
                telemetry::pool_made(&wanted.profile, began.elapsed());
                let mut inner = self.pool.inner();
                inner.rest_until = Some(Instant::now() + pause);
                let closed = inner.closed || !self.may_fill_pool();
                let of = inner.profiles.entry(wanted.profile.clone()).or_default();
                of.aside = None;
                if closed {
                    late = Some(slot);
                } else {
                    of.waiting.push(slot);
                }
            }
            Err(NoSlot::GivenUp) => {}
            Err(NoSlot::Aside(reason)) => self.pool.failed(&wanted.profile, seen, reason),
            Err(NoSlot::Failed(failure)) => {
                self.pool.failed(&wanted.profile, seen, failure.message);
            }
        }
        if let Some(slot) = late {
            make::remove(self, &slot.entry, "it came too late").await;
        }
        self.tell_of_pool();
        is_made
    }

    fn may_fill_pool(&self) -> bool {
        self.may_begin().is_ok()
    }

    /// Every profile's slots, as the configuration of now wants them.
    fn wanted_slots(self: &Arc<Self>, seen: u64) -> Vec<Wanted> {
        let config = self.config();
        let mut wanted = Vec::new();
        if !self.may_fill_pool() {
            return wanted;
        }
        for name in config.profiles.keys() {
            match make::wanted(self, name) {
                Ok(Some(one)) => wanted.push(one),
                Ok(None) => {}
                Err(reason) => self.pool.failed(name, seen, reason),
            }
        }
        wanted
    }

    /// What is missing most, if the budget holds one more.
    fn missing_slot<'wanted>(&self, wanted: &'wanted [Wanted]) -> Option<&'wanted Wanted> {
        let now = Instant::now();
        let budget = self.config().pool.memory.bytes();
        let used: Vec<u64> = self.memory_of_slots();
        let mut inner = self.pool.inner();
        let mut missing: Option<(u64, &Wanted)> = None;
        for one in wanted {
            let of = inner.profiles.entry(one.profile.clone()).or_default();
            of.target = of.demand.target(one.minimum, one.maximum, now);
            let rests = of.aside.as_ref().is_some_and(|aside| now < aside.until);
            let (there, target) = (of.waiting.len() as u64, u64::from(of.target));
            if there < target && !rests && !of.drained {
                let filled = there * 1000 / target;
                if missing.is_none_or(|(least, _)| filled < least) {
                    missing = Some((filled, one));
                }
            }
        }
        let rests = inner.rest_until.is_some_and(|until| now < until);
        missing.map(|(_, one)| one).filter(|_| !rests && size::fits(budget, &used))
    }

    fn memory_of_slots(&self) -> Vec<u64> {
        let inner = self.pool.inner();
        let slots = inner.profiles.values().flat_map(|of| &of.waiting);
        slots.map(|slot| self.memory_of(slot)).collect()
    }

    fn memory_of(&self, slot: &Slot) -> u64 {
        let counters = self.ground.counters(&slot.entry.sandbox);
        counters.get("memory_used_bytes").copied().unwrap_or(0)
    }

    /// What the processes of each slot use, by its id. Reads a file for each process: not for a
    /// thread that others wait for.
    pub fn memory_of_waiting(&self) -> HashMap<String, u64> {
        let of = |entry: Arc<crate::launch::Entry>| {
            let memory = self.ground.proportional_memory(&entry.sandbox);
            (entry.sandbox.id().to_string(), memory)
        };
        self.pool.entries().into_iter().map(of).collect()
    }

    fn tell_of_pool(&self) {
        for (profile, of) in &self.pool.inner().profiles {
            let memory = of.waiting.iter().map(|slot| self.memory_of(slot)).sum();
            telemetry::pool_waits(profile, of.waiting.len(), memory);
        }
    }

    /// One slot is taken away for what it holds. False if there was none.
    pub(in crate::launch) async fn give_slot_up(self: &Arc<Self>) -> bool {
        let Some(slot) = self.pool.give() else { return false };
        make::remove(self, &slot.entry, "a start needs its place").await;
        true
    }

    /// A slot that was taken and cannot be used.
    pub(in crate::launch) fn discard_slot(self: &Arc<Self>, slot: Slot) {
        let launcher = Arc::clone(self);
        tokio::spawn(async move {
            make::remove(&launcher, &slot.entry, "it could not be claimed").await;
        });
    }

    /// No slot from now on, and none is left when this returns.
    pub async fn close_pool(self: &Arc<Self>) {
        self.pool.inner().closed = true;
        self.empty_pool(None).await;
    }

    /// Takes the slots of one profile away, or all.
    pub(in crate::launch) async fn empty_pool(self: &Arc<Self>, profile: Option<&str>) -> u32 {
        if let Some(entry) = &self.pool.inner().making {
            entry.wish_to_stop(make::not_needed());
        }
        self.pool.wake();
        let _alone = self.pool.tending.lock().await;
        let slots: Vec<Slot> = {
            let mut inner = self.pool.inner();
            let chosen =
                inner.profiles.iter_mut().filter(|(name, _)| profile.is_none_or(|it| it == *name));
            chosen.flat_map(|(_, of)| std::mem::take(&mut of.waiting)).collect()
        };
        for slot in &slots {
            make::remove(self, &slot.entry, "the pool is emptied").await;
        }
        self.tell_of_pool();
        u32::try_from(slots.len()).unwrap_or(u32::MAX)
    }

    /// Takes slots away and makes no new ones until they are asked for again. None is a profile
    /// without a pool.
    pub async fn drain_pool(self: &Arc<Self>, profile: Option<&str>) -> Option<u32> {
        self.set_drained(profile, true)?;
        Some(self.empty_pool(profile).await)
    }

    /// Makes slots again, at once, also of a kind that failed before.
    pub fn refill_pool(&self, profile: Option<&str>) -> Option<()> {
        self.set_drained(profile, false)?;
        self.pool.wake();
        Some(())
    }

    fn set_drained(&self, profile: Option<&str>, drained: bool) -> Option<()> {
        let config = self.config();
        let names = with_pool(&config);
        if profile.is_some_and(|name| !names.contains(name)) {
            return None;
        }
        let mut inner = self.pool.inner();
        inner.changes += 1;
        for name in names.into_iter().filter(|name| profile.is_none_or(|it| it == *name)) {
            let of = inner.profiles.entry(name.to_owned()).or_default();
            of.drained = drained;
            of.aside = of.aside.take().filter(|_| drained);
        }
        inner.rest_until = inner.rest_until.filter(|_| drained);
        Some(())
    }

    /// Every profile that has a pool, or had one.
    pub fn describe_pool(&self) -> Vec<PoolState> {
        let config = self.config();
        let names = with_pool(&config);
        let now = Instant::now();
        let inner = self.pool.inner();
        let names: BTreeSet<_> =
            names.into_iter().chain(inner.profiles.keys().map(String::as_str)).collect();
        let of_name = |name: &str| {
            let bounds = config.slots(name);
            let of = inner.profiles.get(name);
            let slots = of.iter().flat_map(|of| &of.waiting).map(|slot| SlotState {
                id: slot.entry.sandbox.id().to_string(),
                age: now.duration_since(slot.born),
                memory_bytes: self.memory_of(slot),
                cpu: slot.cpu,
            });
            PoolState {
                profile: name.to_owned(),
                minimum: bounds.map_or(0, |pool| pool.minimum),
                maximum: bounds.map_or(0, |pool| pool.maximum),
                target: of.map_or(0, |of| of.target),
                slots: slots.collect(),
                counts: of.map(|of| of.counts).unwrap_or_default(),
                drained: of.is_some_and(|of| of.drained),
                aside: of.and_then(|of| Some(of.aside.as_ref()?.reason.clone())),
            }
        };
        names.into_iter().map(of_name).collect()
    }
}

fn with_pool(config: &Config) -> BTreeSet<&str> {
    config.profiles.keys().map(String::as_str).filter(|name| config.slots(name).is_some()).collect()
}

impl super::OfProfile {
    /// Nothing is made of it for a while, longer each time.
    fn rest(&mut self, profile: &str, reason: String) {
        let now = Instant::now();
        if self.aside.as_ref().is_some_and(|aside| now < aside.until) {
            return;
        }
        let times = self.aside.as_ref().map_or(0, |aside| aside.times + 1);
        let rest = FIRST_REST.saturating_mul(1 << times.min(16)).min(LONGEST_REST);
        if self.aside.as_ref().is_none_or(|aside| aside.reason != reason) {
            tracing::warn!(
                profile,
                reason,
                "no slot waits for this profile's users; they start without one"
            );
        }
        self.aside = Some(Aside { reason, until: now + rest, times });
    }
}

impl Pool {
    /// A try failed that had begun when so many changes had been seen. Its kind rests, unless
    /// there was one meanwhile: then nobody knows whether it still stands in the way.
    fn failed(&self, profile: &str, seen: u64, reason: String) {
        let mut inner = self.inner();
        if inner.changes == seen {
            inner.profiles.entry(profile.to_owned()).or_default().rest(profile, reason);
        }
    }

    /// Takes out what should not wait any longer, with the reason.
    fn surplus(&self, wanted: &[Wanted], max_age: Duration) -> Vec<(Slot, &'static str)> {
        let mut inner = self.inner();
        let now = Instant::now();
        let mut surplus = Vec::new();
        for (name, of) in &mut inner.profiles {
            let one = wanted.iter().find(|one| one.profile == *name);
            of.target = one.map_or(0, |one| of.demand.target(one.minimum, one.maximum, now));
            let mut kept = Vec::new();
            // Newest first: what is too many is the oldest.
            for slot in std::mem::take(&mut of.waiting).into_iter().rev() {
                let why = match one {
                    None => Some("nobody wants it"),
                    Some(one) if one.class != slot.class => Some("its image or policy has changed"),
                    Some(_) if slot.entry.ended.borrow().is_some() => Some("its program ended"),
                    Some(_) if now.duration_since(slot.born) > max_age => Some("it is too old"),
                    Some(_) if kept.len() >= of.target as usize => Some("there are too many"),
                    Some(_) => None,
                };
                match why {
                    Some(why) => surplus.push((slot, why)),
                    None => kept.push(slot),
                }
            }
            kept.reverse();
            of.waiting = kept;
        }
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_a_try_is_a_reason_for_another_one_at_once() {
        let pool = Pool::default();
        let rests =
            |pool: &Pool| pool.inner().profiles.get("small").is_some_and(|of| of.aside.is_some());
        pool.failed("small", 0, "the image is not here".into());
        assert!(rests(&pool));
        pool.try_again();
        assert!(!rests(&pool));
        // A try that began before, and comes to its end after it.
        pool.failed("small", 0, "the image is not here".into());
        assert!(!rests(&pool));
        pool.failed("small", 1, "the image is not here".into());
        assert!(rests(&pool));
    }
}
