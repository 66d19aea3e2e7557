//! One call to containerd: bounded in time, its failure sorted into what the
//! caller must know: does containerd answer at all, and if so, what did it say.
//!
//! Must never report a node's silence as an answer about a sandbox.

use std::{error::Error, path::Path, time::Duration};

use tonic::{Code, Status};

use crate::engine::EngineError;

/// Why a call gave no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// No connection, or it broke: nothing is known.
    Unreachable(Box<dyn Error + Send + Sync>),
    /// containerd lives, but this call took longer than that.
    Late(Duration),
    /// containerd said no.
    Refused { code: Code, message: String },
}

/// containerd's own words, without the transport's decoration.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refusal {
    message: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

impl CallError {
    pub(super) fn is(&self, wanted: Code) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// Gone, as seen from any of containerd's layers: a shim's own "already
    /// finished" is wrapped into other codes on its way up.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::Refused { code: Code::NotFound, .. } => true,
            Self::Refused { message, .. } => message.contains("process already finished"),
            Self::Unreachable(_) | Self::Late(_) => false,
        }
    }

    pub(super) fn into_engine(
        self,
        socket: &Path,
        verb: &'static str,
        thing: impl Into<String>,
    ) -> EngineError {
        let thing = thing.into();
        match self {
            Self::Unreachable(source) => {
                EngineError::Unavailable { socket: socket.to_owned(), source }
            }
            Self::Late(after) => EngineError::Timeout { verb, thing, after },
            Self::Refused { message, .. } => {
                EngineError::Failed { verb, thing, source: Box::new(Refusal { message }) }
            }
        }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        // What containerd itself says carries no source; what tonic makes of a
        // broken connection does. containerd uses `Unavailable` for locks too,
        // so the code alone says nothing.
        if status.source().is_some() {
            Self::Unreachable(Box::new(status))
        } else {
            Self::Refused { code: status.code(), message: status.message().to_owned() }
        }
    }
}

/// A failure of our own making, in one sentence.
pub(super) fn failed(
    verb: &'static str,
    thing: impl Into<String>,
    reason: impl Into<String>,
) -> EngineError {
    EngineError::Failed { verb, thing: thing.into(), source: Box::new(Reason(reason.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_in_containerd_is_not_an_absent_containerd() {
        let error = CallError::from(Status::unavailable("ref locked"));
        assert!(error.is(Code::Unavailable));
        let error = error.into_engine(Path::new("/socket"), "store", "blob");
        assert_eq!(error.to_string(), "failed to store `blob`");
    }

    #[test]
    fn a_broken_connection_says_nothing_of_the_sandbox() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error = CallError::from(Status::from_error(Box::new(broken)));
        assert!(!error.is_absence());
        let error = error.into_engine(Path::new("/socket"), "kill", "task");
        assert_eq!(error.to_string(), "containerd does not answer on `/socket`");
    }
}
