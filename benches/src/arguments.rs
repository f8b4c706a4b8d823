//! The command line: what `cargo xtask bench` hands over.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::{operator, proxy};

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
    /// The operator beside the API server's own latency and the Deployment controller
    Operator(operator::Options),
    /// The proxy beside Envoy and nginx
    Proxy(proxy::Options),
}

impl Arguments {
    /// Measures, prints the tables, and writes the JSON.
    pub fn run(self) -> Result<()> {
        match &self.bench {
            Bench::Operator(options) => tokio::runtime::Runtime::new()
                .context("failed to start a runtime")?
                .block_on(operator::run(options, &self.work, &self.output)),
            Bench::Proxy(options) => proxy::run(options, &self.work, &self.output),
        }
    }
}
