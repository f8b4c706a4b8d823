//! The identity of the pods. It has no rights in the Kubernetes API that nobody gave it, and its token is mounted into the app
//! only if the spec asks for it; the pod template says so itself.

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
