//! Each handler is the same five steps: extract, load, decide, write, respond. Where a saga may ask, all but
//! the first are behind the barrier, in one transaction; a body that is not acceptable is not acceptable
//! whenever it comes, and needs none.

use axum::extract::State;
use sqlx::PgConnection;
use trellis_chassis::extract::{Json, Path};
use trellis_chassis::problem::Problem;
use trellis_saga_participant::{Answer, Branch};

use crate::domain::{self, Authorisation, Authorise, Decision, Ledger, Movement};
use crate::error::Error;
use crate::store::{self, Store};

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The authorisations.
    pub store: Store,
}

/// `POST /authorisations`: 201, or 200 if the same one exists, or 409 if it is declined or the id is no longer
/// free.
pub async fn authorise(
    State(context): State<Context>,
    branch: Option<Branch>,
    Json(body): Json<Authorise>,
) -> Result<Answer, Problem> {
    let wanted = domain::validate(&body).map_err(Error::Invalid)?;
    let work = async |connection: &mut _| {
        if store::insert(connection, &wanted).await? {
            domain::decide_new(&wanted)?;
            let made = Authorisation::from(wanted.clone());
            store::book(connection, &made, Movement::Authorise).await?;
            return Ok(Answer::created(&made)?);
        }
        // Authorisations are never deleted, so the one in the way is still there.
        let stored = store::lock(connection, &wanted.id).await?;
        let stored = stored.ok_or(sqlx::Error::RowNotFound)?;
        stored.decide_again(&wanted)?;
        Ok(Answer::ok(&stored)?)
    };
    context.store.change(branch.as_ref(), work).await
}

/// `GET /authorisations/{id}`: 200 or 404.
pub async fn get(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<axum::Json<Authorisation>, Error> {
    find(&context, id).await.map(axum::Json)
}

/// `GET /ledger/{id}`: the entries of an authorisation, in the order in which they were made, or 404.
pub async fn ledger(
    State(context): State<Context>,
    Path(id): Path<String>,
) -> Result<axum::Json<Ledger>, Error> {
    let stored = find(&context, id).await?;
    context.store.ledger(&stored.id).await.map(axum::Json)
}

/// `DELETE /authorisations/{id}`: 204, also if there is nothing to void, or 409 if it was captured.
pub async fn void(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        move_money(connection, &id, Movement::Void).await?;
        Ok(Answer::no_content())
    };
    context.store.change(branch.as_ref(), work).await
}

/// `POST /authorisations/{id}/capture`: 200, or 404, or 409 if it was voided or refunded.
pub async fn capture(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        let moved = move_money(connection, &id, Movement::Capture).await?;
        let moved = moved.ok_or_else(|| Error::NotFound(id.clone()))?;
        Ok(Answer::ok(&moved)?)
    };
    context.store.change(branch.as_ref(), work).await
}

/// `POST /authorisations/{id}/refund`: 200, or 404, or 409 if it was not captured.
pub async fn refund(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        let moved = move_money(connection, &id, Movement::Refund).await?;
        let moved = moved.ok_or_else(|| Error::NotFound(id.clone()))?;
        Ok(Answer::ok(&moved)?)
    };
    context.store.change(branch.as_ref(), work).await
}

/// The authorisation after the movement; none if none has the id.
async fn move_money(
    connection: &mut PgConnection,
    id: &str,
    movement: Movement,
) -> Result<Option<Authorisation>, Error> {
    // An id that no authorisation can have is the id of none.
    let Ok(id) = id.parse() else { return Ok(None) };
    let Some(stored) = store::lock(connection, &id).await? else {
        return Ok(None);
    };
    match stored.decide(movement)? {
        Decision::Replay => Ok(Some(stored)),
        Decision::Move => {
            let moved = stored.after(movement);
            store::set_status(connection, &moved).await?;
            store::book(connection, &moved, movement).await?;
            Ok(Some(moved))
        }
    }
}

async fn find(context: &Context, id: String) -> Result<Authorisation, Error> {
    let stored = match id.parse() {
        Ok(id) => context.store.find(&id).await?,
        Err(_) => None,
    };
    stored.ok_or(Error::NotFound(id))
}
