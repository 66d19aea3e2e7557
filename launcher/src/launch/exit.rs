//! How a sandbox ended, in numbers and in words. Pure.

use adrastea_proto::v1::{ExitCause, FailureReason};
use adrastea_runtimes::engine::ExitStatus;

use super::{entry::StopWish, failure::Failure};
use crate::{
    quantity::display_bytes,
    store::{ExitRecord, Facts},
};

/// The cause of an end. A wish to stop outranks the signal it sent; the kernel's
/// count of memory kills outranks the SIGKILL it used.
pub fn describe(
    status: ExitStatus,
    memory_kills: u64,
    wish: Option<&StopWish>,
    facts: &Facts,
) -> ExitRecord {
    let code = i32::try_from(status.code).unwrap_or(i32::MAX);
    let signal = if (129..=192).contains(&code) { code - 128 } else { 0 };
    let (cause, message) = if let Some(wish) = wish {
        (ExitCause::Stopped, wish.why.clone())
    } else if !status.known {
        (ExitCause::Lost, "it ended while nobody watched; its exit code is lost".into())
    } else if memory_kills > 0 && signal == libc::SIGKILL {
        (
            ExitCause::OutOfMemory,
            format!("out of memory: its limit is {}", display_bytes(facts.memory_bytes)),
        )
    } else if signal > 0 {
        (ExitCause::Signaled, format!("ended by signal {signal}{}", signal_name(signal)))
    } else {
        (ExitCause::Exited, format!("ended with exit code {code}"))
    };
    ExitRecord { cause: cause.into(), code, signal, message, log_tail: String::new() }
}

/// The end of a start that failed.
pub fn of_failure(failure: &Failure) -> ExitRecord {
    ExitRecord {
        cause: ExitCause::FailedStart.into(),
        code: 1,
        signal: 0,
        message: failure.message.clone(),
        log_tail: failure.log_tail.clone(),
    }
}

/// What a start is told whose sandbox has ended before anybody asked again.
pub fn as_failure(exit: &ExitRecord) -> Failure {
    let reason = match ExitCause::try_from(exit.cause) {
        Ok(ExitCause::Stopped) => FailureReason::Cancelled,
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cause(code: u32, known: bool, kills: u64, stopped: bool) -> (ExitCause, String) {
        let facts = crate::store::test_facts();
        let wish = StopWish { grace: std::time::Duration::ZERO, why: "stopped by the hub".into() };
        let exit = describe(ExitStatus { code, known }, kills, stopped.then_some(&wish), &facts);
        (ExitCause::try_from(exit.cause).unwrap(), exit.message)
    }

    #[test]
    fn causes_are_told_apart() {
        assert_eq!(cause(3, true, 0, false), (ExitCause::Exited, "ended with exit code 3".into()));
        assert_eq!(cause(137, true, 1, false).0, ExitCause::OutOfMemory);
        assert_eq!(
            cause(137, true, 0, false),
            (ExitCause::Signaled, "ended by signal 9 (SIGKILL)".into())
        );
        // A kernel of the user's was killed earlier, but the server itself ended on its own.
        assert_eq!(cause(0, true, 4, false).0, ExitCause::Exited);
        assert_eq!(cause(143, true, 0, true), (ExitCause::Stopped, "stopped by the hub".into()));
        assert_eq!(cause(255, false, 0, false).0, ExitCause::Lost);
    }
}
