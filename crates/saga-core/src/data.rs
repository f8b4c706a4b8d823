//! What the expressions of a run see: its input, what its steps have answered, itself.

use serde_json::Value as Json;
use trellis_expression::{json, types::Type, value::Value};

use crate::{
    event::{CallId, Decision, Op, Payload},
    program::{Data, Error, Program, Request, names},
    run::State,
};

/// What is known of a run besides its state.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Its id.
    pub id: &'a str,
    /// The revision that it is made of.
    pub revision: &'a str,
    /// When it began, as RFC 3339 has it.
    pub started_at: &'a str,
}

impl Program {
    /// Whether and how often a step is done.
    #[must_use]
    pub fn decide(&self, state: &State, run: Run<'_>, step: usize) -> Decision {
        self.try_to_decide(state, run, step)
            .unwrap_or_else(|error| Decision::Failed(error.to_string().into()))
    }

    fn try_to_decide(&self, state: &State, run: Run<'_>, step: usize) -> Result<Decision, Error> {
        let data = self.data(state, run, None)?;
        let program = &self.steps[step];
        if !program.is_done(&data)? {
            return Ok(Decision::Skip);
        }
        Ok(match program.elements(&data)? {
            None => Decision::Once,
            Some(elements) => Decision::Items(u32::try_from(elements.len()).unwrap_or(u32::MAX)),
        })
    }

    /// What a try of a call says; None: the step has no such call.
    ///
    /// # Errors
    /// An expression has no value, or one that cannot be sent.
    pub fn request(
        &self,
        state: &State,
        run: Run<'_>,
        call: CallId,
        attempt: u32,
    ) -> Result<Option<Request>, Error> {
        let step = self.steps.get(call.step as usize);
        let program = step.and_then(|step| match call.op {
            Op::Action => Some(&step.action),
            Op::Compensation => step.compensation.as_ref(),
        });
        let Some(program) = program else {
            return Ok(None);
        };
        let data = self.data(state, run, Some((call, attempt)))?;
        program.request(&data).map(Some)
    }

    /// What expressions may ask: for a try of a call also its element.
    fn data(&self, state: &State, run: Run<'_>, call: Option<(CallId, u32)>) -> Result<Data, Error> {
        let mut data = Data::default().with_run(run.id, &self.definition.name, run.revision, run.started_at);
        if let (Some(input), Some(r#type)) = (state.input(), &self.input) {
            data.put(names::INPUT, read(input, r#type, names::INPUT)?);
        }
        let mut steps = Vec::with_capacity(self.steps.len());
        for (place, step) in self.definition.steps.iter().enumerate() {
            let read = |payload: Option<&Payload>| {
                let r#type = &self.steps[place].output;
                payload
                    .map(|payload| read(payload, r#type, &format!("steps.{}.output", step.name)))
                    .transpose()
            };
            let own = call.filter(|(call, _)| call.step as usize == place);
            let output = match own {
                Some((call, _)) => read(state.output(place, call.item as usize))?,
                None => match state.outputs(place) {
                    None => None,
                    Some(outputs) => {
                        let mut values = outputs.map(|payload| Ok(read(payload)?.unwrap_or(Value::Null)));
                        Some(match step.for_each {
                            Some(_) => Value::List(values.collect::<Result<_, Error>>()?),
                            None => values.next().transpose()?.unwrap_or(Value::Null),
                        })
                    }
                },
            };
            let entries: Vec<_> = output
                .map(|output| (text("output"), output))
                .into_iter()
                .collect();
            steps.push((text(&step.name), Value::Map(entries.into())));
        }
        data.put(names::STEPS, Value::Map(steps.into()));
        if let Some((call, attempt)) = call {
            data = data.with_number(names::ATTEMPT, attempt.into());
            if let Some(elements) = self.steps[call.step as usize].elements(&data)? {
                if let Some(item) = elements.get(call.item as usize) {
                    data.put(names::ITEM, item.clone());
                }
                data = data.with_number(names::INDEX, call.item.into());
            }
        }
        Ok(data)
    }

    /// Reads what a run is to be started with.
    ///
    /// # Errors
    /// It is not of the type that the definition says.
    pub fn check_input(&self, input: Option<&Json>) -> Result<(), Error> {
        match (&self.input, input) {
            (None, None) => Ok(()),
            (Some(r#type), input) => check(input.unwrap_or(&Json::Null), r#type, names::INPUT),
            (None, Some(_)) => Err(Error::Value {
                field: names::INPUT.to_owned(),
                message: "the saga takes none: leave it out, or declare spec.input.schema".to_owned(),
            }),
        }
    }

    /// Reads what an action has answered; None: nothing.
    ///
    /// # Errors
    /// It is not of the type that the definition says.
    pub fn check_output(&self, step: usize, output: Option<&Json>) -> Result<(), Error> {
        let Some(of) = self
            .steps
            .get(step)
            .filter(|_| self.definition.steps[step].output.is_some())
        else {
            return Ok(());
        };
        check(output.unwrap_or(&Json::Null), &of.output, "output")
    }
}

fn check(value: &Json, r#type: &Type, name: &str) -> Result<(), Error> {
    json::read(value, r#type, name)
        .map(|_| ())
        .map_err(|mismatch| Error::Value {
            field: name.to_owned(),
            message: mismatch.to_string(),
        })
}

fn read(payload: &Payload, r#type: &Type, name: &str) -> Result<Value<'static>, Error> {
    let wrong = |message: String| Error::Value {
        field: name.to_owned(),
        message,
    };
    let json: Json = serde_json::from_str(&payload.0).map_err(|error| wrong(error.to_string()))?;
    json::read(&json, r#type, name).map_err(|mismatch| wrong(mismatch.to_string()))
}

fn text(text: &str) -> Value<'static> {
    Value::String(text.to_owned().into())
}
