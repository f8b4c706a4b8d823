//! Health checks.

use k8s_openapi::{
    api::core::v1::{self, GRPCAction, HTTPGetAction, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use trellis_api::{Duration, microservice::Probe, names::PORT_PROXY_HEALTH};

/// Which check it is: they differ in their defaults.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    Readiness,
    Liveness,
    Startup,
}

impl Check {
    const fn period(self) -> Duration {
        match self {
            Self::Liveness => Duration::from_secs(10),
            Self::Readiness | Self::Startup => Duration::from_secs(2),
        }
    }

    const fn failures(self) -> i32 {
        match self {
            Self::Liveness | Self::Readiness => 3,
            Self::Startup => 60,
        }
    }
}

/// A check of the app; `first_port` is asked if the probe names none.
pub(super) fn app(probe: &Probe, check: Check, first_port: Option<u16>) -> Option<v1::Probe> {
    let port = probe.port.or(first_port)?;
    let mut built = v1::Probe {
        period_seconds: Some(seconds(probe.period.unwrap_or(check.period()))),
        timeout_seconds: Some(seconds(probe.timeout.unwrap_or(Duration::from_secs(1)))),
        failure_threshold: Some(probe.failures.unwrap_or(check.failures())),
        initial_delay_seconds: probe.initial_delay.map(seconds).filter(|delay| *delay > 0),
        ..Default::default()
    };
    if let Some(path) = &probe.path {
        built.http_get = Some(http_get(path, port));
    } else if probe.grpc == Some(true) {
        built.grpc = Some(GRPCAction {
            port: i32::from(port),
            service: None,
        });
    } else {
        built.tcp_socket = Some(TCPSocketAction {
            port: IntOrString::Int(i32::from(port)),
            host: None,
        });
    }
    Some(built)
}

/// A check of the proxy.
pub(super) fn proxy(path: &str, period: i32, failures: i32) -> v1::Probe {
    v1::Probe {
        http_get: Some(http_get(path, PORT_PROXY_HEALTH)),
        period_seconds: Some(period),
        timeout_seconds: Some(1),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// Seconds that a startup probe gives the app.
pub(super) fn startup_allowance(probe: &Probe) -> i32 {
    let period = seconds(probe.period.unwrap_or(Check::Startup.period()));
    let failures = probe.failures.unwrap_or(Check::Startup.failures());
    period
        .saturating_mul(failures)
        .saturating_add(probe.initial_delay.map_or(0, seconds))
}

fn http_get(path: &str, port: u16) -> HTTPGetAction {
    HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(i32::from(port)),
        scheme: Some("HTTP".to_owned()),
        ..Default::default()
    }
}

/// Validation has refused lengths beyond an `i32`.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs_ceil()).unwrap_or(i32::MAX)
}
