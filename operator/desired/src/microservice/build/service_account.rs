//! The identity of the pods. It has no rights in the Kubernetes API and its token is not mounted into the app.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::microservice::validated::Validated;

pub(super) fn build(validated: &Validated) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::child(validated, &validated.key.name),
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}
