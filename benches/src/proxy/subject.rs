//! The proxies under test, each in two processes: with and without an access log.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::process::Command;

use super::{
    Options,
    case::Protocol,
    configuration::{self, PREFIX},
};
use crate::{
    http,
    process::{Memory, Process},
    wait,
};

/// The core of whatever is under test. The load has the last one.
const CORE: &str = "0";

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// Ours.
    Trellis,
    /// The peer of service meshes.
    Envoy,
    /// The bar for later.
    Nginx,
    /// No proxy at all: what the load and the upstream take by themselves.
    None,
}

/// Whether requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// A JSON line each, into a file.
    On,
    /// Not at all.
    Off,
}

/// A running proxy.
#[derive(Debug)]
pub struct Subject {
    /// Which.
    pub program: Program,
    /// Whether it logs.
    pub access_log: AccessLog,
    process: Option<Process>,
    http1: SocketAddr,
    h2c: SocketAddr,
}

/// Starts everything and waits until each forwards.
pub async fn start_all(options: &Options, upstream: u16, work: &Path) -> Result<Vec<Subject>> {
    let mut subjects = vec![Subject {
        program: Program::None,
        access_log: AccessLog::Off,
        process: None,
        http1: local(upstream),
        h2c: local(upstream),
    }];
    for access_log in [AccessLog::Off, AccessLog::On] {
        for program in [Program::Trellis, Program::Envoy, Program::Nginx] {
            subjects.push(start(program, access_log, options, upstream, work).await?);
        }
    }
    Ok(subjects)
}

async fn start(
    program: Program,
    access_log: AccessLog,
    options: &Options,
    upstream: u16,
    work: &Path,
) -> Result<Subject> {
    let folder = work.join(format!("{program:?}-{access_log:?}").to_lowercase());
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let port = free_port()?;
    let h2c = if program == Program::Nginx {
        free_port()?
    } else {
        port
    };
    let lines = folder.join("access.log");
    let logged = (access_log == AccessLog::On).then_some(&*lines);
    let file = folder.join("configuration");
    let write = |text: String| fs::write(&file, text).context("failed to write a configuration");
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", CORE]);
    match program {
        Program::Trellis => {
            write(serde_json::to_string(&configuration::trellis(port, upstream))?)?;
            let ports = [free_port()?, free_port()?, free_port()?];
            command
                .arg(&options.trellis)
                .arg("run")
                .args(["--config".as_ref(), file.as_os_str()])
                .args(["--state-dir".as_ref(), folder.as_os_str()])
                .args(["--admin-port", &ports[0].to_string()])
                .args(["--outbound-port", &ports[1].to_string()])
                .args(["--health-port", &ports[2].to_string()])
                .args(["--worker-threads", "1"])
                .args(["--access-log", if logged.is_some() { "on" } else { "off" }]);
        }
        Program::Envoy => {
            write(configuration::envoy(port, upstream, logged).to_string())?;
            command
                .arg(&options.envoy)
                .args(["--config-path".as_ref(), file.as_os_str()])
                .args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "--log-level",
                    "warning",
                ]);
        }
        Program::Nginx => {
            write(configuration::nginx(port, h2c, upstream, logged, &folder))?;
            command.arg(&options.nginx).args([
                "-c".as_ref(),
                file.as_os_str(),
                "-p".as_ref(),
                folder.as_os_str(),
            ]);
        }
        Program::None => {}
    }
    // Our log lines go to standard output, which is this file.
    let mut subject = Subject {
        program,
        access_log,
        process: Some(Process::start(
            &format!("{program:?}"),
            &mut command,
            &folder.join("output.log"),
        )?),
        http1: local(port),
        h2c: local(h2c),
    };
    let what = format!("{} forwards (logs: {})", subject.name(), folder.display());
    wait::until(&what, Duration::from_secs(20), async || {
        if let Some(process) = &mut subject.process {
            process.check()?;
        }
        Ok(http::get(subject.http1, PREFIX).await.ok())
    })
    .await?;
    if logged.is_some() {
        has_logged(&subject, [&lines, &folder.join("output.log")]).await?;
    }
    Ok(subject)
}

/// A subject whose access log does not work would look cheap.
async fn has_logged(subject: &Subject, files: [&Path; 2]) -> Result<()> {
    let what = format!("{} logs the path of a request", subject.name());
    wait::until(&what, Duration::from_secs(20), async || {
        let found = files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .any(|text| text.contains(&format!("\"path\":\"{PREFIX}\"")));
        Ok(found.then_some(()))
    })
    .await
}

impl Subject {
    /// For people.
    pub fn name(&self) -> String {
        format!("{:?}, access log {:?}", self.program, self.access_log).to_lowercase()
    }

    /// Where it takes requests.
    pub const fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::H2c => self.h2c,
        }
    }

    /// CPU time so far; none if there is no proxy.
    pub fn cpu(&mut self) -> Result<Option<Duration>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        process.check()?;
        process.cpu().map(Some)
    }

    /// Memory now; none if there is no proxy.
    pub fn memory(&self) -> Result<Option<Memory>> {
        self.process.as_ref().map(Process::memory).transpose()
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A port that nobody has now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(local(0)).context("failed to find a free port")?;
    Ok(listener
        .local_addr()
        .context("a socket without an address")?
        .port())
}
