//! The orders in PostgreSQL.
//!
//! An order, its lines and the start of its saga are written in one transaction, and read in one statement, so
//! that nobody sees an order without its lines, and none is left without its saga.

use std::time::Duration;

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::{self, Instant};
use trellis_chassis::db::Database;
use trellis_chassis::page::PageRequest;
use trellis_chassis::problem::Problem;
use trellis_messaging::{Outbox, SagaStart};
use trellis_saga_participant::{Answer, Barrier, Branch, RETENTION};

use crate::domain::{Amount, Line, Order, OrderId, Status, Stored, Username};
use crate::error::Error;

/// The saga of a new order.
const PLACE: &str = "place-order";
/// The saga that takes an order back.
const CANCEL: &str = "cancel-order";
/// Between two looks for what is old.
const CLEANING: Duration = Duration::from_secs(30);

/// Two made ids collide once in some thousands; four in a row mean that something else is wrong.
const TRIES: u32 = 4;

const FIND: &str = "SELECT * FROM orders_with_lines WHERE order_id = $1";

const LIST: &str = "
    SELECT * FROM orders_with_lines
    WHERE order_id > $1 AND ($2::text IS NULL OR username = $2)
    ORDER BY order_id LIMIT $3";

const INSERT: &str = "
    INSERT INTO orders (order_id, username, amount, status) VALUES ($1, $2, $3, 'Pending') ON CONFLICT DO NOTHING";

/// The orders. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    outbox: Outbox,
}

/// The schema, embedded in the binary.
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

impl Store {
    /// Orders in `database`, whose sagas are started by `outbox`.
    pub fn new(database: Database, outbox: Outbox) -> Self {
        Self { database, outbox }
    }

    /// The order of that id.
    pub async fn find(&self, order_id: OrderId) -> Result<Option<Stored>, Error> {
        let row = sqlx::query(FIND)
            .bind(order_id.get())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(stored).transpose()?)
    }

    /// Stores the order and begins to place it, unless the id is taken; then returns the order that has it.
    pub async fn insert(&self, order: &Order) -> Result<Option<Stored>, Error> {
        let mut transaction = self.database.pool()?.begin().await?;
        let done = sqlx::query(INSERT)
            .bind(order.order_id.get())
            .bind(order.username.as_str())
            .bind(order.amount.minor())
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() == 0 {
            transaction.rollback().await?;
            // Orders are never deleted, so the one in the way is still there.
            return self.find(order.order_id).await;
        }
        let (skus, quantities): (Vec<&str>, Vec<i32>) = order
            .lines
            .iter()
            .map(|line| (line.sku.as_str(), line.quantity))
            .unzip();
        sqlx::query(
            "INSERT INTO order_lines (order_id, position, sku, quantity)
             SELECT $1, position, sku, quantity
             FROM unnest($2::text[], $3::int[]) WITH ORDINALITY AS line (sku, quantity, position)",
        )
        .bind(order.order_id.get())
        .bind(skus)
        .bind(quantities)
        .execute(&mut *transaction)
        .await?;
        self.begin(&mut transaction, PLACE, order).await?;
        transaction.commit().await?;
        self.outbox.wake();
        Ok(None)
    }

    /// Begins to cancel an order, if `decide` is for it; returns it.
    pub async fn cancel(
        &self,
        order_id: OrderId,
        decide: impl FnOnce(&Stored) -> Result<bool, Error>,
    ) -> Result<Option<Stored>, Error> {
        let mut transaction = self.database.pool()?.begin().await?;
        let Some(stored) = lock(&mut transaction, order_id).await? else {
            return Ok(None);
        };
        if decide(&stored)? {
            self.begin(&mut transaction, CANCEL, &stored.order).await?;
            transaction.commit().await?;
            self.outbox.wake();
        }
        Ok(Some(stored))
    }

    /// One order has one run of each saga, however often it is begun.
    async fn begin(&self, connection: &mut PgConnection, saga: &str, order: &Order) -> Result<(), Error> {
        let start = SagaStart {
            saga,
            key: &order.order_id.to_string(),
            input: &order.saga_input(),
        };
        self.outbox.put(connection, &start.message()?).await?;
        Ok(())
    }

    /// Does a step of a saga in one transaction, behind the barrier.
    pub async fn change(
        &self,
        branch: &Branch,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, Error>,
    ) -> Result<Answer, Problem> {
        let mut transaction = self.database.pool()?.begin().await.map_err(Error::from)?;
        let answer = Barrier::run(&mut transaction, Some(branch), work).await?;
        transaction.commit().await.map_err(Error::from)?;
        Ok(answer)
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

    /// Forgets old calls of sagas. Orders are never forgotten.
    async fn clean(&self) -> Result<(), Error> {
        Barrier::forget(self.database.pool()?, RETENTION).await?;
        Ok(())
    }

    /// Stores an order whose id was made here and may be taken by chance; then another one is made.
    pub async fn insert_under_free_id(
        &self,
        mut order: Order,
        mut make_id: impl FnMut() -> OrderId,
    ) -> Result<Order, Error> {
        for _ in 0..TRIES {
            if self.insert(&order).await?.is_none() {
                return Ok(order);
            }
            order.order_id = make_id();
        }
        Err(Error::Taken(order.order_id))
    }

    /// The orders after the cursor, of one user or of all, one more than the page shows.
    pub async fn list(
        &self,
        page: &PageRequest<OrderId>,
        username: Option<&Username>,
    ) -> Result<Vec<Stored>, Error> {
        let rows = sqlx::query(LIST)
            .bind(page.after.map_or(0, OrderId::get))
            .bind(username.map(Username::as_str))
            .bind(page.fetch())
            .fetch_all(self.database.pool()?)
            .await?;
        Ok(rows.iter().map(stored).collect::<Result<_, _>>()?)
    }
}

/// The order of that id, which nobody else moves until the end of the transaction.
pub async fn lock(connection: &mut PgConnection, order_id: OrderId) -> Result<Option<Stored>, Error> {
    // The view itself cannot be locked, and what it shows besides never changes.
    sqlx::query("SELECT FROM orders WHERE order_id = $1 FOR UPDATE")
        .bind(order_id.get())
        .execute(&mut *connection)
        .await?;
    let row = sqlx::query(FIND)
        .bind(order_id.get())
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(stored).transpose()?)
}

/// Notes what has become of a locked order.
pub async fn set_status(
    connection: &mut PgConnection,
    order_id: OrderId,
    status: Status,
) -> Result<(), Error> {
    sqlx::query("UPDATE orders SET status = $2 WHERE order_id = $1")
        .bind(order_id.get())
        .bind(<&str>::from(status))
        .execute(connection)
        .await?;
    Ok(())
}

fn stored(row: &PgRow) -> Result<Stored, sqlx::Error> {
    let skus: Vec<String> = row.try_get("skus")?;
    let quantities: Vec<i32> = row.try_get("quantities")?;
    let line = |(sku, quantity): (String, i32)| {
        Ok(Line {
            sku: sku.parse().map_err(decode)?,
            quantity,
        })
    };
    let order = Order {
        order_id: row.try_get::<i64, _>("order_id")?.try_into().map_err(decode)?,
        username: row.try_get::<String, _>("username")?.parse().map_err(decode)?,
        amount: Amount::from_minor(row.try_get("amount")?).ok_or_else(|| decode("amount out of range"))?,
        lines: skus
            .into_iter()
            .zip(quantities)
            .map(line)
            .collect::<Result<_, sqlx::Error>>()?,
    };
    let status = row.try_get::<String, _>("status")?.parse().map_err(decode)?;
    Ok(Stored { order, status })
}

/// A row that breaks the domain's rules was not written by this service.
fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

#[cfg(test)]
mod tests {
    use trellis_chassis::config::{self, Environment};
    use trellis_chassis::db::Binding;
    use trellis_chassis::readiness::Readiness;
    use trellis_testkit::postgres::TestDatabase;
    use trellis_testkit::wait;

    use super::*;

    fn order(id: i64) -> Order {
        Order {
            order_id: id.try_into().unwrap(),
            username: "ada".parse().unwrap(),
            amount: Amount::from_minor(1999).unwrap(),
            lines: vec![Line {
                sku: "tea".parse().unwrap(),
                quantity: 2,
            }],
        }
    }

    #[tokio::test]
    async fn a_made_id_that_is_taken_is_replaced_and_the_other_order_stays() {
        let (database, readiness) = (TestDatabase::create().await, Readiness::new());
        let root = database.binding_root().display().to_string();
        let env = Environment::from_pairs([("SERVICE_BINDING_ROOT", root)]);
        let binding = config::load(env, |env| Binding::read(env, "db")).unwrap();
        let database_of_store = Database::open(binding, migrations(), readiness.task("database"));
        let store = Store::new(database_of_store, Outbox::default());
        wait::until("the store is ready", async || readiness.is_ready()).await;

        let taken = Order {
            lines: vec![],
            ..order(7)
        };
        assert_eq!(store.insert(&taken).await.unwrap(), None);
        let mut ids = [7, 8].map(|id| OrderId::try_from(id).unwrap()).into_iter();
        let stored = store
            .insert_under_free_id(order(7), || ids.next().unwrap())
            .await
            .unwrap();
        assert_eq!(stored, order(8));
        assert_eq!(
            store.find(stored.order_id).await.unwrap(),
            Some(order(8).pending())
        );
        assert_eq!(
            store.find(taken.order_id).await.unwrap(),
            Some(taken.clone().pending())
        );

        let always = store.insert_under_free_id(order(7), || taken.order_id).await;
        assert!(matches!(always, Err(Error::Taken(id)) if id == taken.order_id));
    }
}
