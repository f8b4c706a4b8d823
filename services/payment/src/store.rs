//! The authorisations and the ledger in PostgreSQL.
//!
//! Who moves money locks first, and always in this order: the barrier's row, the authorisation. So nobody
//! waits in a circle, and what was decided on stays true until the end.

use std::time::Duration;

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::{self, Instant};
use trellis_chassis::db::Database;
use trellis_chassis::problem::Problem;
use trellis_saga_participant::{Answer, Barrier, Branch, RETENTION};

use crate::domain::{self, Amount, Authorisation, AuthorisationId, Entry, Ledger, Movement, Wanted};
use crate::error::Error;

/// Between two looks for what is old.
const CLEANING: Duration = Duration::from_secs(30);

const FIND: &str = "SELECT * FROM authorisations WHERE id = $1";

const INSERT: &str = "
    INSERT INTO authorisations (id, username, amount, status) VALUES ($1, $2, $3, 'Authorised')
    ON CONFLICT DO NOTHING";

const BOOK: &str = "
    INSERT INTO ledger (authorisation_id, movement, account, amount)
    SELECT $1, $2, account, amount FROM unnest($3::text[], $4::bigint[]) AS entry (account, amount)";

/// The authorisations. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

/// The schema, embedded in the binary.
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

impl Store {
    /// Authorisations in `database`.
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

    /// The authorisation of that id.
    pub async fn find(&self, id: &AuthorisationId) -> Result<Option<Authorisation>, Error> {
        let row = sqlx::query(FIND)
            .bind(id.as_str())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(authorisation).transpose()?)
    }

    /// What the books say of an authorisation; nothing if there is none.
    pub async fn ledger(&self, id: &AuthorisationId) -> Result<Ledger, Error> {
        let rows = sqlx::query("SELECT * FROM ledger WHERE authorisation_id = $1 ORDER BY position")
            .bind(id.as_str())
            .fetch_all(self.database.pool()?)
            .await?;
        let items = rows.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Ledger { items })
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

    /// Forgets old calls of sagas. Money is never forgotten.
    pub async fn clean(&self) -> Result<(), Error> {
        Barrier::forget(self.database.pool()?, RETENTION).await?;
        Ok(())
    }
}

/// Stores a new authorisation, and says whether its id was free.
pub async fn insert(connection: &mut PgConnection, wanted: &Wanted) -> Result<bool, Error> {
    let done = sqlx::query(INSERT)
        .bind(wanted.id.as_str())
        .bind(wanted.username.as_str())
        .bind(wanted.amount.minor())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The authorisation of that id, which nobody else changes until the end of the transaction.
pub async fn lock(
    connection: &mut PgConnection,
    id: &AuthorisationId,
) -> Result<Option<Authorisation>, Error> {
    let row = sqlx::query("SELECT * FROM authorisations WHERE id = $1 FOR UPDATE")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(authorisation).transpose()?)
}

/// Notes what has become of a locked authorisation.
pub async fn set_status(connection: &mut PgConnection, authorisation: &Authorisation) -> Result<(), Error> {
    sqlx::query("UPDATE authorisations SET status = $2 WHERE id = $1")
        .bind(authorisation.id.as_str())
        .bind(<&str>::from(authorisation.status))
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds the entries of a movement to the ledger.
pub async fn book(
    connection: &mut PgConnection,
    authorisation: &Authorisation,
    movement: Movement,
) -> Result<(), Error> {
    let (accounts, amounts): (Vec<&str>, Vec<i64>) = domain::entries(movement, authorisation.amount)
        .into_iter()
        .map(|entry| (<&str>::from(entry.account), entry.amount))
        .unzip();
    sqlx::query(BOOK)
        .bind(authorisation.id.as_str())
        .bind(<&str>::from(movement))
        .bind(accounts)
        .bind(amounts)
        .execute(connection)
        .await?;
    Ok(())
}

fn authorisation(row: &PgRow) -> Result<Authorisation, sqlx::Error> {
    Ok(Authorisation {
        id: row.try_get::<String, _>("id")?.parse().map_err(decode)?,
        status: row.try_get::<String, _>("status")?.parse().map_err(decode)?,
        amount: Amount::from_minor(row.try_get("amount")?).ok_or_else(|| decode("amount out of range"))?,
        username: row.try_get::<String, _>("username")?.parse().map_err(decode)?,
    })
}

fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    Ok(Entry {
        movement: row.try_get::<String, _>("movement")?.parse().map_err(decode)?,
        account: row.try_get::<String, _>("account")?.parse().map_err(decode)?,
        amount: row.try_get("amount")?,
    })
}

/// A row that breaks the domain's rules was not written by this service.
fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
