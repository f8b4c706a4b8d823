//! The canonical form of a definition: the same bytes for whatever means the same.
//!
//! Keys are in order, there is no white space, and what says nothing to a machine (`title`, `description`, `examples` and
//! `$comment` of schemas) is left out. The name of a revision is a hash of it.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::definition::{Definition, Payload};

/// Largest canonical form in bytes: a ConfigMap takes 1 MiB with all that is around it.
pub const MOST_BYTES: usize = 900 * 1024;

/// Words of JSON Schema that say nothing to a machine.
const REMARKS: [&str; 4] = ["title", "description", "examples", "$comment"];
/// Words whose value is a map of names to schemas.
const BY_NAME: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// The canonical form.
#[must_use]
pub fn text(definition: &Definition) -> String {
    let mut definition = definition.clone();
    let outputs = definition.steps.iter_mut().map(|step| &mut step.output);
    for Payload { schema } in outputs.chain([&mut definition.input]).flatten() {
        without_remarks(schema);
    }
    // Plain data with string keys always serialises; maps are ordered here whatever the library does.
    let mut value = serde_json::to_value(&definition).unwrap_or_default();
    sort(&mut value);
    value.to_string()
}

/// What a revision is called: the first 10 hex digits of its SHA-256, enough to tell those of one saga apart.
#[must_use]
pub fn name(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

fn without_remarks(schema: &mut Value) {
    let Value::Object(words) = schema else { return };
    for remark in REMARKS {
        words.remove(remark);
    }
    for (word, value) in words {
        match value {
            Value::Object(named) if BY_NAME.contains(&word.as_str()) => {
                named.values_mut().for_each(without_remarks);
            }
            // The values of these are no schemas.
            _ if word == "enum" || word == "const" || word == "default" => {}
            Value::Array(several) => several.iter_mut().for_each(without_remarks),
            other => without_remarks(other),
        }
    }
}

fn sort(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = std::mem::take(map).into_iter().collect();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            *map = entries
                .into_iter()
                .map(|(key, mut value)| {
                    sort(&mut value);
                    (key, value)
                })
                .collect::<Map<_, _>>();
        }
        Value::Array(values) => values.iter_mut().for_each(sort),
        _ => {}
    }
}
