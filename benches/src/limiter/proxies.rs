//! Proxies with limits, as processes.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    Options,
    configuration::{self, Limits},
};
use crate::{
    http,
    process::Process,
    proxy::{
        configuration::PREFIX,
        subject::{self, AccessLog, free_port, local},
    },
    wait,
};

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// Ours, in front of an app.
    Trellis,
    /// With its local rate limit.
    Envoy,
}

/// One that runs.
#[derive(Debug)]
pub struct Proxy {
    /// For CPU time.
    pub process: Process,
    /// Where it takes requests.
    pub address: SocketAddr,
}

/// Starts one and waits until it forwards.
pub async fn start(
    program: Program,
    limits: Limits,
    name: &str,
    options: &Options,
    upstream: u16,
    work: &Path,
) -> Result<Proxy> {
    let folder: PathBuf = work.join(name.replace(' ', "-"));
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let port = free_port()?;
    let mut command = match program {
        Program::Trellis => {
            let document = configuration::trellis(port, upstream, limits);
            subject::trellis(&options.trellis, &document, AccessLog::Off, &folder)?
        }
        Program::Envoy => {
            let configuration = configuration::envoy(port, upstream, limits);
            subject::envoy(&options.envoy, &configuration, &folder)?
        }
    };
    let mut proxy = Proxy {
        process: Process::start(name, &mut command, &folder.join("output.log"))?,
        address: local(port),
    };
    let what = format!("{name} forwards (logs: {})", folder.display());
    wait::until(&what, Duration::from_secs(20), async || {
        proxy.process.check()?;
        Ok(http::get(proxy.address, PREFIX).await.ok())
    })
    .await?;
    Ok(proxy)
}
