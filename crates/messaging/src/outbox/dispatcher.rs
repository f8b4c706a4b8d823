//! Delivers what waits in the outbox.
//!
//! Every replica of a service does. A row is claimed by putting off when it is due, in a statement of its own: no transaction is open
//! while somebody else is asked. Who dies with a claim loses it when that time has come, and another replica delivers again.
//!
//! Rows are claimed by what is due and locked with SKIP LOCKED, never read behind a remembered position: positions are given in
//! another order than they are committed in, and a row that comes late would be passed over.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use opentelemetry::context::FutureExt as _;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::time;
use tokio_util::task::AbortOnDropHandle;
use trellis_chassis::db::{self, Database};
use trellis_chassis::trace;

use super::{Deliver, Failure, Outbox};
use crate::message::Message;
use crate::schedule::pause;

/// Messages that one replica delivers at once.
const AT_ONCE: usize = 32;
/// Longest delivery.
const DELIVERY: Duration = Duration::from_secs(10);
/// How long a claim holds: longer than any delivery, and what a message waits whose dispatcher died.
const CLAIM_MS: i64 = 15_000;
/// Between two looks, unless woken.
const LOOK: Duration = Duration::from_secs(1);
/// Between two counts of what waits.
const COUNT: Duration = Duration::from_secs(5);
/// Longest text of an error that is kept.
const MAX_ERROR: usize = 500;

/// The array is made once; a subquery might be run again, and claim more.
const CLAIM: &str = "
    UPDATE outbox SET due_at = now() + $2 * interval '1 ms', attempts = attempts + 1
    WHERE position = ANY(ARRAY(
        SELECT position FROM outbox WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING position, id, type, subject, data::text AS data, traceparent, attempts";

const TAKEN: &str = "DELETE FROM outbox WHERE position = ANY($1)";

/// Only of the own claim: somebody else's may still come to something.
const NOT_TAKEN: &str = "
    UPDATE outbox SET due_at = now() + $3 * interval '1 ms', error = $4 WHERE position = $1 AND attempts = $2";

const OLDEST: &str = "
    SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS age, count(*) AS waiting FROM outbox";

/// Delivers until the process ends.
#[derive(Debug)]
pub struct Dispatcher<D> {
    database: Database,
    outbox: Outbox,
    deliver: D,
    metrics: Metrics,
}

#[derive(Clone, Debug, Default)]
struct Metrics {
    deliveries: Family<Labels, Counter>,
    waiting: Gauge,
    oldest: Gauge<f64, std::sync::atomic::AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    r#type: String,
    outcome: &'static str,
}

/// A message of which this dispatcher is in charge.
struct Claimed {
    position: i64,
    attempts: i32,
    traceparent: Option<String>,
    message: Message,
}

impl<D: Deliver> Dispatcher<D> {
    /// Delivers what `outbox` is told of, and what waits in `database`, by `deliver`. Counts in `registry`.
    pub fn new(database: Database, outbox: Outbox, deliver: D, registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let part = registry.sub_registry_with_prefix("outbox");
        part.register("deliveries", "Deliveries of messages", metrics.deliveries.clone());
        part.register(
            "waiting",
            "Messages that wait, of all replicas",
            metrics.waiting.clone(),
        );
        part.register(
            "oldest_seconds",
            "How long the oldest of them waits",
            metrics.oldest.clone(),
        );
        Self {
            database,
            outbox,
            deliver,
            metrics,
        }
    }

    /// Delivers, for as long as the process lives. What panics is begun again: nothing waits for ever because of something else.
    pub async fn run(self) {
        let dispatcher = Arc::new(self);
        let counting = Arc::clone(&dispatcher);
        let _counting = AbortOnDropHandle::new(tokio::spawn(async move { counting.keep_count().await }));
        loop {
            let work = Arc::clone(&dispatcher);
            let work = AbortOnDropHandle::new(tokio::spawn(async move { work.work().await }));
            if let Err(error) = work.await {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the delivery of messages ended; it begins again");
            }
            time::sleep(LOOK).await;
        }
    }

    async fn work(&self) {
        let mut under_way = FuturesUnordered::new();
        let mut looks = time::interval(LOOK);
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let room = AT_ONCE.saturating_sub(under_way.len());
            let claimed = self.claim(room).await;
            // As many as were asked for: there may be more.
            let is_full = claimed.len() == room;
            under_way.extend(claimed.into_iter().map(|claimed| self.hand_over(claimed)));
            let has_room = under_way.len() < AT_ONCE;
            if is_full && has_room {
                continue;
            }
            tokio::select! {
                Some(first) = under_way.next() => {
                    let mut ended = vec![first];
                    while let Some(Some(next)) = under_way.next().now_or_never() {
                        ended.push(next);
                    }
                    self.note(ended).await;
                }
                () = self.outbox.news.notified(), if has_room => {}
                _ = looks.tick() => {}
            }
        }
    }

    async fn claim(&self, most: usize) -> Vec<Claimed> {
        let Ok(pool) = self.database.pool() else {
            return Vec::new();
        };
        let claimed = sqlx::query(CLAIM)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .bind(CLAIM_MS)
            .fetch_all(pool)
            .await;
        match claimed {
            Ok(rows) => rows.iter().filter_map(read).collect(),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "failed to look for messages; trying again");
                Vec::new()
            }
        }
    }

    async fn hand_over(&self, claimed: Claimed) -> (Claimed, Result<(), Failure>) {
        let mut headers = http::HeaderMap::new();
        if let Some(value) = claimed.traceparent.as_ref().and_then(|text| text.parse().ok()) {
            headers.insert("traceparent", value);
        }
        let deliver = self.deliver.deliver(&claimed.message);
        let deliver = deliver.with_context(trace::extract(&headers));
        let delivered = time::timeout(DELIVERY, deliver).await.unwrap_or_else(|_| {
            Err(Failure {
                reason: format!("no answer within {DELIVERY:?}"),
                retry_after: None,
            })
        });
        (claimed, delivered)
    }

    /// Notes what came of deliveries. What cannot be noted is delivered again when its claim runs out.
    async fn note(&self, ended: Vec<(Claimed, Result<(), Failure>)>) {
        let mut taken = Vec::with_capacity(ended.len());
        let mut not_taken = Vec::new();
        for (claimed, delivered) in ended {
            let labels = Labels {
                r#type: claimed.message.r#type().to_owned(),
                outcome: if delivered.is_ok() { "taken" } else { "not_taken" },
            };
            self.metrics.deliveries.get_or_create(&labels).inc();
            match delivered {
                Ok(()) => taken.push(claimed.position),
                Err(failure) => not_taken.push((claimed, failure)),
            }
        }
        if let Err(error) = self.write(&taken, &not_taken).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                error,
                "failed to note what came of messages; they are delivered again"
            );
        }
    }

    async fn write(&self, taken: &[i64], not_taken: &[(Claimed, Failure)]) -> Result<(), db::Error> {
        let pool = self.database.pool()?;
        if !taken.is_empty() {
            sqlx::query(TAKEN).bind(taken).execute(pool).await?;
        }
        for (claimed, failure) in not_taken {
            tracing::warn!(
                id = claimed.message.id(),
                r#type = claimed.message.r#type(),
                attempts = claimed.attempts,
                reason = failure.reason,
                "a message was not taken; it is kept, and sent again later"
            );
            let own = pause(claimed.attempts.unsigned_abs(), rand::random());
            let wait = own.max(failure.retry_after.unwrap_or_default());
            let error: String = failure.reason.chars().take(MAX_ERROR).collect();
            sqlx::query(NOT_TAKEN)
                .bind(claimed.position)
                .bind(claimed.attempts)
                .bind(i64::try_from(wait.as_millis()).unwrap_or(CLAIM_MS))
                .bind(error)
                .execute(pool)
                .await?;
        }
        Ok(())
    }

    /// Apart from the deliveries: of many messages it takes its time.
    async fn keep_count(&self) {
        loop {
            self.count().await;
            time::sleep(COUNT).await;
        }
    }

    async fn count(&self) {
        let Ok(pool) = self.database.pool() else { return };
        let Ok(row) = sqlx::query(OLDEST).fetch_one(pool).await else {
            return;
        };
        self.metrics.oldest.set(row.try_get("age").unwrap_or_default());
        self.metrics
            .waiting
            .set(row.try_get("waiting").unwrap_or_default());
    }
}

/// A row that is none was not written by this crate; it is said, and stays.
fn read(row: &PgRow) -> Option<Claimed> {
    let claimed = || -> Result<Claimed, Box<dyn std::error::Error + Send + Sync>> {
        let data = RawValue::from_string(row.try_get("data")?)?;
        Ok(Claimed {
            position: row.try_get("position")?,
            attempts: row.try_get("attempts")?,
            traceparent: row.try_get("traceparent")?,
            message: Message::of(
                row.try_get("id")?,
                row.try_get("type")?,
                row.try_get("subject")?,
                data,
            )?,
        })
    };
    claimed()
        .inspect_err(|error| tracing::error!(error = %error, "a row of the outbox is not readable"))
        .ok()
}
