//! What can be taken back, and where the pivot is.

use super::Fault;
use crate::{
    definition::{Kind, Step},
    order::Order,
};

pub(super) fn check(steps: &[Step], order: &Order, faults: &mut Vec<Fault>) {
    let pivots: Vec<usize> = (0..steps.len())
        .filter(|&step| steps[step].kind == Kind::Pivot)
        .collect();
    for &other in pivots.iter().skip(1) {
        let message = format!(
            "{} is the pivot already: a saga has one; make this step Compensatable before it or Retriable after it",
            steps[pivots[0]].name
        );
        faults.push(Fault::new(format!("steps[{other}].kind"), message));
    }
    if pivots.len() > 1 {
        return;
    }
    let pivot = pivots.first().copied();
    for (i, step) in steps.iter().enumerate() {
        let place = match pivot {
            None => Place::Before,
            Some(pivot) if pivot == i => Place::Pivot,
            Some(pivot) if order.is_before(i, pivot) => Place::Before,
            Some(pivot) if order.is_before(pivot, i) => Place::After,
            Some(pivot) => {
                let pivot = &steps[pivot].name;
                let message = format!(
                    "is neither before nor after the pivot {pivot}: name {pivot} here, or name {} in the `after` of {pivot}",
                    step.name
                );
                faults.push(Fault::new(format!("steps[{i}].after"), message));
                continue;
            }
        };
        check_step(i, step, place, pivot.map(|pivot| &*steps[pivot].name), faults);
    }
    if let Some(pivot) = pivot
        && (steps[pivot].when.is_some() || steps[pivot].for_each.is_some())
    {
        let field = if steps[pivot].when.is_some() {
            "when"
        } else {
            "forEach"
        };
        let message = "the pivot is done once and always: put the condition into a step before or after it";
        faults.push(Fault::new(format!("steps[{pivot}].{field}"), message));
    }
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Pivot,
    After,
}

fn check_step(i: usize, step: &Step, place: Place, pivot: Option<&str>, faults: &mut Vec<Fault>) {
    let mut fault = |field: &str, message: String| {
        faults.push(Fault::new(format!("steps[{i}].{field}"), message));
    };
    match (place, step.kind) {
        (Place::Before, Kind::Compensatable) if step.compensation.is_none() && !step.is_safe() => {
            let way_out = match pivot {
                Some(_) => "",
                None => ", or make it the pivot, if nothing after it can fail for good",
            };
            fault(
                "compensation",
                format!(
                    "is missing: {} may have to be taken back; say how{way_out}",
                    step.name
                ),
            );
        }
        (Place::Before, Kind::Retriable) => {
            let message = match pivot {
                Some(pivot) => format!(
                    "a Retriable step comes after the pivot, and {} is before {pivot}: make it Compensatable",
                    step.name
                ),
                None => format!(
                    "a Retriable step comes after the pivot, and there is none: make {} Compensatable, or a step before it the pivot",
                    step.name
                ),
            };
            fault("kind", message);
        }
        (Place::After, Kind::Compensatable) => fault(
            "kind",
            format!(
                "{} comes after the pivot {}, from where nothing is taken back: write kind: Retriable, or put it before the pivot",
                step.name,
                pivot.unwrap_or_default()
            ),
        ),
        (Place::Pivot | Place::After, _) if step.compensation.is_some() => {
            let reason = if place == Place::Pivot {
                "the pivot is never taken back"
            } else {
                "nothing after the pivot is taken back"
            };
            fault(
                "compensation",
                format!("is never called, since {reason}: remove it"),
            );
        }
        _ if step.is_safe() && step.compensation.is_some() => fault(
            "compensation",
            format!(
                "{} changes nothing, so there is nothing to take back: remove it",
                step.action.call.method
            ),
        ),
        _ => {}
    }
}
