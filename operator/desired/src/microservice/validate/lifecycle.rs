//! `spec.terminationGracePeriod` and `spec.preStopDelay`.

use trellis_api::{Duration, MicroserviceSpec};

use super::Problems;
use crate::microservice::validated::{GRACE_PERIOD, PRE_STOP_DELAY};

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    check_whole_seconds(
        "spec.terminationGracePeriod",
        spec.termination_grace_period,
        Duration::from_secs(1),
        problems,
    );
    check_whole_seconds(
        "spec.preStopDelay",
        spec.pre_stop_delay,
        Duration::default(),
        problems,
    );
    if spec.gateway.is_some() {
        return;
    }
    let grace = spec.termination_grace_period.unwrap_or(GRACE_PERIOD);
    let delay = spec.pre_stop_delay.unwrap_or(PRE_STOP_DELAY);
    if grace <= delay {
        // The field to name is the one that the user wrote.
        let field = if spec.termination_grace_period.is_some() {
            "spec.terminationGracePeriod"
        } else {
            "spec.preStopDelay"
        };
        problems.error(
            field,
            format!(
                "the grace period ({grace}) must be longer than the preStop delay ({delay}), or the app is killed \
                 before it is told to stop: lengthen the one or shorten the other"
            ),
        );
    }
}

/// Kubernetes takes these in whole seconds.
pub(super) fn check_whole_seconds(
    field: &str,
    value: Option<Duration>,
    least: Duration,
    problems: &mut Problems,
) {
    let Some(value) = value else { return };
    if value.as_millis() % 1000 != 0 {
        problems.error(
            field,
            format!(
                "{value} is no whole number of seconds: write {}s",
                value.as_secs_ceil()
            ),
        );
    } else if value < least {
        problems.error(field, format!("{value} is too short: use at least {least}"));
    } else if i32::try_from(value.as_secs_ceil()).is_err() {
        problems.error(field, format!("{value} is too long"));
    }
}
