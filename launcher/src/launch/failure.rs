//! Why a start failed: a reason for machines, a message and a hint for people.
//!
//! The message carries the whole chain of causes, once. It must never carry a
//! secret: errors below are made without environment and arguments.

use adrastea_proto::v1::FailureReason;
use adrastea_runtimes::engine::EngineError;

pub use crate::host::chain;
use crate::{host::HostError, store::StoreError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: FailureReason,
    pub message: String,
    pub hint: String,
    pub log_tail: String,
}

impl Failure {
    pub fn new(reason: FailureReason, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: hint.into(), log_tail: String::new() }
    }

    pub fn caused_by(
        reason: FailureReason,
        error: &dyn std::error::Error,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(reason, chain(error), hint)
    }

    pub fn cancelled() -> Self {
        Self::new(FailureReason::Cancelled, "the start was given up", "start the server again")
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let hint = match error.source.raw_os_error() {
            Some(libc::ENOSPC) => {
                "the disk is full: make room in the launcher's state and run directories"
            }
            Some(libc::EMFILE | libc::ENFILE) => "raise the launcher's limit of open files",
            _ => "run `adrastea doctor` on the node",
        };
        Self::caused_by(FailureReason::Internal, &error, hint)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Exhausted { .. }) {
            let hint = "stop servers that nobody uses, or try again later";
            return Self::caused_by(FailureReason::Capacity, &error, hint);
        }
        let hint = error.hint();
        let hint = hint.unwrap_or("look at the launcher's log and the disk of its state directory");
        Self::caused_by(FailureReason::Internal, &error, hint)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let (reason, hint) = match &error {
            EngineError::Unavailable { .. } => (
                FailureReason::EngineUnavailable,
                "containerd is down or does not answer; running servers are not touched, try again in a moment",
            ),
            EngineError::ImageMissing { .. } => (
                FailureReason::ImageMissing,
                "an administrator can import it with `adrastea image import`",
            ),
            EngineError::Timeout { .. } => (
                FailureReason::EngineUnavailable,
                "containerd is too slow; look at the node's load and disk",
            ),
            EngineError::Failed { .. } if chain(&error).contains("no space left on device") => (
                FailureReason::Internal,
                "containerd's disk is full: make room in the launcher's state directory; running servers are not touched",
            ),
            EngineError::Failed { .. } | EngineError::BadArchive { .. } => {
                (FailureReason::Internal, "look at containerd's log on the node")
            }
        };
        Self::caused_by(reason, &error, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_each_cause_once() {
        let inner = std::io::Error::other("no space left");
        let error = HostError::new("write", "/state/x", inner);
        assert_eq!(chain(&error), "failed to write `/state/x`: no space left");
    }
}
