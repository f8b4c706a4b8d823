//! The verb `run`: builds the parts, lets them run, and takes them down in order.

use std::{env, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trellis_chassis::{admin as health, drain, readiness::Readiness, telemetry};

use crate::{
    access_log::AccessLog,
    admin::{self, Admin},
    admission::Admission,
    args::{Run, Switch},
    configuration::Configuration,
    connection::{self, Leave},
    deadlines::Deadlines,
    direction::Direction,
    lifecycle::{self, InFlight, Lifecycle},
    listener,
    listeners::Listeners,
    metrics::{Metrics, OfPolicies},
    observe::Telemetry,
    open_files, outbound, quota,
    signals::Signals,
    source,
    trace::Export,
};

/// How often idle connections, and metrics of what a document has no longer, are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// The port that the app sends its requests to.
struct Outbound {
    closing: CancellationToken,
    connections: TaskTracker,
}

/// Serves until told to leave.
pub(crate) async fn run(args: Run) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install().context("failed to listen to signals")?;
    let exporter = telemetry::init("trellis-proxy")?;
    open_files::raise_limit();
    quota::begin(&args.state_dir);
    let mut registry = Registry::default();
    let telemetry = Telemetry {
        metrics: Metrics::register(&mut registry),
        access_log: if args.access_log == Switch::On {
            AccessLog::start()?
        } else {
            AccessLog::off()
        },
        export: if env::var_os(telemetry::OTLP_ENDPOINT).is_some_and(|at| !at.is_empty()) {
            Export::On
        } else {
            Export::Off
        },
    };
    let deadlines = Deadlines::default();
    let readiness = Readiness::new();
    let lifecycle = Arc::new(Lifecycle::new(readiness.clone()));
    let listeners = Listeners::new(
        telemetry.clone(),
        deadlines.clone(),
        Arc::clone(&lifecycle),
        args.max_connections,
    );
    let configuration = Arc::new(Configuration::new(listeners, readiness.task("configuration")));
    registry.register_collector(Box::new(OfPolicies(Arc::clone(&configuration.snapshot))));

    let health_socket = listener::bind_all(args.health_port)?;
    let admin_socket = listener::bind_loopback(args.admin_port)?;
    let outbound_socket = listener::bind_loopback(args.outbound_port)?;
    // Never given: health and admin answer until the process is gone.
    let (_end, never) = drain::channel();
    tokio::spawn(health::serve(
        health_socket,
        health::router(readiness, Arc::new(registry)),
        never.clone(),
    ));
    let admin = Admin {
        configuration: Arc::clone(&configuration),
        lifecycle: Arc::clone(&lifecycle),
    };
    tokio::spawn(health::serve(admin_socket, admin::router(admin), never));
    let outbound = serve_outbound(
        &args,
        outbound_socket,
        &configuration,
        telemetry.clone(),
        deadlines,
    );
    start_sources(&args, &configuration);
    tokio::spawn(sweep(
        Arc::clone(&configuration),
        telemetry.metrics.clone(),
        args.outbound_port,
    ));

    signals.next().await;
    tokio::select! {
        () = leave(&lifecycle, &configuration, &outbound) => tracing::info!("left"),
        () = signals.next() => tracing::warn!("leaving at once"),
    }
    telemetry.access_log.flush();
    exporter.shutdown();
    Ok(ExitCode::SUCCESS)
}

fn serve_outbound(
    args: &Run,
    socket: TcpListener,
    configuration: &Configuration,
    telemetry: Telemetry,
    deadlines: Deadlines,
) -> Outbound {
    let admission = Admission::new(
        args.max_connections,
        Direction::Outbound,
        args.outbound_port,
        telemetry.metrics.connections(),
    );
    let stack = outbound::stack(Arc::clone(&configuration.snapshot), telemetry, deadlines);
    let (closing, connections) = (CancellationToken::new(), TaskTracker::new());
    let leave = Leave {
        draining: None,
        closing: closing.clone(),
    };
    let tasks = connections.clone();
    let in_flight = InFlight::default();
    connections.spawn(listener::accept(
        socket,
        closing.clone(),
        admission,
        move |stream, peer, place| {
            tasks.track_future(connection::serve(
                stream,
                peer,
                place,
                stack.clone(),
                in_flight.clone(),
                leave.clone(),
            ))
        },
    ));
    Outbound { closing, connections }
}

fn start_sources(args: &Run, configuration: &Arc<Configuration>) {
    if let Err(error) = source::last_good::load(&args.state_dir, configuration) {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "starting without the last good configuration");
    }
    let of = || Arc::clone(configuration);
    let file = args.config.clone();
    let watched = of();
    tokio::spawn(async move { source::file::watch(&file, watched).await });
    tokio::spawn(source::last_good::keep(args.state_dir.clone(), of()));
    tokio::spawn(source::stream::follow(
        args.token_file.clone(),
        args.pod.clone(),
        of(),
    ));
    tokio::spawn(quota::follow(
        args.quota_token_file.clone(),
        args.pod.clone(),
        of(),
    ));
    tokio::spawn(source::dns::resolve(of()));
}

/// See [`lifecycle`].
async fn leave(lifecycle: &Lifecycle, configuration: &Configuration, outbound: &Outbound) {
    let deadline = Instant::now() + lifecycle::DEADLINE;
    if !lifecycle.drain() {
        tokio::time::sleep(lifecycle::SURPRISE).await;
    }
    tracing::info!(in_flight = lifecycle.inbound.count(), "finishing");
    let finish = async {
        // Both outcomes are fine.
        let _ = tokio::time::timeout(lifecycle::QUIET, lifecycle.inbound.none()).await;
        configuration.listeners.close();
        configuration.listeners.closed().await;
        outbound.closing.cancel();
        outbound.connections.close();
        outbound.connections.wait().await;
    };
    if tokio::time::timeout_at(deadline, finish).await.is_err() {
        tracing::warn!(
            in_flight = lifecycle.inbound.count(),
            "some requests did not end in time"
        );
    }
}

async fn sweep(configuration: Arc<Configuration>, metrics: Metrics, outbound_port: u16) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if let Some(snapshot) = configuration.snapshot.load_full() {
            snapshot.sweep();
            let is_open = |port| {
                port == outbound_port || snapshot.listeners.iter().any(|listener| listener.port == port)
            };
            metrics.retain(&snapshot.names(), is_open);
        }
    }
}

/// Runs a verb on a runtime of its size.
pub(crate) fn on_runtime<T>(
    threads: Option<usize>,
    verb: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    // A sidecar is small; two threads keep health answered while the other is busy.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or_else(|| cores.min(2)).max(1);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(verb)
}
