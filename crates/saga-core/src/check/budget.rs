//! Sizes that cannot fit.

use serde_json::Value;

use super::Fault;
use crate::{canonical, definition::Definition};

/// Largest input, output and body that the engine takes, in bytes.
pub const MOST_PAYLOAD: u64 = 256 * 1024;

pub(super) fn check(definition: &Definition, faults: &mut Vec<Fault>) {
    let mut least_of = |at: String, schema: &Value| {
        let least = least(schema, 0);
        if least > MOST_PAYLOAD {
            let message = format!(
                "every value has at least {least} bytes, and {MOST_PAYLOAD} is the most: pass a reference on in its place"
            );
            faults.push(Fault::new(at, message));
        }
    };
    if let Some(input) = &definition.input {
        least_of("input.schema".to_owned(), &input.schema);
    }
    for (i, step) in definition.steps.iter().enumerate() {
        if let Some(output) = &step.output {
            least_of(format!("steps[{i}].output.schema"), &output.schema);
        }
    }
    for (i, step) in definition.steps.iter().enumerate() {
        let calls = [
            ("action", Some(&step.action)),
            ("compensation", step.compensation.as_ref()),
        ];
        for (name, call) in calls {
            let Some(body) = call.and_then(|call| call.body.as_ref()) else {
                continue;
            };
            let size = body.to_string().len() as u64;
            if size > MOST_PAYLOAD {
                let message = format!(
                    "has {size} bytes, and {MOST_PAYLOAD} is the most: pass a reference on in its place"
                );
                faults.push(Fault::new(format!("steps[{i}].{name}.body"), message));
            }
        }
    }
    // The canonical form leaves out and never adds.
    let most = serde_json::to_vec(definition).map_or(0, |text| text.len());
    let size = if most > canonical::MOST_BYTES {
        canonical::text(definition).len()
    } else {
        most
    };
    if size > canonical::MOST_BYTES {
        let message = format!(
            "the definition has {size} bytes, and {} is the most: shorten bodies and schemas, or split the saga",
            canonical::MOST_BYTES
        );
        faults.push(Fault::new("steps", message));
    }
}

/// The fewest bytes of JSON that a value can have by its schema.
fn least(schema: &Value, depth: usize) -> u64 {
    if depth > 16 {
        return 0;
    }
    let number = |word: &str| schema[word].as_u64().unwrap_or(0);
    match schema["type"].as_str() {
        Some("string") => number("minLength").saturating_add(2),
        Some("array") => number("minItems")
            .saturating_mul(least(&schema["items"], depth + 1).saturating_add(1))
            .saturating_add(2),
        Some("object") => {
            let required = schema["required"].as_array();
            let names = required.into_iter().flatten().filter_map(Value::as_str);
            names
                .map(|name| {
                    let value = least(&schema["properties"][name], depth + 1);
                    value.saturating_add(name.len() as u64 + 4)
                })
                .fold(2, u64::saturating_add)
        }
        _ => 1,
    }
}
