//! What is known where: that a field is there, or is not `null`, because a condition around asked.
//!
//! ```text
//! has(input.note) ? input.note : ""        input.note != null && input.note.size() > 3        !has(a.b) || a.b == 1
//! ```
//!
//! Evaluation goes from left to right, so what the left of `&&` has made sure of holds at its right.

use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue, operators},
};

use super::{Checked, Checker};
use crate::types::Type;

/// Something that a condition makes sure of, of a name or a field: `input.note`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// It is there.
    Present(String),
    /// It is not `null`.
    NotNull(String),
}

impl Checker<'_> {
    pub(super) fn knows(&self, fact: &Fact) -> bool {
        self.facts.contains(fact)
    }

    /// Does something with what holds if a condition comes out so.
    pub(super) fn knowing<T>(
        &mut self,
        condition: &IdedExpr,
        outcome: bool,
        then: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let before = self.facts.len();
        collect(condition, outcome, &mut self.facts);
        let made = then(self);
        self.facts.truncate(before);
        made
    }

    /// The type without `null`, where that was asked.
    pub(super) fn narrowed(&self, expression: &IdedExpr, found: Checked) -> Checked {
        let Type::Nullable(inner) = &found.r#type else {
            return found;
        };
        let known = path(expression).is_some_and(|path| self.knows(&Fact::NotNull(path)));
        if !known {
            return found;
        }
        let r#type = (**inner).clone();
        Checked { r#type, ..found }
    }
}

/// A name, or a field of one: `a.b.c`, `a["b"].c`.
pub(super) fn path(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(below(&path(&select.operand)?, &select.field)),
        Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [
                operand,
                IdedExpr {
                    expr: Expr::Literal(LiteralValue::String(field)),
                    ..
                },
            ] => Some(below(&path(operand)?, field.inner())),
            _ => None,
        },
        _ => None,
    }
}

/// A path and a field below it. Names of fields may have dots, but not this sign.
fn below(path: &str, field: &str) -> String {
    format!("{path}\u{1f}{field}")
}

fn collect(condition: &IdedExpr, outcome: bool, facts: &mut Vec<Fact>) {
    let Expr::Call(call) = &condition.expr else { return };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::LOGICAL_AND, [left, right]) if outcome => {
            collect(left, outcome, facts);
            collect(right, outcome, facts);
        }
        (operators::LOGICAL_OR, [left, right]) if !outcome => {
            collect(left, outcome, facts);
            collect(right, outcome, facts);
        }
        (operators::LOGICAL_NOT, [operand]) => collect(operand, !outcome, facts),
        (operators::NOT_EQUALS, [left, right]) if outcome => facts.extend(not_null(left, right)),
        (operators::EQUALS, [left, right]) if !outcome => facts.extend(not_null(left, right)),
        (operators::IN, [key, container]) if outcome => {
            if let (Expr::Literal(LiteralValue::String(key)), Some(path)) = (&key.expr, path(container)) {
                facts.push(Fact::Present(below(&path, key.inner())));
            }
        }
        ("has", [field]) if outcome && call.target.is_none() => {
            facts.extend(path(field).map(Fact::Present));
        }
        _ => {}
    }
}

pub(super) const fn is_null(expression: &IdedExpr) -> bool {
    matches!(expression.expr, Expr::Literal(LiteralValue::Null))
}

/// Which side is compared with `null`.
fn not_null(left: &IdedExpr, right: &IdedExpr) -> Option<Fact> {
    let other = match (is_null(left), is_null(right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return None,
    };
    path(other).map(Fact::NotNull)
}
