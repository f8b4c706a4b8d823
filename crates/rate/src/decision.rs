//! One decision over every limit that applies: all are charged or none.
//!
//! ```text
//! read    lock the shard of each limit that applies, shared; make the cells that are missing
//! hold    the cell of each enforced limit, in one order everywhere; each says whether it has room
//! commit  if all have room: charge all; else let go of all, as if nothing had been
//! shadow  if the request passes: charge each shadow limit that has room
//! ```
//!
//! **Guarantees.** A refused request is charged nowhere, and no other request is ever refused on its account. Every limit is
//! asked even if an earlier one refuses, so that the answer can name all that refuse and the longest wait.
//!
//! **Shadow limits** never block. Each counts by itself, as it would if it were enforced alone: requests that pass and for which
//! it has room. One for which it has none is told as [`Decision::would_reject`].
//!
//! **Order.** Members are held in the order of their addresses, which is the same for every set that a limiter is in; so
//! decisions never wait for one another in a circle.

use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;

use crate::cell::{Ask, Cell, Hold, Quotas};
use crate::concurrency::Permit;
use crate::limit::Rules;
use crate::limiter::{Charge, Limiter};
use crate::mutation::{Mutation, is_on};
use crate::quota::Quota;
use crate::store::{Place, Shard};
use crate::time::Moment;

/// Members for which a decision needs no memory of the heap.
const FEW: usize = 4;

/// Whether a limit decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It only tells what it would have decided.
    Shadow,
}

/// Limits that are decided on together.
#[derive(Clone, Debug)]
pub struct LimitSet {
    /// In the order of addresses, with the position that the caller knows.
    members: Box<[Member]>,
}

#[derive(Clone, Debug)]
struct Member {
    position: usize,
    limiter: Arc<Limiter>,
    mode: Mode,
}

/// What was decided.
#[derive(Debug)]
#[must_use = "a decision is obeyed"]
pub struct Decision {
    admitted: bool,
    readings: SmallVec<[Reading; 2]>,
    permits: SmallVec<[Permit; 1]>,
}

/// What one rate of one limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The limit's position in the list from which the set was made.
    pub member: usize,
    /// The rate's position in the limit.
    pub rate: usize,
    /// Whether the limit decides.
    pub mode: Mode,
    /// What it has left.
    pub quota: Quota,
}

/// A limit that applies, and where.
struct Applied<'a> {
    member: &'a Member,
    charge: Charge,
    place: Place,
}

impl LimitSet {
    /// Of these limits. One that is named twice counts once, as first named.
    pub fn new(limiters: impl IntoIterator<Item = (Arc<Limiter>, Mode)>) -> Self {
        let mut members: Vec<Member> = limiters
            .into_iter()
            .enumerate()
            .map(|(position, (limiter, mode))| Member {
                position,
                limiter,
                mode,
            })
            .collect();
        members.sort_by_key(|member| Arc::as_ptr(&member.limiter));
        members.dedup_by(|later, first| Arc::ptr_eq(&later.limiter, &first.limiter));
        Self {
            members: members.into(),
        }
    }

    /// Decides on a request. `charge` says what it asks of the limit at a position, or that the limit does not apply.
    pub fn decide(&self, now: Moment, mut charge: impl FnMut(usize) -> Option<Charge>) -> Decision {
        let mut applied: SmallVec<[Applied<'_>; FEW]> = SmallVec::new();
        for member in &self.members {
            if let Some(charge) = charge(member.position) {
                let place = charge.key.map_or(Place::Common, Place::Own);
                applied.push(Applied {
                    member,
                    charge,
                    place,
                });
            }
        }
        loop {
            let missing = match attempt(&applied, now) {
                Ok(decision) => return decision,
                Err(missing) => missing,
            };
            for index in missing {
                let applied = &mut applied[index];
                if let Some(key) = applied.charge.key {
                    applied.place = applied.member.limiter.store().insert(key, now);
                }
            }
        }
    }
}

/// Decides, or names the limits at which the key has no cell yet.
fn attempt(applied: &[Applied<'_>], now: Moment) -> Result<Decision, SmallVec<[usize; FEW]>> {
    let shards: SmallVec<[RwLockReadGuard<'_, Shard>; FEW]> = applied
        .iter()
        .map(|applied| applied.member.limiter.store().read(applied.charge.key))
        .collect();
    let mut cells: SmallVec<[&Cell; FEW]> = SmallVec::new();
    let mut missing = SmallVec::new();
    for (index, (applied, shard)) in applied.iter().zip(&shards).enumerate() {
        match shard.cell(applied.place) {
            Some(cell) => cells.push(cell),
            None => missing.push(index),
        }
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let mut decision = Decision {
        admitted: true,
        readings: SmallVec::new(),
        permits: SmallVec::new(),
    };
    let asked = |mode: Mode| {
        applied
            .iter()
            .zip(&shards)
            .zip(&cells)
            .filter(move |((applied, _), _)| applied.member.mode == mode)
            .map(|((applied, shard), cell)| Asked {
                applied,
                rules: shard.rules(),
                cell,
                ask: Ask {
                    now,
                    cost: applied.charge.cost,
                    share: applied.charge.share,
                },
            })
    };
    let mut enforced = asked(Mode::Enforce);
    match (enforced.next(), enforced.next()) {
        (None, _) => {}
        (Some(only), None) => decision.admitted = decision.charge(&only),
        (Some(_), Some(_)) => decision.charge_all(asked(Mode::Enforce).collect()),
    }
    if decision.admitted {
        for shadow in asked(Mode::Shadow) {
            decision.charge(&shadow);
        }
    }
    Ok(decision)
}

/// A cell and what is asked of it.
struct Asked<'a> {
    applied: &'a Applied<'a>,
    rules: &'a Rules,
    cell: &'a Cell,
    ask: Ask,
}

impl Asked<'_> {
    const fn is_full(&self) -> bool {
        matches!(self.applied.place, Place::Nowhere)
    }
}

impl Decision {
    /// Charges one cell by itself.
    fn charge(&mut self, asked: &Asked<'_>) -> bool {
        if asked.is_full() {
            self.read(asked, &[Quota::NOTHING]);
            return false;
        }
        let mut quotas = Quotas::new();
        let (charged, permit) = asked.cell.charge(asked.rules, asked.ask, &mut quotas);
        self.permits.extend(permit);
        self.read(asked, &quotas);
        charged
    }

    /// Charges all cells or none.
    fn charge_all(&mut self, mut asked: SmallVec<[Asked<'_>; FEW]>) {
        // What is under way is asked last: it alone cannot be held without being counted.
        asked.sort_by_key(|asked| matches!(asked.rules, Rules::InFlight(_)));
        let mut holds: SmallVec<[(&Asked<'_>, Hold<'_>, Quotas); FEW]> = SmallVec::new();
        for asked in &asked {
            let mut quotas = Quotas::new();
            if asked.is_full() {
                self.read(asked, &[Quota::NOTHING]);
                self.admitted = false;
                continue;
            }
            let hold = asked.cell.hold(asked.rules, asked.ask, &mut quotas);
            self.admitted &= quotas.iter().all(|quota| quota.admits);
            holds.push((asked, hold, quotas));
        }
        for (asked, mut hold, mut quotas) in holds {
            if self.admitted || is_on(Mutation::RefusalKeepsCharges) {
                self.permits.extend(hold.commit(asked.ask, &mut quotas));
            } else {
                hold.restate(asked.ask, &mut quotas);
            }
            self.read(asked, &quotas);
        }
    }

    fn read(&mut self, asked: &Asked<'_>, quotas: &[Quota]) {
        let member = asked.applied.member;
        self.readings
            .extend(quotas.iter().enumerate().map(|(rate, quota)| Reading {
                member: member.position,
                rate,
                mode: member.mode,
                quota: *quota,
            }));
    }

    /// Whether the request passes.
    pub const fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// What each rate of each limit said that applied. Of a refused request, only enforced limits were asked.
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The rates that refused.
    pub fn refusals(&self) -> impl Iterator<Item = &Reading> {
        self.refusing(Mode::Enforce)
    }

    /// The rates in shadow mode that would have refused a request that passes.
    pub fn would_reject(&self) -> impl Iterator<Item = &Reading> {
        self.refusing(Mode::Shadow)
    }

    fn refusing(&self, mode: Mode) -> impl Iterator<Item = &Reading> {
        self.readings
            .iter()
            .filter(move |reading| reading.mode == mode && !reading.quota.admits)
    }

    /// After how long the same request would pass if no other came: the longest wait of those that refused. None if
    /// one of them cannot tell or never admits it.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.refusals()
            .map(|reading| reading.quota.retry_after)
            .try_fold(std::time::Duration::ZERO, |longest, wait| {
                Some(longest.max(wait?))
            })
            .filter(|_| !self.admitted)
    }

    /// The permits of limits on concurrency, to be kept for as long as the request is under way.
    pub fn into_permits(self) -> impl Iterator<Item = Permit> {
        self.permits.into_iter()
    }
}
