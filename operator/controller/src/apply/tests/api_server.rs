//! An API server in memory: server-side apply as far as the Applier leans on it, and crashes at a chosen write.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// Objects by path, and what was asked for.
#[derive(Default)]
pub struct ApiServer {
    pub objects: BTreeMap<String, Value>,
    pub version: u64,
    /// Writes, in order: `PATCH deployments/user`.
    pub writes: Vec<String>,
    /// Requests that were answered.
    pub requests: usize,
    /// The process "dies" at this write: it is carried out (or not), and no answer comes back.
    pub crash: Option<(usize, bool)>,
    /// Every number of replicas that a Deployment had.
    pub replicas: Vec<i64>,
    /// Every proxy's document that was stored.
    pub documents: Vec<String>,
}

/// Shared by processes that come and go.
pub type Shared = Arc<Mutex<ApiServer>>;

impl ApiServer {
    fn answer(&mut self, method: &Method, uri: &http::Uri, body: &Value) -> (u16, Value) {
        let path = uri.path();
        let manager = uri
            .query()
            .into_iter()
            .flat_map(|query| query.split('&'))
            .find_map(|pair| pair.strip_prefix("fieldManager="))
            .map(|manager| manager.replace("%2F", "/"))
            .unwrap_or_default();
        self.requests += 1;
        if *method != Method::GET {
            let at = self.writes.len();
            let name: Vec<&str> = path.rsplit('/').take(2).collect();
            self.writes.push(format!("{method} {}/{}", name[1], name[0]));
            if let Some((crash, committed)) = self.crash
                && at >= crash
            {
                if at == crash && committed {
                    self.write(method, path, &manager, body);
                }
                return (500, failure(500, "InternalError", "crashed"));
            }
        }
        self.write(method, path, &manager, body)
    }

    fn write(&mut self, method: &Method, path: &str, manager: &str, body: &Value) -> (u16, Value) {
        let Some(live) = self.objects.get(path).cloned() else {
            if *method != Method::PATCH {
                return (404, failure(404, "NotFound", "not there"));
            }
            let mut object = body.clone();
            own_replicas(&mut object, manager, body);
            return (201, self.store(path, object, &Value::Null));
        };
        match *method {
            Method::PATCH => {
                let (asked, uid) = (&body["metadata"]["uid"], &live["metadata"]["uid"]);
                if !asked.is_null() && asked != uid {
                    return (409, failure(409, "Conflict", "another uid"));
                }
                let asked = &body["metadata"]["resourceVersion"];
                if !asked.is_null() && *asked != live["metadata"]["resourceVersion"] {
                    return (409, failure(409, "Conflict", "the object has been modified"));
                }
                let mut next = live.clone();
                merge(&mut next, body);
                own_replicas(&mut next, manager, body);
                if next == live {
                    (200, live)
                } else {
                    (200, self.store(path, next, &live))
                }
            }
            Method::DELETE => {
                let wanted = &body["preconditions"]["resourceVersion"];
                if *wanted != live["metadata"]["resourceVersion"] {
                    return (409, failure(409, "Conflict", "changed"));
                }
                self.objects.remove(path);
                (200, live)
            }
            _ => (200, live),
        }
    }

    fn store(&mut self, path: &str, mut object: Value, before: &Value) -> Value {
        self.version += 1;
        self.replicas.extend(object["spec"]["replicas"].as_i64());
        self.documents
            .extend(object["data"]["proxy.json"].as_str().map(str::to_owned));
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if before.is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// What matters of the end: every object without what differs from run to run.
    pub fn end(&self) -> BTreeMap<String, Value> {
        let strip = |object: &Value| {
            let mut object = object.clone();
            for field in ["resourceVersion", "uid"] {
                object["metadata"].as_object_mut().unwrap().remove(field);
            }
            object
        };
        self.objects
            .iter()
            .map(|(path, object)| (path.clone(), strip(object)))
            .collect()
    }
}

/// The one rule of field ownership that matters here: who stops sending `spec.replicas` as its only owner resets it to 1.
fn own_replicas(object: &mut Value, manager: &str, sent: &Value) {
    if object["kind"] != "Deployment" {
        return;
    }
    let managed = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut owners: Vec<String> = managed
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap().to_owned())
        .collect();
    let owned = owners.iter().position(|owner| owner == manager);
    match (sent["spec"].get("replicas"), owned) {
        (Some(_), None) => owners.push(manager.to_owned()),
        (None, Some(at)) => {
            owners.remove(at);
            if owners.is_empty() {
                object["spec"]["replicas"] = 1.into();
            }
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let entry =
        |owner| json!({"manager": owner, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}});
    object["metadata"]["managedFields"] = owners.into_iter().map(entry).collect();
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// A client of it.
pub fn client(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (code, answer) = server.lock().unwrap().answer(&parts.method, &parts.uri, &body);
            let body = Body::from(answer.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    });
    Client::new(service, "default")
}
