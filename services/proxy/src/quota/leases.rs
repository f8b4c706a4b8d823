//! The parts of one limit that this pod has leased, by counter.

use std::{
    collections::HashMap,
    fs,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::{sync::Notify, time};
use trellis_quota_stream::wire::{self, KeyDigest};
use trellis_rate::{
    Key, Limiter, Moment, Share, Usage,
    lease::{Client, Epoch, Grant, Incarnation, OnLoss, Pod, Request, Sequence},
};

use super::{FIRST_ANSWER, FIRST_STREAM, load::Load};

/// Counters of a limit that are leased at once; requests of further ones are treated as if the authority were lost.
const MOST_PARTS: usize = 100_000;
/// How long an answer may take. The stream loses nothing: it is late because the authority has much to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between asks for a counter that is used.
const FRESHEN: Duration = Duration::from_secs(1);
/// Time between asks for one that is not.
const RENEW: Duration = Duration::from_secs(10);
/// A counter at rest for so long is given back.
const REST: Duration = Duration::from_secs(10);
/// Time until a counter that got less than it wants asks again, at first and at most.
const INSIST: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Answers in a row that were short of what was asked: the limit is used up, and requests need not wait for another one.
const HOPELESS: u32 = 3;

/// The parts of one limit.
#[derive(Debug)]
pub(crate) struct Leases {
    /// None: the limit is not shared, or not yet.
    shared_since: Mutex<Option<time::Instant>>,
    parts: RwLock<Parts>,
    /// Those that are to ask at once.
    urgent: Mutex<Vec<Arc<Part>>>,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Parts {
    by_key: HashMap<Option<Key>, Arc<Part>>,
    by_digest: HashMap<Option<KeyDigest>, Arc<Part>>,
}

/// What is leased of one counter.
#[derive(Debug)]
pub(crate) struct Part {
    key: Option<(Key, KeyDigest)>,
    /// Until when requests wait for the first answer.
    first_by: time::Instant,
    answered: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    client: Client,
    /// It was given something, or did not ask for anything.
    is_answered: bool,
    /// It had less than was wanted, since the last ask.
    is_pressed: bool,
    /// When that was seen first since the last answer.
    wants_since: Option<Moment>,
    /// It has all that there is.
    is_whole: bool,
    is_urgent: bool,
    /// Asks in a row that were given less than they asked for.
    unmet: u32,
    load: Load,
    asked_for: u32,
    used_at: Moment,
    asked_at: Moment,
    next_at: Moment,
}

/// A part that is asked about, and what is said.
pub(crate) type Ask = (Option<KeyDigest>, Request);

/// What a grant asks for in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Rest,
    /// To say that less is held now, so that others can have the rest.
    AskAgain,
}

/// The process, as leases know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    /// By the clock of leases.
    pub(crate) began: Moment,
}

/// This process. It is itself that a grant is for; the authority knows the pod by its token.
pub(crate) const SELF: Pod = Pod(0);

static PROCESS: OnceLock<Process> = OnceLock::new();
/// Where the number of this start of the process is kept.
const FILE: &str = "incarnation";

/// To be called at the start: makes out which start it is. Its number is larger than that of the one before, also if the clock was set
/// back meanwhile: the authority ignores a process that seems to be an earlier one.
pub(crate) fn begin(state: &Path) {
    let file = state.join(FILE);
    let before: u64 = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default();
    let incarnation = by_clock().max(before.saturating_add(1));
    if let Err(error) = fs::write(&file, incarnation.to_string()) {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(file = %file.display(), error, "failed to keep the number of this start");
    }
    PROCESS.get_or_init(|| Process::new(incarnation));
}

/// This process.
pub(crate) fn process() -> Process {
    *PROCESS.get_or_init(|| Process::new(by_clock()))
}

fn by_clock() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

impl Process {
    fn new(incarnation: u64) -> Self {
        Self {
            incarnation: Incarnation(incarnation),
            began: trellis_quota_stream::clock::now(),
        }
    }
}

impl Leases {
    /// Nothing is leased. `wake` is told when something is to be asked at once.
    pub(crate) fn new(wake: &Arc<Notify>) -> Self {
        Self {
            shared_since: Mutex::default(),
            parts: RwLock::default(),
            urgent: Mutex::default(),
            wake: Arc::clone(wake),
        }
    }

    /// The part of a counter; None if there are too many. `values` are asked for if it is a new one.
    pub(crate) fn part<'a, V>(
        &self,
        key: Option<Key>,
        values: impl FnOnce() -> V,
        on_loss: OnLoss,
    ) -> Option<Arc<Part>>
    where
        V: Iterator<Item = &'a [u8]>,
    {
        if let Some(part) = self.parts.read().by_key.get(&key) {
            return Some(Arc::clone(part));
        }
        let part = {
            let mut parts = self.parts.write();
            if let Some(part) = parts.by_key.get(&key) {
                return Some(Arc::clone(part));
            }
            if parts.by_key.len() >= MOST_PARTS {
                return None;
            }
            let key = key.map(|key| (key, wire::key(values())));
            let now = time::Instant::now();
            let since = self.shared_since.lock().unwrap_or(now);
            let first_by = (now + FIRST_ANSWER).max(since + FIRST_STREAM);
            let part = Arc::new(Part::new(key, on_loss, first_by));
            parts.by_key.insert(part.key(), Arc::clone(&part));
            parts.by_digest.insert(part.digest(), Arc::clone(&part));
            part
        };
        self.hurry(&part);
        Some(part)
    }

    /// Tells a part that it had less than was wanted.
    pub(crate) fn press(&self, part: &Arc<Part>, now: Moment) {
        let mut state = part.state();
        state.is_pressed = true;
        state.wants_since.get_or_insert(now);
        drop(state);
        self.hurry(part);
    }

    /// Lets a part ask at once.
    pub(super) fn hurry(&self, part: &Arc<Part>) {
        if std::mem::replace(&mut part.state().is_urgent, true) {
            return;
        }
        self.urgent.lock().push(Arc::clone(part));
        self.wake.notify_one();
    }

    /// The part of a counter, by its digest.
    pub(super) fn find(&self, key: Option<KeyDigest>) -> Option<Arc<Part>> {
        self.parts.read().by_digest.get(&key).cloned()
    }

    /// How many counters are leased.
    pub(crate) fn len(&self) -> usize {
        self.parts.read().by_key.len()
    }

    /// What every part is doing without an authority, from now on. If the limit was not shared, it is now.
    pub(crate) fn change(&self, on_loss: OnLoss) {
        self.shared_since.lock().get_or_insert_with(time::Instant::now);
        for part in self.parts.read().by_key.values() {
            part.state().client.change(on_loss);
        }
    }

    /// Nothing is leased any more.
    pub(crate) fn clear(&self) {
        *self.shared_since.lock() = None;
        *self.parts.write() = Parts::default();
        self.urgent.lock().clear();
    }

    /// Takes no grant of an earlier epoch from now on.
    pub(super) fn see(&self, epoch: Epoch) {
        for part in self.parts.read().by_key.values() {
            part.state().client.see(epoch);
        }
    }

    /// Every part; nobody waits for the lock while something is done with them.
    fn parts(&self) -> Vec<Arc<Part>> {
        self.parts.read().by_key.values().cloned().collect()
    }

    /// An ask for every part.
    pub(super) fn all(&self, terms: &Asking<'_>) -> Vec<Ask> {
        self.parts().iter().map(|part| part.ask(terms)).collect()
    }

    /// Asks that cannot wait.
    pub(super) fn urgent(&self, terms: &Asking<'_>) -> Vec<Ask> {
        let mut urgent = std::mem::take(&mut *self.urgent.lock());
        let mut later = Vec::new();
        let mut asks = Vec::new();
        for part in urgent.drain(..) {
            let may = part.state().may_ask(terms.now);
            if may {
                asks.push(part.ask(terms));
            } else {
                later.push(part);
            }
        }
        // The next look takes them up; who waits for an answer is not urgent.
        self.urgent.lock().extend(later);
        asks
    }

    /// Asks that are due. Forgets what is at rest and was given back.
    pub(super) fn due(&self, terms: &Asking<'_>) -> Vec<Ask> {
        let mut done = Vec::new();
        let mut asks = Vec::new();
        for part in self.parts() {
            if part.is_over(terms) {
                done.push(part.key());
            } else if part.state().is_due(terms.now) {
                asks.push(part.ask(terms));
            }
        }
        if !done.is_empty() {
            let mut parts = self.parts.write();
            for key in done {
                // Not if a request came meanwhile.
                let Some(part) = parts.by_key.get(&key).filter(|part| part.is_over(terms)) else {
                    continue;
                };
                let digest = part.digest();
                parts.by_key.remove(&key);
                parts.by_digest.remove(&digest);
            }
        }
        asks
    }
}

/// What asks are made of, besides the part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    /// Counts what is used.
    pub(crate) limiter: &'a Limiter,
    /// What amounts are parts of.
    pub(crate) whole: NonZeroU32,
    /// For how long what was used counts.
    pub(crate) memory: Duration,
    /// The epoch that the process was welcomed to.
    pub(crate) epoch: Epoch,
    pub(crate) now: Moment,
}

impl Part {
    fn new(key: Option<(Key, KeyDigest)>, on_loss: OnLoss, first_by: time::Instant) -> Self {
        let Process { incarnation, began } = process();
        let now = trellis_quota_stream::clock::now();
        // A part of the same counter may have been given back: the authority takes no request that seems to be from before.
        let client = Client::new(SELF, incarnation, on_loss, began).after(Sequence(now.as_nanos()));
        Self {
            key,
            first_by,
            answered: Notify::new(),
            state: Mutex::new(State {
                client,
                is_answered: false,
                is_pressed: false,
                wants_since: None,
                is_whole: false,
                is_urgent: false,
                unmet: 0,
                load: Load::new(now),
                asked_for: 0,
                used_at: now,
                asked_at: Moment::ORIGIN,
                next_at: Moment::ORIGIN,
            }),
        }
    }

    fn key(&self) -> Option<Key> {
        self.key.map(|(key, _)| key)
    }

    fn digest(&self) -> Option<KeyDigest> {
        self.key.map(|(_, digest)| digest)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Notes that a request has come that costs so much.
    pub(crate) fn wanted(&self, cost: u32, now: Moment) {
        let mut state = self.state();
        state.used_at = now;
        state.load.add(cost);
    }

    /// What may be used now; None if the limit does not hold.
    pub(crate) fn share(&self, now: Moment) -> Option<Share> {
        self.state().client.share(now)
    }

    /// Whether a request should wait for the first answer.
    pub(crate) fn is_new(&self) -> bool {
        !self.state().is_answered && time::Instant::now() < self.first_by
    }

    /// Waits for the first answer, but not for long.
    pub(crate) async fn first_answer(&self) {
        let mut notified = std::pin::pin!(self.answered.notified());
        notified.as_mut().enable();
        if self.is_new() {
            // Both outcomes are fine.
            let _ = time::timeout_at(self.first_by, notified).await;
        }
    }

    /// Whether more may come for a request that it has no room for: the answer to what it asks for now is not late, and the last few
    /// were not all short of what was asked. One may be, for as long as it takes others to give back what they do not use.
    pub(crate) fn may_grow(&self, now: Moment) -> bool {
        let state = self.state();
        let is_soon = state
            .wants_since
            .is_some_and(|since| now < since.after(FIRST_ANSWER));
        state.is_answered && state.unmet < HOPELESS && !state.is_whole && is_soon
    }

    /// Waits for that.
    pub(crate) async fn grown(&self, by: time::Instant) {
        let mut notified = std::pin::pin!(self.answered.notified());
        notified.as_mut().enable();
        if self.may_grow(trellis_quota_stream::clock::now()) {
            // Both outcomes are fine.
            let _ = time::timeout_at(by, notified).await;
        }
    }

    fn ask(&self, terms: &Asking<'_>) -> Ask {
        let Asking {
            limiter,
            whole,
            memory,
            now,
            ..
        } = *terms;
        let usage = limiter.usage(self.key(), whole, now);
        let mut state = self.state();
        let held = state.client.share(now).map_or(0, |share| share.of(whole.get()));
        let demand = match usage {
            _ if now > state.used_at.after(REST) => 0,
            Usage::Passed(passed) if state.is_pressed => passed.max(held).saturating_mul(5) / 4 + 1,
            Usage::Passed(passed) => with_room(passed),
            // What is given up of these is nobody's for a while: only if it is much.
            Usage::Missing(_) | Usage::Something(_) => {
                let demand = with_room(state.load.expected(memory, now));
                if demand > held / 2 {
                    demand.max(held)
                } else {
                    demand
                }
            }
        };
        let demand = demand.min(whole.get());
        state.client.see(terms.epoch);
        state.is_pressed = false;
        state.is_urgent = false;
        state.asked_at = now;
        state.asked_for = demand;
        let request = state.client.request(usage, demand, whole, memory, now);
        (self.digest(), request)
    }

    /// Takes a grant.
    pub(super) fn receive(&self, grant: &Grant, now: Moment) -> Then {
        let mut state = self.state();
        let before = state.client.share(now).map_or(0, |share| share.of(u32::MAX));
        if !state.client.receive(grant, now) {
            return Then::Rest;
        }
        let after = state.client.share(now).map_or(0, |share| share.of(u32::MAX));
        state.unmet = match state.asked_for {
            // It has given up what it had; that says nothing of what there is.
            0 => state.unmet,
            wanted if grant.amount < wanted => state.unmet + 1,
            _ => 0,
        };
        state.is_whole = grant.amount >= grant.whole.get();
        state.wants_since = None;
        let (first, longest) = INSIST;
        let pause = first.saturating_mul(1 << state.unmet.min(10)).min(longest);
        state.next_at = if state.unmet > 0 { now.after(pause) } else { now };
        state.is_answered |= grant.amount > 0 || state.asked_for == 0;
        if state.is_answered {
            self.answered.notify_waiters();
        }
        if after < before {
            Then::AskAgain
        } else {
            Then::Rest
        }
    }

    /// Whether nothing is held, nothing that was used still counts, and nobody has asked for it for a while.
    fn is_over(&self, terms: &Asking<'_>) -> bool {
        let now = terms.now;
        let state = self.state();
        let at_rest = now > state.used_at.after(REST) && now > state.asked_at.after(PATIENCE);
        at_rest && !state.holds(now) && terms.limiter.usage(self.key(), terms.whole, now).is_nothing()
    }
}

/// A little more than what is expected.
const fn with_room(expected: u32) -> u32 {
    expected.saturating_add(expected / 16 + 1)
}

impl State {
    /// Whether an ask would not be one too many.
    fn may_ask(&self, now: Moment) -> bool {
        let waits = self
            .client
            .waits_since()
            .is_some_and(|since| now < since.after(PATIENCE));
        !waits && now >= self.next_at
    }

    /// Whether it has anything to give back.
    fn holds(&self, now: Moment) -> bool {
        let share = self.client.share(now);
        self.client.leased_until(now).is_some() && share.is_none_or(|share| share.of(u32::MAX) > 0)
    }

    fn is_due(&self, now: Moment) -> bool {
        let is_given_back = self.asked_for == 0 && self.client.waits_since().is_none() && !self.holds(now);
        if is_given_back && now > self.used_at.after(REST) {
            // Until somebody asks for it again there is nothing to say.
            return false;
        }
        let used = self.used_at > self.asked_at;
        let pause = if used { FRESHEN } else { RENEW };
        let unanswered = self.client.waits_since().is_some() || !self.is_answered;
        self.may_ask(now) && (unanswered || self.is_pressed || now > self.asked_at.after(pause))
    }
}

#[cfg(test)]
mod tests {
    use trellis_rate::lease::GrantId;

    use super::*;

    const EPOCH: Epoch = Epoch(1);
    const WHOLE: NonZeroU32 = NonZeroU32::new(100).unwrap();

    /// A part that has asked, and the terms by which it did.
    fn part(now: Moment) -> (Leases, Arc<Part>, Limiter) {
        let rate = trellis_rate::Rate {
            limit: WHOLE,
            window: Duration::from_secs(60),
            burst: None,
        };
        let limit =
            trellis_rate::Limit::by_rates(trellis_rate::Algorithm::SlidingWindow, vec![rate]).unwrap();
        let leases = Leases::new(&Arc::default());
        let part = leases
            .part(None, std::iter::empty::<&[u8]>, OnLoss::Share)
            .unwrap();
        part.wanted(1, now);
        (leases, part, Limiter::new(&limit))
    }

    /// Asks, and is answered with so much.
    fn answer(part: &Part, limiter: &Limiter, amount: u32, now: Moment) {
        let terms = Asking {
            limiter,
            whole: WHOLE,
            memory: Duration::from_secs(60),
            epoch: EPOCH,
            now,
        };
        let (_, request) = part.ask(&terms);
        let grant = Grant {
            pod: SELF,
            incarnation: request.incarnation,
            id: GrantId {
                epoch: EPOCH,
                sequence: request.sequence,
            },
            whole: WHOLE,
            amount,
            fallback: 0,
            length: Duration::from_secs(30),
            is_renewal: false,
        };
        part.receive(&grant, now);
    }

    #[test]
    fn who_finds_a_part_dry_waits_for_an_answer_that_is_not_late() {
        let now = trellis_quota_stream::clock::now();
        let (leases, part, limiter) = part(now);
        assert!(!part.may_grow(now), "it has no first answer");
        answer(&part, &limiter, 10, now);
        assert!(!part.may_grow(now), "nobody has found it dry");
        leases.press(&part, now);
        assert!(part.may_grow(now));
        leases.press(&part, now.after(FIRST_ANSWER));
        assert!(
            !part.may_grow(now.after(FIRST_ANSWER)),
            "the authority does not answer"
        );
        answer(&part, &limiter, 20, now.after(FIRST_ANSWER));
        leases.press(&part, now.after(FIRST_ANSWER));
        assert!(part.may_grow(now.after(FIRST_ANSWER)));
    }

    #[test]
    fn nobody_waits_for_a_limit_that_is_used_up() {
        let now = trellis_quota_stream::clock::now();
        let (leases, part, limiter) = part(now);
        answer(&part, &limiter, 10, now);
        for short in 1..=HOPELESS {
            leases.press(&part, now);
            assert!(part.may_grow(now), "{short}");
            answer(&part, &limiter, 10, now);
        }
        leases.press(&part, now);
        assert!(!part.may_grow(now), "the others do not give anything back");
        answer(&part, &limiter, WHOLE.get(), now);
        leases.press(&part, now);
        assert!(!part.may_grow(now), "it has all");
    }
}
