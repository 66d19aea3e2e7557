//! Fourth phase: the server answers HTTP. The launcher asks every few
//! milliseconds, so that the hub's own first look finds the server up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use adrastea_proto::v1::FailureReason;

use super::{Launcher, claim::Claimed, entry::Entry, failure::Failure, log::TAIL_BYTES};
use crate::failpoint;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

pub async fn ready(
    launcher: &Arc<Launcher>,
    entry: &Arc<Entry>,
    _claimed: Claimed,
    path: &str,
) -> Result<(), Failure> {
    let since = Instant::now();
    let patience = Duration::from_secs(launcher.config().limits.ready_timeout);
    let asking = async {
        let mut pause = FIRST_PAUSE;
        while !launcher.ground.answers(&entry.sandbox, path).await {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = asking => {}
        _ = entry.unwanted() => return Err(Failure::cancelled()),
        status = entry.task_ended() => {
            let refusals = launcher.ground.refusals(&entry.sandbox);
            let exit = super::exit::describe(status, refusals, None, &entry.sandbox.record.facts);
            return Err(Failure {
                log_tail: entry.log.tail(TAIL_BYTES),
                ..Failure::new(FailureReason::ServerExited, format!("the server ended before it answered: {}", exit.message), "the last lines of its log say more")
            });
        }
        () = tokio::time::sleep(patience) => return Err(Failure {
            log_tail: entry.log.tail(TAIL_BYTES),
            ..Failure::new(FailureReason::Timeout, format!("the server did not answer within {} s", patience.as_secs()), "the last lines of its log say more; limits.ready_timeout can be raised")
        }),
    }
    failpoint::hit("ready", "answered");
    entry.took("server", since);
    Ok(())
}
