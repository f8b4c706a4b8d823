//! JSON as values of CEL, and back.

use std::sync::Arc;

use serde_json::{Map, Number, Value as Json};

use crate::{
    types::{Object, Type},
    value::Value,
};

/// A value that is not of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is {found}, and {wanted} is needed")]
pub struct Mismatch {
    /// Where: `input.lines[0].sku`.
    pub path: String,
    /// What is there.
    pub found: &'static str,
    /// What was declared.
    pub wanted: String,
}

/// Why a value cannot be written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// Infinity, or not a number.
    #[error("a number is infinite or not a number")]
    NotFinite,
    /// Bytes have no form in JSON.
    #[error("bytes cannot be written as JSON; convert them to text")]
    Bytes,
    /// A map has keys that are no text.
    #[error("a map has keys that are no text")]
    Key,
}

/// JSON as a value of a type. Fields that an object's type does not name are kept: what is passed on is passed on whole.
///
/// # Errors
/// The first part that is not of its type. `path` names the whole.
pub fn read(json: &Json, r#type: &Type, path: &str) -> Result<Value<'static>, Mismatch> {
    let mismatch = || Mismatch {
        path: path.to_owned(),
        found: kind(json),
        wanted: r#type.to_string(),
    };
    let value = match (r#type, json) {
        (Type::Json | Type::Unknown, json) => any(json),
        (Type::Nullable(_) | Type::Null, Json::Null) => Value::Null,
        (Type::Nullable(inner), json) => read(json, inner, path)?,
        (Type::Bool, Json::Bool(truth)) => Value::Bool(*truth),
        (Type::Int, Json::Number(number)) => Value::Int(whole(number).ok_or_else(mismatch)?),
        (Type::Uint, Json::Number(number)) => Value::Uint(number.as_u64().ok_or_else(mismatch)?),
        (Type::Double, Json::Number(number)) => Value::Double(number.as_f64().ok_or_else(mismatch)?),
        (Type::String, Json::String(text)) => Value::String(text.clone().into()),
        (Type::List(element), Json::Array(elements)) => {
            let elements = elements.iter().enumerate();
            let read = elements.map(|(i, json)| read(json, element, &format!("{path}[{i}]")));
            Value::List(read.collect::<Result<_, _>>()?)
        }
        (Type::Map(_, values), Json::Object(entries)) => {
            let read = entries.iter().map(|(key, json)| {
                let value = read(json, values, &format!("{path}.{key}"))?;
                Ok((Value::String(key.clone().into()), value))
            });
            Value::Map(read.collect::<Result<_, _>>()?)
        }
        (Type::Object(object), Json::Object(entries)) => read_object(object, entries, path)?,
        _ => return Err(mismatch()),
    };
    Ok(value)
}

fn read_object(object: &Object, entries: &Map<String, Json>, path: &str) -> Result<Value<'static>, Mismatch> {
    let missing = object
        .fields
        .iter()
        .find(|(name, field)| field.is_required && !entries.contains_key(*name));
    if let Some((name, field)) = missing {
        return Err(Mismatch {
            path: format!("{path}.{name}"),
            found: "missing",
            wanted: field.r#type.to_string(),
        });
    }
    let others = object.others.as_ref().unwrap_or(&Type::Json);
    let entries = entries.iter().map(|(name, json)| {
        let r#type = object.fields.get(name).map_or(others, |field| &field.r#type);
        let value = read(json, r#type, &format!("{path}.{name}"))?;
        Ok((Value::String(name.clone().into()), value))
    });
    Ok(Value::Map(entries.collect::<Result<Arc<[_]>, _>>()?))
}

/// JSON by itself: a number without a fraction is an int.
fn any(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Double(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text.clone().into()),
        Json::Array(elements) => Value::List(elements.iter().map(any).collect()),
        Json::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(key, json)| (Value::String(key.clone().into()), any(json)));
            Value::Map(entries.collect())
        }
    }
}

/// JSON Schema takes `1.0` for an integer.
fn whole(number: &Number) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let from_float = || {
        let float = number.as_f64()?;
        // Beyond 2^53 a float may stand for another number.
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    };
    number.as_i64().or_else(from_float)
}

const fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// A value as JSON; none: an optional without a value. Entries of a map and elements of a list without a value are left out.
///
/// # Errors
/// JSON has no form for it.
pub fn write(value: &Value<'_>) -> Result<Option<Json>, Unwritable> {
    Ok(Some(match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Int(number) => Json::from(*number),
        Value::Uint(number) => Json::from(*number),
        Value::Double(number) => Json::Number(Number::from_f64(*number).ok_or(Unwritable::NotFinite)?),
        Value::String(text) => Json::String(text.clone().into_owned()),
        Value::Bytes(_) => return Err(Unwritable::Bytes),
        Value::List(elements) => {
            let elements = elements.iter().filter_map(|element| write(element).transpose());
            Json::Array(elements.collect::<Result<_, _>>()?)
        }
        Value::Map(entries) => {
            let mut object = Map::new();
            for (key, value) in entries.iter() {
                let Value::String(key) = key else {
                    return Err(Unwritable::Key);
                };
                if let Some(value) = write(value)? {
                    object.insert(key.clone().into_owned(), value);
                }
            }
            Json::Object(object)
        }
        Value::Optional(None) => return Ok(None),
        Value::Optional(Some(value)) => return write(value),
    }))
}
