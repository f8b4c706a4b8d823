//! What callers ask for by REST.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use trellis_chassis::extract::{Json, Params, Path, PreferWait};
use trellis_saga_api::runs::{Intervention, Page, Run, Start};
use trellis_saga_engine::engine::Request;
use trellis_saga_engine::store::Filter;

use crate::error::Error;
use crate::runs::{Intervened, Runs, StatusName, key};
use crate::shown;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /v1/namespaces/{namespace}/sagas/{saga}/runs`: 201 with the run; 200 if the key has started it before; with `Prefer: wait=5`
/// when it has ended, or after so many seconds.
pub async fn start(
    State(runs): State<Runs>,
    Path((namespace, saga)): Path<(String, String)>,
    PreferWait(wait): PreferWait,
    headers: HeaderMap,
    Json(body): Json<Start>,
) -> Result<Response, Error> {
    let given = headers.get(IDEMPOTENCY_KEY);
    let request = Request {
        namespace,
        saga,
        key: given
            .map(|value| key(IDEMPOTENCY_KEY, value.as_bytes()))
            .transpose()?,
        input: body.input,
    };
    let (view, is_known) = runs.start(&headers, request, wait).await?;
    let status = if is_known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let location = format!("/v1/runs/{}", view.stored.run);
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
    State(runs): State<Runs>,
    Path(run): Path<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<axum::Json<Run>, Error> {
    let wait: Option<u64> = params.take("wait");
    let changed: Option<u64> = params.take("changed");
    params.finish().map_err(Error::Invalid)?;
    let view = runs
        .get(&headers, &run, wait.map(Duration::from_secs), changed)
        .await?;
    Ok(axum::Json(shown::run(&view)))
}

/// `GET /v1/runs?namespace=&saga=&status=&before=&limit=`: runs, the newest first.
pub async fn list(
    State(runs): State<Runs>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<axum::Json<Page>, Error> {
    let namespace: Option<String> = params.take("namespace");
    let filter = Filter {
        namespace: None,
        saga: params.take("saga"),
        statuses: params
            .take::<StatusName>("status")
            .map(|status| status.0)
            .into_iter()
            .collect(),
        before: params.take("before"),
        limit: params.take("limit").map_or(0, |limit: u32| limit.max(1)),
    };
    if namespace.is_none() {
        params.fault("namespace", "must be given: runs are listed by namespace");
    }
    params.finish().map_err(Error::Invalid)?;
    let namespace = namespace.unwrap_or_default();
    Ok(axum::Json(runs.list(&headers, &namespace, filter).await?))
}

/// `POST /v1/runs/{run}/{verb}`: `retry`, `retry-from`, `skip`, `force-complete`, `cancel`.
pub async fn intervene(
    State(runs): State<Runs>,
    Path((run, verb)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Intervention>,
) -> Result<Response, Error> {
    Ok(match runs.intervene(&headers, &run, &verb, &body).await? {
        Intervened::Here(run) => axum::Json(*run).into_response(),
        Intervened::Elsewhere(answer) => answer.into_response(),
    })
}
