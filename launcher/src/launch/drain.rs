//! A node that takes no new starts, because its administrator empties it.
//!
//! Held in memory: it lasts until it is taken back or the launcher restarts.
//! Must never touch a server that runs unless it is told to.

use std::sync::{Arc, atomic::Ordering};

use super::{Launcher, StartRefused, StopWish};

/// What a drain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    pub stopped: u32,
    /// Servers that still run, or are on their way up or down.
    pub running: u32,
}

impl Launcher {
    /// Whether a new start may begin at all.
    pub(super) fn may_begin(&self) -> Result<(), StartRefused> {
        if self.turns.is_closed() {
            Err(StartRefused::ShuttingDown)
        } else if self.drained.load(Ordering::SeqCst) {
            Err(StartRefused::Drained)
        } else {
            Ok(())
        }
    }

    /// No new start from now on; with a wish, those that run are stopped.
    pub async fn drain(self: &Arc<Self>, stop: Option<&StopWish>) -> Drained {
        if !self.drained.swap(true, Ordering::SeqCst) {
            tracing::warn!("drained: no new starts from now on");
        }
        self.empty_pool(None).await;
        let stopped = match stop {
            Some(wish) => self.stop_all(wish).await,
            None => 0,
        };
        let running = self.list(None).iter().filter(|entry| !entry.is_gone()).count();
        Drained { stopped, running: u32::try_from(running).unwrap_or(u32::MAX) }
    }

    pub fn undrain(&self) {
        if self.drained.swap(false, Ordering::SeqCst) {
            tracing::warn!("no longer drained: starts are taken again");
            self.pool.wake();
        }
    }
}
