//! The order of steps: what `after` says, and what follows from it.

use std::collections::HashMap;

use fixedbitset::FixedBitSet;

use crate::{
    check::Fault,
    definition::{Kind, Step},
};

/// Which steps are before which.
#[derive(Debug, Clone)]
pub struct Order {
    /// Of each step, those that are done before it begins, directly and not.
    before: Vec<FixedBitSet>,
    /// Of each step, those that it names.
    directly: Vec<Vec<usize>>,
    /// The steps, each after all that are before it.
    sequence: Vec<usize>,
}

impl Order {
    /// The order of steps.
    ///
    /// # Errors
    /// Names that are no steps, and circles.
    pub fn of(steps: &[Step]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut places = HashMap::new();
        for (i, step) in steps.iter().enumerate() {
            if !is_name(&step.name) {
                let message = format!(
                    "{:?} cannot name a step: use at most 63 of a-z, 0-9, - and _, a letter first, no - or _ last",
                    step.name
                );
                faults.push(Fault::new(format!("steps[{i}].name"), message));
            }
            if let Some(first) = places.insert(step.name.as_str(), i) {
                let message = format!(
                    "{:?} is the name of steps[{first}] too: give each step its own",
                    step.name
                );
                faults.push(Fault::new(format!("steps[{i}].name"), message));
            }
        }
        let mut directly = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let mut named = Vec::new();
            for name in &step.after {
                match places.get(name.as_str()) {
                    Some(place) => named.push(*place),
                    None => {
                        let message = format!("there is no step {name}; there are: {}", names(steps));
                        faults.push(Fault::new(format!("steps[{i}].after"), message));
                    }
                }
            }
            directly.push(named);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let sequence = sequence(&directly);
        if sequence.len() < steps.len() {
            return Err(vec![circle(steps, &directly, &sequence)]);
        }
        let mut before = vec![FixedBitSet::with_capacity(steps.len()); steps.len()];
        for &step in &sequence {
            let mut all = FixedBitSet::with_capacity(steps.len());
            for &named in &directly[step] {
                all.insert(named);
                all.union_with(&before[named]);
            }
            before[step] = all;
        }
        Ok(Self {
            before,
            directly,
            sequence,
        })
    }

    /// Whether a step is done before another begins.
    #[must_use]
    pub fn is_before(&self, step: usize, other: usize) -> bool {
        self.before.get(other).is_some_and(|before| before.contains(step))
    }

    /// The steps that one names.
    #[must_use]
    pub fn directly_before(&self, step: usize) -> &[usize] {
        self.directly.get(step).map_or(&[], Vec::as_slice)
    }

    /// The steps, each after all that are before it; the order of the definition where there is a choice.
    #[must_use]
    pub fn sequence(&self) -> &[usize] {
        &self.sequence
    }

    /// When each step is over if it takes `time`, from the beginning on, and which one it waited for last.
    pub fn ends(&self, time: impl Fn(usize) -> u64) -> Vec<(u64, Option<usize>)> {
        let mut ends = vec![(0_u64, None); self.directly.len()];
        for &step in &self.sequence {
            let last = self.directly[step]
                .iter()
                .copied()
                .max_by_key(|&before| ends[before].0);
            let begin = last.map_or(0, |last| ends[last].0);
            ends[step] = (begin.saturating_add(time(step)), last);
        }
        ends
    }
}

/// As many steps as can be put into an order (Kahn's algorithm); all, if there is no circle.
fn sequence(directly: &[Vec<usize>]) -> Vec<usize> {
    let mut missing: Vec<usize> = directly.iter().map(Vec::len).collect();
    let mut after = vec![Vec::new(); directly.len()];
    for (step, named) in directly.iter().enumerate() {
        for &named in named {
            after[named].push(step);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..directly.len()).filter(|&step| missing[step] == 0).collect();
    let mut sequence = Vec::new();
    while let Some(step) = ready.pop_first() {
        sequence.push(step);
        for &next in &after[step] {
            missing[next] -= 1;
            if missing[next] == 0 {
                ready.insert(next);
            }
        }
    }
    sequence
}

/// Steps that wait for each other.
fn circle(steps: &[Step], directly: &[Vec<usize>], sequence: &[usize]) -> Fault {
    let is_in_order = |step: &usize| sequence.contains(step);
    let mut path: Vec<usize> = Vec::new();
    let mut step = (0..steps.len()).find(|step| !is_in_order(step)).unwrap_or(0);
    // Every step that is left waits for another that is left, so following them comes back to one.
    let start = loop {
        if let Some(start) = path.iter().position(|seen| *seen == step) {
            break start;
        }
        path.push(step);
        step = directly[step]
            .iter()
            .copied()
            .find(|next| !is_in_order(next))
            .unwrap_or(step);
    };
    let mut circle: Vec<&str> = path[start..].iter().map(|&step| &*steps[step].name).collect();
    circle.push(&steps[path[start]].name);
    let message = format!(
        "these steps wait for each other, {}: remove one of them from an `after`",
        circle.join(" after ")
    );
    Fault::new(format!("steps[{}].after", path[start]), message)
}

/// Names of steps, for messages.
pub(crate) fn names(steps: &[Step]) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<&str> = steps.iter().take(SHOWN).map(|step| &*step.name).collect();
    if steps.len() > SHOWN {
        names.push("...");
    }
    names.join(", ")
}

/// The pivot, if there is one.
#[must_use]
pub fn pivot(steps: &[Step]) -> Option<usize> {
    steps.iter().position(|step| step.kind == Kind::Pivot)
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|last| last.is_ascii_alphanumeric())
        && bytes.iter().copied().all(inner)
}
