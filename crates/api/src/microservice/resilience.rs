//! `spec.resilience`: what stands around calls to other services.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Method;
use crate::Duration;

/// What stands around calls to other services, in the proxy of the caller. Every part has a safe default, so a service that
/// sets nothing has them all: 15 s a request, one more try of what is safe to repeat, a circuit breaker, and a bound on
/// requests under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resilience {
    /// How long a request may take, up to the head of its response: waiting, tries and pauses between them together.
    /// Callers may ask for less (`trellis-deadline-ms`, `grpc-timeout`). gRPC has no limit but the caller's, which this one
    /// shortens. `0s`: no limit. Unset: 15s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// How long one try may take. Unset: what is left of `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// What is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// When calls to a service that fails end, and when they begin again. Unset: on with its defaults; in a gateway, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How many requests there may be at once, from one pod to the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<Bulkhead>,
    /// What callers get instead of an error. Unset: the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl Resilience {
    /// This, with what it does not say taken from `other`. A part (`retry`, say) is taken as a whole.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            timeout: self.timeout.or(other.timeout),
            per_try_timeout: self.per_try_timeout.or(other.per_try_timeout),
            retry: self.retry.clone().or_else(|| other.retry.clone()),
            circuit_breaker: self
                .circuit_breaker
                .clone()
                .or_else(|| other.circuit_breaker.clone()),
            bulkhead: self.bulkhead.clone().or_else(|| other.bulkhead.clone()),
            fallback: self.fallback.clone().or_else(|| other.fallback.clone()),
        }
    }
}

/// Tries after the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries of a request, the first one included. 1: none is repeated. Unset: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<u32>,
    /// Outcomes that are worth another try. Unset: `ConnectFailure` and `Unavailable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub retry_on: Vec<RetryCondition>,
    /// Methods of requests that may be sent twice although they may have been acted on. Unset: GET, HEAD, OPTIONS, TRACE,
    /// PUT and DELETE. Name POST only if the service recognises a request that it has seen. A gRPC call is a POST.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub methods: Vec<Method>,
    /// Pauses between tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// What bounds the retries of all requests together, so that they do not finish off a service in trouble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// An outcome that is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RetryCondition {
    /// There was no connection, or no pod: nothing was sent.
    ConnectFailure,
    /// 503, or gRPC's UNAVAILABLE.
    Unavailable,
    /// The try took longer than `perTryTimeout`.
    Timeout,
    /// The connection broke before the response.
    ConnectionBroken,
    /// Any status from 500 to 599.
    ServerError,
}

/// Pauses between tries: a random time from zero to `base`, then to twice that, and so on up to `max`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// Longest first pause. Unset: 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// Longest pause. Unset: 250ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// How many retries there may be, of all requests from one pod to the service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Retries for each hundred requests of the last 10 s. Unset: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// Retries a second that are allowed beside those. Unset: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_per_second: Option<u32>,
}

/// Stops calling what fails, and asks once in a while whether it is back. It counts the tries of one pod to the service,
/// and to each of its pods: a failed connection, a timeout and 5xx fail; 4xx, and 503 with Retry-After, do not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Whether there is one. Unset: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Failures in a row that open it. Unset: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub failures: Option<u32>,
    /// Share of failures that opens it, too: failures in a row miss a service that fails every second request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// How long it stays open. Callers get 503 at once meanwhile, with Retry-After. Unset: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_for: Option<Duration>,
    /// Tries that have to succeed, one at a time, before it closes. Unset: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u32>,
}

/// A share of failures among recent tries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureRate {
    /// Failures among a hundred tries that open the breaker. Unset: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<u32>,
    /// Tries in the window below which the share says nothing. Unset: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_samples: Option<u32>,
    /// How far back tries count. Unset: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
}

/// Bounds the requests under way, so that a slow service does not take all that its caller has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bulkhead {
    /// Requests from one pod to the service at once. Unset: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_concurrent: Option<u32>,
    /// Requests that wait for a place, in order. 0: none waits. Unset: 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_queue: Option<u32>,
    /// Longest wait for a place. Unset: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Duration>,
}

/// What callers get instead of an error: whenever there is no answer, or it is 502, 503 or 504. Always the same (`status`,
/// `body`), or what another Microservice answers.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.status) != has(self.microservice)").message("a fallback is either static (status, body) or another Microservice (microservice, port): set exactly one of status and microservice"))]
pub struct Fallback {
    /// Status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status: Option<u16>,
    /// Body of the answer. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
    /// What the body is. Unset: `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub content_type: Option<String>,
    /// Name of the Microservice that answers instead; it must be in `dependsOn`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub microservice: Option<String>,
    /// Name of its port, as in `dependsOn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[a-z]([a-z0-9]|-[a-z0-9])*$"))]
    pub port: Option<String>,
}
