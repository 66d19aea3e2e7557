//! Every change of every server, numbered: what Watch is made of.
//!
//! ```text
//!   registry ──(snapshot at N)──┐
//!                               ├──> reader: what was there at N, then N+1, N+2, …
//!   keepers ──(N+1, N+2, …)─────┘
//! ```
//! A change gets its number and its place here in the same moment in which it
//! becomes true; whoever takes a snapshot keeps changes away meanwhile. So
//! nothing falls between the two, and nothing is told twice. The locks are taken
//! in one order: registry, feed, the entry's own state.
//!
//! The past is kept up to [`KEPT`] changes. It dies with its launcher: numbers of
//! an earlier life mean nothing here, which the token's first part says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use adrastea_proto::v1;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// Changes of the past that can still be asked for, of all hubs together.
const KEPT: usize = 4096;
/// Changes handed out at once.
const BATCH: usize = 256;

/// A change, and its number. Numbers have no gap.
#[derive(Clone, Debug)]
pub struct Change {
    pub number: u64,
    pub sandbox: Arc<v1::Sandbox>,
}

#[derive(Default)]
struct Past {
    /// The number of the latest change; 0 before the first.
    last: u64,
    kept: VecDeque<Arc<v1::Sandbox>>,
}

pub struct Feed {
    /// Names this life of the launcher.
    life: uuid::Uuid,
    kept: usize,
    past: Mutex<Past>,
    /// The latest number, to wake readers.
    latest: watch::Sender<u64>,
}

impl Default for Feed {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl Feed {
    pub fn keeping(kept: usize) -> Self {
        Self {
            life: uuid::Uuid::new_v4(),
            kept,
            past: Mutex::default(),
            latest: watch::Sender::new(0),
        }
    }

    /// Makes something true and tells it, as one: `change` returns what is to be told, if anything.
    pub fn publish<T>(&self, change: impl FnOnce() -> (T, Option<v1::Sandbox>)) -> T {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, told) = change();
        if let Some(sandbox) = told {
            if past.kept.len() == self.kept {
                past.kept.pop_front();
            }
            past.kept.push_back(Arc::new(sandbox));
            past.last += 1;
            self.latest.send_replace(past.last);
        }
        result
    }

    /// Looks at what is true, and at which number; nothing is published meanwhile.
    pub fn snapshot<T>(&self, look: impl FnOnce() -> T) -> (u64, T) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.last, look())
    }

    /// The next changes after number `after`: some of them, if there are many.
    /// None if the past does not go back so far.
    pub fn after(&self, after: u64) -> Option<Vec<Change>> {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = usize::try_from(past.last.checked_sub(after)?).ok()?;
        let skip = past.kept.len().checked_sub(missed)?;
        let numbered = past.kept.iter().skip(skip).zip(after + 1..);
        Some(
            numbered
                .take(BATCH)
                .map(|(sandbox, number)| Change { number, sandbox: Arc::clone(sandbox) })
                .collect(),
        )
    }

    /// Wakes at every change.
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Names a place in one hub's stream.
    pub fn token(&self, hub: &str, number: u64) -> String {
        format!("{}.{number}", self.stream(hub))
    }

    /// The place a token names, if it is one of this hub's and of this life.
    pub fn place(&self, hub: &str, token: &str) -> Option<u64> {
        let (stream, number) = token.split_once('.')?;
        let number = number.parse().ok()?;
        // Canonical, and never of the future.
        (stream == self.stream(hub)
            && number <= *self.latest.borrow()
            && self.token(hub, number) == token)
            .then_some(number)
    }

    /// One hub's stream in this life: another hub's token is worth nothing.
    fn stream(&self, hub: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(self.life.as_bytes());
        hash.update(hub.as_bytes());
        let start = hash.finalize().into_iter().take(8);
        format!("{:016x}", start.fold(0_u64, |number, byte| number << 8 | u64::from(byte)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tell(feed: &Feed, id: &str) {
        let sandbox = v1::Sandbox { sandbox_id: id.into(), ..v1::Sandbox::default() };
        feed.publish(|| ((), Some(sandbox)));
    }

    #[test]
    fn a_token_is_worth_something_to_its_hub_and_in_its_life_only() {
        let feed = Feed::default();
        tell(&feed, "one");
        let token = feed.token("campus", 1);
        assert_eq!(feed.place("campus", &token), Some(1));
        assert_eq!(feed.place("other", &token), None);
        assert_eq!(Feed::default().place("campus", &token), None);
        let stream = token.split_once('.').unwrap().0;
        for nonsense in [
            "",
            ".",
            "1",
            "x.1",
            &format!("{stream}.2"),
            &format!("{stream}.-1"),
            &format!("{stream}.01"),
            stream,
        ] {
            assert_eq!(feed.place("campus", nonsense), None, "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn what_is_handed_out_has_no_gap(told in 0_u64..60, after in 0_u64..70, kept in 1_usize..50) {
            let feed = Feed::keeping(kept);
            for number in 1..=told {
                tell(&feed, &number.to_string());
            }
            let oldest = told.saturating_sub(kept as u64);
            match feed.after(after) {
                None => prop_assert!(after < oldest || after > told),
                Some(changes) => {
                    prop_assert!((oldest..=told).contains(&after));
                    let numbers: Vec<_> = changes.iter().map(|change| change.number).collect();
                    prop_assert_eq!(numbers, (after + 1..=told).collect::<Vec<_>>());
                    for change in changes {
                        prop_assert_eq!(&change.sandbox.sandbox_id, &change.number.to_string());
                    }
                }
            }
        }
    }
}
