//! `spec.resilience`, and what entries of `dependsOn` say instead.

use http::HeaderValue;
use trellis_api::{
    Microservice,
    microservice::{Fallback, Resilience},
};
use trellis_resilience::fault::Fault;

use super::Problems;
use crate::microservice::resilience::{self, is_meant};

/// Longest body of a static fallback: it is in the configuration of every proxy.
const LONGEST_BODY: usize = 16 * 1024;

pub(super) fn check(cr: &Microservice, problems: &mut Problems) {
    let spec = &cr.spec;
    let mut known = Vec::new();
    if let Some(all) = &spec.resilience {
        check_own(cr, "spec.resilience", all, problems);
        known = resilience::policy(all).faults();
        report("spec.resilience", known.clone(), problems);
    }
    for (i, entry) in spec.depends_on.iter().enumerate() {
        let Some(own) = &entry.resilience else { continue };
        let at = format!("spec.dependsOn[{i}].resilience");
        check_own(cr, &at, own, problems);
        if own
            .fallback
            .as_ref()
            .is_some_and(|fallback| is_meant(fallback, entry))
        {
            let message = "is the entry itself: name another Microservice, or set status and body";
            problems.error(format!("{at}.fallback.microservice"), message);
        }
        // What is wrong together with what it takes over, but not what is wrong in that alone.
        let mut faults = resilience::policy(&resilience::of(cr, entry)).faults();
        faults.retain(|fault| !known.contains(fault));
        report(&at, faults, problems);
    }
}

/// Adds what is not known of a field yet.
fn report(at: &str, faults: Vec<Fault>, problems: &mut Problems) {
    for fault in faults {
        let field = format!("{at}.{}", fault.field);
        if !problems.name(&field) {
            problems.error(field, fault.message);
        }
    }
}

fn check_own(cr: &Microservice, at: &str, settings: &Resilience, problems: &mut Problems) {
    let retry = settings.retry.as_ref();
    let budget = retry.and_then(|retry| retry.budget.as_ref());
    let breaker = settings.circuit_breaker.as_ref();
    let rate = breaker.and_then(|breaker| breaker.failure_rate.as_ref());
    let bulkhead = settings.bulkhead.as_ref();
    for (field, given, least, most) in [
        ("retry.attempts", retry.and_then(|it| it.attempts), 1, 10),
        ("retry.budget.percent", budget.and_then(|it| it.percent), 0, 100),
        (
            "circuitBreaker.failures",
            breaker.and_then(|it| it.failures),
            1,
            1000,
        ),
        ("circuitBreaker.probes", breaker.and_then(|it| it.probes), 1, 100),
        (
            "circuitBreaker.failureRate.percent",
            rate.and_then(|it| it.percent),
            1,
            100,
        ),
        (
            "circuitBreaker.failureRate.minSamples",
            rate.and_then(|it| it.min_samples),
            1,
            100_000,
        ),
        (
            "bulkhead.maxConcurrent",
            bulkhead.and_then(|it| it.max_concurrent),
            1,
            1_000_000,
        ),
        (
            "bulkhead.maxQueue",
            bulkhead.and_then(|it| it.max_queue),
            0,
            1_000_000,
        ),
    ] {
        if let Some(given) = given
            && !(least..=most).contains(&given)
        {
            let message = format!("{given} is out of range: use {least} to {most}");
            problems.error(format!("{at}.{field}"), message);
        }
    }
    if let Some(fallback) = &settings.fallback {
        check_fallback(cr, &format!("{at}.fallback"), fallback, problems);
    }
}

fn check_fallback(cr: &Microservice, at: &str, fallback: &Fallback, problems: &mut Problems) {
    if fallback.status.is_some() == fallback.microservice.is_some() {
        problems.error(
            at,
            "is either static or another Microservice: set status (with body), or microservice, and not both",
        );
        return;
    }
    if let Some(status) = fallback.status {
        if !(200..=599).contains(&status) {
            problems.error(
                format!("{at}.status"),
                format!("{status} is out of range: use 200 to 599"),
            );
        }
        let length = fallback.body.as_ref().map_or(0, String::len);
        if length > LONGEST_BODY {
            let message = format!("has {length} bytes: use at most {LONGEST_BODY}, it goes to every proxy");
            problems.error(format!("{at}.body"), message);
        }
        if let Some(content_type) = &fallback.content_type
            && HeaderValue::from_str(content_type).is_err()
        {
            let message = format!("{content_type:?} cannot be in a header: use something like text/plain");
            problems.error(format!("{at}.contentType"), message);
        }
    }
    if let Some(microservice) = &fallback.microservice {
        if cr.spec.gateway.is_some() {
            let message = "a gateway has no dependencies to fall back to: set status and body instead";
            problems.error(format!("{at}.microservice"), message);
        } else if !cr.spec.depends_on.iter().any(|entry| is_meant(fallback, entry)) {
            let message = format!("{microservice:?} is not in spec.dependsOn with this port: add it there");
            problems.error(format!("{at}.microservice"), message);
        }
    }
}
