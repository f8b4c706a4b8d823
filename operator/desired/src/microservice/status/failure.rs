//! Why a pod does not serve, and what to do about it.
//!
//! Only pods of the latest template count: an old one that fails while new ones come is on its way out anyway. They are
//! known by the digest of their template ([`ANNOTATION_TEMPLATE_DIGEST`]), so nobody has to read ReplicaSets.
//!
//! Messages name what, where and the fix, and hold nothing that changes from second to second (counts, times, back-off
//! lengths): else a failing pod would make a write of every pass.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerState, ContainerStatus, Pod},
};
use trellis_api::{
    condition::Reason,
    names::{ANNOTATION_TEMPLATE_DIGEST, CONTAINER_PROXY},
};

use crate::microservice::{
    PodEvent,
    validated::{Role, Validated},
};

mod configuration;
mod crash;
mod image;
mod mount;
mod probe;
mod refused;
mod scheduling;

/// A failure of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its sort.
    pub reason: Reason,
    /// What, where and the fix.
    pub message: String,
}

/// Failures in the order in which they are told: what comes first keeps a pod from getting as far as what comes later,
/// or needs somebody more urgently.
const ORDER: [Reason; 12] = [
    Reason::ImageNameInvalid,
    Reason::RunsAsRoot,
    Reason::BindingNotReady,
    Reason::ReferenceNotFound,
    Reason::ContainerConfigInvalid,
    Reason::ImagePullFailed,
    Reason::OutOfMemory,
    Reason::ContainerCrashed,
    Reason::ProbeFailed,
    Reason::ProxyNotReady,
    Reason::Unschedulable,
    Reason::PodsRefused,
];

impl Failure {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Whether nothing but an edit of the spec or a new image can mend it.
    pub(super) const fn is_terminal(&self) -> bool {
        matches!(self.reason, Reason::ImageNameInvalid | Reason::RunsAsRoot)
    }

    fn rank(&self) -> usize {
        ORDER
            .iter()
            .position(|reason| *reason == self.reason)
            .unwrap_or(ORDER.len())
    }
}

/// The failure to tell first, if there is one.
pub(super) fn find(
    validated: &Validated,
    deployment: &Deployment,
    pods: &[Pod],
    events: &[PodEvent],
) -> Option<Failure> {
    let mut current = current(deployment, pods);
    current.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    current
        .into_iter()
        .filter_map(|pod| of_pod(&Subject::new(validated, pod, events)))
        .chain(refused::find(deployment))
        .min_by_key(Failure::rank)
}

/// Whether a container of a pod of the latest template was ever started: its volumes are then mounted.
pub(super) fn any_started(deployment: &Deployment, pods: &[Pod]) -> bool {
    current(deployment, pods).into_iter().any(has_started)
}

fn of_pod(subject: &Subject<'_>) -> Option<Failure> {
    scheduling::find(subject)
        .or_else(|| mount::find(subject))
        .or_else(|| {
            subject.containers().into_iter().find_map(|container| {
                image::find(subject, container)
                    .or_else(|| configuration::find(subject, container))
                    .or_else(|| crash::find(subject, container))
                    .or_else(|| probe::find(subject, container))
            })
        })
}

/// A pod with what is known about it.
struct Subject<'a> {
    validated: &'a Validated,
    pod: &'a Pod,
    name: &'a str,
    events: Vec<&'a PodEvent>,
}

impl<'a> Subject<'a> {
    fn new(validated: &'a Validated, pod: &'a Pod, events: &'a [PodEvent]) -> Self {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Self {
            validated,
            pod,
            name,
            events: events.iter().filter(|event| event.pod == name).collect(),
        }
    }

    /// Sidecar first: the app waits for it.
    fn containers(&self) -> Vec<&'a ContainerStatus> {
        statuses(self.pod)
    }

    /// Events about a container.
    fn events_of(&self, container: &str) -> impl Iterator<Item = &'a PodEvent> {
        self.events
            .iter()
            .copied()
            .filter(move |event| event.container.as_deref() == Some(container))
    }

    /// What to call a container in a message.
    fn title(&self, container: &str) -> &'static str {
        match (&self.validated.role, container) {
            (Role::Gateway(_), _) => "the gateway",
            (Role::Service(_), CONTAINER_PROXY) => "the sidecar",
            (Role::Service(_), _) => "the app",
        }
    }

    /// The command that shows a container's last words.
    fn logs(&self, container: &str, previous: bool) -> String {
        format!(
            "kubectl logs -n {} {} -c {container}{}",
            self.validated.key.namespace,
            self.name,
            if previous { " --previous" } else { "" }
        )
    }
}

fn current<'a>(deployment: &Deployment, pods: &'a [Pod]) -> Vec<&'a Pod> {
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref())
        .and_then(|annotations| annotations.get(ANNOTATION_TEMPLATE_DIGEST));
    pods.iter()
        .filter(|pod| {
            pod.metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(ANNOTATION_TEMPLATE_DIGEST))
                == wanted
        })
        // One that ends or was evicted is replaced, whatever it says.
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| !matches!(phase(pod), "Failed" | "Succeeded"))
        .collect()
}

fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

fn statuses(pod: &Pod) -> Vec<&ContainerStatus> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .collect()
}

fn has_started(pod: &Pod) -> bool {
    statuses(pod).into_iter().any(|container| {
        let ran = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
        container.state.as_ref().is_some_and(ran) || container.last_state.as_ref().is_some_and(ran)
    })
}

/// Reason and message of a container that waits.
fn waiting(container: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    Some((
        waiting.reason.as_deref().unwrap_or_default(),
        waiting.message.as_deref().unwrap_or_default(),
    ))
}
