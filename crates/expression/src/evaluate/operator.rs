//! Operators on values. Numbers that do not fit are errors, never wrapped.

use std::cmp::Ordering;

use super::ErrorKind;
use crate::{node::Operator, value::Value};

pub(super) fn negate<'v>(operand: &Value<'_>) -> Result<Value<'v>, ErrorKind> {
    match operand {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(ErrorKind::Overflow),
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => Err(ErrorKind::WrongType),
    }
}

pub(super) fn binary<'v>(
    operator: Operator,
    left: &Value<'v>,
    right: &Value<'v>,
) -> Result<Value<'v>, ErrorKind> {
    let compare = |holds: fn(Ordering) -> bool| Ok(Value::Bool(left.order(right).is_some_and(holds)));
    match operator {
        Operator::Equal => Ok(Value::Bool(left == right)),
        Operator::NotEqual => Ok(Value::Bool(left != right)),
        Operator::Less => compare(Ordering::is_lt),
        Operator::LessEqual => compare(Ordering::is_le),
        Operator::Greater => compare(Ordering::is_gt),
        Operator::GreaterEqual => compare(Ordering::is_ge),
        _ => arithmetic(operator, left, right),
    }
}

fn arithmetic<'v>(operator: Operator, left: &Value<'v>, right: &Value<'v>) -> Result<Value<'v>, ErrorKind> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            let (left, right) = (*left, *right);
            divisible(operator, right == 0)?;
            let result = match operator {
                Operator::Add => left.checked_add(right),
                Operator::Subtract => left.checked_sub(right),
                Operator::Multiply => left.checked_mul(right),
                Operator::Divide => left.checked_div(right),
                Operator::Remainder => left.checked_rem(right),
                _ => return Err(ErrorKind::WrongType),
            };
            result.map(Value::Int).ok_or(ErrorKind::Overflow)
        }
        (Value::Uint(left), Value::Uint(right)) => {
            let (left, right) = (*left, *right);
            divisible(operator, right == 0)?;
            let result = match operator {
                Operator::Add => left.checked_add(right),
                Operator::Subtract => left.checked_sub(right),
                Operator::Multiply => left.checked_mul(right),
                Operator::Divide => left.checked_div(right),
                Operator::Remainder => left.checked_rem(right),
                _ => return Err(ErrorKind::WrongType),
            };
            result.map(Value::Uint).ok_or(ErrorKind::Overflow)
        }
        // As IEEE 754 has it: division by zero is infinite.
        (Value::Double(left), Value::Double(right)) => match operator {
            Operator::Add => Ok(Value::Double(left + right)),
            Operator::Subtract => Ok(Value::Double(left - right)),
            Operator::Multiply => Ok(Value::Double(left * right)),
            Operator::Divide => Ok(Value::Double(left / right)),
            _ => Err(ErrorKind::WrongType),
        },
        (Value::String(left), Value::String(right)) if operator == Operator::Add => {
            Ok(Value::String(format!("{left}{right}").into()))
        }
        (Value::Bytes(left), Value::Bytes(right)) if operator == Operator::Add => {
            Ok(Value::Bytes([&**left, &**right].concat().into()))
        }
        (Value::List(left), Value::List(right)) if operator == Operator::Add => {
            Ok(Value::List(left.iter().chain(right.iter()).cloned().collect()))
        }
        _ => Err(ErrorKind::WrongType),
    }
}

const fn divisible(operator: Operator, by_zero: bool) -> Result<(), ErrorKind> {
    match operator {
        Operator::Divide | Operator::Remainder if by_zero => Err(ErrorKind::DivisionByZero),
        _ => Ok(()),
    }
}
