//! The keeper: one task per sandbox, the only one that moves it through its life.
//!
//! ```text
//!            ┌───────────── stop, failure ──────────────┐
//!            │                                          ▼
//! queued → preparing → proving → claiming → starting → ready ──wish──> stopping
//!    │         │           │          │          │       │                │
//!    │         │           │          │          │      exit          exit│
//!    │         │           │          │          │       ▼                ▼
//!    │         └───────────┴── failure┴──────────┘     stopping, with the cause
//!    │                         │                                │
//!    └────── given up ─────────┴────────── teardown ────────────┴──────> gone
//! ```
//! Who moves it: the keeper alone, from the first phase to the last; at boot
//! [`super::reconcile`] enters what it finds (ready, stopping or gone) and hands
//! it to a keeper, or clears it away itself. Everybody else only wishes
//! ([`Entry::wish_to_stop`]) and watches. What may follow what is laid down in the
//! types of the steps: only [`prepare::Prepared`] can be proved, only
//! [`claim::Proved`] claimed, only [`claim::Claimed`] waited for.
//!
//! A start that has taken a slot of the [`super::pool`] begins at its proof; if its claim fails,
//! the slot is torn down and the same start goes the whole way.
//!
//! The cause of an end is told as soon as the task has ended; *gone* means that
//! nothing is left, and comes after teardown. Teardown never stops early: every
//! step is tried and every failure told.

use std::{sync::Arc, time::Duration};

use adrastea_proto::v1::{FailureReason, Phase};
use adrastea_runtimes::engine::ExitStatus;
use tokio::time::MissedTickBehavior;

use super::{
    Launcher, claim,
    entry::{Entry, StopWish},
    exit,
    failure::{Failure, chain},
    ground::Refusals,
    log::TAIL_BYTES,
    pool::{self, Slot},
    prepare, ready,
    turn::Turn,
    unrecorded::End,
};
use crate::{
    failpoint,
    policy::Decision,
    store::{ExitRecord, SandboxState, Step},
};

/// After SIGKILL the kernel needs a moment; more means something is stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How often the kernel's counts are read. What it refused within the last two
/// periods before an end counts as *lately*.
const COUNTING: Duration = Duration::from_secs(10);

/// Where a keeper takes over.
pub enum Origin {
    /// A new start; with a slot that it has taken.
    New(Box<Decision>, Option<Box<Slot>>),
    /// A sandbox that runs since before this launcher did.
    Adopted,
}

pub async fn keep(launcher: Arc<Launcher>, entry: Arc<Entry>, origin: Origin) {
    let started = match origin {
        Origin::New(decision, slot) => {
            // Apart: what a start needs is large, and given back while its server lives.
            let started = Box::pin(start(&launcher, &entry, &decision, slot));
            started.await.map(|()| Refusals::default())
        }
        // What was refused before has not ended it.
        Origin::Adopted => Ok(launcher.ground.refusals(&entry.sandbox)),
    };
    let exit = match started {
        Ok(before) => run(&launcher, &entry, before).await,
        Err(mut failure) => {
            let wish = entry.present_wish().filter(|_| failure.reason == FailureReason::Cancelled);
            if let Some(wish) = &wish {
                failure.message = format!("the start was given up: {}", wish.why);
            }
            if failure.log_tail.is_empty() {
                failure.log_tail = entry.log.tail(TAIL_BYTES);
            }
            tracing::warn!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, reason = failure.reason.as_str_name(), message = failure.message, "start failed");
            let exit =
                Box::pin(tear_down(&launcher, &entry, exit::of_failure(&failure, wish.as_ref())))
                    .await;
            // The last lines arrive after the end.
            failure.log_tail.clone_from(&exit.log_tail);
            entry.failed(failure, exit);
            return;
        }
    };
    let _leaving = launcher.courtesy.leaving();
    entry.ending(exit.clone());
    // A launcher that dies from now on still knows how it ended.
    if let Err(error) = launcher.store.record_exit(entry.sandbox.id(), &exit) {
        tracing::error!(sandbox = %entry.sandbox.id(), error = chain(&error), "failed to record the end");
    }
    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, message = exit.message, "ended");
    let exit = Box::pin(tear_down(&launcher, &entry, exit)).await;
    entry.gone(exit);
}

async fn start(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    decision: &Decision,
    slot: Option<Box<Slot>>,
) -> Result<(), Failure> {
    entry.progress(Phase::Queued, 0, "Waiting for a place");
    let owner = entry.sandbox.record.key.owner();
    let turn = tokio::select! {
        turn = launcher.turns.turn(owner, |place| entry.queued(place)) => turn.ok_or_else(Failure::cancelled)?,
        _ = entry.unwanted() => return Err(Failure::cancelled()),
    };
    let is_started = match slot {
        None => false,
        Some(slot) => {
            let profile = slot.profile.clone();
            match pool::start(launcher, entry, *slot, decision, &turn).await {
                Ok(()) => true,
                Err(failure) => {
                    pool::start_over(launcher, entry, &profile, failure).await?;
                    false
                }
            }
        }
    };
    if !is_started {
        cold(launcher, entry, decision, &turn).await?;
    }
    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, address = %entry.sandbox.address, "ready");
    entry.ready();
    Ok(())
}

/// From nothing to a server that answers.
async fn cold(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    decision: &Decision,
    turn: &Turn,
) -> Result<(), Failure> {
    let prepared = prepare::prepare(launcher, entry, decision).await?;
    let proved = claim::prove(launcher, entry, prepared).await?;
    let claimed = claim::claim(launcher, entry, proved, decision).await?;
    // Recorded before the wait: a launcher that dies now finds a sandbox to adopt, not one to remove.
    launcher.store.set_state(entry.sandbox.id(), SandboxState::Running)?;
    failpoint::hit("running", "recorded");
    turn.prepared();
    // A command without an HTTP address is ready when it runs.
    if !decision.ready_path.is_empty() {
        ready::ready(launcher, entry, claimed, &decision.ready_path).await?;
    }
    Ok(())
}

/// Waits for the end: the server's own, or a wish. `before` is what the kernel
/// had refused when it was taken over.
async fn run(launcher: &Arc<Launcher>, entry: &Arc<Entry>, before: Refusals) -> ExitRecord {
    let describe = |status, wish: Option<&StopWish>, before| {
        let lately = launcher.ground.refusals(&entry.sandbox).since(before);
        exit::describe(status, lately, wish, &entry.sandbox.record.facts)
    };
    // The latest count may already hold what ended it: the one before is compared with.
    let (mut earlier, mut latest) = (before, before);
    let mut counting = tokio::time::interval(COUNTING);
    counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    counting.tick().await;
    let wish = loop {
        tokio::select! {
            status = entry.task_ended() => return describe(status, None, earlier),
            wish = entry.unwanted() => break wish,
            _ = counting.tick() => {
                earlier = std::mem::replace(&mut latest, launcher.ground.refusals(&entry.sandbox));
            }
        }
    };
    entry.stopping();
    let status = stop(launcher, entry, wish.grace).await;
    describe(status, Some(&wish), earlier)
}

/// SIGTERM, and after the grace SIGKILL. A later wish can shorten the grace.
async fn stop(launcher: &Arc<Launcher>, entry: &Arc<Entry>, grace: Duration) -> ExitStatus {
    let id = entry.sandbox.id();
    // Not while the server takes its time.
    let leaving = launcher.courtesy.leaving();
    if let Err(error) = launcher.engine.kill(id, libc::SIGTERM).await {
        tracing::warn!(sandbox = %id, error = chain(&error), "failed to send SIGTERM");
    }
    drop(leaving);
    let mut wishes = entry.stop_wish.subscribe();
    let deadline = tokio::time::Instant::now();
    let mut grace = grace;
    loop {
        tokio::select! {
            status = entry.task_ended() => return status,
            () = tokio::time::sleep_until(deadline + grace) => break,
            Ok(()) = wishes.changed() => {
                grace = wishes.borrow_and_update().as_ref().map_or(grace, |wish| wish.grace.min(grace));
            }
        }
    }
    if let Err(error) = launcher.engine.kill(id, libc::SIGKILL).await {
        tracing::warn!(sandbox = %id, error = chain(&error), "failed to send SIGKILL");
    }
    tokio::select! {
        status = entry.task_ended() => status,
        () = tokio::time::sleep(KILL_PATIENCE) => ExitStatus { code: exit::KILLED, known: false },
    }
}

/// Undoes every journalled step, newest first, and gives the leases back if
/// nothing is left. What could not be undone stays journalled for the next sweep.
async fn tear_down(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    mut exit: ExitRecord,
) -> ExitRecord {
    let Undone { left, uncrossed, log_tail } = undo_steps(launcher, entry).await;
    if !log_tail.is_empty() {
        exit.log_tail = log_tail;
    }
    let id = entry.sandbox.id().clone();
    launcher.record_end(End { id, exit: exit.clone(), undone: uncrossed, left });
    exit
}

/// What an undoing came to.
struct Undone {
    /// Something could not be undone.
    left: bool,
    /// Steps that are undone and still stand in the journal.
    uncrossed: Vec<Step>,
    log_tail: String,
}

/// Undoes every step, and keeps id and leases. True if nothing is left.
pub async fn undo(launcher: &Arc<Launcher>, entry: &Arc<Entry>) -> bool {
    let undone = undo_steps(launcher, entry).await;
    !undone.left && undone.uncrossed.is_empty()
}

async fn undo_steps(launcher: &Arc<Launcher>, entry: &Arc<Entry>) -> Undone {
    let mut log_tail = String::new();
    let sandbox = &entry.sandbox;
    let id = sandbox.id();
    let steps = launcher.store.steps(id).unwrap_or_else(|error| {
        tracing::error!(sandbox = %id, error = chain(&error), "failed to read the journal; undoing every step");
        Step::ALL.into_iter().rev().collect()
    });
    let (mut left, mut uncrossed) = (false, Vec::new());
    for step in steps {
        let undone = match step {
            Step::Container => {
                let deleted = {
                    let _few = launcher.removals.acquire().await;
                    launcher.engine.delete(id).await.map_err(Failure::from)
                };
                // The engine has copied all output by now.
                launcher.finish_log(id).await;
                log_tail = entry.log.tail(TAIL_BYTES);
                // The kernel kills what the engine could not: no server outlives its end.
                let unmade = launcher.ground.unmake(step, sandbox).await;
                deleted.and(unmade)
            }
            _ => launcher.ground.unmake(step, sandbox).await,
        };
        failpoint::hit(step.name(), "undone");
        if let Err(failure) = undone {
            left = true;
            tracing::error!(sandbox = %id, step = step.name(), message = failure.message, "failed to undo a step; the next sweep tries again");
        } else if let Err(error) = launcher.store.cross_out(id, step) {
            uncrossed.push(step);
            tracing::error!(sandbox = %id, step = step.name(), error = chain(&error), "failed to cross out a step that is undone");
        }
    }
    Undone { left, uncrossed, log_tail }
}

/// Takes a slot away that is nobody's; nobody is told.
pub async fn remove_slot(launcher: &Arc<Launcher>, entry: &Arc<Entry>, exit: ExitRecord) {
    let exit = tear_down(launcher, entry, exit).await;
    entry.gone(exit);
}

/// Removes what an earlier life of the launcher left of a sandbox that nobody keeps.
pub async fn remove_leftover(launcher: &Arc<Launcher>, entry: &Arc<Entry>, exit: ExitRecord) {
    let exit = tear_down(launcher, entry, exit).await;
    entry.failed(exit::as_failure(&exit), exit);
}
