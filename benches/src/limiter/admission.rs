//! What limits let through when far more is asked for.
//!
//! One load for all ([`schedule`](super::schedule)), and one judge: the most that passed in any window. Limiters alone go by a clock that is a
//! number, and pass at once. Requests through proxies pass when they reach the backend, which is after the decision:
//! what delays one and not the next moves them together or apart.
//!
//! A bucket promises `burst + rate * window`, a fixed window its limit from edge to edge and so twice of it in any window;
//! only a sliding window promises the limit itself. Each is judged by both.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use trellis_proxy_config::limit::Algorithm as Setting;
use trellis_rate::Algorithm;

use super::{
    Options,
    configuration::Limits,
    limiters::{Decide, governor, ours, set_now},
    proxies::{self, Program},
    schedule::{most_in_any_window, overload},
};
use crate::{
    proxy::{case::Protocol, load::Lanes, upstream},
    report::Table,
};

const LIMIT: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
const WINDOW: Duration = Duration::from_secs(1);
/// Overloads of a limiter alone.
const OVERLOADS: u32 = 100;
/// Connections that requests to a proxy come by.
const LANES: u32 = 64;

/// A limit under overload.
#[derive(Debug, Serialize)]
pub struct Row {
    subject: String,
    /// Whether passes are by a clock that is a number, or by the backend's.
    driven: bool,
    /// Requests that were made.
    requests: usize,
    /// Requests that passed.
    passed: usize,
    /// Of those, the most in any window.
    most: usize,
    /// In percent over the limit.
    over_limit: f64,
    /// The most that the algorithm promises.
    bound: u32,
    /// In percent over that; 0 if it is kept.
    over_bound: f64,
}

/// Measures.
pub async fn measure(options: &Options, work: &Path) -> Result<Vec<Row>> {
    let (limit, twice) = (LIMIT.get(), 2 * LIMIT.get());
    let mut rows = vec![
        driven(
            "trellis, sliding window",
            &ours(Algorithm::SlidingWindow, LIMIT),
            limit,
        ),
        driven(
            "trellis, fixed window",
            &ours(Algorithm::FixedWindow, LIMIT),
            twice,
        ),
        driven(
            "trellis, token bucket",
            &ours(Algorithm::TokenBucket, LIMIT),
            twice,
        ),
        driven("governor", &governor(LIMIT), twice),
    ];
    let reached: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let upstream = upstream::start({
        let reached = Arc::clone(&reached);
        move || lock(&reached).push(Instant::now())
    })?;
    let total = |algorithm| Limits::Total(algorithm, limit);
    for (name, program, limits, bound) in [
        (
            "trellis-proxy, sliding window",
            Program::Trellis,
            total(Setting::SlidingWindow),
            limit,
        ),
        (
            "trellis-proxy, fixed window",
            Program::Trellis,
            total(Setting::FixedWindow),
            twice,
        ),
        (
            "trellis-proxy, token bucket",
            Program::Trellis,
            total(Setting::TokenBucket),
            twice,
        ),
        (
            "Envoy, local rate limit",
            Program::Envoy,
            total(Setting::TokenBucket),
            twice,
        ),
    ] {
        eprintln!("admission: {name}");
        let proxy = proxies::start(program, limits, name, options, upstream, work).await?;
        let mut lanes = Lanes::connect(proxy.address, Protocol::Http1, LANES).await?;
        // What was asked for to see that it forwards no longer counts.
        sleep(WINDOW * 2).await;
        lock(&reached).clear();
        let begin = Instant::now();
        let due = overload(limit, WINDOW, options.overloads);
        let admitted = lanes.run_at(&due).await?;
        let passed: Vec<Duration> = lock(&reached).iter().map(|at| *at - begin).collect();
        ensure!(
            passed.len() == admitted,
            "{} requests reached the backend, and {admitted} were answered by it",
            passed.len()
        );
        rows.push(Row::new(name, false, due.len(), &passed, bound));
    }
    Ok(rows)
}

fn driven(name: &str, decide: &Decide<'_>, bound: u32) -> Row {
    // A clock that begins with nought would make the first window special.
    let begin = WINDOW * 10;
    let due = overload(LIMIT.get(), WINDOW, OVERLOADS);
    let passes = |due: &Duration| {
        set_now((begin + *due).as_nanos() as u64);
        decide(0)
    };
    let passed: Vec<Duration> = due.iter().copied().filter(passes).collect();
    Row::new(name, true, due.len(), &passed, bound)
}

impl Row {
    fn new(subject: &str, driven: bool, requests: usize, passed: &[Duration], bound: u32) -> Self {
        let most = most_in_any_window(passed, WINDOW);
        let over = |what: u32| (most as f64 / f64::from(what) - 1.0) * 100.0;
        Self {
            subject: subject.to_owned(),
            driven,
            requests,
            passed: passed.len(),
            most,
            over_limit: over(LIMIT.get()),
            bound,
            over_bound: over(bound).max(0.0),
        }
    }
}

fn lock(reached: &Mutex<Vec<Instant>>) -> std::sync::MutexGuard<'_, Vec<Instant>> {
    reached.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new([
        "limit: 100 per 1 s, overloaded",
        "clock",
        "requests",
        "passed",
        "most in any 1 s",
        "over the limit",
        "its own bound",
        "over it",
    ]);
    for row in rows {
        table.row([
            row.subject.clone(),
            if row.driven { "driven" } else { "backend's" }.to_owned(),
            row.requests.to_string(),
            row.passed.to_string(),
            row.most.to_string(),
            format!("{:.0} %", row.over_limit),
            row.bound.to_string(),
            format!("{:.0} %", row.over_bound),
        ]);
    }
    let note = "A token bucket of 100, refilled by 100 per second, promises 200 in any second; so does a fixed window. A sliding \
                window promises 100.";
    format!("{}\n\n{note}", table.text())
}
