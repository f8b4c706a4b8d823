//! What callers ask for. Whoever is asked does it, or has the replica do it that looks after the run.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time;
use trellis_chassis::extract::{Json, Params, Path, PreferWait};
use trellis_chassis::problem::FieldError;
use trellis_saga_api::runs::{Intervention, ON_BEHALF_OF, Page, Run, Start};
use trellis_saga_core::event::{CallId, Op, Payload, Verb};
use trellis_saga_core::run::Status;
use trellis_saga_engine::engine::{self, Engine, Started, View, Whereabouts};
use trellis_saga_engine::id::RunId;
use trellis_saga_engine::store::postgres::Postgres;
use trellis_saga_engine::store::{self, Filter, Store as _};

use crate::access::{Access, Wish};
use crate::error::Error;
use crate::shown;

/// Longest wait for a run's end: less than a request may take.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// Between looks at a run that another replica looks after.
const LOOK: Duration = Duration::from_millis(200);
/// Longest wait for another replica.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Largest answer of another replica.
const MAX_BODY: usize = 1024 * 1024;
/// Runs of a page, unless said otherwise, and at most.
const PAGE: (u32, u32) = (50, 500);
/// Marks a request that another replica has passed on: it is passed on once.
const FORWARDED: HeaderName = HeaderName::from_static("trellis-saga-forwarded");
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LONGEST_KEY: usize = 256;

/// What handlers work with.
#[derive(Clone)]
pub struct Context {
    engine: Engine<Postgres>,
    access: Arc<Access>,
    others: Client<HttpConnector, Full<Bytes>>,
}

/// A status of runs as a parameter.
struct StatusName(Status);

impl FromStr for StatusName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALL: [Status; 5] = [
            Status::Running,
            Status::Compensating,
            Status::Stuck,
            Status::Completed,
            Status::Compensated,
        ];
        let found = ALL
            .into_iter()
            .find(|status| status.as_ref().eq_ignore_ascii_case(text));
        found
            .map(Self)
            .ok_or_else(|| "must be Running, Compensating, Stuck, Completed or Compensated".to_owned())
    }
}

impl Context {
    /// Asks the engine, for those who may.
    pub fn new(engine: Engine<Postgres>, access: Access) -> Self {
        Self {
            engine,
            access: Arc::new(access),
            others: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn view(&self, run: RunId) -> Result<View, Error> {
        let view = self.engine.view(run).await?;
        view.ok_or_else(|| Error::NoRun(run.to_string()))
    }

    /// The run when it has another number of records, or has ended, or when the time is over.
    async fn changed(&self, run: RunId, records: u64, most: Duration) -> Result<View, Error> {
        let deadline = Instant::now() + most.min(LONGEST_WAIT);
        loop {
            let view = self.view(run).await?;
            let is_news = view.records.len() as u64 != records || view.state.end().is_some();
            let left = deadline.saturating_duration_since(Instant::now());
            if is_news || left.is_zero() {
                return Ok(view);
            }
            time::sleep(LOOK.min(left)).await;
        }
    }

    /// The run when it has ended, or when the time is over.
    async fn wait(&self, run: RunId, most: Duration) -> Result<View, Error> {
        let deadline = Instant::now() + most.min(LONGEST_WAIT);
        loop {
            let view = self.view(run).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if view.state.end().is_some() || left.is_zero() {
                return Ok(view);
            }
            match self.engine.whereabouts(run) {
                Whereabouts::Here => self.engine.ended(run, left).await,
                Whereabouts::At(_) | Whereabouts::Nowhere => time::sleep(LOOK.min(left)).await,
            }
        }
    }
}

/// `POST /v1/namespaces/{namespace}/sagas/{saga}/runs`: 201 with the run; 200 if the key has started it before; with `Prefer: wait=5`
/// when it has ended, or after so many seconds.
pub async fn start(
    State(context): State<Context>,
    Path((namespace, saga)): Path<(String, String)>,
    PreferWait(wait): PreferWait,
    headers: HeaderMap,
    Json(body): Json<Start>,
) -> Result<Response, Error> {
    let caller = context.access.caller(&headers).await?;
    context.access.allow(&caller, Wish::Start, &namespace).await?;
    let request = engine::Request {
        namespace,
        saga,
        key: key(&headers)?,
        input: body.input,
    };
    let Started { run, is_known } = context.engine.start(request).await?;
    let view = context.wait(run, wait).await?;
    let status = if is_known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let location = format!("/v1/runs/{run}");
    Ok((
        status,
        [(header::LOCATION, location)],
        axum::Json(shown::run(&view)),
    )
        .into_response())
}

/// `GET /v1/runs/{run}?wait=5`: the run, when it has ended or after so many seconds; with `changed=7` also when it has another number of
/// records than that.
pub async fn get(
    State(context): State<Context>,
    Path(run): Path<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<axum::Json<Run>, Error> {
    let wait: Option<u64> = params.take("wait");
    let changed: Option<u64> = params.take("changed");
    params.finish().map_err(Error::Invalid)?;
    let run: RunId = run.parse()?;
    let caller = context.access.caller(&headers).await?;
    let view = context.view(run).await?;
    context
        .access
        .allow(&caller, Wish::Look, view.compiled.namespace())
        .await?;
    let view = match (wait.map(Duration::from_secs), changed) {
        (Some(most), Some(records)) => context.changed(run, records, most).await?,
        (Some(most), None) => context.wait(run, most).await?,
        (None, _) => view,
    };
    Ok(axum::Json(shown::run(&view)))
}

/// `GET /v1/runs?namespace=&saga=&status=&before=&limit=`: runs, the newest first.
pub async fn list(
    State(context): State<Context>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<axum::Json<Page>, Error> {
    let namespace: Option<String> = params.take("namespace");
    let limit = params.take("limit").unwrap_or(PAGE.0).clamp(1, PAGE.1);
    let filter = Filter {
        namespace: namespace.clone(),
        saga: params.take("saga"),
        statuses: params
            .take::<StatusName>("status")
            .map(|status| status.0)
            .into_iter()
            .collect(),
        before: params.take("before"),
        limit,
    };
    if namespace.is_none() {
        params.fault("namespace", "must be given: runs are listed by namespace");
    }
    params.finish().map_err(Error::Invalid)?;
    let namespace = namespace.unwrap_or_default();
    let caller = context.access.caller(&headers).await?;
    context.access.allow(&caller, Wish::List, &namespace).await?;
    let runs = context.engine.store().list(&filter).await?;
    let last = runs.last().filter(|_| runs.len() as u64 == u64::from(limit));
    Ok(axum::Json(Page {
        before: last.map(|run| run.run.to_string()),
        runs: runs.iter().map(shown::summary).collect(),
    }))
}

/// `POST /v1/runs/{run}/{verb}`: `retry`, `retry-from`, `skip`, `force-complete`, `cancel`.
pub async fn intervene(
    State(context): State<Context>,
    Path((run, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Intervention>,
) -> Result<Response, Error> {
    let id: RunId = run.parse()?;
    let caller = context.access.caller(&headers).await?;
    let view = context.view(id).await?;
    let who = context
        .access
        .allow(&caller, Wish::Intervene, view.compiled.namespace())
        .await?;
    match context.engine.whereabouts(id) {
        Whereabouts::Here => {}
        Whereabouts::At(replica) if !headers.contains_key(&FORWARDED) => {
            let path = format!("{}/v1/runs/{run}/{verb}", replica.address);
            return forward(&context, &path, &headers, &body).await;
        }
        Whereabouts::At(_) | Whereabouts::Nowhere => return Err(Error::Nowhere),
    }
    let wanted = wanted(&view, &verb, &body)?;
    // Whom a tool speaks for is what it says; who it is itself is proven.
    let who = match headers.get(ON_BEHALF_OF).and_then(|value| value.to_str().ok()) {
        Some(person) => format!("{who} for {person}"),
        None => who,
    };
    context.engine.intervene(id, wanted, &who, &body.reason).await?;
    tracing::info!(run, verb, who, reason = body.reason, "an operator intervened");
    let view = context.view(id).await?;
    Ok(axum::Json(shown::run(&view)).into_response())
}

/// What an operator wants, in the terms of the core.
fn wanted(view: &View, verb: &str, body: &Intervention) -> Result<Verb, Error> {
    let fault = |field: &str, message: String| Error::Invalid(vec![FieldError::new(field, message)]);
    let step = || {
        let named = body.step.as_deref();
        let named = named.ok_or_else(|| fault("step", "must name a step".to_owned()))?;
        let steps = &view.compiled.program.definition.steps;
        let place = steps.iter().position(|step| step.name == named);
        let place = place.and_then(|place| u32::try_from(place).ok());
        place.ok_or_else(|| fault("step", format!("there is no step {named:?}")))
    };
    Ok(match verb {
        "retry" => Verb::Retry,
        "retry-from" => Verb::RetryFrom { step: step()? },
        "skip" => {
            let (step, op) = (
                step()?,
                if body.compensation {
                    Op::Compensation
                } else {
                    Op::Action
                },
            );
            let stuck = view.state.stuck_calls();
            let is_meant = |call: &&CallId| call.step == step && call.item == body.index && call.op == op;
            let call = stuck.iter().find(is_meant).copied().unwrap_or(CallId {
                step,
                item: body.index,
                op,
                incarnation: view.state.incarnation(step as usize),
            });
            if op == Op::Action {
                view.compiled
                    .program
                    .check_output(step as usize, body.output.as_ref())
                    .map_err(|error| fault("output", error.to_string()))?;
            }
            let output = body
                .output
                .as_ref()
                .map(|output| Payload(output.to_string().into()));
            Verb::Skip { call, output }
        }
        "force-complete" => Verb::ForceComplete,
        "cancel" => Verb::Cancel,
        other => {
            let known = "retry, retry-from, skip, force-complete, cancel";
            return Err(fault("verb", format!("{other:?} is none of {known}")));
        }
    })
}

/// Has the replica do it that looks after the run. It asks anew whether the caller may.
async fn forward(
    context: &Context,
    address: &str,
    headers: &HeaderMap,
    body: &Intervention,
) -> Result<Response, Error> {
    let elsewhere = |error: &dyn std::error::Error| Error::Elsewhere(error.to_string());
    let text = serde_json::to_vec(body).map_err(|error| elsewhere(&error))?;
    let mut request = Request::post(address)
        .header(header::CONTENT_TYPE, "application/json")
        .header(FORWARDED, HeaderValue::from_static("true"))
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| elsewhere(&error))?;
    for name in [header::AUTHORIZATION, HeaderName::from_static(ON_BEHALF_OF)] {
        if let Some(value) = headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    let ask = async {
        let response = context
            .others
            .request(request)
            .await
            .map_err(|error| elsewhere(&error))?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body
            .map_err(|error| Error::Elsewhere(error.to_string()))?
            .to_bytes();
        let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
        let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
        Ok((parts.status, [(header::CONTENT_TYPE, content_type)], body).into_response())
    };
    time::timeout(ELSEWHERE, ask)
        .await
        .unwrap_or_else(|_| Err(Error::Elsewhere("no answer in time".to_owned())))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=LONGEST_KEY).contains(&text.len()));
    match text {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            let message = format!("must be 1 to {LONGEST_KEY} printable ASCII characters");
            Err(Error::Invalid(vec![FieldError::new(IDEMPOTENCY_KEY, message)]))
        }
    }
}

/// Says what failed, and goes on.
pub fn warn(error: &store::Error, what: &str) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(error, "{what}");
}
