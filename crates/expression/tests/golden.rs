//! What expressions are worth, and what is refused, where and why.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use trellis_expression::{
    Expression, MAX_BYTES, MAX_NESTING,
    environment::Environment,
    evaluate::Error,
    request::{self, HttpRequest},
    types::Type,
    value::Value,
};

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "shop.example"),
        ("x-user-id", "42"),
        ("accept", "text/html"),
        ("accept", "text/plain"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn request(headers: &HeaderMap) -> HttpRequest<'_> {
    HttpRequest {
        method: &Method::POST,
        host: "shop.example",
        path: "/orders/7",
        query: Some("page=2&tag=a%20b&tag=c"),
        headers,
        source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)),
    }
}

/// Everything that has a value; `Bool` first, so that hints are those of a condition.
const fn any() -> [Type; 5] {
    [Type::Bool, Type::String, Type::Int, Type::Uint, Type::Double]
}

fn show(value: Result<Value<'_>, Error>) -> String {
    match value {
        Ok(Value::Bool(truth)) => truth.to_string(),
        Ok(Value::Int(number)) => number.to_string(),
        Ok(Value::Uint(number)) => format!("{number}u"),
        Ok(Value::Double(number)) => format!("{number:?}"),
        Ok(Value::String(text)) => format!("{text:?}"),
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("error {} at {}", error.kind.as_str(), error.at),
    }
}

fn value(source: &str) -> (String, bool) {
    let headers = headers();
    let request = request(&headers);
    let expression = Expression::compile(source, &request::environment(), &any())
        .unwrap_or_else(|faults| panic!("{source}: {faults:?}"));
    let value = show(expression.evaluate(&request));
    let interpreted = show(expression.interpret(&request));
    assert_eq!(value, interpreted, "the short way says something else: {source}");
    (value, expression.is_direct())
}

/// The cases of a file: an expression, and what is written below it before and after a colon.
fn cases(text: &str) -> Vec<(&str, &str, &str)> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .collect();
    let cases: Vec<_> = lines
        .chunks(2)
        .map(|case| {
            let (first, rest) = case[1].trim().split_once(": ").unwrap();
            (case[0], first, rest)
        })
        .collect();
    assert!(cases.len() > 60);
    cases
}

#[test]
fn expressions_have_their_values() {
    for (source, way, expected) in cases(include_str!("golden/values.txt")) {
        let (value, direct) = value(source);
        assert_eq!(value, expected, "{source}");
        assert_eq!(direct, way == "direct", "{source}");
    }
}

#[test]
fn what_is_wrong_is_refused_where_it_is_with_the_fix() {
    let environment = request::environment();
    for (source, column, message) in cases(include_str!("golden/refused.txt")) {
        let faults = Expression::compile(source, &environment, &any())
            .err()
            .unwrap_or_else(|| panic!("accepted: {source}"));
        assert_eq!(faults.len(), 1, "{source}: {faults:#?}");
        assert_eq!(
            faults[0].position.column.to_string(),
            column,
            "{source}: {}",
            faults[0]
        );
        assert!(faults[0].message.starts_with(message), "{source}: {}", faults[0]);
    }
}

#[test]
fn every_fault_is_named_and_what_follows_from_one_is_not() {
    let source = "request.method == 1\n  && user.name.size() > 2\n  || 'é' == true";
    let faults = Expression::compile(source, &request::environment(), &[Type::Bool]).unwrap_err();
    let places: Vec<_> = faults
        .iter()
        .map(|fault| (fault.position.byte, fault.position.line, fault.position.column))
        .collect();
    assert_eq!(places, [(15, 1, 16), (25, 2, 6), (56, 3, 10)], "{faults:#?}");
    assert_eq!(
        faults[1].to_string(),
        "line 2, column 6: user is not declared; there are: request, source"
    );
}

#[test]
fn a_value_of_another_type_than_asked_for_is_refused() {
    let environment = request::environment();
    for (source, expected, message) in [
        (
            "request.method",
            Type::Bool,
            "the value is string, and bool is needed here; compare it with something",
        ),
        (
            "1.5",
            Type::Int,
            "the value is double, and int is needed here; convert the double with int(...)",
        ),
        (
            "[]",
            Type::Bool,
            "the value is list, and bool is needed here; compare it with something",
        ),
    ] {
        let faults = Expression::compile(source, &environment, &[expected]).unwrap_err();
        assert_eq!(faults[0].message, message);
    }
}

#[test]
fn what_would_cost_too_much_is_refused_or_ends() {
    let environment = request::environment();
    let refused = |source: &str| {
        let faults = Expression::compile(source, &environment, &any()).unwrap_err();
        faults[0].message.clone()
    };
    assert!(refused(" \n").contains("empty"));
    assert!(refused(&"a".repeat(1025)).contains("at most 1024"));
    assert!(refused(&"(".repeat(17)).contains("nested more than 16"));
    assert!(refused(&format!("1{}", "+1".repeat(100))).contains("nested more than 64"));
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{1:", "}"),
        ("size([", "])"),
        ("true?(", "):1"),
        ("-(", ")"),
    ] {
        let depth = MAX_NESTING / open.matches(['(', '[', '{']).count();
        let tail = "+1".repeat((MAX_BYTES - depth * (open.len() + close.len()) - 1) / 2);
        let nested = |tail: &str| format!("{}1{tail}{}", open.repeat(depth), close.repeat(depth));
        // Whatever it says of the type, it can be read, and the longest one does not end the process.
        let _ = Expression::compile(&nested(&tail), &environment, &any());
        if let Err(faults) = Expression::compile(&nested(""), &environment, &any()) {
            assert!(!faults[0].message.contains("nested"), "{}", faults[0]);
        }
    }
    // 50 times 50 times 50 characters.
    let list = format!("[{}]", vec!["'aaaaaaaaaaaaaaaa'"; 25].join(","));
    let source = format!("{list}.all(x, {list}.all(y, x == y))");
    assert_eq!(value(&source).0, "true");
    let source = format!("{list}.map(x, {list}.map(y, x + y + x + y)).all(z, z.all(w, w.size() > 1))");
    let (outcome, _) = value(&source);
    assert!(outcome.starts_with("error too_expensive"), "{outcome}");
}

#[test]
fn names_that_are_declared_elsewhere_work_the_same() {
    let environment = Environment::default()
        .with("order.amount", Type::Int)
        .with("order.tags", Type::list(Type::String));
    let check = |source: &str| Expression::compile(source, &environment, &[Type::Bool]);
    assert!(check("order.amount > 10 && order.tags.exists(t, t == 'gift')").is_ok());
    assert!(check("request.method == 'GET'").is_err());
    let faults = check("order.tags.exists(t, t == order.amount)").unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "line 1, column 24: string == int: both sides must have one type; convert the int with string(...), or put \
         it into quotes"
    );
}
