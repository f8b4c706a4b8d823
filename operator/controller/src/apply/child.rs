//! Applying one child.

use std::sync::Arc;

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use trellis_api::names;

use super::{Applier, Basis, Error, Owner, guard, subset, whole_lists};
use crate::{
    caches::Child,
    key::Key,
    metrics::{Outcome, Verb},
};

/// More than this many are forgotten together; each costs one request again.
const MOST_SETTLED: usize = 10_000;

/// Kind and name, for people.
pub fn describe<K: Child>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}

impl Applier {
    /// Makes one child what it should be; answers it as the API server has it.
    pub(super) async fn apply_child<K: Child>(
        &self,
        owner: &Owner,
        wanted: K,
        basis: Basis<'_>,
    ) -> Result<K, Error> {
        let name = describe::<K>(&wanted.name_any());
        let key = Key::of(&wanted);
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut live = match K::cache(&self.caches).get(&key) {
            Some(live) => Some(live),
            // The cache holds what has our label. Anything else of that name shows only to a direct look.
            None => self.look(&api, &key, &name).await?,
        };
        let unwritable = |source| Error::Unwritable {
            child: describe::<K>(&key.name),
            source,
        };
        let mut patch = serde_json::to_value(&wanted).map_err(unwritable)?;
        let mut parameters = PatchParams::apply(names::FIELD_MANAGER);
        // What is not wanted in lists that are ours, and may be what was wanted before: the apply takes that out by itself.
        let mut unwanted = None;
        if let Some(live) = &mut live {
            guard::check(owner, &**live)?;
            let mut have = serde_json::to_value(&**live).map_err(unwritable)?;
            unwanted = whole_lists::patch(&patch, &have);
            // If what is wanted was applied before, it is a rival's.
            if digest_of(&have) == digest_of(&patch)
                && let Some(lists) = unwanted.take()
            {
                *live = self.clear_lists(owner, &api, live, lists, name.clone()).await?;
                have = serde_json::to_value(&**live).map_err(unwritable)?;
            }
            let Some(difference) = self.difference(&patch, &have) else {
                self.metrics.wrote(&K::kind(&()), Verb::Apply, Outcome::Skipped);
                return Ok((**live).clone());
            };
            tracing::debug!(microservice = %owner.key, child = name, difference, "differs");
            patch["metadata"]["uid"] = live.uid().into();
            if let Basis::Live(version) = basis {
                if live.meta().resource_version.as_deref() != version {
                    // A direct look may have found what the watch has not shown yet.
                    K::cache(&self.caches).written((**live).clone());
                    return Err(Error::Stale { child: name });
                }
                patch["metadata"]["resourceVersion"] = version.into();
            }
            // Forced: a rival that took one of our fields loses it again. The object is ours, by uid.
            parameters = parameters.force();
        }
        self.authorise(&name)?;
        let answer = api.patch(&key.name, &parameters, &Patch::Apply(&patch)).await;
        // A forced apply is in conflict with nothing but another uid, or another version.
        if (live.is_some() || matches!(basis, Basis::Live(_))) && is_conflict(&answer) {
            return Err(self.stale(&api, &key, name).await);
        }
        if let (Some(live), Some(lists)) = (&live, &unwanted)
            && is_invalid(&answer)
        {
            // Both a user and a rival have changed it: the apply puts ours beside theirs, and two of a name are refused.
            self.clear_lists(owner, &api, live, lists.clone(), name.clone())
                .await?;
            return Err(Error::Stale { child: name });
        }
        let before = live
            .as_ref()
            .and_then(|live| live.meta().resource_version.clone());
        let mut applied = self.take_in(owner, "apply", name.clone(), before.as_deref(), answer)?;
        if before.is_some() && applied.meta().resource_version == before {
            self.settle(&patch, &*applied);
        }
        if unwanted.is_some() {
            let have = serde_json::to_value(&*applied).map_err(unwritable)?;
            if let Some(lists) = whole_lists::patch(&patch, &have) {
                applied = self.clear_lists(owner, &api, &applied, lists, name).await?;
            }
        }
        Ok((*applied).clone())
    }

    /// Takes what is not ours out of lists that are; see [`whole_lists`].
    async fn clear_lists<K: Child>(
        &self,
        owner: &Owner,
        api: &Api<K>,
        live: &K,
        mut lists: Value,
        name: String,
    ) -> Result<Arc<K>, Error> {
        let version = live.meta().resource_version.as_deref();
        // The lists were made of this version, and are replaced in it or not at all.
        lists["metadata"] = json!({"uid": live.uid(), "resourceVersion": version});
        self.authorise(&name)?;
        let parameters = PatchParams {
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let answer = api
            .patch(&live.name_any(), &parameters, &Patch::Merge(&lists))
            .await;
        if is_conflict(&answer) {
            return Err(self.stale(api, &Key::of(live), name).await);
        }
        self.take_in(owner, "take foreign items out of", name, version, answer)
    }

    /// Puts a child that changed under our hands into the cache, for the next pass to decide from.
    async fn stale<K: Child>(&self, api: &Api<K>, key: &Key, name: String) -> Error {
        self.metrics.wrote(&K::kind(&()), Verb::Apply, Outcome::Failed);
        match self.look(api, key, &name).await {
            Ok(found) => {
                let cache = K::cache(&self.caches);
                match (found, cache.get(key)) {
                    (Some(live), _) => _ = cache.written((*live).clone()),
                    (None, Some(known)) => cache.deleted(&known),
                    (None, None) => {}
                }
                Error::Stale { child: name }
            }
            Err(error) => error,
        }
    }

    async fn look<K: Child>(&self, api: &Api<K>, key: &Key, name: &str) -> Result<Option<Arc<K>>, Error> {
        let found = api.get_opt(&key.name).await.map_err(|source| Error::Refused {
            action: "look for",
            child: name.to_owned(),
            source,
        })?;
        Ok(found.map(|mut found| {
            found.trim();
            Arc::new(found)
        }))
    }

    /// The first field in which the live object is not as wanted and the API server has not said otherwise.
    fn difference(&self, wanted: &Value, live: &Value) -> Option<String> {
        let difference = subset::difference(wanted, live)?;
        let meta = &live["metadata"];
        let settled = self.settled();
        let same = settled
            .get(meta["uid"].as_str().unwrap_or_default())
            .is_some_and(|(version, digest)| {
                meta["resourceVersion"] == **version && digest_of(wanted) == Some(digest)
            });
        (!same).then_some(difference)
    }

    fn settle<K: Child>(&self, wanted: &Value, applied: &K) {
        let meta = applied.meta();
        if let (Some(uid), Some(version), Some(digest)) =
            (&meta.uid, &meta.resource_version, digest_of(wanted))
        {
            let mut settled = self.settled();
            if settled.len() >= MOST_SETTLED {
                settled.clear();
            }
            settled.insert(uid.clone(), (version.clone(), digest.to_owned()));
        }
    }
}

fn is_invalid<K>(answer: &Result<K, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.is_invalid())
}

fn is_conflict<K>(answer: &Result<K, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.is_conflict())
}

fn digest_of(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][names::ANNOTATION_APPLIED_DIGEST].as_str()
}
