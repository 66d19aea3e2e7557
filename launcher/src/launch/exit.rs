//! How a sandbox ended, in numbers and in words. Pure.

use adrastea_proto::v1::{ExitCause, FailureReason};
use adrastea_runtimes::engine::ExitStatus;

use super::{
    entry::{StopCause, StopWish},
    failure::Failure,
    ground::Refusals,
};
use crate::{
    quantity::display_bytes,
    store::{ExitRecord, Facts},
};

/// The code of a task that was killed, as shells have it: 128 and the number of the signal.
pub const KILLED: u32 = 128 + libc::SIGKILL.unsigned_abs();

/// The cause of an end. A wish to stop outranks the signal it sent; the kernel's
/// count of memory kills outranks the SIGKILL it used.
///
/// `lately` is what the kernel refused shortly before the end. That no process
/// could be made is told as the cause only where the server then gave up by
/// itself: with an error code, or by a signal that a program sends itself.
pub fn describe(
    status: ExitStatus,
    lately: Refusals,
    wish: Option<&StopWish>,
    facts: &Facts,
) -> ExitRecord {
    let code = i32::try_from(status.code).unwrap_or(i32::MAX);
    let signal = if (129..=192).contains(&code) { code - 128 } else { 0 };
    let gave_up = if signal == 0 { code != 0 } else { is_own_signal(signal) };
    let ended = if signal > 0 {
        format!("ended by signal {signal}{}", signal_name(signal))
    } else {
        format!("ended with exit code {code}")
    };
    let (cause, message) = if let Some(wish) = wish {
        (of_cause(wish.cause), wish.why.clone())
    } else if !status.known {
        (ExitCause::Lost, "it ended while nobody watched; its exit code is lost".into())
    } else if lately.memory_kills > 0 && signal == libc::SIGKILL {
        (
            ExitCause::OutOfMemory,
            format!("out of memory: its limit is {}", display_bytes(facts.memory_bytes)),
        )
    } else if lately.processes > 0 && gave_up {
        (
            ExitCause::TooManyProcesses,
            format!(
                "too many processes: its limit is {} processes and threads, and it {ended} after it could make no more",
                limit_of_processes(facts)
            ),
        )
    } else if signal > 0 {
        (ExitCause::Signaled, ended)
    } else {
        (ExitCause::Exited, ended)
    };
    ExitRecord { cause: cause.into(), code, signal, message, log_tail: String::new() }
}

/// Signals that a program brings upon itself when it cannot go on.
const fn is_own_signal(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP
    )
}

const fn of_cause(cause: StopCause) -> ExitCause {
    match cause {
        StopCause::Asked => ExitCause::Stopped,
        StopCause::Replaced => ExitCause::Replaced,
        StopCause::Administrator => ExitCause::KilledByAdministrator,
        StopCause::Drained => ExitCause::Drained,
    }
}

/// The end of a start that failed; `wish` is why it was given up, if it was.
pub fn of_failure(failure: &Failure, wish: Option<&StopWish>) -> ExitRecord {
    let given_up = wish.filter(|_| failure.reason == FailureReason::Cancelled);
    ExitRecord {
        cause: given_up.map_or(ExitCause::FailedStart, |wish| of_cause(wish.cause)).into(),
        code: 1,
        signal: 0,
        message: given_up.map_or(&failure.message, |wish| &wish.why).clone(),
        log_tail: failure.log_tail.clone(),
    }
}

/// What a start is told whose sandbox has ended before anybody asked again.
pub fn as_failure(exit: &ExitRecord) -> Failure {
    let reason = match ExitCause::try_from(exit.cause) {
        Ok(
            ExitCause::Stopped
            | ExitCause::Replaced
            | ExitCause::KilledByAdministrator
            | ExitCause::Drained,
        ) => FailureReason::Cancelled,
        Ok(ExitCause::FailedStart) => FailureReason::Internal,
        _ => FailureReason::ServerExited,
    };
    Failure {
        log_tail: exit.log_tail.clone(),
        ..Failure::new(reason, exit.message.clone(), "start the server again")
    }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| String::new(), |signal| format!(" ({signal})"))
}

/// What the control group counts against: a kernel of its own needs some, too.
fn limit_of_processes(facts: &Facts) -> u32 {
    adrastea_runtimes::by_name(facts.driver_name())
        .map_or(facts.processes, |runtime| runtime.host_processes(facts.processes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const QUIET: Refusals = Refusals { memory_kills: 0, processes: 0 };
    const NO_MEMORY: Refusals = Refusals { memory_kills: 1, processes: 0 };
    const NO_PROCESS: Refusals = Refusals { memory_kills: 0, processes: 9 };

    fn wish(cause: StopCause) -> StopWish {
        StopWish { grace: std::time::Duration::ZERO, cause, why: "somebody wished it".into() }
    }

    fn cause(code: u32, known: bool, lately: Refusals, wished: Option<StopCause>) -> ExitRecord {
        let facts = Facts { memory_bytes: 1 << 30, processes: 512, ..crate::store::test_facts() };
        let wish = wished.map(wish);
        describe(ExitStatus { code, known }, lately, wish.as_ref(), &facts)
    }

    #[test]
    fn causes_are_told_apart() {
        let cases = [
            (3, QUIET, ExitCause::Exited, "ended with exit code 3"),
            (137, NO_MEMORY, ExitCause::OutOfMemory, "out of memory: its limit is 1.0 GiB"),
            (137, QUIET, ExitCause::Signaled, "ended by signal 9 (SIGKILL)"),
            // A kernel of the user's was killed, but the server itself ended on its own.
            (0, NO_MEMORY, ExitCause::Exited, "ended with exit code 0"),
            (1, NO_MEMORY, ExitCause::Exited, "ended with exit code 1"),
            (1, NO_PROCESS, ExitCause::TooManyProcesses, "too many processes: its limit is 512"),
            (134, NO_PROCESS, ExitCause::TooManyProcesses, "it ended by signal 6 (SIGABRT) after"),
            // It went in peace, or somebody else sent the signal.
            (0, NO_PROCESS, ExitCause::Exited, "ended with exit code 0"),
            (137, NO_PROCESS, ExitCause::Signaled, "ended by signal 9 (SIGKILL)"),
            (143, NO_PROCESS, ExitCause::Signaled, "ended by signal 15 (SIGTERM)"),
        ];
        for (code, lately, expected, words) in cases {
            let exit = cause(code, true, lately, None);
            assert_eq!(ExitCause::try_from(exit.cause).unwrap(), expected, "{exit:?}");
            assert!(exit.message.contains(words), "{exit:?}");
        }
        let lost = cause(255, false, QUIET, None);
        assert_eq!(lost.cause, i32::from(ExitCause::Lost));
    }

    #[test]
    fn a_wish_outranks_what_it_brought_about() {
        for (wished, expected) in [
            (StopCause::Asked, ExitCause::Stopped),
            (StopCause::Replaced, ExitCause::Replaced),
            (StopCause::Administrator, ExitCause::KilledByAdministrator),
            (StopCause::Drained, ExitCause::Drained),
        ] {
            for (code, known, lately) in
                [(143, true, QUIET), (137, true, NO_MEMORY), (255, false, QUIET)]
            {
                let exit = cause(code, known, lately, Some(wished));
                assert_eq!(ExitCause::try_from(exit.cause).unwrap(), expected);
                assert_eq!(exit.message, "somebody wished it");
            }
            let exit = of_failure(&Failure::cancelled(), Some(&wish(wished)));
            assert_eq!(ExitCause::try_from(exit.cause).unwrap(), expected);
            assert_eq!(as_failure(&exit).reason, FailureReason::Cancelled);
        }
        let broken = Failure::new(FailureReason::Network, "no link", "");
        let exit = of_failure(&broken, Some(&wish(StopCause::Asked)));
        assert_eq!((exit.cause, exit.message.as_str()), (ExitCause::FailedStart.into(), "no link"));
    }
}
