//! The stock in PostgreSQL.
//!
//! Who changes anything locks first, and always in this order: the barrier's row, the reservation, the items
//! by their names. So nobody waits in a circle, and what was read of a locked row stays true until the end.
//!
//! A reservation expires by itself, without a write: what is read leaves it out. Whoever locks items frees
//! what has expired of them, and [`Store::keep_clean`] does the same for those that nobody asks for.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::{self, Instant};
use trellis_chassis::db::Database;
use trellis_chassis::page::PageRequest;
use trellis_chassis::problem::Problem;
use trellis_saga_participant::{Answer, Barrier, Branch, RETENTION};

use crate::domain::{Line, Reservation, ReservationId, Sku, Status, Stock, Wanted};
use crate::error::Error;

/// Between two looks for what is old.
const CLEANING: Duration = Duration::from_secs(30);
/// Rows that are changed or deleted at once for being old: a transaction of some milliseconds.
const BATCH: i64 = 500;

const FIND: &str = "SELECT * FROM reservations_with_lines WHERE id = $1";

const INSERT: &str = "
    INSERT INTO reservations (id, expires_at)
    VALUES ($1, date_trunc('milliseconds', now()) + make_interval(secs => $2))
    ON CONFLICT DO NOTHING
    RETURNING (extract(epoch FROM expires_at) * 1000)::bigint";

/// Not more than a batch: what is left counts as reserved until somebody comes again.
const FREE_EXPIRED: &str = "
    WITH expired AS (
        SELECT reservation_id, sku FROM reservation_lines
        WHERE sku = ANY($1) AND held_until <= now() ORDER BY held_until LIMIT $2
    ), freed AS (
        UPDATE reservation_lines line SET held_until = NULL FROM expired
        WHERE line.reservation_id = expired.reservation_id AND line.sku = expired.sku
        RETURNING line.sku, line.quantity
    )
    UPDATE items SET reserved = reserved - sum.quantity
    FROM (SELECT sku, sum(quantity) AS quantity FROM freed GROUP BY sku) sum
    WHERE items.sku = sum.sku";

const HOLD: &str = "
    WITH held AS (
        INSERT INTO reservation_lines (reservation_id, sku, position, quantity, held_until)
        SELECT id, sku, position, quantity, expires_at
        FROM reservations, unnest($2::text[], $3::int[]) WITH ORDINALITY AS line (sku, quantity, position)
        WHERE id = $1
        RETURNING sku, quantity
    )
    UPDATE items SET reserved = reserved + held.quantity FROM held WHERE items.sku = held.sku";

const RELEASE: &str = "
    WITH released AS (
        UPDATE reservation_lines SET held_until = NULL
        WHERE reservation_id = $1 AND held_until IS NOT NULL
        RETURNING sku, quantity
    )
    UPDATE items SET reserved = reserved - released.quantity FROM released WHERE items.sku = released.sku";

const TAKE: &str = "
    UPDATE items SET on_hand = on_hand - line.quantity
    FROM reservation_lines line WHERE line.reservation_id = $1 AND items.sku = line.sku";

const PUT_BACK: &str = "
    UPDATE items SET on_hand = on_hand + line.quantity
    FROM reservation_lines line WHERE line.reservation_id = $1 AND items.sku = line.sku";

const FIND_EXPIRED: &str = "
    SELECT DISTINCT sku FROM (
        SELECT sku FROM reservation_lines WHERE held_until <= now() ORDER BY held_until LIMIT $1
    ) expired";

/// The array is made once; a subquery might be run again, and delete more. Replicas skip each other's rows.
const DELETE_OLD: &str = "
    DELETE FROM reservations WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM reservations old WHERE expires_at < now() - make_interval(secs => $1)
        AND NOT EXISTS (
            SELECT FROM reservation_lines WHERE reservation_id = old.id AND held_until IS NOT NULL
        )
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))";

/// The stock. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

/// The schema, embedded in the binary.
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

impl Store {
    /// Stock in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Does the work in one transaction, behind the barrier if it is a saga's.
    pub async fn change(
        &self,
        branch: Option<&Branch>,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, Error>,
    ) -> Result<Answer, Problem> {
        let mut transaction = self.database.pool()?.begin().await.map_err(Error::from)?;
        let answer = Barrier::run(&mut transaction, branch, work).await?;
        transaction.commit().await.map_err(Error::from)?;
        Ok(answer)
    }

    /// What there is of one thing.
    pub async fn stock(&self, sku: &Sku) -> Result<Option<Stock>, Error> {
        let row = sqlx::query("SELECT * FROM stock WHERE sku = $1")
            .bind(sku.as_str())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(stock).transpose()?)
    }

    /// What there is of the things after the cursor, one more than the page shows.
    pub async fn list(&self, page: &PageRequest<Sku>) -> Result<Vec<Stock>, Error> {
        let rows = sqlx::query("SELECT * FROM stock WHERE sku > $1 ORDER BY sku LIMIT $2")
            .bind(page.after.as_ref().map_or("", Sku::as_str))
            .bind(page.fetch())
            .fetch_all(self.database.pool()?)
            .await?;
        Ok(rows.iter().map(stock).collect::<Result<_, _>>()?)
    }

    /// The reservation of that id.
    pub async fn reservation(&self, id: &ReservationId) -> Result<Option<Reservation>, Error> {
        let row = sqlx::query(FIND)
            .bind(id.as_str())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(reservation).transpose()?)
    }

    /// Cleans now and then, for as long as the process lives.
    pub async fn keep_clean(self) {
        let mut times = time::interval_at(Instant::now() + CLEANING, CLEANING);
        loop {
            times.tick().await;
            if let Err(error) = self.clean().await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "what is old is not cleaned up yet");
            }
        }
    }

    /// Frees what has expired, deletes reservations that expired long ago, and forgets old calls of sagas.
    pub async fn clean(&self) -> Result<(), Error> {
        let pool = self.database.pool()?;
        loop {
            let skus: Vec<String> = sqlx::query_scalar(FIND_EXPIRED)
                .bind(BATCH)
                .fetch_all(pool)
                .await?;
            if skus.is_empty() {
                break;
            }
            let mut transaction = pool.begin().await?;
            lock(&mut transaction, &skus).await?;
            transaction.commit().await?;
        }
        let mut deleted = BATCH.unsigned_abs();
        while deleted == BATCH.unsigned_abs() {
            let done = sqlx::query(DELETE_OLD)
                .bind(RETENTION.as_secs_f64())
                .bind(BATCH)
                .execute(pool)
                .await?;
            deleted = done.rows_affected();
        }
        Barrier::forget(pool, RETENTION).await?;
        Ok(())
    }
}

/// Makes a reservation that holds nothing yet, and says until when it holds; nothing if the id is taken.
pub async fn insert(
    connection: &mut PgConnection,
    id: &ReservationId,
    ttl: Duration,
) -> Result<Option<Timestamp>, Error> {
    let ms = sqlx::query_scalar(INSERT)
        .bind(id.as_str())
        .bind(ttl.as_secs_f64())
        .fetch_optional(connection)
        .await?;
    Ok(ms.map(timestamp).transpose()?)
}

/// The reservation of that id, which nobody else changes until the end of the transaction.
pub async fn lock_reservation(
    connection: &mut PgConnection,
    id: &ReservationId,
) -> Result<Option<Reservation>, Error> {
    sqlx::query("SELECT FROM reservations WHERE id = $1 FOR UPDATE")
        .bind(id.as_str())
        .execute(&mut *connection)
        .await?;
    // A statement of its own: one that has waited for the lock may see other tables as they were before.
    let row = sqlx::query(FIND)
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(reservation).transpose()?)
}

/// Locks items, and frees what has expired of them.
pub async fn lock(connection: &mut PgConnection, skus: &[String]) -> Result<(), Error> {
    sqlx::query("SELECT FROM items WHERE sku = ANY($1) ORDER BY sku FOR UPDATE")
        .bind(skus)
        .execute(&mut *connection)
        .await?;
    sqlx::query(FREE_EXPIRED)
        .bind(skus)
        .bind(BATCH)
        .execute(connection)
        .await?;
    Ok(())
}

/// What there is of locked items. Unlike the view, it counts as reserved what is not freed yet.
pub async fn stocks(connection: &mut PgConnection, skus: &[String]) -> Result<Vec<Stock>, Error> {
    let rows = sqlx::query("SELECT * FROM items WHERE sku = ANY($1)")
        .bind(skus)
        .fetch_all(connection)
        .await?;
    Ok(rows.iter().map(stock).collect::<Result<_, _>>()?)
}

/// Stores the lines of a new reservation, whose items are locked.
pub async fn hold(connection: &mut PgConnection, wanted: &Wanted) -> Result<(), Error> {
    let (skus, quantities): (Vec<&str>, Vec<i32>) = wanted
        .lines
        .iter()
        .map(|line| (line.sku.as_str(), line.quantity))
        .unzip();
    sqlx::query(HOLD)
        .bind(wanted.id.as_str())
        .bind(skus)
        .bind(quantities)
        .execute(connection)
        .await?;
    Ok(())
}

/// Frees what a reservation still holds; its items are locked.
pub async fn release(connection: &mut PgConnection, id: &ReservationId) -> Result<(), Error> {
    sqlx::query(RELEASE).bind(id.as_str()).execute(connection).await?;
    Ok(())
}

/// Takes what a reservation is about from what is on hand; its items are locked.
pub async fn take(connection: &mut PgConnection, id: &ReservationId) -> Result<(), Error> {
    sqlx::query(TAKE).bind(id.as_str()).execute(connection).await?;
    Ok(())
}

/// Adds what a reservation is about to what is on hand; its items are locked.
pub async fn put_back(connection: &mut PgConnection, id: &ReservationId) -> Result<(), Error> {
    sqlx::query(PUT_BACK)
        .bind(id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes what has become of a locked reservation.
pub async fn set_status(
    connection: &mut PgConnection,
    id: &ReservationId,
    status: Status,
) -> Result<(), Error> {
    sqlx::query("UPDATE reservations SET state = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(<&str>::from(status))
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes the item if it is not there: then nothing is on hand.
pub async fn ensure_item(connection: &mut PgConnection, sku: &Sku) -> Result<(), Error> {
    sqlx::query("INSERT INTO items (sku, on_hand) VALUES ($1, 0) ON CONFLICT DO NOTHING")
        .bind(sku.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Sets how many of a locked item are on hand.
pub async fn set_on_hand(connection: &mut PgConnection, sku: &Sku, on_hand: i64) -> Result<Stock, Error> {
    let row = sqlx::query("UPDATE items SET on_hand = $2 WHERE sku = $1 RETURNING *")
        .bind(sku.as_str())
        .bind(on_hand)
        .fetch_one(connection)
        .await?;
    Ok(stock(&row)?)
}

fn stock(row: &PgRow) -> Result<Stock, sqlx::Error> {
    Ok(Stock::new(
        row.try_get::<String, _>("sku")?.parse().map_err(decode)?,
        row.try_get("on_hand")?,
        row.try_get("reserved")?,
    ))
}

fn reservation(row: &PgRow) -> Result<Reservation, sqlx::Error> {
    let skus: Vec<String> = row.try_get("skus")?;
    let quantities: Vec<i32> = row.try_get("quantities")?;
    let line = |(sku, quantity): (String, i32)| {
        Ok(Line {
            sku: sku.parse().map_err(decode)?,
            quantity,
        })
    };
    Ok(Reservation::new(
        row.try_get::<String, _>("id")?.parse().map_err(decode)?,
        row.try_get::<String, _>("status")?.parse().map_err(decode)?,
        skus.into_iter()
            .zip(quantities)
            .map(line)
            .collect::<Result<_, sqlx::Error>>()?,
        timestamp(row.try_get("expires_at_ms")?)?,
    ))
}

fn timestamp(ms: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_millisecond(ms).map_err(decode)
}

/// A row that breaks the domain's rules was not written by this service.
fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
