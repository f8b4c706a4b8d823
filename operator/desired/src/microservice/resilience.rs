//! `spec.resilience` in the terms of the proxy's document.

use std::{num::NonZeroU32, time::Duration};

use http::Method;
use trellis_api::{
    Microservice,
    microservice::{
        Bulkhead, CircuitBreaker, Dependency, Fallback, PortBulkhead, Resilience, Retry, RetryBudget,
        RetryCondition,
    },
};
use trellis_proxy_config::{self as proxy, ClusterName};
use trellis_resilience::{
    breaker, budget, bulkhead, deadline,
    percent::Percent,
    policy::Policy,
    retry::{self, Condition},
};

/// What a static fallback says that it is, unless told.
const CONTENT_TYPE: &str = "application/json";

/// What stands around calls to a dependency: its own settings, part by part over those of the Microservice.
pub(super) fn of(cr: &Microservice, entry: &Dependency) -> Resilience {
    let own = entry.resilience.clone().unwrap_or_default();
    match &cr.spec.resilience {
        Some(all) => own.or(all),
        None => own,
    }
}

/// The policy. Numbers out of range, which validation finds, are the nearest in range.
pub(super) fn policy(settings: &Resilience) -> Policy {
    let retry = settings.retry.clone().unwrap_or_default();
    let breaker = settings.circuit_breaker.clone().unwrap_or_default();
    let usual = deadline::Settings::default();
    let total = settings.timeout.map_or(usual.total, |timeout| {
        Some(timeout)
            .filter(|timeout| timeout.as_millis() > 0)
            .map(Into::into)
    });
    Policy {
        deadline: deadline::Settings {
            total,
            per_try: settings.per_try_timeout.map(Into::into),
        },
        bulkhead: bulkhead_of(&settings.bulkhead.clone().unwrap_or_default()),
        budget: budget_of(&retry.budget.clone().unwrap_or_default()),
        retry: retry_of(&retry),
        breaker: breaker.enabled.unwrap_or(true).then(|| breaker_of(&breaker)),
    }
}

/// The policy of a gateway, which breaks no circuit unless it is told to: its callers are strangers, and five requests for
/// what makes a service answer 500 must not take it away from everybody else (ADR 0006).
pub(super) fn policy_of_gateway(settings: &Resilience) -> Policy {
    Policy {
        breaker: settings
            .circuit_breaker
            .as_ref()
            .and_then(|_| policy(settings).breaker),
        ..policy(settings)
    }
}

/// The policy of the saga engine, which has its own timeouts, tries and pauses: a sidecar's breaker would hold up the compensations of
/// all runs because the actions of some fail.
pub(super) fn policy_of_engine() -> Policy {
    Policy {
        deadline: deadline::Settings {
            total: None,
            per_try: None,
        },
        retry: retry::Settings {
            attempts: NonZeroU32::MIN,
            ..retry::Settings::default()
        },
        breaker: None,
        ..Policy::default()
    }
}

/// The fallback; None as well if it names a Microservice that is not among `clusters`, the dependencies of the same
/// Microservice.
pub(super) fn fallback<'a>(
    settings: &Resilience,
    mut clusters: impl Iterator<Item = (&'a Dependency, &'a ClusterName)>,
) -> Option<proxy::Fallback> {
    let fallback = settings.fallback.as_ref()?;
    if let Some(status) = fallback.status {
        return Some(proxy::Fallback::Static(proxy::StaticAnswer {
            status,
            content_type: fallback
                .content_type
                .clone()
                .unwrap_or_else(|| CONTENT_TYPE.to_owned()),
            body: fallback.body.clone().unwrap_or_default(),
        }));
    }
    let (_, cluster) = clusters.find(|(entry, _)| is_meant(fallback, entry))?;
    Some(proxy::Fallback::Cluster(cluster.clone()))
}

/// Whether a fallback means this entry of `dependsOn`.
pub(super) fn is_meant(fallback: &Fallback, entry: &Dependency) -> bool {
    fallback.microservice.as_ref() == Some(&entry.microservice) && fallback.port == entry.port
}

fn retry_of(settings: &Retry) -> retry::Settings {
    let usual = retry::Settings::default();
    let backoff = settings.backoff.clone().unwrap_or_default();
    retry::Settings {
        attempts: some_or(settings.attempts, usual.attempts),
        on: if settings.retry_on.is_empty() {
            usual.on
        } else {
            settings.retry_on.iter().map(|on| condition(*on)).collect()
        },
        methods: if settings.methods.is_empty() {
            usual.methods
        } else {
            // They are all names of methods.
            let names = settings.methods.iter().map(AsRef::as_ref);
            names
                .filter_map(|name: &str| Method::from_bytes(name.as_bytes()).ok())
                .collect()
        },
        backoff: retry::Backoff {
            base: time_or(backoff.base, usual.backoff.base),
            max: time_or(backoff.max, usual.backoff.max),
        },
    }
}

const fn condition(on: RetryCondition) -> Condition {
    match on {
        RetryCondition::ConnectFailure => Condition::ConnectFailure,
        RetryCondition::Unavailable => Condition::Unavailable,
        RetryCondition::Timeout => Condition::Timeout,
        RetryCondition::ConnectionBroken => Condition::Broken,
        RetryCondition::ServerError => Condition::ServerError,
    }
}

fn budget_of(settings: &RetryBudget) -> budget::Settings {
    let usual = budget::Settings::default();
    budget::Settings {
        percent: percent_or(settings.percent, usual.percent),
        min_per_second: settings.min_per_second.unwrap_or(usual.min_per_second),
        window: usual.window,
    }
}

fn breaker_of(settings: &CircuitBreaker) -> breaker::Settings {
    let usual = breaker::Settings::default();
    let rate = settings.failure_rate.clone().unwrap_or_default();
    let usual_rate = breaker::FailureRate::default();
    breaker::Settings {
        consecutive_failures: some_or(settings.failures, usual.consecutive_failures),
        failure_rate: Some(breaker::FailureRate {
            percent: percent_or(rate.percent, usual_rate.percent),
            min_samples: some_or(rate.min_samples, usual_rate.min_samples),
            window: time_or(rate.window, usual_rate.window),
        }),
        open_for: time_or(settings.open_for, usual.open_for),
        probes: some_or(settings.probes, usual.probes),
    }
}

fn bulkhead_of(settings: &Bulkhead) -> bulkhead::Settings {
    let usual = bulkhead::Settings::default();
    bulkhead::Settings {
        max_concurrent: some_or(settings.max_concurrent, usual.max_concurrent),
        max_waiting: settings.max_queue.unwrap_or(usual.max_waiting),
        max_wait: time_or(settings.queue_timeout, usual.max_wait),
    }
}

/// The bulkhead around the app at a port.
pub(super) fn of_port(settings: &PortBulkhead) -> bulkhead::Settings {
    bulkhead_of(&Bulkhead {
        max_concurrent: Some(settings.max_concurrent),
        max_queue: settings.max_queue,
        queue_timeout: settings.queue_timeout,
    })
}

fn some_or(given: Option<u32>, usual: NonZeroU32) -> NonZeroU32 {
    given.map_or(usual, |given| NonZeroU32::new(given).unwrap_or(NonZeroU32::MIN))
}

fn percent_or(given: Option<u32>, usual: Percent) -> Percent {
    given
        .and_then(|given| Percent::new(given.min(100)).ok())
        .unwrap_or(usual)
}

fn time_or(given: Option<trellis_api::Duration>, usual: Duration) -> Duration {
    given.map_or(usual, Into::into)
}
