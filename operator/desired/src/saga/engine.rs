//! What the saga engine says of a saga.

use std::collections::BTreeMap;

use trellis_api::{Saga, condition::SagaReason, names};

/// Most runs that a message names.
const SHOWN: usize = 3;

/// What the deletion of a saga waits for; None: nothing. `is_withdrawn`: the engine starts no new runs, and has said since what runs.
#[must_use]
pub fn waits_for(saga: &Saga, engine: &Engine, is_withdrawn: bool) -> Option<String> {
    let in_flight: u64 = engine.runs.values().map(|runs| runs.running + runs.stuck).sum();
    if in_flight == 0 {
        return (!is_withdrawn).then(|| {
            "the saga is being deleted: the engine has to say that it starts no more runs".to_owned()
        });
    }
    let (name, namespace) = (
        saga.metadata.name.as_deref().unwrap_or_default(),
        saga.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let runs = if in_flight == 1 { "run" } else { "runs" };
    Some(format!(
        "the saga is being deleted, and waits for {in_flight} {runs}: see trellis saga list -n {namespace} --saga {name}; have them taken back with \
         trellis saga cancel -n {namespace} --saga {name}; or give them up, then they can call nobody any more, with \
         kubectl annotate saga {name} -n {namespace} {}=true",
        names::ANNOTATION_ABANDON_RUNS
    ))
}

/// What is known of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Engine {
    /// Its replicas that are ready. None: there is no engine.
    pub replicas: Vec<Replica>,
    /// What runs, by revision.
    pub runs: BTreeMap<String, Runs>,
    /// Whether it has not said yet what runs, since this replica of the operator leads.
    pub is_silent: bool,
}

/// A replica of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    /// Name of its pod.
    pub pod: String,
    /// The revision that it was handed over last, and what is wrong with it; empty: nothing. None: it has not said.
    pub answer: Option<(String, String)>,
}

/// Runs of a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// On their way forward or back.
    pub running: u64,
    /// They cannot go on by themselves.
    pub stuck: u64,
    /// Completed, and kept.
    pub completed: u64,
    /// Compensated, and kept.
    pub compensated: u64,
    /// Some of those that are stuck.
    pub stuck_runs: Vec<String>,
    /// Why they are, by run; not of all.
    pub causes: BTreeMap<String, String>,
}

impl Engine {
    /// Whether every replica makes new runs of a revision; None as the revision: there is none yet.
    pub(super) fn programmed(&self, revision: Option<&str>) -> (bool, SagaReason, String) {
        if self.replicas.is_empty() {
            let message = "no replica of the saga engine is ready: the definition is checked and stored, and nothing runs it";
            return (false, SagaReason::EngineNotInstalled, message.to_owned());
        }
        let Some(revision) = revision else {
            let message = "there is no revision yet that the engine could have";
            return (false, SagaReason::Invalid, message.to_owned());
        };
        let has = |replica: &&Replica| {
            replica
                .answer
                .as_ref()
                .is_some_and(|(has, fault)| has == revision && fault.is_empty())
        };
        let refuses = |replica: &Replica| {
            let (refused, fault) = replica.answer.as_ref()?;
            (refused == revision && !fault.is_empty()).then(|| format!("{} refuses it: {fault}", replica.pod))
        };
        if let Some(refusal) = self.replicas.iter().find_map(refuses) {
            return (
                false,
                SagaReason::EngineRefused,
                format!("revision {revision}: {refusal}"),
            );
        }
        let having = self.replicas.iter().filter(has).count();
        let all = self.replicas.len();
        match self.replicas.iter().find(|replica| !has(replica)) {
            None => {
                let message = format!("{all} of {all} replicas of the saga engine have revision {revision}");
                (true, SagaReason::Programmed, message)
            }
            Some(missing) => {
                let message = format!(
                    "{having} of {all} replicas of the saga engine have revision {revision}; {} has not said so yet",
                    missing.pod
                );
                (false, SagaReason::Pending, message)
            }
        }
    }

    /// Whether a revision has runs that have not ended.
    #[must_use]
    pub fn is_in_flight(&self, revision: &str) -> bool {
        self.runs
            .get(revision)
            .is_some_and(|runs| runs.running + runs.stuck > 0)
    }

    /// What is to be said of runs that are stuck; None: none is.
    pub(super) fn stuck(&self) -> Option<String> {
        let count: u64 = self.runs.values().map(|runs| runs.stuck).sum();
        let named: Vec<&str> = self
            .runs
            .values()
            .flat_map(|runs| &runs.stuck_runs)
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        (count > 0).then(|| {
            let (runs, are) = if count == 1 {
                ("run", "is")
            } else {
                ("runs", "are")
            };
            format!(
                "{count} {runs} {are} stuck: {}; look with: trellis saga show RUN",
                named.join(", ")
            )
        })
    }
}
