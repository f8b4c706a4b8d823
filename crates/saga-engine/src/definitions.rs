//! Revisions of definitions, compiled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;
use trellis_saga_core::{Definition, Program, plan::Plan};

use crate::store::{Revision, RevisionId};

/// A revision that runs can be made of.
#[derive(Debug)]
pub struct Compiled {
    /// Its number in the store.
    pub id: RevisionId,
    /// Its name.
    pub revision: String,
    /// The definition with its expressions compiled.
    pub program: Program,
    /// What decisions need to know of it.
    pub plan: Plan,
}

/// All revisions, and which of them new runs are made of.
#[derive(Debug, Default)]
pub struct Definitions(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: HashMap<RevisionId, Arc<Compiled>>,
    /// By namespace and saga.
    current: BTreeMap<(String, String), RevisionId>,
}

/// A revision is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not the canonical form of a definition.
    #[error("failed to read the revision")]
    Unreadable(#[from] serde_json::Error),
    /// It has faults; the operator hands over none that has.
    #[error("failed to compile the revision: {0}")]
    Faulty(String),
}

/// Whether a revision is of use.
///
/// # Errors
/// It is of none.
pub fn check(revision: &Revision) -> Result<(), Error> {
    Compiled::new(RevisionId(0), revision).map(|_| ())
}

impl Compiled {
    /// A revision, compiled.
    ///
    /// # Errors
    /// It is of no use.
    pub fn new(id: RevisionId, revision: &Revision) -> Result<Self, Error> {
        let definition: Definition = serde_json::from_str(&revision.definition)?;
        let program = trellis_saga_core::compile(&definition).map_err(|faults| {
            let first = faults.first().map(ToString::to_string);
            Error::Faulty(first.unwrap_or_default())
        })?;
        let plan =
            Plan::new(&definition).ok_or_else(|| Error::Faulty("its steps have no order".to_owned()))?;
        Ok(Self {
            id,
            revision: revision.revision.clone(),
            program,
            plan,
        })
    }

    /// Namespace of the saga.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.program.definition.namespace
    }

    /// The saga.
    #[must_use]
    pub fn saga(&self) -> &str {
        &self.program.definition.name
    }
}

impl Definitions {
    /// Takes a revision in, whether it is current or not.
    ///
    /// # Errors
    /// It is of no use.
    pub fn add(&self, id: RevisionId, revision: &Revision) -> Result<(), Error> {
        if self.get(id).is_none() {
            let compiled = Arc::new(Compiled::new(id, revision)?);
            self.0.write().all.insert(id, compiled);
        }
        Ok(())
    }

    /// Takes a revision in, or that it is the current one, or is not any more.
    ///
    /// # Errors
    /// It is of no use.
    pub fn put(&self, id: RevisionId, revision: &Revision) -> Result<(), Error> {
        let compiled = match self.get(id) {
            Some(compiled) => compiled,
            None => Arc::new(Compiled::new(id, revision)?),
        };
        let saga = (revision.namespace.clone(), revision.saga.clone());
        let mut inner = self.0.write();
        inner.all.insert(id, compiled);
        if revision.is_current {
            inner.current.insert(saga, id);
        } else if inner.current.get(&saga) == Some(&id) {
            inner.current.remove(&saga);
        }
        Ok(())
    }

    /// Forgets a revision.
    pub fn forget(&self, id: RevisionId) {
        self.0.write().all.remove(&id);
    }

    /// A revision.
    #[must_use]
    pub fn get(&self, id: RevisionId) -> Option<Arc<Compiled>> {
        self.0.read().all.get(&id).cloned()
    }

    /// What new runs of a saga are made of.
    #[must_use]
    pub fn current(&self, namespace: &str, saga: &str) -> Option<Arc<Compiled>> {
        let inner = self.0.read();
        let id = inner.current.get(&(namespace.to_owned(), saga.to_owned()))?;
        inner.all.get(id).cloned()
    }
}
