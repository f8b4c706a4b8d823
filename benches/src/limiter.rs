//! What rate limits cost and what they let through, beside the `governor` crate and Envoy's local rate limit.
//!
//! | part | how |
//! |---|---|
//! | memory | resident memory before and after 100,000 keys, in this process |
//! | decisions | the limiters alone, on threads of this process, by a clock that is a number |
//! | policies | the proxy's own layers around a service that answers at once, in a process without a socket |
//! | admission | the most that passes in any window: limiters by a clock that is a number, proxies by when requests reached the backend |
//! | requests | CPU a request of whole proxies with a limit, less the same without |
//!
//! The last two run as the bench of the proxy does, with its load, upstream and subjects.
//!
//! Other work on the machine takes a part of every figure that is not a count: times are those of a thread or a process on a
//! processor, subjects take turns in every round, and the median round is shown.

mod admission;
mod configuration;
mod decisions;
mod limiters;
mod memory;
mod policies;
mod proxies;
mod requests;
mod schedule;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    arguments::unless_told_to_end,
    machine::Machine,
    proxy::{stay_on_last_core, upstream},
    report,
};

/// What to measure, and for how long.
#[derive(Debug, Args, Serialize)]
pub struct Options {
    /// The proxy's binary
    #[arg(long)]
    #[serde(skip)]
    trellis: PathBuf,
    /// The binary that times the proxy's layers
    #[arg(long)]
    #[serde(skip)]
    timing: PathBuf,
    /// Envoy's binary
    #[arg(long)]
    #[serde(skip)]
    envoy: PathBuf,
    /// Parts to measure; all if none is given
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds of decisions
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    decision_rounds: u32,
    /// Rounds of requests through proxies
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    request_rounds: u32,
    /// Length of a proxy's turn in such a round
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Requests under way at once through a proxy
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    lanes: u32,
    /// Times that a proxy is left alone and then overloaded
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    overloads: u32,
}

/// A part of the bench; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Memory,
    Decisions,
    Policies,
    Admission,
    Requests,
}

/// What came of it, part by part.
#[derive(Debug, Default, Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    memory: Vec<memory::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decisions: Vec<decisions::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policies: Vec<policies::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    admission: Vec<admission::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    requests: Vec<requests::Row>,
}

#[derive(Serialize)]
struct Json<'a> {
    options: &'a Options,
    #[serde(flatten)]
    figures: &'a Figures,
}

/// Measures, prints and writes.
pub fn run(options: &Options, work: &Path, output: &Path) -> Result<()> {
    let machine = Machine::look()?;
    println!("{}", machine.describe());
    let wants = |part| options.only.is_empty() || options.only.contains(&part);
    let mut figures = Figures::default();
    // First: what was freed before would be used again.
    if wants(Part::Memory) {
        figures.memory = memory::measure()?;
        println!("\n{}", memory::text(&figures.memory));
    }
    if wants(Part::Decisions) {
        figures.decisions = decisions::measure(options.decision_rounds)?;
        println!("\n{}", decisions::text(&figures.decisions));
    }
    if wants(Part::Policies) {
        figures.policies = policies::measure(&options.timing)?;
        println!("\n{}", policies::text(&figures.policies));
    }
    if wants(Part::Admission) || wants(Part::Requests) {
        stay_on_last_core()?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start a runtime")?
            .block_on(unless_told_to_end(async {
                if wants(Part::Admission) {
                    figures.admission = admission::measure(options, work).await?;
                    println!("\n{}", admission::text(&figures.admission));
                }
                if wants(Part::Requests) {
                    let upstream = upstream::start(|| {})?;
                    figures.requests = requests::measure(options, upstream, work).await?;
                    println!("\n{}", requests::text(&figures.requests));
                }
                Ok(())
            }))?;
    }
    let json = Json {
        options,
        figures: &figures,
    };
    report::write(output, "limiter", &machine, &json)
}
