//! What is shown: worked out of the [`timeline`](super::timeline) and the operator's own counters.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;
use trellis_testkit::control_plane::User;

use super::{Options, audit::Write, subject::Counts, timeline};
use crate::{
    process::Memory,
    report::Table,
    statistics::{Percentiles, Spread, Times},
};

/// A part of the run.
pub struct Phase {
    /// From when.
    pub begin: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// CPU that the operator used in it.
    pub cpu: Duration,
    /// The operator's memory at its end.
    pub memory: Memory,
    /// The operator's counters at its end.
    pub counts: Counts,
}

/// Everything that is shown.
#[derive(Debug, Serialize)]
pub struct Figures {
    creates: usize,
    children_per_create: f64,
    writes_per_create: f64,
    writes_by_resource: BTreeMap<String, Writes>,
    refused_writes: usize,
    passes_per_create: f64,
    /// A bound: 99 of 100 waits were at most as long.
    queue_wait_p99_seconds: Option<f64>,
    apply_to_last_child: Percentiles,
    /// Share of that, per Microservice, in which the API server was working on the operator's writes.
    in_api_server: Spread,
    plain_client: Percentiles,
    deployment_to_replica_set: Percentiles,
    cpu_ms_per_create: f64,
    memory: Memory,
    rest: Quiet,
    restart: Quiet,
    restart_to_reconciled_seconds: f64,
}

/// Writes of one kind.
#[derive(Debug, Serialize)]
struct Writes {
    per_create: f64,
    /// What the API server took.
    took: Percentiles,
}

/// A phase in which nothing is to be written.
#[derive(Debug, Serialize)]
struct Quiet {
    seconds: f64,
    writes: usize,
    cpu_ms: f64,
    memory: Memory,
}

/// All figures, with the parameters they were got with.
#[derive(Serialize)]
pub struct Json<'a> {
    options: &'a Options,
    figures: &'a Figures,
}

impl Figures {
    /// Works them out.
    pub fn new(
        log: &[Write],
        creating: &Phase,
        rest: &Phase,
        restart: &Phase,
        restart_to_reconciled: Duration,
        plain: Times,
    ) -> Result<Self> {
        let ours: Vec<&Write> = log
            .iter()
            .filter(|write| write.user() == User::Operator.name())
            .collect();
        let during = |phase: &Phase| -> Vec<&Write> {
            let writes = ours.iter().copied();
            writes
                .filter(|write| phase.begin <= write.received && write.received <= phase.end)
                .collect()
        };
        let written = during(creating);
        let created = timeline::applied(log);
        let creates = created.len() as f64;
        let children: Vec<&Write> = written
            .iter()
            .copied()
            .filter(|write| timeline::is_child(write))
            .collect();
        let last = timeline::last_child(&created, &children);
        let quiet = |phase: &Phase| Quiet {
            seconds: phase.end.duration_since(phase.begin).as_secs_f64(),
            writes: during(phase).len(),
            cpu_ms: phase.cpu.as_secs_f64() * 1e3,
            memory: phase.memory,
        };
        Ok(Self {
            creates: created.len(),
            children_per_create: timeline::distinct(&children) as f64 / creates,
            writes_per_create: written.len() as f64 / creates,
            writes_by_resource: by_resource(&written, creates)?,
            refused_writes: written.iter().filter(|write| write.refused()).count(),
            passes_per_create: creating.counts.sum("controller_runtime_reconcile_total") / creates,
            queue_wait_p99_seconds: creating.counts.below("workqueue_queue_duration_seconds", 0.99),
            apply_to_last_child: last
                .iter()
                .map(|(elapsed, _)| *elapsed)
                .collect::<Times>()
                .percentiles()
                .context("no Microservice got a child")?,
            in_api_server: Spread::of(
                last.iter()
                    .map(|(elapsed, waited)| waited.as_secs_f64() / elapsed.as_secs_f64()),
            )
            .context("no Microservice got a child")?,
            plain_client: plain.percentiles().context("the plain client wrote nothing")?,
            deployment_to_replica_set: timeline::replica_sets(log, &children)
                .percentiles()
                .context("the Deployment controller made no ReplicaSet")?,
            cpu_ms_per_create: creating.cpu.as_secs_f64() * 1e3 / creates,
            memory: creating.memory,
            rest: quiet(rest),
            restart: quiet(restart),
            restart_to_reconciled_seconds: restart_to_reconciled.as_secs_f64(),
        })
    }

    /// For people.
    pub fn text(&self, options: &Options) -> String {
        let mut writes = Table::new([
            "written by the operator",
            "a create",
            "API server p50 ms",
            "p99 ms",
        ]);
        for (resource, of) in &self.writes_by_resource {
            writes.row([
                resource.clone(),
                format!("{:.2}", of.per_create),
                format!("{:.1}", of.took.p50),
                format!("{:.1}", of.took.p99),
            ]);
        }
        let mut table = Table::new(["figure", "value"]);
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row(
            "writes a create (children + statuses and Events)",
            format!(
                "{:.2} ({:.2} children)",
                self.writes_per_create, self.children_per_create
            ),
        );
        row("refused writes", self.refused_writes.to_string());
        row("passes a create", format!("{:.2}", self.passes_per_create));
        row(
            "queue wait p99",
            self.queue_wait_p99_seconds
                .map_or_else(String::new, |bound| format!("<= {:.0} ms", bound * 1e3)),
        );
        row("apply to last child", self.apply_to_last_child.to_string());
        row("  in the API server, share", self.in_api_server.to_string());
        row("plain client, the same children", self.plain_client.to_string());
        row(
            "Deployment to ReplicaSet (Kubernetes)",
            self.deployment_to_replica_set.to_string(),
        );
        row("CPU a create", format!("{:.1} ms", self.cpu_ms_per_create));
        row("memory with all of them", memory(self.memory));
        let quiet = |quiet: &Quiet| {
            format!(
                "{} writes, {:.0} ms CPU in {:.0} s, {}",
                quiet.writes,
                quiet.cpu_ms,
                quiet.seconds,
                memory(quiet.memory)
            )
        };
        row("at rest", quiet(&self.rest));
        row("after a restart", quiet(&self.restart));
        row(
            "restart to everything looked at",
            format!("{:.1} s", self.restart_to_reconciled_seconds),
        );
        format!(
            "{} Microservices, {} creates/s\n\n{}\n\n{}",
            self.creates,
            options.rate,
            writes.text(),
            table.text()
        )
    }

    /// For programs.
    pub const fn json<'a>(&'a self, options: &'a Options) -> Json<'a> {
        Json {
            options,
            figures: self,
        }
    }
}

fn memory(memory: Memory) -> String {
    format!("RSS {:.1} MiB (peak {:.1})", memory.resident_mib, memory.peak_mib)
}

fn by_resource(writes: &[&Write], creates: f64) -> Result<BTreeMap<String, Writes>> {
    let mut times = BTreeMap::<String, Times>::new();
    for write in writes {
        times.entry(write.resource()).or_default().add(write.took());
    }
    times
        .into_iter()
        .map(|(resource, times)| {
            let took = times.percentiles().context("a kind without writes")?;
            let per_create = took.count as f64 / creates;
            Ok((resource, Writes { per_create, took }))
        })
        .collect()
}
