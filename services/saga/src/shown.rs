//! A run as it is told. Payloads are not: they may be secret.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use trellis_saga_core::event::{Cause, Effect, Event, Op, Outcome, Time};
use trellis_saga_core::run;
use trellis_saga_engine::engine::View;
use trellis_saga_engine::participants::op_of;
use trellis_saga_engine::store::{Standing, Summary};

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Namespace of its saga.
    pub namespace: String,
    /// Its saga.
    pub saga: String,
    /// What it is made of.
    pub revision: String,
    /// `Running`, `Compensating`, `Stuck`, `Completed`, `Compensated`.
    pub status: String,
    /// What it was started by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When.
    pub started_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// What was tried, in order. Not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Why it turned round or got stuck.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Why>,
}

/// A call and what came of its tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Name of the step.
    pub step: String,
    /// Place in the list of a `forEach`, 0 otherwise.
    pub index: u32,
    /// `action` or `compensation`.
    pub op: String,
    /// Tries, and questions after work under way.
    pub attempts: u32,
    /// `Trying`, `Done`, `Failed`.
    pub state: String,
    /// When it began.
    pub began_at: String,
    /// Milliseconds from then to its last answer.
    pub took_ms: u64,
    /// What the participant said last, if that was not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a run turned round or got stuck.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// When.
    pub at: String,
    /// `ActionFailed`, `RetriesExhausted`, `PivotUnknown`, `CompensationFailed`, `DecisionFailed`, `TimedOut`, `Cancelled`, `Forced`.
    pub what: String,
    /// Step of the call, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// `action` or `compensation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Tries that were made.
    pub attempts: u32,
    /// What was said.
    pub detail: String,
}

/// A run of a list.
pub fn summary(summary: &Summary) -> Run {
    let Summary {
        run,
        namespace,
        saga,
        revision,
        key,
        started_at,
        standing: Standing { status, ended_at, .. },
    } = summary;
    Run {
        id: run.to_string(),
        namespace: namespace.clone(),
        saga: saga.clone(),
        revision: revision.clone(),
        status: status.as_ref().to_owned(),
        key: key.clone(),
        started_at: time(*started_at),
        ended_at: ended_at.map(time),
        calls: Vec::new(),
        causes: Vec::new(),
    }
}

/// A run with what was tried.
pub fn run(view: &View) -> Run {
    let View {
        stored,
        compiled,
        state,
        ..
    } = view;
    Run {
        id: stored.run.to_string(),
        namespace: compiled.namespace().to_owned(),
        saga: compiled.saga().to_owned(),
        revision: compiled.revision.clone(),
        status: state.status().as_ref().to_owned(),
        key: stored.key.clone(),
        started_at: time(stored.started_at),
        ended_at: stored.standing.ended_at.map(time),
        calls: calls(view),
        causes: state.causes().iter().map(|cause| why(view, cause)).collect(),
    }
}

fn why(view: &View, cause: &Cause) -> Why {
    Why {
        at: time(cause.at),
        what: cause.what.as_ref().to_owned(),
        step: cause.call.map(|call| step(view, call.step)),
        op: cause.call.map(|call| op_of(call.op).to_owned()),
        attempts: cause.attempts,
        detail: cause.detail.to_string(),
    }
}

/// What the records say of calls, in the order in which they began.
fn calls(view: &View) -> Vec<Call> {
    let mut calls: Vec<(trellis_saga_core::event::CallId, Time, Call)> = Vec::new();
    let mut state: Option<run::State> = None;
    let plan = &view.compiled.plan;
    for record in &view.records {
        let mut effects = Vec::new();
        match &mut state {
            None => {
                if let Ok((begun, first)) = run::start(plan, &record.event, record.at) {
                    state = Some(begun);
                    effects = first;
                }
            }
            // What is stored fits.
            Some(state) => drop(state.apply(plan, &record.event, record.at, &mut effects)),
        }
        if let Event::Answered { call, outcome, .. } = &record.event
            && let Some((_, began, shown)) = calls.iter_mut().rev().find(|(known, ..)| known == call)
        {
            let (state, detail) = match outcome {
                Outcome::Done(_) => ("Done", None),
                Outcome::Pending { .. } => ("Trying", Some("still working".to_owned())),
                Outcome::Failed(detail) => ("Failed", Some(detail.to_string())),
                Outcome::Retry { detail, .. } => ("Trying", Some(detail.to_string())),
            };
            state.clone_into(&mut shown.state);
            shown.detail = detail;
            shown.took_ms = record.at.0.saturating_sub(began.0);
        }
        for effect in effects {
            let Effect::Call { call, attempt, .. } = effect else {
                continue;
            };
            match calls.iter_mut().find(|(known, ..)| *known == call) {
                Some((.., shown)) => {
                    shown.attempts = attempt;
                    "Trying".clone_into(&mut shown.state);
                }
                None => {
                    let op = match call.op {
                        Op::Action => "action",
                        Op::Compensation => "compensation",
                    };
                    let shown = Call {
                        step: step(view, call.step),
                        index: call.item,
                        op: op.to_owned(),
                        attempts: attempt,
                        state: "Trying".to_owned(),
                        began_at: time(record.at),
                        took_ms: 0,
                        detail: None,
                    };
                    calls.push((call, record.at, shown));
                }
            }
        }
    }
    calls.into_iter().map(|(.., shown)| shown).collect()
}

fn step(view: &View, place: u32) -> String {
    let steps = &view.compiled.program.definition.steps;
    steps
        .get(place as usize)
        .map(|step| step.name.clone())
        .unwrap_or_default()
}

fn time(time: Time) -> String {
    let millis = i64::try_from(time.0).unwrap_or_default();
    Timestamp::from_millisecond(millis)
        .unwrap_or_default()
        .to_string()
}
