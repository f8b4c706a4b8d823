//! An API server that keeps what it is told: a saga, its revisions, a namespace.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// The saga and the ConfigMaps, and every write.
#[derive(Default)]
pub struct Stored {
    pub saga: Value,
    pub config_maps: BTreeMap<String, Value>,
    pub version: u64,
    pub refuses: bool,
    /// Whether nothing can be deleted.
    pub keeps: bool,
    pub namespace_ends: bool,
    pub writes: Vec<String>,
    /// Of Kubernetes.
    pub events: Vec<Value>,
}

pub type Server = Arc<Mutex<Stored>>;

impl Stored {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let status = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
            (code, status)
        };
        if path.ends_with("/events") {
            self.events.push(body.clone());
            return (201, body.clone());
        }
        if *method != Method::GET {
            self.writes.push(format!("{method} {path}"));
            if self.refuses || self.keeps && *method == Method::DELETE {
                return status(500, "InternalError");
            }
        }
        self.version += 1;
        let version = Value::from(self.version.to_string());
        if path.ends_with("/sagas/place-order/status") {
            self.saga["status"] = body["status"].clone();
            self.saga["metadata"]["resourceVersion"] = version;
            return (200, self.saga.clone());
        }
        if path.ends_with("/sagas/place-order") {
            let metadata = &mut self.saga["metadata"];
            for change in body.as_array().unwrap() {
                match (change["op"].as_str().unwrap(), change["path"].as_str().unwrap()) {
                    ("add", "/metadata/finalizers") => metadata["finalizers"] = change["value"].clone(),
                    ("remove", "/metadata/finalizers/0") => metadata["finalizers"] = json!([]),
                    ("test", "/metadata/resourceVersion") => {
                        assert_eq!(change["value"], metadata["resourceVersion"])
                    }
                    ("test", "/metadata/finalizers/0") => {
                        assert_eq!(change["value"], metadata["finalizers"][0])
                    }
                    other => panic!("{other:?}"),
                }
            }
            metadata["resourceVersion"] = version;
            return (200, self.saga.clone());
        }
        if path == "/api/v1/namespaces/shop" {
            let ends = self.namespace_ends.then_some("2026-01-01T00:00:00Z");
            return (
                200,
                json!({"metadata": {"name": "shop", "deletionTimestamp": ends}}),
            );
        }
        let name = path.rsplit('/').next().unwrap().to_owned();
        match *method {
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                if self.config_maps.contains_key(&name) {
                    return status(409, "AlreadyExists");
                }
                let mut made = body.clone();
                made["metadata"]["uid"] = format!("uid-{version}").into();
                made["metadata"]["creationTimestamp"] =
                    format!("2026-01-01T{:02}:{:02}:00Z", self.version / 60, self.version % 60).into();
                made["metadata"]["resourceVersion"] = version;
                self.config_maps.insert(name, made.clone());
                (201, made)
            }
            Method::GET => match self.config_maps.get(&name) {
                Some(found) => (200, found.clone()),
                None => status(404, "NotFound"),
            },
            Method::DELETE => match self.config_maps.remove(&name) {
                Some(gone) => (200, gone),
                None => status(404, "NotFound"),
            },
            _ => status(405, "MethodNotAllowed"),
        }
    }
}

pub fn client(server: &Server) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut stored = server.lock().unwrap_or_else(PoisonError::into_inner);
            let (code, answer) = stored.answer(&parts.method, parts.uri.path(), &body);
            let mut answer = Response::new(Body::from(answer.to_string().into_bytes()));
            *answer.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, Infallible>(answer)
        }
    });
    Client::new(service, "default")
}
