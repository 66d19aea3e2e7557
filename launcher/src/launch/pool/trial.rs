//! Before the first slot of a runtime is made on a node, where that rests on what its program does
//! by no promise (`Runtime::makes_files_as_root`): one sandbox is made as a slot is, and a home
//! of nobody's is attached to it. If that is not as it must be, no sandbox of the runtime waits:
//! its starts are cold, and the reason is told by `adrastea pool`, `doctor`, a metric and the log.
//!
//! What came of it is remembered for the same program, init and boot ([`tried`]). The sandbox is
//! the pool's, with a journal, so that one whose launcher dies is removed as any other; it
//! must never become somebody's.

use std::sync::Arc;

use adrastea_runtimes::plan::IDS_PER_SANDBOX;

use super::make::{self, NoSlot, Wanted};
use crate::{
    launch::{Entry, Launcher, claim, failure::Failure, prepare},
    store::SandboxRecord,
    telemetry, tried,
};

/// Passes if homes can be attached late under the runtime of these slots.
pub async fn pass(launcher: &Arc<Launcher>, wanted: &Wanted) -> Result<(), NoSlot> {
    let name = &wanted.decision.runtime;
    let (driver, settings) = launcher.runtime(name)?;
    if !driver.makes_files_as_root() {
        return Ok(());
    }
    let config = launcher.config();
    if let Some(Ok(())) = tried::waiting(&config, name, &settings) {
        telemetry::pool_tried(name, true);
        return Ok(());
    }
    let entry = make::enter(launcher, wanted, belongs_to_itself)?;
    let outcome = attempt(launcher, &entry, wanted).await;
    launcher.pool.inner().making = None;
    make::remove(launcher, &entry, "it was a trial").await;
    let outcome = outcome?.map_err(|failure| failure.message);
    telemetry::pool_tried(name, outcome.is_ok());
    let remembered = match &outcome {
        Ok(()) => Ok(()),
        Err(reason) => Err(reason.as_str()),
    };
    if let Err(error) = tried::remember_waiting(&config, name, &settings, remembered) {
        tracing::warn!(
            runtime = name,
            error = crate::launch::failure::chain(&error),
            "failed to remember a trial"
        );
    }
    match outcome {
        Ok(()) => {
            tracing::info!(
                runtime = name,
                "a home was attached to a sandbox that waits, and is as it must be"
            );
            Ok(())
        }
        Err(reason) => {
            Err(NoSlot::Aside(format!("under `{name}` no server waits for its user: {reason}")))
        }
    }
}

/// The number of its home on the disk is one of its own range, so that it is nobody's.
fn belongs_to_itself(record: &mut SandboxRecord) {
    let last = record.run_range_first + (IDS_PER_SANDBOX - 1);
    (record.facts.disk_uid, record.facts.disk_gid) = (last, last);
}

/// What came of the home; an error is one before it.
async fn attempt(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    wanted: &Wanted,
) -> Result<Result<(), Failure>, NoSlot> {
    let prepared = prepare::prepare(launcher, entry, &wanted.decision).await?;
    let mut prepared = claim::prove(launcher, entry, prepared).await?.wait();
    let pid = prepared.waiting.pid;
    let outcome = launcher.ground.try_home(&entry.sandbox, pid, &mut prepared.channel).await;
    if entry.is_unwanted() {
        return Err(NoSlot::GivenUp);
    }
    Ok(outcome)
}
