//! Replicas of the engine and who asks them.

use std::fs;
use std::process::Command;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use trellis_saga_api::v1::runs_client::RunsClient;
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::process::Running;
use trellis_testkit::wait;

use crate::stand_ins::{self, Participants, SAGA};

/// Everything that replicas need.
pub struct Stage {
    database: TestDatabase,
    operator: String,
    mesh: String,
    /// Those who are called.
    pub participants: Participants,
}

/// A replica.
pub struct Replica {
    /// Its process.
    pub process: Running,
    /// Where it is asked by REST.
    pub http: String,
    grpc: String,
    /// Partitions that it took over.
    taken: u64,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Stage {
    pub async fn new() -> Self {
        let database = TestDatabase::create().await;
        let api_server = stand_ins::serve(stand_ins::api_server()).await;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{api_server}")}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let root = database.binding_root();
        fs::write(root.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        fs::write(root.join("token"), "the-engines-own").unwrap();
        let participants = Participants::default();
        Self {
            operator: format!("http://{}", stand_ins::serve(stand_ins::operator()).await),
            mesh: stand_ins::serve(participants.router()).await.to_string(),
            participants,
            database,
        }
    }

    /// A replica that looks after runs of the saga.
    pub fn replica(&self, name: &str, variables: &[(&str, &str)]) -> Replica {
        let root = self.database.binding_root();
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_trellis-saga"));
        command
            .env_clear()
            .env("SERVICE_BINDING_ROOT", root)
            .env("KUBECONFIG", root.join("kubeconfig"))
            .env("OPERATOR_TOKEN", root.join("token"))
            .envs([
                ("HTTP_ADDRESS", any),
                ("ADMIN_ADDRESS", any),
                ("GRPC_ADDRESS", any),
            ])
            .envs([("OPERATOR_STREAM", &self.operator), ("MESH_ADDRESS", &self.mesh)])
            .envs([("POD_NAME", name), ("POD_IP", "127.0.0.1")])
            .envs(variables.iter().copied());
        let mut process = Running::start(command);
        let grpc = process.line("serving a further port")["address"].clone();
        let http = process.line("serving")["http"].clone();
        process.line("revision handed over");
        let taken = process.line("took partitions over");
        Replica {
            taken: taken["partitions"].as_u64().unwrap(),
            process,
            http: http.as_str().unwrap().to_owned(),
            grpc: grpc.as_str().unwrap().to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }
}

impl Replica {
    /// Waits until it has taken its part over: then nobody's changes any more.
    pub fn has_its_part(&mut self, of: u64) {
        while self.taken < 64 / of {
            let taken = self.process.line("took partitions over");
            self.taken += taken["partitions"].as_u64().unwrap();
        }
    }

    /// Its interface by gRPC.
    pub fn runs(&self) -> RunsClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        RunsClient::new(endpoint.connect_lazy())
    }

    /// Asks by REST, as the order service unless it has a token of another.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.http))
            .header("content-type", "application/json");
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", "Bearer shop:order");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body.to_string()));
        self.client.request(request.body(body).unwrap()).await.unwrap()
    }

    /// Starts a run by REST; its id.
    pub async fn start(&self, headers: &[(&str, &str)]) -> String {
        let path = format!("/v1/namespaces/shop/sagas/{SAGA}/runs");
        let answer = self
            .ask(Method::POST, &path, headers, json!({"input": {"id": "7"}}))
            .await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let run: Value = serde_json::from_slice(&body).unwrap();
        run["id"].as_str().unwrap().to_owned()
    }

    /// A run by REST.
    pub async fn run(&self, run: &str) -> Value {
        let answer = self
            .ask(Method::GET, &format!("/v1/runs/{run}"), &[], Value::Null)
            .await;
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// Waits until a run has a status.
    pub async fn until(&self, run: &str, status: &str) {
        let what = format!("run {run} is {status}");
        wait::until(&what, async || self.run(run).await["status"] == status).await;
    }
}
