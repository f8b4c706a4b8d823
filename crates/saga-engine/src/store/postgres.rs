//! PostgreSQL 15 and later.
//!
//! An append is one statement, and so one transaction and one round trip, whatever the number of runs: it holds the rows of its
//! partitions (`FOR SHARE`), which a claim changes, so that nothing of an earlier owner is committed after a claim. Appends and reads have
//! connections of their own, so that no long read holds an append up.

mod link;
mod sql;

use std::{sync::Arc, time::Duration};

use sqlx::migrate::Migrator;
use tokio_postgres::{Config, Row};
use trellis_saga_core::{event::Time, run::Status};
use uuid::Uuid;

use self::link::Link;
use super::{
    Append, Appended, Claim, Count, Error, Filter, Members, Replica, Revision, RevisionId, Standing, Store,
    Stored, Summary,
};
use crate::id::{Partition, RunId};

/// Connections for appends; each partition has one of them.
const WRITERS: usize = 2;

/// Where the database is and who asks; asked for each connection, since passwords change.
pub type Options = Arc<dyn Fn() -> Config + Send + Sync>;

/// The schema.
#[must_use]
pub fn migrations() -> Migrator {
    sqlx::migrate!()
}

/// The store in PostgreSQL.
pub struct Postgres {
    writers: Vec<Link>,
    /// For claims and signs of life: nobody else's questions hold them up.
    members: Link,
    /// For the runs of partitions that are taken over.
    loads: Link,
    /// For runs that wait for their turn: who asks waits for others who do.
    turns: Link,
    /// For what is short.
    reader: Link,
    /// For what may be long: lists, counts, purges.
    slow: Link,
}

impl Postgres {
    /// The store behind `options`; it connects when it is first asked. The schema, [`migrations`], has to be there.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let link = || Link::new(Arc::clone(options));
        Self {
            writers: std::iter::repeat_with(link).take(WRITERS).collect(),
            members: link(),
            loads: link(),
            turns: link(),
            reader: link(),
            slow: link(),
        }
    }
}

impl Store for Postgres {
    async fn beat(&self, replica: &Replica, lease: Duration) -> Result<Members, Error> {
        let lease = lease.as_secs_f64();
        let id = Uuid::from_u128(replica.id);
        let connected = self.members.get().await?;
        let (replicas, owners) = self
            .members
            .answer(&connected, async {
                let (client, sql) = (&connected.client, &connected.sql);
                client
                    .execute(&sql.beat, &[&id, &replica.name, &replica.address, &lease])
                    .await?;
                let replicas = client.query(&sql.replicas, &[]).await?;
                let owners = client.query(&sql.owners, &[]).await?;
                Ok((replicas, owners))
            })
            .await?;
        let replicas = replicas.iter().map(|row| Replica {
            id: row.get::<_, Uuid>(0).as_u128(),
            name: row.get(1),
            address: row.get(2),
        });
        let owners = owners
            .iter()
            .map(|row| row.get::<_, Option<Uuid>>(0).map(|owner| owner.as_u128()));
        Ok(Members {
            replicas: replicas.collect(),
            owners: owners.collect(),
        })
    }

    async fn leave(&self, replica: u128) -> Result<(), Error> {
        let id = Uuid::from_u128(replica);
        let connected = self.members.get().await?;
        self.members
            .answer(&connected, async {
                connected
                    .client
                    .execute(&connected.sql.release_all, &[&id])
                    .await?;
                connected.client.execute(&connected.sql.leave, &[&id]).await
            })
            .await?;
        Ok(())
    }

    async fn claim(&self, replica: u128, partitions: &[Partition]) -> Result<Vec<Claim>, Error> {
        let partitions = numbers(partitions);
        let id = Uuid::from_u128(replica);
        let connected = self.members.get().await?;
        let rows = self
            .members
            .answer(
                &connected,
                connected.client.query(&connected.sql.claim, &[&id, &partitions]),
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Claim {
                    partition: partition(row.get(0))?,
                    epoch: number(row.get(1))?,
                })
            })
            .collect()
    }

    async fn release(&self, replica: u128, claims: &[Claim]) -> Result<(), Error> {
        let id = Uuid::from_u128(replica);
        let (partitions, epochs) = split(claims);
        let connected = self.members.get().await?;
        self.members
            .answer(
                &connected,
                connected
                    .client
                    .execute(&connected.sql.release, &[&id, &partitions, &epochs]),
            )
            .await?;
        Ok(())
    }

    async fn append(&self, append: Append) -> Result<Appended, Error> {
        let Some(first) = append.claims.first() else {
            return Ok(Appended::default());
        };
        let writer = &self.writers[usize::from(first.partition.0) % self.writers.len()];
        let columns = sql::Columns::of(&append);
        let connected = writer.get().await?;
        let row = writer
            .answer(
                &connected,
                connected
                    .client
                    .query_one(connected.sql.append(&columns), &columns.parameters()),
            )
            .await?;
        let held: Vec<i16> = row.get(0);
        let begun: Vec<Uuid> = row.get(1);
        let lost: Vec<Partition> = append
            .claims
            .iter()
            .map(|claim| claim.partition)
            .filter(|partition| !held.contains(&number_of(*partition)))
            .collect();
        let taken = append
            .starts
            .iter()
            .map(|start| start.run)
            .filter(|run| !lost.contains(&run.partition()) && !begun.contains(&Uuid::from_u128(run.0)))
            .collect();
        Ok(Appended { lost, taken })
    }

    async fn admit(
        &self,
        namespace: &str,
        saga: &str,
        most: Option<u32>,
        claims: &[Claim],
    ) -> Result<Vec<RunId>, Error> {
        let (partitions, epochs) = split(claims);
        let most = most.map(i64::from);
        let connected = self.turns.get().await?;
        let rows = self
            .turns
            .answer(
                &connected,
                connected.client.query(
                    &connected.sql.admit,
                    &[&namespace, &saga, &most, &partitions, &epochs],
                ),
            )
            .await?;
        let run = |row: &Row| RunId(row.get::<_, Uuid>(0).as_u128());
        Ok(rows.iter().map(run).collect())
    }

    async fn live(&self, partitions: &[Partition]) -> Result<Vec<Stored>, Error> {
        let partitions = numbers(partitions);
        let connected = self.loads.get().await?;
        let rows = self
            .slow
            .answer(
                &connected,
                connected.client.query(&connected.sql.live, &[&partitions]),
            )
            .await?;
        stored(&rows)
    }

    async fn run(&self, run: RunId) -> Result<Option<Stored>, Error> {
        let id = Uuid::from_u128(run.0);
        let connected = self.reader.get().await?;
        let rows = self
            .reader
            .answer(&connected, connected.client.query(&connected.sql.run, &[&id]))
            .await?;
        Ok(stored(&rows)?.pop())
    }

    async fn of_key(&self, digest: u128) -> Result<Option<(RunId, u128)>, Error> {
        let digest = Uuid::from_u128(digest);
        let connected = self.reader.get().await?;
        let row = self
            .reader
            .answer(
                &connected,
                connected.client.query_opt(&connected.sql.of_key, &[&digest]),
            )
            .await?;
        Ok(row.map(|row| {
            let (run, digest): (Uuid, Uuid) = (row.get(0), row.get(1));
            (RunId(run.as_u128()), digest.as_u128())
        }))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>, Error> {
        let statuses: Vec<i16> = filter.statuses.iter().copied().flat_map(sql::of_status).collect();
        let before = filter.before.map(|run| Uuid::from_u128(run.0));
        let limit = i64::from(filter.limit);
        let connected = self.slow.get().await?;
        let rows = self
            .slow
            .answer(
                &connected,
                connected.client.query(
                    &connected.sql.list,
                    &[&filter.namespace, &filter.saga, &statuses, &before, &limit],
                ),
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Summary {
                    run: RunId(row.get::<_, Uuid>(0).as_u128()),
                    namespace: row.get(1),
                    saga: row.get(2),
                    revision: row.get(3),
                    key: row.get(4),
                    started_at: time(row.get(5))?,
                    standing: standing(row, 6)?,
                })
            })
            .collect()
    }

    async fn counts(&self) -> Result<Vec<Count>, Error> {
        let connected = self.slow.get().await?;
        let rows = self
            .slow
            .answer(&connected, connected.client.query(&connected.sql.counts, &[]))
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Count {
                    namespace: row.get(0),
                    saga: row.get(1),
                    revision: row.get(2),
                    status: status(row.get(3))?,
                    count: number(row.get(4))?,
                })
            })
            .collect()
    }

    async fn purge(&self, now: Time, most: u32) -> Result<u64, Error> {
        let (now, most) = (sql::of_time(now), i64::from(most));
        let connected = self.slow.get().await?;
        let row = self
            .slow
            .answer(
                &connected,
                connected.client.query_one(&connected.sql.purge, &[&now, &most]),
            )
            .await?;
        number(row.get(0))
    }

    async fn put_revision(&self, revision: &Revision) -> Result<RevisionId, Error> {
        let Revision {
            namespace,
            saga,
            revision,
            definition,
            is_current,
        } = revision;
        let connected = self.reader.get().await?;
        let row = self
            .reader
            .answer(&connected, async {
                let (client, sql) = (&connected.client, &connected.sql);
                if *is_current {
                    // Two of them would be refused, and nobody sees a moment with none that matters: it is asked again.
                    client
                        .execute(&sql.not_current, &[namespace, saga, revision])
                        .await?;
                }
                client
                    .query_one(
                        &sql.put_revision,
                        &[namespace, saga, revision, definition, is_current],
                    )
                    .await
            })
            .await?;
        Ok(RevisionId(row.get(0)))
    }

    async fn revisions(&self) -> Result<Vec<(RevisionId, Revision)>, Error> {
        let connected = self.slow.get().await?;
        let rows = self
            .slow
            .answer(&connected, connected.client.query(&connected.sql.revisions, &[]))
            .await?;
        let revisions = rows.iter().map(|row| {
            let revision = Revision {
                namespace: row.get(1),
                saga: row.get(2),
                revision: row.get(3),
                definition: row.get(4),
                is_current: row.get(5),
            };
            (RevisionId(row.get(0)), revision)
        });
        Ok(revisions.collect())
    }

    async fn forget_revision(&self, revision: RevisionId) -> Result<bool, Error> {
        let connected = self.reader.get().await?;
        let gone = self
            .reader
            .answer(
                &connected,
                connected
                    .client
                    .execute(&connected.sql.forget_revision, &[&revision.0]),
            )
            .await?;
        Ok(gone > 0)
    }
}

fn stored(rows: &[Row]) -> Result<Vec<Stored>, Error> {
    let mut all: Vec<Stored> = Vec::new();
    for row in rows {
        let run = RunId(row.get::<_, Uuid>(0).as_u128());
        if all.last().is_none_or(|last| last.run != run) {
            all.push(Stored {
                run,
                revision: RevisionId(row.get(1)),
                key: row.get(2),
                input_digest: row.get::<_, Uuid>(3).as_u128(),
                started_at: time(row.get(4))?,
                standing: standing(row, 5)?,
                log: Vec::new(),
                epochs: Vec::new(),
            });
        }
        if let Some(last) = all.last_mut() {
            last.log.extend_from_slice(row.get::<_, &[u8]>(8));
            last.epochs.push(number(row.get(9))?);
        }
    }
    Ok(all)
}

fn standing(row: &Row, at: usize) -> Result<Standing, Error> {
    let moment = |at: usize| row.get::<_, Option<i64>>(at).map(time).transpose();
    let number: i16 = row.get(at);
    Ok(Standing {
        status: status(number)?,
        is_queued: sql::QUEUED.contains(&number),
        ended_at: moment(at + 1)?,
        purge_at: moment(at + 2)?,
    })
}

fn status(number: i16) -> Result<Status, Error> {
    if sql::QUEUED.contains(&number) {
        return Ok(Status::Running);
    }
    sql::STATUSES
        .get(usize::try_from(number).unwrap_or(usize::MAX))
        .copied()
        .ok_or_else(|| Error::Damaged(format!("{number} is no status")))
}

fn time(millis: i64) -> Result<Time, Error> {
    number(millis).map(Time)
}

fn number(number: i64) -> Result<u64, Error> {
    u64::try_from(number).map_err(|_| Error::Damaged(format!("{number} is less than 0")))
}

fn partition(number: i16) -> Result<Partition, Error> {
    u16::try_from(number)
        .map(Partition)
        .map_err(|_| Error::Damaged(format!("{number} is no partition")))
}

/// There are fewer than that.
fn number_of(partition: Partition) -> i16 {
    i16::try_from(partition.0).unwrap_or(i16::MAX)
}

fn numbers(partitions: &[Partition]) -> Vec<i16> {
    partitions.iter().copied().map(number_of).collect()
}

fn split(claims: &[Claim]) -> (Vec<i16>, Vec<i64>) {
    claims
        .iter()
        .map(|claim| (number_of(claim.partition), sql::of_number(claim.epoch)))
        .unzip()
}
