//! The API server's audit log: every write, by whom, to what, from when to when by the API server's own clock.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// Which requests are logged, and how: writes to objects, when they are done. Leases are how components show that they live.
pub const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: None
    resources: [{group: coordination.k8s.io, resources: [leases]}]
  - level: Metadata
    verbs: [create, update, patch, delete, deletecollection]
"#;

/// A request that may have changed something.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    user: User,
    /// What was asked for: `create`, `patch` and so on.
    pub verb: String,
    object_ref: Option<Object>,
    response_status: Status,
    /// When the request came.
    #[serde(rename = "requestReceivedTimestamp")]
    pub received: Timestamp,
    /// When its answer was complete.
    #[serde(rename = "stageTimestamp")]
    pub done: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
struct User {
    username: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Status {
    code: u16,
}

impl Write {
    /// Who wrote.
    pub fn user(&self) -> &str {
        &self.user.username
    }

    /// Plural name of what was written, with its subresource: `microservices/status`.
    pub fn resource(&self) -> String {
        match &self.object_ref {
            Some(object) if object.subresource.is_empty() => object.resource.clone(),
            Some(object) => format!("{}/{}", object.resource, object.subresource),
            None => String::new(),
        }
    }

    /// Where it was written.
    pub fn namespace(&self) -> &str {
        self.object_ref.as_ref().map_or("", |object| &object.namespace)
    }

    /// Its name; empty if the API server was to make one up.
    pub fn name(&self) -> &str {
        self.object_ref.as_ref().map_or("", |object| &object.name)
    }

    /// Whether it made the object.
    pub fn created(&self) -> bool {
        self.response_status.code == 201
    }

    /// Whether the API server refused it.
    pub fn refused(&self) -> bool {
        self.response_status.code >= 400
    }

    /// What the API server took for it.
    pub fn took(&self) -> Duration {
        self.done.duration_since(self.received).unsigned_abs()
    }
}

/// Reads the log.
pub fn read(path: &Path) -> Result<Vec<Write>> {
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    BufReader::new(file)
        .lines()
        .map(|line| {
            let line = line.context("failed to read the audit log")?;
            serde_json::from_str(&line)
                .with_context(|| format!("failed to parse a line of the audit log: {line}"))
        })
        .collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A write for tests; times in milliseconds.
    pub fn write(user: &str, verb: &str, resource: &str, name: &str, code: u16, from: i64, to: i64) -> Write {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let at = |millisecond| Timestamp::from_millisecond(millisecond).unwrap().to_string();
        serde_json::from_value(serde_json::json!({
            "kind": "Event",
            "user": {"username": user, "groups": []},
            "verb": verb,
            "objectRef": {"resource": resource, "subresource": subresource, "namespace": "bench", "name": name},
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": at(from),
            "stageTimestamp": at(to),
        }))
        .unwrap()
    }

    #[test]
    fn a_write_has_an_author_an_object_and_a_length() {
        let write = write("a", "patch", "microservices/status", "x", 200, 1000, 1025);
        assert_eq!(write.resource(), "microservices/status");
        assert_eq!(
            (write.user(), write.namespace(), write.name()),
            ("a", "bench", "x")
        );
        assert_eq!(write.took(), Duration::from_millis(25));
        assert!(!write.created() && !write.refused());
    }
}
