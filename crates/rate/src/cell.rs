//! What is counted for one key: the state of all rates of a limit.
//!
//! A cell is looked at and charged while it is held ([`Cell::hold`]), so that a decision over several cells charges all or
//! none. A cell of one word need not be held if it is the only one ([`Cell::charge_word`]).

use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::concurrency::{InFlight, Permit};
use crate::limit::{MOST_RATES, Rules};
use crate::limiter::Usage;
use crate::quota::{NEVER, Quota, Share};
use crate::sliding_window::{Log, SlidingWindow};
use crate::time::Moment;
use crate::word::{Held, Word};
use crate::word_rule::WordRule;

/// The quota of each rate.
pub(crate) type Quotas = SmallVec<[Quota; 1]>;

/// State for one key, of the kind that its rules have.
#[derive(Debug)]
pub(crate) enum Cell {
    Word(Word),
    Words(Box<[Word; MOST_RATES]>),
    Logs(Box<Mutex<Vec<Log>>>),
    InFlight(Arc<InFlight>),
}

/// What a decision asks of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub now: Moment,
    pub cost: u32,
    pub share: Share,
}

/// A cell that nobody else changes. Dropped, it is let go uncharged.
#[derive(Debug)]
pub(crate) enum Hold<'a> {
    Words(&'a [WordRule], SmallVec<[(Held<'a>, Option<u64>); 1]>),
    Logs(&'a [SlidingWindow], MutexGuard<'a, Vec<Log>>),
    /// The permit, unless there was no room, and what is under way besides it.
    InFlight(Option<Permit>),
}

impl Cell {
    /// Nothing used.
    pub fn fresh(rules: &Rules) -> Self {
        match rules {
            Rules::Words(rules) if rules.len() == 1 => Self::Word(Word::new(0)),
            Rules::Words(_) => Self::Words(Box::new(std::array::from_fn(|_| Word::new(0)))),
            Rules::Logs(rules) => Self::Logs(Box::new(Mutex::new(vec![Log::default(); rules.len()]))),
            Rules::InFlight(_) => Self::InFlight(Arc::default()),
        }
    }

    /// Another cell, in which as much is used.
    pub fn copy(&self) -> Self {
        match self {
            Self::Word(word) => Self::Word(Word::new(word.state())),
            Self::Words(words) => Self::Words(Box::new(std::array::from_fn(|rate| {
                Word::new(words[rate].state())
            }))),
            Self::Logs(logs) => Self::Logs(Box::new(Mutex::new(logs.lock().clone()))),
            Self::InFlight(_) => Self::InFlight(Arc::default()),
        }
    }

    fn words(&self) -> &[Word] {
        match self {
            Self::Word(word) => std::slice::from_ref(word),
            Self::Words(words) => words.as_slice(),
            Self::Logs(_) | Self::InFlight(_) => &[],
        }
    }

    /// Whether forgetting the cell changes no decision.
    pub fn is_idle(&self, rules: &Rules, now: Moment) -> bool {
        match (self, rules) {
            (Self::Logs(logs), Rules::Logs(rules)) => logs
                .lock()
                .iter()
                .zip(rules)
                .all(|(log, rule)| rule.is_idle(log, now)),
            (Self::InFlight(in_flight), _) => in_flight.units() == 0,
            (_, Rules::Words(rules)) => self
                .words()
                .iter()
                .zip(rules)
                .all(|(word, rule)| rule.is_idle(word.state(), now)),
            _ => true,
        }
    }

    /// Charges this cell alone, if it has one word: a compare-and-swap.
    #[inline]
    pub fn charge_word(&self, rules: &Rules, ask: Ask) -> Option<Quota> {
        match (self, rules) {
            (Self::Word(word), Rules::Words(rules)) => {
                let [rule] = rules.as_slice() else { return None };
                Some(word.change(|state| rule.charge(state, ask.now, ask.cost, ask.share)))
            }
            _ => None,
        }
    }

    /// Charges this cell alone: every rate of it, or none. Says whether it had room.
    pub fn charge(&self, rules: &Rules, ask: Ask, quotas: &mut Quotas) -> (bool, Option<Permit>) {
        let mut hold = self.hold(rules, ask, quotas);
        if quotas.iter().all(|quota| quota.admits) {
            (true, hold.commit(ask, quotas))
        } else {
            hold.restate(ask, quotas);
            (false, None)
        }
    }

    /// Holds the cell and finds out what it would say.
    pub fn hold<'a>(&'a self, rules: &'a Rules, ask: Ask, quotas: &mut Quotas) -> Hold<'a> {
        let Ask { now, cost, share } = ask;
        match (self, rules) {
            (Self::Logs(logs), Rules::Logs(rules)) => {
                let mut logs = logs.lock();
                quotas.extend(
                    logs.iter_mut()
                        .zip(rules)
                        .map(|(log, rule)| rule.check(log, now, cost, share)),
                );
                Hold::Logs(rules, logs)
            }
            (Self::InFlight(in_flight), Rules::InFlight(most)) => {
                let limit = share.of(*most);
                let permit = in_flight.enter(cost, limit);
                quotas.push(Quota {
                    admits: permit.is_ok(),
                    limit,
                    room: u64::from(limit.saturating_sub(in_flight.units())),
                    ..Quota::NOTHING
                });
                Hold::InFlight(permit.ok())
            }
            (_, Rules::Words(rules)) => {
                let held = self.words().iter().zip(rules).map(|(word, rule)| {
                    let held = word.hold();
                    let (next, quota) = rule.charge(held.state(), now, cost, share);
                    quotas.push(quota);
                    (held, next)
                });
                let held = held.collect();
                Hold::Words(rules, held)
            }
            // A cell is made by its rules, and they change together.
            _ => Hold::InFlight(None),
        }
    }

    /// The cell for other rules: what was used and still counts is used there as well. A rate goes on with what the rate of
    /// the same window had; if there is none, with the one in its place, or the last one.
    pub fn carried(&self, from: &Rules, to: &Rules, now: Moment) -> Self {
        let windows = from.windows();
        let before = |window: u64, place: usize| {
            let same = windows.iter().position(|other| *other == window);
            same.unwrap_or_else(|| place.min(windows.len().saturating_sub(1)))
        };
        match (self, from, to) {
            (Self::InFlight(in_flight), _, Rules::InFlight(_)) => Self::InFlight(Arc::clone(in_flight)),
            (Self::Logs(logs), Rules::Logs(old), Rules::Logs(new)) => {
                let mut logs = logs.lock();
                let carry = |(place, rule): (usize, &SlidingWindow)| {
                    let rate = before(rule.window(), place);
                    rule.carried(&mut logs[rate], &old[rate], now)
                };
                Self::Logs(Box::new(Mutex::new(new.iter().enumerate().map(carry).collect())))
            }
            (Self::InFlight(_), _, _) | (_, _, Rules::InFlight(_)) => Self::fresh(to),
            (_, _, Rules::Words(new)) => {
                let state = |place: usize| {
                    new.get(place).map_or(0, |rule| {
                        let rate = before(rule.window(), place);
                        match from {
                            Rules::Words(old) => rule.carried(self.words()[rate].state(), &old[rate], now),
                            _ => rule.missing(self.used(from, rate, now), now),
                        }
                    })
                };
                if new.len() == 1 {
                    Self::Word(Word::new(state(0)))
                } else {
                    Self::Words(Box::new(std::array::from_fn(|place| Word::new(state(place)))))
                }
            }
            (_, _, Rules::Logs(new)) => {
                let log = |(place, rule): (usize, &SlidingWindow)| {
                    rule.missing(self.used(from, before(rule.window(), place), now), now)
                };
                Self::Logs(Box::new(Mutex::new(new.iter().enumerate().map(log).collect())))
            }
        }
    }

    /// What was used and still counts, in parts of `whole`: of the rate of which it was most.
    pub fn usage(&self, rules: &Rules, whole: NonZeroU32, now: Moment) -> Usage {
        let parts = |used: u32, limit: u32| {
            let parts = (u64::from(used) * u64::from(whole.get())).div_ceil(u64::from(limit.max(1)));
            u32::try_from(parts).unwrap_or(u32::MAX).min(whole.get())
        };
        match (self, rules) {
            (Self::Logs(logs), Rules::Logs(rules)) => {
                let mut logs = logs.lock();
                let rates = logs.iter_mut().zip(rules);
                let used = rates.map(|(log, rule)| parts(rule.used(log, now), rule.limit()));
                Usage::Passed(used.max().unwrap_or(0))
            }
            (_, Rules::Words(rules)) => {
                let words = self.words().iter().zip(rules);
                let used = words.map(|(word, rule)| match rule {
                    WordRule::Gcra(rule) => {
                        Usage::Missing(parts(rule.used(word.state(), now), rule.capacity()))
                    }
                    WordRule::FixedWindow(rule) => Usage::Something(rule.counts(word.state(), now)),
                });
                used.max_by_key(|usage| usage.about(whole))
                    .unwrap_or(Usage::NOTHING)
            }
            _ => Usage::Something(true),
        }
    }

    fn used(&self, rules: &Rules, rate: usize, now: Moment) -> u32 {
        match (self, rules) {
            (Self::Logs(logs), Rules::Logs(rules)) => rules[rate].used(&mut logs.lock()[rate], now),
            (_, Rules::Words(rules)) => rules[rate].used(self.words()[rate].state(), now),
            _ => 0,
        }
    }
}

impl Hold<'_> {
    /// Charges the cell. Only if every rate of it admits the cost.
    pub fn commit(self, ask: Ask, quotas: &mut [Quota]) -> Option<Permit> {
        match self {
            Self::Words(_, held) => {
                for (word, next) in held {
                    if let Some(next) = next {
                        word.set(next);
                    }
                }
                None
            }
            Self::Logs(rules, mut logs) => {
                for ((log, rule), quota) in logs.iter_mut().zip(rules).zip(quotas) {
                    rule.charge(log, ask.now, ask.cost, quota);
                }
                None
            }
            Self::InFlight(permit) => permit,
        }
    }

    /// Corrects the quotas for a cell that is not charged after all, since another limit, or another rate, refused.
    pub fn restate(&mut self, ask: Ask, quotas: &mut [Quota]) {
        match self {
            Self::Words(rules, held) => {
                let admitting = held
                    .iter()
                    .zip(rules.iter())
                    .zip(quotas)
                    .filter(|(_, quota)| quota.admits);
                for (((word, _), rule), quota) in admitting {
                    *quota = Quota {
                        admits: true,
                        retry_after: NEVER,
                        ..rule.charge(word.state(), ask.now, 0, ask.share).1
                    };
                }
            }
            Self::Logs(..) => {}
            Self::InFlight(permit) => {
                if permit.take().is_some() {
                    for quota in quotas {
                        quota.room = quota.room.saturating_add(u64::from(ask.cost));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_state_take_32_bytes() {
        assert_eq!(size_of::<(crate::key::Key, Cell)>(), 32);
    }
}
