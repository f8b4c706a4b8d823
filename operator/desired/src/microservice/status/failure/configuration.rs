//! The kubelet cannot make or start the container from the pod's settings.

use k8s_openapi::api::core::v1::ContainerStatus;
use trellis_api::condition::Reason;

use super::{Failure, Subject, waiting};
use crate::microservice::{
    status::conditions::shorten,
    validated::{Role, ServiceRole},
};

/// Waiting reasons of the kubelet (`pkg/kubelet/container/sync_result.go`, `kuberuntime/kuberuntime_container.go`).
const WAITING: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "PostStartHookError",
];
/// Reasons with which the runtime ends a container that never ran.
const NEVER_RAN: [&str; 2] = ["StartError", "ContainerCannotRun"];

pub(super) fn find(subject: &Subject<'_>, container: &ContainerStatus) -> Option<Failure> {
    let message = message(container)?;
    let service = match &subject.validated.role {
        Role::Service(service) => Some(service.as_ref()),
        Role::Gateway(_) => None,
    };
    runs_as_root(subject, message)
        .or_else(|| reference(subject, service?, message))
        .or_else(|| executable(subject, message))
        .or_else(|| {
            Some(Failure::new(
                Reason::ContainerConfigInvalid,
                format!(
                    "pod {}: {} cannot be started: {}",
                    subject.name,
                    subject.title(&container.name),
                    shorten(message)
                ),
            ))
        })
}

fn message(container: &ContainerStatus) -> Option<&str> {
    if let Some((reason, message)) = waiting(container)
        && WAITING.contains(&reason)
    {
        return Some(message);
    }
    if container.ready {
        return None;
    }
    [&container.state, &container.last_state]
        .into_iter()
        .flatten()
        .filter_map(|state| state.terminated.as_ref())
        .find(|terminated| {
            terminated
                .reason
                .as_deref()
                .is_some_and(|reason| NEVER_RAN.contains(&reason))
        })
        .map(|terminated| terminated.message.as_deref().unwrap_or_default())
}

fn runs_as_root(subject: &Subject<'_>, message: &str) -> Option<Failure> {
    if !message.contains("runAsNonRoot") {
        return None;
    }
    let what = match message
        .split_once("non-numeric user (")
        .and_then(|(_, rest)| rest.split_once(')'))
    {
        Some((user, _)) => format!("the image's user {user:?} is not a number, so it might be root"),
        None => "the image runs as root".to_owned(),
    };
    Some(Failure::new(
        Reason::RunsAsRoot,
        format!(
            "pod {}: {what}, which Pod Security restricted refuses; set spec.securityContext.runAsUser to a numeric \
             user of the image, for example 65532, or give the image a numeric USER",
            subject.name
        ),
    ))
}

/// `secret "x" not found`, `couldn't find key k in ConfigMap shop/x`.
fn reference(subject: &Subject<'_>, service: &ServiceRole, message: &str) -> Option<Failure> {
    let lower = message.to_lowercase();
    let kind = if lower.contains("secret") {
        "secret"
    } else if lower.contains("configmap") {
        "configmap"
    } else {
        return None;
    };
    let (name, key) = if let Some((_, rest)) = message.split_once("couldn't find key ") {
        let (key, rest) = rest.split_once(" in ")?;
        let (_, name) = rest.split_once('/')?;
        (name.trim(), Some(key.trim_matches('"')))
    } else {
        let (_, rest) = message.split_once('"')?;
        let (name, rest) = rest.split_once('"')?;
        if !rest.contains("not found") {
            return None;
        }
        (name, None)
    };
    let field = field(service, kind, name, key);
    let (what, fix) = match key {
        Some(key) => (format!("{kind} {name:?} has no key {key:?}"), "add the key"),
        None => (format!("{kind} {name:?} does not exist"), "create it"),
    };
    Some(Failure::new(
        Reason::ReferenceNotFound,
        format!("pod {}: {what}; {fix} or change {field}", subject.name),
    ))
}

/// The field that names a Secret or ConfigMap.
fn field(service: &ServiceRole, kind: &str, name: &str, key: Option<&str>) -> String {
    let secret = kind == "secret";
    let in_env = service.env.iter().position(|variable| {
        variable.value_from.as_ref().is_some_and(|from| {
            if secret {
                from.secret_key_ref.as_ref().is_some_and(|reference| {
                    reference.name == name && key.is_none_or(|key| reference.key == key)
                })
            } else {
                from.config_map_key_ref.as_ref().is_some_and(|reference| {
                    reference.name == name && key.is_none_or(|key| reference.key == key)
                })
            }
        })
    });
    let in_env_from = service.env_from.iter().position(|source| {
        if secret {
            source
                .secret_ref
                .as_ref()
                .is_some_and(|reference| reference.name == name)
        } else {
            source
                .config_map_ref
                .as_ref()
                .is_some_and(|reference| reference.name == name)
        }
    });
    match (in_env, in_env_from) {
        (Some(index), _) => format!("spec.env[{index}].valueFrom"),
        (None, Some(index)) => format!("spec.envFrom[{index}]"),
        (None, None) => "spec.env".to_owned(),
    }
}

fn executable(subject: &Subject<'_>, message: &str) -> Option<Failure> {
    let missing = [
        "executable file not found",
        "no such file or directory",
        "permission denied",
    ]
    .into_iter()
    .find(|text| message.contains(text))?;
    // `... exec: "orderd": executable file not found in $PATH: unknown`
    let program = message
        .split_once("exec: \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or_else(
            || "the entrypoint".to_owned(),
            |(program, _)| format!("{program:?}"),
        );
    Some(Failure::new(
        Reason::ContainerConfigInvalid,
        format!(
            "pod {}: {program} cannot be run: {missing}; correct spec.command, or the image's entrypoint",
            subject.name
        ),
    ))
}
