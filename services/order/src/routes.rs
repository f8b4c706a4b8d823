//! The paths of the service, and what they are built from.

use std::time::Duration;

use axum::Router;
use trellis_chassis::client::Client;
use trellis_chassis::db::Database;
use trellis_chassis::server::{self, Process, Routes};

use crate::config::Config;
use crate::handlers::{self, Context};
use crate::store::{self, Store};

/// The service's interface, kept beside the code; a test compares it with the routes.
const OPENAPI: &str = include_str!("../openapi.json");
/// How long the user service may take in all; it may wait three seconds for its database.
const USER_DEADLINE: Duration = Duration::from_secs(5);

/// Connects the parts. Must be called within a Tokio runtime.
pub fn build(config: Config, process: &mut Process) -> Router {
    let ready = process.readiness.task("database");
    let database = Database::open(config.database, store::migrations(), ready);
    let users = Client::new("user", config.user, USER_DEADLINE);
    routes().with_state(Context {
        store: Store::new(database),
        users,
    })
}

fn routes() -> Routes<Context> {
    Routes::new()
        .post("/orders/", handlers::create)
        .get("/orders/", handlers::list)
        .get("/orders/{order_id}", handlers::get)
        .get("/openapi.json", async || server::json(OPENAPI))
}

#[cfg(test)]
mod tests;
