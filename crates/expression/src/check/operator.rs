//! Operators, indexes and keys.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, operators},
};

use super::{
    Access, Checked, Checker, checked,
    fact::{Fact, is_null, path},
    hint::{hint, hint_for_both},
};
use crate::{
    environment::VariableId,
    node::{Kind, Node, Operator},
    types::{Object, Type},
    value::Value,
};

impl Checker<'_> {
    /// An operator; none: it is a function.
    pub(super) fn operator(&mut self, expression: &IdedExpr, call: &CallExpr) -> Option<Checked> {
        let at = self.at(expression);
        let name = call.func_name.as_str();
        if call.target.is_some() {
            return None;
        }
        let found = match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [left, right]) => {
                let symbol = if name == operators::LOGICAL_AND {
                    "&&"
                } else {
                    "||"
                };
                let and = name == operators::LOGICAL_AND;
                let first = self.expect(left, &Type::Bool, &format!("the left of {symbol}"));
                let second = self.knowing(left, and, |this| {
                    this.expect(right, &Type::Bool, &format!("the right of {symbol}"))
                });
                let (left, right) = (Box::new(first), Box::new(second));
                let kind = if and {
                    Kind::And(left, right)
                } else {
                    Kind::Or(left, right)
                };
                checked(Type::Bool, at, kind)
            }
            (operators::LOGICAL_NOT, [operand]) => {
                let operand = self.expect(operand, &Type::Bool, "what ! negates");
                checked(Type::Bool, at, Kind::Not(Box::new(operand)))
            }
            (operators::NEGATE, [operand]) => self.negate(at, operand),
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                let asked = condition;
                let condition = self.expect(asked, &Type::Bool, "the condition of ? :");
                let first = self.knowing(asked, true, |this| this.expression(then));
                let second = self.knowing(asked, false, |this| this.expression(otherwise));
                let r#type = self.same(&first.r#type, &second.r#type, otherwise, "both results of ? :");
                let (first, second) = (Box::new(first.node), Box::new(second.node));
                checked(r#type, at, Kind::Conditional(Box::new(condition), first, second))
            }
            (operators::IN, [needle, haystack]) => self.contained(at, needle, haystack),
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [operand, key]) => {
                let is_known = || path(expression).is_some_and(|path| self.knows(&Fact::Present(path)));
                let access = match name {
                    operators::INDEX if is_known() => Access::Known,
                    operators::INDEX => Access::Value,
                    _ => Access::Optional,
                };
                let key_at = self.start(key);
                let operand = self.expression(operand);
                let key = self.expression(key);
                self.lookup(operand, key, key_at, access)
            }
            (_, [left, right]) => {
                let (operator, symbol) = binary(name)?;
                self.binary(at, operator, symbol, left, right)
            }
            _ => return None,
        };
        Some(found)
    }

    fn negate(&mut self, at: usize, operand: &IdedExpr) -> Checked {
        let start = self.start(operand);
        let operand = self.expression(operand);
        if !matches!(operand.r#type, Type::Int | Type::Double | Type::Unknown) {
            let message = format!("what - negates is {}; it negates int and double", operand.r#type);
            return self.refuse(start, message);
        }
        checked(operand.r#type, at, Kind::Negate(Box::new(operand.node)))
    }

    fn binary(
        &mut self,
        at: usize,
        operator: Operator,
        symbol: &str,
        left: &IdedExpr,
        right: &IdedExpr,
    ) -> Checked {
        let (left, right) = if is_null(left) || is_null(right) {
            // Who asks once more whether it is null may.
            let before = self.facts.clone();
            self.facts.retain(|fact| matches!(fact, Fact::Present(_)));
            let both = (self.expression(left), self.expression(right));
            self.facts = before;
            both
        } else {
            (self.expression(left), self.expression(right))
        };
        let Some(shared) = left.r#type.join(&right.r#type) else {
            let message = format!(
                "{} {symbol} {}: both sides must have one type{}",
                left.r#type,
                right.r#type,
                hint_for_both(&left.r#type, &right.r#type)
            );
            return self.refuse(at, message);
        };
        let fits = match operator {
            Operator::Equal | Operator::NotEqual => true,
            Operator::Less | Operator::LessEqual | Operator::Greater | Operator::GreaterEqual => {
                shared.is_number()
                    || matches!(shared, Type::Bool | Type::String | Type::Bytes | Type::Unknown)
            }
            Operator::Add => {
                shared.is_number()
                    || matches!(shared, Type::String | Type::Bytes | Type::List(_) | Type::Unknown)
            }
            Operator::Subtract | Operator::Multiply | Operator::Divide => {
                shared.is_number() || shared == Type::Unknown
            }
            Operator::Remainder => matches!(shared, Type::Int | Type::Uint | Type::Unknown),
        };
        if !fits {
            let hint = hint(&shared, &Type::Int);
            return self.refuse(at, format!("{symbol} is not defined for {shared}{hint}"));
        }
        let r#type = match operator {
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => shared,
            _ => Type::Bool,
        };
        let (left, right) = (Box::new(left.node), Box::new(right.node));
        checked(r#type, at, Kind::Binary(operator, left, right))
    }

    fn contained(&mut self, at: usize, needle: &IdedExpr, haystack: &IdedExpr) -> Checked {
        let needle_at = self.start(needle);
        let haystack_at = self.start(haystack);
        let (needle, haystack) = (self.expression(needle), self.expression(haystack));
        let inside = match &haystack.r#type {
            Type::List(element) => (**element).clone(),
            Type::Map(..) | Type::Object(_) => {
                let found = self.lookup(haystack, needle, needle_at, Access::Has);
                return checked(found.r#type, at, found.node.kind);
            }
            Type::Unknown => Type::Unknown,
            other => {
                let message = format!("the right of `in` is {other}; it is a list or a map");
                return self.refuse(haystack_at, message);
            }
        };
        if !needle.r#type.is(&inside) {
            let message = format!(
                "the left of `in` is {}, and the list has {inside}{}",
                needle.r#type,
                hint(&needle.r#type, &inside)
            );
            return self.refuse(needle_at, message);
        }
        let (needle, haystack) = (Box::new(needle.node), Box::new(haystack.node));
        checked(Type::Bool, at, Kind::In(needle, haystack))
    }

    /// What a map or list has at a key.
    pub(super) fn lookup(
        &mut self,
        operand: Checked,
        key: Checked,
        key_at: usize,
        access: Access,
    ) -> Checked {
        let at = operand.node.at;
        // An optional container gives an optional value.
        let (container, access) = match &operand.r#type {
            Type::Optional(inner) if access != Access::Has => ((**inner).clone(), Access::Optional),
            Type::Optional(inner) => ((**inner).clone(), access),
            other => (other.clone(), access),
        };
        let (expected, value) = match container {
            Type::Map(key, value) => (*key, *value),
            Type::List(element) => (Type::Int, *element),
            Type::Object(object) => {
                let Some(value) = self.field_of(&object, &key, key_at, access) else {
                    return checked(Type::Unknown, at, operand.node.kind);
                };
                (Type::String, value)
            }
            Type::Unknown => return checked(Type::Unknown, at, operand.node.kind),
            Type::Json => {
                let message = "nothing is known of this value; give it a type in the schema to look into it";
                return self.refuse(key_at, message.to_owned());
            }
            Type::Nullable(inner) => {
                let message = format!("this {inner} may be null; ask first: x != null ? x.field : ...");
                return self.refuse(key_at, message);
            }
            other => {
                let message = format!("{other} has no fields and no elements; only maps and lists have");
                return self.refuse(key_at, message);
            }
        };
        if !key.r#type.is(&expected) {
            let message = format!(
                "the key is {}, and {expected} is needed{}",
                key.r#type,
                hint(&key.r#type, &expected)
            );
            return self.refuse(key_at, message);
        }
        let r#type = match access {
            Access::Value | Access::Known => value,
            Access::Optional => Type::optional(value),
            Access::Has => Type::Bool,
        };
        let kind = self.access(operand.node, key.node, key_at, access);
        checked(r#type, at, kind)
    }

    /// The type of a field; none: there is a fault, which has been said.
    fn field_of(&mut self, object: &Object, key: &Checked, key_at: usize, access: Access) -> Option<Type> {
        let Kind::Literal(Value::String(name)) = &key.node.kind else {
            let message =
                "a field of an object is asked for by its name, in quotes: which one it is has to be known";
            self.fault(key_at, message.to_owned());
            return None;
        };
        let (r#type, is_required, why) = match (object.fields.get(&**name), &object.others) {
            (Some(field), _) => (&field.r#type, field.is_required, field.why.as_deref()),
            (None, Some(others)) => (others, false, None),
            (None, None) if object.absent.contains_key(&**name) => {
                self.fault(key_at, object.absent[&**name].clone());
                return None;
            }
            (None, None) => {
                let names: Vec<&str> = object.fields.keys().map(String::as_str).collect();
                let has = if names.is_empty() {
                    "no fields".to_owned()
                } else {
                    names.join(", ")
                };
                self.fault(key_at, format!("there is no field {name}; there are: {has}"));
                return None;
            }
        };
        if access == Access::Value && !is_required {
            let why = why.map(|why| format!(", since {why}")).unwrap_or_default();
            let message = format!(
                "{name} may not be there{why}; give a default, .?{name}.orValue(...), or ask first, has(x.{name}) ? x.{name} : ..."
            );
            self.fault(key_at, message);
            return None;
        }
        Some(r#type.clone())
    }

    fn access(&mut self, operand: Node, key: Node, key_at: usize, access: Access) -> Kind {
        if let (Kind::Variable(id), Kind::Literal(Value::String(text))) = (&operand.kind, &key.kind) {
            self.check_case(*id, text, key_at);
            let (id, text) = (*id, text.clone().into_owned());
            return match access {
                Access::Value | Access::Known => Kind::Entry(id, text),
                Access::Optional => Kind::OptionalEntry(id, text),
                Access::Has => Kind::HasEntry(id, text),
            };
        }
        let (operand, key) = (Box::new(operand), Box::new(key));
        match access {
            Access::Value | Access::Known => Kind::Index(operand, key),
            Access::Optional => Kind::OptionalIndex(operand, key),
            Access::Has => Kind::HasKey(operand, key),
        }
    }

    /// A key that no request can have is a mistake.
    fn check_case(&mut self, id: VariableId, key: &str, at: usize) {
        let lower = key.to_ascii_lowercase();
        if lower != key && self.environment.has_lower_case_keys(id) {
            let message = format!("{key:?} never occurs: names are in lower case here; write {lower:?}");
            self.fault(at, message);
        }
    }
}

fn binary(name: &str) -> Option<(Operator, &'static str)> {
    Some(match name {
        operators::EQUALS => (Operator::Equal, "=="),
        operators::NOT_EQUALS => (Operator::NotEqual, "!="),
        operators::LESS => (Operator::Less, "<"),
        operators::LESS_EQUALS => (Operator::LessEqual, "<="),
        operators::GREATER => (Operator::Greater, ">"),
        operators::GREATER_EQUALS => (Operator::GreaterEqual, ">="),
        operators::ADD => (Operator::Add, "+"),
        operators::SUBSTRACT => (Operator::Subtract, "-"),
        operators::MULTIPLY => (Operator::Multiply, "*"),
        operators::DIVIDE => (Operator::Divide, "/"),
        operators::MODULO => (Operator::Remainder, "%"),
        _ => return None,
    })
}
