//! Every fault of a policy, with its field path and the fix. A fault never depends on other objects.

use std::{num::NonZeroU32, time::Duration};

use trellis_api::{
    Problem, RateLimitPolicy, Severity,
    rate_limit_policy::{self as kind, Algorithm, Response, Scope, TargetKind, TargetRef},
};
use trellis_expression::{Expression, request, types::Type};
use trellis_rate::{Limit, Rate};

use super::limit;

const MOST_TARGETS: usize = 16;
const MOST_LIMITS: usize = 16;
const MOST_COUNTERS: usize = 4;
const MOST_CONDITIONS: usize = 8;
const MOST_AT_ONCE: u32 = 1_000_000;
const MOST_PER_WINDOW: u32 = 1_000_000_000;
const LONGEST_NAME: usize = 63;
const LONGEST_OBJECT_NAME: usize = 253;
const LONGEST_COST: usize = 1024;
const LONGEST_BODY: usize = 16_384;

/// Every problem, in the order of the fields.
#[must_use]
pub fn problems(policy: &RateLimitPolicy) -> Vec<Problem> {
    let mut problems = Vec::new();
    let spec = &policy.spec;
    if spec.target_refs.is_empty() {
        problems.push(Problem::error(
            "spec.targetRefs",
            "is empty: name what is to be limited",
        ));
    }
    check_count(
        "spec.targetRefs",
        spec.target_refs.len(),
        MOST_TARGETS,
        &mut problems,
    );
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    for (i, target) in spec.target_refs.iter().enumerate() {
        check_target(&format!("spec.targetRefs[{i}]"), target, namespace, &mut problems);
        if spec.target_refs[..i].contains(target) {
            let message = "is named before: remove one of the two";
            problems.push(Problem::error(format!("spec.targetRefs[{i}]"), message));
        }
    }
    if spec.limits.is_empty() {
        problems.push(Problem::error(
            "spec.limits",
            "is empty: name a limit, {} is 100 per 60s",
        ));
    }
    check_count("spec.limits", spec.limits.len(), MOST_LIMITS, &mut problems);
    for (name, limit) in &spec.limits {
        let at = format!("spec.limits[{name}]");
        if !is_name(name) {
            let message = format!(
                "{name:?} cannot name a limit: use at most {LONGEST_NAME} of a-z, 0-9 and '-', start and end with a letter or digit"
            );
            problems.push(Problem::error(&at, message));
        }
        check_limit(&at, limit, &mut problems);
    }
    check_response("spec", spec.response.as_ref(), &mut problems);
    problems
}

fn check_count(at: &str, count: usize, most: usize, problems: &mut Vec<Problem>) {
    if count > most {
        problems.push(Problem::error(
            at,
            format!("{count} are more than {most}: remove some"),
        ));
    }
}

fn check_response(at: &str, response: Option<&Response>, problems: &mut Vec<Problem>) {
    let Some(response) = response else { return };
    if let Some(status) = response.status.filter(|status| !(400..=599).contains(status)) {
        let message = format!("{status} says nothing of a refusal: use 400 to 599");
        problems.push(Problem::error(format!("{at}.response.status"), message));
    }
    let body = response.body.as_deref().unwrap_or_default();
    if body.chars().count() > LONGEST_BODY {
        let message = format!("is longer than {LONGEST_BODY} characters: shorten it");
        problems.push(Problem::error(format!("{at}.response.body"), message));
    }
}

/// Whether any of them stops the policy from being acted on.
pub(super) fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

fn check_target(at: &str, target: &TargetRef, namespace: &str, problems: &mut Vec<Problem>) {
    let group = match target.kind {
        TargetKind::Microservice => trellis_api::GROUP,
        TargetKind::Namespace => "",
    };
    if target.group != group {
        let message = format!(
            "{:?} is not the group of {}: write {group:?}",
            target.group,
            target.kind.as_ref()
        );
        problems.push(Problem::error(format!("{at}.group"), message));
    }
    if target.name.is_empty() || target.name.len() > LONGEST_OBJECT_NAME {
        let message = format!(
            "has to have 1 to {LONGEST_OBJECT_NAME} characters: write the name of what is to be limited"
        );
        problems.push(Problem::error(format!("{at}.name"), message));
    }
    let section = target.section_name.as_ref();
    if section.is_some_and(|name| name.is_empty() || name.len() > LONGEST_NAME) {
        let message =
            format!("has to have 1 to {LONGEST_NAME} characters: write the name of a route, or remove it");
        problems.push(Problem::error(format!("{at}.sectionName"), message));
    }
    if target.kind == TargetKind::Namespace {
        if target.name != namespace {
            let message = format!(
                "{:?} is not the policy's own namespace: write {namespace:?}, or make the policy there",
                target.name
            );
            problems.push(Problem::error(format!("{at}.name"), message));
        }
        if target.section_name.is_some() {
            let message = "a Namespace has no routes: remove it, or name a Microservice";
            problems.push(Problem::error(format!("{at}.sectionName"), message));
        }
    }
}

fn check_limit(at: &str, settings: &kind::RateLimit, problems: &mut Vec<Problem>) {
    let error = |problems: &mut Vec<Problem>, field: &str, message: String| {
        problems.push(Problem::error(format!("{at}.{field}"), message));
    };
    let counted = limit::algorithm(settings) == Algorithm::Concurrency;
    if counted {
        if !settings
            .concurrency
            .is_some_and(|most| (1..=MOST_AT_ONCE).contains(&most))
        {
            let message = format!("set how many requests may be under way at once, 1 to {MOST_AT_ONCE}");
            error(problems, "concurrency", message);
        }
        if settings.scope == Some(Scope::Service) {
            let message = "requests under way are counted by each pod: set scope: Pod, or leave it out";
            error(problems, "scope", message.to_owned());
        }
        if !settings.rates.is_empty() {
            error(
                problems,
                "rates",
                "requests under way have no rate: remove rates, or concurrency".to_owned(),
            );
        }
    } else {
        if settings.concurrency.is_some() {
            error(
                problems,
                "concurrency",
                "is a limit of its own: move it to another limit".to_owned(),
            );
        }
        check_rates(at, settings, problems);
    }
    if settings.on_quota_loss.is_some() && (counted || settings.scope == Some(Scope::Pod)) {
        let message = if counted {
            "requests under way are counted by each pod, which leases nothing: remove it"
        } else {
            "each pod counts by itself with scope: Pod and leases nothing: remove it, or set scope: Service"
        };
        error(problems, "onQuotaLoss", message.to_owned());
    }
    check_count(
        &format!("{at}.counters"),
        settings.counters.len(),
        MOST_COUNTERS,
        problems,
    );
    check_count(
        &format!("{at}.when"),
        settings.when.len(),
        MOST_CONDITIONS,
        problems,
    );
    check_response(at, settings.response.as_ref(), problems);
    let cost = settings.cost.as_ref();
    if cost.is_some_and(|cost| cost.chars().count() > LONGEST_COST) {
        error(
            problems,
            "cost",
            format!("is longer than {LONGEST_COST} characters: shorten it"),
        );
    }
    let environment = request::environment();
    let key = [Type::String, Type::Int, Type::Uint, Type::Bool];
    let counters = settings.counters.iter().enumerate();
    let conditions = settings.when.iter().enumerate();
    let expressions = counters
        .map(|(i, source)| (format!("counters[{i}]"), source, &key[..]))
        .chain(conditions.map(|(i, source)| (format!("when[{i}]"), source, &[Type::Bool][..])))
        .chain(
            settings
                .cost
                .iter()
                .map(|source| ("cost".to_owned(), source, &[Type::Int, Type::Uint][..])),
        );
    for (field, source, types) in expressions {
        for fault in Expression::compile(source, &environment, types)
            .err()
            .unwrap_or_default()
        {
            error(problems, &field, fault.to_string());
        }
    }
}

fn check_rates(at: &str, settings: &kind::RateLimit, problems: &mut Vec<Problem>) {
    let algorithm = match limit::algorithm(settings) {
        Algorithm::TokenBucket => trellis_rate::Algorithm::TokenBucket,
        Algorithm::FixedWindow => trellis_rate::Algorithm::FixedWindow,
        Algorithm::SlidingWindow | Algorithm::Concurrency => trellis_rate::Algorithm::SlidingWindow,
    };
    let mut rates = Vec::new();
    for (i, rate) in limit::rates(settings).iter().enumerate() {
        let Some(limit) = NonZeroU32::new(rate.limit) else {
            let message = "0 lets nobody in: use 1 or more";
            problems.push(Problem::error(format!("{at}.rates[{i}].limit"), message));
            return;
        };
        if rate.limit > MOST_PER_WINDOW {
            let message = format!("{} is too much: use at most {MOST_PER_WINDOW}", rate.limit);
            problems.push(Problem::error(format!("{at}.rates[{i}].limit"), message));
        }
        if rate.burst.is_some_and(|burst| burst > MOST_PER_WINDOW) {
            let message = format!("is too much: use at most {MOST_PER_WINDOW}");
            problems.push(Problem::error(format!("{at}.rates[{i}].burst"), message));
        }
        if rate.burst == Some(0) {
            let message = "0 lets nobody in: use 1 or more, or leave it out";
            problems.push(Problem::error(format!("{at}.rates[{i}].burst"), message));
        }
        rates.push(Rate {
            limit,
            window: Duration::from(rate.window),
            burst: rate.burst.and_then(NonZeroU32::new),
        });
    }
    for fault in Limit::by_rates(algorithm, rates).err().unwrap_or_default() {
        problems.push(Problem::error(format!("{at}.rates"), fault.to_string()));
    }
}

fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LONGEST_NAME
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}
