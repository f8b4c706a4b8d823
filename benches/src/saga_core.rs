//! What sagas cost: the check of a definition, a decision, the log, and a run in memory.
//!
//! There is no peer beside it: no other engine has its decisions apart from its storage, or checks a definition's types. The engines are
//! compared where they store.
//!
//! Times are those of the process on a processor; the median round is shown.

use std::{hint::black_box, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::{Value, json};
use trellis_saga_core::{
    Definition,
    event::{Effect, Event, Op, Outcome, Payload, Time},
    log::{self, Record},
    plan::Plan,
    run::{self, State},
};

use crate::{
    machine::Machine,
    report::{self, Table},
    statistics::Spread,
};

/// What to measure.
#[derive(Debug, Args, Serialize)]
pub struct Options {
    /// Rounds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs in each round of decisions
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

#[derive(Debug, Serialize)]
struct Figures<'a> {
    options: &'a Options,
    checks: Vec<Check>,
    decisions: Vec<Decisions>,
    memory: Vec<Memory>,
}

/// The check of a definition.
#[derive(Debug, Serialize)]
struct Check {
    steps: usize,
    /// Whether each step has other expressions.
    different: bool,
    expressions: usize,
    /// Milliseconds.
    time: Spread,
}

/// Decisions of a sort of run.
#[derive(Debug, Serialize)]
struct Decisions {
    run: &'static str,
    events: usize,
    /// Millions of events a second, on one processor, by [`State::apply`].
    rate: Spread,
    /// The same by [`run::decide`], which leaves the earlier state as it is.
    decide: Spread,
    /// The same with the record written into memory and its checksum.
    with_log: Spread,
    /// The same read from records and decided again.
    replayed: Spread,
    /// Bytes of log an event.
    bytes: f64,
}

/// Memory of runs.
#[derive(Debug, Serialize)]
struct Memory {
    run: &'static str,
    /// Bytes by which the process grew, a run.
    bytes: f64,
}

/// Measures, prints and writes.
pub fn run(options: &Options, output: &Path) -> Result<()> {
    let machine = Machine::look()?;
    println!("{}", machine.describe());
    // First: what was freed before would be used again.
    let memory = vec![
        memory("10 steps, half of them done", 10)?,
        memory("30 steps, half of them done", 30)?,
    ];
    let checks = [(30, false), (300, false), (1000, false), (1000, true)]
        .into_iter()
        .map(|(steps, different)| check(options, steps, different))
        .collect::<Result<Vec<_>>>()?;
    let decisions = vec![
        decisions(options, "10 steps in a row, completed", &chain(10)?, None)?,
        decisions(
            options,
            "10 steps in a row, the last is refused",
            &chain(10)?,
            Some(9),
        )?,
        decisions(options, "20 steps side by side, completed", &beside(20)?, None)?,
    ];
    let mut table = Table::new(["check", "expressions", "ms"]);
    for check in &checks {
        table.row([
            format!(
                "{} steps{}",
                check.steps,
                if check.different { ", all different" } else { "" }
            ),
            check.expressions.to_string(),
            format!("{:.2}", check.time.median),
        ]);
    }
    println!("\n{}", table.text());
    let mut table = Table::new([
        "decisions",
        "events",
        "M events/s",
        "decide",
        "with log",
        "replayed",
        "bytes an event",
    ]);
    for row in &decisions {
        table.row([
            row.run.to_owned(),
            row.events.to_string(),
            format!("{:.2}", row.rate.median),
            format!("{:.2}", row.decide.median),
            format!("{:.2}", row.with_log.median),
            format!("{:.2}", row.replayed.median),
            format!("{:.0}", row.bytes),
        ]);
    }
    println!("\n{}", table.text());
    let mut table = Table::new(["a run in memory", "bytes"]);
    for row in &memory {
        table.row([row.run.to_owned(), format!("{:.0}", row.bytes)]);
    }
    println!("\n{}", table.text());
    let figures = Figures {
        options,
        checks,
        decisions,
        memory,
    };
    report::write(output, "saga-core", &machine, &figures)
}

/// Time of this process on processors.
fn now() -> Result<Duration> {
    let time =
        clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("failed to read the process' clock")?;
    Ok(time.into())
}

fn check(options: &Options, steps: usize, different: bool) -> Result<Check> {
    eprintln!("check: {steps} steps");
    let mut definition = chain(steps)?;
    if different {
        for (i, step) in definition.steps.iter_mut().enumerate() {
            let text = format!("${{input.lines.filter(line, line.size() > {i}).map(line, line + '-{i}')}}");
            if let Some(body) = &mut step.action.body {
                body["lines"] = text.into();
            }
        }
    }
    let mut times = Vec::new();
    for _ in 0..options.rounds {
        let begin = now()?;
        let program = trellis_saga_core::compile(black_box(&definition));
        let time = now()?.saturating_sub(begin);
        black_box(program.map_err(|faults| anyhow!("{}", faults[0]))?);
        times.push(time.as_secs_f64() * 1e3);
    }
    Ok(Check {
        steps,
        different,
        // In each step: a path and a body of an action, the path of a compensation.
        expressions: steps * 4,
        time: Spread::of(times).context("no rounds")?,
    })
}

/// The events of a run, by doing what it asks for.
fn events(plan: &Plan, refused: Option<u32>) -> Result<Vec<(Time, Event)>> {
    let begin = Event::Started {
        input: Some(Payload::from(r#"{"id":"7","lines":["a","b"]}"#)),
        seed: 7,
    };
    let mut events = vec![(Time(1), begin.clone())];
    let (mut state, mut effects) = run::start(plan, &begin, Time(1))?;
    while let Some(effect) = (!effects.is_empty()).then(|| effects.remove(0)) {
        let Effect::Call { call, attempt, .. } = effect else {
            continue;
        };
        let outcome = if refused == Some(call.step) && call.op == Op::Action {
            Outcome::Failed("422".into())
        } else {
            Outcome::Done(Some(Payload::from(
                r#"{"id":"0198c1de-4b7a-7c3e-9f00-2b1a3c4d5e6f"}"#,
            )))
        };
        let at = Time(events.len() as u64 + 1);
        let event = Event::Answered {
            call,
            attempt,
            outcome,
        };
        state.apply(plan, &event, at, &mut effects)?;
        events.push((at, event));
    }
    if state.end().is_none() {
        return Err(anyhow!("the run has not ended"));
    }
    Ok(events)
}

fn decisions(
    options: &Options,
    name: &'static str,
    definition: &Definition,
    refused: Option<u32>,
) -> Result<Decisions> {
    eprintln!("decisions: {name}");
    let plan = Plan::new(definition).context("no order")?;
    let events = events(&plan, refused)?;
    let records: Vec<Record> = events
        .iter()
        .zip(0..)
        .map(|((at, event), sequence)| Record {
            sequence,
            at: *at,
            event: event.clone(),
        })
        .collect();
    let mut bytes = Vec::new();
    records.iter().for_each(|record| log::append(record, &mut bytes));
    let millions = f64::from(options.runs) * events.len() as f64 / 1e6;
    let (mut rate, mut decide) = (Vec::new(), Vec::new());
    let (mut with_log, mut replayed) = (Vec::new(), Vec::new());
    let mut effects = Vec::new();
    let mut buffer = Vec::new();
    for _ in 0..options.rounds {
        let begin = now()?;
        for _ in 0..options.runs {
            black_box(play(&plan, &events, &mut effects)?);
        }
        rate.push(millions / now()?.saturating_sub(begin).as_secs_f64());
        let begin = now()?;
        for _ in 0..options.runs {
            black_box(decide_all(&plan, &events)?);
        }
        decide.push(millions / now()?.saturating_sub(begin).as_secs_f64());
        let begin = now()?;
        for _ in 0..options.runs {
            buffer.clear();
            records.iter().for_each(|record| log::append(record, &mut buffer));
            black_box(play(&plan, &events, &mut effects)?);
        }
        with_log.push(millions / now()?.saturating_sub(begin).as_secs_f64());
        let begin = now()?;
        for _ in 0..options.runs {
            let contents = log::read(black_box(&bytes))?;
            let events = contents.records.iter().map(|record| (record.at, &record.event));
            let state =
                run::replay(&plan, events).map_err(|(place, refused)| anyhow!("{place}: {refused}"))?;
            black_box(state);
        }
        replayed.push(millions / now()?.saturating_sub(begin).as_secs_f64());
    }
    Ok(Decisions {
        run: name,
        events: events.len(),
        rate: Spread::of(rate).context("no rounds")?,
        decide: Spread::of(decide).context("no rounds")?,
        with_log: Spread::of(with_log).context("no rounds")?,
        replayed: Spread::of(replayed).context("no rounds")?,
        bytes: bytes.len() as f64 / events.len() as f64,
    })
}

fn play(plan: &Plan, events: &[(Time, Event)], effects: &mut Vec<Effect>) -> Result<State> {
    let (at, begin) = &events[0];
    let (mut state, _) = run::start(plan, begin, *at)?;
    for (at, event) in &events[1..] {
        effects.clear();
        state.apply(plan, event, *at, effects)?;
        black_box(&effects);
    }
    Ok(state)
}

fn decide_all(plan: &Plan, events: &[(Time, Event)]) -> Result<State> {
    let (at, begin) = &events[0];
    let (mut state, _) = run::start(plan, begin, *at)?;
    for (at, event) in &events[1..] {
        let (next, effects) = run::decide(plan, &state, event, *at)?;
        black_box(effects);
        state = next;
    }
    Ok(state)
}

fn memory(name: &'static str, steps: usize) -> Result<Memory> {
    const RUNS: usize = 50_000;
    eprintln!("memory: {name}");
    let plan = Plan::new(&chain(steps)?).context("no order")?;
    let events = events(&plan, None)?;
    let half = &events[..=steps / 2];
    let mut effects = Vec::new();
    let before = resident()?;
    let mut runs = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        runs.push(play(&plan, half, &mut effects)?);
    }
    let grown = resident()?.saturating_sub(before);
    black_box(&runs);
    // The next one is to grow as well.
    std::mem::forget(runs);
    Ok(Memory {
        run: name,
        bytes: grown as f64 / RUNS as f64,
    })
}

/// Bytes of this process in memory.
fn resident() -> Result<usize> {
    const PAGE: usize = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").context("failed to read /proc/self/statm")?;
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    Ok(pages.context("/proc/self/statm has another form")? * PAGE)
}

/// Steps in a row, each with an output that the next one uses.
fn chain(steps: usize) -> Result<Definition> {
    definition(steps, |i| {
        if i == 0 {
            vec![]
        } else {
            vec![format!("s{}", i - 1)]
        }
    })
}

/// Steps beside each other, and a last one.
fn beside(steps: usize) -> Result<Definition> {
    definition(steps, |i| {
        if i + 1 < steps {
            vec![]
        } else {
            (0..i).map(|before| format!("s{before}")).collect()
        }
    })
}

fn definition(steps: usize, after: impl Fn(usize) -> Vec<String>) -> Result<Definition> {
    let steps: Vec<Value> = (0..steps)
        .map(|i| {
            let after = after(i);
            let call = |method: &str, path: String, body: &Value| {
                json!({
                    "call": {"microservice": "stock", "method": method, "path": path}, "body": body, "timeout": 1000,
                    "retry": {"initial": 500, "factor": 2.0, "maxInterval": 30_000, "jitter": 20, "retryOn": ["Timeout", "ServerError"]},
                })
            };
            let before = after
                .first()
                .map_or("none".to_owned(), |before| format!("${{steps.{before}.output.id}}"));
            let body = json!({
                "lines": "${input.lines.filter(line, line.size() > 1).map(line, line + '-' + run.id)}", "before": before,
            });
            json!({
                "name": format!("s{i}"), "after": after, "kind": "Compensatable",
                "action": call("POST", format!("/x/${{input.id}}/{i}"), &body),
                "compensation": call("DELETE", format!("/x/${{run.id}}/{i}"), &Value::Null),
                "output": {"schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}},
            })
        })
        .collect();
    let definition = json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "bench", "steps": steps,
        "input": {"schema": {"type": "object", "required": ["id", "lines"], "properties": {
            "id": {"type": "string"}, "lines": {"type": "array", "items": {"type": "string"}}}}},
        "retention": {"completed": 1, "compensated": 1}, "onStuck": {"event": true},
    });
    serde_json::from_value(definition).context("failed to make a definition")
}
