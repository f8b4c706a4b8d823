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
