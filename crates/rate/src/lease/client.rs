//! The side that uses.

use super::{Epoch, Grant, GrantId, Incarnation, OnLoss, Pod, Request, Sequence};
use crate::mutation::{Mutation, is_on};
use crate::time::Moment;

/// Keeps one lease, for one process of one pod.
#[derive(Clone, Debug)]
pub struct Client {
    pod: Pod,
    incarnation: Incarnation,
    on_loss: OnLoss,
    epoch: Epoch,
    last: Sequence,
    /// When the last request was sent, until it is answered. Only its answer is taken: with every request, the client has told
    /// the authority that it takes no other grant from before.
    sent_at: Option<Moment>,
    held: Option<Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: GrantId,
    amount: u32,
    fallback: u32,
    until: Moment,
}

impl Client {
    /// Without a lease.
    pub const fn new(pod: Pod, incarnation: Incarnation, on_loss: OnLoss) -> Self {
        Self {
            pod,
            incarnation,
            on_loss,
            epoch: Epoch(0),
            last: Sequence(0),
            sent_at: None,
            held: None,
        }
    }

    /// What may be used now, of the limit. It is a [`Share`](crate::Share) of every charge.
    pub fn allowance(&self, now: Moment) -> u32 {
        match (self.held, self.on_loss) {
            (Some(held), _) if now < held.until => held.amount,
            (Some(held), OnLoss::Share) if is_on(Mutation::LeaseOutlived) => held.amount,
            (Some(held), OnLoss::Share) => held.fallback,
            (None, OnLoss::Share) | (_, OnLoss::Closed) => 0,
            (_, OnLoss::Open) => u32::MAX,
        }
    }

    /// A request to be sent now. An answer to an earlier one is not taken any more: send another one only when the last was
    /// answered, or has taken so long that its answer is given up.
    pub fn request(&mut self, demand: u32, now: Moment) -> Request {
        self.last = Sequence(self.last.0 + 1);
        self.sent_at = Some(now);
        let allowance = match self.on_loss {
            OnLoss::Open => self
                .held
                .filter(|held| now < held.until)
                .map_or(0, |held| held.amount),
            OnLoss::Share | OnLoss::Closed => self.allowance(now),
        };
        Request {
            pod: self.pod,
            incarnation: self.incarnation,
            sequence: self.last,
            epoch: self.epoch,
            held: self.held.map(|held| held.id),
            allowance,
            fallback: self.held.map_or(0, |held| held.fallback),
            demand,
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
        let amount = if grant.is_renewal && !is_on(Mutation::RenewalOfWhatHasEnded) {
            grant.amount.min(self.allowance(now))
        } else {
            grant.amount
        };
        self.sent_at = None;
        self.held = Some(Held {
            id: grant.id,
            amount,
            fallback: grant.fallback.min(amount),
            until,
        });
        true
    }
}
