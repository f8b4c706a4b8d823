//! What callers are told about limits.

use std::{borrow::Cow, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;
use trellis_proxy_config::{
    RateLimit,
    limit::{LimitHeaders, Rate, Rule},
};
use trellis_rate::{Decision, Mode};

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

/// What callers are told of a rate, as far as it is the same for every request.
#[derive(Debug)]
pub(super) struct Told {
    /// How much it allows: over all pods, if they share it. What is left is this pod's.
    limit: u32,
    /// `"name";q=100;w=60`
    policy: HeaderValue,
    /// `"name";r=`
    left: String,
    has_window: bool,
}

/// Headers of an answer.
pub(super) type Headers = SmallVec<[(HeaderName, HeaderValue); 2]>;

impl Told {
    /// Of every rate of a limit, in their order; a name that fits in no header is told to nobody.
    pub(super) fn of(settings: &RateLimit) -> Box<[Self]> {
        let told = |place: usize, limit: u32, window: Option<Duration>| {
            let name = match place {
                0 => settings.name.clone(),
                place => format!("{}-{}", settings.name, place + 1),
            };
            let window_text = window.map(|window| format!(";w={}", seconds(window)));
            let policy = format!("\"{name}\";q={limit}{}", window_text.unwrap_or_default());
            Some(Self {
                limit,
                policy: HeaderValue::try_from(policy).ok()?,
                left: format!("\"{name}\";r="),
                has_window: window.is_some(),
            })
        };
        match &settings.rule {
            Rule::Concurrency(most) => told(0, *most, None).into_iter().collect(),
            Rule::Rates { rates, .. } => {
                let rates = rates.iter().enumerate();
                let of = |(place, rate): (usize, &Rate)| {
                    let window = Duration::from_millis(rate.window);
                    told(place, rate.burst.unwrap_or(rate.limit), Some(window))
                };
                rates.map_while(of).collect()
            }
        }
    }
}

/// Headers of an answer to a request that the limits were asked about.
pub(super) fn headers(limits: &Limits, decision: &Decision) -> Headers {
    let mut headers = Headers::new();
    let told = |style: LimitHeaders| {
        let readings = decision.readings().iter();
        readings.filter_map(move |reading| {
            let (settings, told) = limits.told(reading)?;
            let is_told = reading.mode == Mode::Enforce && settings.headers == style;
            is_told.then_some((reading.quota, told))
        })
    };
    let mut left = String::new();
    let mut policy: Option<Cow<'_, HeaderValue>> = None;
    for (quota, told) in told(LimitHeaders::Ietf) {
        let mut number = itoa::Buffer::new();
        left.reserve(64);
        if !left.is_empty() {
            left.push_str(", ");
        }
        left.push_str(&told.left);
        left.push_str(number.format(quota.remaining()));
        if told.has_window {
            left.push_str(";t=");
            left.push_str(number.format(seconds(quota.restored_after())));
        }
        policy = Some(match policy {
            None => Cow::Borrowed(&told.policy),
            Some(before) => Cow::Owned(joined(&before, &told.policy)),
        });
    }
    if let (Some(policy), Ok(left)) = (policy, HeaderValue::try_from(left)) {
        headers.push((RATE_LIMIT, left));
        headers.push((RATE_LIMIT_POLICY, policy.into_owned()));
    }
    // This form has room for one: the one that has least left.
    if let Some((quota, told)) = told(LimitHeaders::Draft03).min_by_key(|(quota, _)| quota.remaining()) {
        headers.push((LIMIT, HeaderValue::from(told.limit)));
        headers.push((REMAINING, HeaderValue::from(quota.remaining())));
        headers.push((RESET, HeaderValue::from(seconds(quota.restored_after()))));
    }
    headers
}

fn joined(one: &HeaderValue, other: &HeaderValue) -> HeaderValue {
    let both = [one.as_bytes(), b", ", other.as_bytes()].concat();
    // Two values with a comma between them are a value.
    HeaderValue::try_from(both).unwrap_or_else(|_| one.clone())
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
        headers: headers(limits, decision).into_iter().collect(),
    }));
    failure
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
