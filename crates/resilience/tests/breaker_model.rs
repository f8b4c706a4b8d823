//! Every sequence of steps of a small breaker, judged by its history.
//!
//! Steps: ask for a pass; give one of the passes that are out back with a success, a failure or nothing; let time pass. All
//! sequences up to a depth are walked. The judge keeps a list of what happened and knows the rules only: it has no state
//! machine of its own.

#![allow(clippy::unwrap_used)]

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use trellis_resilience::{
    breaker::{Breaker, FailureRate, Pass, Refused, Settings, Transition},
    outcome::Verdict,
    percent::Percent,
};

const FAILURES: usize = 2;
const OPEN_FOR: u64 = 2;
const DEPTH: usize = 8;
const MOST_OUT: usize = 3;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Closed,
    Open { since: u64 },
}

/// A pass that is out, by what the judge knows of it.
#[derive(Clone, Copy, Debug)]
struct Out {
    began: u64,
    /// How many times the breaker had opened or closed before.
    era: usize,
    probe: bool,
    /// Another probe was let through since.
    replaced: bool,
}

#[derive(Clone)]
struct World {
    breaker: Breaker,
    ticks: u64,
    mode: Mode,
    era: usize,
    /// Results of this closed era, in order.
    results: Vec<bool>,
    out: Vec<Out>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Acquire,
    Return(usize, Verdict),
    Wait,
}

/// The walk: passes cannot be cloned, so each sequence is replayed from its beginning.
#[test]
fn every_sequence_of_eight_steps_keeps_the_rules() {
    let start = Instant::now();
    let mut walked = 0_u64;
    let mut path = Vec::new();
    walk(start, &mut path, &mut walked);
    assert!(walked > 50_000, "only {walked} sequences");
}

fn walk(start: Instant, path: &mut Vec<Step>, walked: &mut u64) {
    let world = replay(start, path);
    *walked += 1;
    if path.len() == DEPTH {
        return;
    }
    let mut steps = vec![Step::Wait];
    if world.out.len() < MOST_OUT {
        steps.push(Step::Acquire);
    }
    for index in 0..world.out.len() {
        for verdict in [Verdict::Success, Verdict::Failure, Verdict::Unknown] {
            steps.push(Step::Return(index, verdict));
        }
    }
    for step in steps {
        path.push(step);
        walk(start, path, walked);
        path.pop();
    }
}

fn replay(start: Instant, path: &[Step]) -> World {
    let settings = Settings {
        consecutive_failures: NonZeroU32::new(FAILURES as u32).unwrap(),
        failure_rate: Some(FailureRate {
            percent: Percent::new(60).unwrap(),
            min_samples: NonZeroU32::new(3).unwrap(),
            window: Duration::from_secs(1000),
        }),
        open_for: Duration::from_secs(OPEN_FOR),
        probes: NonZeroU32::MIN,
    };
    let mut world = World {
        breaker: Breaker::new(settings),
        ticks: 0,
        mode: Mode::Closed,
        era: 0,
        results: Vec::new(),
        out: Vec::new(),
    };
    let mut passes: Vec<Pass> = Vec::new();
    for (number, step) in path.iter().enumerate() {
        let context = format!("step {number} of {path:?}");
        match *step {
            Step::Wait => world.ticks += 1,
            Step::Acquire => {
                let now = start + Duration::from_secs(world.ticks);
                let acquired = world.breaker.acquire(now);
                world.judge_acquire(&acquired, &context);
                passes.extend(acquired.ok());
            }
            Step::Return(index, verdict) => {
                let now = start + Duration::from_secs(world.ticks);
                let before = world.breaker.clone();
                let transition = world.breaker.record(passes.remove(index), verdict, now);
                world.judge_result(index, verdict, transition, &before, &context);
            }
        }
    }
    world
}

impl World {
    fn judge_acquire(&mut self, acquired: &Result<Pass, Refused>, context: &str) {
        let probing = self
            .out
            .iter()
            .any(|out| self.decides(out) && self.ticks < out.began + OPEN_FOR);
        let expected = match self.mode {
            Mode::Closed => None,
            Mode::Open { since } if self.ticks < since + OPEN_FOR => {
                Some(Refused::Open(Duration::from_secs(since + OPEN_FOR - self.ticks)))
            }
            Mode::Open { .. } if probing => Some(Refused::Probing),
            Mode::Open { .. } => None,
        };
        assert_eq!(acquired.as_ref().err().copied(), expected, "{context}");
        if let Ok(pass) = acquired {
            let probe = self.mode != Mode::Closed;
            assert_eq!(pass.is_probe(), probe, "{context}");
            if probe {
                self.out
                    .iter_mut()
                    .for_each(|out| out.replaced = out.replaced || out.probe);
            }
            self.out.push(Out {
                began: self.ticks,
                era: self.era,
                probe,
                replaced: false,
            });
            let deciding = self.out.iter().filter(|out| self.decides(out)).count();
            assert!(deciding <= 1, "two probes: {context}");
        }
    }

    /// Whether this is the probe of the present opening.
    fn decides(&self, out: &Out) -> bool {
        self.mode != Mode::Closed && out.probe && !out.replaced && out.era == self.era
    }

    fn judge_result(
        &mut self,
        index: usize,
        verdict: Verdict,
        transition: Option<Transition>,
        before: &Breaker,
        context: &str,
    ) {
        let decides = self.decides(&self.out[index]);
        let out = self.out.remove(index);
        let counts = self.mode == Mode::Closed && out.era == self.era && verdict != Verdict::Unknown;
        let expected = match verdict {
            Verdict::Success if decides => Some(Transition::Closed),
            Verdict::Failure if decides => Some(Transition::Reopened),
            _ if counts => {
                self.results.push(verdict == Verdict::Success);
                self.opening()
            }
            _ => None,
        };
        assert_eq!(transition, expected, "{context}");
        if !decides && !counts {
            assert_eq!(
                &self.breaker, before,
                "a stale result changed something: {context}"
            );
        }
        match transition {
            Some(Transition::Closed) => self.mode = Mode::Closed,
            Some(_) => self.mode = Mode::Open { since: self.ticks },
            None => return,
        }
        self.era += 1;
        self.results.clear();
    }

    /// What the results of this era call for after the last of them.
    fn opening(&self) -> Option<Transition> {
        let failures = self.results.iter().filter(|success| !**success).count();
        let in_a_row = self.results.iter().rev().take_while(|success| !**success).count();
        if in_a_row >= FAILURES {
            Some(Transition::OpenedByFailures)
        } else if in_a_row > 0 && self.results.len() >= 3 && failures * 100 >= self.results.len() * 60 {
            Some(Transition::OpenedByRate)
        } else {
            None
        }
    }
}
