//! One exhaustive translation from our errors to gRPC's.

use adrastea_proto::v1;
use tonic::Status;

use crate::{
    launch::{
        StartNews, StartRefused,
        failure::{Failure, chain},
    },
    names::{NameError, ServerKey},
    policy::Refusal,
};

pub fn of_refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Invalid(_) | Refusal::Name(_) => Status::invalid_argument(refusal.to_string()),
        Refusal::Denied { .. } => Status::permission_denied(refusal.to_string()),
    }
}

pub fn of_start_refused(refused: &StartRefused) -> Status {
    match refused {
        StartRefused::RequestReused(_) => Status::already_exists(refused.to_string()),
        StartRefused::TooManyServers { .. } => Status::permission_denied(refused.to_string()),
        StartRefused::NodeFull(_) => Status::resource_exhausted(refused.to_string()),
        StartRefused::ShuttingDown => Status::unavailable(refused.to_string()),
        StartRefused::Store(error) => match error {
            crate::store::StoreError::Exhausted { .. } => Status::resource_exhausted(chain(error)),
            crate::store::StoreError::AlreadyLive => Status::aborted(chain(error)),
            crate::store::StoreError::File { .. }
            | crate::store::StoreError::Newer { .. }
            | crate::store::StoreError::Query { .. }
            | crate::store::StoreError::Content { .. } => Status::internal(chain(error)),
        },
    }
}

pub fn of_name(error: &NameError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The key of a request, checked.
pub fn key(key: Option<&v1::ServerKey>) -> Result<ServerKey, Status> {
    let key = key.ok_or_else(|| Status::invalid_argument("the request names no server (key)"))?;
    ServerKey::new(&key.hub, &key.user, &key.server).map_err(|error| of_name(&error))
}

pub fn failed(failure: Failure) -> v1::Failed {
    v1::Failed {
        reason: failure.reason.into(),
        message: failure.message,
        hint: failure.hint,
        log_tail: failure.log_tail,
    }
}

pub fn progress(news: &StartNews) -> Option<v1::Progress> {
    match news {
        StartNews::Progress { phase, percent, message } => Some(v1::Progress {
            phase: (*phase).into(),
            percent: *percent,
            message: message.clone(),
        }),
        StartNews::Ready | StartNews::Failed(_) => None,
    }
}
