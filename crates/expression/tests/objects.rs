//! What is known of values that come as JSON: by schemas, by conditions, in texts.

#![allow(clippy::unwrap_used)]

use serde_json::{Value as Json, json};
use trellis_expression::{
    Expression, Template,
    environment::{Environment, VariableId},
    evaluate::Bindings,
    json as conversion, schema,
    types::{Object, Type},
    value::Value,
};

fn input() -> Json {
    json!({
        "type": "object",
        "required": ["order_id", "username", "amount", "lines", "customer", "tags", "extra", "state", "tree"],
        "properties": {
            "order_id": {"type": "integer"},
            "username": {"type": "string", "pattern": "^[a-z]+$"},
            "amount": {"type": "integer", "minimum": 0},
            "weight": {"type": "number"},
            "lines": {"type": "array", "items": {
                "type": "object", "required": ["sku", "quantity"],
                "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer"}, "note": {"type": "string"}},
            }},
            "customer": {"type": "object", "required": ["email"], "properties": {
                "email": {"type": ["string", "null"]},
                "address": {
                    "type": "object", "required": ["city"],
                    "properties": {"city": {"type": "string"}, "zip": {"type": "string", "nullable": true}},
                },
            }},
            "tags": {"type": "object", "additionalProperties": {"type": "string"}},
            "extra": {},
            "state": {"enum": ["new", "paid"]},
            "tree": {"$ref": "#/$defs/node"},
        },
        "$defs": {"node": {
            "type": "object", "required": ["name", "children"],
            "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/branch"}}},
        }, "branch": {
            "type": "object", "required": ["name", "children"],
            "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/branch"}}},
        }},
    })
}

fn environment() -> Environment {
    let run = Object::of([("id", Type::String), ("attempt", Type::Int)]);
    Environment::default()
        .with("input", schema::r#type(&input()).unwrap())
        .with("run", Type::object(run))
}

struct Run(Vec<Value<'static>>);

impl Run {
    fn new(input: &Json) -> Self {
        let r#type = schema::r#type(&self::input()).unwrap();
        let run = Object::of([("id", Type::String), ("attempt", Type::Int)]);
        Self(vec![
            conversion::read(input, &r#type, "input").unwrap(),
            conversion::read(&json!({"id": "r-1", "attempt": 2}), &Type::object(run), "run").unwrap(),
        ])
    }
}

impl Bindings for Run {
    fn value(&self, id: VariableId) -> Option<Value<'_>> {
        self.0.get(usize::from(id.0)).cloned()
    }
}

fn order() -> Json {
    json!({
        "order_id": 7, "username": "ada", "amount": 1250, "lines": [{"sku": "a", "quantity": 2}],
        "customer": {"email": null}, "tags": {"a": "b"}, "extra": {"x": [1, 2.5]}, "state": "new",
        "tree": {"name": "root", "children": [{"name": "leaf", "children": []}]},
    })
}

#[test]
fn types_are_known_and_what_does_not_fit_is_refused_where_it_is() {
    let environment = environment();
    let text = include_str!("golden/objects.txt");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .collect();
    assert!(lines.len() > 120);
    let mut wrong = Vec::new();
    for case in lines.chunks(2) {
        let (source, (first, rest)) = (case[0], case[1].trim().split_once(": ").unwrap());
        match Expression::compile(source, &environment, &[Type::Unknown]) {
            Ok(expression) => {
                let found = expression.r#type().to_string();
                if (first, rest) != ("type", &*found) {
                    wrong.push(format!("{source}: {found}"));
                }
            }
            Err(faults) => {
                let column = faults[0].position.column.to_string();
                if faults.len() != 1 || column != first || !faults[0].message.starts_with(rest) {
                    wrong.push(format!("{source}: {faults:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn values_have_the_types_that_were_found() {
    let (environment, run) = (environment(), Run::new(&order()));
    for (source, expected) in [
        ("input.?weight.orValue(1.5)", json!(1.5)),
        ("has(input.weight) ? input.weight : 0.0", json!(0.0)),
        (
            "input.lines.map(l, {\"sku\": l.sku, \"n\": l.quantity})",
            json!([{"sku": "a", "n": 2}]),
        ),
        (
            "input.customer.email == null ? \"none\" : input.customer.email",
            json!("none"),
        ),
        ("input.extra", json!({"x": [1, 2.5]})),
        ("input.customer", json!({"email": null})),
        (
            "[input.?weight.hasValue(), has(input.customer.address)]",
            json!([false, false]),
        ),
        ("input.tree.children[0].name + run.id", json!("leafr-1")),
    ] {
        let expression = Expression::compile(source, &environment, &[Type::Unknown])
            .unwrap_or_else(|faults| panic!("{source}: {faults:?}"));
        let value = expression.evaluate(&run).unwrap();
        assert_eq!(conversion::write(&value).unwrap(), Some(expected), "{source}");
    }
    let nothing = Expression::compile("input.?weight", &environment, &[Type::Unknown]).unwrap();
    assert_eq!(conversion::write(&nothing.evaluate(&run).unwrap()).unwrap(), None);
}

#[test]
fn a_value_that_is_not_of_its_type_is_named_with_its_path() {
    let r#type = schema::r#type(&input()).unwrap();
    for (field, value, message) in [
        (
            "order_id",
            json!("7"),
            "input.order_id is a text, and int is needed",
        ),
        (
            "order_id",
            json!(7.5),
            "input.order_id is a number, and int is needed",
        ),
        (
            "lines",
            json!([{"sku": "a"}]),
            "input.lines[0].quantity is missing, and int is needed",
        ),
        (
            "customer",
            json!({}),
            "input.customer.email is missing, and string or null is needed",
        ),
        (
            "tags",
            json!({"a": 1}),
            "input.tags.a is a number, and string is needed",
        ),
        (
            "weight",
            json!(null),
            "input.weight is null, and double is needed",
        ),
    ] {
        let mut order = order();
        order[field] = value;
        let mismatch = conversion::read(&order, &r#type, "input").unwrap_err();
        assert_eq!(mismatch.to_string(), message);
    }
    let mut whole = order();
    whole["order_id"] = json!(7.0);
    conversion::read(&whole, &r#type, "input").unwrap();
}

#[test]
fn a_schema_that_says_nothing_usable_is_refused_with_its_place() {
    for (schema, expected) in [
        (
            json!({"type": "text"}),
            ".type: \"text\" is no type; there are: string, boolean, integer, number, array, object, null",
        ),
        (
            json!({"type": ["string", "integer"]}),
            ".type: string and integer are several types; choose one",
        ),
        (
            json!({"properties": {"a": 1}}),
            ".properties.a: is no schema; write an object, {type: string} for example",
        ),
        (
            json!({"properties": {}, "required": ["a"]}),
            ".required: \"a\" is not one of the properties; add it there, or remove it here",
        ),
        (
            json!({"properties": {"a": {}}, "required": "a"}),
            ".required: is no list of names; write required: [a, b] beside properties",
        ),
        (
            json!({"items": {"$ref": "#/$defs/a"}}),
            ".items.$ref: \"#/$defs/a\" is not in this schema; define it under $defs, and write \"#/$defs/name\"",
        ),
        (
            json!({"enum": ["a", 1]}),
            ".enum: has values of several types; choose one, or leave it out",
        ),
        (
            json!({"allOf": [{}, {}]}),
            ".allOf: is not supported; write the properties of all in one schema",
        ),
        (
            json!("string"),
            ": is no schema; write an object, {type: string} for example",
        ),
    ] {
        let faults = schema::r#type(&schema).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].to_string(), expected);
    }
    let deep = (0..100).fold(json!({}), |inner, _| json!({"items": inner}));
    assert!(schema::r#type(&deep).unwrap_err()[0].message.contains("nested"));
}

#[test]
fn a_type_fits_where_all_of_it_is_wanted() {
    let of = |schema: Json| schema::r#type(&schema).unwrap();
    let line =
        of(json!({"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}));
    let less = of(json!({"properties": {"a": {"type": "integer"}}, "required": ["a"]}));
    let more = of(
        json!({"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"]}),
    );
    assert!(more.is(&line) && less.is(&line));
    assert!(!line.is(&more), "b may not be there");
    assert!(!line.is(&less), "b is not wanted");
    let nullable = of(json!({"type": ["integer", "null"]}));
    assert!(Type::Int.is(&nullable) && Type::Null.is(&nullable) && !nullable.is(&Type::Int));
    assert!(
        line.is(&Type::Json) && !Type::Json.is(&line),
        "what is not known fits nowhere"
    );
    let texts = of(json!({"additionalProperties": {"type": "string"}}));
    assert!(of(json!({"properties": {"a": {"type": "string"}}})).is(&texts) && !line.is(&texts));
    // Either way round.
    let nullables = of(json!({"additionalProperties": {"type": ["string", "null"]}}));
    let map = |value| Type::map(Type::String, value);
    assert!(map(Type::String).is(&texts) && map(Type::String).is(&nullables));
    assert!(!map(Type::String.nullable()).is(&texts) && !map(Type::Int).is(&texts));
    assert_eq!(
        of(json!({"anyOf": [{"type": "string"}, {"type": "null"}]})),
        Type::String.nullable()
    );
}

#[test]
fn a_text_that_is_one_expression_keeps_its_type() {
    let (environment, run) = (environment(), Run::new(&order()));
    for (source, r#type, expected) in [
        ("${input.order_id}", "int", json!(7)),
        (
            "/orders/${input.order_id}/confirm",
            "string",
            json!("/orders/7/confirm"),
        ),
        (
            "${input.lines}",
            "list(object(note?, quantity, sku))",
            json!([{"sku": "a", "quantity": 2}]),
        ),
        ("${run.id}-${run.attempt}", "string", json!("r-1-2")),
        ("plain", "string", json!("plain")),
        ("", "string", json!("")),
        ("$${run.id}", "string", json!("${run.id}")),
        ("5 $ ${run.id} $", "string", json!("5 $ r-1 $")),
        ("${{\"a}\": 1}[\"a}\"]}!", "string", json!("1!")),
        ("${'}'}", "string", json!("}")),
    ] {
        let template =
            Template::compile(source, &environment).unwrap_or_else(|faults| panic!("{source}: {faults:?}"));
        assert_eq!(template.r#type().to_string(), r#type, "{source}");
        let value = template.evaluate(&run).unwrap();
        assert_eq!(conversion::write(&value).unwrap(), Some(expected), "{source}");
    }
}

#[test]
fn faults_of_a_text_are_where_they_are_in_it() {
    let environment = environment();
    for (source, column, message) in [
        ("/orders/${input.id}", 17, "there is no field id"),
        ("/orders/${input.order_id}/${input.x}", 35, "there is no field x"),
        (
            "/orders/${input.lines}",
            11,
            "the value is list(object(note?, quantity, sku)), which cannot be written into a text; write one of its",
        ),
        (
            "a ${input.?weight}",
            5,
            "the value is optional(double), which cannot be written into a text; say what holds if there is none",
        ),
        (
            "a ${input.customer.email}",
            5,
            "the value is string or null, which cannot be written into a text; it may be null",
        ),
        ("a ${input.order_id", 3, "${ has no end"),
        ("a ${}", 5, ""),
    ] {
        let faults = Template::compile(source, &environment).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].position.column, column, "{source}: {}", faults[0]);
        assert!(faults[0].message.starts_with(message), "{source}: {}", faults[0]);
    }
}
