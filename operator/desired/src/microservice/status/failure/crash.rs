//! A container ends and is started again.
//!
//! Between two crashes it runs for a moment: until it is ready, the last end is what there is to tell.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus};
use trellis_api::{condition::Reason, names::CONTAINER_PROXY};

use super::{Failure, Subject};
use crate::microservice::validated::Role;

pub(super) fn find(subject: &Subject<'_>, container: &ContainerStatus) -> Option<Failure> {
    if container.ready {
        return None;
    }
    let ended = last_end(container)?;
    let what = subject.title(&container.name);
    let pod = subject.name;
    let proxy = container.name == CONTAINER_PROXY;
    if ended.reason.as_deref() == Some("OOMKilled") {
        let fix = match (proxy, &subject.validated.role) {
            (true, Role::Service(_)) => "this is a fault of the sidecar; please report it".to_owned(),
            _ => "raise spec.resources.limits.memory".to_owned(),
        };
        return Some(Failure::new(
            Reason::OutOfMemory,
            format!("pod {pod}: {what} was killed for using more memory than its limit; {fix}"),
        ));
    }
    let previous = container
        .state
        .as_ref()
        .is_none_or(|state| state.terminated.is_none());
    let logs = subject.logs(&container.name, previous);
    if proxy {
        return Some(Failure::new(
            Reason::ProxyNotReady,
            format!(
                "pod {pod}: {what} ended with exit code {}; see {logs}",
                ended.exit_code
            ),
        ));
    }
    if let Some(probe) = killed_by_probe(subject, &container.name) {
        return Some(Failure::new(
            Reason::ProbeFailed,
            format!(
                "pod {pod}: {what} was restarted because its {probe} probe failed; mend it, or change \
                 spec.probes.{probe}; see {logs}"
            ),
        ));
    }
    let message = if ended.exit_code == 0 {
        format!(
            "pod {pod}: {what} ended by itself (exit code 0), but a service goes on running; check spec.command and \
             spec.args; see {logs}"
        )
    } else {
        format!(
            "pod {pod}: {what} ended with exit code {}; see {logs}",
            ended.exit_code
        )
    };
    Some(Failure::new(Reason::ContainerCrashed, message))
}

fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    [&container.state, &container.last_state]
        .into_iter()
        .flatten()
        .find_map(|state| state.terminated.as_ref())
}

/// `Container app failed liveness probe, will be restarted`
fn killed_by_probe(subject: &Subject<'_>, container: &str) -> Option<&'static str> {
    let killed = |probe: &str| {
        subject.events_of(container).any(|event| {
            event.reason == "Killing" && event.message.contains(&format!("failed {probe} probe"))
        })
    };
    ["liveness", "startup"].into_iter().find(|probe| killed(probe))
}
