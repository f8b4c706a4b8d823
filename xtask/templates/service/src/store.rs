//! The items in PostgreSQL.
//!
//! Who changes anything locks first, and always in this order: the barrier's row, the item. So nobody waits in
//! a circle, and what was decided on stays true until the end.

use std::time::Duration;

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::{self, Instant};
use trellis_chassis::db::Database;
use trellis_chassis::page::PageRequest;
use trellis_chassis::problem::Problem;
use trellis_saga_participant::{Answer, Barrier, Branch, RETENTION};

use crate::domain::{Item, ItemId, Quantity};
use crate::error::Error;

/// Between two looks for what is old.
const CLEANING: Duration = Duration::from_secs(30);

/// The items. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

/// The schema, embedded in the binary.
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

impl Store {
    /// Items in `database`.
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

    /// The item of that id.
    pub async fn find(&self, id: &ItemId) -> Result<Option<Item>, Error> {
        let row = sqlx::query("SELECT * FROM items WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(item).transpose()?)
    }

    /// The items after the cursor, in the order of their ids, one more than the page shows.
    pub async fn list(&self, page: &PageRequest<ItemId>) -> Result<Vec<Item>, Error> {
        let rows = sqlx::query("SELECT * FROM items WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(page.after.as_ref().map_or("", ItemId::as_str))
            .bind(page.fetch())
            .fetch_all(self.database.pool()?)
            .await?;
        Ok(rows.iter().map(item).collect::<Result<_, _>>()?)
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

    /// Forgets old calls of sagas.
    pub async fn clean(&self) -> Result<(), Error> {
        Barrier::forget(self.database.pool()?, RETENTION).await?;
        Ok(())
    }
}

/// Stores a new item, and says whether its id was free.
pub async fn insert(connection: &mut PgConnection, item: &Item) -> Result<bool, Error> {
    let done = sqlx::query("INSERT INTO items (id, quantity) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(item.id.as_str())
        .bind(item.quantity.get())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The item of that id, which nobody else changes until the end of the transaction.
pub async fn lock(connection: &mut PgConnection, id: &ItemId) -> Result<Option<Item>, Error> {
    let row = sqlx::query("SELECT * FROM items WHERE id = $1 FOR UPDATE")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(item).transpose()?)
}

/// Deletes the item of that id, if there is one.
pub async fn delete(connection: &mut PgConnection, id: &ItemId) -> Result<(), Error> {
    sqlx::query("DELETE FROM items WHERE id = $1")
        .bind(id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

fn item(row: &PgRow) -> Result<Item, sqlx::Error> {
    let quantity: i32 = row.try_get("quantity")?;
    Ok(Item {
        id: row.try_get::<String, _>("id")?.parse().map_err(decode)?,
        quantity: Quantity::try_from(i64::from(quantity)).map_err(decode)?,
    })
}

/// A row that breaks the domain's rules was not written by this service.
fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
