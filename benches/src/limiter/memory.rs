//! Bytes a key.
//!
//! What the limiter says of its own tables, and by how much the process grew: with what the allocator adds, logs of sliding
//! windows, and governor's copy of the key (15 bytes and its `String`; ours keeps a hash of 16 bytes). A table is between 7/16 and 7/8
//! full, so there are two numbers of keys: just after ours has grown, and when it is fuller. Nothing is freed in between, so that nothing is used
//! again.

use std::fs;
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use trellis_rate::Algorithm;

use super::limiters::{Decide, governor_keyed, keyed_by, keys, limiter, set_now};
use crate::report::Table;

const KEYS: [usize; 2] = [60_000, 100_000];
const LIMIT: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
/// Linux tells resident memory in pages of 4 KiB on every machine that this runs on.
const PAGE: usize = 4096;

/// A limiter with so many keys.
#[derive(Debug, Serialize)]
pub struct Row {
    limiter: &'static str,
    keys: usize,
    /// Bytes a key, of its tables alone; ours only.
    table: Option<f64>,
    /// Bytes a key by which the process grew.
    resident: f64,
}

/// Measures. To be called before anything else, see the module.
pub fn measure() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let names: Vec<Vec<String>> = KEYS.into_iter().map(keys).collect();
    let mut kept: Vec<Decide<'_>> = Vec::new();
    for keys in &names {
        for (name, algorithm, busy) in [
            ("token bucket", Algorithm::TokenBucket, 1),
            ("fixed window", Algorithm::FixedWindow, 1),
            ("sliding window, a request a key", Algorithm::SlidingWindow, 1),
            ("sliding window, busy all the time", Algorithm::SlidingWindow, 65),
        ] {
            let before = resident()?;
            let limiter = limiter(algorithm, LIMIT, keys.len());
            let decide = keyed_by(Arc::clone(&limiter), keys);
            // One in each part of a window.
            for part in 0..busy {
                set_now(1_000_000_000 + part * 15_625_000);
                for key in 0..keys.len() {
                    decide(key);
                }
            }
            let table = limiter.occupancy().table_bytes as f64 / keys.len() as f64;
            rows.push(Row::new(name, keys.len(), Some(table), before)?);
            kept.push(decide);
        }
        let before = resident()?;
        let decide = governor_keyed(LIMIT, keys);
        for key in 0..keys.len() {
            decide(key);
        }
        rows.push(Row::new("governor, token bucket", keys.len(), None, before)?);
        kept.push(decide);
    }
    Ok(rows)
}

impl Row {
    fn new(limiter: &'static str, keys: usize, table: Option<f64>, before: usize) -> Result<Self> {
        let resident = resident()?.saturating_sub(before) as f64 / keys as f64;
        Ok(Self {
            limiter,
            keys,
            table,
            resident,
        })
    }
}

/// Bytes of this process that are in memory (proc_pid_statm(5)).
fn resident() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/statm").context("failed to read /proc/self/statm")?;
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    Ok(pages.context("no resident pages in /proc/self/statm")? * PAGE)
}

/// A table.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new(["bytes a key", "keys", "in its tables", "in the process"]);
    for row in rows {
        table.row([
            row.limiter.to_owned(),
            row.keys.to_string(),
            row.table.map_or_else(String::new, |bytes| format!("{bytes:.1}")),
            format!("{:.0}", row.resident),
        ]);
    }
    table.text()
}
