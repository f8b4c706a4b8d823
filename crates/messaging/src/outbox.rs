//! The outbox: messages wait in the service's own database, so that what is told and what it is told about are one transaction.

mod dispatcher;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use sqlx::postgres::PgConnection;
use tokio::sync::Notify;
use trellis_chassis::trace;

use crate::message::Message;

pub use dispatcher::Dispatcher;

/// The table, for a migration of the service.
pub const SCHEMA: &str = include_str!("../sql/outbox.sql");

const PUT: &str = "
    INSERT INTO outbox (id, type, subject, data, traceparent) VALUES ($1, $2, $3, $4::jsonb, $5)
    ON CONFLICT DO NOTHING";

/// Where handlers put messages. Clones wake the same dispatcher.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    news: Arc<Notify>,
}

/// Hands messages over.
pub trait Deliver: Send + Sync + 'static {
    /// Hands one over; it may have been handed over before. Done is what is sure to be taken.
    fn deliver(&self, message: &Message) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Why a message was not taken, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What was said.
    pub reason: String,
    /// For how long whoever takes it wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Outbox {
    /// Puts a message, in the transaction of what it tells about. One with this id that still waits stays as it is.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn put(&self, connection: &mut PgConnection, message: &Message) -> Result<(), sqlx::Error> {
        let mut headers = http::HeaderMap::new();
        trace::inject(&Context::current(), &mut headers);
        let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        sqlx::query(PUT)
            .bind(message.id())
            .bind(message.r#type())
            .bind(message.subject())
            .bind(message.data().get())
            .bind(traceparent)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// After the commit: there is something to deliver. Not to say so costs the time until the dispatcher looks by itself.
    pub fn wake(&self) {
        self.news.notify_one();
    }
}
