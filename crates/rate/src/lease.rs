//! One limit, enforced by several processes without a call per request.
//!
//! ```text
//! client (in each pod)                                authority (one at a time)
//!   request: what I hold, what I could use  ------->   ledger: what each client may still be using
//!   may use `amount` until the lease ends   <-------   grant: the fair share, as far as the ledger has it
//! ```
//!
//! Both are state machines that are told the time; messages are the caller's to carry, and may be lost, late, doubled and out of
//! order.
//!
//! **Invariant.** At every instant, and so over every window, what all clients may use is at most the limit. It rests on:
//! 1. *The ledger counts what may be, not what was meant.* A grant counts from when it is made, at its full amount until
//!    its last possible use, and then for one window more, since what was spent under it lies in windows until then. It ends
//!    early only if the client itself says that it has gone on to another one.
//! 2. *A lease ends by the client's clock, counted from the sending of the request*, which is before the authority
//!    received it and counted the same time from then.
//! 3. *One authority grants at a time.* Each holds a claim (a Kubernetes Lease) with an epoch, taken before the first grant,
//!    and does not grant after the claim's end. Clients also refuse grants of an epoch before the latest that they have seen: a second lock, for a
//!    claim that overlaps against its rules.
//! 4. *A new epoch learns.* It knows nothing of the grants before it. Until every pod has told what it holds and what it has used,
//!    and what ended pods spent is a window old, it only renews what clients hold at that moment. That is over after the length
//!    of a lease and one window at the latest: nothing that was granted before then still counts but fallbacks.
//! 5. *Fallbacks are on the ledger.* A client that gets no answer goes on with `min(last lease, limit / replicas)`, which
//!    the grant has told it. That stays on the ledger until the client says that it holds something else, or the pod has ended. A new
//!    epoch sets `limit / replicas` aside for every pod that it has not heard from.
//!
//! **Asked of the caller.** Clocks that go on while the machine sleeps and are right to [`DRIFT`]; `replicas` is the most pods that
//! there can be, the autoscaler's maximum, not what happens to run; a new epoch knows every pod that exists after its claim, and an
//! authority learns that a pod has ended only when its process has; a process that starts anew counts its incarnation up. If `replicas`
//! is raised, a pod is cut off at that time and the authority is replaced too, that pod's fallback is higher than what is set
//! aside for it until it is heard.
//!
//! **Units.** Amounts are parts of a whole that is the limit. A client uses its part of the limit *that it knows*, so a changed limit
//! holds at once and whatever the order in which pods and authority hear of it: parts that add up to one whole at most are at most
//! the larger of the two limits. What the authority has written down is rounded up when the whole changes.
//!
//! **Price.** What a client has spent returns one window later; of a token bucket or a fixed window, all that it held, unless the bucket
//! is full. What it has not, and gives up, returns when it says so; what is
//! lost with it, after the rest of its lease and one window. A restarted sidecar is another client: it begins with nothing, and what it
//! had returns as if lost.
//!
//! Sources: C. Gray, D. Cheriton, "Leases" (1989), for expiry and clocks; Doorman (github.com/youtube/doorman, doc/design.md) for
//! leased capacity, learning mode and max-min fair share. Doorman bounds the sum of leases; that spent tokens keep counting for
//! a window, and fallbacks, are added here.

use std::num::NonZeroU32;
use std::time::Duration;

pub mod authority;
pub mod client;
pub mod fair_share;
mod ledger;

pub use authority::{Authority, Roster, Start};
pub use client::Client;

/// How far a clock may be off: one part in so many. Real ones are twenty times better.
pub const DRIFT: u32 = 1_000;

/// A time that is at least this long by every clock, measured with any other one that is right to [`DRIFT`].
///
/// A client measures its windows so as well: one that is short by its own fast clock would admit too much.
#[must_use]
pub fn with_drift(duration: Duration) -> Duration {
    // Two clocks: (1 + d) / (1 - d) is below 1 + 2.5 d.
    duration.saturating_add(duration.saturating_mul(5) / (2 * DRIFT))
}

/// What is leased, and on what terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What all clients together may use: the whole that amounts are parts of.
    pub limit: NonZeroU32,
    /// How long what was spent counts: the window, or the time in which an empty bucket fills.
    pub window: Duration,
    /// How long a grant lasts.
    pub length: Duration,
    /// The most pods that there can be.
    pub replicas: NonZeroU32,
    /// What a client does without an authority.
    pub on_loss: OnLoss,
}

/// What a client does when its lease has ended and no other came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnLoss {
    /// It uses no more than its last lease and no more than an equal share. One that never had a lease uses nothing.
    Share,
    /// It limits nothing. The invariant does not hold then.
    Open,
    /// It uses nothing.
    Closed,
}

impl Terms {
    /// What each of all pods gets if all get as much.
    pub(crate) fn equal_share(&self) -> u32 {
        self.limit.get() / self.replicas
    }

    /// What a client may go on using without an authority.
    pub(crate) fn fallback(&self, amount: u32) -> u32 {
        match self.on_loss {
            OnLoss::Share => amount.min(self.equal_share()),
            OnLoss::Open | OnLoss::Closed => 0,
        }
    }
}

/// A pod, for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod(pub u64);

/// Which start of the pod's process it is. A later one has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// Which authority it is. A later one has a higher number; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Which request of a client it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// Which grant it is. Two authorities may both answer a request, one of them when it comes late: so the sequence alone
/// does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GrantId {
    /// Who granted.
    pub epoch: Epoch,
    /// The request that it answers.
    pub sequence: Sequence,
}

/// A client asks for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub pod: Pod,
    /// Which process of the pod.
    pub incarnation: Incarnation,
    /// This request.
    pub sequence: Sequence,
    /// The latest authority that the client has seen a grant of.
    pub epoch: Epoch,
    /// For how long the process has run. What an earlier one of the pod spent was spent before.
    pub age: Duration,
    /// The grant that it holds. Once this request is sent, it takes no other but the answer to it.
    pub held: Option<GrantId>,
    /// What the next four are parts of.
    pub whole: NonZeroU32,
    /// What it may use at the time of sending.
    pub allowance: u32,
    /// What it goes on with if nothing comes.
    pub fallback: u32,
    /// The most that it has used of what still counts; if it does not know, the whole.
    pub used: u32,
    /// What it could use.
    pub demand: u32,
}

impl Request {
    /// What it could use, in parts of another whole, rounded up.
    pub fn demand_of(&self, whole: NonZeroU32) -> u32 {
        rescaled(self.demand, self.whole, whole)
    }

    /// The same, in parts of another whole, rounded up.
    fn of(self, whole: NonZeroU32) -> Self {
        let part = |amount| rescaled(amount, self.whole, whole);
        Self {
            whole,
            allowance: part(self.allowance),
            fallback: part(self.fallback),
            used: part(self.used),
            demand: part(self.demand),
            ..self
        }
    }
}

/// Parts of one whole as parts of another, rounded up.
fn rescaled(amount: u32, from: NonZeroU32, to: NonZeroU32) -> u32 {
    let parts = (u64::from(amount) * u64::from(to.get())).div_ceil(u64::from(from.get()));
    u32::try_from(parts).unwrap_or(u32::MAX)
}

/// The authority grants a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub pod: Pod,
    /// To which process of it.
    pub incarnation: Incarnation,
    /// By whom, and which request it answers.
    pub id: GrantId,
    /// What amounts are parts of.
    pub whole: NonZeroU32,
    /// How much.
    pub amount: u32,
    /// What the client goes on with afterwards if nothing comes.
    pub fallback: u32,
    /// How long, from the sending of the request.
    pub length: Duration,
    /// Whether it only prolongs what the client holds: it is worth no more than what the client may use on receipt.
    pub is_renewal: bool,
}
