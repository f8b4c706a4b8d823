//! Expressions that were read and not checked yet: what they mention.
//!
//! Whoever knows which names an expression mentions need not declare a thousand others for it, and can judge by them: whether a
//! key depends on the run, whether a value changes from try to try.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators},
};

use crate::{
    Expression, check,
    environment::Environment,
    parse::{self, Parsed},
    position::Fault,
    types::Type,
};

/// An expression that was read.
pub struct Draft<'a> {
    source: &'a str,
    parsed: Rc<Parsed>,
}

/// Reads expressions, each text once: in a long definition most are there many times.
#[derive(Default)]
pub struct Reader {
    known: RefCell<HashMap<String, Rc<Parsed>>>,
}

/// Names with their fields as far as they are written out: `input`, `steps.reserve.output.warehouse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentioned(BTreeSet<String>);

impl<'a> Draft<'a> {
    /// Reads an expression.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(source: &'a str) -> Result<Self, Fault> {
        let parsed = Rc::new(parse::parse(source)?);
        Ok(Self { source, parsed })
    }

    /// The same, if it was not read before.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_once(source: &'a str, reader: &Reader) -> Result<Self, Fault> {
        if let Some(parsed) = reader.known.borrow().get(source) {
            let parsed = Rc::clone(parsed);
            return Ok(Self { source, parsed });
        }
        let draft = Self::read(source)?;
        reader
            .known
            .borrow_mut()
            .insert(source.to_owned(), Rc::clone(&draft.parsed));
        Ok(draft)
    }

    /// What it mentions.
    #[must_use]
    pub fn mentioned(&self) -> Mentioned {
        let mut mentioned = Mentioned::default();
        mentioned.collect(&self.parsed.tree);
        mentioned
    }

    /// Checks it, as [`Expression::compile`].
    ///
    /// # Errors
    /// Every fault, in order of position.
    pub fn check(self, environment: &Environment, expected: &[Type]) -> Result<Expression, Vec<Fault>> {
        let checked = check::check(self.source, &self.parsed, environment, expected)?;
        Ok(Expression::new(self.source, checked, environment))
    }
}

impl Mentioned {
    /// Whether a name or a part of it is mentioned: of `run`, also `run.id`; of `run.id`, also `run` as a whole.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let begins = |longer: &str, shorter: &str| {
            longer
                .strip_prefix(shorter)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0
            .iter()
            .any(|mentioned| begins(mentioned, name) || begins(name, mentioned))
    }

    /// The fields of a name that are mentioned; None: the name is mentioned as a whole, which may be any of its fields.
    #[must_use]
    pub fn fields_of(&self, name: &str) -> Option<BTreeSet<&str>> {
        let mut fields = BTreeSet::new();
        for mentioned in &self.0 {
            match mentioned.strip_prefix(name) {
                Some("") => return None,
                Some(rest) => {
                    if let Some(rest) = rest.strip_prefix('.') {
                        fields.insert(rest.split('.').next().unwrap_or_default());
                    }
                }
                None => {}
            }
        }
        Some(fields)
    }

    /// These and those.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn collect(&mut self, expression: &IdedExpr) {
        if let Some(path) = path(expression) {
            self.0.insert(path);
            return;
        }
        match &expression.expr {
            Expr::Select(select) => self.collect(&select.operand),
            Expr::Call(CallExpr { target, args, .. }) => {
                target
                    .iter()
                    .map(|target| &**target)
                    .chain(args)
                    .for_each(|part| self.collect(part));
            }
            Expr::List(list) => list.elements.iter().for_each(|part| self.collect(part)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.collect(&entry.key);
                        self.collect(&entry.value);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A name, or a field of one, asked for in any way.
fn path(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (
                operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT,
                [
                    operand,
                    IdedExpr {
                        expr: Expr::Literal(LiteralValue::String(field)),
                        ..
                    },
                ],
            ) => Some(format!("{}.{}", path(operand)?, field.inner())),
            _ => None,
        },
        _ => None,
    }
}
