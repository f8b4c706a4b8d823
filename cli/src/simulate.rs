//! `trellis saga simulate`: what a saga does when its steps fail, before it is deployed.
//!
//! Every schedule of one fault, and of two as far as they are asked for, through the very core that the engine runs. What may not be
//! (effects that remain, calls out of order, expressions without a value) makes the command fail; that a saga gets stuck when
//! a compensation is refused for good is what a saga is, and is told.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use trellis_api::Saga;
use trellis_operator_desired::saga;
use trellis_saga_core::{
    Program,
    event::{CallId, Op, What},
    run::Status,
    simulation::{
        rehearsal::{self, At, Behaviour, Fault, Rehearsal, Schedule},
        sample::Variant,
    },
};

use crate::{args, check, report};

/// Sets of values that each schedule with a fault is rehearsed with, at most.
const VALUES_OF_FAULTS: u64 = 10;

/// What came of the schedules of all sagas.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Name of the saga.
    saga: String,
    /// What its revision would be called.
    revision: String,
    /// How many steps it has.
    steps: usize,
    /// What came of each class of schedules.
    classes: Vec<Class>,
    /// What may not be, each sort with an example.
    unsafe_schedules: Vec<Example>,
    /// How it gets stuck, each way with an example.
    stuck_schedules: Vec<Example>,
}

/// What came of a class of schedules.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Class {
    name: String,
    schedules: usize,
    completed: usize,
    compensated: usize,
    stuck: usize,
    #[serde(rename = "unsafe")]
    broken: usize,
}

/// A schedule, and how many more are like it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Example {
    what: String,
    schedule: Vec<String>,
    more: usize,
    timeline: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    /// Milliseconds since the run began.
    at: u64,
    about: String,
    what: String,
}

/// Simulates every saga of the files and prints what came of it. Whether all is as it may be.
///
/// # Errors
/// Files cannot be read.
pub fn run(args: &args::Simulate) -> Result<bool, check::Error> {
    let checked = check::check(&args.input)?;
    for finding in &checked.findings {
        eprintln!("{finding}");
    }
    let reports: Vec<Report> = checked
        .sagas
        .iter()
        .filter_map(|saga| Some(simulate(saga, &saga::compile(saga).ok()?, args)))
        .collect();
    if reports.is_empty() && !checked.has_errors() {
        eprintln!("error: there is no Saga in these files");
    }
    let text = match args.output {
        args::Output::Text => reports.iter().map(text).collect(),
        args::Output::Json => serde_json::to_string_pretty(&reports).unwrap_or_default() + "\n",
    };
    report::print(&text).map_err(check::Error::Output)?;
    let is_good = |report: &Report| {
        report.unsafe_schedules.is_empty() && (!args.strict || report.stuck_schedules.is_empty())
    };
    Ok(!checked.has_errors() && !reports.is_empty() && reports.iter().all(is_good))
}

fn simulate(cr: &Saga, compiled: &saga::Compiled, args: &args::Simulate) -> Report {
    let program = &compiled.program;
    let behaviour = match args.participants {
        args::Participants::Barrier => Behaviour::Barrier,
        args::Participants::Naive => Behaviour::Naive,
    };
    let mut classes = Vec::new();
    let (mut broken, mut stuck) = (BTreeMap::new(), BTreeMap::new());
    let mut class = |name: &str, rehearsals: &mut dyn Iterator<Item = Rehearsal>| {
        let mut class = Class {
            name: name.to_owned(),
            ..Class::default()
        };
        for rehearsal in rehearsals {
            class.schedules += 1;
            match rehearsal.status {
                Status::Completed => class.completed += 1,
                Status::Compensated => class.compensated += 1,
                Status::Stuck | Status::Running | Status::Compensating => class.stuck += 1,
            }
            class.broken += usize::from(!rehearsal.problems.is_empty());
            for problem in &rehearsal.problems {
                note(&mut broken, sort(problem), problem.clone(), &rehearsal, program);
            }
            if rehearsal.status == Status::Stuck {
                let what = why(&rehearsal, program);
                note(&mut stuck, what.clone(), what, &rehearsal, program);
            }
        }
        classes.push(class);
    };
    let variants = [Variant::Full, Variant::Least]
        .into_iter()
        .chain((0..args.values).map(Variant::Random));
    class(
        "no fault",
        &mut variants.map(|variant| rehearsal::rehearse(program, &[], variant, behaviour)),
    );
    let rehearse = |schedule: &Schedule| rehearsal::rehearse(program, schedule, Variant::Full, behaviour);
    let single = rehearsal::single(program);
    for fault in [
        Fault::Refusal,
        Fault::Timeout,
        Fault::Outage,
        Fault::Crash,
        Fault::Duplicate,
    ] {
        // With little and with any values, too: compensations have expressions of their own, and steps may not be done at all.
        let of_class = single.iter().filter(|schedule| schedule[0].fault == fault);
        let variants = [Variant::Full, Variant::Least]
            .into_iter()
            .chain((0..args.values.min(VALUES_OF_FAULTS)).map(Variant::Random));
        let mut rehearsals = of_class.flat_map(|schedule| {
            let variants = variants.clone();
            variants.map(move |variant| rehearsal::rehearse(program, schedule, variant, behaviour))
        });
        class(fault.as_ref(), &mut rehearsals);
    }
    class(
        "two faults",
        &mut rehearsal::pairs(program, args.pairs).iter().map(rehearse),
    );
    Report {
        saga: cr.metadata.name.clone().unwrap_or_default(),
        revision: compiled.revision.clone(),
        steps: program.definition.steps.len(),
        classes,
        unsafe_schedules: broken.into_values().collect(),
        stuck_schedules: stuck.into_values().collect(),
    }
}

/// What a problem is about, without the values that it was found with.
fn sort(problem: &str) -> String {
    problem
        .split_once(", with input")
        .map_or(problem, |(sort, _)| sort)
        .to_owned()
}

fn note(
    examples: &mut BTreeMap<String, Example>,
    key: String,
    what: String,
    rehearsal: &Rehearsal,
    program: &Program,
) {
    match examples.get_mut(&key) {
        Some(example) => example.more += 1,
        None => {
            let timeline = rehearsal.timeline.iter().map(|line| Line {
                at: line.at,
                about: line.about.clone(),
                what: line.what.clone(),
            });
            let schedule = rehearsal.schedule.iter().map(|at| shown(at, program));
            examples.insert(
                key,
                Example {
                    what,
                    schedule: schedule.collect(),
                    more: 0,
                    timeline: timeline.collect(),
                },
            );
        }
    }
}

fn shown(at: &At, program: &Program) -> String {
    let name = &program.definition.steps[at.step].name;
    format!("{} at the {} of {name}", at.fault.as_ref(), op(at.op))
}

const fn op(op: Op) -> &'static str {
    match op {
        Op::Action => "action",
        Op::Compensation => "compensation",
    }
}

/// Why a run is stuck: by the last cause that an operator has to deal with.
fn why(rehearsal: &Rehearsal, program: &Program) -> String {
    let Some(cause) = rehearsal.causes.last() else {
        return "it is stuck".to_owned();
    };
    let of = |call: CallId| {
        let name = &program.definition.steps[call.step as usize].name;
        format!("the {} of {name}", op(call.op))
    };
    let call = cause.call.map_or_else(|| "the run".to_owned(), of);
    match cause.what {
        What::PivotUnknown => format!("nobody knows whether {call} was done"),
        What::CompensationFailed => format!("{call} fails"),
        What::ActionFailed => format!("{call} is refused after the pivot"),
        What::RetriesExhausted => format!("{call} is not tried any longer after the pivot"),
        other => format!("{call}: {}", other.as_ref()),
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a text does not fail.
    let _ = writeln!(
        text,
        "saga {}, revision {}, {} steps\n",
        report.saga, report.revision, report.steps
    );
    let _ = writeln!(
        text,
        "  {:<12} {:>9} {:>10} {:>12} {:>6} {:>7}",
        "class", "schedules", "completed", "compensated", "stuck", "unsafe"
    );
    for class in &report.classes {
        let _ = writeln!(
            text,
            "  {:<12} {:>9} {:>10} {:>12} {:>6} {:>7}",
            class.name, class.schedules, class.completed, class.compensated, class.stuck, class.broken
        );
    }
    for (title, examples) in [
        ("may not be", &report.unsafe_schedules),
        ("gets stuck", &report.stuck_schedules),
    ] {
        for example in examples {
            let schedule = if example.schedule.is_empty() {
                "without a fault".to_owned()
            } else {
                example.schedule.join(", ")
            };
            let more = match example.more {
                0 => String::new(),
                more => format!(" (and {more} more like it)"),
            };
            let _ = writeln!(text, "\n{title}: {}\n  {schedule}{more}", example.what);
            for line in &example.timeline {
                let _ = writeln!(text, "  {:>9} ms  {:<14} {}", line.at, line.about, line.what);
            }
        }
    }
    let schedules: usize = report.classes.iter().map(|class| class.schedules).sum();
    let verdict = if report.unsafe_schedules.is_empty() {
        "nothing was left behind, nothing was out of order"
    } else {
        "see above what may not be"
    };
    let _ = writeln!(text, "\n{schedules} schedules: {verdict}");
    text
}
