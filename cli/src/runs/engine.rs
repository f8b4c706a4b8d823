//! The engine in the cluster, over a port-forward.

use std::fmt;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use trellis_api::names::{LABEL_MICROSERVICE, SAGA_TOKEN_AUDIENCE};
use trellis_saga_api::runs::ON_BEHALF_OF;

use crate::args::EngineArgs;

/// Port of the engine's API.
const PORT: u16 = 8080;
/// Seconds that the token lives: the API server gives none for less.
const TOKEN_LIFETIME: i64 = 600;

/// A connection to a replica of the engine.
pub struct Engine {
    sender: http1::SendRequest<Full<Bytes>>,
    authorization: String,
    person: Option<String>,
}

/// Why the engine did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no kubeconfig, or none that is of use.
    #[error("failed to find the cluster; set KUBECONFIG or run `kubectl config current-context`")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The API server refused.
    #[error("failed to {what}")]
    Kube {
        /// What was asked for.
        what: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// There is no engine.
    #[error("failed to find a ready pod of {0}; is the saga engine installed (manifests/base/saga)?")]
    NoEngine(String),
    /// The way to it broke.
    #[error("failed to reach the saga engine")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused.
    #[error("the saga engine answered {status}: {detail}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// Why, for people.
        detail: String,
    },
    /// Its answer is none that is known.
    #[error("failed to read the answer of the saga engine; is it of another release?")]
    Answer(#[from] serde_json::Error),
}

impl Error {
    /// Whether the same may succeed later, on another connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connection(_) | Self::NoEngine(_) => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            _ => false,
        }
    }
}

impl Engine {
    /// Connects to a replica that is ready.
    pub async fn connect(args: &EngineArgs) -> Result<Self, Error> {
        let config = Config::infer()
            .await
            .map_err(|error| Error::Config(error.into()))?;
        let client = Client::try_from(config).map_err(|error| Error::Config(error.into()))?;
        let asked = |what: &str| {
            let what = what.to_owned();
            move |source: kube::Error| Error::Kube {
                what,
                source: Box::new(source),
            }
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &args.engine_namespace);
        let of_engine = ListParams::default().labels(&format!("{LABEL_MICROSERVICE}={}", args.engine));
        let listed = pods
            .list(&of_engine)
            .await
            .map_err(asked("list the pods of the engine"))?;
        let pod = listed.items.iter().find(|pod| is_ready(pod));
        let pod = pod.ok_or_else(|| Error::NoEngine(format!("{}/{}", args.engine_namespace, args.engine)))?;
        let token = token(&client, args)
            .await
            .map_err(asked(&format!("get a token of ServiceAccount {}", args.account)))?;
        let person = person(&client).await;
        let mut forward = pods
            .portforward(&pod.name_any(), &[PORT])
            .await
            .map_err(asked("forward a port of the engine"))?;
        let stream = forward
            .take_stream(PORT)
            .ok_or_else(|| Error::Connection("the port-forward has no stream".into()))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told. The port-forward lives as long as its connection.
            let _ = connection.await;
            drop(forward);
        });
        Ok(Self {
            sender,
            authorization: format!("Bearer {token}"),
            person,
        })
    }

    /// Gets something.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        self.ask(Method::GET, path, Bytes::new(), &[]).await
    }

    /// Posts something.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
        headers: &[(&str, &str)],
    ) -> Result<T, Error> {
        let body = serde_json::to_vec(body)?;
        self.ask(Method::POST, path, body.into(), headers).await
    }

    async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        headers: &[(&str, &str)],
    ) -> Result<T, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "trellis-saga")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, &self.authorization);
        if let Some(person) = &self.person {
            request = request.header(ON_BEHALF_OF, person);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(broken)?;
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        if !status.is_success() {
            return Err(Error::Refused {
                status,
                detail: Problem(&body).to_string(),
            });
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Connection(error.into())
}

/// A token of the command's ServiceAccount, for the engine alone.
async fn token(client: &Client, args: &EngineArgs) -> Result<String, kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &args.engine_namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec![SAGA_TOKEN_AUDIENCE.to_owned()]),
            expiration_seconds: Some(TOKEN_LIFETIME),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(&args.account, &PostParams::default(), &request)
        .await?;
    Ok(answer.status.and_then(|status| status.token).unwrap_or_default())
}

/// Who runs the command, as the API server knows them; None: it does not say.
async fn person(client: &Client) -> Option<String> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .ok()?;
    review.status?.user_info?.username
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}

/// What a problem document says.
struct Problem<'a>(&'a [u8]);

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(problem) = serde_json::from_slice::<serde_json::Value>(self.0) else {
            return f.write_str(&String::from_utf8_lossy(self.0));
        };
        let text = |name: &str| problem.get(name).and_then(serde_json::Value::as_str);
        f.write_str(text("detail").or_else(|| text("title")).unwrap_or_default())?;
        for error in problem["errors"].as_array().into_iter().flatten() {
            let of = |name: &str| error[name].as_str().unwrap_or_default();
            write!(f, "\n  {}: {}", of("field"), of("message"))?;
        }
        Ok(())
    }
}
