//! Every way in which a request can fail, and the problem document that it becomes.

use axum::response::{IntoResponse, Response};
use trellis_chassis::db;
use trellis_chassis::problem::{FieldError, Kind, Problem};
use trellis_messaging::MessageError;

use crate::domain::{OrderId, Refusal, Username, WrongStatus};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the body or the query are not acceptable.
    #[error("failed to accept the request")]
    Invalid(Vec<FieldError>),
    /// No order has this id.
    #[error("failed to find the order {0:?}")]
    NotFound(String),
    /// Another order has this id.
    #[error("failed to create the order {0}: the id is taken")]
    Taken(OrderId),
    /// The order may not be stored.
    #[error("failed to create the order of {username}: {refusal:?}")]
    Refused {
        /// Whose order.
        username: Username,
        /// Why not.
        refusal: Refusal,
    },
    /// The order is not where it could be moved from.
    #[error(transparent)]
    WrongStatus(#[from] WrongStatus),
    /// A saga cannot be started so.
    #[error("failed to tell the saga engine")]
    Message(#[from] MessageError),
    /// The database did not answer.
    #[error("failed to use the database")]
    Database(#[from] db::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(errors) => Self::invalid(errors),
            Error::NotFound(id) => Self::new(Kind::NotFound).detail(format!("no order has the id {id:?}")),
            Error::Taken(id) => Self::new(Kind::Conflict).detail(format!(
                "order {id} exists with other values; get it, or choose another order_id"
            )),
            Error::Refused {
                username,
                refusal: Refusal::UnknownUser,
            } => {
                let message = format!("no user is named {username}; create the user first");
                Self::invalid(vec![FieldError::new("username", message)])
            }
            Error::Refused {
                refusal: Refusal::UserUnavailable { retry_after },
                ..
            } => Self::unavailable("the user service is away; nothing was stored", retry_after),
            Error::WrongStatus(refusal) => Self::new(Kind::Conflict).detail(refusal.to_string()),
            Error::Message(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "failed to write a message");
                Self::new(Kind::Internal)
            }
            Error::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
