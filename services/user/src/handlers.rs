//! Each handler is the same five steps: extract, load, decide, write, respond.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use trellis_chassis::extract::{Json, Params, Path};
use trellis_chassis::page::{Page, PageRequest};

use crate::domain::{self, CreateUser, Decision, User, Username};
use crate::error::Error;
use crate::store::Store;

/// What handlers work with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The users.
    pub store: Store,
}

/// `POST /users/`: 201, or 200 if the same user exists, or 409 if another one has the name.
pub async fn create(State(context): State<Context>, Json(body): Json<CreateUser>) -> Result<Response, Error> {
    let user = domain::validate(body).map_err(Error::Invalid)?;
    let stored = context.store.find(&user.username).await?;
    let decision = match domain::decide(&user, stored.as_ref()) {
        Decision::Create => match context.store.insert(&user).await? {
            None => Decision::Create,
            // Somebody was faster between the two looks; their user decides.
            Some(rival) => domain::decide(&user, Some(&rival)),
        },
        settled => settled,
    };
    match decision {
        Decision::Create => {
            tracing::info!(username = %user.username, "user created");
            let location = format!("/users/{}", user.username);
            Ok((
                StatusCode::CREATED,
                [(header::LOCATION, location)],
                axum::Json(user),
            )
                .into_response())
        }
        Decision::Replay => Ok(axum::Json(user).into_response()),
        Decision::Conflict => Err(Error::Taken(user.username)),
    }
}

/// `GET /users/{username}`: 200 or 404.
pub async fn get(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<axum::Json<User>, Error> {
    // A name that no user can have is the name of no user.
    let stored = match name.parse() {
        Ok(username) => context.store.find(&username).await?,
        Err(_) => None,
    };
    stored.map(axum::Json).ok_or(Error::NotFound(name))
}

/// `GET /users/?limit=&cursor=`: a page of users in the order of their names.
pub async fn list(
    State(context): State<Context>,
    mut params: Params,
) -> Result<axum::Json<Page<User>>, Error> {
    let request = PageRequest::<Username>::take(&mut params);
    params.finish().map_err(Error::Invalid)?;
    let rows = context.store.list(&request).await?;
    Ok(axum::Json(request.page(rows, |user| user.username.clone())))
}
