//! The status of a saga.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use trellis_api::{
    Microservice, Problem, Saga, SagaStatus,
    condition::{self, SagaConditionType, SagaReason},
    saga::Revision,
};

use super::{Compiled, participants, revision};

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

/// The status. `revisions` are those that exist, `microservices` those of the saga's namespace.
#[must_use]
pub fn status(
    saga: &Saga,
    compiled: Result<(&Compiled, &Made), &[Problem]>,
    mut revisions: Vec<Revision>,
    microservices: &[Arc<Microservice>],
    now: Timestamp,
) -> SagaStatus {
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
            let missing = participants::missing(&compiled.program.definition, microservices);
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
    let programmed = match compiled {
        Ok((_, Made::Failed(message))) => (SagaReason::ApplyFailed, message.clone()),
        _ => (
            SagaReason::EngineNotInstalled,
            "there is no saga engine in this cluster yet: the definition is checked and stored, and nothing runs it".to_owned(),
        ),
    };
    conditions.set(SagaConditionType::Programmed, no, programmed.0, &programmed.1);
    let (reason, message) = failing.unwrap_or(programmed);
    conditions.set(SagaConditionType::Ready, no, reason, &message);
    let conditions = conditions.all;
    // What runs are made of stays the last good one, as long as it is there.
    let current = match compiled {
        Ok((compiled, Made::Revision)) => Some(compiled.revision.clone()),
        _ => previous
            .revision
            .filter(|name| revisions.iter().any(|revision| revision.name == *name)),
    };
    let steps = match compiled {
        Ok((compiled, Made::Revision)) => i32::try_from(compiled.program.definition.steps.len()).ok(),
        _ => previous.steps.filter(|_| current.is_some()),
    };
    revision::sort(&mut revisions, current.as_deref());
    revisions.truncate(revision::KEPT);
    SagaStatus {
        observed_generation: saga.metadata.generation,
        conditions,
        problems,
        revision: current,
        steps,
        revisions,
    }
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
