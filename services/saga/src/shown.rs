//! A run as it is told. Payloads are not: they may be secret.

use jiff::Timestamp;
use trellis_saga_api::runs::{Call, Done, Run, Why};
use trellis_saga_core::event::{Cause, Effect, End, Event, Op, Outcome, Time, Verb};
use trellis_saga_core::log::Record;
use trellis_saga_core::run;
use trellis_saga_engine::engine::View;
use trellis_saga_engine::participants::op_of;
use trellis_saga_engine::store::Summary;

/// A run of a list.
pub fn summary(summary: &Summary) -> Run {
    let Summary {
        run,
        namespace,
        saga,
        revision,
        key,
        started_at,
        standing,
    } = summary;
    Run {
        id: run.to_string(),
        namespace: namespace.clone(),
        saga: saga.clone(),
        revision: revision.clone(),
        status: status(standing.status, standing.is_queued),
        key: key.clone(),
        started_at: time(*started_at),
        ended_at: standing.ended_at.map(time),
        records: 0,
        steps: Vec::new(),
        calls: Vec::new(),
        causes: Vec::new(),
        interventions: Vec::new(),
    }
}

/// One that waits for its turn is running, but says so.
fn status(status: run::Status, is_queued: bool) -> String {
    if is_queued { "Waiting" } else { status.as_ref() }.to_owned()
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
        status: status(state.status(), state.is_queued()),
        key: stored.key.clone(),
        started_at: time(stored.started_at),
        ended_at: stored.standing.ended_at.map(time),
        records: view.records.len() as u64,
        steps: compiled
            .program
            .definition
            .steps
            .iter()
            .map(|step| step.name.clone())
            .collect(),
        calls: calls(view),
        causes: state.causes().iter().map(|cause| why(view, cause)).collect(),
        interventions: view
            .records
            .iter()
            .filter_map(|record| intervention(view, record))
            .collect(),
    }
}

fn intervention(view: &View, record: &Record) -> Option<Done> {
    let Event::Operator { verb, by, reason } = &record.event else {
        return None;
    };
    let (verb, about) = wish(verb);
    Some(Done {
        at: time(record.at),
        verb: verb.to_owned(),
        step: about.map(|place| step(view, place)),
        by: by.to_string(),
        reason: reason.to_string(),
    })
}

/// A verb as it is called, and which step it is about.
pub const fn wish(verb: &Verb) -> (&'static str, Option<u32>) {
    match verb {
        Verb::Retry => ("retry", None),
        Verb::RetryFrom { step } => ("retry-from", Some(*step)),
        Verb::Skip { call, .. } => ("skip", Some(call.step)),
        Verb::ForceComplete => ("force-complete", None),
        Verb::Cancel => ("cancel", None),
    }
}

/// How a try ended, in a word.
pub const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::Pending { .. } => "pending",
        Outcome::Failed(_) => "failed",
        Outcome::Retry { .. } => "retry",
    }
}

/// How a run has ended, in a word.
pub const fn outcome_of(end: End) -> &'static str {
    match (end.is_forced, end.is_completed) {
        (true, _) => "forced",
        (false, true) => "completed",
        (false, false) => "compensated",
    }
}

/// `PivotUnknown at pay, after 5 tries: 503 Service Unavailable`: what came last.
pub fn why_stuck(view: &View) -> String {
    let Some(cause) = view.state.causes().last() else {
        return String::new();
    };
    let Why {
        what,
        step,
        attempts,
        detail,
        ..
    } = why(view, cause);
    let at = step.map(|step| format!(" at {step}")).unwrap_or_default();
    let after = match attempts {
        0 => String::new(),
        1 => ", after 1 try".to_owned(),
        tries => format!(", after {tries} tries"),
    };
    let said = if detail.is_empty() {
        detail
    } else {
        format!(": {detail}")
    };
    format!("{what}{at}{after}{said}")
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
        if let Event::Operator {
            verb: Verb::Skip { call, .. },
            ..
        } = &record.event
            && let Some((.., shown)) = calls.iter_mut().rev().find(|(known, ..)| known == call)
        {
            "Skipped".clone_into(&mut shown.state);
            shown.detail = None;
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

/// Name of the step at a place.
pub fn step(view: &View, place: u32) -> String {
    let steps = &view.compiled.program.definition.steps;
    steps
        .get(place as usize)
        .map(|step| step.name.clone())
        .unwrap_or_default()
}

/// RFC 3339.
pub fn time(time: Time) -> String {
    let millis = i64::try_from(time.0).unwrap_or_default();
    Timestamp::from_millisecond(millis)
        .unwrap_or_default()
        .to_string()
}
