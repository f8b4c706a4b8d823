//! Each handler is the same five steps: extract, load, decide, write, respond. Where a saga may ask, all but
//! the first are behind the barrier, in one transaction; a body that is not acceptable is not acceptable
//! whenever it comes, and needs none.

use std::time::Duration;

use axum::extract::State;
use trellis_chassis::extract::{Json, Params, Path};
use trellis_chassis::page::{Page, PageRequest};
use trellis_chassis::problem::{FieldError, Problem};
use trellis_saga_participant::{Answer, Branch};

use crate::domain::{
    self, Decision, Line, NameError, Receipt, Reservation, ReservationId, Reserve, SetStock, Sku, Status,
    Stock,
};
use crate::error::Error;
use crate::store::{self, Store};

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The stock.
    pub store: Store,
    /// How long a reservation holds.
    pub ttl: Duration,
}

/// `PUT /items/{sku}`: 200, or 409 if more is reserved.
pub async fn set(
    State(context): State<Context>,
    Path(sku): Path<String>,
    Json(body): Json<SetStock>,
) -> Result<Answer, Problem> {
    let fault = |fault: NameError| Error::Invalid(vec![FieldError::new("sku", fault)]);
    let sku: Sku = sku.parse().map_err(fault)?;
    let on_hand = domain::validate_stock(&body).map_err(Error::Invalid)?;
    let work = async |connection: &mut _| {
        let skus = [sku.as_str().to_owned()];
        store::ensure_item(connection, &sku).await?;
        store::lock(connection, &skus).await?;
        for stock in store::stocks(connection, &skus).await? {
            domain::decide_stock(on_hand, &stock)?;
        }
        let stock = store::set_on_hand(connection, &sku, on_hand).await?;
        Ok(Answer::ok(&stock)?)
    };
    context.store.change(None, work).await
}

/// `GET /items/{sku}`: 200 or 404.
pub async fn get(
    State(context): State<Context>,
    Path(sku): Path<String>,
) -> Result<axum::Json<Stock>, Error> {
    // A sku that nothing can have is the sku of nothing.
    let stock = match sku.parse() {
        Ok(sku) => context.store.stock(&sku).await?,
        Err(_) => None,
    };
    stock.map(axum::Json).ok_or(Error::NoItem(sku))
}

/// `GET /items/?limit=&cursor=`: a page of items in the order of their skus.
pub async fn list(
    State(context): State<Context>,
    mut params: Params,
) -> Result<axum::Json<Page<Stock>>, Error> {
    let request = PageRequest::<Sku>::take(&mut params);
    params.finish().map_err(Error::Invalid)?;
    let rows = context.store.list(&request).await?;
    Ok(axum::Json(request.page(rows, |stock| stock.sku().clone())))
}

/// `POST /reservations`: 201, or 200 if the same one exists; 409 if there is not enough or the id is no longer
/// free, 422 for a sku that is not kept.
pub async fn reserve(
    State(context): State<Context>,
    branch: Option<Branch>,
    Json(body): Json<Reserve>,
) -> Result<Answer, Problem> {
    let wanted = domain::validate(body).map_err(Error::Invalid)?;
    let skus = skus(&wanted.lines);
    let work = async |connection: &mut _| {
        let Some(expires_at) = store::insert(connection, &wanted.id, context.ttl).await? else {
            let stored = store::lock_reservation(connection, &wanted.id).await?;
            // It was there a moment ago; if it was too old to stay, asking again helps.
            let stored = stored.ok_or(sqlx::Error::RowNotFound)?;
            return Ok(Answer::ok(&domain::decide_again(&wanted, stored)?)?);
        };
        store::lock(connection, &skus).await?;
        domain::decide_lines(&wanted.lines, &store::stocks(connection, &skus).await?)?;
        store::hold(connection, &wanted).await?;
        Ok(Answer::created(&Receipt::new(wanted.id.clone(), expires_at))?)
    };
    context.store.change(branch.as_ref(), work).await
}

/// `GET /reservations/{id}`: 200 or 404.
pub async fn reservation(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<axum::Json<Reservation>, Error> {
    let stored = match id.parse() {
        Ok(id) => context.store.reservation(&id).await?,
        Err(_) => None,
    };
    stored.map(axum::Json).ok_or(Error::NoReservation(id))
}

/// `DELETE /reservations/{id}`: 204, also if there is nothing to give back, or 409 if it was committed.
pub async fn give_back(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        let Some(stored) = find(connection, &id).await? else {
            return Ok(Answer::no_content());
        };
        if stored.give_back()? == Decision::Change {
            store::lock(connection, &skus(stored.lines())).await?;
            store::release(connection, stored.id()).await?;
            store::set_status(connection, stored.id(), Status::GivenBack).await?;
        }
        Ok(Answer::no_content())
    };
    context.store.change(branch.as_ref(), work).await
}

/// `POST /reservations/{id}/commit`: 200, or 404, or 409 if it was given back, or is expired and there is not
/// enough any more.
pub async fn commit(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        let stored = find(connection, &id).await?;
        let stored = stored.ok_or_else(|| Error::NoReservation(id.clone()))?;
        if stored.commit()? == Decision::Change {
            // Giving back first makes one case of both: what it held is available to it, and what it held no
            // longer may be.
            let skus = skus(stored.lines());
            store::lock(connection, &skus).await?;
            store::release(connection, stored.id()).await?;
            domain::decide_lines(stored.lines(), &store::stocks(connection, &skus).await?)?;
            store::take(connection, stored.id()).await?;
            store::set_status(connection, stored.id(), Status::Committed).await?;
        }
        Ok(Answer::ok(&stored.after(Status::Committed))?)
    };
    context.store.change(branch.as_ref(), work).await
}

/// `POST /reservations/{id}/return`: 200, or 404, or 409 if it was not committed.
pub async fn take_back(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        let stored = find(connection, &id).await?;
        let stored = stored.ok_or_else(|| Error::NoReservation(id.clone()))?;
        if stored.take_back()? == Decision::Change {
            store::lock(connection, &skus(stored.lines())).await?;
            store::put_back(connection, stored.id()).await?;
            store::set_status(connection, stored.id(), Status::Returned).await?;
        }
        Ok(Answer::ok(&stored.after(Status::Returned))?)
    };
    context.store.change(branch.as_ref(), work).await
}

/// An id that no reservation can have is the id of none.
async fn find(connection: &mut sqlx::PgConnection, id: &str) -> Result<Option<Reservation>, Error> {
    match id.parse::<ReservationId>() {
        Ok(id) => store::lock_reservation(connection, &id).await,
        Err(_) => Ok(None),
    }
}

fn skus(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| line.sku.as_str().to_owned()).collect()
}
