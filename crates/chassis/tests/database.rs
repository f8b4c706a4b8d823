//! The database of a service against a real PostgreSQL: late, away, back, with another password.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, missing_docs)]

use sqlx::migrate::Migrator;
use trellis_chassis::config::{self, Environment};
use trellis_chassis::db::{Binding, Database, Error};
use trellis_chassis::readiness::Readiness;
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::wait;

fn migrations() -> Migrator {
    sqlx::migrate!("tests/migrations")
}

fn binding(database: &TestDatabase) -> Binding {
    let env = Environment::from_pairs([(
        "SERVICE_BINDING_ROOT",
        database.binding_root().display().to_string(),
    )]);
    config::load(env, |env| Binding::read(env, "db")).unwrap()
}

fn open(database: &TestDatabase, readiness: &Readiness) -> Database {
    Database::open(binding(database), migrations(), readiness.task("database"))
}

async fn count(database: &Database) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(database.pool()?)
        .await?)
}

#[tokio::test]
async fn a_service_waits_for_a_database_that_appears_later() {
    let (late, readiness) = (TestDatabase::reserve().await, Readiness::new());
    let database = open(&late, &readiness);
    assert!(matches!(count(&database).await, Err(Error::NotReached)));
    assert_eq!(readiness.pending(), ["database"]);
    late.appear().await;
    wait::until("the database is ready", async || readiness.is_ready()).await;
    assert_eq!(count(&database).await.unwrap(), 0);
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once() {
    let (shared, readiness) = (TestDatabase::create().await, Readiness::new());
    let replicas = [0; 4].map(|_| open(&shared, &readiness));
    wait::until("every replica is ready", async || readiness.is_ready()).await;
    for replica in &replicas {
        assert_eq!(count(replica).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_outage_is_unavailable_and_passes_while_the_service_stays_ready() {
    let (fragile, readiness) = (TestDatabase::create().await, Readiness::new());
    let database = open(&fragile, &readiness);
    wait::until("the database is ready", async || readiness.is_ready()).await;
    count(&database).await.unwrap();
    fragile.go_away().await;
    assert!(matches!(count(&database).await, Err(Error::Unavailable(_))));
    assert!(readiness.is_ready());
    fragile.come_back().await;
    wait::until("queries work again", async || count(&database).await.is_ok()).await;
}

#[tokio::test]
async fn a_rotated_password_is_picked_up_without_a_restart() {
    let (rotated, readiness) = (TestDatabase::create().await, Readiness::new());
    let database = open(&rotated, &readiness);
    wait::until("the database is ready", async || readiness.is_ready()).await;
    rotated
        .administer(&format!(
            "ALTER ROLE {} PASSWORD 'second-password'",
            rotated.name()
        ))
        .await;
    rotated.go_away().await;
    rotated.come_back().await;
    assert!(matches!(count(&database).await, Err(Error::Unavailable(_))));
    rotated.write("password", "second-password\n");
    wait::until("the new password is in use", async || {
        count(&database).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cut_off_as_unavailable() {
    let (slow, readiness) = (TestDatabase::create().await, Readiness::new());
    let database = open(&slow, &readiness);
    wait::until("the database is ready", async || readiness.is_ready()).await;
    let slept = sqlx::query("SELECT pg_sleep(60)")
        .execute(database.pool().unwrap())
        .await;
    assert!(matches!(Error::from(slept.unwrap_err()), Error::Unavailable(_)));
}
