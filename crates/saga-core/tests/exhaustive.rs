//! Every history of every small saga.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use trellis_saga_core::{
    Definition,
    definition::{Kind, Millis},
    plan::Plan,
    random::Random,
    simulation::{exhaustive, generate},
};

/// A saga whose steps wait for each other as the bits say: one for each pair.
fn definition(steps: usize, pairs: u32, pivot: Option<usize>, decided: Option<usize>) -> Option<Definition> {
    let mut random = Random::new(1);
    let mut definition = loop {
        let definition = generate::definition(&mut random, steps as u64);
        if definition.steps.len() == steps {
            break definition;
        }
    };
    let mut bit = 0;
    for i in 0..steps {
        let mut after = BTreeSet::new();
        for before in 0..i {
            if pairs >> bit & 1 == 1 {
                after.insert(format!("s{before}"));
            }
            bit += 1;
        }
        let kind = match pivot {
            Some(pivot) if i == pivot => Kind::Pivot,
            Some(pivot) if i > pivot => Kind::Retriable,
            _ => Kind::Compensatable,
        };
        let mut call = definition.steps[i].action.clone();
        call.call.method = "POST".to_owned();
        call.timeout = Millis(1);
        call.retry.initial = Millis(1);
        call.retry.max_interval = Millis(1);
        call.retry.jitter = 0;
        call.retry.max_elapsed = None;
        call.retry.max_attempts = Some(2);
        call.retry.retry_on = [trellis_saga_core::definition::RetryCondition::Timeout].into();
        let step = &mut definition.steps[i];
        step.name = format!("s{i}");
        step.after = after;
        step.kind = kind;
        step.when = (decided == Some(i) && kind != Kind::Pivot).then(|| "true".to_owned());
        step.for_each = step
            .when
            .is_some()
            .then(|| trellis_saga_core::definition::ForEach {
                items: "[]".to_owned(),
                concurrency: 2,
                max_items: 2,
            });
        step.compensation = (kind == Kind::Compensatable).then(|| call.clone());
        step.action = call;
    }
    definition.timeout = Some(Millis(5));
    // Whoever is neither before nor after the pivot is refused by the check.
    let order = trellis_saga_core::order::Order::of(&definition.steps).unwrap();
    let fits = |pivot: usize| {
        (0..steps).all(|i| i == pivot || order.is_before(i, pivot) && i < pivot || order.is_before(pivot, i))
    };
    pivot.is_none_or(fits).then_some(definition)
}

#[test]
fn every_history_of_every_saga_with_up_to_four_steps_and_two_faults_is_sound() {
    let (mut sagas, mut states, mut events, mut ends) = (0, 0, 0, [0; 3]);
    for steps in 1..=4 {
        let pairs = steps * (steps - 1) / 2;
        for bits in 0..1 << pairs {
            for pivot in std::iter::once(None).chain((0..steps).map(Some)) {
                // Conditions and elements multiply the states; of four steps those that run beside others are enough.
                let decided = if steps < 4 { steps } else { 1 };
                for decided in std::iter::once(None).chain((0..decided).map(Some)) {
                    let Some(definition) = definition(steps, bits, pivot, decided) else {
                        continue;
                    };
                    let plan = Plan::new(&definition).unwrap();
                    let faults = if steps < 4 || decided.is_none() { 2 } else { 1 };
                    let searched = exhaustive::search(&plan, faults)
                        .unwrap_or_else(|what| panic!("{what}\n{:#?}", definition.steps));
                    sagas += 1;
                    states += searched.states;
                    events += searched.events;
                    for (sum, count) in ends.iter_mut().zip(searched.ends) {
                        *sum += count;
                    }
                }
            }
        }
    }
    println!("{sagas} sagas, {states} states, {events} events; completed, compensated, stuck: {ends:?}");
    assert!(ends.iter().all(|count| *count > 100));
}
