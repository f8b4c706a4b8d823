//! Definitions made up at random: any order, with and without a pivot, conditions, elements, every sort of retry.

use std::collections::{BTreeMap, BTreeSet};

use strum::IntoEnumIterator as _;

use crate::definition::{
    API_VERSION, Call, Definition, ForEach, HttpCall, Kind, Millis, OnStuck, Retention, Retry,
    RetryCondition, Step,
};
use crate::random::Random;

/// A definition with at most so many steps.
#[must_use]
pub fn definition(random: &mut Random, most_steps: u64) -> Definition {
    let count = random.between(1, most_steps) as usize;
    let pivot = random.permille(600).then(|| random.below(count as u64) as usize);
    let mut steps: Vec<Step> = Vec::new();
    for i in 0..count {
        let mut after = BTreeSet::new();
        match pivot {
            // What comes after the pivot waits for it or for one that does.
            Some(pivot) if i > pivot => {
                let before = random.between(pivot as u64, i as u64 - 1);
                after.insert(name(before as usize));
                if random.permille(300) {
                    after.insert(name(random.between(pivot as u64, i as u64 - 1) as usize));
                }
            }
            // The pivot waits for all that nobody else waits for.
            Some(pivot) if i == pivot => {
                let awaited: BTreeSet<&String> = steps.iter().flat_map(|step| &step.after).collect();
                after = steps
                    .iter()
                    .map(|step| step.name.clone())
                    .filter(|name| !awaited.contains(name))
                    .collect();
            }
            _ => {
                for before in 0..i {
                    if random.permille(350) {
                        after.insert(name(before));
                    }
                }
            }
        }
        steps.push(step(i, after, pivot, random));
    }
    Definition {
        api_version: API_VERSION.to_owned(),
        namespace: "simulation".to_owned(),
        name: "generated".to_owned(),
        input: None,
        steps,
        timeout: random
            .permille(400)
            .then(|| Millis(random.between(1_000, 300_000))),
        retention: Retention {
            completed: Millis(1),
            compensated: Millis(1),
        },
        concurrency: None,
        on_stuck: OnStuck {
            event: true,
            webhook: None,
        },
        secret: BTreeSet::new(),
    }
}

fn name(i: usize) -> String {
    format!("s{i}")
}

fn step(i: usize, after: BTreeSet<String>, pivot: Option<usize>, random: &mut Random) -> Step {
    let kind = match pivot {
        Some(pivot) if i == pivot => Kind::Pivot,
        Some(pivot) if i > pivot => Kind::Retriable,
        _ => Kind::Compensatable,
    };
    let is_safe = kind == Kind::Compensatable && random.permille(100);
    let is_pivot = kind == Kind::Pivot;
    Step {
        name: name(i),
        after,
        when: (!is_pivot && random.permille(250)).then(|| "true".to_owned()),
        for_each: (!is_pivot && random.permille(250)).then(|| ForEach {
            items: "[]".to_owned(),
            concurrency: random.between(1, 3) as u32,
            max_items: 4,
        }),
        kind,
        action: call(
            if is_safe { "GET" } else { "POST" },
            kind == Kind::Compensatable,
            random,
        ),
        compensation: (kind == Kind::Compensatable && !is_safe).then(|| call("DELETE", false, random)),
        output: None,
    }
}

fn call(method: &str, is_bounded: bool, random: &mut Random) -> Call {
    let initial = random.between(10, 2_000);
    Call {
        call: HttpCall {
            microservice: "participant".to_owned(),
            port: None,
            method: method.to_owned(),
            path: "/".to_owned(),
        },
        headers: BTreeMap::new(),
        body: None,
        timeout: Millis(random.between(100, 10_000)),
        retry: Retry {
            initial: Millis(initial),
            factor: 1.0 + random.below(300) as f64 / 100.0,
            max_interval: Millis(initial + random.below(20_000)),
            jitter: random.below(101) as u32,
            max_elapsed: (is_bounded || random.permille(100))
                .then(|| Millis(random.between(10_000, 120_000))),
            max_attempts: random.permille(150).then(|| random.between(1, 5) as u32),
            retry_on: if random.permille(850) {
                RetryCondition::iter().collect()
            } else {
                RetryCondition::iter().filter(|_| random.permille(700)).collect()
            },
        },
    }
}
