//! The operator with a thousand Microservices, beside the API server's own latency and the Deployment controller.
//!
//! A real etcd, API server and controller manager run here, without a kubelet: the Deployments want no pods. Everything is
//! taken from one audit log, which has every write with its author and the API server's own times; see [`timeline`].
//!
//! 1. **Creates**, at a fixed rate. Every tenth time a plain client also writes the children of one Microservice, one after
//!    the other, as a program would that knew beforehand what to write: the floor of what an operator can reach.
//! 2. **Rest**: everything is ready, nothing changes.
//! 3. **Restart**: a new process finds everything reconciled.

mod audit;
mod figures;
mod microservices;
mod plain;
mod subject;
mod timeline;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use kube::Client;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep};
use trellis_testkit::control_plane::{ControlPlane, Setup, User};

use self::{
    figures::{Figures, Phase},
    subject::Subject,
};
use crate::{machine::Machine, report, statistics::Times};

/// Of this many Microservices, one is also written by the plain client.
const PLAIN_EVERY: u32 = 10;

/// What to measure.
#[derive(Debug, Args, Serialize)]
pub struct Options {
    /// Folder with the components of Kubernetes
    #[arg(long)]
    #[serde(skip)]
    programs: PathBuf,
    /// The operator's binary
    #[arg(long)]
    #[serde(skip)]
    operator: PathBuf,
    /// Folder of manifests: definitions, and the operator's rights
    #[arg(long)]
    #[serde(skip)]
    manifests: PathBuf,
    /// Microservices
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..10_000))]
    count: u32,
    /// Creates a second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Seconds at rest
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    rest: u64,
}

/// Measures, prints and writes.
pub async fn run(options: &Options, work: &Path, output: &Path) -> Result<()> {
    let machine = Machine::look()?;
    let mut cluster = ControlPlane::start(Setup {
        manifests: &options.manifests,
        programs: Some(&options.programs),
        audit_policy: audit::POLICY,
        durable: true,
    })
    .await?;
    for namespace in [microservices::NAMESPACE, plain::NAMESPACE] {
        cluster.kubectl(&["create", "namespace", namespace])?;
    }
    let client = cluster.client(User::Test).await?;
    let figures = measure(options, &mut cluster, client, work).await?;
    println!("{}\n\n{}", machine.describe(), figures.text(options));
    report::write(output, "operator", &machine, &figures.json(options))
}

async fn measure(
    options: &Options,
    cluster: &mut ControlPlane,
    client: Client,
    work: &Path,
) -> Result<Figures> {
    let operator = Subject::start(&options.operator, cluster, &work.join("operator.log")).await?;
    eprintln!(
        "creating {} Microservices, {} a second",
        options.count, options.rate
    );
    let begin = Timestamp::now();
    let before = operator.cpu()?;
    let plain = create(options, &client).await?;
    microservices::wait_until_ready(&client, options.count).await?;
    let creating = Phase {
        begin,
        end: Timestamp::now(),
        cpu: operator.cpu()?.saturating_sub(before),
        memory: operator.memory()?,
        counts: operator.counts().await?,
    };

    eprintln!("resting for {} s", options.rest);
    let rest = watch(&operator, Duration::from_secs(options.rest)).await?;
    operator.end().await?;

    eprintln!("restarting the operator");
    let begin = Timestamp::now();
    let operator = Subject::start(&options.operator, cluster, &work.join("operator-restarted.log")).await?;
    operator.wait_until_reconciled(options.count).await?;
    let reconciled = Timestamp::now();
    // A write that comes late is a write.
    sleep(Duration::from_secs(5)).await;
    let restart = Phase {
        begin,
        end: Timestamp::now(),
        cpu: operator.cpu()?,
        memory: operator.memory()?,
        counts: operator.counts().await?,
    };
    operator.end().await?;
    cluster.check()?;
    let writes = audit::read(&cluster.audit_log())?;
    Figures::new(
        &writes,
        &creating,
        &rest,
        &restart,
        reconciled.duration_since(begin).unsigned_abs(),
        plain,
    )
}

/// Creates all, and answers how long the plain client took for the children of one.
async fn create(options: &Options, client: &Client) -> Result<Times> {
    let mut ticks = interval(Duration::from_secs(1) / options.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    microservices::create(client, 0).await?;
    let children = plain::children(client, &microservices::name(0)).await?;
    let mut under_way = tokio::task::JoinSet::new();
    let mut plain = Times::default();
    for number in 1..options.count {
        ticks.tick().await;
        let (client, children) = (client.clone(), children.clone());
        under_way.spawn(async move {
            microservices::create(&client, number).await?;
            if number % PLAIN_EVERY != 0 {
                return Ok(None);
            }
            plain::write(&client, &children, number).await.map(Some)
        });
        while let Some(done) = under_way.try_join_next() {
            done?
                .context("failed to create")?
                .into_iter()
                .for_each(|time| plain.add(time));
        }
    }
    while let Some(done) = under_way.join_next().await {
        done?
            .context("failed to create")?
            .into_iter()
            .for_each(|time| plain.add(time));
    }
    Ok(plain)
}

/// Looks on for a while.
async fn watch(operator: &Subject, length: Duration) -> Result<Phase> {
    let begin = Timestamp::now();
    let before = operator.cpu()?;
    sleep(length).await;
    Ok(Phase {
        begin,
        end: Timestamp::now(),
        cpu: operator.cpu()?.saturating_sub(before),
        memory: operator.memory()?,
        counts: operator.counts().await?,
    })
}
