//! Notices a process whose eyes are shut: alive, leading perhaps, and seeing nothing.
//!
//! Every list and watch is answered once a minute at least, if only by an error; so is every look at the lease. If one of
//! them was not for [`PATIENCE`], its task or connection hangs and only a restart helps. An API server that is away
//! answers with errors at once, and those count as answers: restarting would not bring it back, and would lose the
//! caches that the configuration stream is served from.

use std::time::{Duration, Instant};

use tokio::time;
use trellis_chassis::readiness::Readiness;

use crate::{
    client::Progress,
    metrics::{Metrics, ResourceLabels},
};

/// Longest time without an answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time between looks.
const LOOK: Duration = Duration::from_secs(10);
/// Looks in a row that must find the same. A process that was stopped for a while finds everything old at first.
const LOOKS: u32 = 4;

/// Looks until the task ends.
pub async fn run(progress: Progress, readiness: Readiness, metrics: Metrics) {
    let mut interval = time::interval(LOOK);
    let mut overdue = 0;
    loop {
        interval.tick().await;
        let ages = progress.ages(Instant::now());
        for (resource, age) in &ages {
            let labels = ResourceLabels {
                resource: resource.clone(),
            };
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            metrics.watch_age.get_or_create(&labels).set(seconds);
        }
        let hanging = ages.iter().find(|(_, age)| *age > PATIENCE);
        overdue = if hanging.is_some() { overdue + 1 } else { 0 };
        if let Some((resource, age)) = hanging
            && overdue >= LOOKS
        {
            tracing::error!(
                resource,
                age_seconds = age.as_secs(),
                "a watch hangs; asking for a restart"
            );
            readiness.fail_live("a watch or the lease makes no progress");
        }
    }
}
