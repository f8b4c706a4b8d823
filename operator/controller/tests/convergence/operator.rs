//! The process under test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use trellis_testkit::control_plane::{ControlPlane, OPERATOR_NAMESPACE, User, free_port};

/// Longest start, and longest wait for an end.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of the log in a complaint.
const TAIL: usize = 25;

static STARTED: AtomicU32 = AtomicU32::new(0);

/// How to start it.
#[derive(Debug, Clone)]
pub struct Launch {
    /// As what it holds the Lease. A process that comes after another of the same name does not wait for the Lease to run out.
    pub identity: &'static str,
    /// Namespace of the Lease. Two operators with a Lease each both believe that they lead.
    pub lease: &'static str,
    /// What goes wrong (`TRELLIS_FAULTS`).
    pub faults: Option<String>,
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            identity: "only",
            lease: OPERATOR_NAMESPACE,
            faults: None,
        }
    }
}

/// A running operator; killed when it is dropped.
pub struct Operator {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

/// What it counts, by name with labels.
#[derive(Debug, Clone, Default)]
pub struct Counts(BTreeMap<String, f64>);

impl Operator {
    /// Starts it, and waits until it leads.
    pub async fn start(cluster: &ControlPlane, launch: &Launch) -> Self {
        let mut operator = Self::spawn(cluster, launch).await;
        operator
            .until("it leads", async |counts| {
                counts.value("trellis_operator_leader") == 1.0
            })
            .await;
        operator
    }

    /// Starts it, and waits until it answers.
    pub async fn spawn(cluster: &ControlPlane, launch: &Launch) -> Self {
        let [admin, stream] =
            [free_port().unwrap(), free_port().unwrap()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = cluster.file(&format!("operator-{number}.log"));
        let output = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_trellis-operator"));
        command
            .args(["--proxy-image", "trellis-proxy"])
            .args(["--namespace", launch.lease])
            .args(["--admin-address", &admin.to_string()])
            .args(["--stream-address", &stream.to_string()])
            .args(["--pod-name", launch.identity])
            .env("KUBECONFIG", cluster.kubeconfig(User::Operator))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        if let Some(faults) = &launch.faults {
            command.env("TRELLIS_FAULTS", faults);
        }
        let mut operator = Self {
            child: command.spawn().unwrap(),
            admin,
            log,
        };
        operator.until("it answers", async |_| true).await;
        operator
    }

    /// Waits for what it counts to show something.
    pub async fn until(&mut self, what: &str, mut shows: impl AsyncFnMut(&Counts) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                panic!(
                    "the operator has ended ({status}) before {what}:\n{}",
                    self.tail()
                );
            }
            if let Some(counts) = self.counts().await
                && shows(&counts).await
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}:\n{}",
                self.tail()
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until it has seen the whole cluster.
    pub async fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/readyz").await.is_none() {
            assert!(Instant::now() < deadline, "it is not ready:\n{}", self.tail());
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Its metrics; None if it does not answer.
    pub async fn counts(&self) -> Option<Counts> {
        self.get("/metrics").await.map(|body| Counts::parse(&body))
    }

    /// The body of a 200.
    async fn get(&self, path: &str) -> Option<String> {
        let get = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            stream
                .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(Duration::from_secs(5), get).await.ok()?.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// How it has ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on:\n{}", self.tail());
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.end();
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.end();
    }
}

impl Counts {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .filter_map(|line| {
                    let (name, value) = line.rsplit_once(' ')?;
                    Some((name.to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    /// A number by its name, summed over all labels; 0 if there is none.
    pub fn value(&self, name: &str) -> f64 {
        self.0
            .iter()
            .filter(|(full, _)| full.split('{').next() == Some(name))
            .map(|(_, value)| value)
            .sum()
    }

    /// Whether nothing is due, runs, or waits for another try.
    pub fn is_idle(&self) -> bool {
        [
            "workqueue_depth",
            "controller_runtime_active_workers",
            "trellis_operator_failing",
        ]
        .iter()
        .all(|name| self.value(name) == 0.0)
    }
}
