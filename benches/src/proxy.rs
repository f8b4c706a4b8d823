//! CPU per request, memory and latency of the gateway role, beside Envoy and nginx.
//!
//! ```text
//! load (this process, last core) --> proxy under test (first core) --> upstream (this process, last core)
//! ```
//!
//! - All three have the same duty: one route by path prefix that is cut off, kept-alive connections on both sides, and the
//!   same access log, either off or a JSON line a request into a file.
//! - Every subject runs all the time; in a round each gets its turn in every case, and the next round begins with the next
//!   subject. Ratios are taken within a round, and the median round is shown.
//! - A response that is not the upstream's 200 fails the bench: no figure is made of errors.

pub mod case;
pub mod configuration;
mod figures;
pub mod load;
pub mod subject;
pub mod upstream;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use self::{case::Case, figures::Figures, load::Lanes, subject::Subject};
use crate::{arguments::unless_told_to_end, machine::Machine, report};

/// Work before each measurement that is not measured: connections warm up, pools fill.
pub const WARM_UP: Duration = Duration::from_millis(300);

/// What to measure, and for how long.
#[derive(Debug, Args, Serialize)]
pub struct Options {
    /// The proxy's binary
    #[arg(long)]
    #[serde(skip)]
    trellis: PathBuf,
    /// Envoy's binary
    #[arg(long)]
    #[serde(skip)]
    envoy: PathBuf,
    /// nginx' binary
    #[arg(long)]
    #[serde(skip)]
    nginx: PathBuf,
    /// Requests a second in the cases with a fixed rate; choose it well below saturation
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Requests that may be under way at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    lanes: u32,
    /// Times that every subject gets its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// Measures, prints and writes.
pub fn run(options: &Options, work: &Path, output: &Path) -> Result<()> {
    let machine = Machine::look()?;
    stay_on_last_core()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start a runtime")?
        .block_on(unless_told_to_end(async {
            let figures = measure(options, work).await?;
            println!("{}\n\n{}", machine.describe(), figures.text(options));
            report::write(output, "proxy", &machine, &figures.json(options))
        }))
}

/// Leaves the other cores to what is under test. To be called before the first thread, so that all of them inherit it.
pub fn stay_on_last_core() -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(
        count >= 2,
        "the proxy and its load need a core each, and there is one only"
    );
    let mut cores = CpuSet::new();
    cores.set(count - 1).context("failed to name a core")?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("failed to stay on one core")
}

async fn measure(options: &Options, work: &Path) -> Result<Figures> {
    let upstream = upstream::start(|| {})?;
    let mut subjects = subject::start_all(options, upstream, work).await?;
    let mut figures = Figures::default();
    for round in 0..options.rounds {
        for case in Case::ALL {
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                options.rounds,
                case.describe(options)
            );
            for _ in 0..subjects.len() {
                let sample = take_turn(&mut subjects[0], case, options).await?;
                figures.add(&subjects[0], case, sample);
                subjects.rotate_left(1);
            }
        }
        subjects.rotate_left(1);
    }
    Ok(figures)
}

async fn take_turn(subject: &mut Subject, case: Case, options: &Options) -> Result<figures::Sample> {
    let name = subject.name();
    let address = subject.address(case.protocol);
    let mut lanes = Lanes::connect(address, case.protocol, options.lanes)
        .await
        .with_context(|| format!("failed to connect to {name}"))?;
    let pace = case.pace(options);
    let mut load = async |length| {
        let outcome = lanes.run(pace, length).await;
        outcome.with_context(|| format!("a request through {name} failed"))
    };
    load(WARM_UP).await?;
    let before = subject.cpu()?;
    let outcome = load(Duration::from_secs(options.seconds)).await?;
    let after = subject.cpu()?;
    let requests = outcome.requests as f64;
    Ok(figures::Sample {
        cpu_micros: after
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before).as_secs_f64() * 1e6 / requests),
        requests_per_second: requests / outcome.elapsed.as_secs_f64(),
        latency: outcome.times.percentiles().context("no request was made")?,
        memory: subject.memory()?,
    })
}
