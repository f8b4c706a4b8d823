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
use std::time::Duration;

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
    #[inline]
    pub fn decide(&self, now: Moment, charge: impl FnMut(usize) -> Option<Charge>) -> Decision {
        let mut decision = Decision::new();
        self.fill(&mut decision, now, charge);
        decision
    }

    /// Fills a decision where it lies: it is too large to be moved about.
    fn fill(&self, decision: &mut Decision, now: Moment, mut charge: impl FnMut(usize) -> Option<Charge>) {
        let mut applying = self.members.iter().filter_map(|member| {
            let charge = charge(member.position)?;
            let place = charge.key.map_or(Place::Common, Place::Own);
            Some(Applied {
                member,
                charge,
                place,
            })
        });
        let Some(first) = applying.next() else { return };
        let Some(second) = applying.next() else {
            return first.decide(now, decision);
        };
        let mut applied: SmallVec<[Applied<'_>; FEW]> = [first, second].into_iter().collect();
        applied.extend(applying);
        while let Err(missing) = attempt(&applied, now, decision) {
            for index in missing {
                applied[index].insert(now);
            }
        }
    }
}

impl Applied<'_> {
    /// Decides on this limit alone.
    #[inline]
    fn decide(mut self, now: Moment, decision: &mut Decision) {
        loop {
            let shard = self.member.limiter.store().read(self.charge.key);
            if let Some(cell) = shard.cell(self.place) {
                let charged = decision.charge(&self.asked(now, &shard, cell));
                decision.admitted = charged || self.member.mode == Mode::Shadow;
                return;
            }
            drop(shard);
            self.insert(now);
        }
    }

    /// Makes the cell that is missing.
    fn insert(&mut self, now: Moment) {
        if let Some(key) = self.charge.key {
            self.place = self.member.limiter.store().insert(key, now);
        }
    }

    fn asked<'a>(&'a self, now: Moment, shard: &'a Shard, cell: &'a Cell) -> Asked<'a> {
        Asked {
            member: self.member,
            is_full: self.place == Place::Nowhere,
            rules: shard.rules(),
            cell,
            ask: Ask {
                now,
                cost: self.charge.cost,
                share: self.charge.share,
            },
        }
    }
}

/// Decides, or names the limits at which the key has no cell yet.
fn attempt(
    applied: &[Applied<'_>],
    now: Moment,
    decision: &mut Decision,
) -> Result<(), SmallVec<[usize; FEW]>> {
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
    let mut enforced: SmallVec<[Asked<'_>; FEW]> = SmallVec::new();
    let mut shadows: SmallVec<[Asked<'_>; 1]> = SmallVec::new();
    for ((applied, shard), cell) in applied.iter().zip(&shards).zip(&cells) {
        let asked = applied.asked(now, shard, cell);
        match applied.member.mode {
            Mode::Enforce => enforced.push(asked),
            Mode::Shadow => shadows.push(asked),
        }
    }
    match enforced.as_slice() {
        [] => {}
        [only] => decision.admitted = decision.charge(only),
        all => decision.charge_all(all),
    }
    if decision.admitted {
        for shadow in &shadows {
            decision.charge(shadow);
        }
    }
    Ok(())
}

/// A cell and what is asked of it.
struct Asked<'a> {
    member: &'a Member,
    /// There is no room for the key.
    is_full: bool,
    rules: &'a Rules,
    cell: &'a Cell,
    ask: Ask,
}

impl Decision {
    /// That a request passes to which no limit applies.
    fn new() -> Self {
        Self {
            admitted: true,
            readings: SmallVec::new(),
            permits: SmallVec::new(),
        }
    }

    /// Charges one cell by itself.
    #[inline]
    fn charge(&mut self, asked: &Asked<'_>) -> bool {
        if asked.is_full {
            self.read(asked.member, &[Quota::NOTHING]);
            return false;
        }
        if let Some(quota) = asked.cell.charge_word(asked.rules, asked.ask) {
            self.read(asked.member, &[quota]);
            return quota.admits;
        }
        let mut quotas = Quotas::new();
        let (charged, permit) = asked.cell.charge(asked.rules, asked.ask, &mut quotas);
        self.permits.extend(permit);
        self.read(asked.member, &quotas);
        charged
    }

    /// Charges all cells or none.
    fn charge_all(&mut self, asked: &[Asked<'_>]) {
        // What is under way is asked last: it alone cannot be held without being counted.
        let is_counted = |asked: &&Asked<'_>| matches!(asked.rules, Rules::InFlight(_));
        let rates = asked.iter().filter(|asked| !is_counted(asked));
        let mut holds: SmallVec<[(&Asked<'_>, Hold<'_>, Quotas); FEW]> = SmallVec::new();
        for asked in rates.chain(asked.iter().filter(is_counted)) {
            let mut quotas = Quotas::new();
            if asked.is_full {
                self.read(asked.member, &[Quota::NOTHING]);
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
            self.read(asked.member, &quotas);
        }
    }

    #[inline]
    fn read(&mut self, member: &Member, quotas: &[Quota]) {
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

    /// After how long the same request would pass if no other came: the longest wait of those that refused. None if it
    /// passes, or one of them cannot tell or never admits it.
    pub fn retry_after(&self) -> Option<Duration> {
        let waits = self.refusals().map(|reading| reading.quota.retry_after());
        waits.reduce(|longest, wait| Some(longest?.max(wait?))).flatten()
    }

    /// The permits of limits on concurrency, to be kept for as long as the request is under way.
    pub fn into_permits(self) -> impl Iterator<Item = Permit> {
        self.permits.into_iter()
    }
}
