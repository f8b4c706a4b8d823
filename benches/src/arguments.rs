//! The command line: what `cargo xtask bench` hands over.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{limiter, operator, proxy, saga, saga_core};

#[derive(Parser)]
#[command(name = "trellis-bench", version)]
pub struct Arguments {
    /// Where the results go, as JSON
    #[arg(long)]
    output: PathBuf,
    /// An empty folder for whatever runs; its logs stay if something fails
    #[arg(long)]
    work: PathBuf,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The rate limiters beside the governor crate and Envoy
    Limiter(limiter::Options),
    /// The operator beside the API server's own latency and the Deployment controller
    Operator(operator::Options),
    /// The proxy beside Envoy and nginx
    Proxy(proxy::Options),
    /// The saga engine over PostgreSQL, beside the disk and pgbench
    Saga(saga::Options),
    /// What of sagas needs no store: check, decisions, log, memory
    SagaCore(saga_core::Options),
}

impl Arguments {
    /// Measures, prints the tables, and writes the JSON.
    pub fn run(self) -> Result<()> {
        match &self.bench {
            Bench::Operator(options) => tokio::runtime::Runtime::new()
                .context("failed to start a runtime")?
                .block_on(unless_told_to_end(operator::run(
                    options,
                    &self.work,
                    &self.output,
                ))),
            Bench::Limiter(options) => limiter::run(options, &self.work, &self.output),
            Bench::Proxy(options) => proxy::run(options, &self.work, &self.output),
            Bench::Saga(options) => saga::run(options, &self.output),
            Bench::SagaCore(options) => saga_core::run(options, &self.output),
        }
    }
}

/// Runs to the end or to a signal. Either way everything that was started ends with it.
pub async fn unless_told_to_end(bench: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen to signals")?;
    tokio::select! {
        result = bench => result,
        _ = terminate.recv() => bail!("told to end"),
        _ = interrupt.recv() => bail!("told to end"),
    }
}
