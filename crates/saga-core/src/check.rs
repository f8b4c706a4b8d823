//! Every fault of a definition, with its field and the fix.
//!
//! ```text
//! order    names, circles           -> without an order nothing else can be judged
//! pivot    before, after, neither; what can be taken back
//! call     path, headers, key, body
//! types    schemas, expressions, which outputs are surely there
//! time     what cannot fit
//! size     what cannot fit
//! ```
//!
//! **Surely there.** An action may use outputs of the steps before it, directly or not. One whose `when` does not hold has none, so it has to be
//! asked for (`has(steps.x.output)`). A compensation may use what its action could; its own step's output has to be asked for,
//! because the compensation is called also if nobody knows what came of the action.
//!
//! **What it promises.** An expression that was accepted has no wrong type or name when it runs, as long as the data fits the
//! schemas. It may still fail by its values: a number too large, an index outside of a list, a division by zero. The simulator looks for
//! these.

mod budget;
mod calls;
mod kinds;
mod scope;
mod secrets;
mod times;

use std::{collections::BTreeMap, fmt};

use trellis_expression::{Expression, on_a_deep_stack, schema, types::Type};

use self::scope::{Moment, Scope};
use crate::{
    definition::{Definition, Payload},
    order::{self, Order},
    program::{Program, StepProgram},
};

/// What is wrong, where, and the fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field below the definition: `steps[1].action.path`.
    pub field: String,
    /// What is wrong there, and the fix; for an expression also the line and column.
    pub message: String,
}

/// Most faults that are looked for: what follows is mostly more of the same.
const MOST_FAULTS: usize = 100;

impl Fault {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The definition with its expressions compiled.
///
/// # Errors
/// Every fault, at most about a hundred, in the order of what they are about: order, pivot, calls and types, time, size.
pub fn compile(definition: &Definition) -> Result<Program, Vec<Fault>> {
    // One deep stack for all expressions.
    let compiled = on_a_deep_stack(|| compile_here(definition));
    compiled.unwrap_or_else(|| {
        let message = "the check gave no answer; try again, or write the definition in another way";
        Err(vec![Fault::new("steps", message)])
    })
}

fn compile_here(definition: &Definition) -> Result<Program, Vec<Fault>> {
    let steps = &definition.steps;
    if steps.is_empty() {
        return Err(vec![Fault::new("steps", "is empty: write at least one step")]);
    }
    let order = Order::of(steps)?;
    let mut faults = Vec::new();
    kinds::check(steps, &order, &mut faults);
    let input = definition
        .input
        .as_ref()
        .map(|input| type_of(input, "input.schema", &mut faults));
    let outputs: Vec<Type> = steps
        .iter()
        .enumerate()
        .map(|(i, step)| match &step.output {
            Some(output) => type_of(output, &format!("steps[{i}].output.schema"), &mut faults),
            None => Type::Json,
        })
        .collect();
    let scope = Scope::new(definition, &order, input.as_ref(), &outputs);
    let mut programs = Vec::new();
    for (i, output) in outputs.iter().enumerate() {
        if faults.len() >= MOST_FAULTS {
            break;
        }
        programs.extend(step(i, &scope, output, &mut faults));
    }
    keys(definition, &mut faults);
    secrets::check(definition, input.as_ref(), &outputs, &mut faults);
    times::check(definition, &order, &mut faults);
    budget::check(definition, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Program {
        definition: definition.clone(),
        pivot: order::pivot(steps),
        order,
        input,
        steps: programs,
    })
}

/// A step's expressions; None: there is a fault, which has been said.
fn step(i: usize, scope: &Scope<'_>, output: &Type, faults: &mut Vec<Fault>) -> Option<StepProgram> {
    let step = &scope.definition.steps[i];
    let at = format!("steps[{i}]");
    let when = step.when.as_ref().map(|when| {
        let field = format!("{at}.when");
        condition(&field, when, i, scope, &Type::Bool, faults)
    });
    let items = step.for_each.as_ref().map(|for_each| {
        let field = format!("{at}.forEach.items");
        if for_each.max_items == 0 || for_each.concurrency == 0 {
            let message = "0 lets nothing be done: write at least 1";
            faults.push(Fault::new(format!("{at}.forEach"), message));
        }
        let list = Type::list(Type::Unknown);
        condition(&field, &for_each.items, i, scope, &list, faults)
    });
    let item = match &items {
        // A second fault about the item would say nothing new.
        Some(None) => Some(Type::Unknown),
        Some(Some(items)) => Some(match items.r#type() {
            Type::List(element) => (**element).clone(),
            _ => Type::Unknown,
        }),
        None => None,
    };
    let action = calls::check(
        &format!("{at}.action"),
        &step.action,
        scope,
        &Moment::action(i, item.as_ref()),
        faults,
    );
    let compensation = step.compensation.as_ref().map(|compensation| {
        calls::check(
            &format!("{at}.compensation"),
            compensation,
            scope,
            &Moment::compensation(i, item.as_ref()),
            faults,
        )
    });
    Some(StepProgram {
        when: checked(when)?,
        items: checked(items)?,
        item,
        action: action?,
        compensation: checked(compensation)?,
        output: output.clone(),
    })
}

/// Keys of one's own that two calls share: a participant of both would take the second for the first.
fn keys(definition: &Definition, faults: &mut Vec<Fault>) {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    for (i, step) in definition.steps.iter().enumerate() {
        for (name, call) in [
            ("action", Some(&step.action)),
            ("compensation", step.compensation.as_ref()),
        ] {
            let headers = call.into_iter().flat_map(|call| &call.headers);
            for (header, key) in
                headers.filter(|(header, _)| header.eq_ignore_ascii_case(calls::IDEMPOTENCY_KEY))
            {
                let field = format!("steps[{i}].{name}.headers[{header}]");
                if let Some(first) = known.get(key.as_str()) {
                    let message = format!(
                        "is the key of {first} too, so that one of the two does nothing: make them different, or leave the header out, the \
                         engine sets one"
                    );
                    faults.push(Fault::new(field, message));
                } else {
                    known.insert(key, field);
                }
            }
        }
    }
}

/// Nothing that was to be checked, or what came of it; None: a fault.
fn checked<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(found) => found.map(Some),
    }
}

/// An expression that is one as a whole.
fn condition(
    field: &str,
    source: &str,
    step: usize,
    scope: &Scope<'_>,
    wanted: &Type,
    faults: &mut Vec<Fault>,
) -> Option<Expression> {
    if source.trim_start().starts_with("${") {
        let message = "is an expression as a whole: write it without ${ and }";
        faults.push(Fault::new(field, message));
        return None;
    }
    scope
        .compile(source, &Moment::decision(step), wanted)
        .map_err(|found| {
            faults.extend(
                found
                    .into_iter()
                    .map(|fault| Fault::new(field, fault.to_string())),
            );
        })
        .ok()
}

fn type_of(payload: &Payload, at: &str, faults: &mut Vec<Fault>) -> Type {
    schema::r#type(&payload.schema).unwrap_or_else(|found| {
        faults.extend(
            found
                .into_iter()
                .map(|fault| Fault::new(format!("{at}{}", fault.path), fault.message)),
        );
        Type::Unknown
    })
}
