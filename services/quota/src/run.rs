//! Wiring: what runs beside what, and in which order it ends.
//!
//! To stop: not ready, streams end (proxies go to another replica), the Lease is given back, the process ends. A lost Lease or a dead
//! port ends it at once, with an error.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser as _;
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time;
use trellis_chassis::readiness::Readiness;
use trellis_chassis::{admin, drain, telemetry};
use trellis_kube::caller::Authenticator;
use trellis_kube::leader::{self, Candidate, Leadership, Term};
use trellis_quota_stream::{AUDIENCE, clock};
use trellis_rate::lease::Epoch;

use crate::args::Args;
use crate::book::{Book, Claim};
use crate::metrics::OfBook;
use crate::server::Server;
use crate::{pods, policies};

/// Exit status of a wrong command line (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// Name of the Lease.
const LEASE: &str = "trellis-quota";
/// The times of the Lease. A successor is there well before the leases of proxies end (30 s).
const CLAIM: [Duration; 3] = [
    Duration::from_secs(8),
    Duration::from_secs(6),
    Duration::from_secs(2),
];
/// Longest silence on a connection that owes an answer: a little more than a watch lasts.
const SILENCE: Duration = Duration::from_secs(40);
/// Time between tries to list pods.
const RETRY: Duration = Duration::from_millis(300);
/// Time between looks for what does not count any more.
const SWEEP: Duration = Duration::from_secs(5);
/// How long streams may take to end.
const LEAVE: Duration = Duration::from_secs(5);

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[error("failed to find out where the API server is; set KUBECONFIG or run in a pod")]
    Config(#[from] kube::config::InferConfigError),
    #[error("failed to make a client of the API server")]
    Client(#[from] kube::Error),
    #[error("failed to listen on {address}; is the port taken?")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Leadership(#[from] leader::Error),
    #[error("failed to serve the admin port")]
    Admin(#[source] std::io::Error),
    #[error("failed to serve the stream")]
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
    match start(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "the quota authority ends");
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> Result<(), Error> {
    let telemetry = telemetry::init("trellis-quota")?;
    let result = run(args).await;
    telemetry.shutdown();
    result
}

async fn run(args: Args) -> Result<(), Error> {
    // Its first reading is the origin.
    clock::now();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), name = args.name, "starting");
    let book = Arc::new(Mutex::new(Book::default()));
    let mut registry = Registry::default();
    registry.register_collector(Box::new(OfBook(Arc::clone(&book))));
    let readiness = Readiness::new();
    let admin_port = listen(args.admin_address).await?;
    let port = listen(args.address).await?;
    let mut config = kube::Config::infer().await?;
    config.read_timeout = Some(SILENCE);
    let client = Client::try_from(config)?;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let candidate = Candidate {
        identity: args.name.clone(),
        address: args
            .ip
            .map(|ip| format!("http://{}", SocketAddr::new(ip, args.address.port()))),
    };

    let (stop, stopping) = drain::channel();
    let (finish, finishing) = drain::channel();
    let router = admin::router(readiness.clone(), Arc::new(registry));
    let mut admin = tokio::spawn(admin::serve(admin_port, router, finishing.clone()));
    let mut pods = tokio::spawn(pods::watch(
        client.clone(),
        Arc::clone(&book),
        readiness.task("pods"),
    ));
    let [duration, deadline, renew] = CLAIM;
    let settings = leader::Settings {
        lease: LEASE.to_owned(),
        duration,
        deadline,
        renew,
    };
    let (leadership, authority) = Leadership::new(client.clone(), &namespace, candidate, settings);
    let server = Server {
        authenticator: Authenticator::new(client.clone(), AUDIENCE),
        book: Arc::clone(&book),
        leader: leadership.leader(),
        drain: stopping,
    };
    tokio::spawn(follow(authority.terms(), client.clone(), Arc::clone(&book)));
    tokio::spawn(sweep(book));
    let mut leadership = tokio::spawn(leadership.run(finishing));
    let mut stream = tokio::spawn(server.serve(port));

    let mut terminated = std::pin::pin!(drain::terminated());
    tokio::select! {
        () = &mut terminated => {}
        ended = &mut leadership => return ended?.map_err(Error::from).and(Err(Error::Ended("leadership"))),
        ended = &mut stream => return ended?.map_err(Error::Stream).and(Err(Error::Ended("the stream"))),
        ended = &mut admin => return ended?.map_err(Error::Admin).and(Err(Error::Ended("the admin port"))),
        ended = &mut pods => return ended.map_err(Error::from).and(Err(Error::Ended("the watch of pods"))),
    }
    readiness.drain();
    stop.start();
    if time::timeout(LEAVE, stream).await.is_err() {
        tracing::warn!("streams did not end in time");
    }
    finish.start();
    leadership.await??;
    Ok(())
}

/// Tells the book of the claim.
async fn follow(mut terms: watch::Receiver<Option<Term>>, client: Client, book: Arc<Mutex<Book>>) {
    let mut current: Option<Claim> = None;
    loop {
        let term = *terms.borrow_and_update();
        let next = term.map(|term| claim(term, current));
        book.lock().claimed(next);
        if let Some(claim) = next.filter(|next| current.is_none_or(|current| current.epoch != next.epoch)) {
            tokio::spawn(list(claim.epoch, client.clone(), Arc::clone(&book)));
        }
        current = next;
        if terms.changed().await.is_err() {
            book.lock().claimed(None);
            return;
        }
    }
}

/// Tells the book which pods and policies there are after the claim. A pod that the own watch has not shown yet may hold a lease of an
/// epoch before; a policy that comes later is nobody's but this one's.
async fn list(epoch: Epoch, client: Client, book: Arc<Mutex<Book>>) {
    loop {
        match tokio::join!(pods::list(&client), policies::list(&client)) {
            (Ok(pods), policies) => {
                let policies = policies.inspect_err(|error| {
                    let error: &dyn std::error::Error = error;
                    tracing::warn!(
                        error,
                        "failed to list rate limit policies; new ones wait as old ones do"
                    );
                });
                let (policies, count) = (policies.ok(), pods.len());
                let of_policies = policies.as_ref().map(HashSet::len);
                tracing::info!(epoch = epoch.0, pods = count, policies = of_policies, "granting");
                return book.lock().listed(epoch, pods, policies);
            }
            (Err(error), _) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "failed to list pods; trying again");
            }
        }
        if !book.lock().claims(epoch) {
            return;
        }
        time::sleep(RETRY).await;
    }
}

/// A term by the clock of leases. The term's own clock stands still while the machine sleeps, so it is read once, at the renewal.
fn claim(term: Term, before: Option<Claim>) -> Claim {
    let (now, epoch) = (clock::now(), Epoch(term.epoch));
    let same = before.filter(|before| before.epoch == epoch);
    Claim {
        epoch,
        began: same.map_or(now, |same| same.began),
        until: now.after(term.until.saturating_duration_since(Instant::now())),
    }
}

async fn sweep(book: Arc<Mutex<Book>>) {
    loop {
        time::sleep(SWEEP).await;
        book.lock().sweep(clock::now());
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}
