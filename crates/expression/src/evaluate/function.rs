//! Functions on values.

use std::sync::Arc;

use super::ErrorKind;
use crate::{node::Function, value::Value};

pub(super) fn call<'v>(function: Function, arguments: &[Value<'v>]) -> Result<Value<'v>, ErrorKind> {
    match (function, arguments) {
        (Function::Size, [value]) => size(value),
        (Function::Contains, [Value::String(text), Value::String(part)]) => {
            Ok(Value::Bool(text.contains(&**part)))
        }
        (Function::StartsWith, [Value::String(text), Value::String(part)]) => {
            Ok(Value::Bool(text.starts_with(&**part)))
        }
        (Function::EndsWith, [Value::String(text), Value::String(part)]) => {
            Ok(Value::Bool(text.ends_with(&**part)))
        }
        (Function::LowerAscii, [Value::String(text)]) => Ok(Value::String(text.to_ascii_lowercase().into())),
        (Function::UpperAscii, [Value::String(text)]) => Ok(Value::String(text.to_ascii_uppercase().into())),
        (Function::Trim, [Value::String(text)]) => Ok(Value::String(text.trim().to_owned().into())),
        (Function::Replace, [Value::String(text), Value::String(part), Value::String(by)]) => {
            replace(text, part, by).map(|text| Value::String(text.into()))
        }
        (Function::Split, [Value::String(text), Value::String(separator)]) => {
            let part = |part: &str| Value::String(part.to_owned().into());
            Ok(Value::List(if separator.is_empty() {
                text.chars()
                    .map(|character| part(character.encode_utf8(&mut [0; 4])))
                    .collect()
            } else {
                text.split(&**separator).map(part).collect()
            }))
        }
        (Function::Join, [Value::List(parts), Value::String(separator)]) => join(parts, separator),
        (Function::ToInt, [value]) => to_int(value),
        (Function::ToUint, [value]) => to_uint(value),
        (Function::ToDouble, [value]) => to_double(value),
        (Function::ToString, [value]) => to_string(value),
        (Function::OptionalNone, []) => Ok(Value::Optional(None)),
        (Function::OptionalOf, [value]) => Ok(Value::optional(Some(value.clone()))),
        (Function::HasValue, [Value::Optional(value)]) => Ok(Value::Bool(value.is_some())),
        (Function::GetValue, [Value::Optional(value)]) => value.as_deref().cloned().ok_or(ErrorKind::NoValue),
        (Function::OrValue, [Value::Optional(value), otherwise]) => {
            Ok(value.as_deref().unwrap_or(otherwise).clone())
        }
        (Function::Or, [Value::Optional(value), Value::Optional(otherwise)]) => Ok(Value::Optional(
            value.as_ref().or(otherwise.as_ref()).map(Arc::clone),
        )),
        _ => Err(ErrorKind::WrongType),
    }
}

/// Longest text that a function makes, in bytes: replacing can multiply one.
const MOST_BYTES: usize = 1024 * 1024;

fn replace(text: &str, part: &str, by: &str) -> Result<String, ErrorKind> {
    let most = text
        .len()
        .saturating_add(text.matches(part).count().saturating_mul(by.len()));
    if most > MOST_BYTES {
        return Err(ErrorKind::TooExpensive);
    }
    Ok(text.replace(part, by))
}

fn join<'v>(parts: &[Value<'_>], separator: &str) -> Result<Value<'v>, ErrorKind> {
    let mut text = String::new();
    for (place, part) in parts.iter().enumerate() {
        let Value::String(part) = part else {
            return Err(ErrorKind::WrongType);
        };
        if place > 0 {
            text.push_str(separator);
        }
        text.push_str(part);
        if text.len() > MOST_BYTES {
            return Err(ErrorKind::TooExpensive);
        }
    }
    Ok(Value::String(text.into()))
}

/// The size of a text is that of its characters, as CEL has it.
fn size<'v>(value: &Value<'_>) -> Result<Value<'v>, ErrorKind> {
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(elements) => elements.len(),
        Value::Map(entries) => entries.len(),
        _ => return Err(ErrorKind::WrongType),
    };
    i64::try_from(size)
        .map(Value::Int)
        .map_err(|_| ErrorKind::Overflow)
}

fn to_int<'v>(value: &Value<'_>) -> Result<Value<'v>, ErrorKind> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Uint(number) => i64::try_from(*number).map_err(|_| ErrorKind::Overflow),
        // The bounds are exact powers of two; a number that is none is outside.
        Value::Double(number) if (-(2_f64.powi(63))..2_f64.powi(63)).contains(number) => Ok(*number as i64),
        Value::Double(_) => Err(ErrorKind::Overflow),
        Value::String(text) => text.parse().map_err(|_| ErrorKind::NoNumber),
        _ => Err(ErrorKind::WrongType),
    }
    .map(Value::Int)
}

fn to_uint<'v>(value: &Value<'_>) -> Result<Value<'v>, ErrorKind> {
    match value {
        Value::Uint(number) => Ok(*number),
        Value::Int(number) => u64::try_from(*number).map_err(|_| ErrorKind::Overflow),
        Value::Double(number) if (0.0..2_f64.powi(64)).contains(number) => Ok(*number as u64),
        Value::Double(_) => Err(ErrorKind::Overflow),
        Value::String(text) => text.parse().map_err(|_| ErrorKind::NoNumber),
        _ => Err(ErrorKind::WrongType),
    }
    .map(Value::Uint)
}

fn to_double<'v>(value: &Value<'_>) -> Result<Value<'v>, ErrorKind> {
    match value {
        Value::Double(number) => Ok(*number),
        Value::Int(number) => Ok(*number as f64),
        Value::Uint(number) => Ok(*number as f64),
        Value::String(text) => text.parse().map_err(|_| ErrorKind::NoNumber),
        _ => Err(ErrorKind::WrongType),
    }
    .map(Value::Double)
}

fn to_string<'v>(value: &Value<'v>) -> Result<Value<'v>, ErrorKind> {
    let text = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        _ => return Err(ErrorKind::WrongType),
    };
    Ok(Value::String(text.into()))
}
