//! Starts of sagas as messages, and their delivery to the saga engine.
//!
//! The key of the start is the id of the message, so that however often it is delivered there is one run.

use std::path::PathBuf;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use trellis_chassis::client::{BaseUrl, Client, Error as ClientError};
use trellis_chassis::config::Environment;

use crate::message::{Message, MessageError};
use crate::outbox::{Deliver, Failure};

/// Type of the messages.
const TYPE: &str = "dev.trellis.saga.start";
/// How long the engine may take to note a run.
const DEADLINE: Duration = Duration::from_secs(5);
/// Where the token is, unless said otherwise: see `spec.tokenAudiences` of a Microservice.
const TOKEN: &str = "/var/run/secrets/trellis.dev/tokens/trellis-saga";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A saga to be started.
#[derive(Clone, Copy, Debug)]
pub struct SagaStart<'a, T> {
    /// Its name; it is of the service's own namespace.
    pub saga: &'a str,
    /// The same key starts the same run.
    pub key: &'a str,
    /// What it is started with.
    pub input: &'a T,
}

/// Where sagas are started.
#[derive(Clone, Debug)]
pub struct SagaEngine {
    client: Client,
    namespace: String,
    token: PathBuf,
}

/// What the engine must be told from.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    url: BaseUrl,
    namespace: String,
    token: PathBuf,
}

#[derive(Serialize)]
struct Body<'a> {
    input: &'a RawValue,
}

impl<T: Serialize> SagaStart<'_, T> {
    /// The message that starts it.
    ///
    /// # Errors
    /// A name is empty or too long, or the input has no form in JSON.
    pub fn message(&self) -> Result<Message, MessageError> {
        Message::new(self.key, TYPE, self.saga, self.input)
    }
}

impl Settings {
    /// Reads `TRELLIS_SAGA_URL`, `POD_NAMESPACE` and `SAGA_TOKEN`; faults are noted in `env`.
    pub fn read(env: &mut Environment) -> Option<Self> {
        let url = env.required(
            "TRELLIS_SAGA_URL",
            "list trellis-saga of namespace trellis-system in spec.dependsOn, or write http://host:port of the saga engine",
        );
        let namespace = env.required(
            "POD_NAMESPACE",
            "write the namespace of the pod, from metadata.namespace",
        );
        let token = env.optional("SAGA_TOKEN", TOKEN.into(), "write the path of a file");
        Some(Self {
            url: url?,
            namespace: namespace?,
            token: token?,
        })
    }
}

impl SagaEngine {
    /// The engine of these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            client: Client::new("trellis-saga", settings.url, DEADLINE),
            namespace: settings.namespace,
            token: settings.token,
        }
    }

    async fn headers(&self, message: &Message) -> Result<HeaderMap, Failure> {
        let failure = |reason: String| Failure {
            reason,
            retry_after: None,
        };
        // Read each time: it is renewed.
        let token = tokio::fs::read_to_string(&self.token).await.map_err(|error| {
            let path = self.token.display();
            failure(format!(
                "failed to read {path}: {error}; list trellis-saga in spec.tokenAudiences"
            ))
        })?;
        let key = HeaderValue::from_str(message.id())
            .map_err(|_| failure("the id is no value of a header".to_owned()))?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| failure(format!("{} holds no token", self.token.display())))?;
        bearer.set_sensitive(true);
        Ok(HeaderMap::from_iter([
            (IDEMPOTENCY_KEY, key),
            (AUTHORIZATION, bearer),
        ]))
    }
}

impl Deliver for SagaEngine {
    async fn deliver(&self, message: &Message) -> Result<(), Failure> {
        let headers = self.headers(message).await?;
        let body = serde_json::to_vec(&Body {
            input: message.data(),
        })
        .map_err(|error| Failure {
            reason: error.to_string(),
            retry_after: None,
        })?;
        let path = [
            "v1",
            "namespaces",
            &self.namespace,
            "sagas",
            message.subject(),
            "runs",
        ];
        self.client
            .post(&path, headers, body.into())
            .await
            .map_err(|error| {
                let retry_after = match &error {
                    ClientError::Status { retry_after, .. } => *retry_after,
                    _ => None,
                };
                Failure {
                    reason: error.to_string(),
                    retry_after,
                }
            })
    }
}
