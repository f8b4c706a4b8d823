//! The side that grants.

use super::fair_share::fair_shares;
use super::ledger::Account;
use super::{Epoch, Grant, GrantId, OnLoss, Pod, Request, Terms, with_drift};
use crate::mutation::{Mutation, is_on};
use crate::time::Moment;

/// Grants leases on one limit, in one epoch.
#[derive(Clone, Debug)]
pub struct Authority {
    terms: Terms,
    epoch: Epoch,
    /// Until when it only renews.
    learns_until: Moment,
    /// Until when it may grant.
    claimed_until: Moment,
    /// Whether others may have granted before.
    is_successor: bool,
    accounts: Vec<Account>,
    /// Pods that may be using something that this authority has not heard of.
    unheard: Vec<Unheard>,
}

/// A pod's fallback from an epoch before, as long as it may count.
#[derive(Clone, Copy, Debug)]
struct Unheard {
    pod: Pod,
    /// When the pod told what it holds now, or ended: its processes from before use nothing any more.
    ended: Option<Moment>,
}

/// What came before an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody has ever granted on this limit.
    First,
    /// Others may have. These pods exist.
    Successor(Vec<Pod>),
}

impl Authority {
    /// For an epoch that has been claimed until `claimed_until`, by this authority's clock and before any grant of it.
    pub fn new(terms: Terms, epoch: Epoch, start: Start, now: Moment, claimed_until: Moment) -> Self {
        let (is_successor, pods) = match start {
            Start::First => (false, Vec::new()),
            Start::Successor(pods) => (true, pods),
        };
        let learning = with_drift(terms.length) + with_drift(terms.window);
        let learns = is_successor && !is_on(Mutation::LearningSkipped);
        Self {
            terms,
            epoch,
            learns_until: if learns { now.after(learning) } else { now },
            claimed_until,
            is_successor,
            accounts: Vec::new(),
            unheard: pods.into_iter().map(|pod| Unheard { pod, ended: None }).collect(),
        }
    }

    /// The claim holds longer.
    pub fn prolong(&mut self, claimed_until: Moment) {
        self.claimed_until = self.claimed_until.max(claimed_until);
    }

    /// Other terms from now on. What was granted counts as before; a lower limit is reached as leases end.
    pub fn change(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// A pod exists.
    pub fn pod_appeared(&mut self, pod: Pod) {
        let is_heard = self.accounts.iter().any(|account| account.pod == pod)
            || self.unheard.iter().any(|unheard| unheard.pod == pod);
        if self.is_successor && !is_heard {
            self.unheard.push(Unheard { pod, ended: None });
        }
    }

    /// A pod's process has ended and will not start again.
    pub fn pod_ended(&mut self, pod: Pod, now: Moment) {
        self.hear_from(pod, now);
        for account in self.accounts.iter_mut().filter(|account| account.pod == pod) {
            account.end(now);
        }
    }

    /// Answers a request. None if it is out of date, or the claim has ended.
    pub fn receive(&mut self, request: &Request, now: Moment) -> Option<Grant> {
        if now >= self.claimed_until && !is_on(Mutation::ClaimOutlived) {
            return None;
        }
        let Terms { window, length, .. } = self.terms;
        let until = now.after(with_drift(length));
        let window = self.counts_for(window);
        let place = self.account(request, now)?;
        let account = &mut self.accounts[place];
        account.hear(request, now, until);
        if request.epoch == self.epoch || is_on(Mutation::HearsayIsBelieved) {
            self.hear_from(request.pod, now);
        }
        for account in &mut self.accounts {
            account.forget(now, window);
        }
        self.unheard
            .retain(|unheard| unheard.ended.is_none_or(|ended| now < ended.after(window)));
        let is_renewal = now < self.learns_until;
        let amount = if is_renewal {
            request.allowance.min(self.terms.limit)
        } else {
            self.share(place, now).min(self.free(place, now))
        };
        let fallback = self.terms.fallback(amount);
        let id = GrantId {
            epoch: self.epoch,
            sequence: request.sequence,
        };
        self.accounts[place].commit(id, amount, fallback, until);
        self.accounts.retain(|account| !account.is_empty());
        Some(Grant {
            pod: request.pod,
            incarnation: request.incarnation,
            id,
            amount,
            fallback,
            length,
            is_renewal,
        })
    }

    /// What all pods together may be using, by what this authority knows.
    pub fn committed(&self, now: Moment) -> u32 {
        self.others(None, now)
    }

    /// What the pod did before is over, or on its account.
    fn hear_from(&mut self, pod: Pod, now: Moment) {
        for unheard in self.unheard.iter_mut().filter(|unheard| unheard.pod == pod) {
            unheard.ended.get_or_insert(now);
        }
    }

    /// How long after its last use something counts.
    fn counts_for(&self, window: std::time::Duration) -> std::time::Duration {
        if is_on(Mutation::SpentReturnsAtOnce) {
            std::time::Duration::ZERO
        } else {
            with_drift(window)
        }
    }

    /// The account of a request's process; none if a later request, or a later process of the pod, was answered already.
    /// An earlier process of the pod has ended; what it spent goes on counting beside the new one.
    fn account(&mut self, request: &Request, now: Moment) -> Option<usize> {
        let of_pod = |account: &&mut Account| account.pod == request.pod;
        for account in self.accounts.iter_mut().filter(of_pod) {
            if account.incarnation > request.incarnation {
                return None;
            }
            if account.incarnation < request.incarnation {
                account.end(now);
            }
        }
        let is_process =
            |account: &Account| (account.pod, account.incarnation) == (request.pod, request.incarnation);
        match self.accounts.iter().position(is_process) {
            Some(place) => (request.sequence > self.accounts[place].answered).then_some(place),
            None => {
                self.accounts.push(Account::new(request.pod, request.incarnation));
                Some(self.accounts.len() - 1)
            }
        }
    }

    /// The fair share of a pod among all that ask.
    fn share(&self, place: usize, now: Moment) -> u32 {
        let demands: Vec<u32> = self
            .accounts
            .iter()
            .enumerate()
            .map(|(other, account)| {
                let asks = other == place || !account.is_silent(now);
                if asks { account.demand } else { 0 }
            })
            .collect();
        fair_shares(self.terms.limit, &demands)[place]
    }

    /// What nobody else may be using.
    fn free(&self, place: usize, now: Moment) -> u32 {
        let limit = self.terms.limit;
        limit.saturating_sub(self.others(Some(place), now))
    }

    /// What all processes but one may be using.
    fn others(&self, except: Option<usize>, now: Moment) -> u32 {
        let window = self.counts_for(self.terms.window);
        let charges = self
            .accounts
            .iter()
            .enumerate()
            .filter(|(place, _)| Some(*place) != except)
            .map(|(_, account)| account.charge(now, window));
        let counting = |unheard: &&Unheard| unheard.ended.is_none_or(|ended| now < ended.after(window));
        let set_aside = self
            .unheard
            .iter()
            .filter(counting)
            .map(|_| match self.terms.on_loss {
                OnLoss::Share if !is_on(Mutation::FallbackNotSetAside) => {
                    self.terms.limit / self.terms.replicas
                }
                OnLoss::Share | OnLoss::Open | OnLoss::Closed => 0,
            });
        charges.chain(set_aside).fold(0, u32::saturating_add)
    }
}
