//! What the saga engine does over PostgreSQL that keeps what it commits: runs and transitions a second, and how long a run takes, with
//! participants in this process.
//!
//! In the same run: how long the disk takes to keep 256 bytes, and what `pgbench` does with one INSERT a transaction and eight clients.
//! A transition is a record: something happened to a run, was decided on, and is on the disk.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::fd::AsFd as _,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use futures::future::join_all;
use nix::unistd::fdatasync;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};
use tokio_postgres::Config;
use trellis_saga_core::{
    Definition, canonical,
    event::{Outcome, Payload},
};
use trellis_saga_engine::{
    definitions::Definitions,
    engine::{Engine, Request},
    id::PARTITIONS,
    observe::{Nobody, Observe},
    participants::{Participants, Try},
    store::{
        Replica, Revision, Store as _,
        postgres::{self, Options as Connect, Postgres},
    },
};
use trellis_testkit::postgres::{self as server, TestDatabase};

use crate::{
    machine::Machine,
    report::{self, Table},
};

/// Runs that an engine looks after at most.
const MOST_RUNS: usize = 100_000;
/// Of the runs that are measured beside finished ones.
const KEPT_STEPS: usize = 3;
const KEPT_IN_FLIGHT: usize = 256;
/// Times that both are measured in a round.
const KEPT_TURNS: usize = 3;

/// What to measure.
#[derive(Debug, Args, Serialize)]
pub struct Options {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Rounds; each has every measurement once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs in flight
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256, 4096])]
    in_flight: Vec<usize>,
    /// Steps of a run
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3, 9])]
    steps: Vec<usize>,
    /// Finished runs that are kept, beside a store without any; 0: do not measure that
    #[arg(long, default_value_t = 1_000_000)]
    kept: u64,
}

#[derive(Debug, Serialize)]
struct Figures<'a> {
    options: &'a Options,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Round {
    /// Microseconds to keep 256 bytes: median and 99th percentile.
    fsync_us: (f64, f64),
    /// Transactions of one INSERT a second, eight clients.
    pgbench: f64,
    /// Milliseconds of one transaction, one client.
    commit_ms: f64,
    engine: Vec<Measured>,
    /// The same measurement without finished runs and with many, in turns.
    kept: Vec<(Measured, Measured)>,
}

#[derive(Debug, Clone, Serialize)]
struct Measured {
    steps: usize,
    in_flight: usize,
    runs: f64,
    transitions: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Does whatever it is asked at once.
#[derive(Default)]
struct AtOnce(AtomicU64);

impl Participants for AtOnce {
    async fn call(&self, _: Try) -> Outcome {
        self.0.fetch_add(1, Ordering::Relaxed);
        Outcome::Done(Some(Payload::from("{}")))
    }
}

/// Measures, prints and writes.
pub fn run(options: &Options, output: &Path) -> Result<()> {
    let machine = Machine::look()?;
    println!("{}", machine.describe());
    let runtime = Runtime::new()?;
    let rounds: Vec<Round> = (0..options.rounds)
        .map(|n| {
            eprintln!("round {}", n + 1);
            runtime.block_on(round(options))
        })
        .collect::<Result<_>>()?;
    let mut table = Table::new([
        "disk and database",
        "p50 us",
        "p99 us",
        "INSERT/s, 8 clients",
        "ms a commit, 1 client",
    ]);
    for round in &rounds {
        table.row([
            "256 bytes on disk".to_owned(),
            format!("{:.0}", round.fsync_us.0),
            format!("{:.0}", round.fsync_us.1),
            format!("{:.0}", round.pgbench),
            format!("{:.2}", round.commit_ms),
        ]);
    }
    println!("\n{}", table.text());
    let mut table = Table::new([
        "engine",
        "in flight",
        "runs/s",
        "transitions/s",
        "of pgbench",
        "p50 ms",
        "p99 ms",
    ]);
    for (place, measured) in rounds
        .first()
        .map(|round| &round.engine)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let of = |value: fn(&Measured) -> f64| {
            median(rounds.iter().map(|round| value(&round.engine[place])).collect())
        };
        let ratio = median(
            rounds
                .iter()
                .map(|round| round.engine[place].transitions / round.pgbench)
                .collect(),
        );
        table.row([
            format!("{} steps", measured.steps),
            measured.in_flight.to_string(),
            format!("{:.0}", of(|m| m.runs)),
            format!("{:.0}", of(|m| m.transitions)),
            format!("{ratio:.2}"),
            format!("{:.2}", of(|m| m.p50_ms)),
            format!("{:.2}", of(|m| m.p99_ms)),
        ]);
    }
    println!("\n{}", table.text());
    let kept: Vec<f64> = rounds
        .iter()
        .flat_map(|round| &round.kept)
        .map(|(without, with)| with.transitions / without.transitions)
        .collect();
    if !kept.is_empty() {
        println!(
            "\nwith {} finished runs kept: {:.2} of the transitions/s without ({KEPT_STEPS} steps, {KEPT_IN_FLIGHT} in flight, median of {})",
            options.kept,
            median(kept.clone()),
            kept.len()
        );
    }
    report::write(output, "saga", &machine, &Figures { options, rounds })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn round(options: &Options) -> Result<Round> {
    let database = TestDatabase::durable().await;
    let connect = connect(&database).await?;
    let folder = database.binding_root().parent().context("no folder")?.to_owned();
    let fsync_us = fsync(&folder)?;
    let (pgbench, _) = pgbench(&database, 8, options.seconds)?;
    let (_, commit_ms) = self::pgbench(&database, 1, options.seconds)?;
    let store = Arc::new(Postgres::new(&connect));
    for &steps in &options.steps {
        store.put_revision(&revision(steps)?).await?;
    }
    let engine = Running::start(store).await?;
    let mut measured = Vec::new();
    for &steps in &options.steps {
        for &in_flight in &options.in_flight {
            eprintln!("{steps} steps, {in_flight} in flight");
            measured.push(measure(&engine.engine, steps, in_flight, options.seconds).await?);
        }
    }
    engine.stop().await?;
    let kept = match options.kept {
        0 => Vec::new(),
        runs => kept(options, runs).await?,
    };
    Ok(Round {
        fsync_us,
        pgbench,
        commit_ms,
        engine: measured,
        kept,
    })
}

/// An engine that owns everything.
struct Running {
    engine: Engine<Postgres>,
    stop: oneshot::Sender<()>,
    membership: JoinHandle<()>,
}

impl Running {
    async fn start(store: Arc<Postgres>) -> Result<Self> {
        let replica = Replica {
            id: rand::random(),
            name: "bench".to_owned(),
            address: "http://bench".to_owned(),
        };
        let participants = Arc::new(AtOnce::default());
        let nobody: Arc<dyn Observe> = Arc::new(Nobody);
        let definitions = Arc::<Definitions>::default();
        let (engine, membership) =
            Engine::new(store, &participants, definitions, replica, MOST_RUNS, &nobody);
        engine.restore().await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let membership = tokio::spawn(membership.run(async {
            // It is also told by the sender's end.
            let _ = stopped.await;
        }));
        while engine.owned() < usize::from(PARTITIONS) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            engine,
            stop,
            membership,
        })
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        Ok(self.membership.await?)
    }
}

/// What runs cost with many finished ones in the store, beside a store of the same server that had none. In turns, so that both meet
/// the same machine.
async fn kept(options: &Options, runs: u64) -> Result<Vec<(Measured, Measured)>> {
    let (empty, full) = (TestDatabase::durable().await, TestDatabase::durable().await);
    let mut engines = Vec::new();
    for database in [&empty, &full] {
        let store = Arc::new(Postgres::new(&connect(database).await?));
        store.put_revision(&revision(KEPT_STEPS)?).await?;
        engines.push(Running::start(store).await?);
    }
    let [without, with] = &engines[..] else {
        bail!("there are two engines");
    };
    eprintln!("{runs} finished runs");
    // One that is real, as the model of all others.
    let _ = measure(&with.engine, KEPT_STEPS, 1, 1).await?;
    fill(&full, runs).await?;
    let mut measured = Vec::new();
    for _ in 0..KEPT_TURNS {
        let one = measure(&without.engine, KEPT_STEPS, KEPT_IN_FLIGHT, options.seconds).await?;
        let other = measure(&with.engine, KEPT_STEPS, KEPT_IN_FLIGHT, options.seconds).await?;
        measured.push((one, other));
    }
    for engine in engines {
        engine.stop().await?;
    }
    Ok(measured)
}

/// Finished runs, each with the records of one that is real, and a key of its own.
async fn fill(database: &TestDatabase, runs: u64) -> Result<()> {
    let made = format!(
        "CREATE TEMPORARY TABLE made AS
             SELECT (lpad(to_hex(1600000000000 + n), 12, '0') || substr(md5(n::text), 1, 20))::uuid AS id, n
             FROM generate_series(1, {runs}) n"
    );
    let model = "SELECT * FROM saga_run WHERE ended_at IS NOT NULL ORDER BY id LIMIT 1";
    let put_runs = format!(
        "INSERT INTO saga_run (id, partition, definition, key, key_digest, input_digest, status, started_at, ended_at, purge_at)
         SELECT made.id, made.n % 64, definition, made.n::text, md5(made.n::text)::uuid, input_digest, status, started_at, ended_at,
                purge_at + 86400000
         FROM made, ({model}) model"
    );
    let put_records = format!(
        "INSERT INTO saga_record (run, sequence, epoch, record)
         SELECT made.id, sequence, epoch, record FROM made, saga_record WHERE saga_record.run = (SELECT id FROM ({model}) model)"
    );
    let mut connection = options_of(database)?.connect().await?;
    for statement in [
        &made,
        &put_runs,
        &put_records,
        "VACUUM ANALYZE saga_run",
        "VACUUM ANALYZE saga_record",
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await?;
    }
    Ok(())
}

async fn measure(
    engine: &Engine<Postgres>,
    steps: usize,
    in_flight: usize,
    seconds: u64,
) -> Result<Measured> {
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let one = async || -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            let request = Request {
                namespace: "bench".to_owned(),
                saga: format!("steps-{steps}"),
                key: None,
                input: Some(json!({"id": "a"})),
            };
            let started = engine.start(request).await?;
            engine.ended(started.run, Duration::from_secs(60)).await;
            times.push(begin.elapsed());
        }
        Ok(times)
    };
    let all = join_all((0..in_flight).map(|_| one())).await;
    let took = begin.elapsed().as_secs_f64();
    let mut times: Vec<Duration> = Vec::new();
    for of_one in all {
        times.extend(of_one?);
    }
    times.sort();
    let percentile = |percent: usize| {
        let place = times.len() * percent / 100;
        times
            .get(place.min(times.len().saturating_sub(1)))
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    let runs = times.len() as f64 / took;
    Ok(Measured {
        steps,
        in_flight,
        runs,
        transitions: runs * (steps + 1) as f64,
        p50_ms: percentile(50),
        p99_ms: percentile(99),
    })
}

/// A saga of some steps in a row.
fn revision(steps: usize) -> Result<Revision> {
    let call = json!({
        "call": {"microservice": "a", "method": "POST", "path": "/x/${input.id}"}, "timeout": 10000, "body": {"run": "${run.id}"},
        "retry": {"initial": 100, "factor": 2.0, "maxInterval": 1000, "jitter": 0, "retryOn": ["Timeout"]},
    });
    let all: Vec<Value> = (0..steps)
        .map(|i| {
            let after: Vec<String> = i
                .checked_sub(1)
                .map(|before| format!("s{before}"))
                .into_iter()
                .collect();
            let mut step =
                json!({"name": format!("s{i}"), "after": after, "kind": "Compensatable", "action": call});
            if i + 1 == steps {
                step["kind"] = "Pivot".into();
            } else {
                step["compensation"] = call.clone();
            }
            step
        })
        .collect();
    let definition: Definition = serde_json::from_value(json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "bench", "name": format!("steps-{steps}"), "steps": all,
        "input": {"schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "minLength": 1}}}},
        "retention": {"completed": 86_400_000, "compensated": 86_400_000}, "onStuck": {"event": true},
    }))?;
    let definition = canonical::text(&definition);
    Ok(Revision {
        namespace: "bench".to_owned(),
        saga: format!("steps-{steps}"),
        revision: canonical::name(&definition),
        definition,
        is_current: true,
    })
}

fn options_of(database: &TestDatabase) -> Result<PgConnectOptions> {
    let root = database.binding_root().join("db");
    let read = |key: &str| fs::read_to_string(root.join(key)).map(|text| text.trim().to_owned());
    Ok(PgConnectOptions::new_without_pgpass()
        .host(&read("host")?)
        .port(read("port")?.parse()?)
        .database(&read("database")?)
        .username(&read("username")?)
        .password(&read("password")?))
}

async fn connect(database: &TestDatabase) -> Result<Connect> {
    let root = database.binding_root().join("db");
    let read = |key: &str| fs::read_to_string(root.join(key)).map(|text| text.trim().to_owned());
    let (host, port, name, password) = (
        read("host")?,
        read("port")?.parse()?,
        read("database")?,
        read("password")?,
    );
    let mut connection = options_of(database)?.connect().await?;
    postgres::migrations()
        .run_direct(None, &mut connection, false)
        .await?;
    Ok(Arc::new(move || {
        let mut config = Config::new();
        config
            .host(&host)
            .port(port)
            .dbname(&name)
            .user(&name)
            .password(&password);
        config
    }))
}

/// Microseconds to put 256 bytes behind a file and onto the disk.
fn fsync(folder: &Path) -> Result<(f64, f64)> {
    let path = folder.join("fsync");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        file.write_all(&[7; 256])?;
        fdatasync(file.as_fd())?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok((times[250], times[495]))
}

/// Transactions a second of one INSERT of a record's size, and milliseconds of each.
fn pgbench(database: &TestDatabase, clients: u32, seconds: u64) -> Result<(f64, f64)> {
    let root = database.binding_root().join("db");
    let read = |key: &str| fs::read_to_string(root.join(key)).map(|text| text.trim().to_owned());
    let (host, port, name, password) = (read("host")?, read("port")?, read("database")?, read("password")?);
    let script = "INSERT INTO pgbench_like (run, record) VALUES (gen_random_uuid(), decode(repeat('ab', 68), 'hex'));\n";
    let make = "CREATE TABLE IF NOT EXISTS pgbench_like (id bigserial PRIMARY KEY, run uuid NOT NULL, record bytea NOT NULL)";
    let file = database.binding_root().join("insert.sql");
    fs::write(&file, script)?;
    let address = |command: &mut std::process::Command| {
        command
            .env("PGPASSWORD", &password)
            .args(["-h", &host, "-p", &port, "-U", &name]);
    };
    let mut psql = server::program("psql");
    address(&mut psql);
    let made = psql
        .args(["-d", &name, "-qc", make])
        .stderr(Stdio::null())
        .status()?;
    if !made.success() {
        bail!("failed to make a table for pgbench");
    }
    let mut bench = server::program("pgbench");
    address(&mut bench);
    let output = bench
        .args([
            "-n",
            "-M",
            "prepared",
            "-c",
            &clients.to_string(),
            "-j",
            "2",
            "-T",
            &seconds.to_string(),
            "-f",
        ])
        .arg(&file)
        .arg(&name)
        .output()
        .context("failed to run pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str| -> Option<f64> {
        let found = text.lines().find(|found| found.starts_with(line))?;
        found.split('=').nth(1)?.split_whitespace().next()?.parse().ok()
    };
    let tps = number("tps").with_context(|| {
        format!(
            "pgbench printed no tps:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok((tps, number("latency average").unwrap_or(f64::NAN)))
}
