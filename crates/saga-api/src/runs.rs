//! What callers of the engine send and get as JSON.

mod messages;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Header with whom a tool speaks for: it stands in the audit beside who the tool is.
pub const ON_BEHALF_OF: &str = "trellis-saga-on-behalf-of";

/// What a run is started with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// For expressions: `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
}

/// What an operator wants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervention {
    /// Why: for the audit.
    #[serde(default)]
    pub reason: String,
    /// Name of a step: of `retry-from` and `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Place in the list of a `forEach`: of `skip`.
    #[serde(default)]
    pub index: u32,
    /// Whether the compensation is skipped, and not the action.
    #[serde(default)]
    pub compensation: bool,
    /// What the action would have answered: of `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
}

/// A page of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Runs, the newest first.
    pub runs: Vec<Run>,
    /// For the next page: `?before=`. None: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Namespace of its saga.
    pub namespace: String,
    /// Its saga.
    pub saga: String,
    /// What it is made of.
    pub revision: String,
    /// `Running`, `Compensating`, `Stuck`, `Completed`, `Compensated`.
    pub status: String,
    /// What it was started by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When.
    pub started_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How many records it has: whatever happens to it adds one. Not in lists.
    #[serde(default)]
    pub records: u64,
    /// Names of its steps. Not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// What was tried, in order. Not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
    /// Why it turned round or got stuck.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Why>,
    /// What operators did. Not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<Done>,
}

/// A record of a run, as it is told to those who follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number, from 0.
    pub sequence: u64,
    /// When.
    pub at: String,
    /// `started`, `queued`, `admitted`, `decided`, `answered`, `timer-fired`, `operator`.
    #[serde(rename = "type")]
    pub what: String,
    /// Status of the run from then on.
    pub status: String,
    /// Step that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Place in the list of a `forEach`, if it is about a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// `action` or `compensation`, if it is about a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// How often an operator had the step done anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<u32>,
    /// Number of the try, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Of `decided`: `skip`, `once`, `items`, `failed`; of `answered`: `done`, `pending`, `failed`, `retry`; of `timer-fired`: `deadline`,
    /// `pause`; of `operator`: the verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What was said, if that was not well; of `operator`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Who, of `operator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// When.
    pub at: String,
    /// `retry`, `retry-from`, `skip`, `force-complete`, `cancel`.
    pub verb: String,
    /// Step that it was about, if it was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A call and what came of its tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Name of the step.
    pub step: String,
    /// Place in the list of a `forEach`, 0 otherwise.
    pub index: u32,
    /// `action` or `compensation`.
    pub op: String,
    /// Tries, and questions after work under way.
    pub attempts: u32,
    /// `Trying`, `Done`, `Failed`, `Skipped`.
    pub state: String,
    /// When it began.
    pub began_at: String,
    /// Milliseconds from then to its last answer.
    pub took_ms: u64,
    /// What the participant said last, if that was not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why a run turned round or got stuck.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// When.
    pub at: String,
    /// `ActionFailed`, `RetriesExhausted`, `PivotUnknown`, `CompensationFailed`, `DecisionFailed`, `TimedOut`, `Cancelled`, `Forced`.
    pub what: String,
    /// Step of the call, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// `action` or `compensation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Tries that were made.
    pub attempts: u32,
    /// What was said.
    pub detail: String,
}
