//! The paths of the engine, and what it is built from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::time;
use tokio_postgres::Config as Connect;
use trellis_chassis::db::Database;
use trellis_chassis::drain;
use trellis_chassis::server::{Port, Process, Routes};
use trellis_saga_engine::definitions::Definitions;
use trellis_saga_engine::engine::{Engine, Membership};
use trellis_saga_engine::observe::{All, Observe};
use trellis_saga_engine::store::postgres::{self, Options, Postgres};
use trellis_saga_engine::store::{self, Replica};

use crate::access::Access;
use crate::config::{self, Config};
use crate::events;
use crate::grpc;
use crate::handlers;
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::revisions::Revisions;
use crate::runs::Runs;
use crate::traces::Traces;
use crate::webhook::{Terms, Webhooks};

/// Port of the engine's API, unless it listens at another.
const PORT: u16 = 8080;
/// Most runs that a replica looks after: 2 KB each, and what they were started with.
const MOST_RUNS: usize = 50_000;
/// Time between looks for runs whose retention is over.
const PURGE: Duration = Duration::from_secs(5);
/// Between looks whether the schema is there.
const LOOK: Duration = Duration::from_millis(100);

/// Connects the parts. Must be called within a Tokio runtime.
pub fn build(config: Config, process: &mut Process) -> Router {
    let ready = process.readiness.task("database");
    let binding = config.database.clone();
    let database = Database::open(config.database, postgres::migrations(), ready);
    let options: Options = Arc::new(move || {
        let binding = binding.reread();
        let mut connect = Connect::new();
        connect
            .host(binding.host())
            .port(binding.port())
            .dbname(binding.database())
            .user(binding.username())
            .password(binding.password().expose())
            .application_name("trellis-saga");
        connect
    });
    let store = Arc::new(Postgres::new(&options));
    let port = process.http.map_or(PORT, |http| http.port());
    let replica = Replica {
        id: rand::random(),
        name: config.pod.clone(),
        address: format!("http://{}", SocketAddr::new(config.ip, port)),
    };
    let metrics = Arc::new(Metrics::register(&mut process.registry));
    let webhooks = Arc::new(Webhooks::new(Terms::outside(config.ip), metrics.webhooks()));
    let traces = Arc::<Traces>::default();
    let observers: Arc<dyn Observe> = Arc::new(All(vec![metrics, webhooks, traces.clone()]));
    let mesh = Arc::new(Mesh::new(config.mesh));
    let (engine, membership) = Engine::new(
        store,
        &mesh,
        Arc::<Definitions>::default(),
        replica,
        MOST_RUNS,
        &observers,
    );
    let revisions = Revisions {
        engine: engine.clone(),
        operator: config.operator,
        token: config.token,
        pod: config.pod,
    };
    tokio::spawn(begin(database, engine.clone(), membership, revisions));
    let runs = Runs::new(engine, Access::default(), process.readiness.clone(), traces);
    process.ports.push(Port {
        name: "grpc",
        address: config.grpc,
        variable: config::GRPC_ADDRESS,
        router: grpc::routes(runs.clone()),
    });
    routes().with_state(runs)
}

/// Takes part as soon as the schema is there, and leaves when the process is told to.
async fn begin(
    database: Database,
    engine: Engine<Postgres>,
    membership: Membership<Postgres>,
    revisions: Revisions,
) {
    while database.pool().is_err() {
        time::sleep(LOOK).await;
    }
    while let Err(error) = engine.restore().await {
        warn(&error, "failed to read the stored revisions; trying again");
        time::sleep(LOOK).await;
    }
    tokio::spawn(revisions.run());
    tokio::spawn(purge(engine));
    membership.run(drain::terminated()).await;
}

async fn purge(engine: Engine<Postgres>) {
    loop {
        time::sleep(PURGE).await;
        match engine.purge().await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(purged, "runs deleted whose retention is over"),
            Err(error) => warn(&error, "failed to delete runs whose retention is over"),
        }
    }
}

fn warn(error: &store::Error, what: &str) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(error, "{what}");
}

fn routes() -> Routes<Runs> {
    Routes::new()
        .post("/v1/namespaces/{namespace}/sagas/{saga}/runs", handlers::start)
        .get("/v1/runs", handlers::list)
        .get("/v1/runs/{run}", handlers::get)
        .get("/v1/runs/{run}/events", events::events)
        .post("/v1/runs/{run}/{verb}", handlers::intervene)
}
