//! A definition with its expressions compiled: what a call says, by the data of a run.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value as Json};
use trellis_expression::{
    Expression, Template,
    environment::VariableId,
    evaluate::{self, Bindings},
    json,
    types::Type,
    value::Value,
};

use crate::{definition::Definition, order::Order};

/// Names that expressions may use, in the order of their ids.
pub(crate) mod names {
    pub const INPUT: &str = "input";
    pub const RUN: &str = "run";
    pub const STEPS: &str = "steps";
    pub const ITEM: &str = "item";
    pub const INDEX: &str = "index";
    pub const ATTEMPT: &str = "attempt";
    /// All of them.
    pub const ALL: [&str; 6] = [INPUT, RUN, STEPS, ITEM, INDEX, ATTEMPT];
}

/// A definition that was checked, with its expressions compiled.
#[derive(Debug, Clone)]
pub struct Program {
    /// The definition.
    pub definition: Definition,
    /// The order of its steps.
    pub order: Order,
    /// Its pivot.
    pub pivot: Option<usize>,
    /// What a run is started with; None: nothing.
    pub input: Option<Type>,
    /// The steps, in the order of the definition.
    pub steps: Vec<StepProgram>,
}

/// A step with its expressions compiled.
#[derive(Debug, Clone)]
pub struct StepProgram {
    /// Whether it is done at all.
    pub when: Option<Expression>,
    /// The list for whose elements it is done.
    pub items: Option<Expression>,
    /// Type of the list's elements.
    pub item: Option<Type>,
    /// What is done.
    pub action: CallProgram,
    /// What takes it back.
    pub compensation: Option<CallProgram>,
    /// Type of the answer to the action.
    pub output: Type,
}

/// A call with its expressions compiled.
#[derive(Debug, Clone)]
pub struct CallProgram {
    pub(crate) path: Template,
    pub(crate) headers: Vec<(HeaderName, Template)>,
    pub(crate) body: Option<Tree>,
}

/// JSON with expressions in its leaves.
#[derive(Debug, Clone)]
pub(crate) enum Tree {
    Literal(Json),
    Leaf(Template),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// What expressions are evaluated with.
#[derive(Debug, Clone, Default)]
pub struct Data {
    values: [Option<Value<'static>>; 6],
}

/// What is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Path and query, escaped.
    pub path: String,
    /// Headers of the definition.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Body.
    pub body: Option<Json>,
}

/// Why there is no request or no decision: the data is such that an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An expression has none.
    #[error("failed to evaluate {field}: {reason}")]
    Expression {
        /// The field of the definition.
        field: String,
        /// Why: `no_such_key`, `division_by_zero`.
        reason: &'static str,
    },
    /// A value cannot be sent.
    #[error("failed to write {field}: {message}")]
    Value {
        /// The field of the definition.
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Data {
    /// The same with a value of a name: `input`, `run`, `steps`, `item`, `index`, `attempt`. The value has to be of the type
    /// that the name was declared with.
    ///
    /// # Errors
    /// It is not.
    pub fn with(mut self, name: &str, value: &Json, r#type: &Type) -> Result<Self, Error> {
        let value = json::read(value, r#type, name).map_err(|fault| Error::Value {
            field: name.to_owned(),
            message: fault.to_string(),
        })?;
        self.put(name, value);
        Ok(self)
    }

    /// The same with a number.
    #[must_use]
    pub fn with_number(mut self, name: &str, number: i64) -> Self {
        self.put(name, Value::Int(number));
        self
    }

    /// The same with what is known of the run; `started_at` as RFC 3339 has it.
    #[must_use]
    pub fn with_run(mut self, id: &str, saga: &str, revision: &str, started_at: &str) -> Self {
        let entry = |name: &str, value: &str| {
            let text = |text: &str| Value::String(text.to_owned().into());
            (text(name), text(value))
        };
        let entries = [
            entry("id", id),
            entry("saga", saga),
            entry("revision", revision),
            entry("startedAt", started_at),
        ];
        self.put(names::RUN, Value::Map(entries.into()));
        self
    }

    /// The same with a value.
    pub fn put(&mut self, name: &str, value: Value<'static>) {
        if let Some(place) = names::ALL.iter().position(|known| *known == name) {
            self.values[place] = Some(value);
        }
    }
}

impl Bindings for Data {
    fn value(&self, id: VariableId) -> Option<Value<'_>> {
        self.values.get(usize::from(id.0))?.clone()
    }
}

impl StepProgram {
    /// Whether the step is done at all.
    ///
    /// # Errors
    /// The condition has no value.
    pub fn is_done(&self, data: &Data) -> Result<bool, Error> {
        match &self.when {
            None => Ok(true),
            Some(when) => when.holds(data).map_err(|error| expression("when", error)),
        }
    }

    /// The elements that it is done for; None: it is done once.
    ///
    /// # Errors
    /// The list has no value.
    pub fn elements(&self, data: &Data) -> Result<Option<Vec<Value<'static>>>, Error> {
        let Some(items) = &self.items else {
            return Ok(None);
        };
        match items
            .evaluate(data)
            .map_err(|error| expression("forEach.items", error))?
        {
            Value::List(elements) => Ok(Some(elements.iter().cloned().map(Value::into_owned).collect())),
            _ => Ok(Some(Vec::new())),
        }
    }
}

impl CallProgram {
    /// What is sent.
    ///
    /// # Errors
    /// An expression has no value, or one that cannot be sent.
    pub fn request(&self, data: &Data) -> Result<Request, Error> {
        let path = self
            .path
            .render(data, |text| escape(&text))
            .map_err(|error| expression("path", error))?;
        self.check_elements(&path)?;
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, template) in &self.headers {
            let field = || format!("headers[{name}]");
            let text = template
                .render(data, |text| text)
                .map_err(|error| expression(field(), error))?;
            let value = HeaderValue::from_str(&text).map_err(|_| Error::Value {
                field: field(),
                message: "a value makes text of it that cannot be in a header: a line break, for example"
                    .to_owned(),
            })?;
            headers.push((name.clone(), value));
        }
        let body = match &self.body {
            None => None,
            Some(body) => body.fill("body", data)?,
        };
        Ok(Request { path, headers, body })
    }
}

impl CallProgram {
    /// A value must not lead elsewhere: `..` is taken for the folder above, escaped or not, and nothing for the whole collection.
    fn check_elements(&self, path: &str) -> Result<(), Error> {
        let way = |path: &str| path.split('?').next().unwrap_or_default().to_owned();
        let (written, sent) = (way(&self.path.literal("0")), way(path));
        let elements = sent.split('/').skip(1).zip(written.split('/').skip(1));
        for (element, written) in elements {
            // Some servers look for folders only after they have decoded slashes.
            let decoded = percent_decode_str(element).decode_utf8_lossy();
            let is_up = decoded.split(['/', '\\']).any(|part| matches!(part, "." | ".."));
            if is_up || element.is_empty() && !written.is_empty() {
                return Err(Error::Value {
                    field: "path".to_owned(),
                    message: "a value makes an element of it that leads elsewhere, as .. or nothing does; ask for more in its schema, \
                              minLength: 1 for example"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl Tree {
    /// None: an optional value that is not there; it is left out of what is around it.
    fn fill(&self, at: &str, data: &Data) -> Result<Option<Json>, Error> {
        Ok(Some(match self {
            Self::Literal(value) => value.clone(),
            Self::Leaf(template) => {
                let value = template.evaluate(data).map_err(|error| expression(at, error))?;
                return json::write(&value).map_err(|fault| Error::Value {
                    field: at.to_owned(),
                    message: fault.to_string(),
                });
            }
            Self::List(parts) => {
                let mut list = Vec::with_capacity(parts.len());
                for (i, part) in parts.iter().enumerate() {
                    list.extend(part.fill(&format!("{at}[{i}]"), data)?);
                }
                Json::Array(list)
            }
            Self::Object(parts) => {
                let mut object = Map::new();
                for (key, part) in parts {
                    if let Some(value) = part.fill(&format!("{at}.{key}"), data)? {
                        object.insert(key.clone(), value);
                    }
                }
                Json::Object(object)
            }
        }))
    }
}

fn expression(field: impl Into<String>, error: evaluate::Error) -> Error {
    Error::Expression {
        field: field.into(),
        reason: error.kind.as_str(),
    }
}

/// A value as a part of a path or query: everything but unreserved characters is escaped (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}
