//! The short way for what policies mostly ask: a few tests of fields of the request, without a tree of values.
//!
//! ```text
//! request.method == "POST" && request.path.startsWith("/orders")     All [Test, Test]
//! request.headers["x-user-id"]                                       Text
//! ```
//!
//! What it says is what the interpreter says, errors included; the tests hold both to that.

use std::borrow::Cow;

use crate::{
    environment::{Environment, VariableId},
    evaluate::{Bindings, Error, ErrorKind},
    node::{Function, Kind, Node, Operator},
    value::Value,
};

/// A condition.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    Constant(bool),
    Has(VariableId, String),
    Test(Text, Test),
    Not(Box<Self>),
    /// True unless one is false.
    All(Vec<Self>),
    /// False unless one is true.
    Any(Vec<Self>),
}

/// A field of the request.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    at: usize,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Variable(VariableId),
    Entry(VariableId, String),
    /// `m[?"key"].orValue("default")`.
    EntryOr(VariableId, String, String),
}

/// What is asked of it.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Equals(String),
    Differs(String),
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    OneOf(Vec<String>),
}

impl Condition {
    /// The short way to a condition; none: there is none.
    pub(crate) fn of(node: &Node, names: &Environment) -> Option<Self> {
        match &node.kind {
            Kind::Literal(Value::Bool(constant)) => Some(Self::Constant(*constant)),
            Kind::HasEntry(id, key) => Some(Self::Has(*id, key.clone())),
            Kind::Not(operand) => Some(Self::Not(Box::new(Self::of(operand, names)?))),
            Kind::And(left, right) => {
                let mut all = Vec::new();
                for side in [left, right] {
                    match Self::of(side, names)? {
                        Self::All(inner) => all.extend(inner),
                        other => all.push(other),
                    }
                }
                Some(Self::All(all))
            }
            Kind::Or(left, right) => {
                let mut any = Vec::new();
                for side in [left, right] {
                    match Self::of(side, names)? {
                        Self::Any(inner) => any.extend(inner),
                        other => any.push(other),
                    }
                }
                Some(Self::Any(any))
            }
            Kind::Binary(operator @ (Operator::Equal | Operator::NotEqual), left, right) => {
                let (text, literal) = match (Text::of(left, names), literal(right)) {
                    (Some(text), Some(literal)) => (text, literal),
                    _ => (Text::of(right, names)?, literal(left)?),
                };
                let equal = *operator == Operator::Equal;
                let test = if equal {
                    Test::Equals(literal)
                } else {
                    Test::Differs(literal)
                };
                Some(Self::Test(text, test))
            }
            Kind::In(needle, haystack) => {
                let Kind::List(elements) = &haystack.kind else {
                    return None;
                };
                let elements = elements.iter().map(literal).collect::<Option<_>>()?;
                Some(Self::Test(Text::of(needle, names)?, Test::OneOf(elements)))
            }
            Kind::Call(function, arguments) => {
                let [text, part] = arguments.as_slice() else {
                    return None;
                };
                let (text, part) = (Text::of(text, names)?, literal(part)?);
                let test = match function {
                    Function::StartsWith => Test::StartsWith(part),
                    Function::EndsWith => Test::EndsWith(part),
                    Function::Contains => Test::Contains(part),
                    _ => return None,
                };
                Some(Self::Test(text, test))
            }
            _ => None,
        }
    }

    /// Whether it holds.
    pub(crate) fn holds(&self, bindings: &dyn Bindings) -> Result<bool, Error> {
        match self {
            Self::Constant(constant) => Ok(*constant),
            Self::Has(id, key) => Ok(bindings.entry(*id, key).is_some()),
            Self::Test(text, test) => Ok(test.holds(&text.read(bindings)?)),
            Self::Not(condition) => condition.holds(bindings).map(|holds| !holds),
            Self::All(conditions) => decide(conditions, bindings, false),
            Self::Any(conditions) => decide(conditions, bindings, true),
        }
    }
}

/// One that is `decisive` decides, whatever the others are.
fn decide(conditions: &[Condition], bindings: &dyn Bindings, decisive: bool) -> Result<bool, Error> {
    let mut outcome = Ok(!decisive);
    for condition in conditions {
        let holds = condition.holds(bindings);
        if holds == Ok(decisive) {
            return holds;
        }
        outcome = outcome.and(holds);
    }
    outcome
}

impl Text {
    /// The short way to a text; none: there is none.
    pub(crate) fn of(node: &Node, names: &Environment) -> Option<Self> {
        let source = match &node.kind {
            Kind::Variable(id) if names.is_text(*id) => Source::Variable(*id),
            Kind::Entry(id, key) if names.has_texts(*id) => Source::Entry(*id, key.clone()),
            Kind::Call(Function::OrValue, arguments) => match arguments.as_slice() {
                [optional, default] => {
                    let Kind::OptionalEntry(id, key) = &optional.kind else {
                        return None;
                    };
                    if !names.has_texts(*id) {
                        return None;
                    }
                    Source::EntryOr(*id, key.clone(), literal(default)?)
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(Self { at: node.at, source })
    }

    /// The text in this request.
    pub(crate) fn read<'v>(&'v self, bindings: &'v dyn Bindings) -> Result<Cow<'v, str>, Error> {
        let (found, missing) = match &self.source {
            Source::Variable(id) => (bindings.value(*id), ErrorKind::NoValue),
            Source::Entry(id, key) => (bindings.entry(*id, key), ErrorKind::NoSuchKey),
            Source::EntryOr(id, key, default) => {
                let found = bindings.entry(*id, key).unwrap_or(Value::text(default));
                (Some(found), ErrorKind::NoSuchKey)
            }
        };
        let fail = |kind| Error { at: self.at, kind };
        match found {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(fail(ErrorKind::WrongType)),
            None => Err(fail(missing)),
        }
    }
}

impl Test {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Equals(other) => text == other,
            Self::Differs(other) => text != other,
            Self::StartsWith(part) => text.starts_with(part.as_str()),
            Self::EndsWith(part) => text.ends_with(part.as_str()),
            Self::Contains(part) => text.contains(part.as_str()),
            Self::OneOf(others) => others.iter().any(|other| other == text),
        }
    }
}

/// The text of a literal.
fn literal(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Literal(Value::String(text)) => Some(text.clone().into_owned()),
        _ => None,
    }
}
