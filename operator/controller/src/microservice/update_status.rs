//! Last step: the status, decided purely, written only if it differs.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use trellis_api::{Microservice, MicroserviceStatus, names};
use trellis_operator_desired::microservice::{self as decisions, Outcome};

use super::Context;
use crate::{
    metrics::{self, Verb},
    observed::Observed,
    triggers,
};

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the status")]
pub struct Error(#[source] pub kube::Error);

/// Writes the first status of an object that has none; answers the object as it is then.
///
/// # Errors
/// It could not be written.
pub async fn first(context: &Context, cr: Arc<Microservice>) -> Result<Arc<Microservice>, super::Error> {
    if cr.status.as_ref().is_some_and(MicroserviceStatus::is_written) {
        return Ok(cr);
    }
    let status = decisions::status(&cr, &Outcome::Pending, Timestamp::now());
    let written = write(context, &cr, &status).await?;
    Ok(written.unwrap_or(cr))
}

/// Writes the status that a pass came to, if it differs; answers it.
///
/// # Errors
/// It could not be written.
pub async fn update(
    context: &Context,
    cr: &Arc<Microservice>,
    outcome: &Outcome<'_>,
) -> Result<MicroserviceStatus, super::Error> {
    let status = decisions::status(cr, outcome, Timestamp::now());
    if cr.status.as_ref() == Some(&status) {
        context
            .metrics
            .wrote(&Microservice::kind(&()), Verb::Status, metrics::Outcome::Skipped);
    } else {
        write(context, cr, &status).await?;
        context.events.status_changed(cr, &status);
    }
    Ok(status)
}

async fn write(
    context: &Context,
    cr: &Microservice,
    status: &MicroserviceStatus,
) -> Result<Option<Arc<Microservice>>, super::Error> {
    if !context.authority.holds() {
        return Err(super::Error::Deposed);
    }
    let kind = Microservice::kind(&());
    let api: Api<Observed> = Api::namespaced(context.client.clone(), &cr.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": Microservice::api_version(&()),
        "kind": kind,
        // The uid keeps a late status from a successor of the same name.
        "metadata": {"name": cr.name_any(), "uid": cr.uid()},
        "status": status,
    });
    // Forced: the status is ours alone.
    let parameters = PatchParams::apply(names::FIELD_MANAGER_STATUS).force();
    let written = api
        .patch_status(&cr.name_any(), &parameters, &Patch::Apply(&patch))
        .await
        .map_err(|error| {
            context
                .metrics
                .wrote(&kind, Verb::Status, metrics::Outcome::Failed);
            Error(error)
        })?;
    let unchanged = written.resource_version() == cr.resource_version();
    let outcome = if unchanged {
        metrics::Outcome::Unchanged
    } else {
        metrics::Outcome::Changed
    };
    context.metrics.wrote(&kind, Verb::Status, outcome);
    let mut written = written;
    crate::caches::trim(&mut written);
    let (written, change) = context.caches.microservices.written(written);
    for trigger in change.iter().flat_map(|change| {
        triggers::of_own_status(change, &context.engine_key(), || {
            context.caches.readable_microservices()
        })
    }) {
        // Nobody listens any more only when the process ends.
        let _ = context.triggers.send(trigger);
    }
    Ok(written.readable().cloned())
}
