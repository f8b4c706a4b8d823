//! The checker and the interpreter agree: expressions that are put together by their types are accepted, have those types, and are
//! evaluated without an error of types or names, whatever the values.
//!
//! `TRELLIS_SEED=7 cargo test -p trellis-expression --test agree -- --nocapture` looks at one expression.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, env};

use serde_json::{Value as Json, json};
use trellis_expression::{
    Expression,
    environment::{Environment, VariableId},
    evaluate::{Bindings, ErrorKind},
    json as conversion, on_a_deep_stack, schema,
    types::Type,
    value::Value,
};

const EXPRESSIONS: u64 = 20_000;
/// Inputs that each is evaluated with.
const INPUTS: u64 = 4;
/// Deepest nesting of comprehensions that the checker takes.
const MOST_LOCALS: usize = 2;

fn input_schema() -> Json {
    json!({
        "type": "object", "required": ["n", "d", "s", "b", "ns", "ss", "os", "m", "o", "t"],
        "properties": {
            "n": {"type": "integer"}, "d": {"type": "number"}, "s": {"type": "string"}, "b": {"type": "boolean"},
            "ns": {"type": "array", "items": {"type": "integer"}},
            "ss": {"type": "array", "items": {"type": "string"}},
            "os": {"type": "array", "items": {"type": "object", "required": ["k", "v"], "properties": {
                "k": {"type": "string"}, "v": {"type": "integer"}, "w": {"type": "number"}}}},
            "m": {"type": "object", "additionalProperties": {"type": "integer"}},
            "o": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}},
            "t": {"type": ["string", "null"]},
            "e": {"type": "integer"},
        },
    })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// What expressions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int,
    Double,
    Text,
    Ints,
    Texts,
    Objects,
    Object,
    OptionalInt,
}

impl Kind {
    fn r#type(self) -> Type {
        match self {
            Self::Bool => Type::Bool,
            Self::Int => Type::Int,
            Self::Double => Type::Double,
            Self::Text => Type::String,
            Self::Ints => Type::list(Type::Int),
            Self::Texts => Type::list(Type::String),
            Self::OptionalInt => Type::optional(Type::Int),
            Self::Object | Self::Objects => {
                let Type::Object(input) = schema::r#type(&input_schema()).unwrap() else {
                    unreachable!("it is an object");
                };
                let list = input.fields["os"].r#type.clone();
                match (self, list) {
                    (Self::Object, Type::List(element)) => *element,
                    (_, list) => list,
                }
            }
        }
    }
}

/// Puts expressions together.
struct Maker {
    random: Random,
    locals: Vec<(String, Kind)>,
    made: usize,
}

impl Maker {
    fn make(&mut self, kind: Kind, depth: usize) -> String {
        let locals: Vec<String> = self
            .locals
            .iter()
            .filter(|(_, of)| *of == kind)
            .map(|(name, _)| name.clone())
            .collect();
        if !locals.is_empty() && self.random.below(3) == 0 {
            return locals[self.random.below(locals.len())].clone();
        }
        if depth == 0 {
            return self.leaf(kind);
        }
        if self.random.below(8) == 0 {
            let (a, b, c) = (
                self.make(Kind::Bool, depth - 1),
                self.make(kind, depth - 1),
                self.make(kind, depth - 1),
            );
            return format!("({a} ? {b} : {c})");
        }
        let d = depth - 1;
        match kind {
            Kind::Bool => self.bool(d),
            Kind::Int => self.int(d),
            Kind::Double => self.double(d),
            Kind::Text => self.text(d),
            Kind::Ints | Kind::Texts | Kind::Objects => self.list(kind, d),
            Kind::Object => {
                let (list, place) = (self.make(Kind::Objects, d), self.random.below(2));
                format!("{list}[{place}]")
            }
            Kind::OptionalInt => match self.random.below(4) {
                0 => "input.?e".to_owned(),
                1 => format!("input.m[?{}]", self.make(Kind::Text, d)),
                2 => format!("optional.of({})", self.make(Kind::Int, d)),
                _ => format!(
                    "{}.or({})",
                    self.make(Kind::OptionalInt, d),
                    self.make(Kind::OptionalInt, d)
                ),
            },
        }
    }

    fn leaf(&mut self, kind: Kind) -> String {
        let leaves: &[&str] = match kind {
            Kind::Bool => &[
                "true",
                "false",
                "input.b",
                "has(input.e)",
                "has(input.o.y)",
                "(input.t == null)",
                "(input.t == 'a')",
            ],
            Kind::Int => &[
                "0",
                "1",
                "-3",
                "9223372036854775807",
                "input.n",
                "input.o.x",
                "(has(input.e) ? input.e : 2)",
            ],
            Kind::Double => &["0.0", "1.5", "-2.25", "1e300", "input.d"],
            Kind::Text => &[
                "''",
                "'a'",
                "\"é\"",
                "input.s",
                "(input.t != null ? input.t : 'none')",
                "(has(input.o.y) ? input.o.y : '')",
                "input.o.?y.orValue('z')",
            ],
            Kind::Ints => &["input.ns", "[]", "[1, 2, 3]"],
            Kind::Texts => &["input.ss", "['a', 'b']"],
            Kind::Objects => &["input.os"],
            Kind::Object => &["input.os[0]"],
            Kind::OptionalInt => &["input.?e", "optional.of(4)", "input.m[?'a']"],
        };
        self.random.pick(leaves).to_owned()
    }

    fn bool(&mut self, d: usize) -> String {
        match self.random.below(11) {
            0 => format!("!{}", self.make(Kind::Bool, d)),
            1 => format!("({} && {})", self.make(Kind::Bool, d), self.make(Kind::Bool, d)),
            2 => format!("({} || {})", self.make(Kind::Bool, d), self.make(Kind::Bool, d)),
            3 => {
                let kind = [
                    Kind::Int,
                    Kind::Double,
                    Kind::Text,
                    Kind::Bool,
                    Kind::Ints,
                    Kind::OptionalInt,
                ][self.random.below(6)];
                let operator = self.random.pick(&["==", "!="]);
                format!("({} {operator} {})", self.make(kind, d), self.make(kind, d))
            }
            4 => {
                let kind = [Kind::Int, Kind::Double, Kind::Text][self.random.below(3)];
                let operator = self.random.pick(&["<", "<=", ">", ">="]);
                format!("({} {operator} {})", self.make(kind, d), self.make(kind, d))
            }
            5 => {
                let function = self.random.pick(&["contains", "startsWith", "endsWith"]);
                format!(
                    "{}.{function}({})",
                    self.make(Kind::Text, d),
                    self.make(Kind::Text, d)
                )
            }
            6 => format!("({} in {})", self.make(Kind::Int, d), self.make(Kind::Ints, d)),
            7 => format!("({} in input.m)", self.make(Kind::Text, d)),
            8 => format!("{}.hasValue()", self.make(Kind::OptionalInt, d)),
            9 => "(has(input.e) && input.e > 1)".to_owned(),
            _ => {
                let form = self.random.pick(&["all", "exists", "exists_one"]);
                let kind = [Kind::Ints, Kind::Texts, Kind::Objects][self.random.below(3)];
                self.over(form, kind, Kind::Bool, d)
            }
        }
    }

    fn int(&mut self, d: usize) -> String {
        match self.random.below(9) {
            0 => format!("(-{})", self.make(Kind::Int, d)),
            1 => {
                let operator = self.random.pick(&["+", "-", "*", "/", "%"]);
                format!(
                    "({} {operator} {})",
                    self.make(Kind::Int, d),
                    self.make(Kind::Int, d)
                )
            }
            2 => format!("size({})", self.make(Kind::Texts, d)),
            3 => format!("{}.size()", self.make(Kind::Text, d)),
            4 => format!("int({})", self.make(Kind::Double, d)),
            5 => format!("int({})", self.make(Kind::Text, d)),
            6 => format!(
                "{}.orValue({})",
                self.make(Kind::OptionalInt, d),
                self.make(Kind::Int, d)
            ),
            7 => format!("{}.v", self.make(Kind::Object, d)),
            _ => format!("{}[{}]", self.make(Kind::Ints, d), self.make(Kind::Int, d)),
        }
    }

    fn double(&mut self, d: usize) -> String {
        match self.random.below(4) {
            0 => {
                let operator = self.random.pick(&["+", "-", "*", "/"]);
                format!(
                    "({} {operator} {})",
                    self.make(Kind::Double, d),
                    self.make(Kind::Double, d)
                )
            }
            1 => format!("double({})", self.make(Kind::Int, d)),
            2 => format!(
                "{}.?w.orValue({})",
                self.make(Kind::Object, d),
                self.make(Kind::Double, d)
            ),
            _ => format!("(-{})", self.make(Kind::Double, d)),
        }
    }

    fn text(&mut self, d: usize) -> String {
        match self.random.below(9) {
            6 => format!("{}.trim()", self.make(Kind::Text, d)),
            7 => format!(
                "{}.replace({}, {})",
                self.make(Kind::Text, d),
                self.make(Kind::Text, d),
                self.make(Kind::Text, d)
            ),
            8 => format!("{}.join({})", self.make(Kind::Texts, d), self.make(Kind::Text, d)),
            0 => format!("({} + {})", self.make(Kind::Text, d), self.make(Kind::Text, d)),
            1 => format!("string({})", self.make(Kind::Int, d)),
            2 => format!("string({})", self.make(Kind::Bool, d)),
            3 => format!("{}.lowerAscii()", self.make(Kind::Text, d)),
            4 => format!("{}.k", self.make(Kind::Object, d)),
            _ => format!("{}[{}]", self.make(Kind::Texts, d), self.make(Kind::Int, d)),
        }
    }

    fn list(&mut self, kind: Kind, d: usize) -> String {
        let element = match kind {
            Kind::Ints => Kind::Int,
            Kind::Texts => Kind::Text,
            _ => Kind::Object,
        };
        if kind == Kind::Texts && self.random.below(5) == 0 {
            return format!("{}.split({})", self.make(Kind::Text, d), self.make(Kind::Text, d));
        }
        match self.random.below(4) {
            0 => format!("[{}, {}]", self.make(element, d), self.make(element, d)),
            1 => format!("({} + {})", self.make(kind, d), self.make(kind, d)),
            2 => self.over("filter", kind, Kind::Bool, d),
            _ => {
                let over = [Kind::Ints, Kind::Texts, Kind::Objects][self.random.below(3)];
                self.over("map", over, element, d)
            }
        }
    }

    /// `list.form(x, body)`
    fn over(&mut self, form: &str, list: Kind, body: Kind, d: usize) -> String {
        if self.locals.len() >= MOST_LOCALS {
            return match (form, body) {
                ("map", Kind::Int) => self.leaf(Kind::Ints),
                ("map", Kind::Text) => self.leaf(Kind::Texts),
                ("map", _) => self.leaf(Kind::Objects),
                ("filter", _) => self.leaf(list),
                _ => self.leaf(Kind::Bool),
            };
        }
        let element = match list {
            Kind::Ints => Kind::Int,
            Kind::Texts => Kind::Text,
            _ => Kind::Object,
        };
        let range = self.make(list, d);
        let name = format!("v{}", self.made);
        self.made += 1;
        self.locals.push((name.clone(), element));
        let body = self.make(body, d);
        self.locals.pop();
        format!("{range}.{form}({name}, {body})")
    }
}

/// An input that fits the schema.
fn input(random: &mut Random) -> Json {
    let number = |random: &mut Random| json!([0, 1, -1, 2, i64::MAX, i64::MIN, 17][random.below(7)]);
    let text = |random: &mut Random| json!(random.pick(&["", "a", "b", "7", "grün", "a b"]));
    let list = |random: &mut Random, of: &dyn Fn(&mut Random) -> Json| -> Json {
        (0..random.below(4)).map(|_| of(random)).collect()
    };
    let object = |random: &mut Random| {
        let mut object = json!({"k": text(random), "v": number(random)});
        if random.below(2) == 0 {
            object["w"] = json!(0.5);
        }
        object
    };
    let mut input = json!({
        "n": number(random), "d": json!([0.0, 1.5, -1e300, 3.25][random.below(4)]), "s": text(random),
        "b": random.below(2) == 0, "ns": list(random, &number), "ss": list(random, &text),
        "os": list(random, &object), "m": {"a": number(random)}, "o": {"x": number(random)}, "t": text(random),
    });
    if random.below(2) == 0 {
        input["e"] = number(random);
    }
    if random.below(2) == 0 {
        input["o"]["y"] = text(random);
    }
    if random.below(2) == 0 {
        input["t"] = Json::Null;
    }
    input
}

struct Input(Value<'static>);

impl Bindings for Input {
    fn value(&self, _: VariableId) -> Option<Value<'_>> {
        Some(self.0.clone())
    }
}

/// Whether a value is of a type.
fn is_of(value: &Value<'_>, r#type: &Type) -> bool {
    match (value, r#type) {
        (_, Type::Unknown | Type::Json) => true,
        (Value::Bool(_), Type::Bool)
        | (Value::Int(_), Type::Int)
        | (Value::Double(_), Type::Double)
        | (Value::String(_), Type::String)
        | (Value::Null, Type::Null | Type::Nullable(_)) => true,
        (Value::List(elements), Type::List(of)) => elements.iter().all(|element| is_of(element, of)),
        (Value::Optional(value), Type::Optional(of)) => value.iter().all(|value| is_of(value, of)),
        (value, Type::Nullable(of)) => is_of(value, of),
        (Value::Map(entries), Type::Object(object)) => entries.iter().all(|(key, value)| {
            let Value::String(key) = key else { return false };
            object
                .fields
                .get(&**key)
                .is_some_and(|field| is_of(value, &field.r#type))
        }),
        _ => false,
    }
}

#[test]
fn what_is_put_together_by_types_is_accepted_and_runs_without_an_error_of_types() {
    // One stack for all, not a thread for each.
    on_a_deep_stack(look_at_all).expect("it panicked");
}

fn look_at_all() {
    let r#type = schema::r#type(&input_schema()).unwrap();
    let environment = Environment::default().with("input", r#type.clone());
    let kinds = [
        Kind::Bool,
        Kind::Int,
        Kind::Double,
        Kind::Text,
        Kind::Ints,
        Kind::Texts,
        Kind::Objects,
        Kind::Object,
        Kind::OptionalInt,
    ];
    let one: Option<u64> = env::var("TRELLIS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..EXPRESSIONS, |seed| seed..seed + 1);
    let (mut evaluated, mut values) = (0, 0);
    let mut errors: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in seeds {
        let mut maker = Maker {
            random: Random(seed),
            locals: Vec::new(),
            made: 0,
        };
        let kind = kinds[maker.random.below(kinds.len())];
        let depth = 1 + maker.random.below(4);
        let source = maker.make(kind, depth);
        if one.is_some() {
            println!("{source}");
        }
        let expression = match Expression::compile(&source, &environment, &[kind.r#type()]) {
            Ok(expression) => expression,
            // What is too long or too deep is refused for that alone.
            Err(faults) if faults.iter().all(|fault| is_about_size(&fault.message)) => continue,
            Err(faults) => panic!("seed {seed}: {source}: {faults:?}"),
        };
        for _ in 0..INPUTS {
            let json = input(&mut maker.random);
            let bindings = Input(conversion::read(&json, &r#type, "input").unwrap());
            evaluated += 1;
            match expression.evaluate(&bindings) {
                Ok(value) => {
                    values += 1;
                    assert!(
                        is_of(&value, expression.r#type()),
                        "seed {seed}: {source} is {value:?}, and {} was said, with {json}",
                        expression.r#type()
                    );
                }
                Err(error) => {
                    let is_of_values = !matches!(error.kind, ErrorKind::WrongType | ErrorKind::NoSuchKey);
                    assert!(
                        is_of_values,
                        "seed {seed}: {source}: {:?}, with {json}",
                        error.kind
                    );
                    *errors.entry(error.kind.as_str()).or_default() += 1;
                }
            }
        }
    }
    println!("{evaluated} evaluations, {values} values, errors of values: {errors:?}");
    if one.is_none() {
        assert!(
            values > 20_000 && values * 2 > evaluated,
            "{values} of {evaluated}"
        );
        assert!(errors.len() >= 3, "{errors:?}");
    }
}

fn is_about_size(message: &str) -> bool {
    ["bytes; write at most", "nested more than", "costs too much"]
        .iter()
        .any(|part| message.contains(part))
}
