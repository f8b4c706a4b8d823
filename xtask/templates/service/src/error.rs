//! Every way in which a request can fail, and the problem document that it becomes.

use axum::response::{IntoResponse, Response};
use trellis_chassis::db;
use trellis_chassis::problem::{FieldError, Kind, Problem};

use crate::domain::Refusal;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id, or fields of the body or the query, are not acceptable.
    #[error("failed to accept the request")]
    Invalid(Vec<FieldError>),
    /// No item has this id.
    #[error("failed to find the item {0:?}")]
    NotFound(String),
    /// The rules are against it.
    #[error("failed to store the item")]
    Refused(#[from] Refusal),
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
            Error::NotFound(id) => {
                Self::new(Kind::NotFound).detail(format!("no item has the id {id:?}; PUT it first"))
            }
            Error::Refused(refusal) => Self::new(Kind::Conflict).detail(refusal.to_string()),
            Error::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
