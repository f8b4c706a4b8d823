//! Faults on purpose, to see what stands around a service do its work.
//!
//! Off unless `FAULT_INJECTION=true`; then the admin port takes what is to happen to every request from now on:
//!
//! | `PUT /fault` with | does |
//! |---|---|
//! | `none` | nothing; the beginning |
//! | `refuse` | closes the port and every connection |
//! | `hang` | never answers |
//! | `status 500` | answers with this status, without doing the work |
//! | `slow 800` | does the work so many milliseconds later |

use std::{str::FromStr, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::put,
};
use http::StatusCode;
use tokio::sync::watch;

/// What happens to every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// What should.
    None,
    /// There is no connection.
    Refuse,
    /// There is no answer.
    Hang,
    /// This is the answer.
    Status(StatusCode),
    /// It waits for so long first.
    Slow(Duration),
}

/// Why a text is no fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to read {0:?} as a fault; write none, refuse, hang, \"status 500\" or \"slow 800\" (milliseconds)"
)]
pub struct Error(String);

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let read = match words.as_slice() {
            ["none"] => Some(Self::None),
            ["refuse"] => Some(Self::Refuse),
            ["hang"] => Some(Self::Hang),
            ["status", number] => number.parse().ok().map(Self::Status),
            ["slow", millis] => millis
                .parse()
                .ok()
                .map(|millis| Self::Slow(Duration::from_millis(millis))),
            _ => None,
        };
        read.ok_or_else(|| Error(text.to_owned()))
    }
}

/// The switch; clones are the same one.
#[derive(Debug, Clone)]
pub struct FaultInjection(watch::Sender<Fault>);

impl Default for FaultInjection {
    fn default() -> Self {
        Self(watch::Sender::new(Fault::None))
    }
}

impl FaultInjection {
    /// The route of the admin port that changes it.
    pub fn admin(&self) -> Router {
        Router::new().route("/fault", put(set)).with_state(self.clone())
    }

    /// Sees every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Fault> {
        self.0.subscribe()
    }

    /// Around everything that a service does.
    pub(crate) fn around(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.watch(), inject))
    }
}

async fn set(State(injection): State<FaultInjection>, text: String) -> Response {
    match text.parse::<Fault>() {
        Ok(fault) => {
            tracing::warn!(?fault, "fault injected");
            injection.0.send_replace(fault);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn inject(State(fault): State<watch::Receiver<Fault>>, request: Request, next: Next) -> Response {
    let fault = *fault.borrow();
    match fault {
        Fault::Status(status) => return status.into_response(),
        // Of a connection that was accepted just before the port closed.
        Fault::Hang | Fault::Refuse => std::future::pending().await,
        Fault::Slow(time) => tokio::time::sleep(time).await,
        Fault::None => {}
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_by_their_words() {
        for (text, fault) in [
            ("none", Fault::None),
            ("refuse", Fault::Refuse),
            (" hang\n", Fault::Hang),
            ("status 500", Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)),
            ("slow 800", Fault::Slow(Duration::from_millis(800))),
        ] {
            assert_eq!(text.parse::<Fault>().unwrap(), fault);
        }
        for text in ["", "status", "status 9", "slow", "slow -1", "other"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
