//! Each handler is the same five steps: extract, load, decide, write, respond. Where a saga may ask, all but
//! the first are behind the barrier, in one transaction; a request that is not acceptable is not acceptable
//! whenever it comes, and needs none.

use axum::extract::State;
use trellis_chassis::extract::{Json, Params, Path};
use trellis_chassis::page::{Page, PageRequest};
use trellis_chassis::problem::Problem;
use trellis_saga_participant::{Answer, Branch};

use crate::domain::{self, Item, ItemId, PutItem};
use crate::error::Error;
use crate::store::{self, Store};

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The items.
    pub store: Store,
}

/// `PUT /items/{id}`: 201, or 200 if the same one exists, or 409 if another one has the id.
pub async fn put(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
    Json(body): Json<PutItem>,
) -> Result<Answer, Problem> {
    let item = domain::validate(&id, &body).map_err(Error::Invalid)?;
    let work = async |connection: &mut _| {
        loop {
            if store::insert(connection, &item).await? {
                return Ok(Answer::created(&item)?);
            }
            // If the one in the way was deleted between the two looks, there is room for this one.
            if let Some(stored) = store::lock(connection, &item.id).await? {
                domain::decide_again(&item, &stored)?;
                return Ok(Answer::ok(&stored)?);
            }
        }
    };
    context.store.change(branch.as_ref(), work).await
}

/// `GET /items/{id}`: 200 or 404.
pub async fn get(State(context): State<Context>, Path(id): Path<String>) -> Result<axum::Json<Item>, Error> {
    // An id that no item can have is the id of none.
    let stored = match id.parse() {
        Ok(id) => context.store.find(&id).await?,
        Err(_) => None,
    };
    stored.map(axum::Json).ok_or(Error::NotFound(id))
}

/// `GET /items/?limit=&cursor=`: a page of items in the order of their ids.
pub async fn list(
    State(context): State<Context>,
    mut params: Params,
) -> Result<axum::Json<Page<Item>>, Error> {
    let request = PageRequest::<ItemId>::take(&mut params);
    params.finish().map_err(Error::Invalid)?;
    let rows = context.store.list(&request).await?;
    Ok(axum::Json(request.page(rows, |item| item.id.clone())))
}

/// `DELETE /items/{id}`: 204, also if there is none.
pub async fn delete(
    State(context): State<Context>,
    branch: Option<Branch>,
    Path(id): Path<String>,
) -> Result<Answer, Problem> {
    let work = async |connection: &mut _| {
        // There is nothing to delete under an id that no item can have.
        if let Ok(id) = id.parse() {
            store::delete(connection, &id).await?;
        }
        Ok(Answer::no_content())
    };
    context.store.change(branch.as_ref(), work).await
}
