//! CEL expressions in policies: read, checked and compiled before they run, and bounded when they do.
//!
//! ```text
//! text -> parse (the cel crate) -> check (types, names; ours) -> the short way, or a tree for the interpreter
//! ```
//!
//! **Before it runs.** A fault says where (byte, line, column), what, and the fix. A wrong type is refused like a wrong
//! name: a policy that would fail at every request never reaches a proxy.
//!
//! **When it runs.** It never panics, has no effect, and takes a bounded number of steps. What it may ask is what was
//! declared ([`environment::Environment`]; [`request::environment`] for requests).
//!
//! **A header that is not there.** `request.headers["x-a"]` is then an error, as in CEL, and not an empty text.
//! [`Expression::evaluate`] and [`Expression::holds`] return it, and whoever asks decides: a condition that fails does not
//! hold, a key that fails is no key. Whoever writes the policy can ask first (`"x-a" in request.headers`,
//! `has(request.headers.host)`) or give a default (`request.headers[?"x-a"].orValue("none")`).
//!
//! ```
//! use trellis_expression::{Expression, request, types::Type};
//!
//! let names = request::environment();
//! let faults = Expression::compile("request.method == 1", &names, &[Type::Bool]).unwrap_err();
//! assert_eq!(
//!     faults[0].to_string(),
//!     "line 1, column 16: string == int: both sides must have one type; convert the int with string(...), or put it into quotes"
//! );
//! ```
//!
//! **Values that come as JSON** have the types of their schemas ([`schema`], [`json`]). A field that may not be there is asked for like
//! a header, and so is a value that may be `null`; what a condition has asked holds behind it:
//! `has(input.note) ? input.note : "none"`. Texts with expressions in them are [`Template`]s.
//!
//! **Not CEL.** There is no `dyn`, so a list or map has elements of one type, unless the keys of a map are written out; no messages, durations, timestamps and
//! regular expressions; a number is compared with one of its own type only, as in cel-go's checker.

mod check;
mod direct;
pub mod draft;
pub mod environment;
pub mod evaluate;
pub mod json;
mod node;
mod parse;
pub mod position;
pub mod request;
pub mod schema;
pub mod template;
pub mod types;
pub mod value;

use std::borrow::Cow;

use self::{
    direct::{Condition, Text},
    environment::Environment,
    evaluate::{Bindings, Error, ErrorKind},
    node::Node,
    types::Type,
    value::Value,
};
pub use self::{
    draft::Draft,
    parse::{MAX_BYTES, MAX_NESTING, on_a_deep_stack},
    position::{Fault, Position},
    template::Template,
};

/// An expression that was checked.
#[derive(Debug, Clone)]
pub struct Expression {
    source: String,
    r#type: Type,
    tree: Node,
    short: Option<Short>,
}

/// The short way, where there is one.
#[derive(Debug, Clone)]
enum Short {
    Condition(Condition),
    Text(Text),
}

impl Expression {
    /// Reads and checks an expression whose value is to be of one of these types.
    ///
    /// # Errors
    /// Every fault, in order of position; one only, if it cannot be parsed.
    pub fn compile(source: &str, environment: &Environment, expected: &[Type]) -> Result<Self, Vec<Fault>> {
        let draft = Draft::read(source).map_err(|fault| vec![fault])?;
        draft.check(environment, expected)
    }

    fn new(source: &str, checked: check::Checked, names: &Environment) -> Self {
        let tree = checked.node;
        let short = match checked.r#type {
            Type::Bool => Condition::of(&tree, names).map(Short::Condition),
            Type::String => Text::of(&tree, names).map(Short::Text),
            _ => None,
        };
        Self {
            source: source.to_owned(),
            r#type: checked.r#type,
            tree,
            short,
        }
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its values.
    #[must_use]
    pub const fn r#type(&self) -> &Type {
        &self.r#type
    }

    /// Whether it takes the short way.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.short.is_some()
    }

    /// Its value.
    ///
    /// # Errors
    /// There is none: see the crate's page about headers that are not there.
    pub fn evaluate<'v>(&'v self, bindings: &'v dyn Bindings) -> Result<Value<'v>, Error> {
        match &self.short {
            Some(Short::Condition(condition)) => condition.holds(bindings).map(Value::Bool),
            Some(Short::Text(text)) => text.read(bindings).map(Value::String),
            None => self.interpret(bindings),
        }
    }

    /// Its value by the interpreter, also if there is a short way. For tests that hold one to the other.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn interpret<'v>(&'v self, bindings: &'v dyn Bindings) -> Result<Value<'v>, Error> {
        evaluate::evaluate(&self.tree, bindings)
    }

    /// Whether a condition holds.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn holds(&self, bindings: &dyn Bindings) -> Result<bool, Error> {
        match self.evaluate(bindings)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(self.wrong_type()),
        }
    }

    /// Its value as a text, for keys: numbers and truth values as they are written.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn key<'v>(&'v self, bindings: &'v dyn Bindings) -> Result<Cow<'v, str>, Error> {
        match self.evaluate(bindings)? {
            Value::String(text) => Ok(text),
            Value::Bool(truth) => Ok(truth.to_string().into()),
            Value::Int(number) => Ok(number.to_string().into()),
            Value::Uint(number) => Ok(number.to_string().into()),
            _ => Err(self.wrong_type()),
        }
    }

    const fn wrong_type(&self) -> Error {
        Error {
            at: self.tree.at,
            kind: ErrorKind::WrongType,
        }
    }
}
