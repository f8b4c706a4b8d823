//! The orders in PostgreSQL.
//!
//! An order and its lines are written in one transaction and read in one statement, so that nobody sees an
//! order without its lines.

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use trellis_chassis::db::Database;
use trellis_chassis::page::PageRequest;

use crate::domain::{Amount, Line, Order, OrderId, Username};
use crate::error::Error;

/// Two made ids collide once in some thousands; four in a row mean that something else is wrong.
const TRIES: u32 = 4;

const FIND: &str = "SELECT * FROM orders_with_lines WHERE order_id = $1";

const LIST: &str = "
    SELECT * FROM orders_with_lines
    WHERE order_id > $1 AND ($2::text IS NULL OR username = $2)
    ORDER BY order_id LIMIT $3";

/// The orders. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

/// The schema, embedded in the binary.
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

impl Store {
    /// Orders in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The order of that id.
    pub async fn find(&self, order_id: OrderId) -> Result<Option<Order>, Error> {
        let row = sqlx::query(FIND)
            .bind(order_id.get())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(order).transpose()?)
    }

    /// Stores the order unless the id is taken; then returns the order that has it.
    pub async fn insert(&self, order: &Order) -> Result<Option<Order>, Error> {
        let mut transaction = self.database.pool()?.begin().await?;
        let done = sqlx::query(
            "INSERT INTO orders (order_id, username, amount) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
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
        transaction.commit().await?;
        Ok(None)
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
    ) -> Result<Vec<Order>, Error> {
        let rows = sqlx::query(LIST)
            .bind(page.after.map_or(0, OrderId::get))
            .bind(username.map(Username::as_str))
            .bind(page.fetch())
            .fetch_all(self.database.pool()?)
            .await?;
        Ok(rows.iter().map(order).collect::<Result<_, _>>()?)
    }
}

fn order(row: &PgRow) -> Result<Order, sqlx::Error> {
    let skus: Vec<String> = row.try_get("skus")?;
    let quantities: Vec<i32> = row.try_get("quantities")?;
    let line = |(sku, quantity): (String, i32)| {
        Ok(Line {
            sku: sku.parse().map_err(decode)?,
            quantity,
        })
    };
    Ok(Order {
        order_id: row.try_get::<i64, _>("order_id")?.try_into().map_err(decode)?,
        username: row.try_get::<String, _>("username")?.parse().map_err(decode)?,
        amount: Amount::from_minor(row.try_get("amount")?).ok_or_else(|| decode("amount out of range"))?,
        lines: skus
            .into_iter()
            .zip(quantities)
            .map(line)
            .collect::<Result<_, sqlx::Error>>()?,
    })
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
        let store = Store::new(Database::open(binding, migrations(), readiness.task("database")));
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
        assert_eq!(store.find(stored.order_id).await.unwrap(), Some(order(8)));
        assert_eq!(store.find(taken.order_id).await.unwrap(), Some(taken.clone()));

        let always = store.insert_under_free_id(order(7), || taken.order_id).await;
        assert!(matches!(always, Err(Error::Taken(id)) if id == taken.order_id));
    }
}
