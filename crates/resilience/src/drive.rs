//! What the layers share: the clock, and how they read what happened out of a stack's own types.
//!
//! A layer is config and a handle to its state machine; its service keeps no state of its own. Errors of the stack are the
//! caller's type, which is made of what each layer refuses with (`From<breaker::Refused>` and the like).

use std::{future::Future, pin::Pin, time::Instant};

use crate::outcome::Outcome;

/// What a layer's service answers with.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Reads what happened out of a response or an error.
pub trait Classify<Response, Error> {
    /// How it ended.
    fn outcome(&self, result: Result<&Response, &Error>) -> Outcome;
}

impl<Response, Error, F> Classify<Response, Error> for F
where
    F: Fn(Result<&Response, &Error>) -> Outcome,
{
    fn outcome(&self, result: Result<&Response, &Error>) -> Outcome {
        self(result)
    }
}

/// The clock; tests can stop it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
