//! Retries: whether a request that failed is tried again, and when.
//!
//! ```text
//! outcome of a try -> worth it? -> attempts left? -> may it be sent twice? -> body still there?
//!                  -> when would the server like it? -> is there time? -> is there budget?  -> again, after a pause
//! ```
//!
//! The budget comes last, so that only a retry that will be made is charged to it.
//!
//! **Sent twice.** A try that was never sent may be repeated whatever its method. One that may have been acted on is
//! repeated only if its method is idempotent (RFC 9110 9.2.2) or declared to be so; a gRPC call is a `POST`.
//!
//! **Pause.** Exponential with full jitter: a random time from zero to 25 ms, 50 ms, ... 250 ms ("Exponential Backoff And
//! Jitter", AWS Architecture Blog, 2015; the numbers are Envoy's). What the server asks for (`Retry-After`,
//! `grpc-retry-pushback-ms`) comes first and the random pause on top of it, so that those who were turned away together do
//! not come back together. If the server asks for
//! more than is left, or than a second ([`LONGEST_WAIT`]), its answer is the answer.
//!
//! **What it does not protect against**: a service that is overloaded (retries are load; the [budget](crate::budget)
//! bounds them), double effects of a method that was declared idempotent and is not, and failures after the response's
//! head.

mod backoff;
#[cfg(feature = "tower")]
pub mod layer;
pub mod pushback;
pub mod replay;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU32, time::Duration};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

pub use self::backoff::Backoff;
use crate::{
    fault::Fault,
    outcome::{GrpcCode, Outcome, Pushback, Refusal},
    wire,
};

/// Longest that a request waits because its server asks for it. Who wants more time gets it: its answer is the answer, and the
/// caller is told when to come back, instead of being kept waiting with a place in the bulkhead.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What is tried again, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Tries of a request, the first one included. Default 2; 1: none is repeated.
    pub attempts: NonZeroU32,
    /// Outcomes that are worth another try. Default: connect failures and "unavailable".
    pub on: Vec<Condition>,
    /// Methods that may be sent twice. Default: those that RFC 9110 calls idempotent.
    #[serde(with = "wire::methods")]
    pub methods: Vec<Method>,
    /// Pauses between tries.
    pub backoff: Backoff,
}

/// An outcome that is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// No connection, or no endpoint: nothing was sent.
    ConnectFailure,
    /// 503, or gRPC's `UNAVAILABLE`.
    Unavailable,
    /// The try took too long.
    Timeout,
    /// The connection broke before the response.
    Broken,
    /// Any status from 500 to 599.
    ServerError,
    /// This status.
    Status(#[serde(with = "wire::status")] StatusCode),
    /// This code of gRPC.
    Grpc(GrpcCode),
}

/// What is known when a try has ended.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'a> {
    /// Tries so far, this one included.
    pub attempts: u32,
    /// The request's method.
    pub method: &'a Method,
    /// Whether its body can be sent again.
    pub repeatable: bool,
    /// How the try ended.
    pub outcome: Outcome,
    /// What is left until the request's deadline; none: it has none.
    pub left: Option<Duration>,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// After this pause.
    Again(Duration),
    /// What came is the answer.
    Keep(Kept),
}

/// Why a request is not tried again; a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kept {
    /// The outcome is none that is worth it: success above all.
    Outcome,
    /// It was tried as often as may be.
    Attempts,
    /// It may have been acted on, and must not be twice.
    Method,
    /// Its body is too long to have been remembered.
    Body,
    /// The server does not want it again in time.
    Pushback,
    /// The deadline would pass before.
    Deadline,
    /// There is no budget left.
    Budget,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: const { NonZeroU32::new(2).expect("not zero") },
            on: vec![Condition::ConnectFailure, Condition::Unavailable],
            methods: vec![
                Method::GET,
                Method::HEAD,
                Method::OPTIONS,
                Method::TRACE,
                Method::PUT,
                Method::DELETE,
            ],
            backoff: Backoff::default(),
        }
    }
}

impl Settings {
    /// Every fault.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.attempts.get() > 10 {
            faults.push(Fault {
                field: "retry.attempts",
                message: format!("is {}; write 1 to 10", self.attempts),
            });
        }
        for condition in &self.on {
            if let Condition::Status(status) = condition
                && !(status.is_client_error() || status.is_server_error())
            {
                let message = format!("{} is no failure; name statuses from 400", status.as_u16());
                faults.push(Fault {
                    field: "retry.retryOn",
                    message,
                });
            }
        }
        faults.extend(self.backoff.faults());
        faults
    }

    /// Whether to try again. `chance` is a random number over its whole range; `withdraw` takes a retry out of the budget.
    pub fn decide(&self, tried: Tried<'_>, chance: u32, withdraw: impl FnOnce() -> bool) -> Decision {
        let keep = |why| Decision::Keep(why);
        if !self.on.iter().any(|condition| condition.covers(&tried.outcome)) {
            return keep(Kept::Outcome);
        }
        if tried.attempts >= self.attempts.get() {
            return keep(Kept::Attempts);
        }
        if was_sent(&tried.outcome) && !self.methods.contains(tried.method) {
            return keep(Kept::Method);
        }
        if !tried.repeatable {
            return keep(Kept::Body);
        }
        let asked = match pushback(&tried.outcome) {
            None => Duration::ZERO,
            Some(Pushback::After(asked))
                if asked <= LONGEST_WAIT && tried.left.is_none_or(|left| asked < left) =>
            {
                asked
            }
            Some(_) => return keep(Kept::Pushback),
        };
        let pause = asked.saturating_add(self.backoff.pause(tried.attempts, chance));
        if tried.left.is_some_and(|left| pause >= left) {
            return keep(Kept::Deadline);
        }
        if !withdraw() {
            return keep(Kept::Budget);
        }
        Decision::Again(pause)
    }
}

const fn was_sent(outcome: &Outcome) -> bool {
    !matches!(
        outcome,
        Outcome::ConnectFailed | Outcome::Refused(_) | Outcome::OfCaller
    )
}

const fn pushback(outcome: &Outcome) -> Option<Pushback> {
    match outcome {
        Outcome::Answered(answer) => answer.pushback,
        _ => None,
    }
}

impl Condition {
    fn covers(self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::ConnectFailure, Outcome::ConnectFailed | Outcome::Refused(Refusal::NoEndpoints))
            | (Self::Timeout, Outcome::Timeout)
            | (Self::Broken, Outcome::Broken) => true,
            (Self::Unavailable, Outcome::Answered(answer)) => {
                answer.status == StatusCode::SERVICE_UNAVAILABLE || answer.grpc == Some(GrpcCode::Unavailable)
            }
            (Self::ServerError, Outcome::Answered(answer)) => answer.status.is_server_error(),
            (Self::Status(status), Outcome::Answered(answer)) => answer.status == status,
            (Self::Grpc(code), Outcome::Answered(answer)) => answer.grpc == Some(code),
            _ => false,
        }
    }
}

impl Kept {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Attempts => "attempts",
            Self::Method => "method",
            Self::Body => "body",
            Self::Pushback => "pushback",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
        }
    }
}
