//! Ends that could not be written down, because the ledger's disk is full.
//!
//! Stopping must not need room: what is undone is undone, and told, also when the
//! ledger cannot say so. The ends wait here and are written as soon as there is
//! room, before anything that depends on them. A launcher that dies meanwhile loses
//! nothing: the next one finds the journal as it was, and undoing twice is harmless.

use super::{Launcher, lock};
use crate::store::{ExitRecord, Step, StoreError};
use adrastea_runtimes::plan::SandboxId;

/// What the ledger is to know of a sandbox that has ended.
#[derive(Clone, Debug)]
pub struct End {
    pub id: SandboxId,
    pub exit: ExitRecord,
    /// Steps that are undone and still stand in the journal.
    pub undone: Vec<Step>,
    /// Something could not be undone: the leases stay.
    pub left: bool,
}

impl Launcher {
    /// Writes an end down, now or as soon as it is possible.
    pub(super) fn record_end(&self, end: End) {
        if let Err(error) = self.write_end(&end) {
            tracing::error!(sandbox = %end.id, error = super::chain(&error), "failed to record the end; it is tried again");
            lock(&self.unrecorded).push(end);
        }
    }

    fn write_end(&self, end: &End) -> Result<(), StoreError> {
        for step in &end.undone {
            self.store.cross_out(&end.id, *step)?;
        }
        self.store.record_exit(&end.id, &end.exit)?;
        if end.left { Ok(()) } else { self.store.give_back(&end.id) }
    }

    /// Writes the ends down that wait. The first that cannot be written is the error.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut waiting = lock(&self.unrecorded);
        while let Some(end) = waiting.first() {
            self.write_end(end)?;
            waiting.remove(0);
        }
        Ok(())
    }
}
