//! The API server's audit log: every write that went through, by whom, to what, and whether it changed anything.
//!
//! A write that changes nothing answers the version that the object had before, which the write that made it has answered
//! too. An update says which version it is made from, so it is told exactly. Of all other writes that answer a version one was
//! a change: the one that made the object; an update that was one; where the version has a new generation, a patch, which is how its owner writes a spec; where it has not, an update, which is how the controllers of
//! Kubernetes write the rest; and of equals the one that was asked for first. Their order in the log is that of their ends,
//! and says nothing.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Which requests are logged, and how: writes to objects with their answers, when they are done. Leases are how components
/// show that they live.
pub const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
omitManagedFields: true
rules:
  - level: None
    resources: [{group: coordination.k8s.io, resources: [leases]}]
  - level: RequestResponse
    verbs: [create, update, patch, delete, deletecollection]
"#;

/// A request that may have changed something.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    user: User,
    /// What was asked for: `create`, `patch` and so on.
    pub verb: String,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Status,
    #[serde(default)]
    request_object: Answer,
    #[serde(default)]
    response_object: Answer,
    /// RFC 3339 in UTC, with microseconds: of one length, so its order is that of texts.
    #[serde(rename = "requestReceivedTimestamp")]
    received: String,
    /// Whether it changed the object.
    #[serde(skip)]
    pub effective: bool,
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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Answer {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    replicas: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    generation: i64,
    resource_version: String,
}

/// A version of an object.
#[derive(Debug, Clone, Copy)]
struct Version {
    /// Place of the write that made it.
    place: usize,
    new_generation: bool,
}

/// The log, read as it grows.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    read: u64,
    versions: HashMap<String, Version>,
    /// The last that was seen, by resource, namespace and name.
    generations: HashMap<[String; 3], i64>,
    writes: Vec<Write>,
}

impl Write {
    /// Who wrote.
    pub fn user(&self) -> &str {
        &self.user.username
    }

    /// Plural name of what was written, with its subresource: `microservices/status`.
    pub fn resource(&self) -> String {
        let Object {
            resource,
            subresource,
            ..
        } = &self.object_ref;
        if subresource.is_empty() {
            resource.clone()
        } else {
            format!("{resource}/{subresource}")
        }
    }

    /// Where it was written.
    pub fn namespace(&self) -> &str {
        &self.object_ref.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        if self.object_ref.name.is_empty() {
            // The API server made it up.
            &self.response_object.metadata.name
        } else {
            &self.object_ref.name
        }
    }

    /// Whether it made the object.
    pub const fn created(&self) -> bool {
        self.response_status.code == 201
    }

    /// What speaks for it, of all that answer the same version, as the one that changed something: greater is better.
    fn claim(&self, new_generation: bool) -> (bool, bool, bool, Reverse<&str>) {
        let usual = if new_generation { "patch" } else { "update" };
        let sure = self.made_from().is_some_and(|from| from != self.version());
        (self.created(), sure, self.verb == usual, Reverse(&*self.received))
    }

    /// The version that an update is made from, which it says itself.
    fn made_from(&self) -> Option<&str> {
        let from = &*self.request_object.metadata.resource_version;
        (self.verb == "update" && !from.is_empty()).then_some(from)
    }

    fn version(&self) -> &str {
        &self.response_object.metadata.resource_version
    }

    /// `spec.replicas` of what was answered.
    pub const fn replicas(&self) -> Option<i64> {
        self.response_object.spec.replicas
    }

    /// HTTP status of the answer.
    pub const fn code(&self) -> u16 {
        self.response_status.code
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = if self.effective {
            "changed"
        } else {
            "changed nothing"
        };
        let (from, to) = (self.made_from().unwrap_or("?"), self.version());
        write!(
            f,
            "{} {}: {} {} {}: {}, version {from} -> {to}, {effect}",
            self.received,
            self.user(),
            self.verb,
            self.resource(),
            self.name(),
            self.code(),
        )
    }
}

impl Log {
    /// The log at `path`, from its beginning.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            read: 0,
            versions: HashMap::new(),
            generations: HashMap::new(),
            writes: Vec::new(),
        }
    }

    /// Every write so far, oldest first.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn writes(&mut self) -> Result<&[Write]> {
        let mut file = File::open(&self.path).context("failed to open the audit log")?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        while lines
            .read_line(&mut line)
            .context("failed to read the audit log")?
            > 0
        {
            // The rest of it has not been written yet.
            if !line.ends_with('\n') {
                break;
            }
            self.read += line.len() as u64;
            let write = serde_json::from_str(&line)
                .with_context(|| format!("failed to parse a line of the audit log: {line}"))?;
            self.take(write);
            line.clear();
        }
        Ok(&self.writes)
    }

    fn take(&mut self, mut write: Write) {
        write.effective = (200..300).contains(&write.code());
        if write.effective && write.made_from() == Some(write.version()) {
            write.effective = false;
            self.writes.push(write);
            return;
        }
        let Metadata {
            resource_version,
            generation,
            ..
        } = write.response_object.metadata.clone();
        // A delete answers a Status without a version.
        if write.effective && !resource_version.is_empty() {
            let place = self.writes.len();
            let object = [&write.object_ref.resource, write.namespace(), write.name()].map(str::to_owned);
            let known = self.generations.insert(object, generation);
            let new_generation = known.is_some_and(|known| known < generation);
            let version = self.versions.entry(resource_version).or_insert(Version {
                place,
                new_generation,
            });
            if let Some(other) = self.writes.get_mut(version.place) {
                let new_generation = version.new_generation;
                let better = write.claim(new_generation) > other.claim(new_generation);
                other.effective = !better;
                write.effective = better;
            }
            if write.effective {
                version.place = place;
            }
        }
        self.writes.push(write);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(verb: &str, resource: &str, code: u16, version: &str, second: u32) -> String {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let generation = if version == "12" { 2 } else { 1 };
        let event = serde_json::json!({
            "user": {"username": "a"},
            "verb": verb,
            "objectRef": {"resource": resource, "subresource": subresource, "namespace": "shop", "name": "x"},
            "responseStatus": {"metadata": {}, "code": code},
            "responseObject": {"metadata": {"resourceVersion": version, "generation": generation}},
            "requestReceivedTimestamp": format!("2026-01-01T00:00:{second:02}.000000Z"),
        });
        format!("{event}\n")
    }

    #[test]
    fn a_write_changes_something_if_its_version_is_new() {
        let folder = super::super::process::Folder::create("audit").unwrap();
        let path = folder.path().join("audit.log");
        let mut file = File::create(&path).unwrap();
        let lines = [
            line("patch", "deployments", 201, "7", 1),
            line("patch", "deployments", 200, "7", 2),
            line("patch", "microservices/status", 200, "8", 3),
            line("patch", "deployments", 409, "", 4),
        ];
        file.write_all(lines.concat().as_bytes()).unwrap();
        // Half a line is not read yet.
        let last = line("delete", "deployments", 200, "", 5);
        file.write_all(&last.as_bytes()[..20]).unwrap();
        let mut log = Log::new(path);
        let effective = |log: &mut Log| -> Vec<bool> {
            let writes = log.writes().unwrap();
            writes.iter().map(|write| write.effective).collect()
        };
        assert_eq!(effective(&mut log), [true, false, true, false]);
        file.write_all(&last.as_bytes()[20..]).unwrap();
        assert_eq!(effective(&mut log), [true, false, true, false, true]);
        // Each of these was logged after a write that changed nothing.
        for (verb, code, second, version) in [
            ("patch", 200, 7, "9"),
            ("patch", 200, 6, "9"),
            ("patch", 200, 8, "10"),
            ("update", 200, 9, "10"),
            ("patch", 200, 10, "11"),
            ("patch", 201, 11, "11"),
            ("update", 200, 12, "12"),
            ("patch", 200, 13, "12"),
        ] {
            let line = line(verb, "deployments", code, version, second);
            file.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(
            effective(&mut log)[5..],
            [false, true, false, true, false, true, false, true]
        );
        // An update that was made from the version that it answers changed nothing, although a patch made no new generation.
        let mut nothing: serde_json::Value =
            serde_json::from_str(&line("update", "deployments/status", 200, "13", 14)).unwrap();
        nothing["requestObject"] = serde_json::json!({"metadata": {"resourceVersion": "13"}});
        let text = line("patch", "deployments", 200, "13", 15);
        file.write_all(format!("{text}{nothing}\n").as_bytes()).unwrap();
        assert_eq!(effective(&mut log)[13..], [true, false]);
        let write = &log.writes().unwrap()[2];
        assert_eq!(
            (write.user(), write.namespace(), write.name(), &*write.resource()),
            ("a", "shop", "x", "microservices/status")
        );
    }
}
