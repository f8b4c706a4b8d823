//! Does an OpenAPI document say what a service routes, no less and no more?

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;

const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

/// Compares the paths and methods of `document` with `routed`, both ways, and checks the version.
///
/// # Panics
/// With every route that is not documented and every documented one that is not routed.
pub fn assert_covers(document: &Value, routed: &[(Method, &'static str)]) {
    let version = document["openapi"].as_str().unwrap_or_default();
    assert!(version.starts_with("3.1."), "openapi is {version:?}, want 3.1.x");
    let routed: BTreeSet<String> = routed
        .iter()
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths is an object") {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let missing: Vec<_> = routed.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&routed).collect();
    assert!(missing.is_empty(), "routed but not in openapi.json: {missing:?}");
    assert!(
        invented.is_empty(),
        "in openapi.json but not routed: {invented:?}"
    );
}

/// Checks that every `$ref` of the document leads somewhere in it.
///
/// # Panics
/// With the first that does not.
pub fn assert_references_resolve(document: &Value) {
    visit(document, &mut |reference| {
        let pointer = reference
            .strip_prefix('#')
            .unwrap_or_else(|| panic!("{reference} leaves the document"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    });
}

fn visit(value: &Value, check: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                check(reference);
            }
            map.values().for_each(|value| visit(value, check));
        }
        Value::Array(items) => items.iter().for_each(|value| visit(value, check)),
        _ => {}
    }
}
