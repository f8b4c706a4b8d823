//! `cargo xtask soak`: long runs on the cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use e2e::Cluster;
use serde::Serialize;
use soak::{Disturbance, Options, Protocol};

#[derive(Parser)]
#[command(
    name = "soak",
    bin_name = "cargo xtask soak",
    about = "Long runs on the cluster"
)]
enum Verb {
    /// Load through the gateway while what is behind it rolls, scales, restarts and changes: no request may fail
    Drops(Drops),
    /// Orders through the gateway while the saga engine, the services and the database are killed: money and stock must balance
    Orders(Orders),
}

#[derive(Args)]
struct Orders {
    /// For how long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Orders a second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Where the figures go as JSON [default: a file beside the build]
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct Drops {
    /// Less than a minute: a deleted pod, a roll, more and fewer replicas
    #[arg(long)]
    short: bool,
    /// This alone instead of a plan; may be given again, and happens in that order
    #[arg(long, conflicts_with = "short")]
    only: Vec<Disturbance>,
    /// What is spoken to the gateway
    #[arg(long, default_value = "h1")]
    protocol: Protocol,
    /// Requests a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Requests that can be under way at a time
    #[arg(long, default_value_t = 64)]
    callers: usize,
    /// Where the figures go as JSON [default: a file beside the build]
    #[arg(long)]
    output: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Verb::parse() {
        Verb::Drops(drops) => self::drops(drops).await,
        Verb::Orders(orders) => self::orders(orders).await,
    }
}

async fn orders(orders: Orders) -> Result<()> {
    let options = soak::orders::Options {
        rate: orders.rate,
        time: Duration::from_secs(orders.minutes * 60),
    };
    let report = soak::orders::run(&Cluster::connect().await?, &options).await?;
    print!("{report}");
    let file = orders.output.map_or_else(|| beside("orders"), Ok)?;
    write(&file, &report)?;
    ensure!(report.faults.is_empty(), "{}", report.faults.join("; "));
    Ok(())
}

async fn drops(drops: Drops) -> Result<()> {
    let options = Options {
        protocol: drops.protocol,
        rate: drops.rate,
        callers: drops.callers,
        short: drops.short,
        only: drops.only,
    };
    let report = soak::run(&Cluster::connect().await?, &options).await?;
    println!("{report}");
    let name = format!("drops-{}", drops.protocol.as_ref());
    let file = drops.output.map_or_else(|| beside(&name), Ok)?;
    write(&file, &report)?;
    ensure!(report.faults.is_empty(), "{}", report.faults.join("; "));
    Ok(())
}

fn write(file: &Path, report: &impl Serialize) -> Result<()> {
    fs::write(file, serde_json::to_vec_pretty(report)?)
        .with_context(|| format!("failed to write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

/// `target/soak/drops-h1.json`, wherever the target folder is.
fn beside(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program
        .ancestors()
        .nth(2)
        .context("this program is in no folder")?;
    let folder = target.join("soak");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{name}.json")))
}
