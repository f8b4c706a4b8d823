//! The statements.

use tokio_postgres::{Client, Error, Statement, types::ToSql};
use trellis_saga_core::{event::Time, run::Status};
use uuid::Uuid;

use crate::store::Append;

/// Statuses by their number.
pub(super) const STATUSES: [Status; 5] = [
    Status::Running,
    Status::Compensating,
    Status::Stuck,
    Status::Completed,
    Status::Compensated,
];

/// What runs have instead that wait for their turn, and those whose turn has come and that have not begun.
pub(super) const QUEUED: [i16; 2] = [5, 6];

const BEAT: &str = "
    INSERT INTO saga_replica (id, name, address, until) VALUES ($1, $2, $3, now() + $4::float8 * interval '1 s')
    ON CONFLICT (id) DO UPDATE SET until = excluded.until";

const REPLICAS: &str = "SELECT id, name, address FROM saga_replica WHERE until > now() ORDER BY id";

const OWNERS: &str = "SELECT owner FROM saga_partition ORDER BY id";

const LEAVE: &str = "DELETE FROM saga_replica WHERE id = $1 OR until < now() - interval '1 h'";

const CLAIM: &str = "
    UPDATE saga_partition AS p SET owner = $1, epoch = p.epoch + 1
    WHERE p.id = ANY($2) AND NOT EXISTS (
        SELECT FROM saga_replica AS r WHERE r.id = p.owner AND r.id <> $1 AND r.until > now()
    )
    RETURNING p.id, p.epoch";

const RELEASE: &str = "
    UPDATE saga_partition AS p SET owner = NULL
    FROM unnest($2::int2[], $3::int8[]) AS c (id, epoch)
    WHERE p.id = c.id AND p.epoch = c.epoch AND p.owner = $1";

const RELEASE_ALL: &str = "UPDATE saga_partition SET owner = NULL WHERE owner = $1";

/// Types of the columns of an append: claims and records, then runs that begin, then runs whose status has changed.
const CLAIMS_AND_RECORDS: [&str; 7] = ["int2", "int8", "uuid", "int2", "int4", "bool", "bytea"];
const STARTS: [&str; 10] = [
    "uuid", "int2", "int4", "text", "uuid", "uuid", "int8", "int2", "int8", "int8",
];
const CHANGES: [&str; 5] = ["uuid", "int2", "int2", "int8", "int8"];

/// The statement of an append. What it has none of is not in it: an empty part would take as long to begin as one row.
fn append(has_starts: bool, has_changes: bool) -> String {
    let mut given = 0;
    let mut arrays = |types: &[&str]| {
        let arrays: Vec<String> = types
            .iter()
            .map(|r#type| {
                given += 1;
                format!("${given}::{type}[]")
            })
            .collect();
        arrays.join(", ")
    };
    let (claims, records) = (arrays(&CLAIMS_AND_RECORDS[..2]), arrays(&CLAIMS_AND_RECORDS[2..]));
    let mut text = format!(
        "WITH held AS MATERIALIZED (
            SELECT p.id, p.epoch FROM saga_partition AS p
            JOIN unnest({claims}) AS c (id, epoch) ON p.id = c.id AND p.epoch = c.epoch
            FOR SHARE OF p
        )"
    );
    let (mut begun, mut is_there) = ("'{}'::uuid[]", "");
    if has_starts {
        begun = "ARRAY(SELECT id FROM begun)";
        is_there = "WHERE NOT r.is_of_start OR r.run IN (SELECT id FROM begun)";
        let starts = arrays(&STARTS);
        text += &format!(
            ", begun AS (
            INSERT INTO saga_run
                (id, partition, definition, key, key_digest, input_digest, started_at, status, ended_at, purge_at)
            SELECT s.id, s.partition, s.definition, s.key, s.key_digest, s.input_digest, s.started_at,
                s.status, s.ended_at, s.purge_at
            FROM unnest({starts}) AS s (
                id, partition, definition, key, key_digest, input_digest, started_at, status, ended_at, purge_at
            ) JOIN held ON held.id = s.partition
            -- In one order everywhere: whoever has the same keys waits, and not for each other.
            ORDER BY s.key_digest, s.id
            ON CONFLICT (key_digest) DO NOTHING
            RETURNING id
        )"
        );
    }
    text += &format!(
        ", written AS (
            INSERT INTO saga_record (run, sequence, epoch, record)
            SELECT r.run, r.sequence, held.epoch, r.record
            FROM unnest({records}) AS r (run, partition, sequence, is_of_start, record)
            JOIN held ON held.id = r.partition
            {is_there}
        )"
    );
    if has_changes {
        let changes = arrays(&CHANGES);
        text += &format!(
            ", changed AS (
            UPDATE saga_run SET status = c.status, ended_at = c.ended_at, purge_at = c.purge_at
            FROM unnest({changes}) AS c (run, partition, status, ended_at, purge_at)
            JOIN held ON held.id = c.partition
            WHERE saga_run.id = c.run
        )"
        );
    }
    text + &format!(" SELECT ARRAY(SELECT id FROM held), {begun}")
}

const LIVE: &str = "
    SELECT r.id, r.definition, r.key, r.input_digest, r.started_at, r.status, r.ended_at, r.purge_at, l.record, l.epoch
    FROM saga_run AS r JOIN saga_record AS l ON l.run = r.id
    WHERE r.partition = ANY($1) AND r.ended_at IS NULL
    ORDER BY r.id, l.sequence";

const RUN: &str = "
    SELECT r.id, r.definition, r.key, r.input_digest, r.started_at, r.status, r.ended_at, r.purge_at, l.record, l.epoch
    FROM saga_run AS r JOIN saga_record AS l ON l.run = r.id
    WHERE r.id = $1
    ORDER BY l.sequence";

const OF_KEY: &str = "SELECT id, input_digest FROM saga_run WHERE key_digest = $1";

const LIST: &str = "
    SELECT r.id, d.namespace, d.saga, d.revision, r.key, r.started_at, r.status, r.ended_at, r.purge_at
    FROM saga_run AS r JOIN saga_definition AS d ON d.id = r.definition
    WHERE ($1::text IS NULL OR d.namespace = $1) AND ($2::text IS NULL OR d.saga = $2)
        AND (cardinality($3::int2[]) = 0 OR r.status = ANY($3)) AND ($4::uuid IS NULL OR r.id < $4)
    ORDER BY r.id DESC LIMIT $5";

const ADMIT: &str = "SELECT saga_admit($1, $2, $3, $4, $5)";

// Those that wait for their turn are running.
const COUNTS: &str = "
    SELECT d.namespace, d.saga, d.revision, s.status, sum(c.count)::int8
    FROM (SELECT definition, status, count(*) FROM saga_run GROUP BY definition, status) AS c
    JOIN saga_definition AS d ON d.id = c.definition
    CROSS JOIN LATERAL (SELECT CASE WHEN c.status >= 5 THEN 0::int2 ELSE c.status END AS status) AS s
    GROUP BY d.id, s.status
    ORDER BY d.namespace, d.saga, d.id, s.status";

const PURGE: &str = "
    WITH due AS MATERIALIZED (
        SELECT id FROM saga_run WHERE purge_at <= $1 ORDER BY purge_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), records AS (
        DELETE FROM saga_record WHERE run IN (SELECT id FROM due)
    ), runs AS (
        DELETE FROM saga_run WHERE id IN (SELECT id FROM due) RETURNING id
    )
    SELECT count(*) FROM runs";

const NOT_CURRENT: &str = "
    UPDATE saga_definition SET is_current = false
    WHERE namespace = $1 AND saga = $2 AND revision <> $3 AND is_current";

const PUT_REVISION: &str = "
    INSERT INTO saga_definition (namespace, saga, revision, definition, is_current) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (namespace, saga, revision) DO UPDATE SET is_current = excluded.is_current
    RETURNING id";

const REVISIONS: &str =
    "SELECT id, namespace, saga, revision, definition, is_current FROM saga_definition ORDER BY id";

const FORGET_REVISION: &str = "
    DELETE FROM saga_definition AS d
    WHERE id = $1 AND NOT is_current AND NOT EXISTS (SELECT FROM saga_run WHERE definition = d.id)";

/// Prepared on a connection.
pub(super) struct Statements {
    pub(super) beat: Statement,
    pub(super) replicas: Statement,
    pub(super) owners: Statement,
    pub(super) leave: Statement,
    pub(super) claim: Statement,
    pub(super) release: Statement,
    pub(super) release_all: Statement,
    /// With runs that begin or not, and with runs whose status has changed or not.
    append: [Statement; 4],
    pub(super) admit: Statement,
    pub(super) live: Statement,
    pub(super) run: Statement,
    pub(super) of_key: Statement,
    pub(super) list: Statement,
    pub(super) counts: Statement,
    pub(super) purge: Statement,
    pub(super) not_current: Statement,
    pub(super) put_revision: Statement,
    pub(super) revisions: Statement,
    pub(super) forget_revision: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let prepare = |text: &'static str| client.prepare(text);
        Ok(Self {
            beat: prepare(BEAT).await?,
            replicas: prepare(REPLICAS).await?,
            owners: prepare(OWNERS).await?,
            leave: prepare(LEAVE).await?,
            claim: prepare(CLAIM).await?,
            release: prepare(RELEASE).await?,
            release_all: prepare(RELEASE_ALL).await?,
            append: [
                client.prepare(&append(false, false)).await?,
                client.prepare(&append(true, false)).await?,
                client.prepare(&append(false, true)).await?,
                client.prepare(&append(true, true)).await?,
            ],
            admit: prepare(ADMIT).await?,
            live: prepare(LIVE).await?,
            run: prepare(RUN).await?,
            of_key: prepare(OF_KEY).await?,
            list: prepare(LIST).await?,
            counts: prepare(COUNTS).await?,
            purge: prepare(PURGE).await?,
            not_current: prepare(NOT_CURRENT).await?,
            put_revision: prepare(PUT_REVISION).await?,
            revisions: prepare(REVISIONS).await?,
            forget_revision: prepare(FORGET_REVISION).await?,
        })
    }
}

impl Statements {
    /// The statement for these columns.
    pub(super) fn append(&self, columns: &Columns) -> &Statement {
        &self.append[usize::from(columns.has_starts()) + 2 * usize::from(columns.has_changes())]
    }
}

/// An append as arrays, one for each column.
#[derive(Default)]
pub(super) struct Columns {
    claims: (Vec<i16>, Vec<i64>),
    runs: Vec<Uuid>,
    partitions: Vec<i16>,
    definitions: Vec<i32>,
    keys: Vec<Option<String>>,
    key_digests: Vec<Option<Uuid>>,
    input_digests: Vec<Uuid>,
    started_at: Vec<i64>,
    standings: Standings,
    records: Records,
    changed: Vec<Uuid>,
    partitions_of_changed: Vec<i16>,
    changes: Standings,
}

#[derive(Default)]
struct Standings {
    statuses: Vec<i16>,
    ended_at: Vec<Option<i64>>,
    purge_at: Vec<Option<i64>>,
}

#[derive(Default)]
struct Records {
    runs: Vec<Uuid>,
    partitions: Vec<i16>,
    sequences: Vec<i32>,
    are_of_start: Vec<bool>,
    bytes: Vec<Vec<u8>>,
}

impl Columns {
    pub(super) fn of(append: &Append) -> Self {
        let mut columns = Self {
            claims: super::split(&append.claims),
            ..Self::default()
        };
        for start in &append.starts {
            columns.runs.push(Uuid::from_u128(start.run.0));
            columns.partitions.push(super::number_of(start.run.partition()));
            columns.definitions.push(start.revision.0);
            let key = start.key.as_ref();
            columns.keys.push(key.map(|key| key.text.clone()));
            columns
                .key_digests
                .push(key.map(|key| Uuid::from_u128(key.digest)));
            columns.input_digests.push(Uuid::from_u128(start.input_digest));
            columns.started_at.push(of_time(start.started_at));
            columns.standings.push(&start.standing);
        }
        for record in &append.records {
            columns.records.runs.push(Uuid::from_u128(record.run.0));
            columns
                .records
                .partitions
                .push(super::number_of(record.run.partition()));
            columns
                .records
                .sequences
                .push(i32::try_from(record.sequence).unwrap_or(i32::MAX));
            columns.records.are_of_start.push(record.is_of_start);
            columns.records.bytes.push(record.bytes.clone());
        }
        for (run, standing) in &append.changes {
            columns.changed.push(Uuid::from_u128(run.0));
            columns
                .partitions_of_changed
                .push(super::number_of(run.partition()));
            columns.changes.push(standing);
        }
        columns
    }

    fn has_starts(&self) -> bool {
        !self.runs.is_empty()
    }

    fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// In the order of the statement.
    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &self.claims.0,
            &self.claims.1,
            &self.records.runs,
            &self.records.partitions,
            &self.records.sequences,
            &self.records.are_of_start,
            &self.records.bytes,
        ];
        if self.has_starts() {
            parameters.extend([
                &self.runs as &(dyn ToSql + Sync),
                &self.partitions,
                &self.definitions,
                &self.keys,
                &self.key_digests,
                &self.input_digests,
                &self.started_at,
                &self.standings.statuses,
                &self.standings.ended_at,
                &self.standings.purge_at,
            ]);
        }
        if self.has_changes() {
            parameters.extend([
                &self.changed as &(dyn ToSql + Sync),
                &self.partitions_of_changed,
                &self.changes.statuses,
                &self.changes.ended_at,
                &self.changes.purge_at,
            ]);
        }
        parameters
    }
}

impl Standings {
    fn push(&mut self, standing: &super::Standing) {
        self.statuses.push(match standing.is_queued {
            true => QUEUED[0],
            false => number_of(standing.status),
        });
        self.ended_at.push(standing.ended_at.map(of_time));
        self.purge_at.push(standing.purge_at.map(of_time));
    }
}

/// The numbers of a status: of those that run, also of those that wait for their turn.
pub(super) fn of_status(status: Status) -> Vec<i16> {
    let mut numbers = vec![number_of(status)];
    if status == Status::Running {
        numbers.extend(QUEUED);
    }
    numbers
}

fn number_of(status: Status) -> i16 {
    let place = STATUSES.iter().position(|known| *known == status);
    place
        .and_then(|place| i16::try_from(place).ok())
        .unwrap_or(i16::MAX)
}

pub(super) fn of_time(time: Time) -> i64 {
    of_number(time.0)
}

pub(super) fn of_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
