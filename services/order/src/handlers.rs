//! Each handler is the same five steps: extract, load, decide, write, respond.
//!
//! An order is placed by a saga, which is begun with the order's row and calls back here. So the answer to a new order is
//! that it is accepted; who prefers to wait is told what became of it.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::de::IgnoredAny;
use tokio::time::{self, Instant};
use trellis_chassis::client::Client;
use trellis_chassis::extract::{Json, Params, Path, PreferWait};
use trellis_chassis::page::{Page, PageRequest};
use trellis_chassis::problem::Problem;
use trellis_saga_participant::{Answer, Branch};

use crate::domain::{self, CreateOrder, Decision, Move, OrderId, Standing, Stored, Username};
use crate::error::Error;
use crate::store::{self, Store};

/// Longest wait for an order to be settled: less than a request may take.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// Between two looks at an order that is waited for, at first and at last.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The orders.
    pub store: Store,
    /// The user service.
    pub users: Client,
}

/// `POST /orders/`: 202, or 200 if the same order exists, or 409 if another one has the id; 422 for a user that
/// does not exist, 503 while that cannot be told. With `Prefer: wait=5` 201 when it is confirmed or rejected.
pub async fn create(
    State(context): State<Context>,
    PreferWait(wait): PreferWait,
    Json(body): Json<CreateOrder>,
) -> Result<Response, Error> {
    let chosen = body.chooses_id();
    let order = domain::validate(body, make_id()).map_err(Error::Invalid)?;
    let stored = if chosen {
        context.store.find(order.order_id).await?
    } else {
        None
    };
    match domain::standing(&order, stored) {
        Standing::New => {}
        Standing::Replay(stored) => return replayed(&context, stored, wait).await,
        Standing::Conflict => return Err(Error::Taken(order.order_id)),
    }
    // Asked outside of any transaction: a slow user service must not hold locks and connections.
    let user = context
        .users
        .get::<IgnoredAny>(&["users", order.username.as_str()])
        .await;
    if let Err(refusal) = domain::decide(&user) {
        return Err(Error::Refused {
            username: order.username,
            refusal,
        });
    }
    let (order, rival) = if chosen {
        let rival = context.store.insert(&order).await?;
        (order, rival)
    } else {
        (context.store.insert_under_free_id(order, make_id).await?, None)
    };
    // Somebody may have been faster between the two looks; then their order decides.
    match domain::standing(&order, rival) {
        Standing::New => created(&context, order.pending(), wait).await,
        Standing::Replay(stored) => replayed(&context, stored, wait).await,
        Standing::Conflict => Err(Error::Taken(order.order_id)),
    }
}

/// `GET /orders/{order_id}`: 200 or 404. With `Prefer: wait=5` when no saga is at work on it any more.
pub async fn get(
    State(context): State<Context>,
    PreferWait(wait): PreferWait,
    Path(id): Path<String>,
) -> Result<axum::Json<Stored>, Error> {
    let stored = settled(&context, find(&context, &id).await?, wait).await?;
    Ok(axum::Json(stored))
}

/// `POST /orders/{order_id}/cancel`: 202, or 200 if that is under way or done, or 404, or 409 if the order is not
/// completed.
pub async fn cancel(State(context): State<Context>, Path(id): Path<String>) -> Result<Response, Error> {
    let Ok(order_id) = id.parse() else {
        return Err(Error::NotFound(id));
    };
    let mut is_begun = false;
    let decide = |stored: &Stored| {
        is_begun = stored.status.decide_cancellation(order_id)?;
        Ok(is_begun)
    };
    let stored = context.store.cancel(order_id, decide).await?;
    let stored = stored.ok_or(Error::NotFound(id))?;
    let status = if is_begun {
        tracing::info!(order_id = order_id.get(), "order to be cancelled");
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok(answered(status, &stored))
}

/// `POST /orders/{order_id}/{step}`, with `place`, `confirm`, `reject`, `complete`, `hold` or `close`: 200, or 404, or 409 if
/// the order is not where it can be moved from. No client's: without the headers of the saga engine it is a 400.
pub async fn step(
    State(context): State<Context>,
    branch: Branch,
    Path((id, step)): Path<(String, String)>,
) -> Result<Answer, Problem> {
    let Ok(wanted) = step.parse::<Move>() else {
        return Err(Error::NotFound(format!("{id}/{step}")).into());
    };
    let work = async |connection: &mut _| {
        let stored = match id.parse() {
            Ok(order_id) => store::lock(connection, order_id).await?,
            Err(_) => None,
        };
        let mut stored = stored.ok_or_else(|| Error::NotFound(id.clone()))?;
        let order_id = stored.order.order_id;
        if let Decision::Become(status) = stored.status.decide(order_id, wanted)? {
            store::set_status(connection, order_id, status).await?;
            stored.status = status;
            let status: &str = status.into();
            tracing::info!(
                order_id = order_id.get(),
                status,
                run = branch.run(),
                "order moved"
            );
        }
        Ok(Answer::ok(&stored)?)
    };
    context.store.change(&branch, work).await
}

/// `GET /orders/?limit=&cursor=&username=`: a page of orders, of all users or of one, in the order of ids.
pub async fn list(
    State(context): State<Context>,
    mut params: Params,
) -> Result<axum::Json<Page<Stored>>, Error> {
    let request = PageRequest::<OrderId>::take(&mut params);
    let username = params.take::<Username>("username");
    params.finish().map_err(Error::Invalid)?;
    let rows = context.store.list(&request, username.as_ref()).await?;
    Ok(axum::Json(request.page(rows, |stored| stored.order.order_id)))
}

/// An id that no order can have is the id of no order.
async fn find(context: &Context, id: &str) -> Result<Stored, Error> {
    let stored = match id.parse() {
        Ok(order_id) => context.store.find(order_id).await?,
        Err(_) => None,
    };
    stored.ok_or_else(|| Error::NotFound(id.to_owned()))
}

/// The order when no saga is at work on it any more, or when the time is over.
async fn settled(context: &Context, mut stored: Stored, most: Duration) -> Result<Stored, Error> {
    let deadline = Instant::now() + most.min(LONGEST_WAIT);
    let mut pause = LOOKS.0;
    while !stored.status.is_settled() && Instant::now() < deadline {
        time::sleep_until((Instant::now() + pause).min(deadline)).await;
        pause = (pause * 2).min(LOOKS.1);
        if let Some(found) = context.store.find(stored.order.order_id).await? {
            stored = found;
        }
    }
    Ok(stored)
}

async fn created(context: &Context, stored: Stored, wait: Duration) -> Result<Response, Error> {
    tracing::info!(
        order_id = stored.order.order_id.get(),
        username = stored.order.username.as_str(),
        "order accepted"
    );
    let stored = settled(context, stored, wait).await?;
    let status = if stored.status.is_settled() {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok(answered(status, &stored))
}

async fn replayed(context: &Context, stored: Stored, wait: Duration) -> Result<Response, Error> {
    let stored = settled(context, stored, wait).await?;
    Ok(answered(StatusCode::OK, &stored))
}

fn answered(status: StatusCode, stored: &Stored) -> Response {
    let location = format!("/orders/{}", stored.order.order_id);
    (status, [(header::LOCATION, location)], axum::Json(stored)).into_response()
}

fn make_id() -> OrderId {
    OrderId::generate(jiff::Timestamp::now().as_millisecond(), rand::random())
}
