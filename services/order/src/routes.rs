//! The paths of the service, and what they are built from.

use std::time::Duration;

use axum::Router;
use trellis_chassis::client::Client;
use trellis_chassis::db::Database;
use trellis_chassis::server::{self, Process, Routes};
use trellis_messaging::{Dispatcher, Outbox, SagaEngine};

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
    let outbox = Outbox::default();
    let engine = SagaEngine::new(config.saga);
    let dispatcher = Dispatcher::new(database.clone(), outbox.clone(), engine, &mut process.registry);
    tokio::spawn(dispatcher.run());
    let store = Store::new(database, outbox);
    tokio::spawn(store.clone().keep_clean());
    routes().with_state(Context { store, users })
}

fn routes() -> Routes<Context> {
    Routes::new()
        .post("/orders/", handlers::create)
        .get("/orders/", handlers::list)
        .get("/orders/{order_id}", handlers::get)
        .post("/orders/{order_id}/cancel", handlers::cancel)
        .post("/orders/{order_id}/{step}", handlers::step)
        .get("/openapi.json", async || server::json(OPENAPI))
}

#[cfg(test)]
mod tests;
