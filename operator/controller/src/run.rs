//! Wiring: what runs beside what, and in which order it ends.
//!
//! ```text
//! watches --> caches --> index --> stream server          (every replica)
//!    \--triggers--> workers --> passes                    (the leader)
//! caches --> rate limits --> statuses of policies         (the leader)
//! caches --> sagas --> revisions, statuses of sagas       (the leader)
//! stream server --> answers of proxies --> report          (every replica, to the leader)
//! admin port, liveness, leadership, events                (every replica)
//! ```
//!
//! To stop: not ready and no new passes, streams end (proxies go to another replica), passes under way end, the lease is
//! given back, the process ends. A lost lease, a dead port or a dead watch ends it at once, with an error.

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{JoinError, JoinHandle},
    time,
};
use trellis_api::names;
use trellis_chassis::{admin, drain, readiness::Readiness, telemetry};
use trellis_kube::caller::Authenticator;

use crate::{
    apply::Applier,
    args::Args,
    caches::Caches,
    client::{self, Progress},
    engine::{self, Engine},
    error::chain,
    events::Events,
    key::Key,
    leader, liveness,
    metrics::Metrics,
    microservice::Context,
    rate_limits::{self, RateLimits},
    sagas::{self, Sagas},
    statuses::Statuses,
    stream::{
        answers::Answers,
        index::Index,
        report::Reporter,
        server::{Reports, Server},
    },
    watches,
    workers::Workers,
};

/// Exit status of a wrong command line (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// How long streams may take to end.
const LEAVE: Duration = Duration::from_secs(10);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("failed to listen on {address} for {what}; is the port taken?")]
    Listen {
        what: &'static str,
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Leadership(#[from] leader::Error),
    #[error("failed to serve the admin port")]
    Admin(#[source] std::io::Error),
    #[error("failed to serve the configuration stream")]
    Stream(#[source] tonic::transport::Error),
    #[error("failed to keep {0} running")]
    Ended(&'static str),
    #[error("failed to run a task")]
    Panicked(#[from] JoinError),
}

/// Parses, runs, and answers how it went.
pub async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // If it cannot be printed, nobody would read another message either.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    if args.check_config {
        println!("configuration is good");
        return ExitCode::SUCCESS;
    }
    match start(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "the operator ends");
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> Result<(), Error> {
    let telemetry = telemetry::init("trellis-operator")?;
    let result = run(args).await;
    telemetry.shutdown();
    result
}

async fn run(args: Args) -> Result<(), Error> {
    let identity = args.identity();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, "starting");
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let progress = Progress::default();
    let readiness = Readiness::new();
    let admin_port = listen("health and metrics", args.admin_address).await?;
    let stream_port = listen("the configuration stream", args.stream_address).await?;
    let client = client::connect(metrics.clone(), progress.clone()).await?;

    let (stop, stopping) = drain::channel();
    let (finish, finishing) = drain::channel();
    let (triggers, due) = mpsc::unbounded_channel();
    let index = Arc::new(Index::default());
    let engine_key = Key::new(&*args.namespace, &*args.saga_engine);
    let (of_policies, changes_of_policies) = rate_limits::Concerned::channel();
    let (of_sagas, changes_of_sagas) = sagas::Concerned::channel(engine_key.clone());
    let caches = Arc::new(Caches::publishing(
        Arc::clone(&index),
        of_policies,
        of_sagas.clone(),
    ));
    let watches::Watches {
        mut tasks,
        mut synced,
    } = watches::start(
        &client,
        &caches,
        &index,
        &engine_key,
        &triggers,
        &readiness,
        &progress,
    );
    let router = admin::router(readiness.clone(), Arc::new(registry));
    let mut admin = tokio::spawn(admin::serve(admin_port, router, finishing.clone()));
    tokio::spawn(liveness::run(
        progress.clone(),
        readiness.clone(),
        metrics.clone(),
    ));

    let (leadership, authority) = leader::claim(
        client.clone(),
        &args.namespace,
        args.candidate(),
        &metrics,
        progress,
    );
    let answers = Arc::new(Answers::default());
    tokio::spawn(Arc::clone(&answers).trigger(triggers.clone()));
    let reporter = Reporter {
        answers: Arc::clone(&answers),
        leader: leadership.leader(),
        token: args.token_file.clone(),
    };
    tokio::spawn(reporter.run(stopping.clone()));
    let (events, events_writer) = Events::new(client.clone(), identity, metrics.clone());
    tokio::spawn(events_writer.run());
    let statuses = Statuses {
        client: client.clone(),
        authority: authority.clone(),
        metrics: metrics.clone(),
    };
    let rate_limits = RateLimits {
        statuses: statuses.clone(),
        caches: Arc::clone(&caches),
        own_namespace: args.namespace.clone(),
        triggers: triggers.clone(),
    };
    let mut rate_limits = tokio::spawn(rate_limits.run(changes_of_policies, stopping.clone()));
    let engine = Arc::new(Engine::new(of_sagas.clone()));
    let sagas = Sagas::new(
        Arc::clone(&caches),
        &of_sagas,
        statuses,
        Arc::clone(&engine),
        triggers.clone(),
        events.clone(),
    );
    let mut sagas = tokio::spawn(sagas.run(changes_of_sagas, stopping.clone()));
    let all_sagas = Arc::clone(&caches.sagas);
    let context = Arc::new(Context {
        applier: Applier::new(
            client.clone(),
            Arc::clone(&caches),
            authority.clone(),
            metrics.clone(),
        ),
        client: client.clone(),
        caches,
        answers: Arc::clone(&answers),
        triggers,
        authority: authority.clone(),
        events,
        metrics: metrics.clone(),
        settings: args.settings(),
    });
    let workers = Workers::new(context, due, usize::from(args.concurrency), metrics.clone());
    let workers = tokio::spawn(workers.run(authority.clone(), stopping.clone()));

    let authenticator = Arc::new(Authenticator::new(client, names::TOKEN_AUDIENCE));
    let revisions = engine::server::Server {
        authenticator: Arc::clone(&authenticator),
        engine,
        sagas: all_sagas,
        account: engine_key,
        authority: authority.clone(),
        leader: leadership.leader(),
        places: engine::server::Server::places(),
        drain: stopping.clone(),
    };
    let server = Server::new(
        authenticator,
        index,
        Reports {
            answers,
            account: Key::new(args.namespace, args.service_account),
            authority,
        },
        metrics.stream,
        stopping.clone(),
    );
    // What has not seen the whole cluster neither leads nor says that there are no endpoints.
    let (go, leads_and_serves) = drain::channel();
    let mut stream = spawn_after(leads_and_serves.clone(), server.serve(stream_port, revisions));
    let mut leadership = spawn_after(leads_and_serves.clone(), leadership.run(finishing));

    let mut terminated = std::pin::pin!(drain::terminated());
    let result = loop {
        tokio::select! {
            () = &mut terminated => break Ok(()),
            None = synced.recv(), if !leads_and_serves.is_draining() => go.start(),
            ended = &mut leadership => break ended?.map_err(Error::from).and(Err(Error::Ended("leadership"))),
            ended = &mut stream => break ended?.map_err(Error::Stream).and(Err(Error::Ended("the stream"))),
            ended = &mut admin => break ended?.map_err(Error::Admin).and(Err(Error::Ended("the admin port"))),
            ended = &mut rate_limits => break ended.map_err(Error::from).and(Err(Error::Ended("statuses of policies"))),
            ended = &mut sagas => break ended.map_err(Error::from).and(Err(Error::Ended("revisions of sagas"))),
            Some(ended) = tasks.join_next() => break ended.map_err(Error::from).and(Err(Error::Ended("a watch"))),
        }
    };
    result?;

    readiness.drain();
    stop.start();
    workers.await?;
    rate_limits.await?;
    sagas.await?;
    finish.start();
    go.start();
    leadership.await??;
    if time::timeout(LEAVE, stream).await.is_err() {
        tracing::warn!("streams did not end in time");
    }
    Ok(())
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen {
        what,
        address,
        source,
    })
}

/// Runs `task` once the signal was given.
fn spawn_after<T: Send + 'static>(
    signal: drain::Watch,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(async move {
        signal.signaled().await;
        task.await
    })
}
