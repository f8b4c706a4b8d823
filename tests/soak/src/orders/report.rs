//! What a run found: a table for people, JSON for programs, and a verdict.

use std::fmt;

use serde::Serialize;

use super::{
    Options,
    blows::{Dealt, Kill, Victim},
    client::Sent,
    judge::Judged,
};
use crate::{report::Machine, sample::Quantiles};

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    rate: u32,
    seconds: u64,
    sent: Sent,
    dealt: Dealt,
    judged: Judged,
    /// Why the run has failed; empty if it has not.
    pub faults: Vec<String>,
}

impl Report {
    pub(super) fn new(machine: Machine, options: &Options, sent: Sent, dealt: Dealt, judged: Judged) -> Self {
        let mut faults: Vec<String> = [&sent.faults, &dealt.faults, &judged.faults]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if dealt.revisions.len() == 2 && judged.revisions.len() < 2 {
            faults.push("no run was of the new revision".to_owned());
        }
        Self {
            machine,
            rate: options.rate,
            seconds: options.time.as_secs(),
            sent,
            dealt,
            judged,
            faults,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            rate,
            seconds,
            sent,
            dealt,
            judged,
            faults,
        } = self;
        writeln!(f, "{rate} orders a second for {seconds} s; {machine}")?;
        let Quantiles { p50, p99, max, .. } = sent.acknowledged;
        writeln!(
            f,
            "{} orders, {} tries; acknowledged in p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms",
            sent.orders, sent.tries
        )?;
        let Quantiles { count, p50, p99, max } = judged.runs;
        writeln!(
            f,
            "{} completed, {} rejected ({} in vain); {count} runs took p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms",
            judged.completed, judged.rejected, judged.in_vain
        )?;
        writeln!(
            f,
            "{:<14} {:>6} {:>12} {:>12}",
            "killed", "times", "back p50 ms", "back max ms"
        )?;
        for victim in [
            Victim::Engine,
            Victim::Order,
            Victim::Inventory,
            Victim::Payment,
            Victim::PostgreSql,
        ] {
            let of_it = |kill: &&Kill| kill.victim == victim;
            let mut back: Vec<f64> = dealt
                .kills
                .iter()
                .filter(of_it)
                .map(|kill| kill.recovered_ms)
                .collect();
            back.sort_by(f64::total_cmp);
            let (Some(p50), Some(max)) = (back.get(back.len() / 2), back.last()) else {
                continue;
            };
            writeln!(
                f,
                "{:<14} {:>6} {p50:>12.0} {max:>12.0}",
                victim.to_string(),
                back.len()
            )?;
        }
        writeln!(
            f,
            "{} owners of runs stopped past their lease, late records of {} refused; a roll of the engine took {:.1} s",
            dealt.stopped,
            dealt.refused,
            dealt.rolled_ms / 1e3
        )?;
        writeln!(
            f,
            "runs by revision {:?}; {} of them ended after the other had begun",
            judged.revisions, judged.outlasted
        )?;
        for fault in faults {
            writeln!(f, "FAULT: {fault}")?;
        }
        Ok(())
    }
}
