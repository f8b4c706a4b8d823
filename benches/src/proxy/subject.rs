//! The proxies under test, each in two processes: with and without an access log.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use tokio::process::Command;
use trellis_proxy_config::Document;

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
    let mut command = match program {
        Program::Trellis => {
            let document = configuration::trellis(port, upstream);
            trellis(&options.trellis, &document, access_log, &folder)?
        }
        Program::Envoy => {
            let configuration = configuration::envoy(port, upstream, logged, &[]);
            envoy(&options.envoy, &configuration, &folder)?
        }
        Program::Nginx => {
            let file = write(
                &configuration::nginx(port, h2c, upstream, logged, &folder),
                &folder,
            )?;
            let mut command = under_test(&options.nginx);
            command.args(["-c".as_ref(), file.as_os_str(), "-p".as_ref(), folder.as_os_str()]);
            command
        }
        Program::None => bail!("no proxy is nothing to start"),
    };
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

/// Our proxy with this document and a thread for requests; what it writes goes into the folder.
pub fn trellis(binary: &Path, document: &Document, access_log: AccessLog, folder: &Path) -> Result<Command> {
    let file = write(&serde_json::to_string(document)?, folder)?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let mut command = under_test(binary);
    command
        .arg("run")
        .args(["--config".as_ref(), file.as_os_str()])
        .args(["--state-dir".as_ref(), folder.as_os_str()])
        .args(["--admin-port", &ports[0].to_string()])
        .args(["--outbound-port", &ports[1].to_string()])
        .args(["--health-port", &ports[2].to_string()])
        .args(["--worker-threads", "1"])
        .args([
            "--access-log",
            match access_log {
                AccessLog::On => "on",
                AccessLog::Off => "off",
            },
        ]);
    Ok(command)
}

/// Envoy with this configuration and a thread for requests.
pub fn envoy(binary: &Path, configuration: &Value, folder: &Path) -> Result<Command> {
    let file = write(&configuration.to_string(), folder)?;
    let mut command = under_test(binary);
    command.args(["--config-path".as_ref(), file.as_os_str()]).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warning",
    ]);
    Ok(command)
}

/// A program on the core of those under test.
fn under_test(binary: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", CORE]).arg(binary);
    command
}

fn write(configuration: &str, folder: &Path) -> Result<PathBuf> {
    let file = folder.join("configuration");
    fs::write(&file, configuration).context("failed to write a configuration")?;
    Ok(file)
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

/// An address of this machine.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A port that nobody has now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(local(0)).context("failed to find a free port")?;
    Ok(listener
        .local_addr()
        .context("a socket without an address")?
        .port())
}
