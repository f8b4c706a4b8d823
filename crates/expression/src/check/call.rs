//! Functions and their overloads.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr},
};

use super::{Checked, Checker, checked, hint::hint};
use crate::{
    node::{Function, Kind, Node},
    types::Type,
};

/// What there is, for the message about what there is not.
const KNOWN: &str = "size, contains, startsWith, endsWith, lowerAscii, upperAscii, trim, replace, split, join, int, uint, double, string, has, all, \
                     exists, exists_one, filter, map, optional.of, optional.none, orValue, or, hasValue, value";

impl Checker<'_> {
    pub(super) fn function(&mut self, expression: &IdedExpr, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        let Some(target) = &call.target else {
            return self.global(expression, call);
        };
        if let Expr::Ident(namespace) = &target.expr
            && namespace == "optional"
        {
            return self.optional(expression, call);
        }
        if let Some(checked) = self.comprehension(expression, target, call) {
            return checked;
        }
        let at = self.before(expression, name);
        let receiver = self.expression(target);
        let argument = self.arguments_of_member(at, call, &receiver.r#type);
        match argument {
            Some((function, r#type, mut arguments)) => {
                arguments.insert(0, receiver.node);
                checked(r#type, at, Kind::Call(function, arguments))
            }
            None => self.unknown(at, call, &receiver.r#type),
        }
    }

    /// The overload of a member function and its arguments; none: there is none for this type.
    fn arguments_of_member(
        &mut self,
        at: usize,
        call: &CallExpr,
        receiver: &Type,
    ) -> Option<(Function, Type, Vec<Node>)> {
        let name = call.func_name.as_str();
        let text = matches!(receiver, Type::String | Type::Unknown);
        let (function, r#type, expected) = match (name, receiver) {
            ("size", r#type) if has_size(r#type) => (Function::Size, Type::Int, vec![]),
            ("contains", _) if text => (Function::Contains, Type::Bool, vec![Type::String]),
            ("startsWith", _) if text => (Function::StartsWith, Type::Bool, vec![Type::String]),
            ("endsWith", _) if text => (Function::EndsWith, Type::Bool, vec![Type::String]),
            ("lowerAscii", _) if text => (Function::LowerAscii, Type::String, vec![]),
            ("upperAscii", _) if text => (Function::UpperAscii, Type::String, vec![]),
            ("trim", _) if text => (Function::Trim, Type::String, vec![]),
            ("replace", _) if text => (Function::Replace, Type::String, vec![Type::String, Type::String]),
            ("split", _) if text => (Function::Split, Type::list(Type::String), vec![Type::String]),
            ("join", Type::List(element)) if element.is(&Type::String) => {
                (Function::Join, Type::String, vec![Type::String])
            }
            ("hasValue", Type::Optional(_)) => (Function::HasValue, Type::Bool, vec![]),
            ("value", Type::Optional(value)) => (Function::GetValue, (**value).clone(), vec![]),
            ("orValue", Type::Optional(value)) => {
                (Function::OrValue, (**value).clone(), vec![(**value).clone()])
            }
            ("or", Type::Optional(_)) => (Function::Or, receiver.clone(), vec![receiver.clone()]),
            _ => return None,
        };
        // What is not known of the value, the elements of an empty list for example, the default says.
        if let ("orValue" | "or", [expected], [argument]) = (name, &*expected, call.args.as_slice()) {
            let argument = self.expected(argument, expected, &format!("what {name} takes"));
            let joined = r#type.join(&argument.r#type).unwrap_or(r#type);
            return Some((function, joined, vec![argument.node]));
        }
        let arguments = if call.args.len() == expected.len() {
            let all = call.args.iter().zip(&expected);
            all.map(|(argument, expected)| self.expect(argument, expected, &format!("what {name} takes")))
                .collect()
        } else {
            let plural = if expected.len() == 1 { "" } else { "s" };
            let message = format!(
                "{name} takes {} argument{plural}, not {}",
                expected.len(),
                call.args.len()
            );
            self.fault(at, message);
            Vec::new()
        };
        Some((function, r#type, arguments))
    }

    fn unknown(&mut self, at: usize, call: &CallExpr, receiver: &Type) -> Checked {
        let name = call.func_name.as_str();
        if *receiver == Type::Unknown {
            return checked(Type::Unknown, at, Kind::Literal(crate::value::Value::Null));
        }
        let message = match name {
            "matches" => "matches is not available; use startsWith, endsWith, contains or ==".to_owned(),
            "size" | "contains" | "startsWith" | "endsWith" | "lowerAscii" | "upperAscii" | "trim"
            | "replace" | "split" => {
                format!(
                    "{name} is not defined for {receiver}{}",
                    hint(receiver, &Type::String)
                )
            }
            "join" => format!("join is for a list of texts, and this is {receiver}"),
            "hasValue" | "value" | "orValue" | "or" => {
                format!("{name} is for optional values, as from m[?\"key\"], and this is {receiver}")
            }
            _ => format!("there is no function {name}; there are: {KNOWN}"),
        };
        self.refuse(at, message)
    }

    fn global(&mut self, expression: &IdedExpr, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        let at = self.before(expression, name);
        let (function, r#type) = match name {
            "has" => return self.has(expression, call),
            "size" => (Function::Size, Type::Int),
            "int" => (Function::ToInt, Type::Int),
            "uint" => (Function::ToUint, Type::Uint),
            "double" => (Function::ToDouble, Type::Double),
            "string" => (Function::ToString, Type::String),
            "timestamp" | "duration" => {
                let message = format!("{name} is not available yet; compare numbers or text");
                return self.refuse(at, message);
            }
            "type" | "dyn" => {
                return self.refuse(at, format!("{name} is not available: types are checked before"));
            }
            _ => return self.refuse(at, format!("there is no function {name}; there are: {KNOWN}")),
        };
        let [argument] = call.args.as_slice() else {
            let message = format!("{name} takes 1 argument, not {}", call.args.len());
            return self.refuse(at, message);
        };
        let argument_at = self.start(argument);
        let argument = self.expression(argument);
        let given = &argument.r#type;
        let fits = match function {
            Function::Size => has_size(given),
            Function::ToString => {
                given.is_number() || matches!(given, Type::Bool | Type::String | Type::Unknown)
            }
            _ => given.is_number() || matches!(given, Type::String | Type::Unknown),
        };
        if !fits {
            let takes = match function {
                Function::Size => "text, bytes, lists and maps",
                Function::ToString => "numbers, bool and text",
                _ => "numbers and text",
            };
            let message = format!("{name} is not defined for {given}; it takes {takes}");
            return self.refuse(argument_at, message);
        }
        checked(r#type, at, Kind::Call(function, vec![argument.node]))
    }

    fn optional(&mut self, expression: &IdedExpr, call: &CallExpr) -> Checked {
        let at = self.before(expression, &call.func_name);
        match (call.func_name.as_str(), call.args.as_slice()) {
            ("none", []) => {
                let kind = Kind::Call(Function::OptionalNone, Vec::new());
                checked(Type::optional(Type::Unknown), at, kind)
            }
            ("of", [value]) => {
                let value = self.expression(value);
                let kind = Kind::Call(Function::OptionalOf, vec![value.node]);
                checked(Type::optional(value.r#type), at, kind)
            }
            _ => self.refuse(at, "there are optional.of(value) and optional.none()".to_owned()),
        }
    }
}

const fn has_size(r#type: &Type) -> bool {
    matches!(
        r#type,
        Type::String | Type::Bytes | Type::List(_) | Type::Map(..) | Type::Unknown
    )
}
