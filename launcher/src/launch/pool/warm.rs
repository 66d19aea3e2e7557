//! Makes a waiting slot the server of whoever asked for it, and, where that fails, clears the
//! way for a cold start under the same id. What the user sees of a failure is its time.

use std::{sync::Arc, time::Duration};

use adrastea_proto::v1::FailureReason;

use super::{LAST_WORDS, Slot};
use crate::{
    failpoint,
    launch::{Launcher, claim, entry::Entry, failure::Failure, keeper, ready, turn::Turn},
    policy::Decision,
    store::{Facts, NewSandbox, SandboxRecord, SandboxState, StoreError},
};

/// How long the engine's word on an ended task may take.
const ENDING: Duration = Duration::from_secs(10);

impl Launcher {
    /// A slot for this start, with the row in the ledger that was the slot's and is the server's
    /// from now on. None: the start goes the cold way.
    pub(in crate::launch) fn take_slot(
        self: &Arc<Self>,
        decision: &Decision,
        new: &NewSandbox,
    ) -> Result<Option<(SandboxRecord, Slot)>, StoreError> {
        let Some(slot) = self.pool.take(decision, &new.facts) else { return Ok(None) };
        let born = slot.entry.sandbox.record.clone();
        let facts = Facts { home_mapped: true, ..new.facts.clone() };
        let claimed = NewSandbox { id: born.id.clone(), facts, ..new.clone() };
        let generation = match self.store.claim_slot(&claimed) {
            Ok(Some(generation)) => generation,
            other => {
                self.discard_slot(slot);
                return other.map(|_| None);
            }
        };
        failpoint::hit("slot", "recorded");
        let record = SandboxRecord {
            key: claimed.key,
            generation,
            request_id: claimed.request_id.as_str().to_owned(),
            request_hash: claimed.request_hash.to_vec(),
            facts: claimed.facts,
            ..born
        };
        Ok(Some((record, slot)))
    }
}

/// Proves, claims and waits for the answer, as a cold start does from its proof on.
pub async fn start(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    slot: Slot,
    decision: &Decision,
    turn: &Turn,
) -> Result<(), Failure> {
    let Slot { prepared, weight, profile, .. } = slot;
    entry.set_pid(prepared.waiting.pid);
    launcher.watch_task(entry);
    failpoint::hit("slot", "taken");
    let claiming = async {
        launcher.ground.let_go(&entry.sandbox, &weight)?;
        let proved = claim::prove_again(launcher, entry, prepared).await?;
        claim::claim(launcher, entry, proved, decision).await
    };
    let mut claiming = std::pin::pin!(claiming);
    let claimed = tokio::select! {
        biased;
        claimed = &mut claiming => claimed?,
        status = entry.task_ended() => match tokio::time::timeout(LAST_WORDS, &mut claiming).await {
            // It took its claim and has ended since: it has run, and must not run again.
            Ok(Ok(claimed)) => claimed,
            _ => return Err(Failure::new(
                FailureReason::Internal,
                format!("the slot ended with code {} while it was claimed", status.code),
                "",
            )),
        },
    };
    if let Some(reason) = &claimed.anew {
        tracing::info!(sandbox = %entry.sandbox.id(), reason, "the waiting program stepped aside; its server was started anew");
        launcher.pool.note_failure(&profile);
    }
    launcher.store.set_state(entry.sandbox.id(), SandboxState::Running)?;
    failpoint::hit("running", "claimed");
    turn.prepared();
    if !decision.ready_path.is_empty() {
        ready::ready(launcher, entry, claimed, &decision.ready_path).await?;
    }
    Ok(())
}

/// Whether a start that failed this way may still succeed from the beginning.
fn is_worth_another_try(failure: &Failure) -> bool {
    // One that was given up is over, and one that was waited for has taken all its time.
    !matches!(failure.reason, FailureReason::Cancelled | FailureReason::Timeout)
}

/// After a claim has failed: nothing of the slot is left but its leases, and the start may begin
/// at its first step. An error is the start's own end.
pub async fn start_over(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    profile: &str,
    failure: Failure,
) -> Result<(), Failure> {
    let id = entry.sandbox.id();
    launcher.pool.note_failure(profile);
    if entry.is_unwanted() || !is_worth_another_try(&failure) {
        return Err(failure);
    }
    tracing::warn!(sandbox = %id, key = %entry.sandbox.record.key, message = failure.message, "the claim of a slot failed; starting without it");
    launcher.store.set_state(id, SandboxState::Starting)?;
    if !keeper::undo(launcher, entry).await {
        return Err(failure);
    }
    // What is told of the old task must not be taken for the new one's end.
    if tokio::time::timeout(ENDING, entry.task_ended()).await.is_err() {
        return Err(failure);
    }
    entry.ended.send_replace(None);
    entry.log.begin_anew();
    Ok(())
}
