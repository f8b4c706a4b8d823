//! What callers are told about limits.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use trellis_proxy_config::limit::{LimitHeaders, Rule};
use trellis_rate::{Decision, Mode, Reading};

use super::Limits;
use crate::failure::{Failure, Reason, Refusal};

/// draft-ietf-httpapi-ratelimit-headers-10.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// Its third draft.
const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// When to try again if this pod's part of a shared limit is too small for the request: it has asked for more by then.
const NEXT_SHARE: Duration = Duration::from_secs(1);

/// Headers of an answer to a request that the limits were asked about.
pub(super) fn headers(limits: &Limits, decision: &Decision) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let told = |style: LimitHeaders| {
        let readings = decision.readings().iter();
        readings.filter(move |reading| {
            reading.mode == Mode::Enforce
                && limits
                    .settings(reading.member)
                    .is_some_and(|settings| settings.headers == style)
        })
    };
    let (mut left, mut policies) = (String::new(), String::new());
    for reading in told(LimitHeaders::Ietf) {
        let name = name(limits, reading);
        let quota = reading.quota;
        for list in [&mut left, &mut policies] {
            if !list.is_empty() {
                list.push_str(", ");
            }
        }
        // Writing into a String does not fail.
        let (limit, window) = allowed(limits, reading);
        let _ = write!(policies, "\"{name}\";q={limit}");
        let _ = write!(left, "\"{name}\";r={}", quota.remaining());
        if !window.is_zero() {
            let _ = write!(policies, ";w={}", seconds(window));
            let _ = write!(left, ";t={}", seconds(quota.restored_after()));
        }
    }
    put(&mut headers, RATE_LIMIT, &left);
    put(&mut headers, RATE_LIMIT_POLICY, &policies);
    // This form has room for one: the one that has least left.
    if let Some(reading) = told(LimitHeaders::Draft03).min_by_key(|reading| reading.quota.remaining()) {
        let quota = reading.quota;
        headers.insert(LIMIT, HeaderValue::from(allowed(limits, reading).0));
        headers.insert(REMAINING, HeaderValue::from(quota.remaining()));
        headers.insert(RESET, HeaderValue::from(seconds(quota.restored_after())));
    }
    headers
}

/// What a refused request is answered with: by the first limit that refused it.
pub(super) fn refusal(limits: &Limits, decision: &Decision) -> Failure {
    let first = decision.refusals().next();
    let settings = first.and_then(|reading| limits.settings(reading.member));
    let (policy, name) = settings.map_or(("", ""), |settings| (&*settings.policy, &*settings.name));
    let detail = format!("limit {name:?} of the rate limit policy {policy:?} has no room for this request");
    let mut failure = Failure::new(Reason::RateLimited, detail);
    let is_shared = decision
        .refusals()
        .any(|reading| limits.is_shared(reading.member));
    failure.retry_after = decision.retry_after().or(is_shared.then_some(NEXT_SHARE));
    failure.refusal = Some(Box::new(Refusal {
        status: settings
            .and_then(|settings| settings.status)
            .and_then(|status| StatusCode::from_u16(status).ok()),
        body: settings.and_then(|settings| settings.body.clone()),
        headers: headers(limits, decision),
    }));
    failure
}

/// How much a rate allows, and for how long: over all pods, if they share it. What is left is this pod's.
fn allowed(limits: &Limits, reading: &Reading) -> (u32, Duration) {
    let rule = limits.settings(reading.member).map(|settings| &settings.rule);
    match rule {
        Some(Rule::Rates { rates, .. }) if limits.is_shared(reading.member) => {
            rates.get(reading.rate).map_or_else(Default::default, |rate| {
                (
                    rate.burst.unwrap_or(rate.limit),
                    Duration::from_millis(rate.window),
                )
            })
        }
        _ => (reading.quota.limit(), reading.quota.window()),
    }
}

/// The name of a rate: that of its limit, with its place if it is not the first.
fn name(limits: &Limits, reading: &Reading) -> String {
    let name = limits
        .settings(reading.member)
        .map_or("", |settings| &settings.name);
    match reading.rate {
        0 => name.to_owned(),
        place => format!("{name}-{}", place + 1),
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !value.is_empty()
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}
