//! What an expression may name, and which outputs are surely there when it is evaluated.

use std::collections::BTreeMap;

use trellis_expression::{
    Draft, Expression, Template,
    draft::{Mentioned, Reader},
    environment::Environment,
    position,
    template::TemplateDraft,
    types::{Field, Object, Type},
};

use crate::{
    definition::Definition,
    order::{self, Order},
    program::names,
};

/// What all expressions of a definition share.
pub(super) struct Scope<'a> {
    pub(super) definition: &'a Definition,
    order: &'a Order,
    input: Option<&'a Type>,
    outputs: &'a [Type],
    places: BTreeMap<&'a str, usize>,
    run: Type,
    /// Each text is read once.
    pub(super) reader: Reader,
}

/// When an expression is evaluated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    step: usize,
    of: Of,
    item: Option<&'a Type>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Whether and how often the step is done.
    Decision,
    Action,
    Compensation,
}

impl<'a> Moment<'a> {
    pub(super) const fn decision(step: usize) -> Self {
        Self {
            step,
            of: Of::Decision,
            item: None,
        }
    }

    pub(super) const fn action(step: usize, item: Option<&'a Type>) -> Self {
        Self {
            step,
            of: Of::Action,
            item,
        }
    }

    pub(super) const fn compensation(step: usize, item: Option<&'a Type>) -> Self {
        Self {
            step,
            of: Of::Compensation,
            item,
        }
    }

    /// Whether it is for one of several elements.
    pub(super) const fn is_for_each(&self) -> bool {
        self.item.is_some()
    }
}

impl<'a> Scope<'a> {
    pub(super) fn new(
        definition: &'a Definition,
        order: &'a Order,
        input: Option<&'a Type>,
        outputs: &'a [Type],
    ) -> Self {
        let named = definition.steps.iter().zip(0..);
        Self {
            definition,
            order,
            input,
            outputs,
            places: named.map(|(step, place)| (step.name.as_str(), place)).collect(),
            run: run(),
            reader: Reader::default(),
        }
    }

    /// Checks an expression whose value is to be of a type.
    pub(super) fn compile(
        &self,
        source: &str,
        moment: &Moment<'_>,
        wanted: &Type,
    ) -> Result<Expression, Vec<position::Fault>> {
        let draft = Draft::read_once(source, &self.reader).map_err(|fault| vec![fault])?;
        let environment = self.environment(moment, &draft.mentioned());
        draft.check(&environment, std::slice::from_ref(wanted))
    }

    /// Checks a text with expressions in it.
    pub(super) fn template(
        &self,
        draft: TemplateDraft<'_>,
        moment: &Moment<'_>,
    ) -> Result<Template, Vec<position::Fault>> {
        let environment = self.environment(moment, &draft.mentioned());
        draft.check(&environment)
    }

    /// Names in the order of [`names::ALL`]; those that are not there at this moment are refused with the reason.
    fn environment(&self, moment: &Moment<'_>, mentioned: &Mentioned) -> Environment {
        let steps = if mentioned.has(names::STEPS) {
            self.steps(moment, mentioned)
        } else {
            Type::Unknown
        };
        let mut environment = Environment::default()
            .with(names::INPUT, self.input.cloned().unwrap_or(Type::Unknown))
            .with(names::RUN, self.run.clone())
            .with(names::STEPS, steps)
            .with(names::ITEM, moment.item.cloned().unwrap_or(Type::Unknown))
            .with(names::INDEX, Type::Int)
            .with(names::ATTEMPT, Type::Int);
        if self.input.is_none() {
            environment = environment.reserve(
                names::INPUT,
                "the saga has no input: describe it in spec.input.schema",
            );
        }
        if moment.item.is_none() {
            let message = match moment.of {
                Of::Decision => "there is no item yet: this decides for which there will be one",
                Of::Action | Of::Compensation => "there is no item: the step has no forEach",
            };
            environment = environment
                .reserve(names::ITEM, message)
                .reserve(names::INDEX, message);
        }
        if moment.of == Of::Decision {
            let message = "is not known here: nothing was tried yet";
            environment = environment.reserve(names::ATTEMPT, message);
        }
        environment
    }

    fn steps(&self, moment: &Moment<'_>, mentioned: &Mentioned) -> Type {
        let mut object = Object::default();
        match mentioned.fields_of(names::STEPS) {
            Some(named) => named.iter().for_each(|name| self.add(name, moment, &mut object)),
            None => self
                .places
                .keys()
                .for_each(|name| self.add(name, moment, &mut object)),
        }
        Type::object(object)
    }

    /// Adds a step, or why its output is not there.
    fn add(&self, name: &str, moment: &Moment<'_>, object: &mut Object) {
        let steps = &self.definition.steps;
        let this = &steps[moment.step].name;
        let Some(&place) = self.places.get(name) else {
            object.absent.insert(name.to_owned(), self.unknown(name));
            return;
        };
        let is_own = place == moment.step;
        let is_there = self.order.is_before(place, moment.step) || is_own && moment.of == Of::Compensation;
        if !is_there {
            let message = if is_own {
                format!("{name} is this step itself: its output is not there before it is done")
            } else if self.order.is_before(moment.step, place) {
                format!("{name} comes after {this}, so its output is not there yet")
            } else {
                format!(
                    "{name} has not surely been done before {this}: add {name} to steps[{}].after",
                    moment.step
                )
            };
            object.absent.insert(name.to_owned(), message);
            return;
        }
        let output = match (&steps[place].for_each, is_own) {
            (Some(_), false) => Type::list(self.outputs[place].clone()),
            _ => self.outputs[place].clone(),
        };
        let output = if is_own {
            let why = "the compensation is called also if nobody knows what came of the action";
            Field::optional(output, why)
        } else if steps[place].when.is_some() {
            Field::optional(output, format!("{name} is not done if its `when` does not hold"))
        } else {
            Field::required(output)
        };
        let step = Object {
            fields: [("output".to_owned(), output)].into(),
            ..Object::default()
        };
        object
            .fields
            .insert(name.to_owned(), Field::required(Type::object(step)));
    }

    fn unknown(&self, name: &str) -> String {
        let steps = &self.definition.steps;
        // `steps.charge-card` is a difference.
        let dashed = steps.iter().find(|step| {
            step.name
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
        });
        match dashed {
            Some(step) => format!(
                "there is no step {name}; if {0} is meant, write steps[\"{0}\"]",
                step.name
            ),
            None => format!("there is no step {name}; there are: {}", order::names(steps)),
        }
    }
}

/// What is known of a run.
fn run() -> Type {
    Type::object(Object::of([
        ("id", Type::String),
        ("saga", Type::String),
        ("revision", Type::String),
        ("startedAt", Type::String),
    ]))
}
