//! The end of a saga: it waits for its runs, by a finalizer.
//!
//! Only while there is an engine: without one nothing is in flight that it could end. It does not wait either if its namespace ends, or if
//! somebody says that its runs are given up ([`names::ANNOTATION_ABANDON_RUNS`]): they go on, by the revision that the engine has.

use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api, Resource as _, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time;
use trellis_api::{Saga, names};
use trellis_operator_desired::saga;

use super::{Error, Sagas};
use crate::{caches, error::chain, key::Key, observed::Observed, queue::Done, statuses::REQUEST};

/// Time between looks at what is in flight.
const LOOK: time::Duration = time::Duration::from_secs(5);

impl Sagas {
    /// Has the deletion of a saga wait, once there is an engine.
    pub(super) async fn hold(&self, key: &Key, saga: &Saga) {
        let is_held = saga
            .finalizers()
            .iter()
            .any(|held| held == names::FINALIZER_SAGA_RUNS);
        if is_held || !self.has_engine() {
            return;
        }
        let add = match &saga.meta().finalizers {
            Some(_) => {
                json!({"op": "add", "path": "/metadata/finalizers/-", "value": names::FINALIZER_SAGA_RUNS})
            }
            None => {
                json!({"op": "add", "path": "/metadata/finalizers", "value": [names::FINALIZER_SAGA_RUNS]})
            }
        };
        if let Err(error) = self.patch(saga, add).await {
            tracing::warn!(saga = %key, error = chain(&error), "failed to hold the deletion of a saga; trying again");
        }
    }

    /// Lets a saga go that is being deleted, if nothing of it is in flight; else its status says what it waits for.
    pub(super) async fn let_go(&self, key: &Key, saga: &Saga) -> Done {
        let finalizers = saga.finalizers();
        let Some(place) = finalizers
            .iter()
            .position(|held| held == names::FINALIZER_SAGA_RUNS)
        else {
            self.forget(key);
            return Done::Gone;
        };
        // No new runs; the engine says when it knows.
        self.engine.hand_over(key, None);
        let engine = self.engine_of(key);
        let is_abandoned = saga
            .annotations()
            .get(names::ANNOTATION_ABANDON_RUNS)
            .is_some_and(|value| value == "true");
        let waits = if is_abandoned || !self.has_engine() {
            None
        } else {
            let pods = engine.replicas.iter().map(|replica| replica.pod.as_str());
            saga::waits_for(saga, &engine, self.engine.is_withdrawn(key, pods))
        };
        if let Some(message) = waits
            && !self.namespace_ends(&key.namespace).await
        {
            let status = saga::deleting(saga, &message, Timestamp::now());
            if saga.status.as_ref() != Some(&status) {
                match self.statuses.write(saga, &status).await {
                    Ok(written) => drop(self.caches.sagas.written(written)),
                    Err(error) => {
                        tracing::warn!(saga = %key, error = chain(&error), "failed to report on a saga; trying again");
                    }
                }
            }
            return Done::Visit(LOOK);
        }
        let path = format!("/metadata/finalizers/{place}");
        let test = json!({"op": "test", "path": path, "value": names::FINALIZER_SAGA_RUNS});
        match self
            .patch_all(saga, json!([test, {"op": "remove", "path": path}]))
            .await
        {
            Ok(()) => {
                self.forget(key);
                Done::Gone
            }
            Err(error) => {
                tracing::warn!(saga = %key, error = chain(&error), "failed to let a saga go; trying again");
                Done::Failed
            }
        }
    }

    async fn patch(&self, saga: &Saga, change: Value) -> Result<(), Error> {
        // Of an older version nothing is known.
        let version =
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": saga.resource_version()});
        self.patch_all(saga, json!([version, change])).await
    }

    async fn patch_all(&self, saga: &Saga, changes: Value) -> Result<(), Error> {
        if !self.statuses.authority.holds() {
            return Err(Error::Deposed);
        }
        let namespace = saga.namespace().unwrap_or_default();
        let name = saga.name_any();
        let api: Api<Observed<Saga>> = Api::namespaced(self.client.clone(), &namespace);
        let refused = |error| Error::Refused(name.clone(), error);
        let patch =
            serde_json::from_value(changes).map_err(|error| refused(kube::Error::SerdeError(error)))?;
        let parameters = PatchParams::default();
        let patch = Patch::<Saga>::Json(patch);
        let answer = time::timeout(REQUEST, api.patch(&name, &parameters, &patch)).await;
        let mut written = answer.map_err(|_| Error::Late(name.clone()))?.map_err(refused)?;
        caches::trim(&mut written);
        self.caches.sagas.written(written);
        Ok(())
    }

    /// Whether all of a namespace ends. What cannot be found out is not so.
    async fn namespace_ends(&self, name: &str) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = time::timeout(REQUEST, namespaces.get_opt(name)).await;
        match found {
            Ok(Ok(Some(namespace))) => namespace.meta().deletion_timestamp.is_some(),
            Ok(Ok(None)) => true,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}
