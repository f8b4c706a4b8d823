//! The paths of the service, and what they are built from.

use axum::Router;
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
    };
    tokio::spawn(context.store.clone().keep_clean());
    routes().with_state(context)
}

fn routes() -> Routes<Context> {
    Routes::new()
        .get("/items/", handlers::list)
        .put("/items/{id}", handlers::put)
        .get("/items/{id}", handlers::get)
        .delete("/items/{id}", handlers::delete)
        .get("/openapi.json", async || server::json(OPENAPI))
}

#[cfg(test)]
mod tests;
