//! The reference pages say something about every name that a status may hold.

use std::path::Path;

use trellis_api::condition::{
    ConditionType, PolicyConditionType, PolicyReason, Reason, SagaConditionType, SagaReason,
};

#[test]
fn the_reference_explains_every_condition_and_reason() {
    let path = Path::new("../../docs/reference/conditions.md");
    let page = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names = variants::<ConditionType>()
        .into_iter()
        .chain(variants::<Reason>());
    let missing: Vec<String> = names
        .filter(|name| !page.contains(&format!("| `{name}` |")))
        .collect();
    assert!(
        missing.is_empty(),
        "{} lacks a row for {missing:?}",
        path.display()
    );
}

fn variants<T: strum::IntoEnumIterator + AsRef<str>>() -> Vec<String> {
    T::iter().map(|variant| variant.as_ref().to_owned()).collect()
}

#[test]
fn the_reference_explains_every_condition_and_reason_of_a_policy() {
    let path = Path::new("../../docs/reference/rate-limit-policy.md");
    let page = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, status) = page.split_once("## Status").unwrap();
    let (types, reasons) = status.split_once("| reason |").unwrap();
    for (names, part) in [
        (variants::<PolicyConditionType>(), types),
        (variants::<PolicyReason>(), reasons),
    ] {
        for name in names {
            assert!(
                part.contains(&format!("`{name}`")),
                "{} lacks {name}",
                path.display()
            );
        }
    }
}

#[test]
fn the_reference_explains_every_condition_and_reason_of_a_saga() {
    let page = std::fs::read_to_string("../../docs/reference/saga.md").unwrap();
    let (_, status) = page.split_once("## Status").unwrap();
    let (types, reasons) = status.split_once("| reason |").unwrap();
    for (names, part) in [
        (variants::<SagaConditionType>(), types),
        (variants::<SagaReason>(), reasons),
    ] {
        for name in names {
            assert!(part.contains(&format!("| `{name}` |")), "saga.md lacks {name}");
        }
    }
}

#[test]
fn the_reference_names_every_field_of_a_saga() {
    names_every_field("saga.md", 2);
}

#[test]
fn the_reference_names_every_field_of_a_microservice() {
    names_every_field("microservice.md", 0);
}

#[test]
fn the_reference_names_every_field_of_a_policy() {
    names_every_field("rate-limit-policy.md", 1);
}

fn names_every_field(page: &str, kind: usize) {
    let path = Path::new("../../docs/reference").join(page);
    let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let crd = serde_json::to_value(&trellis_api::crds().unwrap()[kind]).unwrap();
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut missing = Vec::new();
    for part in ["spec", "status"] {
        fields(&root[part], &mut |field| {
            // As a word in code: `ports[].name`, `.max`.
            let named = page
                .split('`')
                .skip(1)
                .step_by(2)
                .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric()))
                .any(|word| word == field);
            if !named {
                missing.push(field.to_owned());
            }
        });
    }
    assert!(missing.is_empty(), "{} does not name {missing:?}", path.display());
}

/// Names of fields, but not below those that Kubernetes itself describes.
fn fields(schema: &serde_json::Value, visit: &mut impl FnMut(&str)) {
    const OF_KUBERNETES: [&str; 3] = ["env", "envFrom", "conditions"];
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        visit(name);
        if !OF_KUBERNETES.contains(&name.as_str()) {
            fields(field, visit);
            fields(&field["items"], visit);
            fields(&field["additionalProperties"], visit);
        }
    }
}
