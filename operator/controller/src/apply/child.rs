//! Applying one child.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::Value;
use trellis_api::names;

use super::{Applier, Basis, Error, Owner, guard, subset};
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
        let live = match K::cache(&self.caches).get(&key) {
            Some(live) => Some(live),
            // The cache holds what has our label. Anything else of that name shows only to a direct look.
            None => self.look(&api, &key, &name).await?,
        };
        let unwritable = |source| Error::Unwritable {
            child: name.clone(),
            source,
        };
        let mut patch = serde_json::to_value(&wanted).map_err(unwritable)?;
        let mut parameters = PatchParams::apply(names::FIELD_MANAGER);
        if let Some(live) = &live {
            guard::check(owner, &**live)?;
            let have = serde_json::to_value(&**live).map_err(unwritable)?;
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
        if let (Basis::Live(_), Err(kube::Error::Api(status))) = (basis, &answer)
            && status.is_conflict()
        {
            self.metrics.wrote(&K::kind(&()), Verb::Apply, Outcome::Failed);
            if let Some(live) = self.look(&api, &key, &name).await? {
                K::cache(&self.caches).written((*live).clone());
            }
            return Err(Error::Stale { child: name });
        }
        let before = live
            .as_ref()
            .and_then(|live| live.meta().resource_version.clone());
        let applied = self.take_in(owner, "apply", name, before.as_deref(), answer)?;
        if before.is_some() && applied.meta().resource_version == before {
            self.settle(&patch, &*applied);
        }
        Ok((*applied).clone())
    }

    async fn look<K: Child>(
        &self,
        api: &Api<K>,
        key: &Key,
        name: &str,
    ) -> Result<Option<std::sync::Arc<K>>, Error> {
        let found = api.get_opt(&key.name).await.map_err(|source| Error::Refused {
            action: "look for",
            child: name.to_owned(),
            source,
        })?;
        Ok(found.map(|mut found| {
            found.trim();
            std::sync::Arc::new(found)
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

fn digest_of(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][names::ANNOTATION_APPLIED_DIGEST].as_str()
}
