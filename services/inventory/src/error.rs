//! Every way in which a request can fail, and the problem document that it becomes.

use axum::response::{IntoResponse, Response};
use trellis_chassis::db;
use trellis_chassis::problem::{FieldError, Kind, Problem};

use crate::domain::Refusal;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the body or the query are not acceptable.
    #[error("failed to accept the request")]
    Invalid(Vec<FieldError>),
    /// Nothing is kept under this sku.
    #[error("failed to find the item {0:?}")]
    NoItem(String),
    /// No reservation has this id.
    #[error("failed to find the reservation {0:?}")]
    NoReservation(String),
    /// The rules are against it.
    #[error("failed to change the stock")]
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
            Error::NoItem(sku) => Self::new(Kind::NotFound).detail(format!(
                "nothing is kept under the sku {sku:?}; PUT the item first"
            )),
            Error::NoReservation(id) => {
                Self::new(Kind::NotFound).detail(format!("no reservation has the id {id:?}; POST it first"))
            }
            Error::Refused(Refusal::Unknown(errors)) => Self::invalid(errors),
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
