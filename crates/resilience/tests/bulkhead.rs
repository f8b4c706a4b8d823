//! Arrivals, departures and people who give up, in any order.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use trellis_resilience::bulkhead::{Arrival, Bulkhead, Settings, Ticket};

#[derive(Debug, Clone, Copy)]
enum Step {
    Arrive { patience: Option<u64> },
    Leave,
    Abandon { which: usize },
    Wait { millis: u64 },
    Reconfigure { max_concurrent: u32 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::option::of(0..100_u64).prop_map(|patience| Step::Arrive { patience }),
        4 => Just(Step::Leave),
        1 => (0..8_usize).prop_map(|which| Step::Abandon { which }),
        2 => (0..60_u64).prop_map(|millis| Step::Wait { millis }),
        1 => (1..5_u32).prop_map(|max_concurrent| Step::Reconfigure { max_concurrent }),
    ];
    prop::collection::vec(step, 0..120)
}

const MAX_WAIT: Duration = Duration::from_millis(50);

fn settings(max_concurrent: u32, max_waiting: u32) -> Settings {
    Settings {
        max_concurrent: NonZeroU32::new(max_concurrent).unwrap(),
        max_waiting,
        max_wait: MAX_WAIT,
    }
}

/// What the judge knows: who waits, in order, and until when.
struct Judge {
    waiting: VecDeque<(Ticket, Instant)>,
    inside: u32,
    limit: u32,
}

impl Judge {
    fn enters(&mut self, ticket: Ticket, now: Instant) -> Result<(), TestCaseError> {
        while let Some((first, until)) = self.waiting.pop_front() {
            if first == ticket {
                prop_assert!(until > now, "let in after the end of its wait");
                self.inside += 1;
                prop_assert!(self.inside <= self.limit);
                return Ok(());
            }
            prop_assert!(until <= now, "overtaken");
        }
        prop_assert!(false, "let in, but was not waiting");
        Ok(())
    }

    fn nobody_waits_for_a_free_place(&self, now: Instant) -> Result<(), TestCaseError> {
        let waits = self.waiting.iter().any(|(_, until)| *until > now);
        prop_assert!(
            !waits || self.inside >= self.limit,
            "a place is free and somebody waits"
        );
        Ok(())
    }
}

proptest! {
    #[test]
    fn places_are_kept_to_order_is_kept_and_nobody_waits_in_vain(
        max_concurrent in 1..5_u32,
        max_waiting in 0..6_u32,
        steps in steps(),
    ) {
        let mut bulkhead = Bulkhead::new(settings(max_concurrent, max_waiting));
        let mut judge = Judge { waiting: VecDeque::new(), inside: 0, limit: max_concurrent };
        let mut now = Instant::now();
        for step in steps {
            match step {
                Step::Arrive { patience } => {
                    let deadline = patience.map(|millis| now + Duration::from_millis(millis));
                    match bulkhead.arrive(now, deadline) {
                        Arrival::Entered => {
                            judge.inside += 1;
                            prop_assert!(judge.inside <= judge.limit);
                            prop_assert!(judge.waiting.iter().all(|(_, until)| *until <= now), "overtaken");
                        }
                        Arrival::Waits { ticket, until } => {
                            prop_assert_eq!(until, (now + MAX_WAIT).min(deadline.unwrap_or(now + MAX_WAIT)));
                            judge.waiting.push_back((ticket, until));
                        }
                        Arrival::Full => {
                            let live = judge.waiting.iter().filter(|(_, until)| *until > now).count();
                            prop_assert_eq!(live, max_waiting as usize, "refused although there was room");
                        }
                    }
                }
                Step::Leave if judge.inside > 0 => {
                    judge.inside -= 1;
                    if let Some(ticket) = bulkhead.leave(now) {
                        judge.enters(ticket, now)?;
                    }
                    judge.nobody_waits_for_a_free_place(now)?;
                }
                Step::Leave => {}
                Step::Abandon { which } => {
                    if let Some((ticket, _)) = judge.waiting.remove(which) {
                        bulkhead.abandon(ticket);
                    }
                }
                Step::Wait { millis } => now += Duration::from_millis(millis),
                Step::Reconfigure { max_concurrent } => {
                    judge.limit = max_concurrent;
                    for ticket in bulkhead.reconfigure(settings(max_concurrent, max_waiting), now) {
                        judge.enters(ticket, now)?;
                    }
                    judge.nobody_waits_for_a_free_place(now)?;
                }
            }
            prop_assert_eq!(bulkhead.inside(), judge.inside);
            prop_assert!(bulkhead.waiting() <= max_waiting as usize);
        }
    }
}

#[test]
fn those_who_wait_enter_in_order_and_the_rest_are_refused() {
    let mut bulkhead = Bulkhead::new(settings(1, 2));
    let now = Instant::now();
    assert_eq!(bulkhead.arrive(now, None), Arrival::Entered);
    let mut order = BTreeMap::new();
    for number in 0..2 {
        let Arrival::Waits { ticket, until } = bulkhead.arrive(now, None) else {
            panic!("there is room to wait");
        };
        assert_eq!(until, now + MAX_WAIT);
        order.insert(number, ticket);
    }
    assert_eq!(bulkhead.arrive(now, None), Arrival::Full);
    assert_eq!(bulkhead.leave(now), Some(order[&0]));
    assert_eq!(bulkhead.leave(now), Some(order[&1]));
    assert_eq!(bulkhead.leave(now), None);
    assert_eq!(bulkhead.inside(), 0);
}
