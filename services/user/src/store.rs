//! The users in PostgreSQL.
//!
//! One statement for each operation, so each is a transaction of its own.

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use trellis_chassis::db::Database;
use trellis_chassis::page::PageRequest;

use crate::domain::{User, Username};
use crate::error::Error;

/// The users. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

/// The schema, embedded in the binary.
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

impl Store {
    /// Users in `database`.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The user of that name.
    pub async fn find(&self, username: &Username) -> Result<Option<User>, Error> {
        let row = sqlx::query("SELECT username, email FROM users WHERE username = $1")
            .bind(username.as_str())
            .fetch_optional(self.database.pool()?)
            .await?;
        Ok(row.as_ref().map(user).transpose()?)
    }

    /// Stores the user unless the name is taken; then returns the user that has it.
    pub async fn insert(&self, user: &User) -> Result<Option<User>, Error> {
        let done = sqlx::query("INSERT INTO users (username, email) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(user.username.as_str())
            .bind(user.email.as_ref().map(|email| email.as_str()))
            .execute(self.database.pool()?)
            .await?;
        if done.rows_affected() == 1 {
            return Ok(None);
        }
        // Users are never deleted, so the one in the way is still there.
        self.find(&user.username).await
    }

    /// The users after the cursor, in the order of their names, one more than the page shows.
    pub async fn list(&self, page: &PageRequest<Username>) -> Result<Vec<User>, Error> {
        let after = page.after.as_ref().map_or("", |username| username.as_str());
        let rows =
            sqlx::query("SELECT username, email FROM users WHERE username > $1 ORDER BY username LIMIT $2")
                .bind(after)
                .bind(page.fetch())
                .fetch_all(self.database.pool()?)
                .await?;
        Ok(rows.iter().map(user).collect::<Result<_, _>>()?)
    }
}

fn user(row: &PgRow) -> Result<User, sqlx::Error> {
    let email: Option<String> = row.try_get("email")?;
    Ok(User {
        username: row.try_get::<String, _>("username")?.parse().map_err(decode)?,
        email: email.map(|email| email.parse()).transpose().map_err(decode)?,
    })
}

/// A row that breaks the domain's rules was not written by this service.
fn decode(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
