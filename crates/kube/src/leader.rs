//! Who acts: one process at a time, by a Lease in its namespace.
//!
//! ```text
//!            look 0.5 s                       renew
//! standby ------------> lease free or dead ------------> leader --(deadline without a renewal)--> the process ends
//!                                                            \---(told to stop)--> lease given back --> standby takes it
//! ```
//!
//! Guarantees: two processes never act at once as long as their clocks run at the same *rate*. A lease is dead when its
//! record did not change for its whole length on the **observer's** monotonic clock, so wall clocks may differ. A leader
//! that cannot renew stops before others may take over ([`Authority::holds`] is asked before every act, so this
//! also holds for a process that was stopped and continues later), and then ends: a deposed leader that "stands by" is
//! how other operators came to have two.
//!
//! Every acquisition has an [epoch](Term::epoch) larger than all before, so that what was granted in one is told from what
//! was granted in another. A process that was killed and started anew under its name claims its own Lease at once, in a new
//! epoch; if the one before still runs, it finds the epoch changed at its next renewal, and ends.
//!
//! The Lease also says where its holder is to be reached, so that the others can tell it things.
//!
//! Caveats: a lease is no fence. A request that is under way when the authority ends may still arrive; whoever leads makes
//! that harmless, or sends the epoch along. Epochs need names that no two processes have at once, and a Lease that is not deleted in the
//! second that it was made in.
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

mod claim;

/// Time between looks of a standby. A renewal is seen this late, and a dead lease is taken this late after it died, at most.
const LOOK: Duration = Duration::from_millis(500);

/// The Lease that is claimed, and its times: `renew < deadline < duration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the Lease.
    pub lease: String,
    /// Time after the last renewal at which others may take over; whole seconds.
    pub duration: Duration,
    /// Time after the last renewal at which the leader stops.
    pub deadline: Duration,
    /// Time between renewals. A look may take four fifths of it, and one that failed is tried again after two fifths.
    pub renew: Duration,
}

/// A time for which a process may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Since when it has led without a break.
    pub since: Instant,
    /// Until when it may act, unless the Lease is renewed.
    pub until: Instant,
    /// Larger than that of every process that led before: when the Lease was made, in seconds since 1970, times 2^24,
    /// plus its `leaseTransitions`. Renewals keep it. It grows for a process that leads if somebody deleted the Lease.
    pub epoch: u64,
}

/// Since when and until when this process may act.
#[derive(Debug, Clone)]
pub struct Authority(watch::Receiver<Option<Term>>);

/// The claim to leadership of this process.
pub struct Leadership {
    leases: Api<Lease>,
    settings: Settings,
    claim: Claim,
    authority: watch::Sender<Option<Term>>,
    /// Where the leader is, if it is another.
    leader: watch::Sender<Option<String>>,
    on_turn: Callback,
    on_led: Callback,
}

type Callback = Box<dyn Fn() + Send + Sync>;

/// Why leadership ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No renewal came through in time.
    #[error("failed to renew the lease in time; another replica may lead")]
    Expired,
    /// Another process holds the lease, perhaps one of the same name.
    #[error("failed to keep the lease: {holder} took it")]
    Taken {
        /// Identity of the other process.
        holder: String,
    },
}

/// What a look at the lease found.
enum Found {
    /// It is ours.
    Held { epoch: u64 },
    /// It is another's, for so long at most.
    Other { holder: Candidate, dead_in: Duration },
}

impl Settings {
    /// Time between tries to renew, and after a look that failed.
    fn retry(&self) -> Duration {
        self.renew * 2 / 5
    }

    /// Longest wait for an answer of the API server.
    fn request(&self) -> Duration {
        self.renew * 4 / 5
    }
}

impl Authority {
    /// Whether this process may act now.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|term| Instant::now() < term.until)
    }

    /// For how long this process has led.
    pub fn led_for(&self) -> Duration {
        self.0
            .borrow()
            .map_or(Duration::ZERO, |term| term.since.elapsed())
    }

    /// The term as of the last renewal; it may have run out. None before the first one and once the lease is given back.
    pub fn term(&self) -> Option<Term> {
        *self.0.borrow()
    }

    /// [`term`](Self::term) as it changes: with every acquisition and renewal, and when the lease is given back.
    pub fn terms(&self) -> watch::Receiver<Option<Term>> {
        self.0.clone()
    }

    /// Waits until this process leads; false if it never will.
    pub async fn acquired(&self) -> bool {
        self.0.clone().wait_for(Option::is_some).await.is_ok()
    }
}

#[cfg(feature = "test-util")]
impl Authority {
    /// One that holds for as long as any test.
    pub fn held() -> Self {
        Self::until(Instant::now() + Duration::from_secs(3600))
    }

    /// One that has run out.
    pub fn lost() -> Self {
        Self::until(Instant::now())
    }

    /// One by the terms that a test sends.
    pub const fn by(terms: watch::Receiver<Option<Term>>) -> Self {
        Self(terms)
    }

    fn until(until: Instant) -> Self {
        let term = Term {
            since: Instant::now(),
            until,
            epoch: 1,
        };
        Self::by(watch::channel(Some(term)).1)
    }
}

impl Leadership {
    /// A claim of a process; nothing is asked before [`run`](Self::run). [`leader`](Self::leader) says who else leads.
    pub fn new(
        client: Client,
        namespace: &str,
        candidate: Candidate,
        settings: Settings,
    ) -> (Self, Authority) {
        let (authority, receiver) = watch::channel(None);
        let leadership = Self {
            leases: Api::namespaced(client, namespace),
            claim: Claim::new(candidate, &settings),
            settings,
            authority,
            leader: watch::Sender::new(None),
            on_turn: Box::new(|| ()),
            on_led: Box::new(|| ()),
        };
        (leadership, Authority(receiver))
    }

    /// Calls `note` before the first look at the lease and after each, whatever came of it: a sign of life.
    #[must_use]
    pub fn on_turn(mut self, note: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_turn = Box::new(note);
        self
    }

    /// Calls `note` when this process comes to lead.
    #[must_use]
    pub fn on_led(mut self, note: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_led = Box::new(note);
        self
    }

    /// Where the leader is to be reached; None while that is not known, or while it is this process.
    pub fn leader(&self) -> watch::Receiver<Option<String>> {
        self.leader.subscribe()
    }

    /// Claims and renews until the process is told to stop, then gives the lease back.
    ///
    /// # Errors
    /// Leadership was lost; the process must end.
    pub async fn run(mut self, drain: drain::Watch) -> Result<(), Error> {
        (self.on_turn)();
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
        let request = self.settings.request();
        let limit = until.map_or(request, |until| {
            request.min(until.saturating_duration_since(started))
        });
        let leads_in = term.map(|term| term.epoch);
        let answer = time::timeout(limit, self.attempt(leads_in, started)).await;
        (self.on_turn)();
        match answer {
            Ok(Ok(Found::Held { epoch })) => {
                if term.is_none() {
                    tracing::info!(identity = self.claim.identity(), epoch, "leading");
                    (self.on_led)();
                }
                self.authority.send_replace(Some(Term {
                    since: term.map_or(started, |term| term.since),
                    until: started + self.settings.deadline,
                    epoch,
                }));
                self.lead_by(None);
                return Ok(self.settings.renew);
            }
            Ok(Ok(Found::Other { holder, .. })) if term.is_some() => {
                return Err(Error::Taken {
                    holder: holder.identity,
                });
            }
            Ok(Ok(Found::Other { holder, dead_in })) => {
                let is_other = holder.identity != self.claim.identity();
                self.lead_by(holder.address.filter(|_| is_other));
                return Ok(LOOK.min(dead_in));
            }
            Ok(Err(error)) => tracing::warn!(%error, "failed to claim the lease"),
            Err(_) => tracing::warn!("failed to claim the lease: no answer in time"),
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::Expired);
        }
        Ok(self.settings.retry())
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

    /// Reads the lease and claims it if that is due; `leads_in` is the epoch that this process leads in.
    async fn attempt(&mut self, leads_in: Option<u64>, now: Instant) -> Result<Found, kube::Error> {
        let lease = self.leases.get_opt(&self.settings.lease).await?;
        let params = PostParams::default();
        let written = match self
            .claim
            .decide(lease.as_ref(), leads_in, now, jiff::Timestamp::now())
        {
            Decision::Wait { holder, dead_in } => return Ok(Found::Other { holder, dead_in }),
            Decision::Create(lease) => self.leases.create(&params, &lease).await,
            Decision::Update(lease) => self.leases.replace(&self.settings.lease, &params, &lease).await,
        };
        match written {
            Ok(lease) => Ok(Found::Held {
                epoch: claim::epoch(&lease),
            }),
            // Another was faster, or an own renewal that was given up came through.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                let lease = self.leases.get(&self.settings.lease).await?;
                match leads_in {
                    Some(epoch) if self.claim.holds(&lease, epoch) => Ok(Found::Held { epoch }),
                    _ => Ok(Found::Other {
                        holder: claim::holder(&lease),
                        dead_in: self.settings.duration,
                    }),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn release(&mut self) {
        let Some(term) = self.authority.send_replace(None) else {
            return;
        };
        let release = async {
            let lease = self.leases.get(&self.settings.lease).await?;
            if let Some(released) = self.claim.released(&lease, term.epoch) {
                self.leases
                    .replace(&self.settings.lease, &PostParams::default(), &released)
                    .await?;
            }
            Ok::<(), kube::Error>(())
        };
        match time::timeout(self.settings.request(), release).await {
            Ok(Ok(())) => tracing::info!("lease given back"),
            Ok(Err(error)) => tracing::warn!(%error, "failed to give the lease back"),
            Err(_) => tracing::warn!("failed to give the lease back: no answer in time"),
        }
    }
}

#[cfg(test)]
mod tests;
