//! `has` and what asks every element: `all`, `exists`, `exists_one`, `filter`, `map`.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr},
};

use super::{Access, Checked, Checker, checked, literal_text};
use crate::{
    environment::Resolved,
    node::{Comprehension, Form, Kind},
    types::Type,
};

/// Deepest nesting of one in another: their costs multiply.
const MAX_NESTING: usize = 2;

impl Checker<'_> {
    /// `has(m.key)`.
    pub(super) fn has(&mut self, expression: &IdedExpr, call: &CallExpr) -> Checked {
        let at = self.before(expression, "has");
        let [argument] = call.args.as_slice() else {
            return self.refuse(at, "has takes one field: has(m.key)".to_owned());
        };
        let Expr::Select(select) = &argument.expr else {
            let message = "has asks for a field, has(m.key); for other keys write \"key\" in m".to_owned();
            return self.refuse(self.start(argument), message);
        };
        // A declared name is always there, and one that is not declared never.
        let declared = self
            .global_name(argument)
            .is_some_and(|name| matches!(self.environment.resolve(&name), Resolved::Variable { .. }));
        if declared {
            let message = format!("{} is always there; leave has(...) out", select.field);
            return self.refuse(self.start(argument), message);
        }
        let field_at = self.after(argument, &select.field);
        let group = self
            .global_name(&select.operand)
            .is_some_and(|name| matches!(self.environment.resolve(&name), Resolved::Group));
        if group {
            return self.name(argument);
        }
        let operand = self.expression(&select.operand);
        if matches!(operand.r#type, Type::List(_)) {
            return self.refuse(
                field_at,
                "a list has no fields; ask for an element with exists".to_owned(),
            );
        }
        let found = self.lookup(
            operand,
            literal_text(field_at, &select.field),
            field_at,
            Access::Has,
        );
        checked(Type::Bool, at, found.node.kind)
    }

    /// A form over `range`; none: the name is none of theirs.
    pub(super) fn comprehension(
        &mut self,
        expression: &IdedExpr,
        range: &IdedExpr,
        call: &CallExpr,
    ) -> Option<Checked> {
        let name = call.func_name.as_str();
        let form = match name {
            "all" => Form::All,
            "exists" => Form::Exists,
            "exists_one" | "existsOne" => Form::ExistsOne,
            "filter" => Form::Filter,
            "map" => Form::Map,
            _ => return None,
        };
        let at = self.before(expression, name);
        let (local, bodies) = match call.args.as_slice() {
            [local, bodies @ ..] if bodies.len() == 1 || (bodies.len() == 2 && form == Form::Map) => {
                (local, bodies)
            }
            _ => {
                let message = format!("{name} takes a name and what to do with it: list.{name}(x, ...)");
                return Some(self.refuse(at, message));
            }
        };
        let Expr::Ident(local_name) = &local.expr else {
            let message = format!("{name} begins with the name for an element: list.{name}(x, ...)");
            return Some(self.refuse(self.start(local), message));
        };
        let taken = self.locals.iter().any(|(known, _)| known == local_name)
            || !matches!(self.environment.resolve(local_name), Resolved::Nothing);
        if taken {
            let message = format!("{local_name} is a name already; choose another for the element");
            return Some(self.refuse(self.start(local), message));
        }
        if self.locals.len() >= MAX_NESTING {
            let message = format!("{name} is nested more than {MAX_NESTING} deep, which costs too much");
            return Some(self.refuse(at, message));
        }
        Some(self.each(at, form, range, local_name, bodies))
    }

    fn each(&mut self, at: usize, form: Form, range: &IdedExpr, local: &str, bodies: &[IdedExpr]) -> Checked {
        let range_at = self.start(range);
        let range = self.expression(range);
        let element = match &range.r#type {
            Type::List(element) => (**element).clone(),
            Type::Map(key, _) => (**key).clone(),
            Type::Unknown => Type::Unknown,
            other => {
                let message = format!("{other} has no elements; a list or a map (its keys) is needed");
                return self.refuse(range_at, message);
            }
        };
        self.locals.push((local.to_owned(), element.clone()));
        let (body, transform, r#type) = match (form, bodies) {
            (Form::Map, [condition, transform]) => {
                let asked = condition;
                let condition = self.expect(asked, &Type::Bool, "the condition of map");
                let transform = self.knowing(asked, true, |this| this.expression(transform));
                (condition, Some(transform.node), Type::list(transform.r#type))
            }
            (Form::Map, [transform, ..]) => {
                let transform = self.expression(transform);
                (transform.node, None, Type::list(transform.r#type))
            }
            (_, [condition, ..]) => {
                let condition = self.expect(condition, &Type::Bool, "what is asked of each element");
                let r#type = if form == Form::Filter {
                    Type::list(element)
                } else {
                    Type::Bool
                };
                (condition, None, r#type)
            }
            (_, []) => {
                self.locals.pop();
                return self.refuse(at, "a condition is missing".to_owned());
            }
        };
        self.locals.pop();
        let comprehension = Comprehension {
            form,
            range: range.node,
            body,
            transform,
        };
        checked(r#type, at, Kind::Comprehension(Box::new(comprehension)))
    }
}
