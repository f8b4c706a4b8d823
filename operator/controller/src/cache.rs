//! What the watches know of the cluster, one cache a kind, shared by everyone who reads.
//!
//! ```text
//! watcher events ---> observe ---> objects ---> get, all, of_microservice
//! own writes -------> written --/      \-----> Change (what triggers are made of)
//! ```
//!
//! Why not kube's reflector store:
//! - **Read your writes.** What the API server answered to an own write goes into the cache at once, so the next pass
//!   never decides on what it has itself replaced (the stale-state class of Sieve, OSDI'22; KEP-5647). The watch event
//!   that follows carries the same resource version and is no change: own writes trigger nothing.
//! - **A listener hears of every change**, by watch or by own write, each once and in the order of versions: what is
//!   published from a cache must not hang on which of the two came first.
//! - **A relist tells what vanished.** kube's watcher swaps its map after a gap and emits no `Delete` for what is gone;
//!   here the difference is taken and each loss is a [`Change`].
//! - **An index by Microservice**, so that pods and children of one are found without a scan.
//! - **Children are kept as JSON** ([`kept`]), a tenth of what they take as their types.
//!
//! Guarantees: an older version never replaces a newer one, compared as integers (KEP-5504, stable since 1.35); a late
//! `Delete` never removes what came after it, and a late answer to an own write never brings back what the watch has told is gone.
//! A relist wins over every own write whose answer came before it began: lists are asked for as of now. An answer that came
//! meanwhile may be younger than the list, so it survives this one and no second one.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::{Resource, runtime::watcher::Event};
use serde::{Serialize, de::DeserializeOwned};

use self::kept::{Form, Kept};
use crate::key::Key;

mod kept;

/// Objects of one kind.
pub struct Cache<K> {
    /// How objects are kept; None: as they are.
    form: Option<Form<K>>,
    inner: RwLock<Inner<K>>,
    listener: OnceLock<Listener<K>>,
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// Something that became different.
pub enum Change<K> {
    /// The object is new or changed.
    Set {
        /// What was known before.
        before: Option<Arc<K>>,
        /// What is known now.
        after: Arc<K>,
    },
    /// The object is gone.
    Removed(Arc<K>),
}

/// A [`Change`] whose objects have not been read yet: a list may change a thousand at once.
enum KeptChange<K> {
    Set { before: Option<Kept<K>>, after: Kept<K> },
    Removed(Kept<K>),
}

struct Inner<K> {
    entries: HashMap<Key, Entry<K>>,
    by_microservice: HashMap<Key, BTreeSet<Key>>,
    /// Whether a list has come to its end.
    was_listed: bool,
    /// What a list that is under way has shown so far.
    listing: Option<HashMap<Key, Entry<K>>>,
    /// What the watch has told is gone, and as of which version; the last [`GONE`] of them.
    gone: VecDeque<(Key, u64)>,
}

/// More than go while a request is under way, unless a whole namespace does; what is late beyond that stays until the next list.
const GONE: usize = 1_000;

struct Entry<K> {
    object: Kept<K>,
    /// Place in the order of versions of its kind.
    version: u64,
    uid: Option<String>,
    microservice: Option<Key>,
    /// Known from an own write only: no watch has confirmed it, and no list has begun since.
    unconfirmed: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            form: None,
            inner: RwLock::new(Inner {
                entries: HashMap::new(),
                by_microservice: HashMap::new(),
                was_listed: false,
                listing: None,
                gone: VecDeque::new(),
            }),
            listener: OnceLock::new(),
        }
    }
}

impl<K: Serialize + DeserializeOwned> Cache<K> {
    /// A cache that keeps its objects as JSON.
    pub fn packed() -> Self {
        Self {
            form: Some(Form::json()),
            ..Self::default()
        }
    }
}

impl<K> KeptChange<K> {
    fn read(&self) -> Option<Change<K>> {
        Some(match self {
            Self::Set { before, after } => Change::Set {
                before: before.as_ref().and_then(Kept::read),
                after: after.read()?,
            },
            Self::Removed(object) => Change::Removed(object.read()?),
        })
    }
}

impl<K> Change<K> {
    /// The object as last known.
    pub const fn object(&self) -> &Arc<K> {
        match self {
            Self::Set { after, .. } => after,
            Self::Removed(object) => object,
        }
    }
}

impl<K: Resource> Cache<K> {
    /// From now on `listener` hears of every change. Only the first one given does. It is called under the lock of the
    /// cache and must not use the cache.
    pub fn tell(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.listener.get_or_init(|| Box::new(listener));
    }

    /// Takes an event of the watch in; answers what it changed, one after the other: not all need to be in memory.
    pub fn observe(&self, event: Event<K>) -> impl Iterator<Item = Change<K>> + use<K> {
        let changes = match event {
            Event::Init => {
                self.write().begin_list();
                Vec::new()
            }
            Event::InitApply(object) => {
                let (key, entry) = self.entry(&Arc::new(object), false);
                if let Some(listing) = &mut self.write().listing {
                    listing.insert(key, entry);
                }
                Vec::new()
            }
            Event::InitDone => self.change(Inner::relisted),
            Event::Apply(object) => {
                let (key, entry) = self.entry(&Arc::new(object), false);
                let change = self.change(|inner| inner.set(key, entry));
                change.into_iter().collect()
            }
            Event::Delete(object) => {
                let change = self.change(|inner| inner.told_gone(&object));
                change.into_iter().collect()
            }
        };
        changes.into_iter().filter_map(|change| change.read())
    }

    /// Takes in what the API server answered to an own write, or to a look; answers what that changed. The answer may hold more than
    /// was written: what somebody else changed just before, whose own event will then be no news any more.
    pub fn written(&self, object: K) -> (Arc<K>, Option<Change<K>>) {
        let object = Arc::new(object);
        let (key, entry) = self.entry(&object, true);
        let change = self.change(|inner| inner.written(key, entry));
        (object, change.and_then(|change| change.read()))
    }

    /// Takes in that an own delete of this object went through.
    pub fn deleted(&self, object: &K) {
        self.change(|inner| inner.deleted(object));
    }

    /// Changes the cache and tells the listener, before anybody else can change it again.
    fn change<C>(&self, change: impl FnOnce(&mut Inner<K>) -> C) -> C
    where
        for<'a> &'a C: IntoIterator<Item = &'a KeptChange<K>>,
    {
        let mut inner = self.write();
        let changes = change(&mut inner);
        if let Some(listener) = self.listener.get() {
            let read = (&changes).into_iter().filter_map(KeptChange::read);
            read.for_each(|change| listener(&change));
        }
        changes
    }

    /// The object of this name.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        let kept = self.read().entries.get(key).map(|entry| entry.object.clone());
        kept?.read()
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        let kept: Vec<Kept<K>> = self
            .read()
            .entries
            .values()
            .map(|entry| entry.object.clone())
            .collect();
        kept.iter().filter_map(Kept::read).collect()
    }

    /// Objects labelled with this Microservice, by name.
    pub fn of_microservice(&self, key: &Key) -> Vec<Arc<K>> {
        let inner = self.read();
        let kept: Vec<Kept<K>> = inner
            .by_microservice
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|key| inner.entries.get(key))
            .map(|entry| entry.object.clone())
            .collect();
        drop(inner);
        kept.iter().filter_map(Kept::read).collect()
    }

    /// What is kept of an object, made before the lock is taken.
    fn entry(&self, object: &Arc<K>, unconfirmed: bool) -> (Key, Entry<K>) {
        let entry = Entry {
            object: Kept::new(object, self.form.as_ref()),
            version: version(&**object),
            uid: object.meta().uid.clone(),
            microservice: Key::of_microservice(&**object),
            unconfirmed,
        };
        (Key::of(&**object), entry)
    }

    /// Whether all objects were seen once: what is not here is not there.
    pub fn was_listed(&self) -> bool {
        self.read().was_listed
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().entries.len()
    }

    // Every write below leaves the maps whole between statements that could panic, so a poisoned lock is still good.
    fn read(&self) -> RwLockReadGuard<'_, Inner<K>> {
        self.inner
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K>> {
        self.inner
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<K: Resource> Inner<K> {
    fn set(&mut self, key: Key, entry: Entry<K>) -> Option<KeptChange<K>> {
        match self.entries.get_mut(&key) {
            Some(known) if known.version == entry.version => {
                known.unconfirmed &= entry.unconfirmed;
                None
            }
            Some(known) if known.version > entry.version => None,
            _ => Some(self.replace(key, entry)),
        }
    }

    fn replace(&mut self, key: Key, entry: Entry<K>) -> KeptChange<K> {
        if let Some(known) = self.entries.get(&key)
            && known.microservice != entry.microservice
        {
            let microservice = known.microservice.clone();
            self.unindex(&key, microservice.as_ref());
        }
        if let Some(microservice) = &entry.microservice {
            self.by_microservice
                .entry(microservice.clone())
                .or_default()
                .insert(key.clone());
        }
        let after = entry.object.clone();
        let before = self.entries.insert(key, entry);
        KeptChange::Set {
            before: before.map(|before| before.object),
            after,
        }
    }

    fn told_gone(&mut self, gone: &K) -> Option<KeptChange<K>> {
        // The version of the event: of the deletion, or of the edit that took away the label by which it is watched.
        let (key, version) = (Key::of(gone), version(gone));
        if self.gone.len() == GONE {
            self.gone.pop_front();
        }
        self.gone.push_back((key.clone(), version));
        if self.entries.get(&key)?.version > version {
            return None;
        }
        self.remove(&key)
    }

    fn written(&mut self, key: Key, entry: Entry<K>) -> Option<KeptChange<K>> {
        let is_late = |(gone, at): &(Key, u64)| *gone == key && entry.version < *at;
        if !self.entries.contains_key(&key) && self.gone.iter().any(is_late) {
            return None;
        }
        self.set(key, entry)
    }

    fn deleted(&mut self, gone: &K) -> Option<KeptChange<K>> {
        let key = Key::of(gone);
        let entry = self.entries.get(&key)?;
        let successor = entry.uid != gone.meta().uid;
        if successor && entry.version > version(gone) {
            return None;
        }
        self.remove(&key)
    }

    fn remove(&mut self, key: &Key) -> Option<KeptChange<K>> {
        let entry = self.entries.remove(key)?;
        self.unindex(key, entry.microservice.as_ref());
        Some(KeptChange::Removed(entry.object))
    }

    fn unindex(&mut self, key: &Key, microservice: Option<&Key>) {
        let Some(microservice) = microservice else {
            return;
        };
        if let Some(keys) = self.by_microservice.get_mut(microservice) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_microservice.remove(microservice);
            }
        }
    }

    /// A list is about to be asked for, so it will show what was written before, or that it is gone.
    fn begin_list(&mut self) {
        self.listing = Some(HashMap::new());
        for entry in self.entries.values_mut() {
            entry.unconfirmed = false;
        }
    }

    /// A list is complete: it wins over everything but what was written since it began, which may be younger.
    fn relisted(&mut self) -> Vec<KeptChange<K>> {
        self.was_listed = true;
        let listed = self.listing.take().unwrap_or_default();
        let mut changes = Vec::new();
        let absent: Vec<Key> = self
            .entries
            .keys()
            .filter(|key| !listed.contains_key(key))
            .cloned()
            .collect();
        for key in absent {
            if !self.spare_unconfirmed(&key) {
                changes.extend(self.remove(&key));
            }
        }
        for (key, entry) in listed {
            let before = self.entries.get(&key).map(|entry| entry.version);
            if before == Some(entry.version) {
                self.set(key, entry);
                continue;
            }
            let older = before.is_some_and(|before| before > entry.version);
            if !(older && self.spare_unconfirmed(&key)) {
                // A list older than what a watch has shown before means that the cluster was restored from a backup.
                if older {
                    self.gone.clear();
                }
                changes.push(self.replace(key, entry));
            }
        }
        changes
    }

    fn spare_unconfirmed(&mut self, key: &Key) -> bool {
        self.entries
            .get_mut(key)
            .is_some_and(|entry| std::mem::take(&mut entry.unconfirmed))
    }
}

/// Place of a version in the order of versions of its kind; 0 if there is none.
fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
