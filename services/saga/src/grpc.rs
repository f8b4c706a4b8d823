//! What callers ask for by gRPC: `proto/trellis/saga/v1/runs.proto`, on a port of its own.
//!
//! Each method is a route like any other, so that it is traced and counted by its name. What another replica answers is a document of
//! REST, which is told as if it were the own.

use std::time::Duration;

use axum::body::Body;
use axum::{Router, middleware};
use futures::stream::{BoxStream, StreamExt as _};
use http::{HeaderMap, StatusCode};
use opentelemetry::trace::{self, TraceContextExt as _};
use opentelemetry::{Context, KeyValue};
use serde::Deserialize;
use serde_json::Value;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};
use trellis_chassis::problem::FieldError;
use trellis_chassis::server::MAX_BODY;
use trellis_saga_api::runs::{Intervention, Run};
use trellis_saga_api::v1;
use trellis_saga_api::v1::intervene_request::Verb;
use trellis_saga_api::v1::runs_server::{self, RunsServer, SERVICE_NAME};
use trellis_saga_engine::engine;
use trellis_saga_engine::store::Filter;

use crate::error::{Error, RETRY_AFTER};
use crate::others::Answer;
use crate::runs::{Intervened, Runs, StatusName, key};
use crate::shown;

/// All of them.
const METHODS: [&str; 5] = ["Start", "Get", "List", "Watch", "Intervene"];

/// The port's routes.
pub fn routes(runs: Runs) -> Router {
    let service = RunsServer::new(Service(runs)).max_decoding_message_size(MAX_BODY);
    let routes = METHODS.into_iter().fold(Router::new(), |router, method| {
        router.route_service(&format!("/{SERVICE_NAME}/{method}"), service.clone())
    });
    routes.layer(middleware::map_response(observed))
}

/// Tells the server's span how a request ended: by HTTP each is a 200. (A stream that breaks says so when the span has ended.)
async fn observed(response: http::Response<Body>) -> http::Response<Body> {
    let status = Status::from_header_map(response.headers());
    let code = status.map_or(Code::Ok, |status| status.code());
    let cx = Context::current();
    cx.span()
        .set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
    if matches!(
        code,
        Code::Unknown | Code::Unimplemented | Code::Internal | Code::Unavailable
    ) {
        cx.span().set_status(trace::Status::error(code.description()));
    }
    response
}

struct Service(Runs);

#[tonic::async_trait]
impl runs_server::Runs for Service {
    type WatchStream = BoxStream<'static, Result<v1::Run, Status>>;

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::StartResponse>, Status> {
        let (headers, asked) = parts(request);
        let v1::StartRequest {
            namespace,
            saga,
            idempotency_key,
            input,
            wait_seconds,
        } = asked;
        let given = Some(idempotency_key).filter(|given| !given.is_empty());
        let request = engine::Request {
            namespace,
            saga,
            key: given
                .map(|given| key("idempotency_key", given.as_bytes()))
                .transpose()?,
            input: json("input", &input)?,
        };
        let wait = Duration::from_secs(wait_seconds.into());
        let (view, is_known) = self.0.start(&headers, request, wait).await?;
        Ok(Response::new(v1::StartResponse {
            run: Some(shown::run(&view).into()),
            is_known,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Run>, Status> {
        let (headers, v1::GetRequest { run, wait_seconds }) = parts(request);
        let wait = Duration::from_secs(wait_seconds.into());
        let wait = Some(wait).filter(|wait| !wait.is_zero());
        let view = self.0.get(&headers, &run, wait, None).await?;
        Ok(Response::new(shown::run(&view).into()))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let (headers, asked) = parts(request);
        let v1::ListRequest {
            namespace,
            saga,
            status,
            before,
            limit,
        } = asked;
        if namespace.is_empty() {
            let message = "must be given: runs are listed by namespace";
            return Err(fault("namespace", message.to_owned()).into());
        }
        let status: Option<StatusName> = parsed("status", &status)?;
        let filter = Filter {
            namespace: None,
            saga: Some(saga).filter(|saga| !saga.is_empty()),
            statuses: status.map(|status| status.0).into_iter().collect(),
            before: parsed("before", &before)?,
            limit,
        };
        let page = self.0.list(&headers, &namespace, filter).await?;
        Ok(Response::new(page.into()))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (headers, v1::WatchRequest { run, records }) = parts(request);
        let following = self.0.follow(&headers, &run, records).await?;
        let views = following.views().map(|view| match view {
            Ok(view) => Ok(shown::run(&view).into()),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(views.boxed()))
    }

    async fn intervene(&self, request: Request<v1::InterveneRequest>) -> Result<Response<v1::Run>, Status> {
        let (headers, v1::InterveneRequest { run, reason, verb }) = parts(request);
        let verb = verb.ok_or_else(|| fault("verb", "must be given".to_owned()))?;
        let (verb, body) = wanted(verb, reason)?;
        let run = match self.0.intervene(&headers, &run, verb, &body).await? {
            Intervened::Here(run) => *run,
            Intervened::Elsewhere(answer) => read(&answer)?,
        };
        Ok(Response::new(run.into()))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, text) = (error.code(), error.to_string());
        match error {
            Error::Invalid(errors) => refused(code, text, &errors),
            Error::Refused(engine::Refusal::Input(_)) => {
                let errors = [FieldError::new("input", &text)];
                refused(code, text, &errors)
            }
            // What is stored is nobody's business.
            _ if code == Code::Internal => {
                tracing::error!(error = text, "the store is damaged");
                Self::new(code, "the service failed to answer")
            }
            _ if matches!(code, Code::Unavailable | Code::ResourceExhausted) => {
                let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
                Self::with_error_details(code, text, details)
            }
            _ => Self::new(code, text),
        }
    }
}

fn refused(code: Code, text: String, errors: &[FieldError]) -> Status {
    let violations = errors
        .iter()
        .map(|error| FieldViolation::new(error.field.clone(), error.message.clone()));
    let details = ErrorDetails::with_bad_request(violations.collect::<Vec<_>>());
    // Who looks at the text alone finds the fault there too.
    let text = match errors {
        [FieldError { field, message }] if *message != text => format!("{text}: {field}: {message}"),
        _ => text,
    };
    Status::with_error_details(code, text, details)
}

/// What stands in a problem document.
#[derive(Deserialize)]
struct Told {
    title: String,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<ToldField>,
}

#[derive(Deserialize)]
struct ToldField {
    field: String,
    message: String,
}

/// The run that another replica answers with, or why it did not do it.
fn read(answer: &Answer) -> Result<Run, Status> {
    if answer.status.is_success() {
        let run = serde_json::from_slice(&answer.body);
        return run.map_err(|error| Error::Elsewhere(error.to_string()).into());
    }
    let code = match answer.status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::FailedPrecondition,
        StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
        StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
        _ => Code::Unavailable,
    };
    let Ok(Told {
        title,
        detail,
        errors,
    }) = serde_json::from_slice(&answer.body)
    else {
        return Err(Status::new(code, answer.status.to_string()));
    };
    let errors: Vec<FieldError> = errors
        .into_iter()
        .map(|error| FieldError::new(error.field, error.message))
        .collect();
    let text = detail.unwrap_or(title);
    Err(if errors.is_empty() {
        Status::new(code, text)
    } else {
        refused(code, text, &errors)
    })
}

fn parts<T>(request: Request<T>) -> (HeaderMap, T) {
    let (metadata, _, message) = request.into_parts();
    (MetadataMap::into_headers(metadata), message)
}

fn fault(field: &str, message: String) -> Error {
    Error::Invalid(vec![FieldError::new(field, message)])
}

/// Empty: none.
fn json(field: &str, text: &str) -> Result<Option<Value>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_str(text);
    value
        .map(Some)
        .map_err(|error| fault(field, format!("is not JSON: {error}")))
}

/// Empty: none.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<Option<T>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = text.parse();
    value
        .map(Some)
        .map_err(|error: T::Err| fault(field, error.to_string()))
}

fn wanted(verb: Verb, reason: String) -> Result<(&'static str, Intervention), Error> {
    let body = Intervention {
        reason,
        ..Intervention::default()
    };
    Ok(match verb {
        Verb::Retry(v1::Retry {}) => ("retry", body),
        Verb::RetryFrom(v1::RetryFrom { step }) => (
            "retry-from",
            Intervention {
                step: Some(step),
                ..body
            },
        ),
        Verb::Skip(v1::Skip {
            step,
            index,
            compensation,
            output,
        }) => (
            "skip",
            Intervention {
                step: Some(step),
                index,
                compensation,
                output: json("output", &output)?,
                ..body
            },
        ),
        Verb::ForceComplete(v1::ForceComplete {}) => ("force-complete", body),
        Verb::Cancel(v1::Cancel {}) => ("cancel", body),
    })
}
