//! The operator as a plain process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use trellis_testkit::control_plane::{ControlPlane, OPERATOR_NAMESPACE, User, free_port};

use crate::{
    http,
    process::{Memory, Process},
    wait,
};

/// A running operator that leads.
pub struct Subject {
    process: Process,
    admin: SocketAddr,
}

/// What the operator counts, by name with labels.
#[derive(Debug, Clone, Default)]
pub struct Counts(BTreeMap<String, f64>);

impl Subject {
    /// Starts it, and waits until it leads.
    pub async fn start(binary: &Path, cluster: &ControlPlane, log: &Path) -> Result<Self> {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let stream = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = Command::new(binary);
        command
            .args(["--proxy-image", "trellis-proxy"])
            .args(["--namespace", OPERATOR_NAMESPACE])
            .args(["--admin-address", &admin.to_string()])
            .args(["--stream-address", &stream.to_string()])
            .args(["--pod-name", "bench"])
            .env("KUBECONFIG", cluster.kubeconfig(User::Operator));
        let mut subject = Self {
            process: Process::start("the operator", &mut command, log)?,
            admin,
        };
        let what = format!("the operator leads (log: {})", log.display());
        wait::until(&what, Duration::from_secs(60), async || {
            subject.process.check()?;
            let leads = subject
                .counts()
                .await
                .is_ok_and(|counts| counts.value("trellis_operator_leader") == Some(1.0));
            Ok(leads.then_some(()))
        })
        .await?;
        Ok(subject)
    }

    /// Waits until as many passes went well, and nothing is due any more.
    pub async fn wait_until_reconciled(&self, count: u32) -> Result<()> {
        let passes = "controller_runtime_reconcile_total{controller=\"microservice\",result=\"success\"}";
        let depth = "workqueue_depth{name=\"microservice\"}";
        wait::until(
            "the operator has looked at everything",
            Duration::from_secs(600),
            async || {
                let counts = self.counts().await?;
                let done = counts
                    .value(passes)
                    .is_some_and(|passes| passes >= f64::from(count));
                Ok((done && counts.value(depth) == Some(0.0)).then_some(()))
            },
        )
        .await
    }

    /// Its metrics.
    pub async fn counts(&self) -> Result<Counts> {
        http::get(self.admin, "/metrics")
            .await
            .map(|text| Counts::parse(&text))
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// Memory now.
    pub fn memory(&self) -> Result<Memory> {
        self.process.memory()
    }

    /// Ends it, as a rollout would.
    pub async fn end(self) -> Result<()> {
        self.process.end().await.context("failed to end the operator")
    }
}

impl Counts {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .filter_map(|line| {
                    let (name, value) = line.rsplit_once(' ')?;
                    Some((name.to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    /// A number by its full name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Sum over all labels of a name.
    pub fn sum(&self, name: &str) -> f64 {
        self.0
            .iter()
            .filter(|(full, _)| full.split('{').next() == Some(name))
            .map(|(_, value)| value)
            .sum()
    }

    /// The least bound of a histogram that `share` of all observations are below; none without observations.
    pub fn below(&self, histogram: &str, share: f64) -> Option<f64> {
        let count = self.sum(&format!("{histogram}_count"));
        let prefix = format!("{histogram}_bucket{{");
        let mut buckets: Vec<(f64, f64)> = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .filter_map(|(name, value)| {
                let bound = name.split("le=\"").nth(1)?.split('"').next()?;
                Some((bound.replace("+Inf", "inf").parse().ok()?, *value))
            })
            .collect();
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        let enough = buckets
            .iter()
            .find(|(_, below)| count > 0.0 && *below >= share * count);
        enough.map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_of_a_histogram_is_the_bound_of_its_bucket() {
        let counts = Counts::parse(
            "# TYPE wait histogram\nwait_count{name=\"x\"} 100\nwait_bucket{le=\"0.001\",name=\"x\"} 90\n\
             wait_bucket{le=\"0.01\",name=\"x\"} 99\nwait_bucket{le=\"+Inf\",name=\"x\"} 100\n",
        );
        assert_eq!(counts.below("wait", 0.9), Some(0.001));
        assert_eq!(counts.below("wait", 0.99), Some(0.01));
        assert_eq!(counts.below("wait", 1.0), Some(f64::INFINITY));
        assert_eq!(counts.below("other", 0.5), None);
        assert_eq!(counts.sum("wait_count"), 100.0);
    }
}
