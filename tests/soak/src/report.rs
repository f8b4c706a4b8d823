//! What a run found: a table for people, JSON for programs, and a verdict.

use std::{fmt, fs, ops::Range, time::Duration};

use serde::Serialize;

use crate::{
    disturbance::Disturbance,
    ledger::Verdict,
    line::Protocol,
    sample::{Quantiles, Sample, Summary, seconds},
};

/// Failures that are kept word for word.
const SHOWN: usize = 40;
/// Part of the asked rate that a run must have held: less says something about the machine, not about the mesh.
const HELD: f64 = 0.95;

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) began: String,
    pub(crate) protocol: Protocol,
    /// Requests a second that were asked for.
    pub(crate) rate: u32,
    /// Connections that were opened.
    pub(crate) connections: u64,
    pub(crate) machine: Machine,
    pub(crate) total: Summary,
    pub(crate) spans: Vec<Row>,
    pub(crate) propagation: Vec<Propagation>,
    pub(crate) ledger: Verdict,
    pub(crate) failures: Vec<Sample>,
    /// Why the run has failed; empty if it has not.
    pub faults: Vec<String>,
}

/// The machine, as far as figures depend on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory: String,
    kernel: String,
    /// Load average of the last minute when the run began.
    busy: String,
}

/// The time of one disturbance.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) disturbance: Disturbance,
    #[serde(serialize_with = "seconds")]
    pub(crate) took: Duration,
    pub(crate) summary: Summary,
    /// Of the failures, those that were in a process when it was killed.
    pub(crate) in_killed: usize,
}

/// How long edits took to arrive.
#[derive(Debug, Serialize)]
pub(crate) struct Propagation {
    pub(crate) disturbance: Disturbance,
    /// To the last pod that they concerned, in milliseconds.
    pub(crate) times: Quantiles,
}

/// What a run was, for the report.
pub(crate) struct Run {
    pub(crate) began: jiff::Timestamp,
    pub(crate) machine: Machine,
    pub(crate) protocol: Protocol,
    pub(crate) rate: u32,
    pub(crate) connections: u64,
    /// When each disturbance began and ended.
    pub(crate) spans: Vec<(Disturbance, Range<Duration>)>,
    /// When processes were killed.
    pub(crate) killed: Vec<Range<Duration>>,
    pub(crate) propagation: Vec<Propagation>,
    pub(crate) ledger: Verdict,
    /// Why the run did not get to its end.
    pub(crate) faults: Vec<String>,
    /// Requests that a run must have made.
    pub(crate) least: usize,
    /// Whether a run that falls behind its rate proves nothing.
    pub(crate) paced: bool,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let line = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_default();
            line.trim_start_matches(key)
                .trim_matches([':', '\t', ' '])
                .to_owned()
        };
        let busy = line("/proc/loadavg", "");
        Self {
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            processor: line("/proc/cpuinfo", "model name"),
            memory: line("/proc/meminfo", "MemTotal"),
            kernel: line("/proc/sys/kernel/osrelease", ""),
            busy: busy.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, {}, load {}", self.cores, self.processor, self.busy)
    }
}

impl Run {
    /// Sums up.
    pub(crate) fn report(mut self, samples: &[Sample]) -> Report {
        let excused = |sample: &Sample| self.killed.iter().any(|span| sample.overlaps(span));
        let failed = || samples.iter().filter(|sample| sample.fault.is_some());
        let rows = self.spans.iter().map(|(disturbance, span)| {
            let sent = || samples.iter().filter(|sample| span.contains(&sample.sent));
            Row {
                disturbance: *disturbance,
                took: span.end - span.start,
                summary: Summary::of(sent()),
                in_killed: sent().filter(|s| s.fault.is_some() && excused(s)).count(),
            }
        });
        let spans: Vec<Row> = rows.collect();
        let total = Summary::of(samples.iter());

        let dropped = failed().filter(|sample| !excused(sample)).count();
        if dropped > 0 {
            self.faults.push(format!("{dropped} requests failed"));
        }
        self.faults.extend(self.ledger.fault());
        if total.requests < self.least {
            let least = self.least;
            self.faults.push(format!(
                "{} requests are too few to tell: {least} are wanted",
                total.requests
            ));
        }
        let last = samples
            .iter()
            .map(|sample| sample.ended)
            .max()
            .unwrap_or_default();
        let held = total.requests as f64 / last.as_secs_f64().max(1.0);
        if self.paced && held < f64::from(self.rate) * HELD {
            self.faults.push(format!(
                "{held:.0} requests a second were made, {} were to be: this machine is too busy",
                self.rate
            ));
        }
        Report {
            began: self.began.to_string(),
            protocol: self.protocol,
            rate: self.rate,
            connections: self.connections,
            machine: self.machine,
            total,
            spans,
            propagation: self.propagation,
            ledger: self.ledger,
            failures: failed().take(SHOWN).cloned().collect(),
            faults: self.faults,
        }
    }
}

impl Row {
    /// The row as a line of the table.
    pub(crate) fn line(&self) -> String {
        line(
            &self.disturbance.to_string(),
            self.took,
            &self.summary,
            self.in_killed,
        )
    }
}

fn line(name: &str, took: Duration, summary: &Summary, in_killed: usize) -> String {
    let Summary {
        requests,
        failures,
        p50,
        p99,
        max,
    } = summary;
    let excuse = match in_killed {
        0 => String::new(),
        count => format!("   ({count} in the killed process)"),
    };
    format!(
        "{name:<40} {:>6.1} {requests:>9} {failures:>8} {p50:>8.1} {p99:>8.1} {max:>8.1}{excuse}",
        took.as_secs_f64()
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, rate, machine) = (self.protocol.as_ref(), self.rate, &self.machine);
        writeln!(
            f,
            "{protocol}, {rate} requests a second due at fixed times, {} connections; {machine}",
            self.connections
        )?;
        writeln!(
            f,
            "{:<40} {:>6} {:>9} {:>8} {:>8} {:>8} {:>8}",
            "", "s", "requests", "failures", "p50 ms", "p99 ms", "max ms"
        )?;
        for row in &self.spans {
            writeln!(f, "{}", row.line())?;
        }
        let took = self.spans.iter().map(|row| row.took).sum();
        let in_killed = self.spans.iter().map(|row| row.in_killed).sum();
        writeln!(f, "{}", line("in all", took, &self.total, in_killed))?;
        for Propagation { disturbance, times } in &self.propagation {
            let Quantiles { p50, p99, max, .. } = times;
            writeln!(
                f,
                "{disturbance}: each reached the last pod in p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
            )?;
        }
        let Verdict {
            rows,
            acknowledged,
            unacknowledged,
            ..
        } = &self.ledger;
        writeln!(
            f,
            "orders table: {acknowledged} acknowledged, {} stored without an answer, {rows} rows in all",
            unacknowledged.len()
        )?;
        for failure in &self.failures {
            writeln!(
                f,
                "failed at {:.3} s, after {:.0} ms: {:?} {}: {}",
                failure.sent.as_secs_f64(),
                (failure.ended - failure.sent).as_secs_f64() * 1e3,
                failure.kind,
                failure.ticket,
                failure.fault.as_deref().unwrap_or_default()
            )?;
        }
        match self.faults.as_slice() {
            [] => writeln!(f, "nothing dropped"),
            faults => faults.iter().try_for_each(|fault| writeln!(f, "FAILED: {fault}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::Kind;

    fn run(killed: Vec<Range<Duration>>) -> Run {
        Run {
            began: jiff::Timestamp::UNIX_EPOCH,
            machine: Machine::here(),
            protocol: Protocol::H1,
            rate: 10,
            connections: 1,
            spans: vec![(Disturbance::SidecarKilled, Duration::ZERO..Duration::from_secs(2))],
            killed,
            propagation: Vec::new(),
            ledger: Verdict::default(),
            faults: Vec::new(),
            least: 20,
            paced: true,
        }
    }

    /// Twenty requests in two seconds, of which the one at 1 s takes 100 ms and fails.
    fn samples() -> Vec<Sample> {
        let sample = |ticket: u64| Sample {
            ticket,
            kind: Kind::ReadUser,
            due: Duration::from_millis(ticket * 100),
            sent: Duration::from_millis(ticket * 100),
            ended: Duration::from_millis(ticket * 100 + 100),
            fault: (ticket == 10).then(|| "502".to_owned()),
        };
        (0..20).map(sample).collect()
    }

    #[test]
    fn one_failure_fails_a_run() {
        let report = run(Vec::new()).report(&samples());
        assert_eq!(report.faults, ["1 requests failed"]);
        assert!(report.to_string().contains("502"));
    }

    #[test]
    fn only_what_was_under_way_when_a_process_was_killed_is_excused() {
        let at = |ms: u64| Duration::from_millis(ms)..Duration::from_millis(ms + 5);
        assert_eq!(
            run(vec![at(1050)]).report(&samples()).faults,
            Vec::<String>::new()
        );
        assert_eq!(run(vec![at(1200)]).report(&samples()).faults.len(), 1);
    }

    #[test]
    fn a_run_that_made_too_few_requests_proves_nothing() {
        let few = &samples()[..5];
        let report = run(Vec::new()).report(few);
        assert!(
            report.faults.iter().any(|fault| fault.contains("too few")),
            "{:?}",
            report.faults
        );
        let mut late = samples();
        late[19].ended = Duration::from_secs(9);
        let report = run(vec![Duration::ZERO..Duration::from_secs(9)]).report(&late);
        assert!(
            report.faults.iter().any(|fault| fault.contains("too busy")),
            "{:?}",
            report.faults
        );
    }
}
