//! The fix, where two types do not fit.

use crate::types::Type;

/// How to come from one type to another.
pub(super) fn hint(actual: &Type, expected: &Type) -> String {
    match (actual, expected) {
        (Type::Unknown, _) => String::new(),
        (Type::Nullable(value), expected) if value.is(expected) => {
            "; it may be null: ask first, x != null ? x : ...".to_owned()
        }
        (Type::Json, _) => "; nothing is known of it: give it a type in the schema".to_owned(),
        (Type::Optional(value), expected) if value.is(expected) => {
            "; say what holds if there is none, with .orValue(...)".to_owned()
        }
        (Type::Optional(_), _) => "; take the value out with .orValue(...)".to_owned(),
        (number, Type::String) if number.is_number() || *number == Type::Bool => {
            format!("; convert the {number} with string(...), or put it into quotes")
        }
        (from, to) if (from.is_number() || *from == Type::String) && to.is_number() => {
            format!("; convert the {from} with {to}(...)")
        }
        (Type::Null, _) => {
            "; null equals nothing here, ask with has(...) or `in` whether there is a value".to_owned()
        }
        (_, Type::Bool) => "; compare it with something".to_owned(),
        _ => String::new(),
    }
}

/// How two sides come to one type: by converting the one that loses nothing.
pub(super) fn hint_for_both(left: &Type, right: &Type) -> String {
    let left_first = matches!(left, Type::Optional(_) | Type::Null)
        || matches!(right, Type::String | Type::Double) && !matches!(left, Type::String | Type::Double);
    if left_first {
        hint(left, right)
    } else {
        hint(right, left)
    }
}
