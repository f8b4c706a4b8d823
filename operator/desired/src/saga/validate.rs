//! What the schema of the kind refuses, said better: ranges, lengths and names. What the definition means is checked behind it.

use std::collections::BTreeSet;

use trellis_api::{
    Problem, Saga,
    saga::{Call, SagaRetry, Step},
};

use crate::syntax;

const MOST_STEPS: usize = 256;
const MOST_AFTER: usize = 64;
const MOST_HEADERS: usize = 32;
const MOST_SECRETS: usize = 64;
const MOST_RETRY_ON: usize = 4;
const MOST_RUNS: u32 = 1_000_000;
const MOST_ATTEMPTS: u32 = 1_000_000;
const MOST_AT_ONCE: u32 = 100;
const MOST_ITEMS: u32 = 1000;
const LONGEST_EXPRESSION: usize = trellis_expression::MAX_BYTES;
const LONGEST_PATH: usize = 4096;
const LONGEST_SECRET: usize = 256;
const LONGEST_URL: usize = 2048;
/// Longest name: that of a value of a label.
const LONGEST_NAME: usize = 63;

/// Every problem, in the order of the fields.
pub(super) fn problems(saga: &Saga) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    let name = saga.metadata.name.as_deref().unwrap_or_default();
    if name.len() > LONGEST_NAME {
        let message = format!(
            "has {} characters: use at most {LONGEST_NAME}, its revisions carry it as a label",
            name.len()
        );
        problems.add("metadata.name", message);
    }
    let spec = &saga.spec;
    problems.count("spec.steps", spec.steps.len(), 1, MOST_STEPS);
    for (i, step) in spec.steps.iter().enumerate() {
        problems.step(&format!("spec.steps[{i}]"), step);
    }
    problems.range("spec.concurrency", spec.concurrency, 1, MOST_RUNS);
    problems.count("spec.secret", spec.secret.len(), 0, MOST_SECRETS);
    for (i, path) in spec.secret.iter().enumerate() {
        problems.length(&format!("spec.secret[{i}]"), path, LONGEST_SECRET);
    }
    if let Some(webhook) = spec
        .on_stuck
        .as_ref()
        .and_then(|on_stuck| on_stuck.webhook.as_ref())
    {
        let field = "spec.onStuck.webhook.url";
        problems.length(field, &webhook.url, LONGEST_URL);
        let url: Result<http::Uri, _> = webhook.url.parse();
        let is_web = |uri: &http::Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        };
        if !url.is_ok_and(|uri| is_web(&uri)) {
            let message = format!("{:?} is no address: write https://HOST/PATH", webhook.url);
            problems.add(field, message);
        }
    }
    problems.0
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(Problem::error(field, message));
    }

    fn range(&mut self, field: &str, given: Option<u32>, least: u32, most: u32) {
        if let Some(given) = given.filter(|given| !(least..=most).contains(given)) {
            self.add(field, format!("{given} is out of range: use {least} to {most}"));
        }
    }

    fn count(&mut self, field: &str, count: usize, least: usize, most: usize) {
        if count < least {
            self.add(field, "is empty: write at least one");
        } else if count > most {
            self.add(field, format!("{count} are more than {most}: remove some"));
        }
    }

    fn length(&mut self, field: &str, text: &str, most: usize) {
        let length = text.chars().count();
        if length == 0 {
            self.add(field, "is empty: write something, or leave it out");
        } else if length > most {
            self.add(field, format!("has {length} characters: use at most {most}"));
        }
    }

    fn step(&mut self, at: &str, step: &Step) {
        let after = step.after.as_ref().map_or(0, Vec::len);
        self.count(&format!("{at}.after"), after, 0, MOST_AFTER);
        if let Some(when) = &step.when {
            self.length(&format!("{at}.when"), when, LONGEST_EXPRESSION);
        }
        if let Some(for_each) = &step.for_each {
            let at = format!("{at}.forEach");
            self.length(&format!("{at}.items"), &for_each.items, LONGEST_EXPRESSION);
            self.range(
                &format!("{at}.concurrency"),
                for_each.concurrency,
                1,
                MOST_AT_ONCE,
            );
            self.range(&format!("{at}.maxItems"), for_each.max_items, 1, MOST_ITEMS);
        }
        self.call(&format!("{at}.action"), &step.action);
        if let Some(compensation) = &step.compensation {
            self.call(&format!("{at}.compensation"), compensation);
        }
        self.retry(at, step.retry.as_ref());
    }

    fn call(&mut self, at: &str, call: &Call) {
        let target = &call.call;
        if !syntax::is_microservice_name(&target.microservice) {
            let message = format!("{:?} cannot name a Microservice", target.microservice);
            self.add(&format!("{at}.call.microservice"), message);
        }
        let port = target.port.as_ref();
        if let Some(port) = port.filter(|port| !syntax::is_port_name(port)) {
            let message = format!("{port:?} cannot name a port");
            self.add(&format!("{at}.call.port"), message);
        }
        self.length(&format!("{at}.call.path"), &target.path, LONGEST_PATH);
        self.count(&format!("{at}.headers"), call.headers.len(), 0, MOST_HEADERS);
        let mut known = BTreeSet::new();
        for name in call.headers.keys() {
            if !known.insert(name.to_ascii_lowercase()) {
                let message = "is there twice, since names of headers have no case: remove one";
                self.add(&format!("{at}.headers[{name}]"), message);
            }
        }
        self.retry(at, call.retry.as_ref());
    }

    fn retry(&mut self, at: &str, retry: Option<&SagaRetry>) {
        let Some(retry) = retry else { return };
        let at = format!("{at}.retry");
        if let Some(factor) = retry.factor.filter(|factor| !(1.0..=10.0).contains(factor)) {
            self.add(
                &format!("{at}.factor"),
                format!("{factor} is out of range: use 1 to 10"),
            );
        }
        self.range(&format!("{at}.jitter"), retry.jitter, 0, 100);
        self.range(&format!("{at}.maxAttempts"), retry.max_attempts, 1, MOST_ATTEMPTS);
        self.count(&format!("{at}.retryOn"), retry.retry_on.len(), 0, MOST_RETRY_ON);
    }
}
