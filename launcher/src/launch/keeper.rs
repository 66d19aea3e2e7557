//! The keeper: one task per sandbox, the only one that moves it through its life.
//!
//! ```text
//!            ┌────────── stop, failure ──────────┐
//!            │                                   ▼
//! queued → preparing → proving → claiming → starting → ready → stopping → gone
//!                                                        └── exit ──────────▲
//! ```
//! Everybody else only wishes ([`Entry::wish_to_stop`]) and watches. Teardown
//! never stops early: every step is tried and every failure told.

use std::{sync::Arc, time::Duration};

use adrastea_proto::v1::Phase;
use adrastea_runtimes::engine::ExitStatus;

use super::{
    Launcher, claim,
    entry::{Entry, StopWish},
    exit, failpoint,
    failure::{Failure, chain},
    log::TAIL_BYTES,
    prepare, ready,
};
use crate::{
    policy::Decision,
    store::{ExitRecord, SandboxState, Step},
};

/// After SIGKILL the kernel needs a moment; more means something is stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Where a keeper takes over.
pub enum Origin {
    /// A new start.
    New(Box<Decision>),
    /// A sandbox that runs since before this launcher did.
    Adopted,
}

pub async fn keep(launcher: Arc<Launcher>, entry: Arc<Entry>, origin: Origin) {
    let started = match origin {
        Origin::New(decision) => start(&launcher, &entry, &decision).await,
        Origin::Adopted => Ok(()),
    };
    let exit = match started {
        Ok(()) => run(&launcher, &entry).await,
        Err(mut failure) => {
            if failure.log_tail.is_empty() {
                failure.log_tail = entry.log.tail(TAIL_BYTES);
            }
            tracing::warn!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, reason = failure.reason.as_str_name(), message = failure.message, "start failed");
            let exit = tear_down(&launcher, &entry, exit::of_failure(&failure)).await;
            // The last lines arrive after the end.
            failure.log_tail.clone_from(&exit.log_tail);
            entry.failed(failure, exit);
            return;
        }
    };
    let exit = tear_down(&launcher, &entry, exit).await;
    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, message = exit.message, "ended");
    entry.gone(exit);
}

async fn start(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    decision: &Decision,
) -> Result<(), Failure> {
    entry.progress(Phase::Queued, 0, "Waiting for a place");
    let _place = tokio::select! {
        place = launcher.places.acquire() => place.map_err(|_| Failure::cancelled())?,
        _ = entry.unwanted() => return Err(Failure::cancelled()),
    };
    let prepared = prepare::prepare(launcher, entry, decision).await?;
    let proved = claim::prove(launcher, entry, prepared).await?;
    let claimed = claim::claim(launcher, entry, proved, decision).await?;
    // Recorded before the wait: a launcher that dies now finds a sandbox to adopt, not one to remove.
    launcher.store.set_state(entry.sandbox.id(), SandboxState::Running)?;
    failpoint::hit("running", "recorded");
    // A command without an HTTP address is ready when it runs.
    if !decision.ready_path.is_empty() {
        ready::ready(launcher, entry, claimed, &decision.ready_path).await?;
    }
    tracing::info!(sandbox = %entry.sandbox.id(), key = %entry.sandbox.record.key, address = %entry.sandbox.address, "ready");
    entry.ready();
    Ok(())
}

/// Waits for the end: the server's own, or a wish.
async fn run(launcher: &Arc<Launcher>, entry: &Arc<Entry>) -> ExitRecord {
    let wish = tokio::select! {
        status = entry.task_ended() => return describe(launcher, entry, status, None),
        wish = entry.unwanted() => wish,
    };
    entry.stopping();
    let status = stop(launcher, entry, wish.grace).await;
    describe(launcher, entry, status, Some(&wish))
}

/// SIGTERM, and after the grace SIGKILL. A later wish can shorten the grace.
async fn stop(launcher: &Arc<Launcher>, entry: &Arc<Entry>, grace: Duration) -> ExitStatus {
    let id = entry.sandbox.id();
    if let Err(error) = launcher.engine.kill(id, libc::SIGTERM).await {
        tracing::warn!(sandbox = %id, error = chain(&error), "failed to send SIGTERM");
    }
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
        () = tokio::time::sleep(KILL_PATIENCE) => ExitStatus { code: 137, known: false },
    }
}

fn describe(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    status: ExitStatus,
    wish: Option<&StopWish>,
) -> ExitRecord {
    let kills = launcher.ground.memory_kills(&entry.sandbox);
    exit::describe(status, kills, wish, &entry.sandbox.record.facts)
}

/// Undoes every journalled step, newest first, and gives the leases back if
/// nothing is left. What could not be undone stays journalled for the next sweep.
async fn tear_down(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    mut exit: ExitRecord,
) -> ExitRecord {
    let sandbox = &entry.sandbox;
    let id = sandbox.id();
    let steps = launcher.store.steps(id).unwrap_or_else(|error| {
        tracing::error!(sandbox = %id, error = chain(&error), "failed to read the journal; undoing every step");
        Step::ALL.into_iter().rev().collect()
    });
    let mut left = false;
    for step in steps {
        let undone = match step {
            Step::Container => {
                let deleted = launcher.engine.delete(id).await.map_err(Failure::from);
                // The engine has copied all output by now.
                launcher.finish_log(id).await;
                let tail = entry.log.tail(TAIL_BYTES);
                if !tail.is_empty() {
                    exit.log_tail = tail;
                }
                // The kernel kills what the engine could not: no server outlives its end.
                let unmade = launcher.ground.unmake(step, sandbox).await;
                deleted.and(unmade)
            }
            _ => launcher.ground.unmake(step, sandbox).await,
        };
        failpoint::hit(step.name(), "undone");
        let crossed_out =
            undone.and_then(|()| launcher.store.cross_out(id, step).map_err(Failure::from));
        if let Err(failure) = crossed_out {
            left = true;
            tracing::error!(sandbox = %id, step = step.name(), message = failure.message, "failed to undo a step; the next sweep tries again");
        }
    }
    let recorded = launcher
        .store
        .record_exit(id, &exit)
        .and_then(|()| if left { Ok(()) } else { launcher.store.give_back(id) });
    if let Err(error) = recorded {
        tracing::error!(sandbox = %id, error = chain(&error), "failed to record the end");
    }
    exit
}

/// Removes what an earlier life of the launcher left of a sandbox that nobody keeps.
pub async fn remove_leftover(launcher: &Arc<Launcher>, entry: &Arc<Entry>, exit: ExitRecord) {
    let exit = tear_down(launcher, entry, exit).await;
    entry.failed(exit::as_failure(&exit), exit);
}
