//! The one place where documents become what the proxy runs by.
//!
//! ```text
//! file, last good, stream --> offer --> newer? --> valid? --> compiles? --> ports open? --> swap
//!                                          |          |            |             |
//!                                          kept       refused, with every fault; nothing has changed
//! ```
//!
//! **Order.** The highest version wins, whoever brings it. Of equal versions with different digests the stream's is used:
//! an operator of a newer release may say the same in other words, and only the stream comes from an operator that runs.
//!
//! **Whose.** A document for another Microservice is refused, so that a mixed-up mount or stream cannot take over.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use trellis_chassis::readiness::Pending;
use trellis_proxy_config::{ClusterName, Document, ValidDocument};

use crate::{
    discovery::{Discovery, Origin},
    listeners::Listeners,
    snapshot::{Snapshot, Source},
};

/// The configuration in use.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// None until there is a valid document.
    pub(crate) snapshot: Arc<ArcSwapOption<Snapshot>>,
    /// What is known of endpoints.
    pub(crate) discovery: Discovery,
    /// Ports of the documents.
    pub(crate) listeners: Listeners,
    /// Something that should survive a restart has changed.
    pub(crate) changed: Notify,
    /// Version in use, for who waits for a change.
    version: watch::Sender<u64>,
    offering: Mutex<Option<Pending>>,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in use.
    Applied(InUse),
    /// It is the one in use, or older.
    Kept(InUse),
    /// It is bad; what was in use stays.
    Refused(Vec<String>),
}

/// A document in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct InUse {
    /// Its version; 0 if there is none.
    pub(crate) version: u64,
    /// Its digest.
    pub(crate) digest: String,
}

impl Configuration {
    /// No configuration; `ready` is told of the first.
    pub(crate) fn new(listeners: Listeners, ready: Pending) -> Self {
        Self {
            snapshot: Arc::default(),
            discovery: Discovery::new(Instant::now()),
            listeners,
            changed: Notify::new(),
            version: watch::Sender::new(0),
            offering: Mutex::new(Some(ready)),
        }
    }

    /// Uses a document if it is newer and good.
    pub(crate) fn offer(&self, source: Source, json: &[u8]) -> Verdict {
        // One at a time: two sources must not overtake each other.
        let mut ready = self.lock();
        let verdict = self.consider(source, json);
        match &verdict {
            Verdict::Applied(InUse { version, digest }) => {
                tracing::info!(version, digest, %source, "configuration in use");
                if let Some(ready) = ready.take() {
                    ready.ready();
                }
                self.version.send_replace(*version);
                self.changed.notify_one();
            }
            Verdict::Kept(_) => {}
            Verdict::Refused(faults) => {
                tracing::error!(%source, faults = faults.join("; "), "configuration refused");
            }
        }
        verdict
    }

    /// The document in use.
    pub(crate) fn in_use(&self) -> InUse {
        // Not while some parts of a new document are in use and others are not yet.
        let _offering = self.lock();
        self.snapshot
            .load()
            .as_ref()
            .map(|snapshot| InUse::of(&snapshot.document))
            .unwrap_or_default()
    }

    /// Sees every change of the version in use.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Uses endpoints from now on.
    pub(crate) fn endpoints(&self, cluster: &ClusterName, origin: Origin, addresses: Vec<SocketAddr>) {
        // Not between the moment in which a new snapshot has asked what is known and the one in which it is in use.
        let _offering = self.lock();
        if !self.discovery.note(cluster, origin, addresses) {
            return;
        }
        let addresses = self.discovery.addresses(cluster).unwrap_or_default();
        tracing::info!(%cluster, ?origin, count = addresses.len(), "endpoints in use");
        if let Some(cluster) = self
            .snapshot
            .load()
            .as_ref()
            .and_then(|snapshot| snapshot.clusters.get(cluster))
        {
            cluster.replace(&addresses);
        }
        self.changed.notify_one();
    }

    fn consider(&self, source: Source, json: &[u8]) -> Verdict {
        let valid = match ValidDocument::parse(json) {
            Ok(valid) => valid,
            Err(faults) => return Verdict::Refused(faults.iter().map(ToString::to_string).collect()),
        };
        let current = self.snapshot.load_full();
        if let Some(current) = &current {
            let (document, current) = (valid.document(), &current.document);
            if document.config.identity != current.config.identity {
                let (other, own) = (&document.config.identity, &current.config.identity);
                return Verdict::Refused(vec![format!(
                    "config.identity: is for {}/{}; this proxy serves {}/{}",
                    other.namespace, other.microservice, own.namespace, own.microservice
                )]);
            }
            if !is_newer(document, current, source) {
                return Verdict::Kept(InUse::of(current));
            }
        }
        let known = |cluster: &ClusterName| self.discovery.addresses(cluster);
        let snapshot = match Snapshot::compile(&valid, source, current.as_deref(), known) {
            Ok(snapshot) => snapshot,
            Err(faults) => return Verdict::Refused(faults),
        };
        let opened = match self.listeners.prepare(&snapshot.listeners) {
            Ok(opened) => opened,
            Err(faults) => return Verdict::Refused(faults),
        };
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Some(Arc::clone(&snapshot)));
        snapshot.settle();
        self.listeners.commit(&snapshot.listeners, opened);
        self.discovery
            .retain(|cluster| snapshot.clusters.contains_key(cluster));
        Verdict::Applied(InUse::of(&snapshot.document))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pending>> {
        self.offering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    fn of(document: &Document) -> Self {
        Self {
            version: document.version,
            digest: document.digest.clone(),
        }
    }
}

fn is_newer(document: &Document, current: &Document, source: Source) -> bool {
    let same_version = document.version == current.version;
    document.version > current.version
        || same_version && source == Source::Stream && document.digest != current.digest
}
