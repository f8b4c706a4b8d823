//! The plain client: writes the children of one Microservice one after the other, without having to find out what they are.
//!
//! It uses the same library, the same kind of write and the same objects as the operator, so what the operator takes beyond
//! this is its own: seeing the Microservice, deciding, the first status, and waiting for its turn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, TypeMeta},
};
use trellis_api::names;

use super::microservices;

/// Where it writes: a namespace of its own, so that nobody takes its objects for the operator's.
pub const NAMESPACE: &str = "plain";

/// A child, without what made it somebody's.
#[derive(Debug, Clone)]
pub struct Child {
    kind: ApiResource,
    object: DynamicObject,
}

/// The children of a Microservice that is ready, in the operator's order.
pub async fn children(client: &Client, microservice: &str) -> Result<Vec<Child>> {
    let kinds = [
        kind::<ServiceAccount>(),
        kind::<ConfigMap>(),
        kind::<Service>(),
        kind::<Deployment>(),
        kind::<PodDisruptionBudget>(),
    ];
    microservices::wait_until_ready(client, 1).await?;
    let selector = ListParams::default().labels(&format!("{}={microservice}", names::LABEL_MICROSERVICE));
    let mut children = Vec::new();
    for kind in &kinds {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), microservices::NAMESPACE, kind);
        let list = api
            .list(&selector)
            .await
            .with_context(|| format!("failed to list the {} of a Microservice", kind.plural))?;
        children.extend(list.items.into_iter().map(|object| Child {
            kind: kind.clone(),
            object: bare(object, kind),
        }));
    }
    ensure!(
        !children.is_empty(),
        "a Microservice that is ready has no children"
    );
    Ok(children)
}

/// Writes copies of them under new names; answers how long that took in all.
pub async fn write(client: &Client, children: &[Child], number: u32) -> Result<Duration> {
    let begin = Instant::now();
    for child in children {
        let mut object = child.object.clone();
        let name = object.metadata.name.take().context("a child without a name")?;
        ensure!(microservices::of(&name).is_some(), "{name} is no name of a child");
        let name = format!(
            "{}{}",
            microservices::name(number),
            &name[microservices::name(0).len()..]
        );
        object.metadata.name = Some(name.clone());
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &child.kind);
        api.patch(&name, &PatchParams::apply("plain"), &Patch::Apply(&object))
            .await
            .with_context(|| format!("failed to write {} {name}", child.kind.kind))?;
    }
    Ok(begin.elapsed())
}

fn kind<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// Without what the API server has added, and without the labels by which the operator would see it.
fn bare(mut object: DynamicObject, kind: &ApiResource) -> DynamicObject {
    // Of the items of a list the API server does not say what they are.
    object.types = Some(TypeMeta {
        api_version: kind.api_version.clone(),
        kind: kind.kind.clone(),
    });
    let metadata = &mut object.metadata;
    metadata.namespace = None;
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.generation = None;
    metadata.creation_timestamp = None;
    metadata.managed_fields = None;
    metadata.owner_references = None;
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|name, _| name != names::LABEL_MANAGED_BY && name != names::LABEL_MICROSERVICE);
    }
    if let Some(fields) = object.data.as_object_mut() {
        fields.remove("status");
    }
    if let Some(spec) = object.data.get_mut("spec").and_then(|spec| spec.as_object_mut()) {
        // An address of its own for every copy; `None` is what makes a Service headless.
        if spec.get("clusterIP").is_some_and(|address| address != "None") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
    }
    object
}
