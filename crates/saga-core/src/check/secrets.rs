//! Names of values that are never shown.

use trellis_expression::types::Type;

use super::Fault;
use crate::{definition::Definition, order::names};

pub(super) fn check(
    definition: &Definition,
    input: Option<&Type>,
    outputs: &[Type],
    faults: &mut Vec<Fault>,
) {
    for path in &definition.secret {
        let mut elements = path.split('.');
        let message = match (elements.next(), elements.next()) {
            (Some("headers"), Some(name)) if elements.next().is_none() => {
                let calls = definition.steps.iter();
                let mut calls = calls.flat_map(|step| [Some(&step.action), step.compensation.as_ref()]);
                let is_there = calls.any(|call| {
                    call.is_some_and(|call| {
                        call.headers
                            .keys()
                            .any(|header| header.eq_ignore_ascii_case(name))
                    })
                });
                (!is_there).then(|| format!("no call has a header {name}"))
            }
            (Some("input"), first) => match input {
                None => Some("the saga has no input".to_owned()),
                Some(input) => missing(input, first.into_iter().chain(elements)),
            },
            (Some("steps"), Some(name)) => match definition.steps.iter().position(|step| step.name == name) {
                None => Some(format!(
                    "there is no step {name}; there are: {}",
                    names(&definition.steps)
                )),
                Some(_) if elements.next() != Some("output") => {
                    Some(format!("write steps.{name}.output, or a field of it"))
                }
                Some(step) => missing(&outputs[step], elements),
            },
            _ => Some("begin with input, steps.NAME.output or headers.NAME".to_owned()),
        };
        if let Some(message) = message {
            faults.push(Fault::new(
                "secret",
                format!("{path:?} is nothing that the saga has: {message}"),
            ));
        }
    }
}

/// What of a path is not there. An element of a list goes without saying: `input.lines.note` is meant of each.
fn missing<'a>(r#type: &Type, elements: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut here = r#type.clone();
    for element in elements {
        here = match below(&here) {
            Type::Object(object) => match object.fields.get(element) {
                Some(field) => field.r#type.clone(),
                None if object.others.is_some() => object.others.clone().unwrap_or(Type::Unknown),
                None => {
                    let fields: Vec<&str> = object.fields.keys().map(String::as_str).collect();
                    return Some(format!(
                        "there is no field {element}; there are: {}",
                        fields.join(", ")
                    ));
                }
            },
            Type::Map(_, values) => *values,
            Type::Json | Type::Unknown => return None,
            other => return Some(format!("{other} has no field {element}")),
        };
    }
    None
}

fn below(r#type: &Type) -> Type {
    match r#type {
        Type::List(element) => below(element),
        Type::Nullable(inner) => below(inner),
        other => other.clone(),
    }
}
