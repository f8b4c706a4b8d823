//! The saga engine: which revisions it is handed over, and what its replicas say.
//!
//! ```text
//! Sagas (visits) --current revisions--> Engine --(stream per replica)--> engine
//!                <--answers, runs------        <------------------------
//! ```
//!
//! Only the leader serves the engine: it alone makes revisions and writes statuses. The engine keeps what it was handed, so it needs the
//! operator for nothing that runs.

pub mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;
use trellis_operator_desired::saga::{Replica, Runs};
use trellis_saga_api::v1;

use crate::{key::Key, sagas::Concerned};

/// Most faults' characters that are kept.
const LONGEST_FAULT: usize = 500;

/// What the engine is handed over and says.
#[derive(Debug)]
pub struct Engine {
    inner: Mutex<Inner>,
    /// Wakes sessions.
    handed: watch::Sender<()>,
    concerned: Concerned,
}

/// A revision that new runs are to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// Its name.
    pub revision: String,
    /// The canonical form.
    pub definition: Arc<str>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By saga; None: it is withdrawn.
    handed: BTreeMap<Key, Option<Handed>>,
    /// By pod.
    replicas: BTreeMap<String, Said>,
    sessions: u64,
    /// By saga and revision: what the replica said that spoke last.
    runs: BTreeMap<Key, BTreeMap<String, Runs>>,
    /// When it did.
    told: Option<Instant>,
}

/// What a replica said.
#[derive(Debug, Default)]
struct Said {
    session: u64,
    /// By saga: revision and fault, and when it said so.
    answers: BTreeMap<Key, (String, String, Instant)>,
}

/// A replica of the engine that is connected. What it said goes with it.
#[derive(Debug)]
pub struct Connected {
    engine: Arc<Engine>,
    pod: String,
    session: u64,
}

impl Engine {
    /// Nothing is handed over yet; `concerned` hears what is said of a saga.
    pub fn new(concerned: Concerned) -> Self {
        Self {
            inner: Mutex::default(),
            handed: watch::Sender::new(()),
            concerned,
        }
    }

    /// What new runs of a saga are to be made of; None: there are to be none.
    pub fn hand_over(&self, saga: &Key, handed: Option<Handed>) {
        let mut inner = self.lock();
        if inner.handed.get(saga) == Some(&handed) {
            return;
        }
        inner.handed.insert(saga.clone(), handed);
        drop(inner);
        self.handed.send_replace(());
    }

    /// What the replicas in these pods said of a saga.
    pub fn replicas(&self, saga: &Key, pods: impl IntoIterator<Item = String>) -> Vec<Replica> {
        let inner = self.lock();
        let replica = |pod: String| {
            let said = inner.replicas.get(&pod);
            let answer = said.and_then(|said| said.answers.get(saga));
            Replica {
                answer: answer.map(|(revision, fault, _)| (revision.clone(), fault.clone())),
                pod,
            }
        };
        pods.into_iter().map(replica).collect()
    }

    /// What runs of a saga, by revision.
    pub fn runs(&self, saga: &Key) -> BTreeMap<String, Runs> {
        self.lock().runs.get(saga).cloned().unwrap_or_default()
    }

    /// Whether the engine has said what runs, since this replica leads.
    pub fn is_told(&self) -> bool {
        self.lock().told.is_some()
    }

    /// Whether every replica has said that it starts no runs of a saga any more, and after that what runs.
    pub fn is_withdrawn<'a>(&self, saga: &Key, pods: impl IntoIterator<Item = &'a str>) -> bool {
        let inner = self.lock();
        let Some(told) = inner.told else {
            return false;
        };
        pods.into_iter().all(|pod| {
            let said = inner.replicas.get(pod).and_then(|said| said.answers.get(saga));
            said.is_some_and(|(revision, _, at)| revision.is_empty() && *at < told)
        })
    }

    /// A replica is there.
    pub(super) fn connected(self: &Arc<Self>, pod: &str) -> Connected {
        let mut inner = self.lock();
        inner.sessions += 1;
        let session = inner.sessions;
        let said = Said {
            session,
            ..Said::default()
        };
        inner.replicas.insert(pod.to_owned(), said);
        Connected {
            engine: Arc::clone(self),
            pod: pod.to_owned(),
            session,
        }
    }

    /// What a session has to send, after what it `sent`: by saga, the name of the revision.
    fn news(&self, sent: &mut BTreeMap<Key, Option<String>>) -> Vec<v1::SubscribeResponse> {
        let inner = self.lock();
        let mut news = Vec::new();
        for (saga, handed) in &inner.handed {
            let revision = handed.as_ref().map(|handed| handed.revision.clone());
            if sent.get(saga) == Some(&revision) {
                continue;
            }
            sent.insert(saga.clone(), revision);
            let (namespace, name) = (saga.namespace.clone(), saga.name.clone());
            let message = match handed {
                Some(handed) => v1::subscribe_response::Message::Revision(v1::Revision {
                    namespace,
                    saga: name,
                    revision: handed.revision.clone(),
                    definition: handed.definition.to_string(),
                }),
                None => v1::subscribe_response::Message::Withdrawn(v1::Withdrawn {
                    namespace,
                    saga: name,
                }),
            };
            news.push(v1::SubscribeResponse {
                message: Some(message),
            });
        }
        news
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    /// What became of a revision.
    pub(super) fn answered(&self, answer: v1::Answer) {
        let saga = Key::new(answer.namespace, answer.saga);
        let fault = answer.fault.chars().take(LONGEST_FAULT).collect();
        let mut inner = self.engine.lock();
        if let Some(said) = self.said(&mut inner)
            && inner.handed.contains_key(&saga)
        {
            let answers = &mut inner.replicas.entry(said).or_default().answers;
            answers.insert(saga.clone(), (answer.revision, fault, Instant::now()));
            drop(inner);
            self.engine.concerned.engine(saga);
        }
    }

    /// What runs.
    pub(super) fn runs(&self, runs: v1::RunCounts) {
        let mut all: BTreeMap<Key, BTreeMap<String, Runs>> = BTreeMap::new();
        for of in runs.revisions {
            let saga = Key::new(of.namespace, of.saga);
            let causes = of.stuck_causes.into_iter().map(|stuck| (stuck.run, stuck.cause));
            let runs = Runs {
                running: of.running + of.compensating,
                stuck: of.stuck,
                completed: of.completed,
                compensated: of.compensated,
                stuck_runs: of.stuck_runs,
                causes: causes.collect(),
            };
            all.entry(saga).or_default().insert(of.revision, runs);
        }
        let mut inner = self.engine.lock();
        let before = std::mem::replace(&mut inner.runs, all);
        // Of a saga that is being deleted it is news that this was said after it was withdrawn.
        let mut changed: BTreeSet<Key> = inner
            .handed
            .iter()
            .filter(|(_, handed)| handed.is_none())
            .map(|(saga, _)| saga.clone())
            .collect();
        inner.told = Some(Instant::now());
        let keys: BTreeSet<&Key> = before.keys().chain(inner.runs.keys()).collect();
        let differ = keys
            .into_iter()
            .filter(|key| before.get(*key) != inner.runs.get(*key));
        changed.extend(differ.cloned());
        drop(inner);
        for saga in changed {
            self.engine.concerned.engine(saga);
        }
    }

    /// The pod, if this is still its session.
    fn said(&self, inner: &mut Inner) -> Option<String> {
        let said = inner.replicas.get(&self.pod)?;
        (said.session == self.session).then(|| self.pod.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut inner = self.engine.lock();
        if self.said(&mut inner).is_some() {
            inner.replicas.remove(&self.pod);
        }
        let sagas: Vec<Key> = inner.handed.keys().cloned().collect();
        drop(inner);
        for saga in sagas {
            self.engine.concerned.engine(saga);
        }
    }
}
