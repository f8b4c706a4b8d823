//! A policy's limits in the terms of the proxy's document.

use trellis_api::{
    Duration, RateLimitPolicy,
    microservice::Route,
    rate_limit_policy::{self as kind, Algorithm, HeaderStyle, Mode, OnQuotaLoss, Scope},
};
use trellis_proxy_config::{
    RateLimit,
    limit::{self as wire, Lease, LimitHeaders, LimitedRoute, OnLoss, Rule},
};

/// Unless told: 100 in any minute, or 100 at once and one more a second.
const USUAL: u32 = 100;
const USUAL_WINDOW: Duration = Duration::from_secs(60);
const REFILL: u32 = 1;
const REFILL_WINDOW: Duration = Duration::from_secs(1);

/// The limits of a policy without faults, for all requests or those of a route of a Microservice with at most so many pods.
pub(super) fn of(policy: &RateLimitPolicy, route: Option<&Route>, replicas: u32) -> Vec<RateLimit> {
    let spec = &policy.spec;
    let limits = spec.limits.iter();
    limits
        .map(|(name, limit)| {
            let response = limit
                .response
                .clone()
                .or_else(|| spec.response.clone())
                .unwrap_or_default();
            RateLimit {
                policy: policy.metadata.name.clone().unwrap_or_default(),
                policy_uid: policy.metadata.uid.clone().unwrap_or_default(),
                generation: policy.metadata.generation.unwrap_or_default(),
                name: name.clone(),
                route: route.map(|route| LimitedRoute {
                    name: route.name.clone(),
                    path: route.path.clone(),
                    methods: route
                        .methods
                        .iter()
                        .map(|method| method.as_ref().to_owned())
                        .collect(),
                }),
                rule: rule(limit),
                lease: (scope(limit) == Scope::Service).then(|| Lease {
                    replicas,
                    on_loss: on_loss(limit.on_quota_loss.or(spec.on_quota_loss).unwrap_or_default()),
                }),
                counters: limit.counters.clone(),
                when: limit.when.clone(),
                cost: limit.cost.clone(),
                shadow: limit.mode.or(spec.mode).unwrap_or_default() == Mode::Shadow,
                headers: headers(limit.headers.or(spec.headers).unwrap_or_default()),
                status: response.status,
                body: response.body,
            }
        })
        .collect()
}

/// How a limit is counted.
pub(super) fn algorithm(limit: &kind::RateLimit) -> Algorithm {
    let unset = if limit.concurrency.is_some() {
        Algorithm::Concurrency
    } else {
        Algorithm::SlidingWindow
    };
    limit.algorithm.unwrap_or(unset)
}

/// Who counts together.
pub(super) fn scope(limit: &kind::RateLimit) -> Scope {
    let unset = if algorithm(limit) == Algorithm::Concurrency {
        Scope::Pod
    } else {
        Scope::Service
    };
    limit.scope.unwrap_or(unset)
}

fn rule(limit: &kind::RateLimit) -> Rule {
    let algorithm = match algorithm(limit) {
        Algorithm::Concurrency => return Rule::Concurrency(limit.concurrency.unwrap_or(USUAL)),
        Algorithm::TokenBucket => wire::Algorithm::TokenBucket,
        Algorithm::SlidingWindow => wire::Algorithm::SlidingWindow,
        Algorithm::FixedWindow => wire::Algorithm::FixedWindow,
    };
    let rates = rates(limit);
    let rates = rates.iter().map(|rate| wire::Rate {
        limit: rate.limit,
        window: rate.window.as_millis(),
        burst: rate.burst,
    });
    Rule::Rates {
        algorithm,
        rates: rates.collect(),
    }
}

/// The rates, or the usual ones of the algorithm.
pub(super) fn rates(limit: &kind::RateLimit) -> Vec<kind::Rate> {
    if !limit.rates.is_empty() {
        return limit.rates.clone();
    }
    let bucket = algorithm(limit) == Algorithm::TokenBucket;
    vec![kind::Rate {
        limit: if bucket { REFILL } else { USUAL },
        window: if bucket { REFILL_WINDOW } else { USUAL_WINDOW },
        burst: bucket.then_some(USUAL),
    }]
}

const fn on_loss(chosen: OnQuotaLoss) -> OnLoss {
    match chosen {
        OnQuotaLoss::Share => OnLoss::Share,
        OnQuotaLoss::Open => OnLoss::Open,
        OnQuotaLoss::Closed => OnLoss::Closed,
    }
}

const fn headers(style: HeaderStyle) -> LimitHeaders {
    match style {
        HeaderStyle::Ietf => LimitHeaders::Ietf,
        HeaderStyle::Draft03 => LimitHeaders::Draft03,
        HeaderStyle::None => LimitHeaders::None,
    }
}
