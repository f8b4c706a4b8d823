//! `trellis saga start, list, show, watch, retry, skip, complete, cancel`: runs, by the engine in the cluster.
//!
//! The engine is reached by a port-forward to one of its pods, and knows the command by a token of a ServiceAccount of its own
//! (`trellis-cli`), made for this call; whoever runs the command needs the right to make it. Whom the command speaks for stands in the
//! audit besides.

mod engine;
mod timeline;

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::time;
use trellis_saga_api::runs::{Intervention, Page, Run, Start};

use self::engine::Engine;
use crate::args::{self, Output, SagaCommand};

/// Time between looks of `watch`.
const LOOK: u64 = 5;
/// Longest wait that the engine takes.
const LONGEST_WAIT: u32 = 5;
/// Longest pause between tries while the engine cannot be reached.
const RETRY: Duration = Duration::from_secs(1);

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine, or the way to it.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The input is no JSON.
    #[error("failed to read {what} as JSON")]
    Json {
        /// Which argument.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// There is no runtime to be had.
    #[error("failed to start")]
    Runtime(#[from] std::io::Error),
    /// Nothing says which runs.
    #[error("name a run, or say which with --all, --saga or --status")]
    NoRuns,
}

/// Does what is asked for; false: a run that was waited for is not completed.
///
/// # Errors
/// It could not be done.
pub fn run(command: &SagaCommand) -> Result<bool, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(perform(command))
}

async fn perform(command: &SagaCommand) -> Result<bool, Error> {
    match command {
        // They are done without a cluster.
        SagaCommand::Simulate(_) | SagaCommand::Test(_) => Ok(true),
        SagaCommand::Start(start) => self::start(start).await,
        SagaCommand::List(list) => self::list(list).await,
        SagaCommand::Show(show) => {
            let mut engine = Engine::connect(&show.engine).await?;
            let run: Run = engine.get(&format!("/v1/runs/{}", show.run)).await?;
            print(&run, show.output);
            Ok(true)
        }
        SagaCommand::Watch(show) => watch(show).await,
        SagaCommand::Retry(retry) => {
            let (verb, body) = match &retry.from {
                None => ("retry", Intervention::default()),
                Some(step) => {
                    let body = Intervention {
                        step: Some(step.clone()),
                        ..Intervention::default()
                    };
                    ("retry-from", body)
                }
            };
            intervene(&retry.which, verb, body).await
        }
        SagaCommand::Skip(skip) => {
            let output = skip
                .step_output
                .as_deref()
                .map(|text| json("--step-output", text))
                .transpose()?;
            let body = Intervention {
                step: Some(skip.step.clone()),
                index: skip.index,
                compensation: skip.compensation,
                output,
                ..Intervention::default()
            };
            intervene(&skip.which, "skip", body).await
        }
        SagaCommand::Complete(which) => intervene(which, "force-complete", Intervention::default()).await,
        SagaCommand::Cancel(which) => intervene(which, "cancel", Intervention::default()).await,
    }
}

async fn start(start: &args::Start) -> Result<bool, Error> {
    let input = start
        .input
        .as_deref()
        .map(|text| json("--input", text))
        .transpose()?;
    let mut engine = Engine::connect(&start.engine).await?;
    let path = format!("/v1/namespaces/{}/sagas/{}/runs", start.namespace, start.saga);
    let key = start.key.as_deref().map(|key| ("idempotency-key", key));
    let headers: Vec<(&str, &str)> = key.into_iter().collect();
    let mut run: Run = engine.post(&path, &Start { input }, &headers).await?;
    let deadline = Instant::now() + Duration::from_secs(start.wait.unwrap_or_default().into());
    while run.ended_at.is_none() && Instant::now() < deadline {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .as_secs_f64()
            .ceil() as u32;
        let path = format!("/v1/runs/{}?wait={}", run.id, left.clamp(1, LONGEST_WAIT));
        match engine.get(&path).await {
            Ok(later) => run = later,
            // The run goes on.
            Err(error) if error.is_transient() => {
                time::sleep(RETRY).await;
                if let Ok(other) = Engine::connect(&start.engine).await {
                    engine = other;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    print(&run, start.output);
    Ok(start.wait.is_none() || run.status == "Completed")
}

async fn list(list: &args::List) -> Result<bool, Error> {
    let mut engine = Engine::connect(&list.engine).await?;
    let page: Page = engine.get(&list.selection.path(list.limit)).await?;
    match list.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&page.runs).unwrap_or_default()),
        Output::Text => print!("{}", timeline::table(&page.runs)),
    }
    Ok(true)
}

/// Draws the run whenever it has changed, until it has ended.
async fn watch(show: &args::Show) -> Result<bool, Error> {
    let mut engine = Engine::connect(&show.engine).await?;
    let mut last: Option<Run> = None;
    loop {
        let path = match &last {
            None => format!("/v1/runs/{}", show.run),
            Some(run) => format!("/v1/runs/{}?changed={}&wait={LOOK}", show.run, run.records),
        };
        let run: Run = match engine.get(&path).await {
            Ok(run) => run,
            // A pod that ends takes the connection along; the run goes on.
            Err(error) if last.is_some() && error.is_transient() => {
                time::sleep(RETRY).await;
                if let Ok(other) = Engine::connect(&show.engine).await {
                    engine = other;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if last.as_ref().is_none_or(|last| last.records != run.records) {
            if last.is_some() && std::io::stdout().is_terminal() && show.output == Output::Text {
                println!();
            }
            print(&run, show.output);
        }
        if run.ended_at.is_some() {
            return Ok(run.status == "Completed");
        }
        last = Some(run);
    }
}

/// Intervenes in one run, or in all that are meant; one that refuses does not keep the others from it.
async fn intervene(which: &args::Which, verb: &str, body: Intervention) -> Result<bool, Error> {
    let mut engine = Engine::connect(&which.engine).await?;
    let body = Intervention {
        reason: which.reason.clone(),
        ..body
    };
    let Some(run) = &which.run else {
        if !which.all && which.selection.saga.is_none() && which.selection.status.is_none() {
            return Err(Error::NoRuns);
        }
        let (mut before, mut good) = (None, true);
        loop {
            let mut path = which.selection.path(args::MOST_OF_A_PAGE);
            if let Some(before) = &before {
                path += &format!("&before={before}");
            }
            let page: Page = engine.get(&path).await?;
            for run in page.runs.iter().filter(|run| run.ended_at.is_none()) {
                good &= one(&mut engine, &run.id, verb, &body, Output::Text).await?;
            }
            before = page.before;
            if before.is_none() {
                return Ok(good);
            }
        }
    };
    one(&mut engine, run, verb, &body, which.output).await
}

async fn one(
    engine: &mut Engine,
    run: &str,
    verb: &str,
    body: &Intervention,
    output: Output,
) -> Result<bool, Error> {
    match engine
        .post::<_, Run>(&format!("/v1/runs/{run}/{verb}"), body, &[])
        .await
    {
        Ok(run) => {
            print(&run, output);
            Ok(true)
        }
        Err(engine::Error::Refused { status, detail }) => {
            eprintln!("{run}: {status}: {detail}");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn json(what: &'static str, text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|source| Error::Json { what, source })
}

fn print(run: &Run, output: Output) {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(run).unwrap_or_default()),
        Output::Text => print!("{}", timeline::draw(run)),
    }
}
