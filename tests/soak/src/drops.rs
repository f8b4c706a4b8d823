//! Nothing drops: load through the gateway while one thing after the other happens to what is behind it.

use std::{net::SocketAddr, time::Duration};

use ::http::StatusCode;
use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Cluster, cluster::own_operator, http, restoring};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    disturbance::{ALL, Disturbance, SHORT},
    ledger,
    line::Protocol,
    load::{Load, Rate},
    report::{Machine, Propagation, Report, Run},
    sample::Summary,
    shop::Shop,
    traffic::Traffic,
};

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is spoken to the gateway.
    pub protocol: Protocol,
    /// Requests a second.
    pub rate: u32,
    /// Requests that can be under way at a time.
    pub callers: usize,
    /// Less than a minute instead of the whole plan.
    pub short: bool,
    /// These alone instead of a plan, if there are any.
    pub only: Vec<Disturbance>,
}

impl Options {
    fn plan(&self) -> &[Disturbance] {
        match (self.only.as_slice(), self.short) {
            ([], true) => &SHORT,
            ([], false) => &ALL,
            (only, _) => only,
        }
    }

    /// Requests below which a run proves nothing.
    const fn least(&self) -> usize {
        if self.short || !self.only.is_empty() {
            3_000
        } else {
            20_000
        }
    }
}

/// Runs the plan, and puts the shop and the operator back as they were, whatever happened. A report with faults is no
/// error.
///
/// # Errors
/// If the cluster is not up, the run is interrupted, or something could not be put back.
pub async fn run(cluster: &Cluster, options: &Options) -> Result<Report> {
    let _lock = own_operator().await?;
    let shop = Shop::new(cluster);
    let before = shop.before().await?;
    let body = async {
        tokio::select! {
            outcome = under_load(cluster, &shop, options) => outcome,
            name = interrupted() => name.and_then(|name| bail!("ended by {name}")),
        }
    };
    let restore = async {
        eprintln!("    putting the shop back as it was");
        shop.put_back(&before).await
    };
    restoring(body, restore).await
}

async fn under_load(cluster: &Cluster, shop: &Shop, options: &Options) -> Result<Report> {
    shop.prepare().await?;
    let traffic = Traffic::new(rand::random());
    let address = address(&cluster.gateway).await?;
    introduce(&cluster.gateway, &traffic).await?;
    let (began, machine) = (jiff::Timestamp::now(), Machine::here());
    let rate = Rate {
        per_second: options.rate,
        callers: options.callers,
    };
    let load = Load::start(address, options.protocol, rate, traffic.clone());

    let (mut spans, mut killed, mut propagation, mut faults) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for disturbance in options.plan() {
        let from = spans
            .last()
            .map_or(Duration::ZERO, |(_, span): &(_, std::ops::Range<_>)| span.end);
        let outcome = disturbance.happen(shop, &load).await;
        let span = from..load.now();
        let so_far = Summary::of(load.samples().iter().filter(|sample| span.contains(&sample.sent)));
        eprintln!(
            "    {disturbance}: {:.1} s, {} requests, {} failures, p99 {:.1} ms",
            (span.end - span.start).as_secs_f64(),
            so_far.requests,
            so_far.failures,
            so_far.p99
        );
        spans.push((*disturbance, span));
        match outcome {
            Ok(told) => {
                killed.extend(told.killed);
                propagation.extend(told.propagation.map(|times| Propagation {
                    disturbance: *disturbance,
                    times,
                }));
            }
            Err(error) => {
                faults.push(format!("{disturbance}: {error:#}"));
                break;
            }
        }
    }
    enough(&load, options).await;
    let connections = load.connections();
    let samples = load.finish().await?;

    let ledger = match ledger::judge(cluster, &traffic, &samples).await {
        Ok(verdict) => verdict,
        Err(error) => {
            faults.push(format!("{error:#}"));
            ledger::Verdict::default()
        }
    };
    let run = Run {
        began,
        machine,
        protocol: options.protocol,
        rate: options.rate,
        connections,
        spans,
        killed,
        propagation,
        ledger,
        faults,
        least: options.least(),
        paced: !options.short,
    };
    let report = run.report(&samples);
    if report.faults.is_empty() {
        ledger::forget(cluster, &traffic).await?;
    } else {
        eprintln!("    the rows of {} are left for a look at them", traffic.username);
    }
    Ok(report)
}

/// Goes on until there were as many requests as are asked for.
async fn enough(load: &Load, options: &Options) {
    let least = options.least() + options.callers;
    while load.samples().len() < least && load.now() < Duration::from_secs(600) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Makes the user who orders, and the orders that are read.
async fn introduce(gateway: &str, traffic: &Traffic) -> Result<()> {
    let user = json!({"username": traffic.username});
    let answer = http::post(&format!("{gateway}/user/users/"), &user).await?;
    ensure!(
        answer.status == StatusCode::CREATED,
        "no user could be made: {answer:?}"
    );
    for order_id in traffic.known() {
        let answer = http::post(&format!("{gateway}/order/orders/"), &traffic.order(order_id)).await?;
        ensure!(
            answer.status == StatusCode::ACCEPTED,
            "no order could be made: {answer:?}"
        );
    }
    Ok(())
}

async fn address(gateway: &str) -> Result<SocketAddr> {
    let host = gateway.trim_start_matches("http://").trim_end_matches('/');
    let mut found = tokio::net::lookup_host(host).await?;
    found.next().with_context(|| format!("{gateway} has no address"))
}

/// Waits for an order to end.
pub(crate) async fn interrupted() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
