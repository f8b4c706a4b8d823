//! Whatever is written, and whatever comes: an answer or an error, and the short way says what the interpreter says.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use trellis_expression::{
    Expression,
    request::{self, HttpRequest},
    types::Type,
};

const TYPES: [Type; 5] = [Type::Bool, Type::String, Type::Int, Type::Uint, Type::Double];

/// Words that make expressions, some of them sound.
fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "request",
        "request.method",
        "request.path",
        "request.headers",
        "request.query",
        "source.address",
        ".",
        "(",
        ")",
        "[",
        "]",
        "[?",
        "{",
        "}",
        "?",
        ":",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">=",
        "in",
        "1",
        "0",
        "-9223372036854775808",
        "1u",
        "1.5",
        "'x'",
        "\"\\u00e9\"",
        "b'z'",
        "'''",
        "\\",
        "`",
        "é",
        "😀",
        "null",
        "true",
        "has(",
        "size(",
        "int(",
        ".exists(x,",
        ".map(x,",
        "x",
        ",",
        "orValue(",
        "optional.of(",
        "claims",
        "\n",
        "//",
        "@",
        "\0",
        "'\\x",
        "1e999",
    ]);
    prop::collection::vec((word, prop::bool::ANY), 0..14).prop_map(|words| {
        let spaced = |(word, space): (&str, bool)| {
            if space {
                format!("{word} ")
            } else {
                word.to_owned()
            }
        };
        words.into_iter().map(spaced).collect()
    })
}

/// Expressions that are sound, of conditions on texts that may be missing.
fn conditions() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec![
        "request.method",
        "request.path",
        "request.headers['a']",
        "request.headers['b']",
        "request.query['a']",
        "request.query[?'b'].orValue('GET')",
        "source.address",
    ]);
    let literal = prop::sample::select(vec!["'GET'", "'/a'", "'1'", "''"]);
    let test = (text, literal, 0..7_u8).prop_map(|(text, literal, form)| match form {
        0 => format!("{text} == {literal}"),
        1 => format!("{literal} != {text}"),
        2 => format!("{text}.startsWith({literal})"),
        3 => format!("{text}.endsWith({literal})"),
        4 => format!("{text}.contains({literal})"),
        5 => format!("{text} in [{literal}, 'x']"),
        _ => "'a' in request.headers".to_owned(),
    });
    let leaf = prop_oneof![
        8 => test,
        1 => Just("has(request.headers.a)".to_owned()),
        1 => Just("true".to_owned()),
        // This has no short way.
        1 => Just("size(request.path) > 2".to_owned()),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

fn requests() -> impl Strategy<Value = (HeaderMap, Method, String, Option<String>)> {
    let header = (
        prop::sample::select(vec!["a", "b", "c"]),
        prop::sample::select(vec![&b"1"[..], b"GET", b"", b"\xff\xfe"]),
    );
    let headers = prop::collection::vec(header, 0..4).prop_map(|headers| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        map
    });
    let method = prop::sample::select(vec![Method::GET, Method::POST]);
    let query = prop::option::of(prop::sample::select(vec![
        "a=1",
        "a=%zz&a=2",
        "b",
        "&&=",
        "a=%ff",
    ]));
    (
        headers,
        method,
        "/[a-c]{0,3}",
        query.prop_map(|query| query.map(str::to_owned)),
    )
}

fn agree(source: &str, request: &HttpRequest<'_>) -> Result<bool, TestCaseError> {
    let Ok(expression) = Expression::compile(source, &request::environment(), &TYPES) else {
        return Ok(false);
    };
    let (short, long) = (expression.evaluate(request), expression.interpret(request));
    // "Not a number" is not equal to itself.
    prop_assert_eq!(format!("{short:?}"), format!("{long:?}"), "{}", source);
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_words_are_refused_or_evaluated(
        source in words(),
        (headers, method, path, query) in requests(),
    ) {
        let source_address = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let request = HttpRequest {
            method: &method,
            host: "",
            path: &path,
            query: query.as_deref(),
            headers: &headers,
            source: source_address,
        };
        agree(&source, &request)?;
    }

    #[test]
    fn the_short_way_says_what_the_interpreter_says(
        source in conditions(),
        (headers, method, path, query) in requests(),
    ) {
        let request = HttpRequest {
            method: &method,
            host: "",
            path: &path,
            query: query.as_deref(),
            headers: &headers,
            source: IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        prop_assert!(agree(&source, &request)?, "refused: {}", source);
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(source in ".{0,60}") {
        if let Err(faults) = Expression::compile(&source, &request::environment(), &TYPES) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.position.byte <= source.len() && source.is_char_boundary(fault.position.byte));
            }
        }
    }
}
