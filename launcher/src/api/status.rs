//! One exhaustive translation from our errors to gRPC's.

use adrastea_proto::v1;
use tonic::Status;

use crate::{
    launch::{
        StartNews, StartRefused,
        failure::{Failure, chain},
        forget::HomeRefused,
        turn,
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
        StartRefused::TooManyServers { .. }
        | StartRefused::TooManyOfUser { .. }
        | StartRefused::MixedUserConfig { .. } => Status::permission_denied(refused.to_string()),
        StartRefused::NodeFull(_) | StartRefused::Drained | StartRefused::DiskFull(_) => {
            Status::resource_exhausted(refused.to_string())
        }
        StartRefused::ShuttingDown | StartRefused::HomeMoving(_) => {
            Status::unavailable(refused.to_string())
        }
        StartRefused::Store(error) => match error {
            crate::store::StoreError::Exhausted { .. } => Status::resource_exhausted(chain(error)),
            crate::store::StoreError::AlreadyLive => Status::aborted(chain(error)),
            crate::store::StoreError::File { .. }
            | crate::store::StoreError::Newer { .. }
            | crate::store::StoreError::Damaged { .. }
            | crate::store::StoreError::Lost { .. }
            | crate::store::StoreError::Unfinished { .. }
            | crate::store::StoreError::Copy { .. }
            | crate::store::StoreError::Query { .. }
            | crate::store::StoreError::Content { .. } => Status::internal(chain(error)),
        },
    }
}

pub fn of_home_refused(refused: &HomeRefused) -> Status {
    match refused {
        HomeRefused::Unknown => Status::not_found(refused.to_string()),
        HomeRefused::Elsewhere(_) | HomeRefused::Taken { .. } => {
            Status::failed_precondition(refused.to_string())
        }
        HomeRefused::Failed(failure) => of_failure(failure),
    }
}

/// What went wrong with no start to tell it.
pub fn of_failure(failure: &Failure) -> Status {
    Status::internal(format!("{}; {}", failure.message, failure.hint))
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

/// Where a start waits; told apart from its news, because only the latest counts.
pub fn queued(place: u32) -> v1::Progress {
    v1::Progress {
        phase: v1::Phase::Queued.into(),
        percent: 0,
        message: turn::words(place),
        queue_place: place,
    }
}

pub fn progress(news: &StartNews) -> Option<v1::Progress> {
    match news {
        StartNews::Progress { phase, percent, message } => Some(v1::Progress {
            phase: (*phase).into(),
            percent: *percent,
            message: message.clone(),
            queue_place: 0,
        }),
        StartNews::Ready | StartNews::Failed(_) => None,
    }
}
