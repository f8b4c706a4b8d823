//! A saga's definition as the engine reads it: defaults filled in, order resolved.
//!
//! It is the content of a revision, so its form is an interface: fields are added, and never get another meaning. Paths of fields
//! are those of the custom resource, so that a fault here is at the same place there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the form.
pub const API_VERSION: &str = "saga.trellis.dev/v1";

/// Steps that happen all together or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// [`API_VERSION`].
    pub api_version: String,
    /// Namespace of the saga and of everything that it calls.
    pub namespace: String,
    /// Name of the saga.
    pub name: String,
    /// What a run is started with; None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    /// What is done.
    pub steps: Vec<Step>,
    /// How long a run may take up to its pivot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long runs are kept after their end.
    pub retention: Retention,
    /// Runs under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Who is told of a run that is stuck.
    pub on_stuck: OnStuck,
    /// Values that are never shown: `input.card`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secret: BTreeSet<String>,
}

/// What a value looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// JSON Schema.
    pub schema: Value,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Steps that must be done before.
    pub after: BTreeSet<String>,
    /// Whether it is done at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// For which elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// What it may come to.
    pub kind: Kind,
    /// What is done.
    pub action: Call,
    /// What takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Call>,
    /// What the answer looks like; None: any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
}

/// What a step may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::AsRefStr)]
pub enum Kind {
    /// It can be taken back.
    Compensatable,
    /// Once it has succeeded the run only goes forward.
    Pivot,
    /// It is tried until it succeeds.
    Retriable,
}

/// For each element of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForEach {
    /// The list.
    pub items: String,
    /// How many at once.
    pub concurrency: u32,
    /// Longest list.
    pub max_items: u32,
}

/// A request, and what becomes of failures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Where it goes.
    pub call: HttpCall,
    /// Its headers, names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// How long one try may take.
    pub timeout: Millis,
    /// How it is tried again.
    pub retry: Retry,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCall {
    /// Name of the Microservice.
    pub microservice: String,
    /// Name of its port; None: its first that speaks HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
}

/// Tries after the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// First pause.
    pub initial: Millis,
    /// By how much the pause grows.
    pub factor: f64,
    /// Longest pause.
    pub max_interval: Millis,
    /// Percent of a pause that is random.
    pub jitter: u32,
    /// No further try after this time since the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_elapsed: Option<Millis>,
    /// No further try after so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// What is tried again.
    pub retry_on: BTreeSet<RetryCondition>,
}

/// An outcome that is worth another try.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, strum::EnumIter,
)]
pub enum RetryCondition {
    /// The service could not be reached: nothing was done.
    Unreachable,
    /// Nobody knows what was done.
    Timeout,
    /// 425 or 429.
    Throttled,
    /// 5xx.
    ServerError,
}

/// How long runs are kept after their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Those that were completed.
    pub completed: Millis,
    /// Those that were compensated.
    pub compensated: Millis,
}

/// Who is told of a run that is stuck.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnStuck {
    /// Whether there is an Event.
    pub event: bool,
    /// Who gets a POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
}

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Step {
    /// Whether its action changes nothing, so that there is nothing to take back (RFC 9110, section 9.2.1).
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(&*self.action.call.method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }
}

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0 / 60_000, self.0 % 60_000) {
            (0, rest) if rest % 1000 == 0 => write!(f, "{}s", rest / 1000),
            (0, rest) => write!(f, "{rest}ms"),
            (minutes, 0) => write!(f, "{minutes}m"),
            (minutes, rest) if rest % 1000 == 0 => write!(f, "{minutes}m{}s", rest / 1000),
            (minutes, rest) => write!(f, "{minutes}m{rest}ms"),
        }
    }
}
