//! The type checker: from the parser's tree to one in which every name is resolved and every type fits.
//!
//! The `cel` crate finds out at run time whether types fit; for a policy that is too late, since whoever wrote it is gone.
//! So this is the checker of the CEL specification without `dyn`: overloads are chosen here, comparing an `int` with a
//! `double` is refused as in cel-go, and each fault is at the operand, field or function that it is about. All faults are
//! found; what depends on a faulty part has the type [`Type::Unknown`] and gives no second fault.

mod call;
mod comprehension;
mod fact;
mod hint;
mod operator;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, ListExpr, LiteralValue, MapExpr, SelectExpr},
};

use self::{
    fact::{Fact, path},
    hint::hint,
};
use crate::{
    environment::{Environment, Resolved},
    node::{Kind, Node},
    parse::Parsed,
    position::{Fault, Position},
    types::{Object, Type},
    value::Value,
};

/// Deepest tree, which bounds the recursion of checker and interpreter.
const MAX_DEPTH: usize = 64;

/// A checked part: its type and its tree.
pub(crate) struct Checked {
    pub(crate) r#type: Type,
    pub(crate) node: Node,
}

struct Checker<'a> {
    source: &'a str,
    parsed: &'a Parsed,
    environment: &'a Environment,
    /// Variables of the comprehensions around, outermost first.
    locals: Vec<(String, Type)>,
    /// What conditions around make sure of.
    facts: Vec<Fact>,
    depth: usize,
    faults: Vec<Fault>,
}

/// Checks a parsed expression whose value is to be of one of these types.
///
/// # Errors
/// Every fault, in order of position.
pub(crate) fn check(
    source: &str,
    parsed: &Parsed,
    environment: &Environment,
    expected: &[Type],
) -> Result<Checked, Vec<Fault>> {
    let mut checker = Checker {
        source,
        parsed,
        environment,
        locals: Vec::new(),
        facts: Vec::new(),
        depth: 0,
        faults: Vec::new(),
    };
    let checked = checker.expression(&parsed.tree);
    if !expected.iter().any(|r#type| checked.r#type.is(r#type)) {
        let names: Vec<String> = expected.iter().map(ToString::to_string).collect();
        let hint = expected.first().map(|first| hint(&checked.r#type, first));
        let message = format!(
            "the value is {}, and {} is needed here{}",
            checked.r#type,
            names.join(" or "),
            hint.unwrap_or_default()
        );
        let at = checker.start(&parsed.tree);
        checker.fault(at, message);
    }
    if checker.faults.is_empty() {
        return Ok(checked);
    }
    let mut faults = checker.faults;
    faults.sort_by_key(|fault| fault.position);
    Err(faults)
}

impl Checker<'_> {
    fn expression(&mut self, expression: &IdedExpr) -> Checked {
        let at = self.at(expression);
        if self.depth >= MAX_DEPTH {
            return self.refuse(
                at,
                format!("the expression is nested more than {MAX_DEPTH} deep; split it"),
            );
        }
        self.depth += 1;
        let checked = match &expression.expr {
            Expr::Literal(value) => literal(at, value),
            Expr::Ident(_) | Expr::Select(_) => {
                let found = self.name(expression);
                self.narrowed(expression, found)
            }
            Expr::Call(call) => self.call(expression, call),
            Expr::List(list) => self.list(at, list),
            Expr::Map(map) => self.map(at, map),
            Expr::Struct(message) => self.refuse(
                self.start(expression),
                format!(
                    "{} is no type here; there are no messages, write a map",
                    message.type_name
                ),
            ),
            Expr::Unspecified | Expr::Comprehension(_) => self.refuse(at, "this cannot be read".to_owned()),
        };
        self.depth -= 1;
        checked
    }

    /// A name with or without dots, or a field of something.
    fn name(&mut self, expression: &IdedExpr) -> Checked {
        let at = self.start(expression);
        if let Expr::Ident(name) = &expression.expr
            && let Some(depth) = self.locals.iter().rposition(|(local, _)| local == name)
        {
            let r#type = self.locals[depth].1.clone();
            return checked(r#type, at, Kind::Local(depth));
        }
        if let Some(name) = self.global_name(expression) {
            match self.environment.resolve(&name) {
                Resolved::Variable { id, r#type } => {
                    return checked(r#type.clone(), at, Kind::Variable(id));
                }
                Resolved::Group => {
                    let known = self.environment.known(Some(&name));
                    let message =
                        format!("{name} is a group of names, not a value; add one of its names: {known}");
                    return self.refuse(at, message);
                }
                Resolved::Reserved(message) => return self.refuse(at, message.to_owned()),
                Resolved::Nothing => {}
            }
        }
        match &expression.expr {
            Expr::Select(select) => self.field(expression, select),
            Expr::Ident(name) => {
                let known = self.environment.known(None);
                self.refuse(at, format!("{name} is not declared; there are: {known}"))
            }
            _ => self.refuse(at, "this cannot be read".to_owned()),
        }
    }

    fn field(&mut self, expression: &IdedExpr, select: &SelectExpr) -> Checked {
        let field_at = self.after(expression, &select.field);
        if let Some(group) = self.global_name(&select.operand) {
            match self.environment.resolve(&group) {
                Resolved::Group => {
                    let known = self.environment.known(Some(&group));
                    let message = format!("{group} has no field {}; it has: {known}", select.field);
                    return self.refuse(field_at, message);
                }
                // Said once, at the name.
                Resolved::Reserved(message) => {
                    return self.refuse(self.start(expression), message.to_owned());
                }
                Resolved::Variable { .. } | Resolved::Nothing => {}
            }
        }
        let is_known = path(expression).is_some_and(|path| self.knows(&Fact::Present(path)));
        let access = if is_known { Access::Known } else { Access::Value };
        let operand = self.expression(&select.operand);
        if matches!(operand.r#type, Type::List(_)) {
            let field = &select.field;
            let message =
                format!("a list has no fields; take one element, x[0].{field}, or each, x.map(e, e.{field})");
            return self.refuse(field_at, message);
        }
        let key = literal_text(field_at, &select.field);
        self.lookup(operand, key, field_at, access)
    }

    /// A name that begins with a declared one, or none; `a.b.c`.
    fn global_name(&self, expression: &IdedExpr) -> Option<String> {
        match &expression.expr {
            Expr::Ident(name) => {
                let local = self.locals.iter().any(|(local, _)| local == name);
                (!local).then(|| name.clone())
            }
            Expr::Select(select) if !select.test => {
                let operand = self.global_name(&select.operand)?;
                Some(format!("{operand}.{}", select.field))
            }
            _ => None,
        }
    }

    fn list(&mut self, at: usize, list: &ListExpr) -> Checked {
        if !list.optional_indices.is_empty() {
            return self.refuse(
                at,
                "optional elements are not supported; write the list without ?".to_owned(),
            );
        }
        let mut element = Type::Unknown;
        let mut nodes = Vec::new();
        for expression in &list.elements {
            let checked = self.expression(expression);
            element = self.same(&element, &checked.r#type, expression, "elements of a list");
            nodes.push(checked.node);
        }
        checked(Type::list(element), at, Kind::List(nodes))
    }

    fn map(&mut self, at: usize, map: &MapExpr) -> Checked {
        let mut entries: Vec<(&IdedExpr, Checked, &IdedExpr, Checked)> = Vec::new();
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                return self.refuse(at, "this cannot be read".to_owned());
            };
            if entry.optional {
                return self.refuse(
                    at,
                    "optional entries are not supported; write the map without ?".to_owned(),
                );
            }
            let checked_key = self.expression(&entry.key);
            if !checked_key.r#type.is_key() {
                let message = format!(
                    "a key of a map is {}; write string, int, uint or bool",
                    checked_key.r#type
                );
                self.fault(self.start(&entry.key), message);
            }
            let checked_value = self.expression(&entry.value);
            entries.push((&entry.key, checked_key, &entry.value, checked_value));
        }
        let r#type = object(&entries).unwrap_or_else(|| {
            let (mut key, mut value) = (Type::Unknown, Type::Unknown);
            for (key_at, checked_key, value_at, checked_value) in &entries {
                key = self.same(&key, &checked_key.r#type, key_at, "keys of a map");
                value = self.same(&value, &checked_value.r#type, value_at, "values of a map");
            }
            Type::map(key, value)
        });
        let nodes = entries
            .into_iter()
            .map(|(_, key, _, value)| (key.node, value.node));
        checked(r#type, at, Kind::Map(nodes.collect()))
    }

    /// The type that several parts share.
    fn same(&mut self, so_far: &Type, next: &Type, expression: &IdedExpr, what: &str) -> Type {
        so_far.join(next).unwrap_or_else(|| {
            let message = format!(
                "{what} have one type: this is {next}, those before are {so_far}{}",
                hint(next, so_far)
            );
            self.fault(self.start(expression), message);
            so_far.clone()
        })
    }

    /// Checks an expression that is to have a type. `what` names it: `the condition`.
    fn expect(&mut self, expression: &IdedExpr, expected: &Type, what: &str) -> Node {
        self.expected(expression, expected, what).node
    }

    /// The same with its type.
    fn expected(&mut self, expression: &IdedExpr, expected: &Type, what: &str) -> Checked {
        let checked = self.expression(expression);
        if !checked.r#type.is(expected) {
            let actual = &checked.r#type;
            let message = format!(
                "{what} is {actual}, and {expected} is needed{}",
                hint(actual, expected)
            );
            self.fault(self.start(expression), message);
        }
        checked
    }

    fn call(&mut self, expression: &IdedExpr, call: &CallExpr) -> Checked {
        match self.operator(expression, call) {
            Some(checked) => checked,
            None => self.function(expression, call),
        }
    }

    fn fault(&mut self, at: usize, message: String) {
        self.faults.push(Fault {
            position: Position::of(self.source, at),
            message,
        });
    }

    fn refuse(&mut self, at: usize, message: String) -> Checked {
        self.fault(at, message);
        checked(Type::Unknown, at, Kind::Literal(Value::Null))
    }

    /// Where the parser puts a node: an operator, a bracket, a dot, the beginning of a literal.
    fn at(&self, expression: &IdedExpr) -> usize {
        let offset = self.parsed.offsets.offset_for(expression.id);
        offset.map_or(0, |(start, _)| start as usize)
    }

    /// Where the text of a node begins.
    fn start(&self, mut expression: &IdedExpr) -> usize {
        loop {
            let first = match &expression.expr {
                Expr::Select(select) => Some(&*select.operand),
                Expr::Call(call) => match (&call.target, call.args.first()) {
                    (Some(target), _) => Some(&**target),
                    (None, Some(first)) if call.func_name.starts_with(['_', '@']) => Some(first),
                    _ if !call.func_name.ends_with('_') => return self.before(expression, &call.func_name),
                    _ => None,
                },
                _ => None,
            };
            match first {
                Some(first) => expression = first,
                None => return self.at(expression),
            }
        }
    }

    /// Where the name before a node's bracket begins.
    fn before(&self, expression: &IdedExpr, name: &str) -> usize {
        let at = self.at(expression);
        let found = self.source.get(..at).and_then(|before| before.rfind(name));
        found.unwrap_or(at)
    }

    /// Where the name after a node's dot begins.
    fn after(&self, expression: &IdedExpr, name: &str) -> usize {
        let at = self.at(expression);
        let found = self.source.get(at..).and_then(|after| after.find(name));
        found.map_or(at, |found| at + found)
    }
}

/// What is asked of a map or list by a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// The value; it is an error if there is none.
    Value,
    /// The value, which is there: a condition around has asked.
    Known,
    /// The value, if there is one.
    Optional,
    /// Whether there is one.
    Has,
}

/// The type of a literal whose keys are texts and whose values have several types.
fn object(entries: &[(&IdedExpr, Checked, &IdedExpr, Checked)]) -> Option<Type> {
    let mut all = Type::Unknown;
    let mut differ = false;
    let mut fields = Vec::new();
    for (_, key, _, value) in entries {
        let Kind::Literal(Value::String(name)) = &key.node.kind else {
            return None;
        };
        match all.join(&value.r#type) {
            Some(joined) => all = joined,
            None => differ = true,
        }
        fields.push((name.clone().into_owned(), value.r#type.clone()));
    }
    differ.then(|| Type::object(Object::of(fields)))
}

const fn checked(r#type: Type, at: usize, kind: Kind) -> Checked {
    Checked {
        r#type,
        node: Node { at, kind },
    }
}

fn literal_text(at: usize, text: &str) -> Checked {
    let value = Value::String(text.to_owned().into());
    checked(Type::String, at, Kind::Literal(value))
}

fn literal(at: usize, value: &LiteralValue) -> Checked {
    let (r#type, value) = match value {
        LiteralValue::Boolean(value) => (Type::Bool, Value::Bool(*value.inner())),
        LiteralValue::Int(value) => (Type::Int, Value::Int(*value.inner())),
        LiteralValue::UInt(value) => (Type::Uint, Value::Uint(*value.inner())),
        LiteralValue::Double(value) => (Type::Double, Value::Double(*value.inner())),
        LiteralValue::String(value) => (Type::String, Value::String(value.inner().to_owned().into())),
        LiteralValue::Bytes(value) => (Type::Bytes, Value::Bytes(value.inner().to_vec().into())),
        LiteralValue::Null => (Type::Null, Value::Null),
    };
    checked(r#type, at, Kind::Literal(value))
}
