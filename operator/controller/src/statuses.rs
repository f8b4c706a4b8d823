//! Writing a status of a kind that has no workers.

use std::{fmt::Debug, time::Duration};

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time;
use trellis_api::names;

use crate::{
    caches,
    leader::Authority,
    metrics::{self, Metrics, Verb},
    observed::Observed,
};

/// Longest wait for the answer to a write.
pub const REQUEST: Duration = Duration::from_secs(10);

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another replica leads.
    #[error("failed to write the status: this replica does not lead")]
    Deposed,
    /// The API server did not answer.
    #[error("failed to write the status in time")]
    Late,
    /// The API server refused it.
    #[error("failed to write the status")]
    Refused(#[from] kube::Error),
}

/// Writes statuses.
#[derive(Clone)]
pub struct Statuses {
    /// Writes.
    pub client: Client,
    /// Whether this replica may write.
    pub authority: Authority,
    /// Counts writes.
    pub metrics: Metrics,
}

impl Statuses {
    /// Writes a status, and answers the object as it is then, for its cache.
    ///
    /// # Errors
    /// This replica does not lead, or the API server did not take it.
    pub async fn write<K>(&self, object: &K, status: &impl Serialize) -> Result<Observed<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        if !self.authority.holds() {
            return Err(Error::Deposed);
        }
        let api: Api<Observed<K>> =
            Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let patch = Patch::Apply(json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            // The uid keeps a late status from a successor of the same name.
            "metadata": {"name": object.name_any(), "uid": object.uid()},
            "status": status,
        }));
        // Forced: the status is ours alone.
        let parameters = PatchParams::apply(names::FIELD_MANAGER_STATUS).force();
        let name = object.name_any();
        let written = time::timeout(REQUEST, api.patch_status(&name, &parameters, &patch)).await;
        let mut written = match written.map_err(|_| Error::Late).and_then(|answer| Ok(answer?)) {
            Ok(written) => written,
            Err(error) => {
                self.wrote::<K>(metrics::Outcome::Failed);
                return Err(error);
            }
        };
        let unchanged = written.resource_version() == object.resource_version();
        self.wrote::<K>(if unchanged {
            metrics::Outcome::Unchanged
        } else {
            metrics::Outcome::Changed
        });
        caches::trim(&mut written);
        Ok(written)
    }

    /// Counts a status that is as it should be.
    pub fn skipped<K: Resource<DynamicType = ()>>(&self) {
        self.wrote::<K>(metrics::Outcome::Skipped);
    }

    fn wrote<K: Resource<DynamicType = ()>>(&self, outcome: metrics::Outcome) {
        self.metrics.wrote(&K::kind(&()), Verb::Status, outcome);
    }
}
