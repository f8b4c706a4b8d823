//! What a limit adds to the CPU of a request through a whole proxy.
//!
//! Every proxy runs three times: without a limit, with one for all requests, and with one for each caller by a header. Limits
//! are so high that nobody is refused, and tell what is left in the same three headers. All are busy in their turn (so many requests under way at all times): at a
//! lower rate, waking the process costs several times what a limit does, and varies by more.
//!
//! Added is what a proxy with a limit takes more than the same without in the same round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use trellis_proxy_config::limit::Algorithm;

use super::{
    Options,
    configuration::Limits,
    proxies::{self, Program, Proxy},
};
use crate::{
    proxy::{
        WARM_UP,
        case::Protocol,
        load::{Lanes, Pace},
    },
    report::Table,
    statistics::{Middle, Spread},
};

/// A second; more than any proxy here gets through. The most that ours takes for a bucket.
const LIMIT: u32 = 1_000_000;

/// A proxy with a limit or without.
#[derive(Debug, Serialize)]
pub struct Row {
    program: Program,
    limit: &'static str,
    /// Microseconds of CPU a request.
    cpu_micros: Spread,
    /// Microseconds more than without a limit.
    added_micros: Option<Middle>,
    /// Requests answered a second.
    requests_per_second: Spread,
    rounds: Vec<Sample>,
}

struct Subject {
    program: Program,
    limit: &'static str,
    proxy: Proxy,
    rounds: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Sample {
    cpu_micros: f64,
    requests_per_second: f64,
}

/// Measures.
pub async fn measure(options: &Options, upstream: u16, work: &Path) -> Result<Vec<Row>> {
    let mut subjects = Vec::new();
    for (limit, limits) in [
        ("none", Limits::None),
        ("for all", Limits::Total(Algorithm::TokenBucket, LIMIT)),
        ("for each caller", Limits::Each(Algorithm::TokenBucket, LIMIT)),
        (
            "for each caller, sliding window",
            Limits::Each(Algorithm::SlidingWindow, LIMIT),
        ),
    ] {
        for program in [Program::Trellis, Program::Envoy] {
            let is_bucket = !matches!(limits, Limits::Each(Algorithm::SlidingWindow, _));
            if program == Program::Envoy && !is_bucket {
                continue;
            }
            let name = format!("{program:?} limit {limit}").to_lowercase();
            subjects.push(Subject {
                program,
                limit,
                proxy: proxies::start(program, limits, &name, options, upstream, work).await?,
                rounds: Vec::new(),
            });
        }
    }
    let count = subjects.len();
    for round in 0..options.request_rounds as usize {
        eprintln!("requests: round {} of {}", round + 1, options.request_rounds);
        for place in 0..count {
            subjects[(place + round) % count].take_turn(options).await?;
        }
    }
    let without = |program: Program| {
        let mut subjects = subjects.iter();
        subjects.find(|subject| subject.program == program && subject.limit == "none")
    };
    subjects
        .iter()
        .map(|subject| {
            let base = without(subject.program).context("there is none without a limit")?;
            let spread = |figure: &dyn Fn(&Sample) -> f64| {
                Spread::of(subject.rounds.iter().map(figure)).context("no round was measured")
            };
            let added = subject.rounds.iter().zip(&base.rounds);
            let added = added.map(|(with, without)| with.cpu_micros - without.cpu_micros);
            Ok(Row {
                program: subject.program,
                limit: subject.limit,
                cpu_micros: spread(&|sample| sample.cpu_micros)?,
                added_micros: Middle::of(added).filter(|_| subject.limit != "none"),
                requests_per_second: spread(&|sample| sample.requests_per_second)?,
                rounds: subject.rounds.clone(),
            })
        })
        .collect()
}

impl Subject {
    async fn take_turn(&mut self, options: &Options) -> Result<()> {
        let mut lanes = Lanes::connect(self.proxy.address, Protocol::Http1, options.lanes).await?;
        lanes.run(Pace::Saturated, WARM_UP).await?;
        self.proxy.process.check()?;
        let before = self.proxy.process.cpu()?;
        let outcome = lanes
            .run(Pace::Saturated, Duration::from_secs(options.seconds))
            .await
            .with_context(|| format!("a request failed; {:?}, limit {}", self.program, self.limit))?;
        let cpu = self.proxy.process.cpu()?.saturating_sub(before);
        let requests = outcome.requests as f64;
        self.rounds.push(Sample {
            cpu_micros: cpu.as_secs_f64() * 1e6 / requests,
            requests_per_second: requests / outcome.elapsed.as_secs_f64(),
        });
        Ok(())
    }
}

/// A table.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new(["proxy, limit", "CPU us/request", "added us", "requests/s"]);
    for row in rows {
        table.row([
            format!("{:?}, {}", row.program, row.limit).to_lowercase(),
            row.cpu_micros.to_string(),
            row.added_micros.map_or_else(String::new, |it| it.to_string()),
            row.requests_per_second.to_string(),
        ]);
    }
    let note = "Added: median of the rounds, and between which half of them are.";
    format!("{}\n\n{note}", table.text())
}
