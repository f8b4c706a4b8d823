//! A deterministic world: pods with clocks of their own, authorities that come and go, and a network that loses, delays,
//! doubles and reorders. Time is a number; every choice comes from the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use trellis_rate::lease::{
    Authority, Client, Epoch, Grant, Incarnation, OnLoss, Pod, Request, Roster, Start, Terms, with_drift,
};
use trellis_rate::{Algorithm, Charge, Limit, LimitSet, Limiter, Mode, Rate, Share};

use crate::chance::{Chance, Clock, Faults};

pub const MILLI: u64 = 1_000_000;
/// How often each pod has requests.
const TICK: u64 = 20 * MILLI;
/// How long an authority's claim lasts unless it is prolonged.
const CLAIM: u64 = 1_000 * MILLI;

pub struct Process {
    pub pod: Pod,
    pub incarnation: Incarnation,
    pub clock: Clock,
    pub client: Client,
    pub limiter: Arc<Limiter>,
    pub limits: LimitSet,
    /// Requests per tick.
    pub load: u32,
    /// When the last lease request was sent, until it is answered.
    pub asked_at: Option<u64>,
    /// How long it waits for the answer.
    pub patience: u64,
    pub next_ask: u64,
    pub cut_off_until: u64,
}

pub struct Office {
    pub clock: Clock,
    pub authority: Authority,
    pub claimed_until: u64,
    pub stalled_until: u64,
}

enum Event {
    Tick,
    ToAuthority(Request),
    ToClient(Grant),
}

/// What happened.
pub struct World {
    pub limit: u32,
    /// In nanoseconds of the true clock.
    pub window: u64,
    pub end: u64,
    /// When requests passed, by the true clock.
    pub passes: Vec<u64>,
    pub algorithm: Algorithm,
    terms: Terms,
    pub faults: Faults,
    pub chance: Chance,
    pub now: u64,
    pub processes: Vec<Process>,
    /// Pods that have ended, and when.
    pub ended: Vec<(Pod, u64)>,
    next_pod: u64,
    pub offices: Vec<Office>,
    epoch: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: Vec<Option<Event>>,
}

impl World {
    pub fn run(seed: u64, faults: Faults) -> Self {
        let mut chance = Chance(seed);
        // Without faults, how much is usable is measured: a tick must be short beside the window.
        let windows = if faults.network {
            [300, 1_000, 4_000]
        } else {
            [4_000; 3]
        };
        let window = windows[chance.between(0, 3) as usize] * MILLI;
        let length = [400, 1_000, 2_500, 6_000][chance.between(0, 4) as usize] * MILLI;
        let limit = [10, 24, 60][chance.between(0, 3) as usize];
        let on_loss = if chance.once_in(4) {
            OnLoss::Closed
        } else {
            OnLoss::Share
        };
        let pods = chance.between(2, 5);
        let terms = Terms {
            limit: NonZeroU32::new(limit).unwrap(),
            window: Duration::from_nanos(window),
            length: Duration::from_nanos(length),
            replicas: NonZeroU32::new(5).unwrap(),
            on_loss,
        };
        let algorithm = [Algorithm::SlidingWindow, Algorithm::TokenBucket][usize::from(chance.once_in(3))];
        let mut world = Self {
            algorithm,
            limit,
            window,
            end: if faults.network { 30_000 } else { 300_000 } * MILLI,
            passes: Vec::new(),
            terms,
            faults,
            chance,
            now: 0,
            processes: Vec::new(),
            ended: Vec::new(),
            next_pod: 0,
            offices: Vec::new(),
            epoch: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
        };
        world.take_over();
        for _ in 0..pods {
            world.add_pod();
        }
        world.schedule(0, Event::Tick);
        while let Some(Reverse((at, index))) = world.queue.pop() {
            if at > world.end {
                break;
            }
            world.now = at;
            match world.events[index as usize].take() {
                Some(Event::Tick) => world.tick(),
                Some(Event::ToAuthority(request)) => world.ask(&request),
                Some(Event::ToClient(grant)) => world.answer(&grant),
                None => {}
            }
        }
        world
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.queue.push(Reverse((at, self.events.len() as u64)));
        self.events.push(Some(event));
    }

    pub fn take_over(&mut self) {
        self.epoch += 1;
        let clock = Clock::new(&mut self.chance, self.faults);
        let here = clock.read(self.now);
        let start = if self.epoch == 1 {
            Start::First
        } else {
            // It has looked on for as long as the world is, for a while, or from now on.
            let watched_since = self.chance.between(0, self.now * 2).min(self.now);
            let ended = self.ended.iter().filter(|(_, at)| *at >= watched_since);
            Start::Successor(Roster {
                pods: self.processes.iter().map(|process| process.pod).collect(),
                ended: ended.map(|(pod, at)| (*pod, clock.read(*at))).collect(),
                watched_since: clock.read(watched_since),
            })
        };
        self.offices.push(Office {
            clock,
            authority: Authority::new(
                self.terms,
                Epoch(self.epoch),
                start,
                here,
                here.after(Duration::from_nanos(CLAIM)),
            ),
            // Who grants the claims waits for long enough by its own clock.
            claimed_until: self.now + CLAIM + CLAIM / 400,
            stalled_until: 0,
        });
    }

    pub fn add_pod(&mut self) {
        let pod = Pod(self.next_pod);
        self.next_pod += 1;
        let process = self.process(pod, Incarnation(1));
        self.processes.push(process);
    }

    pub fn process(&mut self, pod: Pod, incarnation: Incarnation) -> Process {
        let rate = Rate {
            limit: NonZeroU32::new(self.limit).unwrap(),
            window: with_drift(self.terms.window),
            burst: None,
        };
        let limit = Limit::by_rates(self.algorithm, vec![rate]).unwrap();
        // One busy pod in three; the others have little to do, or nothing.
        let load = match self.chance.between(0, 3) {
            0 => self.limit,
            1 => 2,
            _ => u32::from(pod.0 == 0),
        };
        let limiter = Arc::new(Limiter::new(&limit));
        let clock = Clock::new(&mut self.chance, self.faults);
        Process {
            pod,
            incarnation,
            clock,
            client: Client::new(pod, incarnation, self.terms.on_loss, clock.read(self.now)),
            limits: LimitSet::new([(Arc::clone(&limiter), Mode::Enforce)]),
            limiter,
            load: if self.faults.pods {
                load
            } else {
                load.max(u32::from(pod.0 == 0) * self.limit)
            },
            asked_at: None,
            patience: self.terms.length.as_nanos() as u64 * [1, 2, 4][self.chance.between(0, 3) as usize] / 2,
            next_ask: self.now,
            cut_off_until: 0,
        }
    }

    fn tick(&mut self) {
        self.schedule(self.now + TICK, Event::Tick);
        self.go_wrong();
        self.prolong_claims();
        for index in 0..self.processes.len() {
            self.serve(index);
            self.refresh(index);
        }
    }

    /// Requests come to a pod; it lets through what its part of the limit admits.
    fn serve(&mut self, index: usize) {
        let process = &self.processes[index];
        let here = process.clock.read(self.now);
        let share = process.client.share(here).unwrap_or(Share::WHOLE);
        for _ in 0..process.load {
            let decision = process.limits.decide(here, |_| Some(Charge::ONE.within(share)));
            if !decision.is_admitted() {
                break;
            }
            self.passes.push(self.now);
        }
    }

    /// A pod asks for its lease in good time, and again if no answer comes.
    fn refresh(&mut self, index: usize) {
        let length = self.terms.length.as_nanos() as u64;
        let now = self.now;
        let window = self.window;
        let limit = self.limit;
        let process = &mut self.processes[index];
        let is_given_up = process
            .asked_at
            .is_some_and(|asked| now > asked + process.patience);
        if now < process.next_ask || (process.asked_at.is_some() && !is_given_up) {
            return;
        }
        let here = process.clock.read(now);
        let per_window = u64::from(process.load) * window / TICK;
        let demand = per_window.min(u64::from(limit)) as u32;
        let usage = process.limiter.usage(None, self.terms.limit, here);
        let request = process.client.request(
            usage,
            demand,
            self.terms.limit,
            with_drift(self.terms.window),
            here,
        );
        process.asked_at = Some(now);
        process.next_ask = now + length / 4;
        if now >= process.cut_off_until {
            self.send(|| Event::ToAuthority(request));
        }
    }

    /// Puts a message on its way: none, one or two of it.
    fn send(&mut self, message: impl Fn() -> Event) {
        let copies = match (self.faults.network, self.chance.between(0, 20)) {
            (false, _) => 1,
            (_, 0 | 1) => 0,
            (_, 2..=4) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if self.faults.network && self.chance.once_in(8) {
                self.chance.between(0, 6_000)
            } else {
                self.chance.between(1, 30)
            };
            self.schedule(self.now + delay * MILLI, message());
        }
    }

    /// A request comes to one of the authorities: the latest as a rule, one from before if it is still there.
    fn ask(&mut self, request: &Request) {
        let latest = self.offices.len() - 1;
        let index = if self.faults.authorities && self.chance.once_in(3) {
            self.chance.between(0, latest as u64 + 1) as usize
        } else {
            latest
        };
        let office = &mut self.offices[index];
        if self.now < office.stalled_until {
            return;
        }
        let here = office.clock.read(self.now);
        if let Some(grant) = office.authority.receive(request, here) {
            self.send(|| Event::ToClient(grant));
        }
    }

    fn answer(&mut self, grant: &Grant) {
        let now = self.now;
        let receiver = self
            .processes
            .iter_mut()
            .find(|process| process.pod == grant.pod && now >= process.cut_off_until);
        if let Some(process) = receiver
            && process.client.receive(grant, process.clock.read(now))
        {
            process.asked_at = None;
        }
    }

    /// The latest authority keeps its claim while it can.
    fn prolong_claims(&mut self) {
        let now = self.now;
        if let Some(office) = self.offices.last_mut()
            && now >= office.stalled_until
            && now < office.claimed_until
        {
            office
                .authority
                .prolong(office.clock.read(now).after(Duration::from_nanos(CLAIM)));
            office.claimed_until = now + CLAIM + CLAIM / 400;
        }
    }
}
