//! Revisions as ConfigMaps.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Resource as _;
use trellis_api::{
    Saga,
    names::{self, LABEL_MANAGED_BY, LABEL_SAGA, MANAGED_BY},
    saga::Revision,
};

use super::{Compiled, participants};

/// Revisions that are kept, the newest included: the older ones can be compared with it and gone back to.
pub const KEPT: usize = 10;

/// Labels of a saga's revisions.
#[must_use]
pub fn labels(saga: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        (LABEL_SAGA.to_owned(), saga.to_owned()),
    ])
}

/// The ConfigMap of a revision. It can never be changed.
#[must_use]
pub fn config_map(saga: &Saga, compiled: &Compiled) -> ConfigMap {
    let name = saga.metadata.name.clone().unwrap_or_default();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::saga_revision(&name, &compiled.revision)),
            namespace: saga.metadata.namespace.clone(),
            labels: Some(labels(&name)),
            annotations: Some(BTreeMap::from([(
                names::ANNOTATION_PARTICIPANTS.to_owned(),
                participants::written(&compiled.program.definition),
            )])),
            owner_references: saga.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([(
            names::KEY_SAGA_DEFINITION.to_owned(),
            compiled.text.clone(),
        )])),
        ..ConfigMap::default()
    }
}

/// The revision that a ConfigMap of this saga has; None: it has none, or is somebody else's.
#[must_use]
pub fn of_config_map(saga: &Saga, config_map: &ConfigMap) -> Option<Revision> {
    let metadata = &config_map.metadata;
    let owned = metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| Some(&owner.uid) == saga.metadata.uid.as_ref() && owner.controller == Some(true));
    let name = metadata.name.clone()?;
    let prefix = names::saga_revision(saga.metadata.name.as_deref()?, "");
    let revision = name.strip_prefix(&prefix).filter(|_| owned)?;
    Some(Revision {
        name: revision.to_owned(),
        config_map: name.clone(),
        created_at: metadata.creation_timestamp.clone(),
        in_flight: None,
    })
}

/// Revisions that are not kept. `revisions` are all that there are; `current` is what new runs are made of.
#[must_use]
pub fn excess(mut revisions: Vec<Revision>, current: Option<&str>) -> Vec<Revision> {
    sort(&mut revisions, current);
    revisions.split_off(KEPT.min(revisions.len()))
}

/// The current one first, then the newest.
pub(super) fn sort(revisions: &mut [Revision], current: Option<&str>) {
    revisions.sort_by(|one, other| {
        let place = |revision: &Revision| {
            (
                Some(revision.name.as_str()) != current,
                std::cmp::Reverse(revision.created_at.as_ref().map(|time| time.0)),
                revision.name.clone(),
            )
        };
        place(one).cmp(&place(other))
    });
}
