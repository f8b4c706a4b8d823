//! Every way in which a request can fail, and the problem document that it becomes.

use axum::response::{IntoResponse, Response};
use trellis_chassis::db;
use trellis_chassis::problem::{FieldError, Kind, Problem};

use crate::domain::Username;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the body or the query are not acceptable.
    #[error("failed to accept the request")]
    Invalid(Vec<FieldError>),
    /// No user has this name.
    #[error("failed to find the user {0:?}")]
    NotFound(String),
    /// Another user has this name.
    #[error("failed to create the user {0}: the name is taken")]
    Taken(Username),
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
            Error::NotFound(name) => Self::new(Kind::NotFound).detail(format!("no user is named {name:?}")),
            Error::Taken(name) => Self::new(Kind::Conflict).detail(format!(
                "user {name} exists with other values; get it, or choose another username"
            )),
            Error::Database(error) => error.into(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
