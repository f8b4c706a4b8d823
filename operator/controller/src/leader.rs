//! Who writes: the operator's Lease, by [`trellis_kube::leader`], and what shows of it in metrics and liveness.
//!
//! A request that is under way when the authority ends may still arrive; server-side apply by the same field managers and
//! deletes with preconditions make it harmless.

use std::time::{Duration, Instant};

use kube::Client;
pub use trellis_kube::leader::{Authority, Candidate, Error};
use trellis_kube::leader::{Leadership, Settings};

use crate::{client::Progress, metrics::Metrics};

/// Name of the Lease.
const LEASE: &str = "trellis-operator";
/// What the lease's age is reported under.
const PROGRESS: &str = "leases";

/// Time after the last renewal at which others may take over.
const DURATION: Duration = Duration::from_secs(15);
/// Time after the last renewal at which the leader stops.
const DEADLINE: Duration = Duration::from_secs(12);
/// Time between renewals.
const RENEW: Duration = Duration::from_secs(5);

/// The claim of this replica; nothing is asked before it runs.
pub fn claim(
    client: Client,
    namespace: &str,
    candidate: Candidate,
    metrics: &Metrics,
    progress: Progress,
) -> (Leadership, Authority) {
    let settings = Settings {
        lease: LEASE.to_owned(),
        duration: DURATION,
        deadline: DEADLINE,
        renew: RENEW,
    };
    let leader = metrics.leader.clone();
    let (leadership, authority) = Leadership::new(client, namespace, candidate, settings);
    let leadership = leadership
        .on_turn(move || progress.expect(PROGRESS, Instant::now()))
        .on_led(move || _ = leader.set(1));
    (leadership, authority)
}
