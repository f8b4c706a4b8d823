//! The image cannot be had.

use k8s_openapi::api::core::v1::ContainerStatus;
use trellis_api::{condition::Reason, names::CONTAINER_PROXY};

use super::{Failure, Subject, waiting};

/// Waiting reasons of the kubelet (`pkg/kubelet/images/types.go`).
const PULL: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];
const NAME: [&str; 2] = ["InvalidImageName", "ErrInvalidImageName"];

pub(super) fn find(subject: &Subject<'_>, container: &ContainerStatus) -> Option<Failure> {
    let (reason, message) = waiting(container)?;
    let image = &container.image;
    // The proxy's image is the operator's setting, in either role.
    let ours = container.name == CONTAINER_PROXY;
    let field = if ours {
        "the operator's --proxy-image"
    } else {
        "spec.image"
    };
    if NAME.contains(&reason) {
        return Some(Failure::new(
            Reason::ImageNameInvalid,
            format!("{image:?} is no image name: correct {field}"),
        ));
    }
    if !PULL.contains(&reason) {
        return None;
    }
    // While the kubelet backs off, only the Event still has the cause.
    let told = subject
        .events_of(&container.name)
        .filter(|event| event.reason == "Failed")
        .map(|event| event.message.as_str())
        .chain([message])
        .collect::<Vec<_>>()
        .join("\n")
        .to_lowercase();
    let (cause, fix) = if reason == "ErrImageNeverPull" {
        (
            "the node does not have it and may not pull it",
            "load it onto the node, or change spec.imagePullPolicy".to_owned(),
        )
    } else if any(
        &told,
        &[
            "unauthorized",
            "denied",
            "authentication required",
            "no basic auth",
            "403 forbidden",
        ],
    ) {
        (
            "the registry refuses access, or does not have it",
            format!("correct {field}, or name a Secret with credentials in spec.imagePullSecrets"),
        )
    } else if any(&told, &["not found", "manifest unknown", "does not exist"]) {
        (
            "it is not in the registry",
            format!("correct {field}, or push the image"),
        )
    } else if any(
        &told,
        &[
            "no such host",
            "connection refused",
            "dial tcp",
            "timeout",
            "timed out",
            "x509",
            "tls:",
        ],
    ) {
        (
            "the registry cannot be reached",
            format!("correct its host in {field}, or check the node's network"),
        )
    } else {
        (
            "the registry's answer is in the pod's events",
            format!(
                "see kubectl describe pod -n {} {}",
                subject.validated.key.namespace, subject.name
            ),
        )
    };
    Some(Failure::new(
        Reason::ImagePullFailed,
        format!("pod {} cannot pull image {image:?}: {cause}; {fix}", subject.name),
    ))
}

fn any(text: &str, needles: &[&str]) -> bool {
    needles.iter().any(|needle| text.contains(needle))
}
