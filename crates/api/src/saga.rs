//! The `Saga` kind: the definition of a distributed transaction.
//!
//! Runs are no objects: they live in the log of the saga engine. A definition compiles to an immutable revision, and a run is
//! pinned to the revision that it began with.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Duration, Problem, microservice::Method};

/// Steps that happen all together or not at all: each is an action of a Microservice, with a compensation that takes it back.
///
/// Texts in `path`, `headers` and `body` may have `${...}` with CEL in it, about `input`, `steps.NAME.output`, `run` and the
/// `item` and `index` of a `forEach`. A value that is one whole `${...}` keeps its type.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "trellis.dev",
    version = "v1alpha1",
    kind = "Saga",
    plural = "sagas",
    category = "trellis",
    namespaced,
    status = "SagaStatus",
    doc = "A Saga is a transaction over several Microservices of its namespace: steps with an action and a compensation each, that all take effect or none. It is checked before it runs: types, data flow, order, timeouts.",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether runs can be started"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Whether the definition makes sense"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason","description":"Why"}"#,
    printcolumn = r#"{"name":"Revision","type":"string","jsonPath":".status.revision","description":"What new runs are made of"}"#,
    printcolumn = r#"{"name":"Running","type":"integer","jsonPath":".status.runs.running","description":"Runs on their way"}"#,
    printcolumn = r#"{"name":"Stuck","type":"integer","jsonPath":".status.runs.stuck","description":"Runs that cannot go on by themselves"}"#,
    printcolumn = r#"{"name":"Completed","type":"integer","jsonPath":".status.runs.completed","description":"Completed runs that are kept"}"#,
    printcolumn = r#"{"name":"Compensated","type":"integer","jsonPath":".status.runs.compensated","description":"Compensated runs that are kept"}"#,
    printcolumn = r#"{"name":"Steps","type":"integer","jsonPath":".status.steps","priority":1,"description":"How many steps the newest revision has"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SagaSpec {
    /// What a run is started with. Unset: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,

    /// What is done, in order unless `after` says otherwise.
    #[schemars(length(min = 1, max = 256))]
    pub steps: Vec<Step>,

    /// How long a run may take up to its pivot; then it is compensated. Compensations, and what comes after the pivot, are not bound by
    /// it. Unset: as long as its retries go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,

    /// How long runs are kept after their end. Runs that are stuck are kept until somebody ends them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,

    /// Runs under way at once, over all replicas of the engine; further ones wait for their turn, the oldest goes first. Stuck ones count
    /// until they are ended; `timeout` begins with a run's turn. Unset: as many as are started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrency: Option<u32>,

    /// Who is told of a run that cannot go on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_stuck: Option<OnStuck>,

    /// Values that never appear in logs, events, traces and on screens: `input.card`, `steps.authorise.output.token`. Fields below
    /// them are meant too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub secret: Vec<String>,
}

/// What a value looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// JSON Schema. Without `additionalProperties` an object has the named properties only.
    #[schemars(schema_with = "any_object")]
    pub schema: Value,
}

/// A step of a saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name, unique in the saga: lower-case letters, digits, `-` and `_`, a letter first. In expressions `steps.NAME.output`, or
    /// `steps["a-name"].output` if it has a dash.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([-_a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Names of the steps that must be done before. Empty: it begins at once. Unset: the step above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub after: Option<Vec<String>>,
    /// Whether it is done at all: a CEL expression without `${}`. A step that is not done counts as done for those after it, and
    /// has no output. Unset: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
    /// Do it once for each element of a list; its output is then the list of their outputs. Unset: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// What it may come to. Unset: `Compensatable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<StepKind>,
    /// What is done.
    pub action: Call,
    /// What takes the action back. It is called whenever the action was tried, also if nobody knows what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Call>,
    /// How action and compensation are tried again, unless they say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<SagaRetry>,
    /// How long one try of action or compensation may take, unless they say otherwise. Unset: 10s, and up to the pivot never longer
    /// than what the other actions leave of the saga's `timeout`, shared out over those that say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// What the body of the action's answer looks like. Unset: any JSON, which can be passed on as a whole only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
}

/// What a step may come to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr,
)]
pub enum StepKind {
    /// It can be taken back: it has a compensation, or changes nothing (GET, HEAD).
    #[default]
    Compensatable,
    /// Once it has succeeded the run only goes forward. One at most; every other step is before or after it.
    Pivot,
    /// After the pivot: it is tried until it succeeds.
    Retriable,
}

/// For each element of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForEach {
    /// The list: a CEL expression without `${}`. Its elements are `item` in the step's calls, their places (from 0) `index`.
    #[schemars(length(min = 1, max = 1024))]
    pub items: String,
    /// How many at once. Unset: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub concurrency: Option<u32>,
    /// Longest list; a run whose list is longer fails at this step before any of it is done. Unset: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_items: Option<u32>,
}

/// A request to a Microservice, with what becomes of failures. 2xx is success, 202 with `Location` goes on being worked on; 408, 425,
/// 429, 5xx and no answer are tried again; other answers are failures for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Where it goes.
    pub call: HttpCall,
    /// Headers, besides those that the engine sets: `trellis-saga-*`, `traceparent`, and `Idempotency-Key` unless it is here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, String>,
    /// Body, as JSON. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_json")]
    pub body: Option<Value>,
    /// How it is tried again. Unset: as the step says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<SagaRetry>,
    /// How long one try may take. Unset: as the step says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpCall {
    /// Name of the Microservice, in the saga's namespace.
    #[schemars(length(min = 1, max = 50), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub microservice: String,
    /// Name of its port. Unset: its first that speaks HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13), regex(pattern = r"^[a-z]([a-z0-9]|-[a-z0-9])*$"))]
    pub port: Option<String>,
    /// Method.
    pub method: Method,
    /// Path and query. Values of `${...}` are escaped: a `/` in them does not begin another element.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// Tries after the first. Between them pauses: `initial`, then `factor` times as long each time, up to `maxInterval`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaRetry {
    /// First pause. Unset: 500ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Duration>,
    /// By how much the pause grows. Unset: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "factor")]
    pub factor: Option<f64>,
    /// Longest pause. Unset: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<Duration>,
    /// Percent of a pause that is random, so that runs do not try in step. Unset: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter: Option<u32>,
    /// No further try after this time since the first. Unset: 1m for actions before the pivot, none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_elapsed: Option<Duration>,
    /// No further try after so many, the first included; 1: none is repeated. Unset: as many as there is time for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_attempts: Option<u32>,
    /// Outcomes that are tried again; others are failures for good. Unset: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub retry_on: Vec<SagaRetryCondition>,
}

/// An outcome that is worth another try.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
)]
pub enum SagaRetryCondition {
    /// The service could not be reached: nothing was done.
    Unreachable,
    /// No answer in time, a broken connection, or 408: nobody knows what was done.
    Timeout,
    /// 425 or 429.
    Throttled,
    /// 5xx.
    ServerError,
}

/// How long runs are kept after their end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Those that were completed. Unset: 7d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Duration>,
    /// Those that were compensated. Unset: 30d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensated: Option<Duration>,
}

/// Who is told of a run that cannot go on by itself. Metrics and the status tell in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnStuck {
    /// Whether there is an Event at the Saga. Unset: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<bool>,
    /// Who gets a POST with a CloudEvent. Unset: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Who gets a POST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where to: `https://...`, or `http://...` inside the cluster.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://"))]
    pub url: String,
}

/// What the operator found and made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaStatus {
    /// Generation of the spec that this status is about. -1: the operator has not looked at the object yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the definition makes sense. `ParticipantsResolved`: every Microservice and port in it exists. `Programmed`: the
    /// engine has the newest revision. `Ready`: runs can be started. `StuckInstances`: some runs cannot go on by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Faults of the spec, each with its field path, the place in the expression, and the fix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// What new runs are made of: the newest revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many steps it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<i32>,
    /// How many runs there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<SagaRuns>,
    /// Revisions that are kept, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Revision>,
}

/// What runs are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Hash of its content. Definitions that mean the same have the same.
    pub name: String,
    /// ConfigMap that has it.
    pub config_map: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// Runs that are made of it and have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<i64>,
}

/// How many runs there are, every few seconds anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SagaRuns {
    /// On their way forward or back, or waiting for their turn.
    pub running: i64,
    /// They cannot go on by themselves.
    pub stuck: i64,
    /// Completed, and kept.
    pub completed: i64,
    /// Compensated, and kept.
    pub compensated: i64,
}

impl Step {
    /// What it may come to, by default `Compensatable`.
    #[must_use]
    pub fn kind(&self) -> StepKind {
        self.kind.unwrap_or_default()
    }
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn any_json(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

fn factor(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "number", "minimum": 1, "maximum": 10})
}
