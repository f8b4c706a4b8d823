//! The side that grants.

use super::fair_share::fair_shares;
use super::ledger::Account;
use super::{DRIFT, Epoch, Grant, GrantId, OnLoss, Pod, Request, Terms, with_drift};
use crate::mutation::{Mutation, is_on};
use crate::time::Moment;

/// Grants leases on one limit, in one epoch.
#[derive(Clone, Debug)]
pub struct Authority {
    terms: Terms,
    epoch: Epoch,
    /// When the epoch was claimed.
    began: Moment,
    /// Since when it is known which pods ended.
    watched_since: Moment,
    /// Until when it may grant.
    claimed_until: Moment,
    /// Whether others may have granted before.
    is_successor: bool,
    accounts: Vec<Account>,
    /// Pods that may be using something that this authority has not heard of.
    unheard: Vec<Unheard>,
}

/// A pod that may be using what an epoch before granted, or may have.
#[derive(Clone, Copy, Debug)]
struct Unheard {
    pod: Pod,
    /// When the process ended that may have used something: the pod, or the one before the process that was heard.
    ended: Option<Moment>,
}

/// What came before an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nobody has ever granted on this limit.
    First,
    /// Others may have.
    Successor(Roster),
}

/// Which pods may be using something that an epoch before granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Those that existed when the epoch was claimed, and have not told since. One that came later has nothing from before.
    pub pods: Vec<Pod>,
    /// Those that have ended, and when, as far as that was seen.
    pub ended: Vec<(Pod, Moment)>,
    /// Since when it was.
    pub watched_since: Moment,
}

impl Authority {
    /// For an epoch that was claimed at `began` and is until `claimed_until`, by this authority's clock and before any grant of it.
    pub fn new(terms: Terms, epoch: Epoch, start: Start, began: Moment, claimed_until: Moment) -> Self {
        let (is_successor, roster) = match start {
            Start::First => (false, Roster::default()),
            Start::Successor(roster) => (true, roster),
        };
        let alive = roster.pods.into_iter().map(|pod| Unheard { pod, ended: None });
        let ended = roster
            .ended
            .into_iter()
            .map(|(pod, at)| Unheard { pod, ended: Some(at) });
        let forgets = is_on(Mutation::EndedAreForgotten);
        Self {
            terms,
            epoch,
            began,
            watched_since: roster.watched_since,
            claimed_until,
            is_successor,
            accounts: Vec::new(),
            unheard: alive.chain(ended.filter(|_| !forgets)).collect(),
        }
    }

    /// The claim holds longer.
    pub fn prolong(&mut self, claimed_until: Moment) {
        self.claimed_until = self.claimed_until.max(claimed_until);
    }

    /// Other terms from now on. What was granted counts as before; a lower limit is reached as leases end.
    pub fn change(&mut self, terms: Terms) {
        for account in &mut self.accounts {
            account.rescale(self.terms.limit, terms.limit);
        }
        self.terms = terms;
    }

    /// A pod has told all that it holds and has used of this limit, and has seen a grant, or a word, of this epoch: it takes none from
    /// before. Its process began at `began`; an earlier one of it may have used something until then.
    pub fn pod_told(&mut self, pod: Pod, began: Moment) {
        let ended = (!is_on(Mutation::RestartIsForgotten)).then_some(began);
        self.unheard.retain_mut(|unheard| {
            if unheard.pod == pod && unheard.ended.is_none() {
                unheard.ended = ended;
                return ended.is_some();
            }
            true
        });
    }

    /// A pod holds nothing of this limit any more, and asks for it no more.
    pub fn pod_let_go(&mut self, pod: Pod, now: Moment) {
        for account in self.accounts.iter_mut().filter(|account| account.pod == pod) {
            account.end(now);
        }
    }

    /// A pod's process has ended and will not start again.
    pub fn pod_ended(&mut self, pod: Pod, now: Moment) {
        for unheard in self.unheard.iter_mut().filter(|unheard| unheard.pod == pod) {
            unheard.ended.get_or_insert(now);
        }
        self.pod_let_go(pod, now);
    }

    /// Answers a request. None if it is out of date, or the claim has ended.
    pub fn receive(&mut self, request: &Request, now: Moment) -> Option<Grant> {
        if now >= self.claimed_until && !is_on(Mutation::ClaimOutlived) {
            return None;
        }
        let request = &request.of(self.terms.limit);
        let Terms {
            limit,
            window,
            length,
            ..
        } = self.terms;
        let until = now.after(with_drift(length));
        let window = self.counts_for(window);
        let place = self.account(request, now)?;
        let is_told = request.epoch == self.epoch || is_on(Mutation::HearsayIsBelieved);
        self.accounts[place].hear(request, is_told, now, until);
        if is_told {
            // By a slow clock it is younger than it is; it tells its age at the sending, which was before now.
            let age = request.age.saturating_sub(request.age / DRIFT);
            self.pod_told(request.pod, now.before(age));
        }
        for account in &mut self.accounts {
            account.forget(now, window);
        }
        self.unheard
            .retain(|unheard| unheard.ended.is_none_or(|ended| now < ended.after(window)));
        let is_renewal = self.learns(now);
        let amount = if is_renewal {
            request.allowance.min(limit.get())
        } else {
            self.offer(place, now).min(self.free(place, now))
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
            whole: limit,
            amount,
            fallback,
            length,
            is_renewal,
        })
    }

    /// Whether it only renews: something that it does not know of may be in use, and be more than what it has set aside.
    pub fn learns(&self, now: Moment) -> bool {
        let (length, window) = (with_drift(self.terms.length), with_drift(self.terms.window));
        let until = self.began.after(length).after(window);
        if !self.is_successor || now >= until || is_on(Mutation::LearningSkipped) {
            return false;
        }
        // Who ended unseen spent nothing after that; who did not may use a lease until its end.
        let counts = |unheard: &Unheard| unheard.ended.is_none_or(|ended| now < ended.after(window));
        now < self.watched_since.after(window) || self.unheard.iter().any(counts)
    }

    /// The pods that hold more than their fair share of what is asked for now: to be asked to ask again.
    pub fn overdrawn(&self, now: Moment) -> Vec<Pod> {
        let shares = self.shares(None, now);
        let accounts = self.accounts.iter().zip(shares);
        accounts
            .filter(|(account, share)| !account.is_silent(now) && account.granted() > *share)
            .map(|(account, _)| account.pod)
            .collect()
    }

    /// Whether nothing that was granted here counts: another one of the same epoch, with the pods that have not told by then, would do
    /// as well.
    pub fn is_idle(&self, now: Moment) -> bool {
        let window = self.counts_for(self.terms.window);
        self.accounts
            .iter()
            .all(|account| account.charge(now, window) == 0)
    }

    /// What all pods together may be using, by what this authority knows.
    pub fn committed(&self, now: Moment) -> u32 {
        self.others(None, now)
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

    /// The fair share of a pod among all that ask, and of what nobody asks for as much as all of them could get, and one more: so that
    /// a pod that suddenly has more to do need not ask first.
    fn offer(&self, place: usize, now: Moment) -> u32 {
        if self.accounts[place].demand == 0 {
            // It gives up what it has.
            return 0;
        }
        let shares = self.shares(Some(place), now);
        let unwanted = self.terms.limit.get() - shares.iter().sum::<u32>();
        let asking = shares.iter().filter(|share| **share > 0).count();
        shares[place] + unwanted / (u32::try_from(asking).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// The fair share of each process, `asking` among those that ask.
    fn shares(&self, asking: Option<usize>, now: Moment) -> Vec<u32> {
        let demand = |(place, account): (usize, &Account)| {
            let asks = Some(place) == asking || !account.is_silent(now);
            if asks { account.demand } else { 0 }
        };
        let demands: Vec<u32> = self.accounts.iter().enumerate().map(demand).collect();
        fair_shares(self.terms.limit.get(), &demands)
    }

    /// What nobody else may be using.
    fn free(&self, place: usize, now: Moment) -> u32 {
        let limit = self.terms.limit.get();
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
                OnLoss::Share if !is_on(Mutation::FallbackNotSetAside) => self.terms.equal_share(),
                OnLoss::Share | OnLoss::Open | OnLoss::Closed => 0,
            });
        charges.chain(set_aside).fold(0, u32::saturating_add)
    }
}
