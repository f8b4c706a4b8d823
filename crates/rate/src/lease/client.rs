//! The side that uses.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Epoch, Grant, GrantId, Incarnation, OnLoss, Pod, Request, Sequence, rescaled};
use crate::limiter::Usage;
use crate::mutation::{Mutation, is_on};
use crate::quota::Share;
use crate::time::Moment;

/// Keeps one lease, for one process of one pod.
#[derive(Clone, Debug)]
pub struct Client {
    pod: Pod,
    incarnation: Incarnation,
    on_loss: OnLoss,
    /// When the process began.
    began: Moment,
    epoch: Epoch,
    last: Sequence,
    /// When the last request was sent, until it is answered. Only its answer is taken: with every request, the client has told
    /// the authority that it takes no other grant from before.
    sent_at: Option<Moment>,
    held: Option<Held>,
    /// The most that it held since some time, and in a time before, each as long as what was used counts.
    peaks: [Part; 2],
    peaks_since: Moment,
}

/// Parts of a whole.
#[derive(Clone, Copy, Debug)]
struct Part {
    amount: u32,
    whole: NonZeroU32,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: GrantId,
    whole: NonZeroU32,
    amount: u32,
    fallback: u32,
    until: Moment,
}

impl Client {
    /// Without a lease, for a process that began then.
    pub const fn new(pod: Pod, incarnation: Incarnation, on_loss: OnLoss, began: Moment) -> Self {
        Self {
            pod,
            incarnation,
            on_loss,
            began,
            epoch: Epoch(0),
            last: Sequence(0),
            sent_at: None,
            held: None,
            peaks: [Part::NOTHING; 2],
            peaks_since: Moment::ORIGIN,
        }
    }

    /// The same, whose requests come after another client's of the same process, which is no more.
    #[must_use]
    pub const fn after(self, last: Sequence) -> Self {
        Self { last, ..self }
    }

    /// What to do without an authority, from now on.
    pub const fn change(&mut self, on_loss: OnLoss) {
        self.on_loss = on_loss;
    }

    /// Takes no grant of an earlier epoch from now on.
    pub fn see(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The part of the limit that may be used now; None if the limit does not hold.
    pub fn share(&self, now: Moment) -> Option<Share> {
        match self.held {
            Some(held) if now < held.until || self.on_loss != OnLoss::Open => {
                Some(Share::new(self.allowance(&held, now), held.whole))
            }
            None if self.on_loss != OnLoss::Open => Some(Share::new(0, NonZeroU32::MIN)),
            _ => None,
        }
    }

    /// What may be used under a grant that it holds.
    fn allowance(&self, held: &Held, now: Moment) -> u32 {
        match self.on_loss {
            _ if now < held.until => held.amount,
            OnLoss::Share if is_on(Mutation::LeaseOutlived) => held.amount,
            OnLoss::Share => held.fallback,
            OnLoss::Open | OnLoss::Closed => 0,
        }
    }

    /// Until when the lease lasts; None if there is none.
    pub fn leased_until(&self, now: Moment) -> Option<Moment> {
        self.held.map(|held| held.until).filter(|until| now < *until)
    }

    /// When the last request was sent, if it was not answered.
    pub const fn waits_since(&self) -> Option<Moment> {
        self.sent_at
    }

    /// A request to be sent now. `usage` is what was used of the limit and still counts; it counts for `memory`. `demand` is what could
    /// be used. Both are parts of `whole`. An answer to an earlier request is not taken any more: send another one only when the last
    /// was answered, or has taken so long that its answer is given up.
    pub fn request(
        &mut self,
        usage: Usage,
        demand: u32,
        whole: NonZeroU32,
        memory: Duration,
        now: Moment,
    ) -> Request {
        let used = self.used(usage, whole, memory, now);
        self.last = Sequence(self.last.0 + 1);
        self.sent_at = Some(now);
        let mut request = Request {
            pod: self.pod,
            incarnation: self.incarnation,
            sequence: self.last,
            epoch: self.epoch,
            age: now.since(self.began),
            held: self.held.map(|held| held.id),
            whole,
            allowance: 0,
            fallback: 0,
            used: if is_on(Mutation::UseIsNotTold) { 0 } else { used },
            demand,
        };
        if let Some(held) = self.held {
            request.allowance = rescaled(self.allowance(&held, now), held.whole, whole);
            request.fallback = rescaled(held.fallback, held.whole, whole);
        }
        request
    }

    /// The most that it has used of what still counts: nobody uses more than they hold.
    ///
    /// Of a bucket that misses something, it is all that was held. Less would not do: what was taken is earned back at the rate of the part at
    /// which it was taken, and that rate may not be another's meanwhile.
    fn used(&mut self, usage: Usage, whole: NonZeroU32, memory: Duration, now: Moment) -> u32 {
        let holds = self.held.map_or(Part::NOTHING, |held| Part {
            amount: self.allowance(&held, now),
            whole: held.whole,
        });
        if now >= self.peaks_since.after(memory) {
            self.peaks = [holds, self.peaks[0]];
            self.peaks_since = now;
        }
        let [current, before] = self.peaks;
        let [held, current, before] =
            [holds, current, before].map(|part| rescaled(part.amount, part.whole, whole));
        let most = held.max(current).max(before);
        match usage {
            Usage::Passed(parts) => parts.min(most),
            Usage::Missing(0) | Usage::Something(false) => 0,
            Usage::Missing(_) | Usage::Something(true) => most,
        }
    }

    /// Takes a grant; says whether it did. It does not if the grant is another's, answers another request than the last, is of an
    /// earlier authority, or has ended on its way.
    pub fn receive(&mut self, grant: &Grant, now: Moment) -> bool {
        let is_ours = (grant.pod, grant.incarnation) == (self.pod, self.incarnation);
        if !is_ours || grant.id.epoch < self.epoch {
            return false;
        }
        self.epoch = self.epoch.max(grant.id.epoch);
        let is_answer = grant.id.sequence == self.last || is_on(Mutation::AnyAnswerTaken);
        let Some(sent_at) = self.sent_at.filter(|_| is_answer) else {
            return false;
        };
        let counted_from = if is_on(Mutation::LengthFromReceipt) {
            now
        } else {
            sent_at
        };
        let until = counted_from.after(grant.length);
        if until <= now {
            return false;
        }
        let mut held = Held {
            id: grant.id,
            whole: grant.whole,
            amount: grant.amount,
            fallback: grant.fallback,
            until,
        };
        if grant.is_renewal && !is_on(Mutation::RenewalOfWhatHasEnded) {
            held = self.no_more_than_now(held, now);
        }
        self.sent_at = None;
        let part = Part {
            amount: held.amount,
            whole: held.whole,
        };
        self.peaks[0] = self.peaks[0].max(part);
        self.held = Some(held);
        true
    }

    /// A renewal, cut to what may be used now: in the parts of the one of the two that is less.
    fn no_more_than_now(&self, renewal: Held, now: Moment) -> Held {
        let Some(held) = self.held else {
            return Held {
                amount: 0,
                fallback: 0,
                ..renewal
            };
        };
        let amount = self.allowance(&held, now);
        let is_less = u64::from(amount) * u64::from(renewal.whole.get())
            < u64::from(renewal.amount) * u64::from(held.whole.get());
        if !is_less {
            return renewal;
        }
        Held {
            whole: held.whole,
            amount,
            fallback: held.fallback.min(amount),
            ..renewal
        }
    }
}

impl Part {
    const NOTHING: Self = Self {
        amount: 0,
        whole: NonZeroU32::MIN,
    };

    fn max(self, other: Self) -> Self {
        let [own, others] = [(self, other), (other, self)]
            .map(|(part, other)| u64::from(part.amount) * u64::from(other.whole.get()));
        if own >= others { self } else { other }
    }
}
