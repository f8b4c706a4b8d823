//! The status of a saga.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use trellis_api::{
    Microservice, Problem, Saga, SagaStatus,
    condition::{self, SagaConditionType, SagaReason},
    saga::{Revision, SagaRuns},
};

use super::{Compiled, Engine, Runs, participants, revision};

/// Most faults that a message names.
const SHOWN: usize = 3;

/// What came of making the revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It is there.
    Revision,
    /// It could not be written, and why.
    Failed(String),
}

/// What a status is made from besides the definition.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Revisions that exist.
    pub revisions: Vec<Revision>,
    /// Microservices of the saga's namespace.
    pub microservices: Vec<Arc<Microservice>>,
    /// What the engine says.
    pub engine: Engine,
}

/// The status.
#[must_use]
pub fn status(
    saga: &Saga,
    compiled: Result<(&Compiled, &Made), &[Problem]>,
    seen: Seen,
    now: Timestamp,
) -> SagaStatus {
    let Seen {
        mut revisions,
        microservices,
        engine,
    } = seen;
    let previous = saga.status.clone().unwrap_or_default();
    let mut conditions = Conditions {
        saga,
        previous: &previous.conditions,
        now,
        all: Vec::new(),
    };
    let (yes, no) = (condition::status::TRUE, condition::status::FALSE);
    let mut failing: Option<(SagaReason, String)> = None;
    let mut problems = Vec::new();
    match compiled {
        Ok(_) => conditions.set(
            SagaConditionType::Accepted,
            yes,
            SagaReason::Accepted,
            "it makes sense",
        ),
        Err(found) => {
            problems = found.to_vec();
            let message = invalid(found, previous.revision.as_deref());
            conditions.set(SagaConditionType::Accepted, no, SagaReason::Invalid, &message);
            failing = Some((SagaReason::Invalid, message));
        }
    }
    match compiled {
        Ok((compiled, _)) => {
            let missing = participants::missing(&compiled.program.definition, &microservices);
            if missing.is_empty() {
                let message = "every Microservice and port that it calls exists";
                conditions.set(
                    SagaConditionType::ParticipantsResolved,
                    yes,
                    SagaReason::Resolved,
                    message,
                );
            } else {
                let message = list(&missing);
                let reason = SagaReason::ParticipantNotFound;
                conditions.set(SagaConditionType::ParticipantsResolved, no, reason, &message);
                failing.get_or_insert((reason, message));
            }
        }
        Err(_) => conditions.set(
            SagaConditionType::ParticipantsResolved,
            condition::status::UNKNOWN,
            SagaReason::Invalid,
            "not looked at: the spec has faults",
        ),
    }
    // What runs are made of stays the last good one, as long as it is there.
    let current = match compiled {
        Ok((compiled, Made::Revision)) => Some(compiled.revision.clone()),
        _ => previous
            .revision
            .filter(|name| revisions.iter().any(|revision| revision.name == *name)),
    };
    let (is_programmed, reason, message) = match compiled {
        Ok((_, Made::Failed(message))) => (false, SagaReason::ApplyFailed, message.clone()),
        _ => engine.programmed(current.as_deref()),
    };
    let is = |holds: bool| if holds { yes } else { no };
    conditions.set(SagaConditionType::Programmed, is(is_programmed), reason, &message);
    if !is_programmed {
        failing.get_or_insert((reason, message.clone()));
    }
    match &failing {
        Some((reason, message)) => conditions.set(SagaConditionType::Ready, no, *reason, message),
        None => conditions.set(SagaConditionType::Ready, yes, reason, "runs can be started"),
    }
    let was_stuck = previous
        .conditions
        .iter()
        .find(|condition| condition.type_ == SagaConditionType::StuckInstances.as_ref());
    if engine.is_silent {
        // What was known before stays, until there is news.
        conditions.all.extend(was_stuck.cloned());
    } else if !engine.replicas.is_empty() {
        let stuck = engine.stuck();
        let (reason, message) = match &stuck {
            Some(message) => (SagaReason::RunsStuck, message.as_str()),
            None => (SagaReason::NoneStuck, "no run is stuck"),
        };
        conditions.set(
            SagaConditionType::StuckInstances,
            is(stuck.is_some()),
            reason,
            message,
        );
    }
    let conditions = conditions.all;
    let steps = match compiled {
        Ok((compiled, Made::Revision)) => i32::try_from(compiled.program.definition.steps.len()).ok(),
        _ => previous.steps.filter(|_| current.is_some()),
    };
    revision::sort(&mut revisions, current.as_deref());
    revisions.truncate(revision::KEPT);
    for revision in &mut revisions {
        let runs = engine.runs.get(&revision.name);
        revision.in_flight = runs.map(|runs| number(runs.running + runs.stuck));
    }
    let told = (!engine.replicas.is_empty() && !engine.is_silent).then(|| {
        let sum = |of: fn(&Runs) -> u64| number(engine.runs.values().map(of).sum());
        SagaRuns {
            running: sum(|runs| runs.running),
            stuck: sum(|runs| runs.stuck),
            completed: sum(|runs| runs.completed),
            compensated: sum(|runs| runs.compensated),
        }
    });
    let runs = if engine.is_silent { previous.runs } else { told };
    SagaStatus {
        observed_generation: saga.metadata.generation,
        conditions,
        problems,
        revision: current,
        steps,
        runs,
        revisions,
    }
}

/// The status of a saga that is being deleted, and waits.
#[must_use]
pub fn deleting(saga: &Saga, message: &str, now: Timestamp) -> SagaStatus {
    let mut status = saga.status.clone().unwrap_or_default();
    let mut conditions = Conditions {
        saga,
        previous: &status.conditions,
        now,
        all: Vec::new(),
    };
    conditions.set(
        SagaConditionType::Ready,
        condition::status::FALSE,
        SagaReason::Deleting,
        message,
    );
    let ready = conditions.all;
    status
        .conditions
        .retain(|condition| condition.type_ != SagaConditionType::Ready.as_ref());
    status.conditions.extend(ready);
    status.observed_generation = saga.metadata.generation;
    status
}

/// There are fewer runs than that.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn invalid(problems: &[Problem], revision: Option<&str>) -> String {
    let mut message = problems.first().map(ToString::to_string).unwrap_or_default();
    if problems.len() > 1 {
        message += &format!(" (and {} more in status.problems)", problems.len() - 1);
    }
    if let Some(revision) = revision {
        message += &format!("; runs are still made of revision {revision}");
    }
    message
}

fn list(missing: &BTreeSet<String>) -> String {
    let mut message: Vec<&str> = missing.iter().take(SHOWN).map(String::as_str).collect();
    let more = format!("{} more", missing.len().saturating_sub(SHOWN));
    if missing.len() > SHOWN {
        message.push(&more);
    }
    message.join("; ")
}

struct Conditions<'a> {
    saga: &'a Saga,
    previous: &'a [Condition],
    now: Timestamp,
    all: Vec<Condition>,
}

impl Conditions<'_> {
    fn set(&mut self, type_: SagaConditionType, status: &str, reason: SagaReason, message: &str) {
        let type_ = type_.as_ref().to_owned();
        let before = self.previous.iter().find(|before| before.type_ == type_);
        let since = before.filter(|before| before.status == status);
        self.all.push(Condition {
            last_transition_time: since.map_or(Time(self.now), |before| before.last_transition_time.clone()),
            message: message.to_owned(),
            observed_generation: self.saga.metadata.generation,
            reason: reason.as_ref().to_owned(),
            status: status.to_owned(),
            type_,
        });
    }
}
