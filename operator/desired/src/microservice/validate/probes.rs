//! `spec.probes`.

use trellis_api::{Duration, MicroserviceSpec, microservice::Probe};

use super::{Problems, lifecycle::check_whole_seconds};

pub(super) fn check(spec: &MicroserviceSpec, problems: &mut Problems) {
    let Some(probes) = &spec.probes else {
        return;
    };
    for (name, probe) in [
        ("readiness", &probes.readiness),
        ("liveness", &probes.liveness),
        ("startup", &probes.startup),
    ] {
        if let Some(probe) = probe {
            check_probe(
                &format!("spec.probes.{name}"),
                probe,
                spec.ports.is_empty(),
                problems,
            );
        }
    }
}

fn check_probe(at: &str, probe: &Probe, no_ports: bool, problems: &mut Problems) {
    if probe.path.is_some() && probe.grpc == Some(true) {
        problems.error(
            at,
            "path and grpc are both set: keep path for an HTTP GET, or grpc for a gRPC health check",
        );
    }
    if let Some(path) = &probe.path
        && !(path.starts_with('/') && path.len() <= 1024)
    {
        problems.error(
            format!("{at}.path"),
            format!("{path:?} is no path: start it with '/', with at most 1024 characters"),
        );
    }
    match probe.port {
        Some(0) => problems.error(format!("{at}.port"), "0 is no port: use 1 to 65535"),
        None if no_ports => problems.error(
            format!("{at}.port"),
            "there is no first port to ask, as spec.ports is empty: set the probe's port",
        ),
        _ => {}
    }
    if let Some(failures) = probe.failures
        && !(1..=1000).contains(&failures)
    {
        problems.error(
            format!("{at}.failures"),
            format!("{failures} is out of range: use 1 to 1000"),
        );
    }
    let least_second = Duration::from_secs(1);
    check_whole_seconds(&format!("{at}.period"), probe.period, least_second, problems);
    check_whole_seconds(&format!("{at}.timeout"), probe.timeout, least_second, problems);
    check_whole_seconds(
        &format!("{at}.initialDelay"),
        probe.initial_delay,
        Duration::default(),
        problems,
    );
}
