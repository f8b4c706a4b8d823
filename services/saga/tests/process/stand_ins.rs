//! An API server that knows tokens of the form `namespace:account`, an operator that hands one saga over, and participants that do as
//! they are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::stream::{self, Stream, StreamExt};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use trellis_saga_api::v1::saga_revisions_server::{SagaRevisions, SagaRevisionsServer};
use trellis_saga_api::v1::{self, subscribe_response::Message};
use trellis_saga_core::{Definition, canonical};

/// The saga: `first`, and `last`, its pivot.
pub const SAGA: &str = "move";
/// Who may do what the API server is asked about.
pub const OPERATOR: &str = "shop:people";

/// Serves on a free port.
pub async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

/// An API server that reviews.
pub fn api_server() -> Router {
    let tokens = async |Json(mut review): Json<Value>| {
        let token = review["spec"]["token"].as_str().unwrap().to_owned();
        review["status"] = json!({
            "authenticated": token.contains(':'), "audiences": ["trellis-saga"],
            "user": {"username": format!("system:serviceaccount:{token}")},
        });
        Json(review)
    };
    let accesses = async |Json(mut review): Json<Value>| {
        let user = review["spec"]["user"].as_str().unwrap();
        review["status"] = json!({"allowed": user.ends_with(OPERATOR)});
        Json(review)
    };
    Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(tokens))
        .route(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            post(accesses),
        )
}

/// An operator.
pub fn operator() -> Router {
    tonic::service::Routes::new(SagaRevisionsServer::new(Operator)).into_axum_router()
}

struct Operator;

#[tonic::async_trait]
impl SagaRevisions for Operator {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        _: tonic::Request<tonic::Streaming<v1::SubscribeRequest>>,
    ) -> Result<tonic::Response<Self::SubscribeStream>, Status> {
        let definition = canonical::text(&definition());
        let existing = v1::Existing {
            sagas: vec![v1::Name {
                namespace: "shop".to_owned(),
                saga: SAGA.to_owned(),
            }],
        };
        let revision = v1::Revision {
            namespace: "shop".to_owned(),
            saga: SAGA.to_owned(),
            revision: canonical::name(&definition),
            definition,
        };
        let messages = [Message::Existing(existing), Message::Revision(revision)];
        let messages = messages.map(|message| {
            Ok(v1::SubscribeResponse {
                message: Some(message),
            })
        });
        let stream = stream::iter(messages).chain(stream::pending());
        Ok(tonic::Response::new(stream.boxed()))
    }
}

fn definition() -> Definition {
    let call = |method: &str| {
        json!({
            "call": {"microservice": "store", "method": method, "path": "/${input.id}"}, "timeout": 5000,
            "retry": {"initial": 10, "factor": 2.0, "maxInterval": 100, "jitter": 0,
                "retryOn": ["ServerError", "Throttled", "Timeout", "Unreachable"]},
        })
    };
    serde_json::from_value(json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": SAGA,
        "steps": [
            {"name": "first", "after": [], "kind": "Compensatable", "action": call("POST"), "compensation": call("DELETE")},
            {"name": "last", "after": ["first"], "kind": "Pivot", "action": call("POST")},
        ],
        "input": {"schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "minLength": 1}}}},
        "retention": {"completed": 600_000, "compensated": 600_000}, "onStuck": {"event": true},
    }))
    .unwrap()
}

/// Participants; clones are the same ones.
#[derive(Clone)]
pub struct Participants {
    told: Arc<Mutex<Told>>,
    /// Whether they answer at all.
    is_open: watch::Sender<bool>,
}

#[derive(Default)]
struct Told {
    /// Calls that get 503, as `first action`.
    held: BTreeSet<String>,
    /// What calls get before they are done.
    statuses: BTreeMap<String, VecDeque<StatusCode>>,
    seen: Vec<HeaderMap>,
}

impl Default for Participants {
    fn default() -> Self {
        Self {
            told: Arc::default(),
            is_open: watch::Sender::new(true),
        }
    }
}

impl Participants {
    /// Answers nothing, or what it was asked meanwhile.
    pub fn open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }

    /// Answers a call with 503 from now on.
    pub fn hold(&self, call: &str) {
        self.told.lock().unwrap().held.insert(call.to_owned());
    }

    /// Does it from now on.
    pub fn release(&self, call: &str) {
        self.told.lock().unwrap().held.remove(call);
    }

    /// Answers a call so, one time after the other, before it is done.
    pub fn answer<const N: usize>(&self, call: &str, statuses: [StatusCode; N]) {
        let mut told = self.told.lock().unwrap();
        told.statuses.insert(call.to_owned(), statuses.into());
    }

    /// Headers of all calls.
    pub fn seen(&self) -> Vec<HeaderMap> {
        self.told.lock().unwrap().seen.clone()
    }

    /// The participants' router.
    pub fn router(&self) -> Router {
        Router::new().fallback(called).with_state(self.clone())
    }
}

async fn called(State(participants): State<Participants>, request: Request) -> Response {
    let headers = request.headers().clone();
    let call = ["trellis-saga-step", "trellis-saga-op"].map(|name| headers[name].to_str().unwrap());
    let call = call.join(" ");
    participants.told.lock().unwrap().seen.push(headers);
    let mut is_open = participants.is_open.subscribe();
    is_open.wait_for(|is_open| *is_open).await.unwrap();
    let mut told = participants.told.lock().unwrap();
    if told.held.contains(&call) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match told.statuses.get_mut(&call).and_then(VecDeque::pop_front) {
        Some(status) => status.into_response(),
        None => Json(json!({"secret": "payload"})).into_response(),
    }
}
