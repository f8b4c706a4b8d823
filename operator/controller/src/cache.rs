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
//! - **A relist tells what vanished.** kube's watcher swaps its map after a gap and emits no `Delete` for what is gone;
//!   here the difference is taken and each loss is a [`Change`].
//! - **An index by Microservice**, so that pods and children of one are found without a scan.
//!
//! Guarantees: an older version never replaces a newer one, compared as integers (KEP-5504, stable since 1.35); a late
//! `Delete` of a predecessor never removes an object of the same name that came after it.
//! Caveat: an own write that the watch has not confirmed survives one relist that does not show it, and no second one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::{Resource, runtime::watcher::Event};

use crate::key::Key;

/// Objects of one kind.
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
}

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

struct Inner<K> {
    entries: HashMap<Key, Entry<K>>,
    by_microservice: HashMap<Key, BTreeSet<Key>>,
    /// What a list that is under way has shown so far.
    listing: Option<HashMap<Key, Arc<K>>>,
}

struct Entry<K> {
    object: Arc<K>,
    /// Known from an own write only; no watch has confirmed it.
    unconfirmed: bool,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            inner: RwLock::new(Inner {
                entries: HashMap::new(),
                by_microservice: HashMap::new(),
                listing: None,
            }),
        }
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
    /// Takes an event of the watch in; answers what it changed.
    pub fn observe(&self, event: Event<K>) -> Vec<Change<K>> {
        let mut inner = self.write();
        match event {
            Event::Init => {
                inner.listing = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let key = Key::of(&object);
                if let Some(listing) = &mut inner.listing {
                    listing.insert(key, Arc::new(object));
                }
                Vec::new()
            }
            Event::InitDone => inner.relisted(),
            Event::Apply(object) => inner.set(Arc::new(object), false).into_iter().collect(),
            Event::Delete(object) => inner.deleted(&object).into_iter().collect(),
        }
    }

    /// Takes in what the API server answered to an own write; answers what that changed. The answer may hold more than
    /// was written: what somebody else changed just before, whose own event will then be no news any more.
    pub fn written(&self, object: K) -> (Arc<K>, Option<Change<K>>) {
        let object = Arc::new(object);
        let change = self.write().set(Arc::clone(&object), true);
        (object, change)
    }

    /// Takes in that an own delete of this object went through.
    pub fn deleted(&self, object: &K) {
        self.write().deleted(object);
    }

    /// The object of this name.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read()
            .entries
            .get(key)
            .map(|entry| Arc::clone(&entry.object))
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read()
            .entries
            .values()
            .map(|entry| Arc::clone(&entry.object))
            .collect()
    }

    /// Objects labelled with this Microservice, by name.
    pub fn of_microservice(&self, key: &Key) -> Vec<Arc<K>> {
        let inner = self.read();
        inner
            .by_microservice
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(|key| inner.entries.get(key))
            .map(|entry| Arc::clone(&entry.object))
            .collect()
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
    fn set(&mut self, object: Arc<K>, unconfirmed: bool) -> Option<Change<K>> {
        let key = Key::of(&*object);
        let before = match self.entries.get_mut(&key) {
            Some(entry) if version(&*entry.object) == version(&*object) => {
                entry.unconfirmed &= unconfirmed;
                return None;
            }
            Some(entry) if version(&*entry.object) > version(&*object) => return None,
            Some(entry) => Some(Arc::clone(&entry.object)),
            None => None,
        };
        Some(self.replace(key, before, object, unconfirmed))
    }

    fn replace(&mut self, key: Key, before: Option<Arc<K>>, after: Arc<K>, unconfirmed: bool) -> Change<K> {
        if let Some(before) = &before {
            self.unindex(&key, before);
        }
        if let Some(microservice) = Key::of_microservice(&*after) {
            self.by_microservice
                .entry(microservice)
                .or_default()
                .insert(key.clone());
        }
        let entry = Entry {
            object: Arc::clone(&after),
            unconfirmed,
        };
        self.entries.insert(key, entry);
        Change::Set { before, after }
    }

    fn deleted(&mut self, gone: &K) -> Option<Change<K>> {
        let key = Key::of(gone);
        let entry = self.entries.get(&key)?;
        let successor = entry.object.meta().uid != gone.meta().uid;
        if successor && version(&*entry.object) > version(gone) {
            return None;
        }
        self.remove(&key)
    }

    fn remove(&mut self, key: &Key) -> Option<Change<K>> {
        let entry = self.entries.remove(key)?;
        self.unindex(key, &entry.object);
        Some(Change::Removed(entry.object))
    }

    fn unindex(&mut self, key: &Key, object: &K) {
        let Some(microservice) = Key::of_microservice(object) else {
            return;
        };
        if let Some(keys) = self.by_microservice.get_mut(&microservice) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_microservice.remove(&microservice);
            }
        }
    }

    /// A list is complete: it wins over everything but own writes that the watch has not confirmed yet, which may be
    /// younger than the list.
    fn relisted(&mut self) -> Vec<Change<K>> {
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
        for (key, object) in listed {
            let before = self.entries.get(&key).map(|entry| Arc::clone(&entry.object));
            if before
                .as_ref()
                .is_some_and(|before| version(&**before) == version(&*object))
            {
                self.set(object, false);
                continue;
            }
            let older = before
                .as_ref()
                .is_some_and(|before| version(&**before) > version(&*object));
            // A list older than what a watch has shown before means that the cluster was restored from a backup.
            if !(older && self.spare_unconfirmed(&key)) {
                changes.push(self.replace(key, before, object, false));
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
