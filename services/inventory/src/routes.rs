//! The paths of the service, and what they are built from.

use axum::Router;
use axum::routing::{MethodRouter, delete, put};
use http::Method;
use trellis_chassis::db::Database;
use trellis_chassis::server::{self, Process, Routes};

use crate::config::Config;
use crate::handlers::{self, Context};
use crate::store::{self, Store};

/// The service's interface, kept beside the code; a test compares it with the routes.
const OPENAPI: &str = include_str!("../openapi.json");

/// Connects the parts. Must be called within a Tokio runtime.
pub fn build(config: Config, process: &mut Process) -> Router {
    let ready = process.readiness.task("database");
    let database = Database::open(config.database, store::migrations(), ready);
    let context = Context {
        store: Store::new(database),
        ttl: config.reservation_ttl.get(),
    };
    tokio::spawn(context.store.clone().keep_clean());
    let add = |router: Router, (_, path, route): (_, _, MethodRouter<Context>)| {
        router.route(path, route.with_state(context.clone()))
    };
    more_routes()
        .into_iter()
        .fold(routes().with_state(context.clone()), add)
}

fn routes() -> Routes<Context> {
    Routes::new()
        .get("/items/", handlers::list)
        .get("/items/{sku}", handlers::get)
        .post("/reservations", handlers::reserve)
        .get("/reservations/{id}", handlers::reservation)
        .post("/reservations/{id}/commit", handlers::commit)
        .get("/openapi.json", async || server::json(OPENAPI))
}

/// Of the methods that [`Routes`] does not know.
fn more_routes() -> [(Method, &'static str, MethodRouter<Context>); 2] {
    [
        (Method::PUT, "/items/{sku}", put(handlers::set)),
        (Method::DELETE, "/reservations/{id}", delete(handlers::give_back)),
    ]
}

#[cfg(test)]
mod tests;
