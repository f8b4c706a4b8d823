//! Each handler is the same five steps: extract, load, decide, write, respond.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::de::IgnoredAny;
use trellis_chassis::client::Client;
use trellis_chassis::extract::{Json, Params, Path};
use trellis_chassis::page::{Page, PageRequest};

use crate::domain::{self, CreateOrder, Order, OrderId, Standing, Username};
use crate::error::Error;
use crate::store::Store;

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The orders.
    pub store: Store,
    /// The user service.
    pub users: Client,
}

/// `POST /orders/`: 201, or 200 if the same order exists, or 409 if another one has the id; 422 for a user
/// that does not exist, 503 while that cannot be told.
pub async fn create(
    State(context): State<Context>,
    Json(body): Json<CreateOrder>,
) -> Result<Response, Error> {
    let chosen = body.chooses_id();
    let order = domain::validate(body, make_id()).map_err(Error::Invalid)?;
    let stored = if chosen {
        context.store.find(order.order_id).await?
    } else {
        None
    };
    match domain::standing(&order, stored.as_ref()) {
        Standing::New => {}
        Standing::Replay => return Ok(axum::Json(order).into_response()),
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
    match domain::standing(&order, rival.as_ref()) {
        Standing::New => Ok(created(order)),
        Standing::Replay => Ok(axum::Json(order).into_response()),
        Standing::Conflict => Err(Error::Taken(order.order_id)),
    }
}

/// `GET /orders/{order_id}`: 200 or 404.
pub async fn get(State(context): State<Context>, Path(id): Path<String>) -> Result<axum::Json<Order>, Error> {
    // An id that no order can have is the id of no order.
    let stored = match id.parse() {
        Ok(order_id) => context.store.find(order_id).await?,
        Err(_) => None,
    };
    stored.map(axum::Json).ok_or(Error::NotFound(id))
}

/// `GET /orders/?limit=&cursor=&username=`: a page of orders, of all users or of one, in the order of ids.
pub async fn list(
    State(context): State<Context>,
    mut params: Params,
) -> Result<axum::Json<Page<Order>>, Error> {
    let request = PageRequest::<OrderId>::take(&mut params);
    let username = params.take::<Username>("username");
    params.finish().map_err(Error::Invalid)?;
    let rows = context.store.list(&request, username.as_ref()).await?;
    Ok(axum::Json(request.page(rows, |order| order.order_id)))
}

fn created(order: Order) -> Response {
    tracing::info!(
        order_id = order.order_id.get(),
        username = order.username.as_str(),
        "order created"
    );
    let location = format!("/orders/{}", order.order_id);
    (
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        axum::Json(order),
    )
        .into_response()
}

fn make_id() -> OrderId {
    OrderId::generate(jiff::Timestamp::now().as_millisecond(), rand::random())
}
