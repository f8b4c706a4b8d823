//! Who writes: one replica at a time, by a Lease in the operator's namespace.
//!
//! ```text
//!            poll 0.5 s                       renew 5 s
//! standby ------------> lease free or dead ------------> leader --(12 s without a renewal)--> the process ends
//!                                                            \---(told to stop)--> lease given back --> standby takes it
//! ```
//!
//! Guarantees: two replicas never write at once as long as their clocks run at the same *rate*. A lease is dead when its
//! record did not change for its whole length on the **observer's** monotonic clock, so wall clocks may differ. A leader
//! that cannot renew stops before others may take over ([`Authority::holds`] is asked before every write, so this
//! also holds for a process that was stopped and continues later), and then ends: a deposed leader that "stands by" is
//! how other operators came to have two.
//!
//! The Lease also says where its holder serves the stream, so that the others can report to it.
//!
//! Caveat: a lease is no fence. A request that is under way when the authority ends may still arrive; server-side apply
//! by the same field managers and deletes with preconditions make it harmless.
//!
//! Why not `kube-lease-manager`: it neither exposes until when its claim is good nor separates a failed renewal from a
//! lost lease, and both are needed here. Why create and update instead of server-side apply: the lease has no owner to
//! converge with, and a conflict is exactly what must be seen.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time};
use trellis_chassis::drain;

pub use self::claim::Candidate;
use self::claim::{Claim, Decision};
use crate::{client::Progress, metrics::Metrics};

mod claim;

/// Name of the Lease.
pub const LEASE: &str = "trellis-operator";
/// What the lease's age is reported under.
pub const PROGRESS: &str = "leases";

/// Time after the last renewal at which others may take over.
const DURATION: Duration = Duration::from_secs(15);
/// Time after the last renewal at which the leader stops.
const DEADLINE: Duration = Duration::from_secs(12);
/// Time between renewals.
const RENEW: Duration = Duration::from_secs(5);
/// Time between tries to renew, and after a look that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Time between looks of a standby. A renewal is seen this late, and a dead lease is taken this late after it died, at most.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for an answer of the API server.
const REQUEST: Duration = Duration::from_secs(4);

/// Since when and until when this replica may write.
#[derive(Debug, Clone)]
pub struct Authority(watch::Receiver<Option<Term>>);

#[derive(Debug, Clone, Copy)]
struct Term {
    since: Instant,
    until: Instant,
}

/// The claim to leadership of this replica.
pub struct Leadership {
    leases: Api<Lease>,
    claim: Claim,
    authority: watch::Sender<Option<Term>>,
    /// Where the leader is, if it is another.
    leader: watch::Sender<Option<String>>,
    metrics: Metrics,
    progress: Progress,
}

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No renewal came through in time.
    #[error("failed to renew the lease in time; another replica may lead")]
    Expired,
    /// Another replica holds the lease.
    #[error("failed to keep the lease: {holder} took it")]
    Taken {
        /// Identity of the other replica.
        holder: String,
    },
}

impl Authority {
    /// Whether this replica may write now.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|term| Instant::now() < term.until)
    }

    /// For how long this replica has led.
    pub fn led_for(&self) -> Duration {
        self.0
            .borrow()
            .map_or(Duration::ZERO, |term| term.since.elapsed())
    }

    /// Waits until this replica leads; false if it never will.
    pub async fn acquired(&self) -> bool {
        self.0.clone().wait_for(Option::is_some).await.is_ok()
    }
}

#[cfg(test)]
impl Authority {
    /// One that holds for as long as any test.
    pub fn held() -> Self {
        Self::until(Instant::now() + Duration::from_secs(3600))
    }

    /// One that has run out.
    pub fn lost() -> Self {
        Self::until(Instant::now())
    }

    fn until(until: Instant) -> Self {
        let since = Instant::now();
        Self(watch::channel(Some(Term { since, until })).1)
    }
}

impl Leadership {
    /// A claim of a replica; nothing is asked before [`run`](Self::run). [`leader`](Self::leader) says who else leads.
    pub fn new(
        client: Client,
        namespace: &str,
        candidate: Candidate,
        metrics: Metrics,
        progress: Progress,
    ) -> (Self, Authority) {
        let (authority, receiver) = watch::channel(None);
        let leadership = Self {
            leases: Api::namespaced(client, namespace),
            claim: Claim::new(candidate, DURATION),
            authority,
            leader: watch::Sender::new(None),
            metrics,
            progress,
        };
        (leadership, Authority(receiver))
    }

    /// Where the leader serves the stream; None while that is not known, or while it is this replica.
    pub fn leader(&self) -> watch::Receiver<Option<String>> {
        self.leader.subscribe()
    }

    /// Claims and renews until the process is told to stop, then gives the lease back.
    ///
    /// # Errors
    /// Leadership was lost; the process must end.
    pub async fn run(mut self, drain: drain::Watch) -> Result<(), Error> {
        self.progress.expect(PROGRESS, Instant::now());
        while !drain.is_draining() {
            let pause = self.turn().await?;
            tokio::select! {
                () = time::sleep(pause) => {}
                () = drain.signaled() => {}
            }
        }
        self.release().await;
        Ok(())
    }

    /// One look at the lease; answers how long to wait for the next.
    async fn turn(&mut self) -> Result<Duration, Error> {
        let started = Instant::now();
        let term = *self.authority.borrow();
        let until = term.map(|term| term.until);
        let limit = until.map_or(REQUEST, |until| {
            REQUEST.min(until.saturating_duration_since(started))
        });
        let answer = time::timeout(limit, self.attempt(started)).await;
        self.progress.note(PROGRESS, Instant::now());
        match answer {
            Ok(Ok(None)) => {
                if until.is_none() {
                    tracing::info!(identity = self.claim.identity(), "leading");
                    self.metrics.leader.set(1);
                }
                self.authority.send_replace(Some(Term {
                    since: term.map_or(started, |term| term.since),
                    until: started + DEADLINE,
                }));
                self.lead_by(None);
                return Ok(RENEW);
            }
            Ok(Ok(Some((holder, _)))) if until.is_some() => {
                return Err(Error::Taken {
                    holder: holder.identity,
                });
            }
            Ok(Ok(Some((holder, dead_in)))) => {
                self.lead_by(holder.address);
                return Ok(LOOK.min(dead_in));
            }
            Ok(Err(error)) => tracing::warn!(%error, "failed to claim the lease"),
            Err(_) => tracing::warn!("failed to claim the lease: no answer in time"),
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::Expired);
        }
        Ok(RETRY)
    }

    fn lead_by(&self, address: Option<String>) {
        self.leader.send_if_modified(|known| {
            let moved = *known != address;
            if moved {
                *known = address;
            }
            moved
        });
    }

    /// Reads the lease and claims it if that is due; answers the holder if it is another, and for how long it is at most.
    async fn attempt(&mut self, now: Instant) -> Result<Option<(Candidate, Duration)>, kube::Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        let written = match self.claim.decide(lease.as_ref(), now, jiff::Timestamp::now()) {
            Decision::Wait { holder, dead_in } => return Ok(Some((holder, dead_in))),
            Decision::Create(lease) => self.leases.create(&PostParams::default(), &lease).await,
            Decision::Update(lease) => self.leases.replace(LEASE, &PostParams::default(), &lease).await,
        };
        match written {
            Ok(_) => Ok(None),
            // Another was faster; who it is shows at the next look.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                let lease = self.leases.get(LEASE).await?;
                let holder = claim::holder(&lease);
                Ok((holder.identity != self.claim.identity()).then_some((holder, DURATION)))
            }
            Err(error) => Err(error),
        }
    }

    async fn release(&mut self) {
        if self.authority.borrow().is_none() {
            return;
        }
        self.authority.send_replace(None);
        let release = async {
            let lease = self.leases.get(LEASE).await?;
            if let Some(released) = self.claim.released(&lease) {
                self.leases
                    .replace(LEASE, &PostParams::default(), &released)
                    .await?;
            }
            Ok::<(), kube::Error>(())
        };
        match time::timeout(REQUEST, release).await {
            Ok(Ok(())) => tracing::info!("lease given back"),
            Ok(Err(error)) => tracing::warn!(%error, "failed to give the lease back"),
            Err(_) => tracing::warn!("failed to give the lease back: no answer in time"),
        }
    }
}
