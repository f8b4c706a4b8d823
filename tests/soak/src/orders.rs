//! Orders under load, while whatever has to do with them is killed, stopped, rolled and changed: no acknowledged order is lost, every run
//! ends as its order does, and money and stock balance.
//!
//! ```text
//! client    an order is sent again, under its id, until it is acknowledged
//! blows     SIGKILL to a process chosen at random; SIGSTOP of an owner of runs past its lease; a new revision; a roll of the engine
//! judge     four databases, when every order is settled
//! ```

mod blows;
mod client;
mod judge;
mod report;

use std::time::Duration;

use anyhow::{Result, bail};
use e2e::{Cluster, cluster::own_operator, restoring};

use self::{blows::Blows, client::Client};
use crate::{drops::interrupted, report::Machine};

pub use self::report::Report;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Orders a second.
    pub rate: u32,
    /// For how long at least.
    pub time: Duration,
}

/// Runs it, and puts the saga back as it was, whatever happened. A report with faults is no error.
///
/// # Errors
/// If the cluster is not up, the run is interrupted, or something could not be put back.
pub async fn run(cluster: &Cluster, options: &Options) -> Result<Report> {
    let _lock = own_operator().await?;
    let blows = Blows::new(cluster).await?;
    let body = async {
        tokio::select! {
            outcome = under_load(cluster, &blows, options) => outcome,
            name = interrupted() => name.and_then(|name| bail!("ended by {name}")),
        }
    };
    restoring(body, blows.put_back()).await
}

async fn under_load(cluster: &Cluster, blows: &Blows, options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let client = Client::open(cluster).await?;
    let deal = blows.deal(cluster, &client, options.time);
    let (sent, dealt) = tokio::join!(client.clone().send(options.rate), deal);
    let (sent, dealt) = (sent?, dealt?);
    eprintln!("    waiting until {} orders are settled", client.orders().len());
    let judged = judge::judge(cluster, &client).await?;
    let report = Report::new(machine, options, sent, dealt, judged);
    if report.faults.is_empty() {
        client.forget(cluster).await?;
    } else {
        eprintln!("    the rows of {} are left for a look at them", client.name());
    }
    Ok(report)
}
