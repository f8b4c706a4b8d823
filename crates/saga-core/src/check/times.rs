//! Times that cannot fit.

use super::Fault;
use crate::{
    definition::{Call, Definition, Kind, Millis},
    order::{self, Order},
};

pub(super) fn check(definition: &Definition, order: &Order, faults: &mut Vec<Fault>) {
    for (i, step) in definition.steps.iter().enumerate() {
        let bound = definition
            .timeout
            .filter(|_| step.kind == Kind::Compensatable || step.kind == Kind::Pivot);
        check_call(&format!("steps[{i}].action"), &step.action, bound, faults);
        if let Some(compensation) = &step.compensation {
            // What is taken back takes as long as it needs.
            check_call(&format!("steps[{i}].compensation"), compensation, None, faults);
        }
    }
    if let Some(timeout) = definition.timeout {
        if timeout.0 == 0 {
            faults.push(Fault::new(
                "timeout",
                "0 ends every run at once: write a time, or leave it out",
            ));
        }
        check_longest_way(definition, order, timeout, faults);
    }
}

fn check_call(at: &str, call: &Call, bound: Option<Millis>, faults: &mut Vec<Fault>) {
    let mut fault = |field: &str, message: String| {
        faults.push(Fault::new(format!("{at}.{field}"), message));
    };
    let retry = &call.retry;
    if call.timeout.0 == 0 {
        fault(
            "timeout",
            "0 ends every try at once: write a time, 10s for example".to_owned(),
        );
    }
    if let Some(bound) = bound.filter(|bound| call.timeout > *bound) {
        let message = format!(
            "one try may take {}, longer than the whole saga, {bound}: shorten it, or lengthen spec.timeout",
            call.timeout
        );
        fault("timeout", message);
    }
    if retry.initial > retry.max_interval {
        let message = format!(
            "the first pause, {}, is longer than the longest, maxInterval {}: shorten it, or lengthen maxInterval",
            retry.initial, retry.max_interval
        );
        fault("retry.initial", message);
    }
    if retry.initial.0 == 0 {
        let message = "0 would try without a pause: write a time, 100ms for example";
        fault("retry.initial", message.to_owned());
    }
    if !(1.0..=10.0).contains(&retry.factor) {
        fault(
            "retry.factor",
            format!("{} is out of range: use 1 to 10", retry.factor),
        );
    }
    if retry.jitter > 100 {
        fault(
            "retry.jitter",
            format!("{} is out of range: use 0 to 100", retry.jitter),
        );
    }
    if retry.max_attempts == Some(0) {
        fault("retry.maxAttempts", "0 tries nothing: use 1 or more".to_owned());
    }
    let repeats = retry.max_attempts != Some(1);
    if let Some(elapsed) = retry.max_elapsed.filter(|_| repeats) {
        if elapsed < call.timeout {
            let message = format!(
                "{elapsed} are over before the first try has to be, {}: lengthen it, shorten timeout, or write maxAttempts: 1",
                call.timeout
            );
            fault("retry.maxElapsed", message);
        }
        if let Some(bound) = bound.filter(|bound| elapsed > *bound) {
            let message = format!(
                "tries may go on for {elapsed}, longer than the whole saga, {bound}: shorten it, or lengthen spec.timeout"
            );
            fault("retry.maxElapsed", message);
        }
    }
}

/// With one try of each step, the longest way up to the pivot.
fn check_longest_way(definition: &Definition, order: &Order, timeout: Millis, faults: &mut Vec<Fault>) {
    let steps = &definition.steps;
    let ends = order.ends(|step| steps[step].action.timeout.0);
    let last = order::pivot(steps).or_else(|| (0..steps.len()).max_by_key(|&step| ends[step].0));
    let Some(last) = last.filter(|&last| ends[last].0 > timeout.0) else {
        return;
    };
    let mut way: Vec<&str> = std::iter::successors(Some(last), |&step| ends[step].1)
        .map(|step| &*steps[step].name)
        .collect();
    // A way of one is said at that step.
    if way.len() < 2 {
        return;
    }
    way.reverse();
    let message = format!(
        "{timeout} are not enough for {}: one try of each may take {} together; lengthen it, or shorten their timeouts",
        way.join(", "),
        Millis(ends[last].0)
    );
    faults.push(Fault::new("timeout", message));
}
