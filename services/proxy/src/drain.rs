//! The verb `drain`: asks the proxy in the same pod to drain, and returns when it may be stopped.
//!
//! Kubernetes runs it as preStop, because images without a shell have nothing else to run.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use http::header::HOST;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::{args::Drain, body::Body, connect::connect};

/// The proxy answers in time or never.
const SLACK: Duration = Duration::from_secs(2);

/// Asks, and waits for the answer.
pub(crate) async fn drain(args: &Drain) -> anyhow::Result<ExitCode> {
    let address = SocketAddr::from(([127, 0, 0, 1], args.admin_port));
    let asked = tokio::time::timeout(args.longest() + SLACK, ask(address, args));
    asked
        .await
        .with_context(|| format!("failed to get an answer from {address} in time"))??;
    Ok(ExitCode::SUCCESS)
}

async fn ask(address: SocketAddr, args: &Drain) -> anyhow::Result<()> {
    let stream = connect(address)
        .await
        .context("failed to find the proxy's admin port")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = format!(
        "/drain?hold={}&longest={}",
        args.hold().as_secs(),
        args.longest().as_secs()
    );
    let request = http::Request::post(target)
        .header(HOST, address.to_string())
        .body(Body::empty())?;
    let response = sender.send_request(request).await?;
    ensure!(
        response.status().is_success(),
        "the proxy answered {}",
        response.status()
    );
    drop(sender);
    connection.abort();
    Ok(())
}
