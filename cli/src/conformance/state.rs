//! The state of a participant, as far as it shows an effect.
//!
//! States are only compared within a case, and changes of numbers and lengths of lists between cases: so a stock that all cases take from
//! is as good as a resource of each run.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// Most characters of a value that are shown.
const MOST_SHOWN: usize = 40;
/// Most fields that are shown.
const MOST_FIELDS: usize = 4;
/// Two changes are one a whole number of times the other, for a floating-point number.
const EXACT: f64 = 1e-9;

/// What a look at the state has shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum State {
    /// 404 or 410: there is nothing.
    Absent,
    /// JSON, or a text.
    Value(Value),
}

/// How many times the change `now` is the change `once`, by numbers and lengths of lists; none if they do not tell.
///
/// A number that changes by itself, such as a time, is no whole multiple but by chance.
pub fn times(once: (&State, &State), now: (&State, &State)) -> Option<u32> {
    let (once, now) = (change(once), change(now));
    let ratios = once
        .iter()
        .filter(|(_, by)| **by != 0.0)
        .filter_map(|(place, by)| {
            let ratio = now.get(place).copied().unwrap_or_default() / by;
            let whole = ratio.round();
            ((ratio - whole).abs() < EXACT && (0.0..1e6).contains(&whole)).then_some(whole as u32)
        });
    ratios.max()
}

/// States one after another, with the fields that differ: `reserved 0 -> 2 -> 0`.
pub fn shown(states: &[&State]) -> String {
    if states.windows(2).all(|pair| pair[0] == pair[1]) {
        return "state unchanged".to_owned();
    }
    let is_object = |state: &&State| matches!(state, State::Value(Value::Object(_)));
    let is_there = |state: &&&State| ***state != State::Absent;
    if !states.iter().filter(is_there).all(is_object) {
        let all: Vec<_> = states.iter().map(|state| short(state)).collect();
        return format!("state {}", all.join(" -> "));
    }
    let leaves: Vec<_> = states
        .iter()
        .filter(is_there)
        .map(|state| leaves(state))
        .collect();
    let places: BTreeSet<&String> = leaves.iter().flat_map(BTreeMap::keys).collect();
    let differ = |place: &&String| {
        leaves
            .windows(2)
            .any(|pair| pair[0].get(*place) != pair[1].get(*place))
    };
    let differing: Vec<&String> = places.into_iter().filter(differ).collect();
    let mut parts = Vec::new();
    if leaves.len() < states.len() {
        let there = |state: &&State| if is_there(&state) { "there" } else { "absent" };
        let all: Vec<_> = states.iter().map(there).collect();
        parts.push(format!("state {}", all.join(" -> ")));
    }
    for place in differing.iter().take(MOST_FIELDS) {
        let value = |leaves: &BTreeMap<String, &Value>| match leaves.get(*place) {
            Some(value) => cut(&value.to_string()),
            None => "nothing".to_owned(),
        };
        let values: Vec<_> = leaves.iter().map(value).collect();
        parts.push(format!(
            "{} {}",
            place.trim_start_matches('/'),
            values.join(" -> ")
        ));
    }
    if differing.len() > MOST_FIELDS {
        parts.push(format!("and {} more", differing.len() - MOST_FIELDS));
    }
    parts.join("; ")
}

fn change((before, after): (&State, &State)) -> BTreeMap<String, f64> {
    let (before, mut after) = (measures(before), measures(after));
    for (place, measure) in before {
        *after.entry(place).or_default() -= measure;
    }
    after
}

/// Numbers, and lengths of lists.
fn measures(state: &State) -> BTreeMap<String, f64> {
    let measure = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::Array(list) => Some(list.len() as f64),
        _ => None,
    };
    leaves(state)
        .into_iter()
        .filter_map(|(place, value)| Some((place, measure(value)?)))
        .collect()
}

/// What is no object, by its JSON pointer.
fn leaves(state: &State) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    let mut open: Vec<(String, &Value)> = match state {
        State::Absent => Vec::new(),
        State::Value(value) => vec![(String::new(), value)],
    };
    while let Some((place, value)) = open.pop() {
        match value {
            Value::Object(fields) => {
                open.extend(
                    fields
                        .iter()
                        .map(|(name, value)| (format!("{place}/{name}"), value)),
                );
            }
            leaf => {
                found.insert(place, leaf);
            }
        }
    }
    found
}

fn short(state: &State) -> String {
    match state {
        State::Absent => "absent".to_owned(),
        State::Value(value) => cut(&value.to_string()),
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MOST_SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(MOST_SHOWN - 3).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> State {
        State::Value(value)
    }

    #[test]
    fn a_change_is_counted_by_numbers_and_lengths_of_lists_wherever_they_begin() {
        let once = (
            &of(json!({"left": 9, "all": 9})),
            &of(json!({"left": 7, "all": 9})),
        );
        let twice = (
            &of(json!({"left": 5, "all": 9})),
            &of(json!({"left": 1, "all": 9})),
        );
        assert_eq!(times(once, twice), Some(2));
        assert_eq!(times(once, once), Some(1));
        assert_eq!(times(once, (twice.0, twice.0)), Some(0));
        let (none, one, two) = (of(json!([])), of(json!([{"id": "a"}])), of(json!([{}, {}, {}])));
        assert_eq!(times((&none, &one), (&one, &two)), Some(2));
        assert_eq!(
            times((&State::Absent, &of(json!(3))), (&State::Absent, &of(json!(9)))),
            Some(3)
        );
    }

    #[test]
    fn what_is_no_number_says_nothing_of_how_often() {
        let once = (
            &State::Absent,
            &of(json!({"status": "held", "at": 1_700_000_000})),
        );
        let later = (
            &State::Absent,
            &of(json!({"status": "held", "at": 1_700_000_005})),
        );
        assert_eq!(times(once, later), None);
    }

    #[test]
    fn of_objects_the_fields_that_differ_are_shown() {
        let states = [
            &of(json!({"sku": "tea", "reserved": 0})),
            &of(json!({"sku": "tea", "reserved": 2})),
            &of(json!({"sku": "tea"})),
        ];
        assert_eq!(shown(&states), "reserved 0 -> 2 -> nothing");
        let record = [
            &State::Absent,
            &of(json!({"id": "r1", "status": "held"})),
            &of(json!({"id": "r1", "status": "void"})),
        ];
        assert_eq!(
            shown(&record),
            r#"state absent -> there -> there; status "held" -> "void""#
        );
        assert_eq!(
            shown(&[&State::Absent, &of(json!(["a"]))]),
            r#"state absent -> ["a"]"#
        );
        assert_eq!(shown(&[&of(json!(7)), &of(json!(7))]), "state unchanged");
    }
}
