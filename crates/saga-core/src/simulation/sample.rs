//! Values made up by a JSON Schema.

use serde_json::{Map, Value, json};

use crate::random::Random;

/// Which values are made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Everything is there, lists have two elements, conditions hold.
    Full,
    /// What need not be there is not, lists are as short as they may be.
    Least,
    /// Any value of the type, also zero, negative, long and null.
    Random(u64),
}

/// Deepest value.
const MOST_NESTED: usize = 16;

/// A value that fits a schema, as far as types and bounds go.
#[must_use]
pub fn value(schema: &Value, variant: Variant) -> Value {
    let seed = match variant {
        Variant::Random(seed) => seed,
        Variant::Full | Variant::Least => 0,
    };
    let mut sampler = Sampler {
        root: schema,
        variant,
        random: Random::new(seed),
    };
    sampler.of(schema, 0)
}

struct Sampler<'a> {
    root: &'a Value,
    variant: Variant,
    random: Random,
}

impl Sampler<'_> {
    fn chance(&mut self, full: bool) -> bool {
        match self.variant {
            Variant::Full => full,
            Variant::Least => !full,
            Variant::Random(_) => self.random.permille(500),
        }
    }

    fn of(&mut self, schema: &Value, depth: usize) -> Value {
        if depth > MOST_NESTED {
            return Value::Null;
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let target = reference
                .strip_prefix('#')
                .and_then(|pointer| self.root.pointer(pointer))
                .cloned()
                .unwrap_or_default();
            return self.of(&target, depth + 1);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema["enum"].as_array().filter(|values| !values.is_empty()) {
            let place = match self.variant {
                Variant::Full => 0,
                Variant::Least => values.len() - 1,
                Variant::Random(_) => self.random.below(values.len() as u64) as usize,
            };
            return values[place].clone();
        }
        for word in ["anyOf", "oneOf", "allOf"] {
            if let Some(first) = schema[word].get(0) {
                return self.of(&first.clone(), depth + 1);
            }
        }
        let names: Vec<&str> = match &schema["type"] {
            Value::String(name) => vec![name],
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            _ if schema.get("properties").is_some() => vec!["object"],
            _ => vec![],
        };
        let may_be_null = names.contains(&"null") || schema["nullable"] == true;
        if may_be_null && !self.chance(true) {
            return Value::Null;
        }
        match names.iter().find(|name| **name != "null") {
            Some(&"string") => self.text(schema).into(),
            Some(&"boolean") => self.chance(true).into(),
            Some(&"integer") => self.whole(schema).into(),
            Some(&"number") => json!(self.whole(schema) as f64 + 0.5),
            Some(&"array") => self.list(schema, depth),
            Some(&"object") => self.object(schema, depth),
            _ => json!({"any": 1}),
        }
    }

    fn text(&mut self, schema: &Value) -> String {
        match schema["format"].as_str() {
            Some("date-time") => return "2026-01-31T12:00:00Z".to_owned(),
            Some("date") => return "2026-01-31".to_owned(),
            Some("uuid") => return "6f1a2b3c-4d5e-4f60-8a7b-9c0d1e2f3a4b".to_owned(),
            Some("email") => return "ada@example.com".to_owned(),
            Some("uri") => return "https://example.com/a?b=c".to_owned(),
            _ => {}
        }
        let least = schema["minLength"].as_u64().unwrap_or(0) as usize;
        let most = schema["maxLength"]
            .as_u64()
            .map_or(usize::MAX, |most| most as usize);
        let text = match self.variant {
            Variant::Full => "text".to_owned(),
            Variant::Least => String::new(),
            Variant::Random(_) => match self.random.below(5) {
                0 => String::new(),
                1 => "a/b?c=d&e#f %".to_owned(),
                2 => "größer – 価格".to_owned(),
                3 => "-17".to_owned(),
                _ => "text".repeat(1 + self.random.below(20) as usize),
            },
        };
        let missing = least.saturating_sub(text.chars().count());
        let text: String = text.chars().chain(std::iter::repeat_n('x', missing)).collect();
        text.chars().take(most).collect()
    }

    fn whole(&mut self, schema: &Value) -> i64 {
        let bound = |word: &str| schema[word].as_f64().map(|bound| bound as i64);
        let least = bound("minimum").or(bound("exclusiveMinimum").map(|bound| bound.saturating_add(1)));
        let most = bound("maximum").or(bound("exclusiveMaximum").map(|bound| bound.saturating_sub(1)));
        let number = match self.variant {
            Variant::Full => 7,
            Variant::Least => least.unwrap_or(0),
            // What is out of all proportion would fail in most sums, and say nothing.
            Variant::Random(_) => match self.random.below(5) {
                0 => 0,
                1 => -1,
                2 => i64::from(u32::MAX),
                3 => least.unwrap_or(-1_000_000),
                _ => self.random.below(1000) as i64,
            },
        };
        let (least, most) = (least.unwrap_or(i64::MIN), most.unwrap_or(i64::MAX));
        number.max(least).min(most.max(least))
    }

    fn list(&mut self, schema: &Value, depth: usize) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(0);
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        let count = match self.variant {
            Variant::Full => 2,
            Variant::Least => 0,
            Variant::Random(_) => self.random.below(4),
        };
        let count = count.max(least).min(most.max(least)).min(1000);
        (0..count).map(|_| self.of(&schema["items"], depth + 1)).collect()
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required = |name: &str| {
            let names = schema["required"].as_array();
            names.is_some_and(|names| names.iter().any(|required| required == name))
        };
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if required(name) || self.chance(true) {
                object.insert(name.clone(), self.of(property, depth + 1));
            }
        }
        let others = &schema["additionalProperties"];
        if others.is_object() && self.chance(true) {
            object.insert("key".to_owned(), self.of(others, depth + 1));
        }
        Value::Object(object)
    }
}
