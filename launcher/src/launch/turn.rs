//! A start's turn: waits in the fair queue, tells its place, and gives the place
//! up when dropped, whatever happens.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::queue::{Bounds, FairQueue, Stage, Ticket};
use crate::names::Owner;

/// A place in the queue is told at most so often.
const PACE: Duration = Duration::from_secs(1);

/// Everybody's turns.
pub struct Turns {
    queue: Mutex<FairQueue<Owner>>,
    /// Counts changes, to wake those who wait.
    changes: watch::Sender<u64>,
    closed: AtomicBool,
}

impl Turns {
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(FairQueue::new(bounds)),
            changes: watch::Sender::new(0),
            closed: AtomicBool::new(false),
        })
    }

    fn queue(&self) -> MutexGuard<'_, FairQueue<Owner>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut FairQueue<Owner>) -> T) -> T {
        let result = change(&mut self.queue());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// Nobody gets a turn any more; who has one keeps it.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Returns when no start is under way or waits, or after `patience`.
    pub async fn quiet(&self, patience: Duration) {
        let mut changes = self.changes.subscribe();
        let quiet = async { while !self.queue().is_empty() && changes.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(patience, quiet).await;
    }

    /// Waits for a turn; `tell` hears of the place, when it has changed and not too
    /// often. None once the queue is closed.
    pub async fn turn(self: &Arc<Self>, owner: Owner, mut tell: impl FnMut(u32)) -> Option<Turn> {
        let mut changes = self.changes.subscribe();
        let turn = Turn { turns: Arc::clone(self), ticket: self.change(|queue| queue.join(owner)) };
        let (mut told, mut due, mut stale) = (None, Instant::now(), true);
        loop {
            changes.borrow_and_update();
            if self.is_closed() {
                return None;
            }
            if self.queue().stage(turn.ticket) != Some(Stage::Waiting) {
                return Some(turn);
            }
            if stale && Instant::now() >= due {
                let place = self.queue().place(turn.ticket);
                if let Some(place) = place.filter(|_| place != told) {
                    tell(u32::try_from(place).unwrap_or(u32::MAX));
                    told = Some(place);
                }
                (due, stale) = (Instant::now() + PACE, false);
            }
            tokio::select! {
                woken = changes.changed() => {
                    woken.ok()?;
                    stale = true;
                }
                () = sleep_until(due), if stale => {}
            }
        }
    }
}

/// The right to work on a start.
pub struct Turn {
    turns: Arc<Turns>,
    ticket: Ticket,
}

impl Turn {
    /// Only the server's answer is waited for: somebody else can prepare.
    pub fn prepared(&self) {
        self.turns.change(|queue| queue.prepared(self.ticket));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.change(|queue| queue.leave(self.ticket));
    }
}

/// A place in the queue, in words.
pub fn words(place: u32) -> String {
    match place {
        0 | 1 => "Waiting: yours is the next start".into(),
        2 => "Waiting: 1 start is before yours".into(),
        _ => format!("Waiting: {} starts are before yours", place - 1),
    }
}
