//! The algorithm by which `kubectl`-like tools (Flux, Argo CD, Helm's `--wait`) read the status of any custom resource.
//!
//! After `kubernetes-sigs/cli-utils`, `pkg/kstatus/status`: `Compute`, `checkGenericProperties`, `checkGeneration`,
//! `checkReadyCondition`. The rules for built-in kinds are left out.

use serde_json::Value;

/// What a tool makes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not there yet.
    InProgress,
    /// Will not get there by itself.
    Failed,
    /// There.
    Current,
    /// Being deleted.
    Terminating,
}

/// Reads an object as kstatus does.
#[must_use]
pub fn compute(object: &Value) -> Status {
    let deleted = object
        .pointer("/metadata/deletionTimestamp")
        .and_then(Value::as_str);
    if deleted.is_some_and(|time| !time.is_empty()) {
        return Status::Terminating;
    }
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let observed = object
        .pointer("/status/observedGeneration")
        .and_then(Value::as_i64);
    if let (Some(generation), Some(observed)) = (generation, observed)
        && generation != observed
    {
        return Status::InProgress;
    }
    let empty = Vec::new();
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .unwrap_or(&empty);
    for condition in conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return Status::InProgress,
            (Some("Stalled"), Some("True")) => return Status::Failed,
            _ => {}
        }
    }
    for condition in conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Ready"), Some("True")) => return Status::Current,
            (Some("Ready"), Some("False" | "Unknown")) => return Status::InProgress,
            _ => {}
        }
    }
    // No known condition counts as done: the reason why a new object has a status that is about no generation.
    Status::Current
}
