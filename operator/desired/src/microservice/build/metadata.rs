//! Metadata of children: labels, owner, and the digest of what is applied.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource;
use serde::Serialize;
use trellis_api::{
    microservice::Labels,
    names::{ANNOTATION_APPLIED_DIGEST, LABEL_MANAGED_BY, LABEL_MICROSERVICE, LABEL_NAME, MANAGED_BY},
};
use trellis_proxy_config::digest;

use crate::microservice::validated::Validated;

/// Metadata of a child.
///
/// Labels and annotations of the Microservice do not travel along: those of GitOps tools would make children look like
/// theirs.
pub(super) fn child(validated: &Validated, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(validated.key.namespace.clone()),
        labels: Some(labels(validated)),
        owner_references: validated.owner.clone().map(|owner| vec![owner]),
        ..Default::default()
    }
}

/// Labels of every child and pod.
pub(super) fn labels(validated: &Validated) -> Labels {
    let name = &validated.key.name;
    BTreeMap::from([
        (LABEL_NAME.to_owned(), name.clone()),
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        (LABEL_MICROSERVICE.to_owned(), name.clone()),
    ])
}

/// Selector of the pods of a Microservice: one label, for ever, as a Deployment's selector cannot be changed.
pub(super) fn selector(name: &str) -> Labels {
    BTreeMap::from([(LABEL_MICROSERVICE.to_owned(), name.to_owned())])
}

/// The same as an object.
pub(super) fn label_selector(validated: &Validated) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(&validated.key.name)),
        match_expressions: None,
    }
}

/// Writes the digest of an object into its annotations, by which the Applier sees at once that nothing changed.
pub(super) fn seal<K: Resource + Serialize>(mut object: K) -> K {
    let digest = digest::of(&object);
    object
        .meta_mut()
        .annotations
        .get_or_insert_default()
        .insert(ANNOTATION_APPLIED_DIGEST.to_owned(), digest);
    object
}
