//! What one process of a pod may be using, as far as the authority can know.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{GrantId, Incarnation, Pod, Request, Sequence, rescaled};
use crate::time::Moment;

/// A process's part of the ledger.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub pod: Pod,
    pub incarnation: Incarnation,
    /// The latest request that was answered.
    pub answered: Sequence,
    /// What the pod could use, as it said last.
    pub demand: u32,
    is_told: bool,
    commitments: Vec<Commitment>,
}

/// A grant, and how long it counts.
#[derive(Clone, Copy, Debug)]
struct Commitment {
    grant: GrantId,
    amount: u32,
    fallback: u32,
    /// The last moment at which the amount can be used.
    until: Moment,
    /// When the client was known to have gone on to another grant, or to have ended.
    ended: Option<Moment>,
}

impl Account {
    pub const fn new(pod: Pod, incarnation: Incarnation) -> Self {
        Self {
            pod,
            incarnation,
            answered: Sequence(0),
            demand: 0,
            is_told: false,
            commitments: Vec::new(),
        }
    }

    /// What counts at `now`, where what was spent counts for `window`.
    pub fn charge(&self, now: Moment, window: Duration) -> u32 {
        let counts = |commitment: &Commitment| commitment.charge(now, window);
        self.commitments.iter().map(counts).max().unwrap_or(0)
    }

    /// Whether the pod's last grant has ended.
    pub fn is_silent(&self, now: Moment) -> bool {
        self.commitments.iter().all(|commitment| commitment.until <= now)
    }

    /// What the pod may use under the last grant that it has.
    pub fn granted(&self) -> u32 {
        self.commitments.last().map_or(0, |last| last.amount)
    }

    /// Goes on in parts of another whole.
    pub fn rescale(&mut self, from: NonZeroU32, to: NonZeroU32) {
        self.demand = rescaled(self.demand, from, to);
        for commitment in &mut self.commitments {
            commitment.amount = rescaled(commitment.amount, from, to);
            commitment.fallback = rescaled(commitment.fallback, from, to);
        }
    }

    /// Writes down what the client says it holds; every other grant has ended for it, and no more of it was used than it says.
    /// From a request on that takes no grant of an earlier epoch (`is_told`), there is nothing that is not written down.
    pub fn hear(&mut self, request: &Request, is_told: bool, now: Moment, until: Moment) {
        for commitment in &mut self.commitments {
            if Some(commitment.grant) != request.held {
                commitment.end(now);
            }
            if commitment.ended.is_some() {
                commitment.amount = commitment.amount.min(request.used);
                commitment.fallback = commitment.fallback.min(request.used);
            }
        }
        if !self.is_told {
            // Used by grants that this authority does not know of.
            self.commitments.push(Commitment {
                grant: GrantId::default(),
                amount: request.used,
                fallback: 0,
                until: now,
                ended: Some(now),
            });
        }
        self.is_told |= is_told;
        self.answered = request.sequence;
        self.demand = request.demand;
        let is_written = |held| {
            let is_held = |commitment: &Commitment| commitment.grant == held && commitment.ended.is_none();
            self.commitments.iter().any(is_held)
        };
        if let Some(held) = request.held.filter(|held| !is_written(*held)) {
            self.commit(held, request.allowance, request.fallback, until);
        }
    }

    /// Writes down a grant.
    pub fn commit(&mut self, grant: GrantId, amount: u32, fallback: u32, until: Moment) {
        self.commitments.push(Commitment {
            grant,
            amount,
            fallback,
            until,
            ended: None,
        });
    }

    /// Writes down that the pod's process has ended.
    pub fn end(&mut self, now: Moment) {
        self.demand = 0;
        for commitment in &mut self.commitments {
            commitment.end(now);
        }
    }

    /// Forgets what no longer counts, and what another commitment covers for as long.
    pub fn forget(&mut self, now: Moment, window: Duration) {
        self.commitments
            .retain(|commitment| commitment.ended.is_none() || commitment.charge(now, window) > 0);
        let all = self.commitments.clone();
        let mut place = 0;
        self.commitments.retain(|commitment| {
            let earlier = place;
            place += 1;
            commitment.ended.is_none()
                || !all
                    .iter()
                    .enumerate()
                    .any(|(other, covers)| other != earlier && covers.covers(commitment, other < earlier))
        });
    }

    /// Whether nothing is on the account any more.
    pub fn is_empty(&self) -> bool {
        self.commitments.is_empty()
    }
}

impl Commitment {
    fn end(&mut self, now: Moment) {
        self.ended.get_or_insert(now);
    }

    fn charge(&self, now: Moment, window: Duration) -> u32 {
        let used_until = self.ended.map_or(self.until, |ended| ended.min(self.until));
        let falls_back = self.ended.is_none_or(|ended| now < ended.after(window));
        if now < used_until.after(window) {
            self.amount
        } else if falls_back {
            self.fallback
        } else {
            0
        }
    }

    /// Whether, of two that have ended, this one counts for at least as much and as long.
    fn covers(&self, other: &Self, is_earlier: bool) -> bool {
        let (Some(own), Some(ended)) = (self.ended, other.ended) else {
            return false;
        };
        let own_use = own.min(self.until);
        let other_use = ended.min(other.until);
        let as_much = self.amount >= other.amount && self.fallback >= other.fallback;
        let same =
            (self.amount, self.fallback, own_use, own) == (other.amount, other.fallback, other_use, ended);
        as_much && own_use >= other_use && own >= ended && (!same || is_earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Epoch;
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn grant(sequence: u64) -> GrantId {
        GrantId {
            epoch: Epoch(1),
            sequence: Sequence(sequence),
        }
    }

    fn request(sequence: u64, held: u64) -> Request {
        Request {
            pod: Pod(1),
            incarnation: Incarnation(1),
            sequence: Sequence(sequence),
            epoch: Epoch(1),
            held: (held > 0).then_some(grant(held)),
            age: WINDOW,
            whole: NonZeroU32::new(100).unwrap(),
            allowance: 50,
            fallback: 10,
            used: 50,
            demand: 0,
        }
    }

    #[test]
    fn a_grant_counts_for_a_window_after_its_end_and_its_fallback_for_ever() {
        let mut account = Account::new(Pod(1), Incarnation(1));
        account.commit(grant(1), 50, 10, at(10));
        assert_eq!(account.charge(at(69), WINDOW), 50);
        assert_eq!(account.charge(at(70), WINDOW), 10);
        assert_eq!(account.charge(at(1_000_000), WINDOW), 10);
        account.end(at(100));
        assert_eq!(account.charge(at(159), WINDOW), 10);
        assert_eq!(account.charge(at(160), WINDOW), 0);
        account.forget(at(160), WINDOW);
        assert!(account.is_empty());
    }

    #[test]
    fn a_larger_grant_counts_for_a_window_after_the_client_said_it_holds_a_smaller_one() {
        let mut account = Account::new(Pod(1), Incarnation(1));
        account.commit(grant(1), 50, 10, at(10));
        account.commit(grant(2), 20, 10, at(12));
        assert_eq!(
            account.charge(at(5), WINDOW),
            50,
            "it may not have got the second one"
        );
        account.hear(&request(3, 2), true, at(5), at(15));
        assert_eq!(account.charge(at(64), WINDOW), 50);
        assert_eq!(account.charge(at(65), WINDOW), 20);
    }

    #[test]
    fn what_a_client_holds_from_before_is_written_down() {
        let mut account = Account::new(Pod(1), Incarnation(1));
        account.hear(&request(9, 7), true, at(5), at(15));
        assert_eq!(account.charge(at(5), WINDOW), 50);
        assert_eq!(account.charge(at(75), WINDOW), 10);
    }

    /// A late copy of a request had been answered here, with nothing, after another authority had answered the request itself.
    #[test]
    fn a_grant_of_another_authority_to_the_same_request_is_written_down() {
        let mut account = Account::new(Pod(1), Incarnation(1));
        let here = GrantId {
            epoch: Epoch(2),
            ..grant(7)
        };
        account.commit(here, 0, 0, at(15));
        account.hear(&request(9, 7), true, at(5), at(15));
        assert_eq!(account.charge(at(5), WINDOW), 50);
    }

    #[test]
    fn many_grants_leave_few_commitments() {
        let mut account = Account::new(Pod(1), Incarnation(1));
        for sequence in 1..10_000 {
            let now = at(sequence);
            account.hear(&request(sequence + 1, sequence), true, now, at(sequence + 5));
            account.commit(grant(sequence + 1), 50, 10, at(sequence + 5));
            account.forget(now, WINDOW);
            assert!(account.commitments.len() <= 4, "{}", account.commitments.len());
        }
    }
}
