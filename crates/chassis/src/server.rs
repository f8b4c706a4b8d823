//! The life of a domain service's process, from its command line to its exit code.
//!
//! ```text
//! args -> config (faults: exit 64, no port bound) -> telemetry -> bind :8080 and :9090 -> serve
//!   SIGTERM -> not ready, `Connection: close` -> quiet for a second -> stop accepting -> finish -> exit 0
//! ```
//!
//! A pod that is told to leave still gets requests for a while: endpoint lists take time to travel, and its
//! own sidecar holds open connections. Closing the port at once would fail them, so the service goes on
//! accepting until no request has come for [`Times::quiet`], and only then shuts the listener; each response
//! meanwhile asks its connection to close. [`Times::deadline`] bounds all of it below the pod's grace period.

mod connections;
mod observe;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time;

use crate::admin;
use crate::args::{Args, EXIT_USAGE};
use crate::config::{self, Environment, Listen};
use crate::drain;
use crate::fault_injection::FaultInjection;
use crate::metrics::Requests;
use crate::readiness::Readiness;
use crate::telemetry::{self, Telemetry};

pub use connections::Activity;
pub use observe::{MAX_BODY, REQUEST_TIMEOUT};
pub use routes::Routes;

/// What a service is built with.
#[derive(Debug)]
pub struct Process {
    /// For the tasks that the service waits for.
    pub readiness: Readiness,
    /// For metrics of its own.
    pub registry: Registry,
    /// None: nobody can ask for faults.
    pub fault_injection: Option<FaultInjection>,
    /// Where the first port listens; None: it is not bound.
    pub http: Option<SocketAddr>,
    /// Further ports.
    pub ports: Vec<Port>,
}

/// A further port, served and left like the first one.
#[derive(Debug)]
pub struct Port {
    /// What it is called in the log.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// The variable that sets that.
    pub variable: &'static str,
    /// What it serves.
    pub router: Router,
}

/// How long leaving may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Without a new request for this long, nobody is thought to send any more.
    pub quiet: Duration,
    /// Stop accepting after this long, quiet or not.
    pub linger: Duration,
    /// Give up what is still running after this long in all; below the default grace period of 30 s.
    pub deadline: Duration,
}

/// A service whose ports are bound.
#[derive(Debug)]
pub struct Bound {
    http: TcpListener,
    admin: TcpListener,
}

/// Why a service ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be bound.
    #[error("failed to listen on {address}; free the port or set {variable}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The variable that sets it.
        variable: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The admin port failed while serving.
    #[error("failed to serve the admin port")]
    Admin(#[source] io::Error),
    /// Requests were still running when the time to leave was up.
    #[error("failed to finish every request within {0:?}")]
    Deadline(Duration),
}

/// The configuration as `--check-config` prints it.
#[derive(Debug, Serialize)]
struct Settings<C> {
    listen: Listen,
    fault_injection: bool,
    service: C,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(1),
            linger: Duration::from_secs(10),
            deadline: Duration::from_secs(25),
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Self {
            readiness: Readiness::new(),
            registry: Registry::default(),
            fault_injection: None,
            http: None,
            ports: Vec::new(),
        }
    }
}

/// Runs the service `name`: reads its configuration, builds its routes, serves until SIGTERM.
pub async fn main<C: Serialize>(
    name: &'static str,
    read: impl FnOnce(&mut Environment) -> Option<C>,
    build: impl FnOnce(C, &mut Process) -> Router,
) -> ExitCode {
    let args = match Args::parse(name) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let settings = config::load(Environment::process(), |env| {
        let listen = Listen::read(env);
        let fault_injection = env.optional("FAULT_INJECTION", false, "write true or false, or leave it out");
        let service = read(env);
        Some(Settings {
            listen: listen?,
            fault_injection: fault_injection?,
            service: service?,
        })
    });
    let settings = match settings {
        Ok(settings) => settings,
        Err(faults) => return refuse(&faults),
    };
    if args.check_config {
        println!("{}", serde_json::to_string_pretty(&settings).unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let telemetry = match telemetry::init(name) {
        Ok(telemetry) => telemetry,
        Err(error) => return refuse(&error),
    };
    leave(&serve(name, settings, build).await, telemetry)
}

async fn serve<C>(
    name: &'static str,
    settings: Settings<C>,
    build: impl FnOnce(C, &mut Process) -> Router,
) -> Result<(), Error> {
    let bound = Bound::bind(settings.listen).await?;
    let mut process = Process {
        fault_injection: settings.fault_injection.then(FaultInjection::default),
        http: bound.addresses().ok().map(|(http, _)| http),
        ..Process::default()
    };
    let router = build(settings.service, &mut process);
    let router = app(name, router, &mut process);
    bound
        .run(router, process, Times::default(), drain::terminated())
        .await
}

/// The service's routes with everything around them: paths that end in `/` are equal to those without,
/// unknown paths and methods are problems, every request is traced, counted and bounded. The same around its further ports.
pub fn app(name: &'static str, router: Router, process: &mut Process) -> Router {
    let requests = Requests::register(&mut process.registry);
    let around = |router| observe::around(name, router, requests.clone(), process.readiness.clone());
    for port in &mut process.ports {
        port.router = around(std::mem::take(&mut port.router));
    }
    around(router)
}

/// A JSON document that is part of the binary, such as the OpenAPI document.
pub fn json(document: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

impl Bound {
    /// Binds both ports.
    ///
    /// # Errors
    /// [`Error::Bind`] names the address and the variable that changes it.
    pub async fn bind(listen: Listen) -> Result<Self, Error> {
        let admin = bind(listen.admin, "ADMIN_ADDRESS").await?;
        Ok(Self {
            http: bind(listen.http, "HTTP_ADDRESS").await?,
            admin,
        })
    }

    /// Where it listens: for users and for the admin port.
    ///
    /// # Errors
    /// The system's, which does not happen for a socket that is bound.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.admin.local_addr()?))
    }

    /// Serves until `leave` completes, then drains.
    ///
    /// # Errors
    /// [`Error::Deadline`] if requests had to be cut off, [`Error::Bind`] for a further port.
    pub async fn run(
        self,
        router: Router,
        process: Process,
        times: Times,
        leave: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let Process {
            readiness,
            registry,
            fault_injection,
            ports,
            ..
        } = process;
        let mut further = Vec::new();
        for port in ports {
            let listener = bind(port.address, port.variable).await?;
            if let Ok(address) = listener.local_addr() {
                tracing::info!(port = port.name, %address, "serving a further port");
            }
            further.push((listener, port.router));
        }
        if let Ok((http, admin)) = self.addresses() {
            tracing::info!(%http, %admin, "serving");
        }
        let (admin_stop, admin_stopped) = drain::channel();
        let mut admin = admin::router(readiness.clone(), Arc::new(registry));
        let mut router = router;
        if let Some(injection) = &fault_injection {
            admin = admin.merge(injection.admin());
            router = injection.around(router);
        }
        let admin = tokio::spawn(admin::serve(self.admin, admin, admin_stopped));

        let (stop, stopped) = drain::channel();
        let activity = Activity::default();
        let faults = fault_injection.unwrap_or_default();
        let mut serving = JoinSet::new();
        for (listener, router) in [(self.http, router)].into_iter().chain(further) {
            serving.spawn(connections::serve(
                listener,
                router,
                activity.clone(),
                stopped.clone(),
                faults.watch(),
            ));
        }

        leave.await;
        readiness.drain();
        tracing::info!("draining");
        let drained = time::timeout(times.deadline, async {
            // Quiet or not: past the linger the listener closes.
            let _ = time::timeout(times.linger, activity.quiet_for(times.quiet)).await;
            stop.start();
            // The tasks end by themselves and do not panic; a lost one has nothing left to finish.
            while serving.join_next().await.is_some() {}
        })
        .await;
        admin_stop.start();
        drained.map_err(|_| Error::Deadline(times.deadline))?;
        // A scraper that holds its connection open does not hold up the exit.
        match time::timeout(times.quiet, admin).await {
            Ok(Ok(served)) => served.map_err(Error::Admin),
            _ => Ok(()),
        }
    }
}

async fn bind(address: SocketAddr, variable: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind {
        address,
        variable,
        source,
    })
}

fn refuse(fault: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{fault}");
    ExitCode::from(EXIT_USAGE)
}

fn leave(result: &Result<(), Error>, telemetry: Telemetry) -> ExitCode {
    let code = match result {
        Ok(()) => {
            tracing::info!("left");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "service ended");
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    code
}
