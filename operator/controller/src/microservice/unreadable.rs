//! A Microservice that this release cannot read still gets a status that names the field.
//!
//! The watch keeps only its metadata. So the object is read once more as plain JSON, to find the place of the fault and
//! the status that it had; the rest of the pass is that of any invalid object.

use std::sync::Arc;

use kube::{
    Api,
    api::{ApiResource, DynamicObject},
    core::error_boundary::InvalidObject,
};
use serde_json::{Value, json};
use trellis_api::{Microservice, Problem};
use trellis_operator_desired::microservice::Outcome;

use super::{Context, Error, update_status};
use crate::key::Key;

/// Puts the fault into the status of the Microservice `key`.
pub async fn report(context: &Context, key: &Key, invalid: &InvalidObject) -> Result<(), Error> {
    let resource = ApiResource::erase::<Microservice>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let raw = api.get(&key.name).await.map_err(update_status::Error)?;
    let raw = serde_json::to_value(raw).unwrap_or_default();
    let problem = problem(&raw, &invalid.error);
    tracing::warn!(microservice = %key, %problem, "failed to read a microservice");
    let Some(cr) = stand_in(&raw) else {
        return Ok(());
    };
    let problems = [problem];
    update_status::update(context, &Arc::new(cr), &Outcome::Invalid { problems: &problems }).await?;
    Ok(())
}

/// Where and why the object cannot be read.
fn problem(raw: &Value, otherwise: &str) -> Problem {
    match serde_path_to_error::deserialize::<_, Microservice>(raw) {
        Err(error) => Problem::error(
            error.path().to_string(),
            format!("this release of the operator cannot read it: {}", error.inner()),
        ),
        Ok(_) => Problem::error(
            "spec",
            format!("this release of the operator cannot read it: {otherwise}"),
        ),
    }
}

/// An object with the same metadata and, if that can be read, the same status, but no spec.
fn stand_in(raw: &Value) -> Option<Microservice> {
    let with_status = |status: &Value| {
        serde_json::from_value(json!({
            "apiVersion": raw["apiVersion"],
            "kind": raw["kind"],
            "metadata": raw["metadata"],
            "spec": {},
            "status": status,
        }))
        .ok()
    };
    with_status(&raw["status"]).or_else(|| with_status(&Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(spec: Value, status: Value) -> Value {
        json!({
            "apiVersion": "trellis.dev/v1alpha1", "kind": "Microservice",
            "metadata": {"name": "user", "namespace": "shop", "generation": 7},
            "spec": spec, "status": status,
        })
    }

    #[test]
    fn the_fault_has_its_field_path() {
        let problem = problem(
            &raw(json!({"image": "user:1", "replicas": "many"}), Value::Null),
            "",
        );
        assert_eq!(problem.field, "spec.replicas");
        assert!(problem.message.contains("many"), "{problem}");
    }

    #[test]
    fn the_stand_in_keeps_metadata_and_a_readable_status() {
        let cr = stand_in(&raw(json!(5), json!({"observedGeneration": 6}))).unwrap();
        assert_eq!(cr.metadata.generation, Some(7));
        assert_eq!(cr.status.unwrap().observed_generation, Some(6));
        assert!(
            stand_in(&raw(json!(5), json!({"conditions": 5})))
                .unwrap()
                .status
                .is_none()
        );
    }
}
