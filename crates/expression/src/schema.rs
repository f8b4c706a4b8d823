//! Types from JSON Schema: what a schema says of a value, as far as an expression can use it.
//!
//! | schema | type |
//! |---|---|
//! | `{type: string}`, `boolean`, `integer`, `number` | `string`, `bool`, `int`, `double` |
//! | `{type: array, items: S}` | `list(S)` |
//! | `{type: object, properties, required}` | an object; `additionalProperties: false` or none of it: no other fields |
//! | `{type: object, additionalProperties: S}` without properties | `map(string, S)` |
//! | `{type: [string, "null"]}`, `nullable: true` | string or null |
//! | `enum`, `const` without a type | the type of the values |
//! | `$ref: "#/$defs/..."` | what it refers to |
//! | `anyOf`, `oneOf` | the one type of all alternatives, if there is one |
//! | nothing of it, a recursion | any JSON: it can be passed on, and not be looked into |
//!
//! What a schema says beyond types (`minimum`, `pattern`, `format`) is for whoever validates values. Unlike JSON Schema, an object without
//! `additionalProperties` has no fields but those that are named: a name that is mistyped in an expression is a fault, and not a field
//! that nobody has ever sent.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::types::{Field, Object, Type};

/// Deepest nesting, and longest chain of `$ref`.
const MAX_DEPTH: usize = 32;

/// Why a schema says nothing that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Fault {
    /// Where in the schema: `.properties.lines.items`; empty: the schema itself.
    pub path: String,
    /// What is wrong, and the fix.
    pub message: String,
}

/// The type of the values that a schema describes.
///
/// # Errors
/// Every fault, in the order of the schema.
pub fn r#type(schema: &Value) -> Result<Type, Vec<Fault>> {
    let mut reader = Reader {
        root: schema,
        references: Vec::new(),
        faults: Vec::new(),
    };
    let found = reader.read(schema, "", 0);
    if reader.faults.is_empty() {
        Ok(found)
    } else {
        Err(reader.faults)
    }
}

struct Reader<'a> {
    root: &'a Value,
    /// Those that are being followed.
    references: Vec<&'a str>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, path: &str, message: impl Into<String>) -> Type {
        self.faults.push(Fault {
            path: path.to_owned(),
            message: message.into(),
        });
        Type::Unknown
    }

    fn read(&mut self, schema: &'a Value, path: &str, depth: usize) -> Type {
        if depth > MAX_DEPTH {
            return self.fault(path, format!("is nested more than {MAX_DEPTH} deep; flatten it"));
        }
        let schema = match schema {
            Value::Bool(true) => return Type::Json,
            Value::Object(schema) => schema,
            _ => return self.fault(path, "is no schema; write an object, {type: string} for example"),
        };
        let found = self.read_object(schema, path, depth);
        if schema.get("nullable") == Some(&Value::Bool(true)) {
            found.nullable()
        } else {
            found
        }
    }

    fn read_object(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Type {
        if let Some(reference) = schema.get("$ref") {
            return self.follow(reference, &format!("{path}.$ref"), depth);
        }
        for word in ["anyOf", "oneOf"] {
            if let Some(alternatives) = schema.get(word) {
                return self.alternatives(alternatives, &format!("{path}.{word}"), depth);
            }
        }
        if let Some(all) = schema.get("allOf") {
            return match all.as_array().map(Vec::as_slice) {
                Some([one]) => self.read(one, &format!("{path}.allOf[0]"), depth + 1),
                _ => self.fault(
                    &format!("{path}.allOf"),
                    "is not supported; write the properties of all in one schema",
                ),
            };
        }
        match schema.get("type") {
            Some(Value::String(name)) => self.named(name, schema, path, depth),
            Some(Value::Array(names)) => self.several(names, schema, path, depth),
            Some(_) => self.fault(
                &format!("{path}.type"),
                "is no name of a type; write string, for example",
            ),
            None if schema.contains_key("properties") || schema.contains_key("additionalProperties") => {
                self.named("object", schema, path, depth)
            }
            None if schema.contains_key("items") => self.named("array", schema, path, depth),
            None => match (schema.get("enum"), schema.get("const")) {
                (Some(Value::Array(values)), _) if !values.is_empty() => self.of_values(values, path),
                (_, Some(value)) => of_value(value),
                _ => Type::Json,
            },
        }
    }

    /// `type: [string, "null"]`
    fn several(
        &mut self,
        names: &'a [Value],
        schema: &'a Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Type {
        let others: Vec<&str> = names
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| *name != "null")
            .collect();
        let is_nullable = others.len() < names.len();
        match others.as_slice() {
            [] => Type::Null,
            [name] => {
                let found = self.named(name, schema, path, depth);
                if is_nullable { found.nullable() } else { found }
            }
            names => {
                let message = format!("{} are several types; choose one", names.join(" and "));
                self.fault(&format!("{path}.type"), message)
            }
        }
    }

    fn named(&mut self, name: &str, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Type {
        match name {
            "string" => Type::String,
            "boolean" => Type::Bool,
            "integer" => Type::Int,
            "number" => Type::Double,
            "null" => Type::Null,
            "array" => match schema.get("items") {
                Some(items) => Type::list(self.read(items, &format!("{path}.items"), depth + 1)),
                None => Type::list(Type::Json),
            },
            "object" => self.object(schema, path, depth),
            _ => {
                let message = format!(
                    "{name:?} is no type; there are: string, boolean, integer, number, array, object, null"
                );
                self.fault(&format!("{path}.type"), message)
            }
        }
    }

    fn object(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Type {
        let others = match schema.get("additionalProperties") {
            None | Some(Value::Bool(false)) => None,
            Some(others) => Some(self.read(others, &format!("{path}.additionalProperties"), depth + 1)),
        };
        let properties = match schema.get("properties") {
            None => {
                return match others {
                    Some(values) => Type::map(Type::String, values),
                    // Nothing is said of what is in it.
                    None if schema.contains_key("additionalProperties") => Type::object(Object::default()),
                    None => Type::Json,
                };
            }
            Some(Value::Object(properties)) => properties,
            Some(_) => {
                return self.fault(
                    &format!("{path}.properties"),
                    "is no object; write a schema for each name of a field",
                );
            }
        };
        let required = self.required(schema, path);
        for name in &required {
            if !properties.contains_key(*name) {
                self.fault(
                    &format!("{path}.required"),
                    format!("{name:?} is not one of the properties; add it there, or remove it here"),
                );
            }
        }
        let mut fields = std::collections::BTreeMap::new();
        for (name, property) in properties {
            let r#type = self.read(property, &format!("{path}.properties.{name}"), depth + 1);
            let is_required = required.contains(&name.as_str());
            fields.insert(
                name.clone(),
                Field {
                    r#type,
                    is_required,
                    why: None,
                },
            );
        }
        Type::Object(Arc::new(Object {
            fields,
            others,
            absent: std::collections::BTreeMap::new(),
        }))
    }

    fn required(&mut self, schema: &'a Map<String, Value>, path: &str) -> Vec<&'a str> {
        match schema.get("required") {
            None => Vec::new(),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                names.iter().filter_map(Value::as_str).collect()
            }
            Some(_) => {
                self.fault(
                    &format!("{path}.required"),
                    "is no list of names; write required: [a, b] beside properties",
                );
                Vec::new()
            }
        }
    }

    fn follow(&mut self, reference: &'a Value, path: &str, depth: usize) -> Type {
        let Some(target) = reference.as_str() else {
            return self.fault(path, "is no text; write \"#/$defs/name\"");
        };
        let found = target
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer));
        let Some(found) = found else {
            return self.fault(
                path,
                format!(
                    "{target:?} is not in this schema; define it under $defs, and write \"#/$defs/name\""
                ),
            );
        };
        if self.references.contains(&target) {
            // A tree, say: below here nothing is known.
            return Type::Json;
        }
        self.references.push(target);
        let r#type = self.read(found, path, depth + 1);
        self.references.pop();
        r#type
    }

    fn alternatives(&mut self, alternatives: &'a Value, path: &str, depth: usize) -> Type {
        let Some(alternatives) = alternatives.as_array().filter(|all| !all.is_empty()) else {
            return self.fault(path, "is no list of schemas");
        };
        let mut all: Option<Type> = None;
        let mut is_nullable = false;
        for (i, alternative) in alternatives.iter().enumerate() {
            let found = self.read(alternative, &format!("{path}[{i}]"), depth + 1);
            if found == Type::Null {
                is_nullable = true;
                continue;
            }
            all = match all {
                None => Some(found),
                // Of several types nothing is known.
                Some(before) => Some(before.join(&found).unwrap_or(Type::Json)),
            };
        }
        let all = all.unwrap_or(Type::Null);
        if is_nullable { all.nullable() } else { all }
    }

    fn of_values(&mut self, values: &'a [Value], path: &str) -> Type {
        let mut all = Type::Unknown;
        let mut is_nullable = false;
        for value in values {
            if value.is_null() {
                is_nullable = true;
                continue;
            }
            let Some(joined) = all.join(&of_value(value)) else {
                let message = "has values of several types; choose one, or leave it out";
                return self.fault(&format!("{path}.enum"), message);
            };
            all = joined;
        }
        if is_nullable { all.nullable() } else { all }
    }
}

fn of_value(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Number(number) if number.is_f64() => Type::Double,
        Value::Number(_) => Type::Int,
        Value::String(_) => Type::String,
        Value::Array(_) | Value::Object(_) => Type::Json,
    }
}
