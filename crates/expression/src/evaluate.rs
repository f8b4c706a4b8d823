//! The interpreter: what a checked expression is worth for one request.
//!
//! It never panics and always ends: numbers overflow into an error, a missing key is an error, and every step is paid for
//! from a budget ([`MAX_STEPS`]). As in CEL, `&&`, `||`, `all` and `exists` do not care about an error on one side if the
//! other decides: `"a" in m && m["a"] == "x"` needs no order, and `false && error` is false.

mod function;
mod operator;

use std::borrow::Cow;

use crate::{
    environment::VariableId,
    node::{Comprehension, Form, Kind, Node},
    value::Value,
};

/// Most steps of one evaluation. A node is a step, and so are 32 bytes of text and an element of a list that are looked at.
pub const MAX_STEPS: usize = 10_000;

/// What the declared names stand for in one request.
pub trait Bindings {
    /// The value of a name; none: there is none, which is an error where it is used.
    fn value(&self, id: VariableId) -> Option<Value<'_>>;

    /// A value of a map, without making the map.
    fn entry(&self, id: VariableId, key: &str) -> Option<Value<'_>> {
        self.value(id)?.entry(&Value::text(key)).cloned()
    }
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to evaluate the expression at byte {at}: {kind}")]
pub struct Error {
    /// Where in the source, in bytes.
    pub at: usize,
    /// What happened.
    pub kind: ErrorKind,
}

/// What happened; a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ErrorKind {
    /// A map has no such key: a header that the request does not have.
    #[error("there is no such key")]
    NoSuchKey,
    /// A list is shorter.
    #[error("the list has no such element")]
    OutOfRange,
    /// `value()` of an optional that has none.
    #[error("there is no value")]
    NoValue,
    /// A number does not fit into its type.
    #[error("the number does not fit into 64 bits")]
    Overflow,
    /// Division by zero, or its remainder.
    #[error("division by zero")]
    DivisionByZero,
    /// A text is no number.
    #[error("the text is no number")]
    NoNumber,
    /// A map literal has a key twice.
    #[error("a key of the map occurs twice")]
    DuplicateKey,
    /// It takes more than [`MAX_STEPS`].
    #[error("it takes too many steps")]
    TooExpensive,
    /// A binding is not of its declared type.
    #[error("a value is not of its declared type")]
    WrongType,
}

/// Evaluates an expression.
///
/// # Errors
/// There is no value.
pub(crate) fn evaluate<'v>(node: &'v Node, bindings: &'v dyn Bindings) -> Result<Value<'v>, Error> {
    let mut evaluator = Evaluator {
        bindings,
        locals: Vec::new(),
        steps: MAX_STEPS,
    };
    evaluator.node(node)
}

struct Evaluator<'v> {
    bindings: &'v dyn Bindings,
    locals: Vec<Value<'v>>,
    steps: usize,
}

impl<'v> Evaluator<'v> {
    fn node(&mut self, node: &'v Node) -> Result<Value<'v>, Error> {
        self.pay(node, 1)?;
        let fail = |kind| fail(node, kind);
        match &node.kind {
            Kind::Literal(value) => Ok(borrowed(value)),
            Kind::Variable(id) => self.bindings.value(*id).ok_or_else(|| fail(ErrorKind::NoValue)),
            Kind::Entry(id, key) => {
                let found = self.bindings.entry(*id, key);
                found.ok_or_else(|| fail(ErrorKind::NoSuchKey))
            }
            Kind::HasEntry(id, key) => Ok(Value::Bool(self.bindings.entry(*id, key).is_some())),
            Kind::OptionalEntry(id, key) => Ok(Value::optional(self.bindings.entry(*id, key))),
            Kind::Local(depth) => {
                let local = self.locals.get(*depth).cloned();
                local.ok_or_else(|| fail(ErrorKind::WrongType))
            }
            Kind::Not(operand) => Ok(Value::Bool(!self.truth(operand)?)),
            Kind::And(left, right) => self.either(left, right, false),
            Kind::Or(left, right) => self.either(left, right, true),
            Kind::Conditional(condition, then, otherwise) => {
                let condition = self.truth(condition)?;
                self.node(if condition { then } else { otherwise })
            }
            Kind::Negate(operand) => {
                let operand = self.node(operand)?;
                operator::negate(&operand).map_err(fail)
            }
            Kind::Binary(operator, left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                self.pay(node, left.weight() + right.weight())?;
                operator::binary(*operator, &left, &right).map_err(fail)
            }
            Kind::In(needle, haystack) => {
                let (needle, haystack) = (self.node(needle)?, self.node(haystack)?);
                self.pay(node, needle.weight() + haystack.weight())?;
                match haystack {
                    Value::List(elements) => Ok(Value::Bool(elements.contains(&needle))),
                    _ => Err(fail(ErrorKind::WrongType)),
                }
            }
            Kind::Index(container, key) => {
                let found = self.find(node, container, key)?;
                found.map_err(fail)
            }
            Kind::OptionalIndex(container, key) => {
                let found = self.find(node, container, key)?;
                Ok(Value::optional(found.ok()))
            }
            Kind::HasKey(container, key) => {
                let found = self.find(node, container, key)?;
                Ok(Value::Bool(found.is_ok()))
            }
            Kind::List(elements) => {
                let elements = elements.iter().map(|element| self.node(element));
                Ok(Value::List(elements.collect::<Result<_, _>>()?))
            }
            Kind::Map(entries) => self.map(node, entries),
            Kind::Call(function, arguments) => {
                let arguments = arguments.iter().map(|argument| self.node(argument));
                let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
                self.pay(node, arguments.iter().map(Value::weight).sum())?;
                function::call(*function, &arguments).map_err(fail)
            }
            Kind::Comprehension(comprehension) => self.comprehension(node, comprehension),
        }
    }

    fn truth(&mut self, node: &'v Node) -> Result<bool, Error> {
        match self.node(node)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err(fail(node, ErrorKind::WrongType)),
        }
    }

    /// Two conditions of which one that is `decisive` decides, whatever the other is.
    fn either(&mut self, left: &'v Node, right: &'v Node, decisive: bool) -> Result<Value<'v>, Error> {
        let first = self.truth(left);
        if first == Ok(decisive) || is_too_expensive(&first) {
            return first.map(Value::Bool);
        }
        let second = self.truth(right);
        if second == Ok(decisive) || is_too_expensive(&second) {
            return second.map(Value::Bool);
        }
        first.and(second).map(Value::Bool)
    }

    /// What a container has at a key. The inner error is that it has nothing there.
    fn find(
        &mut self,
        node: &'v Node,
        container: &'v Node,
        key: &'v Node,
    ) -> Result<Result<Value<'v>, ErrorKind>, Error> {
        let container = self.node(container)?;
        let key = self.node(key)?;
        let container = match container {
            Value::Optional(None) => return Ok(Err(ErrorKind::NoValue)),
            Value::Optional(Some(inner)) => (*inner).clone(),
            container => container,
        };
        match (&container, &key) {
            (Value::Map(entries), key) => {
                self.pay(node, entries.len() + key.weight())?;
                Ok(container.entry(key).cloned().ok_or(ErrorKind::NoSuchKey))
            }
            (Value::List(elements), Value::Int(index)) => {
                let found = usize::try_from(*index).ok().and_then(|index| elements.get(index));
                Ok(found.cloned().ok_or(ErrorKind::OutOfRange))
            }
            _ => Err(fail(node, ErrorKind::WrongType)),
        }
    }

    fn map(&mut self, node: &'v Node, entries: &'v [(Node, Node)]) -> Result<Value<'v>, Error> {
        let mut values: Vec<(Value<'v>, Value<'v>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = self.node(key)?;
            self.pay(node, values.len())?;
            if values.iter().any(|(known, _)| *known == key) {
                return Err(fail(node, ErrorKind::DuplicateKey));
            }
            let value = self.node(value)?;
            values.push((key, value));
        }
        Ok(Value::Map(values.into()))
    }

    fn comprehension(
        &mut self,
        node: &'v Node,
        comprehension: &'v Comprehension,
    ) -> Result<Value<'v>, Error> {
        let elements: Vec<Value<'v>> = match self.node(&comprehension.range)? {
            Value::List(elements) => elements.to_vec(),
            Value::Map(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            _ => return Err(fail(node, ErrorKind::WrongType)),
        };
        self.pay(node, elements.len())?;
        match comprehension.form {
            Form::All => self.any(elements, &comprehension.body, false),
            Form::Exists => self.any(elements, &comprehension.body, true),
            Form::ExistsOne => {
                let mut count = 0;
                for element in elements {
                    count += u32::from(self.with(element, |this| this.truth(&comprehension.body))?);
                }
                Ok(Value::Bool(count == 1))
            }
            Form::Filter => {
                let mut kept = Vec::new();
                for element in elements {
                    if self.with(element.clone(), |this| this.truth(&comprehension.body))? {
                        kept.push(element);
                    }
                }
                Ok(Value::List(kept.into()))
            }
            Form::Map => {
                let mut made = Vec::new();
                for element in elements {
                    let value = self.with(element, |this| match &comprehension.transform {
                        None => this.node(&comprehension.body).map(Some),
                        Some(transform) if this.truth(&comprehension.body)? => this.node(transform).map(Some),
                        Some(_) => Ok(None),
                    })?;
                    made.extend(value);
                }
                Ok(Value::List(made.into()))
            }
        }
    }

    /// Whether a condition is `decisive` for one of the elements; if it is for none, an error on the way counts.
    fn any(&mut self, elements: Vec<Value<'v>>, body: &'v Node, decisive: bool) -> Result<Value<'v>, Error> {
        let mut outcome = Ok(!decisive);
        for element in elements {
            let truth = self.with(element, |this| this.truth(body));
            if truth == Ok(decisive) || is_too_expensive(&truth) {
                return truth.map(Value::Bool);
            }
            outcome = outcome.and(truth);
        }
        outcome.map(Value::Bool)
    }

    fn with<T>(&mut self, element: Value<'v>, step: impl FnOnce(&mut Self) -> T) -> T {
        self.locals.push(element);
        let value = step(self);
        self.locals.pop();
        value
    }

    fn pay(&mut self, node: &Node, steps: usize) -> Result<(), Error> {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(fail(node, ErrorKind::TooExpensive))
            }
        }
    }
}

/// A literal without a copy of its text.
fn borrowed<'v>(value: &'v Value<'static>) -> Value<'v> {
    match value {
        Value::String(text) => Value::String(Cow::Borrowed(text)),
        Value::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
        other => other.clone(),
    }
}

const fn fail(node: &Node, kind: ErrorKind) -> Error {
    Error { at: node.at, kind }
}

fn is_too_expensive(result: &Result<bool, Error>) -> bool {
    matches!(result, Err(error) if error.kind == ErrorKind::TooExpensive)
}

impl ErrorKind {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchKey => "no_such_key",
            Self::OutOfRange => "out_of_range",
            Self::NoValue => "no_value",
            Self::Overflow => "overflow",
            Self::DivisionByZero => "division_by_zero",
            Self::NoNumber => "no_number",
            Self::DuplicateKey => "duplicate_key",
            Self::TooExpensive => "too_expensive",
            Self::WrongType => "wrong_type",
        }
    }
}
