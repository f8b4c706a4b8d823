//! Sagas: their revisions and statuses, made by one task, which the leader runs.
//!
//! ```text
//! saga edited --compile--> faults: status
//!                          none: ConfigMap of the revision, if it is not there; the oldest beyond those that are kept go; status
//! a Microservice comes, goes or is edited: the statuses of the sagas of its namespace
//! ```
//!
//! A revision is written before the status names it, and is never changed: what is there under its name has its content.

mod deletion;
mod stuck;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::{sync::mpsc, time};
use trellis_api::{Problem, Saga, condition::SagaReason, names, saga::Revision};
use trellis_chassis::drain;
use trellis_operator_desired::saga::{self, Compiled, Made};

use self::stuck::Told;
use crate::{
    cache::Change,
    caches::{Caches, Child as _},
    engine::{Engine, Handed},
    error::chain,
    events::Events,
    key::Key,
    microservice::dereference::is_ready,
    observed::Observed,
    queue::{Cause, Done},
    statuses::{REQUEST, Statuses},
    visits::{self, Visit},
    workers::Trigger,
};

/// Time between visits of a saga at rest.
const VISIT: Duration = Duration::from_secs(600);

/// Says which sagas changes concern. Clones tell the same task.
#[derive(Debug, Clone)]
pub struct Concerned {
    tell: mpsc::UnboundedSender<Trigger>,
    tidy: Tidy,
    /// The Microservice of the engine.
    engine: Arc<Key>,
}

/// Sagas whose status names every revision that there is, so that nobody has to look for others.
#[derive(Debug, Clone, Default)]
struct Tidy(Arc<Mutex<HashSet<Key>>>);

/// Makes revisions and writes statuses.
pub struct Sagas {
    client: Client,
    caches: Arc<Caches>,
    statuses: Statuses,
    engine: Arc<Engine>,
    /// The Microservice of the engine.
    engine_key: Key,
    /// Makes Microservices due: that of the engine, for what revisions call.
    triggers: mpsc::UnboundedSender<Trigger>,
    tidy: Tidy,
    /// What came of each saga's spec.
    compiled: Mutex<HashMap<Key, Known>>,
    events: Events,
    /// Of which stuck runs Events have told.
    told: Mutex<HashMap<Key, Told>>,
}

/// What came of the spec of a generation.
#[derive(Clone)]
struct Known {
    uid: Option<String>,
    generation: Option<i64>,
    compiled: Arc<Result<Compiled, Vec<Problem>>>,
}

/// Why a revision is not there.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to write the revision: this replica does not lead")]
    Deposed,
    #[error("failed to write ConfigMap {0} in time")]
    Late(String),
    #[error("failed to write ConfigMap {0}")]
    Refused(String, #[source] kube::Error),
    #[error("ConfigMap {0} belongs to somebody else: delete it or rename the saga")]
    NotOwned(String),
    #[error("ConfigMap {0} has another content than its revision: delete it")]
    Different(String),
}

impl Concerned {
    /// What tells the task, and what the task is told by. `engine` is the Microservice of the engine.
    pub fn channel(engine: Key) -> (Self, mpsc::UnboundedReceiver<Trigger>) {
        let (tell, told) = mpsc::unbounded_channel();
        let tidy = Tidy::default();
        let engine = Arc::new(engine);
        (Self { tell, tidy, engine }, told)
    }

    /// Takes in a change of a saga, also one of its status.
    pub fn saga(&self, change: &Change<Observed<Saga>>) {
        let generation = |observed: &Observed<Saga>| observed.meta().generation;
        let cause = match change {
            Change::Set {
                before: Some(before),
                after,
            } if generation(before) == generation(after) => Cause::Event,
            Change::Set { .. } | Change::Removed(_) => Cause::User,
        };
        self.tell(Key::of(&**change.object()), cause);
    }

    /// Takes in a change of a pod: which replicas of the engine are ready is in every status.
    pub fn pod(&self, change: &Change<Pod>, sagas: impl FnOnce() -> Vec<Key>) {
        if Key::of_microservice(&**change.object()).as_ref() != Some(&*self.engine) {
            return;
        }
        let (before, after) = match change {
            Change::Set { before, after } => (before.as_deref().is_some_and(is_ready), is_ready(after)),
            Change::Removed(pod) => (is_ready(pod), false),
        };
        if before != after {
            sagas().into_iter().for_each(|saga| self.engine(saga));
        }
    }

    /// Takes in a change of a Microservice, for the sagas of its namespace; not one of its status.
    pub fn microservice(&self, change: &Change<Observed>, sagas: impl FnOnce() -> Vec<Key>) {
        if let Change::Set {
            before: Some(before),
            after,
        } = change
            && before.meta().generation == after.meta().generation
        {
            return;
        }
        let namespace = change.object().meta().namespace.clone().unwrap_or_default();
        for key in sagas().into_iter().filter(|key| key.namespace == namespace) {
            self.tell(key, Cause::Event);
        }
    }

    /// The engine has said something of a saga.
    pub fn engine(&self, saga: Key) {
        self.tell(saga, Cause::Event);
    }

    /// Takes in a change of a revision; other ConfigMaps are nothing to sagas.
    pub fn config_map(&self, change: &Change<ConfigMap>) {
        let metadata = &change.object().metadata;
        let labels = metadata.labels.as_ref();
        if let (Some(saga), Some(namespace)) = (
            labels.and_then(|labels| labels.get(names::LABEL_SAGA)),
            &metadata.namespace,
        ) {
            let key = Key::new(namespace, saga);
            self.tidy.set(&key, false);
            self.tell(key, Cause::Event);
        }
    }

    fn tell(&self, key: Key, cause: Cause) {
        // Nobody listens any more only when the process ends.
        let _ = self.tell.send((key, cause));
    }
}

impl Tidy {
    fn set(&self, key: &Key, is_tidy: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_tidy {
            all.insert(key.clone());
        } else {
            all.remove(key);
        }
    }

    fn has(&self, key: &Key) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(key)
    }
}

impl Sagas {
    /// A task that reads `caches`, whose changes `concerned` is told, writes by the client of `statuses`, and hands revisions over to
    /// the engine.
    pub fn new(
        caches: Arc<Caches>,
        concerned: &Concerned,
        statuses: Statuses,
        engine: Arc<Engine>,
        triggers: mpsc::UnboundedSender<Trigger>,
        events: Events,
    ) -> Self {
        Self {
            client: statuses.client.clone(),
            caches,
            statuses,
            engine,
            engine_key: (*concerned.engine).clone(),
            triggers,
            tidy: concerned.tidy.clone(),
            compiled: Mutex::default(),
            events,
            told: Mutex::default(),
        }
    }

    /// Works until the process is told to stop.
    pub async fn run(self, changes: mpsc::UnboundedReceiver<Trigger>, drain: drain::Watch) {
        let authority = self.statuses.authority.clone();
        visits::run(self, &authority, changes, drain).await;
    }

    /// What comes of the spec; looked at anew for each generation, and at each visit if it has faults: one may be that the machine had
    /// nothing left to read it with.
    fn compile(&self, key: &Key, saga: &Saga) -> Arc<Result<Compiled, Vec<Problem>>> {
        let (uid, generation) = (&saga.metadata.uid, saga.metadata.generation);
        let mut all = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(key) {
            Some(known) if known.uid == *uid && known.generation == generation => Arc::clone(&known.compiled),
            _ => {
                let compiled = Arc::new(saga::compile(saga));
                if compiled.is_ok() {
                    let known = Known {
                        uid: uid.clone(),
                        generation,
                        compiled: Arc::clone(&compiled),
                    };
                    all.insert(key.clone(), known);
                } else {
                    all.remove(key);
                }
                compiled
            }
        }
    }

    /// Hands the revision over that new runs are made of.
    fn hand_over(&self, key: &Key, compiled: Option<&Compiled>, current: Option<&str>) {
        let Some(current) = current else {
            return self.engine.hand_over(key, None);
        };
        let definition: Option<Arc<str>> = match compiled.filter(|compiled| compiled.revision == current) {
            Some(compiled) => Some(compiled.text.as_str().into()),
            None => {
                let name = names::saga_revision(&key.name, current);
                let config_map = self.caches.config_maps.get(&Key::new(&*key.namespace, &name));
                let definition = config_map
                    .as_ref()
                    .and_then(|config_map| definition_of(config_map));
                definition.map(Into::into)
            }
        };
        // Without it the engine keeps what it has.
        if let Some(definition) = definition {
            let handed = Handed {
                revision: current.to_owned(),
                definition,
            };
            self.engine.hand_over(key, Some(handed));
        }
    }

    /// Whether there is an engine, ready or not.
    fn has_engine(&self) -> bool {
        self.caches.microservices.get(&self.engine_key).is_some()
    }

    /// What the engine says of a saga.
    fn engine_of(&self, key: &Key) -> saga::Engine {
        let pods = self.caches.pods.of_microservice(&self.engine_key);
        let ready = pods.iter().filter(|pod| is_ready(pod)).map(|pod| pod.name_any());
        saga::Engine {
            replicas: self.engine.replicas(key, ready),
            runs: self.engine.runs(key),
            is_silent: self.has_engine() && !self.engine.is_told(),
        }
    }

    fn forget(&self, key: &Key) {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.engine.hand_over(key, None);
        self.tidy.set(key, false);
        self.compiled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    /// The revisions that there are: all that are found, or those that the status names if it is known to name all.
    fn revisions(&self, key: &Key, saga: &Saga) -> Vec<Revision> {
        let namespace = saga.namespace().unwrap_or_default();
        let is_tidy = self.tidy.has(key);
        // Before they are looked for: one that comes meanwhile makes it untidy again.
        self.tidy.set(key, true);
        let named: Vec<Arc<ConfigMap>> = match saga.status.as_ref().map(|status| &status.revisions) {
            Some(named) if is_tidy => named
                .iter()
                .filter_map(|revision| {
                    self.caches
                        .config_maps
                        .get(&Key::new(&namespace, &revision.config_map))
                })
                .collect(),
            _ => self.caches.config_maps.all(),
        };
        named
            .iter()
            .filter(|config_map| config_map.metadata.namespace.as_ref() == Some(&namespace))
            .filter_map(|config_map| saga::of_config_map(saga, config_map))
            .collect()
    }

    /// Sees to it that the revision is there.
    async fn make(&self, saga: &Saga, compiled: &Compiled) -> Result<Revision, Error> {
        let wanted = saga::config_map(saga, compiled);
        let name = wanted.name_any();
        let namespace = saga.namespace().unwrap_or_default();
        let key = Key::new(&namespace, &name);
        if let Some(live) = self.caches.config_maps.get(&key) {
            return judge(saga, compiled, &live);
        }
        if !self.statuses.authority.holds() {
            return Err(Error::Deposed);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let parameters = PostParams {
            field_manager: Some(names::FIELD_MANAGER_SAGA.to_owned()),
            ..PostParams::default()
        };
        let create = async {
            match api.create(&parameters, &wanted).await {
                Err(kube::Error::Api(status)) if status.code == 409 => api.get(&name).await,
                answer => answer,
            }
        };
        let answer = time::timeout(REQUEST, create).await;
        let mut live = answer
            .map_err(|_| Error::Late(name.clone()))?
            .map_err(|error| Error::Refused(name.clone(), error))?;
        live.trim();
        let revision = judge(saga, compiled, &live)?;
        self.caches.config_maps.written(live);
        self.calls_changed();
        Ok(revision)
    }

    /// The engine's sidecars are to reach others.
    fn calls_changed(&self) {
        // Nobody listens any more only when the process ends.
        let _ = self.triggers.send((self.engine_key.clone(), Cause::Event));
    }

    /// Deletes the revisions that are not kept; whether all of them are gone.
    async fn prune(&self, saga: &Saga, revisions: Vec<Revision>, current: &str) -> bool {
        let mut all_gone = true;
        let namespace = saga.namespace().unwrap_or_default();
        let key = Key::of(saga);
        let engine = self.engine_of(&key);
        if self.has_engine() && !self.engine.is_told() {
            // What runs is not known yet.
            return false;
        }
        for revision in saga::excess(revisions, Some(current)) {
            // The engine's sidecars know by it what its runs call.
            if engine.is_in_flight(&revision.name) {
                continue;
            }
            let Some(live) = self
                .caches
                .config_maps
                .get(&Key::new(&namespace, &revision.config_map))
            else {
                continue;
            };
            if !self.statuses.authority.holds() {
                return false;
            }
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
            let parameters = DeleteParams::default().preconditions(Preconditions {
                uid: live.metadata.uid.clone(),
                resource_version: None,
            });
            let answer = time::timeout(REQUEST, api.delete(&revision.config_map, &parameters)).await;
            match answer {
                Ok(Ok(_)) => {
                    self.caches.config_maps.deleted(&live);
                    self.calls_changed();
                }
                // It is tried again at the next visit.
                Ok(Err(error)) => {
                    all_gone = false;
                    tracing::warn!(saga = %Key::of(saga), config_map = revision.config_map, error = chain(&error), "failed to delete an old revision");
                }
                Err(_) => {
                    all_gone = false;
                    tracing::warn!(saga = %Key::of(saga), config_map = revision.config_map, "failed to delete an old revision in time");
                }
            }
        }
        all_gone
    }
}

impl Visit for Sagas {
    fn all(&self) -> Vec<Key> {
        let all = self.caches.sagas.all();
        all.iter().map(|saga| Key::of(&**saga)).collect()
    }

    async fn visit(&self, key: &Key) -> Done {
        let observed = self.caches.sagas.get(key);
        let Some(saga) = observed.as_ref().and_then(|observed| observed.readable()) else {
            self.forget(key);
            return Done::Gone;
        };
        if saga.metadata.deletion_timestamp.is_some() {
            // Its revisions go with it: it owns them.
            return self.let_go(key, saga).await;
        }
        self.hold(key, saga).await;
        let compiled = self.compile(key, saga);
        let mut revisions = self.revisions(key, saga);
        let mut done = Done::Visit(VISIT);
        let made;
        let outcome = match &*compiled {
            Err(problems) => Err(problems.as_slice()),
            Ok(compiled) => {
                made = match self.make(saga, compiled).await {
                    Ok(revision) => {
                        revisions.retain(|known| known.name != revision.name);
                        revisions.push(revision);
                        if !self.prune(saga, revisions.clone(), &compiled.revision).await {
                            self.tidy.set(key, false);
                        }
                        Made::Revision
                    }
                    Err(error) => {
                        tracing::warn!(saga = %key, error = chain(&error), "failed to make a revision; trying again");
                        done = Done::Failed;
                        Made::Failed(chain(&error))
                    }
                };
                Ok((compiled, &made))
            }
        };
        let microservices = self.caches.readable_microservices();
        let beside = microservices
            .into_iter()
            .filter(|cr| cr.metadata.namespace.as_deref() == Some(&key.namespace));
        let seen = saga::Seen {
            revisions,
            microservices: beside.collect(),
            engine: self.engine_of(key),
        };
        let engine = seen.engine.clone();
        let status = saga::status(saga, outcome, seen, Timestamp::now());
        self.hand_over(key, compiled.as_ref().as_ref().ok(), status.revision.as_deref());
        if saga.status.as_ref() == Some(&status) {
            self.statuses.skipped::<Saga>();
            self.tell_of_stuck(key, saga, &engine);
            return done;
        }
        match self.statuses.write(&**saga, &status).await {
            Ok(written) => {
                self.caches.sagas.written(written);
                self.tell_of_stuck(key, saga, &engine);
                done
            }
            Err(error) => {
                self.tidy.set(key, false);
                tracing::warn!(saga = %key, error = chain(&error), "failed to report on a saga; trying again");
                Done::Failed
            }
        }
    }
}

impl Sagas {
    /// An Event for runs that are newly stuck, if the saga wants one. `saga` is as it was before its status was written.
    fn tell_of_stuck(&self, key: &Key, saga: &Saga, engine: &saga::Engine) {
        if engine.is_silent {
            return;
        }
        let note = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let before = || Told::by_status(saga.status.as_ref(), engine);
            told.entry(key.clone()).or_insert_with(before).news(engine)
        };
        let is_wanted = saga
            .spec
            .on_stuck
            .as_ref()
            .and_then(|on_stuck| on_stuck.event)
            .unwrap_or(true);
        if let (Some(note), true) = (note, is_wanted) {
            self.events
                .warn(saga.object_ref(&()), SagaReason::RunsStuck.as_ref(), &note);
        }
    }
}

/// The revision, if what is there under its name is it.
fn judge(saga: &Saga, compiled: &Compiled, live: &ConfigMap) -> Result<Revision, Error> {
    let name = live.name_any();
    let Some(revision) = saga::of_config_map(saga, live) else {
        return Err(Error::NotOwned(name));
    };
    if definition_of(live) != Some(&*compiled.text) {
        return Err(Error::Different(name));
    }
    Ok(revision)
}

fn definition_of(config_map: &ConfigMap) -> Option<&str> {
    let data = config_map.data.as_ref()?;
    data.get(names::KEY_SAGA_DEFINITION).map(String::as_str)
}

#[cfg(test)]
mod tests;
