//! A container runs and is not ready.

use k8s_openapi::api::core::v1::ContainerStatus;
use trellis_api::{condition::Reason, names::CONTAINER_PROXY};

use super::{Failure, Subject};
use crate::microservice::status::conditions::shorten;

/// Fewer failed checks are the usual start of a container.
const FAILURES: i32 = 3;

pub(super) fn find(subject: &Subject<'_>, container: &ContainerStatus) -> Option<Failure> {
    let running = container
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some());
    if container.ready || !running {
        return None;
    }
    // `Readiness probe failed: HTTP probe failed with statuscode: 503`
    let (probe, text) = subject
        .events_of(&container.name)
        .filter(|event| event.reason == "Unhealthy" && event.count >= FAILURES)
        .max_by(|a, b| (a.count, &a.message).cmp(&(b.count, &b.message)))?
        .message
        .split_once(" probe failed: ")?;
    let probe = probe.to_lowercase();
    let pod = subject.name;
    let text = shorten(text);
    Some(if container.name == CONTAINER_PROXY {
        Failure::new(
            Reason::ProxyNotReady,
            format!(
                "pod {pod}: {} is not ready: {text}; see {}",
                subject.title(&container.name),
                subject.logs(&container.name, false)
            ),
        )
    } else {
        Failure::new(
            Reason::ProbeFailed,
            format!(
                "pod {pod}: the {probe} probe fails: {text}; mend the app, or change spec.probes.{probe}; see {}",
                subject.logs(&container.name, false)
            ),
        )
    })
}
