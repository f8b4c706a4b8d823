//! A document against the structural schema of its CustomResourceDefinition: unknown fields, types, required fields,
//! enumerated values.
//!
//! This is what `kubectl apply --validate=strict` and the API server check before the operator sees an object. Lengths,
//! ranges and patterns are left to `validate`, which checks every one of them with a better message; a test there makes
//! sure of it.

use serde_json::{Map, Value};
use trellis_api::Problem;

/// Fields of every object, which a CustomResourceDefinition need not describe.
const ROOT: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// Fields of `metadata` (`ObjectMeta`), which a CustomResourceDefinition does not describe.
const METADATA: [&str; 14] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Removes fields without a value, as the API server does before it looks at an object. Those of a list stay.
pub fn drop_nulls(document: &mut Value, schema: &Value) {
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, value| !(value.is_null() && METADATA.contains(&field.as_str())));
    }
    drop_nulls_below(document, schema);
}

fn drop_nulls_below(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            let of_field = |field: &str| match &schema["properties"][field] {
                Value::Null => &schema["additionalProperties"],
                of_field => of_field,
            };
            map.retain(|field, value| {
                let of_field = of_field(field);
                !(value.is_null() && of_field.is_object() && of_field["nullable"] != true)
            });
            for (field, value) in map {
                drop_nulls_below(value, of_field(field));
            }
        }
        Value::Array(items) => {
            for item in items {
                drop_nulls_below(item, &schema["items"]);
            }
        }
        _ => {}
    }
}

/// Every fault of a document against the schema of its kind.
pub fn check(document: &Value, schema: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk("", document, schema, &mut problems);
    match &document["metadata"] {
        Value::Object(metadata) => {
            for field in metadata.keys() {
                if !METADATA.contains(&field.as_str()) {
                    problems.push(unknown("metadata", field, METADATA.into_iter()));
                }
            }
            for field in ["name", "namespace"] {
                if metadata.get(field).is_some_and(|value| !value.is_string()) {
                    problems.push(wrong_type(
                        &format!("metadata.{field}"),
                        "string",
                        &metadata[field],
                    ));
                }
            }
            for field in ["labels", "annotations"] {
                check_texts(&format!("metadata.{field}"), metadata.get(field), &mut problems);
            }
        }
        _ => problems.push(Problem::error(
            "metadata",
            "is missing: every object has at least a name",
        )),
    }
    problems
}

fn walk(path: &str, value: &Value, schema: &Value, problems: &mut Vec<Problem>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_string() || is_whole(value)) {
            problems.push(wrong_type(path, "string or whole number", value));
        }
        return;
    }
    let expected = schema["type"].as_str().unwrap_or_default();
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => is_whole(value),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        problems.push(wrong_type(path, expected, value));
        return;
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        let values: Vec<String> = values.iter().map(plain).collect();
        problems.push(Problem::error(
            path,
            format!(
                "{value} is none of the values it may have: use {}",
                values.join(", ")
            ),
        ));
    }
    match value {
        Value::Object(map) => walk_object(path, map, schema, problems),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk(&format!("{path}[{i}]"), item, &schema["items"], problems);
            }
        }
        _ => {}
    }
}

fn walk_object(path: &str, map: &Map<String, Value>, schema: &Value, problems: &mut Vec<Problem>) {
    let properties = schema["properties"].as_object();
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || (properties.is_none() && schema["additionalProperties"].is_null());
    for (field, value) in map {
        // Every kind has these; `metadata` is checked on its own.
        if path.is_empty() && ROOT.contains(&field.as_str()) {
            continue;
        }
        match properties.and_then(|properties| properties.get(field)) {
            Some(of_field) => walk(&join(path, field), value, of_field, problems),
            None if !schema["additionalProperties"].is_null() => {
                walk(
                    &format!("{path}[{field}]"),
                    value,
                    &schema["additionalProperties"],
                    problems,
                );
            }
            None if open => {}
            None => {
                let root = ROOT.into_iter().filter(|_| path.is_empty());
                let known = properties
                    .into_iter()
                    .flat_map(Map::keys)
                    .map(String::as_str)
                    .chain(root);
                problems.push(unknown(path, field, known));
            }
        }
    }
    for field in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !map.contains_key(field) {
            problems.push(Problem::error(join(path, field), "is missing, and has to be set"));
        }
    }
}

fn check_texts(path: &str, value: Option<&Value>, problems: &mut Vec<Problem>) {
    match value {
        None => {}
        Some(Value::Object(map)) => {
            for (key, value) in map.iter().filter(|(_, value)| !value.is_string()) {
                problems.push(wrong_type(&format!("{path}[{key}]"), "string", value));
            }
        }
        Some(value) => problems.push(wrong_type(path, "object", value)),
    }
}

fn wrong_type(path: &str, expected: &str, value: &Value) -> Problem {
    let message = match value {
        Value::Null => format!("has no value: give it one of type {expected}, or remove it"),
        _ if expected == "string" && !value.is_object() && !value.is_array() => {
            format!("is {value}, but must be a string: put it in quotes")
        }
        Value::Object(_) => format!("is an object, but must be of type {expected}"),
        Value::Array(_) => format!("is a list, but must be of type {expected}"),
        _ => format!("is {value}, but must be of type {expected}"),
    };
    Problem::error(path, message)
}

fn unknown<'a>(path: &str, field: &str, known: impl Iterator<Item = &'a str>) -> Problem {
    let closest = known
        .map(|known| (distance(field, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    let fix = match closest {
        Some((_, known)) => format!("did you mean {known:?}?"),
        None => "remove it; kubectl explain lists the fields".to_owned(),
    };
    Problem::error(join(path, field), format!("unknown field: {fix}"))
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_whole(value: &Value) -> bool {
    // 3.0 is a whole number in JSON, to the API server too.
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// How many letters must change to make one word of the other (Levenshtein 1966), without regard to case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_words_is_the_least_number_of_edits() {
        assert_eq!(distance("image", "image"), 0);
        assert_eq!(distance("imagee", "image"), 1);
        assert_eq!(distance("dependson", "dependsOn"), 0);
        assert_eq!(distance("prots", "ports"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
