//! Definitions: the form that revisions are named by, and what a call says.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use trellis_saga_core::{Definition, canonical, compile, program::Data};

fn definition(steps: &Value) -> Definition {
    serde_json::from_value(json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "order",
        "input": {"schema": {
            "type": "object", "title": "An order", "required": ["id", "description"],
            "properties": {
                "description": {"type": "string", "description": "what is ordered"},
                "id": {"type": "string", "examples": ["a/b"]},
                "note": {"type": "string"},
            },
        }},
        "steps": steps, "retention": {"completed": 1, "compensated": 1}, "onStuck": {"event": true},
    }))
    .unwrap()
}

fn step(action: &Value) -> Value {
    let mut action = action.clone();
    action["timeout"] = 1000.into();
    action["retry"] =
        json!({"initial": 1, "factor": 2.0, "maxInterval": 2, "jitter": 0, "retryOn": ["Timeout"]});
    json!({"name": "a", "after": [], "kind": "Pivot", "action": action})
}

#[test]
fn what_means_the_same_has_the_same_revision() {
    let step = step(&json!({"call": {"microservice": "a", "method": "POST", "path": "/x"}}));
    let one = definition(&json!([step]));
    let mut other = one.clone();
    other.input.as_mut().unwrap().schema = json!({
        "properties": {
            "note": {"type": "string"}, "id": {"type": "string"}, "description": {"type": "string"},
        },
        "required": ["id", "description"], "type": "object", "$comment": "in another order",
    });
    let (one, other) = (canonical::text(&one), canonical::text(&other));
    assert_eq!(one, other);
    assert!(
        one.contains(r#""description":{"type":"string"}"#),
        "a property is no remark: {one}"
    );
    assert_eq!(canonical::name(&one).len(), 10);
    let mut third = definition(&json!([step]));
    third.steps[0].action.timeout.0 += 1;
    assert_ne!(canonical::name(&canonical::text(&third)), canonical::name(&one));
    // What was written is what is read.
    let read: Definition = serde_json::from_str(&one).unwrap();
    assert_eq!(canonical::text(&read), one);
}

#[test]
fn a_value_in_a_path_is_one_element_of_it_and_a_whole_expression_keeps_its_type() {
    let step = step(&json!({
        "call": {"microservice": "a", "method": "POST", "path": "/orders/${input.id}?q=${input.description}"},
        "headers": {"x-a": "of ${run.id}"},
        "body": {"whole": "${input}", "list": [1, "${input.?note}"], "note": "${input.?note}", "id": "$${run.id}", "null": null},
    }));
    let program = compile(&definition(&json!([step]))).unwrap();
    let input = json!({"id": "a/.x/b", "description": "x&y=é"});
    let data = Data::default()
        .with("input", &input, program.input.as_ref().unwrap())
        .unwrap()
        .with_run("r1", "order", "abc", "2026-01-01T00:00:00Z");
    let request = program.steps[0].action.request(&data).unwrap();
    assert_eq!(request.path, "/orders/a%2F.x%2Fb?q=x%26y%3D%C3%A9");
    assert_eq!(request.headers[0].1, "of r1");
    assert_eq!(
        request.body,
        Some(json!({"whole": input, "list": [1], "id": "${run.id}", "null": null}))
    );
}

#[test]
fn a_value_that_leads_elsewhere_makes_no_request() {
    let step = step(
        &json!({"call": {"microservice": "a", "method": "POST", "path": "/orders/${input.id}/lines?of=${input.id}"}}),
    );
    let program = compile(&definition(&json!([step]))).unwrap();
    let path = |id: &str| {
        let input = json!({"id": id, "description": ""});
        let data = Data::default()
            .with("input", &input, program.input.as_ref().unwrap())
            .unwrap();
        program.steps[0].action.request(&data).map(|request| request.path)
    };
    for elsewhere in ["..", ".", "", "../admin", "a/..", "..\\admin"] {
        assert!(path(elsewhere).is_err(), "{elsewhere:?}");
    }
    assert_eq!(path("...").unwrap(), "/orders/.../lines?of=...");
    assert_eq!(path("a/b..").unwrap(), "/orders/a%2Fb../lines?of=a%2Fb..");
}
