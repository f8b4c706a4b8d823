//! The records of a run as Server-Sent Events: from the beginning, or after the one that was seen last, until the run has ended.
//!
//! ```text
//! id: 4
//! event: answered
//! data: {"sequence":4,"at":"...","type":"answered","status":"Running","step":"reserve","index":0,"op":"action","attempt":1,"outcome":"done"}
//! ```
//!
//! A record is told when it is stored, once and in order; payloads are not. A browser asks again by itself when the stream ends; 204 is
//! what tells it not to.

use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::future;
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, StatusCode};
use trellis_chassis::extract::{Params, Path};
use trellis_chassis::problem::FieldError;
use trellis_saga_api::runs::Event;
use trellis_saga_core::event::{self, CallId, Decision, Outcome, Timer};
use trellis_saga_core::log::Record;
use trellis_saga_core::run;
use trellis_saga_engine::engine::View;
use trellis_saga_engine::participants::op_of;

use crate::error::Error;
use crate::runs::Runs;
use crate::shown::{step, time, wish, word};

/// Time between comments, so that nobody takes a stream without news for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /v1/runs/{run}/events`: its records, those that are there and those that come; 204 if there will be none any more.
pub async fn events(
    State(runs): State<Runs>,
    Path(run): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Error> {
    params.finish().map_err(Error::Invalid)?;
    let known = last(&headers)?.map_or(0, |last| last.saturating_add(1));
    let following = runs.follow(&headers, &run, known).await?;
    if following.is_over() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let told = following.known();
    let events = following.views().scan(told, |told, view| {
        future::ready(match view {
            Ok(view) => {
                let events = of(&view, *told);
                *told = view.records.len() as u64;
                Some(stream::iter(events).map(|event| {
                    sse::Event::default()
                        .id(event.sequence.to_string())
                        .event(&event.what)
                        .json_data(&event)
                }))
            }
            // There is no other way to say so; whoever asks again learns more.
            Err(error) => {
                tracing::debug!(%error, "a stream of events ends early");
                None
            }
        })
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events.flatten()).keep_alive(keep_alive).into_response())
}

/// The record that was seen last.
fn last(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            let fault = FieldError::new(
                LAST_EVENT_ID,
                "must be the id of an event of this stream: a number",
            );
            Err(Error::Invalid(vec![fault]))
        }
    }
}

/// The records of a run from a number on.
fn of(view: &View, from: u64) -> Vec<Event> {
    let plan = &view.compiled.plan;
    let mut state: Option<run::State> = None;
    let mut events = Vec::new();
    for record in &view.records {
        match &mut state {
            None => {
                state = run::start(plan, &record.event, record.at)
                    .ok()
                    .map(|(state, _)| state)
            }
            // What is stored fits.
            Some(state) => drop(state.apply(plan, &record.event, record.at, &mut Vec::new())),
        }
        if record.sequence >= from {
            let status = state.as_ref().map(run::State::status);
            let status = status.as_ref().map(AsRef::as_ref).unwrap_or_default();
            events.push(event(view, record, status));
        }
    }
    events
}

fn event(view: &View, record: &Record, status: &str) -> Event {
    let about = Event {
        sequence: record.sequence,
        at: time(record.at),
        status: status.to_owned(),
        ..Event::default()
    };
    let of_call = |call: &CallId, attempt: Option<u32>, what: &str, outcome: &str| Event {
        what: what.to_owned(),
        step: Some(step(view, call.step)),
        index: Some(call.item),
        op: Some(op_of(call.op).to_owned()),
        incarnation: Some(call.incarnation),
        attempt,
        outcome: Some(outcome.to_owned()),
        ..about.clone()
    };
    match &record.event {
        event::Event::Started { .. } => Event {
            what: "started".to_owned(),
            ..about
        },
        event::Event::Queued { .. } => Event {
            what: "queued".to_owned(),
            ..about
        },
        event::Event::Admitted => Event {
            what: "admitted".to_owned(),
            ..about
        },
        event::Event::Decided {
            step: place,
            incarnation,
            decision,
        } => {
            let (outcome, detail) = match decision {
                Decision::Skip => ("skip", None),
                Decision::Once => ("once", None),
                Decision::Items(_) => ("items", None),
                Decision::Failed(detail) => ("failed", Some(detail.to_string())),
            };
            Event {
                what: "decided".to_owned(),
                step: Some(step(view, *place)),
                incarnation: Some(*incarnation),
                outcome: Some(outcome.to_owned()),
                detail,
                ..about
            }
        }
        event::Event::Answered {
            call,
            attempt,
            outcome,
        } => Event {
            detail: match outcome {
                Outcome::Done(_) | Outcome::Pending { .. } => None,
                Outcome::Failed(detail) | Outcome::Retry { detail, .. } => Some(detail.to_string()),
            },
            ..of_call(call, Some(*attempt), "answered", word(outcome))
        },
        event::Event::TimerFired(Timer::Deadline) => Event {
            what: "timer-fired".to_owned(),
            outcome: Some("deadline".to_owned()),
            ..about
        },
        event::Event::TimerFired(Timer::Try { call, attempt }) => {
            of_call(call, Some(*attempt), "timer-fired", "pause")
        }
        event::Event::Operator { verb, by, reason } => {
            let (outcome, place) = wish(verb);
            Event {
                what: "operator".to_owned(),
                step: place.map(|place| step(view, place)),
                outcome: Some(outcome.to_owned()),
                detail: Some(reason.to_string()),
                by: Some(by.to_string()),
                ..about
            }
        }
    }
}
