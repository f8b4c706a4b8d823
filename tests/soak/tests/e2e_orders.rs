//! The short form of `cargo xtask soak orders`.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::Result;
use e2e::Cluster;
use soak::orders::{self, Options};

#[tokio::test(flavor = "multi_thread")]
async fn money_and_stock_balance_whatever_is_killed_stopped_rolled_and_changed() -> Result<()> {
    let options = Options {
        rate: 20,
        time: Duration::from_secs(30),
    };
    let report = orders::run(&Cluster::connect().await?, &options).await?;
    assert!(report.faults.is_empty(), "{report}");
    Ok(())
}
