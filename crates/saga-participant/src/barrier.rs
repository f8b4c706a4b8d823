//! The barrier: a row for each call that was seen, in the transaction of its effect.
//!
//! ```text
//! action        own row is new      -> work: done           store its answer
//!                                            refused        undo the work, store the refusal
//!                                            may pass       undo everything
//!               own row is there    -> the stored answer, or 409 if it is fenced off
//! compensation  own row is there    -> the stored answer
//!               action's row is new -> it stays, as a fence; 204
//!               action was refused  -> 204
//!               action was done     -> work: done           store its answer
//!                                            else           undo everything
//! ```
//!
//! The design is DTM's sub-transaction barrier, with the answer beside the key.

use std::time::Duration;

use http::StatusCode;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgTransaction, Postgres};
use sqlx::query::Query;
use sqlx::{Acquire, Row};
use trellis_chassis::db;
use trellis_chassis::problem::{Kind, Problem};

use crate::answer::Answer;
use crate::branch::{Branch, Op};

/// Rows that are deleted at once: a transaction of some milliseconds.
const BATCH: i64 = 500;

const INSERT: &str = "
    INSERT INTO saga_barrier (run, step, item, incarnation, op) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING";

const FIND: &str = "
    SELECT status, body FROM saga_barrier
    WHERE run = $1 AND step = $2 AND item = $3 AND incarnation = $4 AND op = $5";

const STORE: &str = "
    UPDATE saga_barrier SET status = $6, body = $7
    WHERE run = $1 AND step = $2 AND item = $3 AND incarnation = $4 AND op = $5";

const DELETE: &str = "
    DELETE FROM saga_barrier
    WHERE run = $1 AND step = $2 AND item = $3 AND incarnation = $4 AND op = $5";

/// The array is made once; a subquery might be run again, and delete more. Replicas skip each other's rows.
const DELETE_OLD: &str = "
    DELETE FROM saga_barrier WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM saga_barrier WHERE created_at < now() - make_interval(secs => $1)
        ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))";

/// A row, by its key.
struct Call<'b>(&'b Branch, Op);

/// Lets each call of a saga through once. The table is [`SCHEMA`](crate::SCHEMA).
#[derive(Clone, Copy, Debug)]
pub struct Barrier;

impl Barrier {
    /// Does the work of a request: behind the barrier, by the op of its branch, or at once if it comes from
    /// no saga. What a call does is up to the saga; a refund may be an action or a compensation.
    ///
    /// # Errors
    /// What kept the work from being done, and may pass. The transaction has nothing to commit then.
    pub async fn run<E>(
        transaction: &mut PgTransaction<'_>,
        branch: Option<&Branch>,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, E>,
    ) -> Result<Answer, Problem>
    where
        Problem: From<E>,
    {
        match branch {
            None => Ok(work(transaction).await?),
            Some(branch) => match branch.op() {
                Op::Action => Self::action(transaction, branch, work).await,
                Op::Compensation => Self::compensation(transaction, branch, work).await,
            },
        }
    }

    /// Does the work unless this action was seen before, or compensated before. An error that is a 4xx, but
    /// not 408, 425 or 429, is a refusal for good, and as much of an answer as a success.
    ///
    /// # Errors
    /// As those of [`Barrier::run`].
    pub async fn action<E>(
        transaction: &mut PgTransaction<'_>,
        branch: &Branch,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, E>,
    ) -> Result<Answer, Problem>
    where
        Problem: From<E>,
    {
        let call = Call(branch, Op::Action);
        if !call.insert(transaction).await? {
            return match call.find(transaction).await? {
                Some(answer) => Ok(answer),
                None => refusal(compensated_before(branch)).await,
            };
        }
        let answer = match attempt(transaction, work).await {
            Ok(answer) => answer,
            Err(problem) if is_for_good(problem.status()) => refusal(problem).await?,
            Err(problem) => return Err(call.let_go(transaction, problem).await),
        };
        call.store(transaction, &answer).await?;
        Ok(answer)
    }

    /// Does the work if this compensation was not seen before and its action was done. If the action was not
    /// seen, it is fenced off: its request may still be on its way.
    ///
    /// # Errors
    /// As those of [`Barrier::run`], and refusals: an operator mends the cause and has it tried again.
    pub async fn compensation<E>(
        transaction: &mut PgTransaction<'_>,
        branch: &Branch,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, E>,
    ) -> Result<Answer, Problem>
    where
        Problem: From<E>,
    {
        let (call, action) = (Call(branch, Op::Compensation), Call(branch, Op::Action));
        if !call.insert(transaction).await? {
            // Only actions are fenced off; a compensation that was seen has an answer.
            let answer = call.find(transaction).await?;
            return Ok(answer.unwrap_or_else(Answer::no_content));
        }
        let was_done = !action.insert(transaction).await?
            && action
                .find(transaction)
                .await?
                .is_some_and(|answer| answer.status().is_success());
        let answer = if was_done {
            match attempt(transaction, work).await {
                Ok(answer) => answer,
                Err(problem) => return Err(call.let_go(transaction, problem).await),
            }
        } else {
            Answer::no_content()
        };
        call.store(transaction, &answer).await?;
        Ok(answer)
    }

    /// Forgets calls that were seen longer than `age` ago, by the database's clock, in small batches; how
    /// many. What is forgotten would be done again: see [`RETENTION`](crate::RETENTION).
    ///
    /// # Errors
    /// The database's; what was deleted until then stays deleted.
    pub async fn forget(pool: &PgPool, age: Duration) -> Result<u64, sqlx::Error> {
        let mut forgotten = 0;
        loop {
            let done = sqlx::query(DELETE_OLD)
                .bind(age.as_secs_f64())
                .bind(BATCH)
                .execute(pool)
                .await?;
            forgotten += done.rows_affected();
            if done.rows_affected() < BATCH.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

impl Call<'_> {
    /// Whether the call is new. While another transaction has inserted the same row and is not over, PostgreSQL
    /// waits here for its end: of two requests at the same time the second comes after the first, and meets
    /// its answer, or takes its place if it was rolled back.
    async fn insert(&self, connection: &mut PgConnection) -> Result<bool, db::Error> {
        let done = self.query(INSERT).execute(connection).await?;
        Ok(done.rows_affected() == 1)
    }

    /// The stored answer; none if the call is fenced off.
    async fn find(&self, connection: &mut PgConnection) -> Result<Option<Answer>, db::Error> {
        let row = self.query(FIND).fetch_one(connection).await?;
        let Some(status) = row.try_get("status")? else {
            return Ok(None);
        };
        Ok(Some(Answer::stored(status, row.try_get("body")?)?))
    }

    async fn store(&self, connection: &mut PgConnection, answer: &Answer) -> Result<(), db::Error> {
        let status = i32::from(answer.status().as_u16());
        self.query(STORE)
            .bind(status)
            .bind(answer.body())
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Leaves no row, so that even a commit by mistake would not fence the call off.
    async fn let_go(&self, connection: &mut PgConnection, problem: Problem) -> Problem {
        // A transaction in which this fails can no longer commit anything.
        let _ = self.query(DELETE).execute(connection).await;
        problem
    }

    fn query(&self, sql: &'static str) -> Query<'_, Postgres, PgArguments> {
        let Self(branch, op) = self;
        sqlx::query(sql)
            .bind(branch.run())
            .bind(branch.step())
            .bind(i64::from(branch.index()))
            .bind(i64::from(branch.incarnation()))
            .bind(match op {
                Op::Action => "action",
                Op::Compensation => "compensation",
            })
    }
}

/// Does the work; what it did is undone if it fails.
async fn attempt<E>(
    transaction: &mut PgTransaction<'_>,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<Answer, E>,
) -> Result<Answer, Problem>
where
    Problem: From<E>,
{
    let mut savepoint = transaction.begin().await.map_err(db::Error::from)?;
    match work(&mut savepoint).await {
        Ok(answer) => {
            savepoint.commit().await.map_err(db::Error::from)?;
            Ok(answer)
        }
        Err(error) => {
            let problem = Problem::from(error);
            savepoint.rollback().await.map_err(db::Error::from)?;
            Err(problem)
        }
    }
}

/// Whether the same request would be refused whenever it came: what the engine takes for a failure.
pub(crate) fn is_for_good(status: StatusCode) -> bool {
    let may_pass = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_client_error() && !may_pass.contains(&status)
}

pub(crate) fn compensated_before(branch: &Branch) -> Problem {
    Problem::new(Kind::Conflict).detail(format!(
        "step {:?} of run {:?} was compensated before this request came, and nothing was done; start another run",
        branch.step(),
        branch.run()
    ))
}

async fn refusal(problem: Problem) -> Result<Answer, Problem> {
    let answer = Answer::refusal(problem).await.map_err(db::Error::from)?;
    Ok(answer)
}
