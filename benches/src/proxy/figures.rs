//! What came of the rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Options,
    case::Case,
    subject::{AccessLog, Program, Subject},
};
use crate::{
    process::Memory,
    report::Table,
    statistics::{Percentiles, Spread},
};

/// One subject's turn in one case of one round.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Microseconds of CPU a request.
    pub cpu_micros: Option<f64>,
    /// Requests answered a second.
    pub requests_per_second: f64,
    /// As the client saw it.
    pub latency: Percentiles,
    /// After the turn.
    pub memory: Option<Memory>,
}

/// Samples of every subject in every case, by round.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<(Case, AccessLog, Program), Vec<Sample>>);

#[derive(Serialize)]
pub struct Json<'a> {
    options: &'a Options,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    case: String,
    access_log: AccessLog,
    program: Program,
    cpu_micros: Option<Spread>,
    /// By program that ours is compared with.
    cpu_ratio: BTreeMap<String, Spread>,
    rounds: &'a [Sample],
}

impl Figures {
    /// Takes a sample in.
    pub fn add(&mut self, subject: &Subject, case: Case, sample: Sample) {
        self.0
            .entry((case, subject.access_log, subject.program))
            .or_default()
            .push(sample);
    }

    /// A table a case.
    pub fn text(&self, options: &Options) -> String {
        let tables = Case::ALL.map(|case| {
            let mut table = Table::new([
                "proxy (access log)",
                "CPU us/request",
                "ours / its",
                "requests/s",
                "p50 ms",
                "p99 ms",
                "RSS MiB",
            ]);
            for ((_, log, program), samples) in self.0.iter().filter(|((of, ..), _)| *of == case) {
                let show = |figure: &dyn Fn(&Sample) -> Option<f64>| {
                    Spread::of(samples.iter().filter_map(figure))
                        .map_or_else(String::new, |it| it.to_string())
                };
                table.row([
                    format!("{program:?} ({log:?})").to_lowercase(),
                    show(&|sample| sample.cpu_micros),
                    self.ratio(case, *log, *program)
                        .map_or_else(String::new, |it| it.to_string()),
                    show(&|sample| Some(sample.requests_per_second)),
                    show(&|sample| Some(sample.latency.p50)),
                    show(&|sample| Some(sample.latency.p99)),
                    show(&|sample| Some(sample.memory?.resident_mib)),
                ]);
            }
            format!("{}\n{}", case.describe(options), table.text())
        });
        let note = "Each figure: median (least-most) of the rounds. \"ours / its\": CPU a request of trellis, divided by \
                    the row's, within a round.";
        format!("{}\n\n{note}", tables.join("\n\n"))
    }

    /// Everything, for programs.
    pub fn json<'a>(&'a self, options: &'a Options) -> Json<'a> {
        let row = |(key, samples): (&(Case, AccessLog, Program), &'a Vec<Sample>)| {
            let (case, access_log, program) = *key;
            let peers = [Program::Envoy, Program::Nginx].into_iter();
            Row {
                case: case.describe(options),
                access_log,
                program,
                cpu_micros: Spread::of(samples.iter().filter_map(|sample| sample.cpu_micros)),
                cpu_ratio: peers
                    .filter(|_| program == Program::Trellis)
                    .filter_map(|peer| {
                        Some((
                            format!("{peer:?}").to_lowercase(),
                            self.ratio(case, access_log, peer)?,
                        ))
                    })
                    .collect(),
                rounds: samples,
            }
        };
        Json {
            options,
            rows: self.0.iter().map(row).collect(),
        }
    }

    /// CPU a request of ours, divided by a peer's, round by round.
    fn ratio(&self, case: Case, log: AccessLog, peer: Program) -> Option<Spread> {
        if peer == Program::Trellis {
            return None;
        }
        let ours = self.0.get(&(case, log, Program::Trellis))?;
        let its = self.0.get(&(case, log, peer))?;
        Spread::of(
            ours.iter()
                .zip(its)
                .filter_map(|(ours, its)| Some(ours.cpu_micros? / its.cpu_micros?)),
        )
    }
}
