//! The short form of `cargo xtask soak drops`.
#![allow(missing_docs)]

use anyhow::Result;
use e2e::Cluster;
use soak::{Options, Protocol};

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_a_service_loses_a_pod_rolls_and_scales() -> Result<()> {
    let options = Options {
        protocol: Protocol::H1,
        // Half of the whole plan's, and few under way: what a busy machine cannot keep up with waits here, not in the services.
        rate: 100,
        callers: 16,
        short: true,
        only: Vec::new(),
    };
    let report = soak::run(&Cluster::connect().await?, &options).await?;
    assert!(report.faults.is_empty(), "{report}");
    Ok(())
}
