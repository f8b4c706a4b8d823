//! Every failure, and the problem that it becomes; or the code, by gRPC.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use tonic::Code;
use trellis_chassis::problem::{FieldError, Kind, Problem};
use trellis_kube::caller;
use trellis_saga_engine::engine::{Refusal, StartError, VerbError};
use trellis_saga_engine::{id, store};

use crate::access;

/// When another try may do better.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Who asks may not.
    #[error(transparent)]
    Access(#[from] access::Error),
    /// The engine does not start it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine does not do it.
    #[error(transparent)]
    Verb(#[from] VerbError),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There is no such run.
    #[error("there is no run {0}")]
    NoRun(String),
    /// No id of a run.
    #[error(transparent)]
    NoId(#[from] id::NoRunId),
    /// Fields of the request are not acceptable.
    #[error("the request has invalid fields")]
    Invalid(Vec<FieldError>),
    /// Nobody looks after the run at the moment.
    #[error("the run is being taken over by another replica")]
    Nowhere,
    /// The replica that looks after the run did not answer.
    #[error("the replica that looks after the run did not answer: {0}")]
    Elsewhere(String),
    /// As many follow runs as may.
    #[error("{0} runs are followed here, which is as many as may be; ask for the run from time to time")]
    Crowded(usize),
    /// The replica leaves.
    #[error("this replica leaves; follow the run at another one")]
    Leaving,
    /// The run was followed for long.
    #[error("the run was followed for an hour; follow it again")]
    Stretch,
}

impl Error {
    /// What it is by gRPC.
    pub const fn code(&self) -> Code {
        match self {
            Self::Access(access::Error::Unknown(caller::Error::Missing { .. } | caller::Error::Refused)) => {
                Code::Unauthenticated
            }
            Self::Access(access::Error::Denied { .. }) => Code::PermissionDenied,
            Self::Refused(Refusal::NoSaga { .. }) | Self::NoRun(_) | Self::NoId(_) => Code::NotFound,
            Self::Refused(Refusal::Input(_)) | Self::Invalid(_) => Code::InvalidArgument,
            Self::Refused(Refusal::Conflict(_)) => Code::AlreadyExists,
            Self::Refused(Refusal::Start(StartError::Taken)) => Code::Aborted,
            Self::Refused(Refusal::Start(StartError::Full(_))) | Self::Crowded(_) => Code::ResourceExhausted,
            Self::Verb(VerbError::Refused(_)) => Code::FailedPrecondition,
            Self::Store(store::Error::Damaged(_)) => Code::Internal,
            Self::Access(_)
            | Self::Refused(_)
            | Self::Verb(VerbError::NotHere | VerbError::Unknown(_))
            | Self::Store(store::Error::Away(_))
            | Self::Nowhere
            | Self::Elsewhere(_)
            | Self::Leaving
            | Self::Stretch => Code::Unavailable,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Access(access::Error::Unknown(error)) => match error {
                caller::Error::Missing { .. } | caller::Error::Refused => {
                    Self::new(Kind::Unauthenticated).detail(text)
                }
                _ => Self::unavailable(text, RETRY_AFTER),
            },
            Error::Access(access::Error::Denied { .. }) => Self::new(Kind::Forbidden).detail(text),
            Error::Access(access::Error::Review(_) | access::Error::Late | access::Error::NoApiServer(_))
            | Error::Nowhere
            | Error::Elsewhere(_)
            | Error::Leaving
            | Error::Stretch => Self::unavailable(text, RETRY_AFTER),
            Error::Refused(refusal) => match refusal {
                Refusal::NoSaga { .. } => Self::new(Kind::NotFound).detail(text),
                Refusal::Input(_) => Self::invalid(vec![FieldError::new("input", text)]),
                Refusal::Conflict(_) => Self::new(Kind::Conflict).detail(text),
                Refusal::Start(StartError::Full(_) | StartError::FullOfSaga(_) | StartError::NoMemory(_)) => {
                    Self::busy(text, RETRY_AFTER)
                }
                Refusal::Start(StartError::TooLarge(_)) => {
                    Self::invalid(vec![FieldError::new("input", text)])
                }
                Refusal::Start(StartError::Taken) => Self::new(Kind::Conflict).detail(text),
                Refusal::Start(StartError::NotOwned | StartError::Unknown(_)) | Refusal::Store(_) => {
                    Self::unavailable(text, RETRY_AFTER)
                }
            },
            Error::Verb(VerbError::Refused(_)) => Self::new(Kind::Conflict).detail(text),
            Error::Verb(VerbError::NotHere | VerbError::Unknown(_)) => Self::unavailable(text, RETRY_AFTER),
            Error::Store(store::Error::Away(_)) => Self::unavailable(text, RETRY_AFTER),
            Error::Store(store::Error::Damaged(_)) => {
                tracing::error!(error = text, "the store is damaged");
                Self::new(Kind::Internal)
            }
            Error::NoRun(_) | Error::NoId(_) => Self::new(Kind::NotFound).detail(text),
            Error::Crowded(_) => Self::busy(text, RETRY_AFTER),
            Error::Invalid(errors) => Self::invalid(errors),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
