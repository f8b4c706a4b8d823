//! The barrier against a real PostgreSQL: each call once, in whatever order and company its requests come.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::Request;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::task::JoinHandle;
use trellis_chassis::db;
use trellis_chassis::problem::{Kind, Problem};
use trellis_saga_participant::{Answer, Barrier, Branch, Op, SCHEMA};
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::wait;

/// A participant that gives out tickets, as long as there are some.
#[derive(Clone)]
struct Participant {
    pool: PgPool,
}

/// What the work meets.
#[derive(Clone, Copy, PartialEq)]
enum Weather {
    Good,
    /// Something is away, after half of the work.
    Ill,
    /// The rules are against it, after half of the work.
    Bad,
}

impl Participant {
    async fn with_tickets(tickets: i32) -> (Self, TestDatabase) {
        let database = TestDatabase::create().await;
        let read = |key| fs::read_to_string(database.binding_root().join("db").join(key)).unwrap();
        let options = PgConnectOptions::new_without_pgpass()
            .host(&read("host"))
            .port(read("port").parse().unwrap())
            .database(&read("database"))
            .username(&read("username"))
            .password(&read("password"));
        let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(&pool).await.unwrap();
        sqlx::raw_sql("CREATE TABLE tickets (number INTEGER)")
            .execute(&pool)
            .await
            .unwrap();
        let participant = Self { pool };
        participant.print(tickets).await;
        (participant, database)
    }

    async fn print(&self, tickets: i32) {
        sqlx::query("INSERT INTO tickets SELECT generate_series(1, $1)")
            .bind(tickets)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// One request, from its transaction's begin to its commit.
    async fn request(&self, branch: &Branch, weather: Weather) -> Result<Answer, Problem> {
        let mut transaction = self.pool.begin().await.unwrap();
        let answer = Barrier::run(&mut transaction, Some(branch), async |connection| {
            work(connection, branch, weather).await
        })
        .await?;
        transaction.commit().await.unwrap();
        Ok(answer)
    }

    async fn ask(&self, branch: &Branch) -> Answer {
        self.request(branch, Weather::Good).await.unwrap()
    }

    fn ask_beside(&self, branch: &Branch) -> JoinHandle<Answer> {
        let (participant, branch) = (self.clone(), branch.clone());
        tokio::spawn(async move { participant.ask(&branch).await })
    }

    async fn tickets(&self) -> i64 {
        self.count("SELECT count(*) FROM tickets").await
    }

    async fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM saga_barrier").await
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn until_somebody_waits(&self) {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        wait::until("a request waits for the other", async || {
            self.count(waiting).await == 1
        })
        .await;
    }
}

/// Takes a ticket, or gives one back.
async fn work(connection: &mut PgConnection, branch: &Branch, weather: Weather) -> Result<Answer, Problem> {
    let sql = if is_compensation(branch) {
        "INSERT INTO tickets VALUES (0)"
    } else {
        "DELETE FROM tickets WHERE ctid = (SELECT ctid FROM tickets LIMIT 1)"
    };
    let done = sqlx::query(sql)
        .execute(connection)
        .await
        .map_err(db::Error::from)?;
    if weather == Weather::Ill {
        return Err(Problem::unavailable("the printer is away", Duration::ZERO));
    }
    if weather == Weather::Bad || done.rows_affected() == 0 {
        return Err(Problem::new(Kind::Conflict).detail("no ticket is left"));
    }
    let attempt = json!({ "attempt": branch.attempt() });
    Ok(Answer::created(&attempt).map_err(db::Error::from)?)
}

fn is_compensation(branch: &Branch) -> bool {
    branch.op() == Op::Compensation
}

async fn branch(op: &str, incarnation: &str, attempt: &str) -> Branch {
    let request = Request::post("/")
        .header("idempotency-key", "r1-buy")
        .header("trellis-saga-run", "r1")
        .header("trellis-saga-step", "buy")
        .header("trellis-saga-index", "0")
        .header("trellis-saga-op", op)
        .header("trellis-saga-incarnation", incarnation)
        .header("trellis-saga-attempt", attempt)
        .header("trellis-saga-epoch", "1");
    let mut parts = request.body(()).unwrap().into_parts().0;
    Branch::from_request_parts(&mut parts, &()).await.unwrap()
}

async fn action() -> Branch {
    branch("action", "0", "1").await
}

async fn compensation() -> Branch {
    branch("compensation", "0", "1").await
}

#[tokio::test]
async fn an_action_that_comes_twice_has_one_effect_and_one_answer() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let first = participant.ask(&action().await).await;
    assert_eq!(
        (first.status().as_u16(), first.body()),
        (201, &br#"{"attempt":1}"#[..])
    );
    let again = participant.ask(&branch("action", "0", "2").await).await;
    assert_eq!((again, participant.tickets().await), (first, 4));
}

#[tokio::test]
async fn a_refused_action_is_refused_again_also_if_it_could_be_done_by_now() {
    let (participant, _database) = Participant::with_tickets(0).await;
    let first = participant.ask(&action().await).await;
    assert_eq!(first.status().as_u16(), 409);
    assert!(String::from_utf8_lossy(first.body()).contains("no ticket is left"));
    participant.print(1).await;
    let again = participant.ask(&action().await).await;
    assert_eq!((again, participant.tickets().await), (first, 1));
}

#[tokio::test]
async fn a_refusal_undoes_what_was_done_until_then() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let refused = participant.request(&action().await, Weather::Bad).await;
    assert_eq!(refused.unwrap().status().as_u16(), 409);
    assert_eq!((participant.tickets().await, participant.rows().await), (5, 1));
}

#[tokio::test]
async fn a_refused_action_has_nothing_to_take_back() {
    let (participant, _database) = Participant::with_tickets(0).await;
    participant.ask(&action().await).await;
    let compensated = participant.ask(&compensation().await).await;
    assert_eq!(
        (compensated.status().as_u16(), participant.tickets().await),
        (204, 0)
    );
}

#[tokio::test]
async fn a_compensation_that_comes_first_does_nothing_and_the_action_is_refused_after_it() {
    let (participant, _database) = Participant::with_tickets(5).await;
    for _ in 0..2 {
        let compensated = participant.ask(&compensation().await).await;
        assert_eq!(
            (compensated.status().as_u16(), participant.tickets().await),
            (204, 5)
        );
    }
    for _ in 0..2 {
        let late = participant.ask(&action().await).await;
        assert_eq!((late.status().as_u16(), participant.tickets().await), (409, 5));
        assert!(String::from_utf8_lossy(late.body()).contains("was compensated before"));
    }
}

#[tokio::test]
async fn an_action_that_was_done_is_taken_back_once() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let done = participant.ask(&action().await).await;
    let first = participant.ask(&compensation().await).await;
    assert_eq!((first.status().as_u16(), participant.tickets().await), (201, 5));
    let again = participant.ask(&branch("compensation", "0", "2").await).await;
    assert_eq!((again, participant.tickets().await), (first, 5));
    let late = participant.ask(&action().await).await;
    assert_eq!(
        (late, participant.tickets().await),
        (done, 5),
        "it is only told of"
    );
}

#[tokio::test]
async fn a_compensation_that_fails_is_tried_again() {
    let (participant, _database) = Participant::with_tickets(5).await;
    participant.ask(&action().await).await;
    let ill = participant.request(&compensation().await, Weather::Ill).await;
    assert_eq!(ill.unwrap_err().status().as_u16(), 503);
    assert_eq!(participant.tickets().await, 4);
    let again = participant.ask(&compensation().await).await;
    assert_eq!((again.status().as_u16(), participant.tickets().await), (201, 5));
}

#[tokio::test]
async fn a_refusal_of_a_compensation_is_not_stored_and_undoes_what_was_done_until_then() {
    let (participant, _database) = Participant::with_tickets(5).await;
    participant.ask(&action().await).await;
    let (compensation, mut transaction) = (compensation().await, participant.pool.begin().await.unwrap());
    let refused = Barrier::run(&mut transaction, Some(&compensation), async |connection| {
        work(connection, &compensation, Weather::Bad).await
    });
    assert_eq!(refused.await.unwrap_err().status().as_u16(), 409);
    transaction.commit().await.unwrap();
    assert_eq!(participant.tickets().await, 4);
    let again = participant.ask(&compensation).await;
    assert_eq!((again.status().as_u16(), participant.tickets().await), (201, 5));
}

#[tokio::test]
async fn an_error_that_may_pass_leaves_nothing_behind() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let ill = participant.request(&action().await, Weather::Ill).await;
    assert_eq!(ill.unwrap_err().status().as_u16(), 503);
    assert_eq!((participant.tickets().await, participant.rows().await), (5, 0));
    let again = participant.ask(&action().await).await;
    assert_eq!((again.status().as_u16(), participant.tickets().await), (201, 4));
}

#[tokio::test]
async fn an_error_that_is_committed_by_mistake_leaves_nothing_behind_either() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let action = action().await;
    let mut transaction = participant.pool.begin().await.unwrap();
    let failed = Barrier::action(&mut transaction, &action, async |connection| {
        work(connection, &action, Weather::Good).await?;
        // After this, PostgreSQL takes nothing but the way back to the savepoint.
        sqlx::query("SELECT 1 / 0")
            .execute(connection)
            .await
            .map_err(db::Error::from)?;
        Ok::<_, Problem>(Answer::no_content())
    });
    assert_eq!(failed.await.unwrap_err().status().as_u16(), 500);
    transaction.commit().await.unwrap();
    assert_eq!((participant.tickets().await, participant.rows().await), (5, 0));
}

#[tokio::test]
async fn another_incarnation_is_another_request() {
    let (participant, _database) = Participant::with_tickets(0).await;
    participant.ask(&action().await).await;
    participant.print(1).await;
    let anew = participant.ask(&branch("action", "1", "1").await).await;
    assert_eq!((anew.status().as_u16(), participant.tickets().await), (201, 0));
}

#[tokio::test]
async fn of_two_copies_at_once_one_works_and_both_get_its_answer() {
    let (participant, _database) = Participant::with_tickets(5).await;
    for op in ["action", "compensation"] {
        let (branch, before) = (branch(op, "0", "1").await, participant.tickets().await);
        let mut transaction = participant.pool.begin().await.unwrap();
        let first = Barrier::run(&mut transaction, Some(&branch), async |connection| {
            work(connection, &branch, Weather::Good).await
        })
        .await
        .unwrap();
        let second = participant.ask_beside(&branch);
        participant.until_somebody_waits().await;
        transaction.commit().await.unwrap();
        assert_eq!((second.await.unwrap(), first.status().as_u16()), (first, 201));
        assert_eq!((participant.tickets().await - before).abs(), 1, "{op}");
    }
}

#[tokio::test]
async fn a_copy_takes_the_place_of_one_that_was_rolled_back() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let action = action().await;
    let mut transaction = participant.pool.begin().await.unwrap();
    Barrier::run(&mut transaction, Some(&action), async |connection| {
        work(connection, &action, Weather::Good).await
    })
    .await
    .unwrap();
    let second = participant.ask_beside(&action);
    participant.until_somebody_waits().await;
    transaction.rollback().await.unwrap();
    assert_eq!(second.await.unwrap().status().as_u16(), 201);
    assert_eq!(participant.tickets().await, 4);
}

#[tokio::test]
async fn a_compensation_waits_for_the_action_that_is_under_way_and_takes_it_back() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let action = action().await;
    let mut transaction = participant.pool.begin().await.unwrap();
    Barrier::run(&mut transaction, Some(&action), async |connection| {
        work(connection, &action, Weather::Good).await
    })
    .await
    .unwrap();
    let compensated = participant.ask_beside(&compensation().await);
    participant.until_somebody_waits().await;
    transaction.commit().await.unwrap();
    assert_eq!(compensated.await.unwrap().status().as_u16(), 201);
    assert_eq!(participant.tickets().await, 5);
}

#[tokio::test]
async fn an_action_waits_for_the_compensation_that_is_under_way_and_is_refused() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let compensation = compensation().await;
    let mut transaction = participant.pool.begin().await.unwrap();
    Barrier::run(&mut transaction, Some(&compensation), async |connection| {
        work(connection, &compensation, Weather::Good).await
    })
    .await
    .unwrap();
    let late = participant.ask_beside(&action().await);
    participant.until_somebody_waits().await;
    transaction.commit().await.unwrap();
    assert_eq!(late.await.unwrap().status().as_u16(), 409);
    assert_eq!(participant.tickets().await, 5);
}

#[tokio::test]
async fn of_many_requests_at_once_at_most_one_action_stays() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let asked: Vec<_> = {
        let (action, compensation) = (action().await, compensation().await);
        (0..10)
            .flat_map(|_| {
                [
                    participant.ask_beside(&action),
                    participant.ask_beside(&compensation),
                ]
            })
            .collect()
    };
    for answer in asked {
        answer.await.unwrap();
    }
    assert_eq!(participant.tickets().await, 5, "done and taken back, or neither");
}

#[tokio::test]
async fn a_request_that_comes_from_no_saga_is_done_each_time() {
    let (participant, _database) = Participant::with_tickets(5).await;
    let action = action().await;
    for left in [4, 3] {
        let mut transaction = participant.pool.begin().await.unwrap();
        Barrier::run(&mut transaction, None, async |connection| {
            work(connection, &action, Weather::Good).await
        })
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!((participant.tickets().await, participant.rows().await), (left, 0));
    }
}

#[tokio::test]
async fn what_is_old_is_forgotten_and_the_rest_is_not() {
    let (participant, _database) = Participant::with_tickets(5).await;
    participant.ask(&action().await).await;
    sqlx::query(
        "INSERT INTO saga_barrier (run, step, item, incarnation, op, created_at)
         SELECT 'old', 'buy', item, 0, 'action', now() - interval '2 days' FROM generate_series(1, 1234) AS item",
    )
    .execute(&participant.pool)
    .await
    .unwrap();
    let day = Duration::from_hours(24);
    assert_eq!(Barrier::forget(&participant.pool, day).await.unwrap(), 1234);
    assert_eq!(Barrier::forget(&participant.pool, day).await.unwrap(), 0);
    assert_eq!(participant.rows().await, 1);
}
