//! What callers ask for, whatever they ask it by: `handlers` and `grpc` say how it is asked and answered. Whoever is asked does it, or
//! has the replica do it that looks after the run.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::sync::Semaphore;
use tokio::time;
use trellis_chassis::problem::FieldError;
use trellis_chassis::readiness::Readiness;
use trellis_saga_api::runs::{Intervention, ON_BEHALF_OF, Page, Run};
use trellis_saga_core::event::{CallId, Op, Payload, Verb};
use trellis_saga_core::run::Status;
use trellis_saga_engine::engine::{Engine, Request, Started, View, Whereabouts};
use trellis_saga_engine::id::RunId;
use trellis_saga_engine::store::postgres::Postgres;
use trellis_saga_engine::store::{Filter, Store as _};

use crate::access::{Access, Wish};
use crate::error::Error;
use crate::follow::{Following, MOST_FOLLOWED};
use crate::others::{Answer, FORWARDED, Others};
use crate::shown;
use crate::traces::Traces;

/// Longest wait for a run's end: less than a request may take.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// Between looks at a run that another replica looks after.
pub const LOOK: Duration = Duration::from_millis(200);
/// Runs of a page, unless said otherwise, and at most.
const PAGE: (u32, u32) = (50, 500);
const LONGEST_KEY: usize = 256;

/// Runs, for those who may.
#[derive(Clone)]
pub struct Runs {
    engine: Engine<Postgres>,
    access: Arc<Access>,
    others: Others,
    readiness: Readiness,
    traces: Arc<Traces>,
    /// For those who follow runs.
    places: Arc<Semaphore>,
}

/// What came of an operator's wish.
pub enum Intervened {
    /// The run.
    Here(Box<Run>),
    /// What the replica answers that looks after the run.
    Elsewhere(Answer),
}

/// A status of runs as a parameter.
pub struct StatusName(pub Status);

impl FromStr for StatusName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ALL: [Status; 5] = [
            Status::Running,
            Status::Compensating,
            Status::Stuck,
            Status::Completed,
            Status::Compensated,
        ];
        let found = ALL
            .into_iter()
            .find(|status| status.as_ref().eq_ignore_ascii_case(text));
        found
            .map(Self)
            .ok_or_else(|| "must be Running, Compensating, Stuck, Completed or Compensated".to_owned())
    }
}

impl Runs {
    /// Asks the engine, for those who may.
    pub fn new(engine: Engine<Postgres>, access: Access, readiness: Readiness, traces: Arc<Traces>) -> Self {
        Self {
            engine,
            access: Arc::new(access),
            others: Others::default(),
            readiness,
            traces,
            places: Arc::new(Semaphore::new(MOST_FOLLOWED)),
        }
    }

    /// Starts a run, or finds the one of the same key; and whether that was there before. The run is as it is when it has ended, or
    /// after some time.
    pub async fn start(
        &self,
        headers: &HeaderMap,
        request: Request,
        wait: Duration,
    ) -> Result<(View, bool), Error> {
        let caller = self.access.caller(headers).await?;
        self.access
            .allow(&caller, Wish::Start, &request.namespace)
            .await?;
        let Started { run, is_known } = self.engine.start(request).await?;
        if !is_known {
            self.traces.started(run);
        }
        Ok((self.wait(run, wait).await?, is_known))
    }

    /// A run; with `wait` when it has ended or that time is over, with `changed` also when it has another number of records.
    pub async fn get(
        &self,
        headers: &HeaderMap,
        run: &str,
        wait: Option<Duration>,
        changed: Option<u64>,
    ) -> Result<View, Error> {
        let view = self.looked_at(headers, run).await?;
        let run = view.stored.run;
        match (wait, changed) {
            (Some(most), Some(records)) => self.changed(run, records, most).await,
            (Some(most), None) => self.wait(run, most).await,
            (None, _) => Ok(view),
        }
    }

    /// Runs of a namespace, the newest first.
    pub async fn list(&self, headers: &HeaderMap, namespace: &str, filter: Filter) -> Result<Page, Error> {
        let filter = Filter {
            namespace: Some(namespace.to_owned()),
            limit: match filter.limit {
                0 => PAGE.0,
                limit => limit.min(PAGE.1),
            },
            ..filter
        };
        let caller = self.access.caller(headers).await?;
        self.access.allow(&caller, Wish::List, namespace).await?;
        let runs = self.engine.store().list(&filter).await?;
        let last = runs
            .last()
            .filter(|_| runs.len() as u64 == u64::from(filter.limit));
        Ok(Page {
            before: last.map(|run| run.run.to_string()),
            runs: runs.iter().map(shown::summary).collect(),
        })
    }

    /// A run, again and again as it changes, if it has another number of records than those that are `known`.
    pub async fn follow(&self, headers: &HeaderMap, run: &str, known: u64) -> Result<Following, Error> {
        let view = self.looked_at(headers, run).await?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::Crowded(MOST_FOLLOWED))?;
        Ok(Following::new(
            self.clone(),
            self.readiness.clone(),
            view,
            known,
            place,
        ))
    }

    /// Does what an operator wants: `retry`, `retry-from`, `skip`, `force-complete`, `cancel`.
    pub async fn intervene(
        &self,
        headers: &HeaderMap,
        run: &str,
        verb: &str,
        body: &Intervention,
    ) -> Result<Intervened, Error> {
        let id: RunId = run.parse()?;
        let caller = self.access.caller(headers).await?;
        let view = self.view(id).await?;
        let namespace = view.compiled.namespace();
        let who = self.access.allow(&caller, Wish::Intervene, namespace).await?;
        match self.engine.whereabouts(id) {
            Whereabouts::Here => {}
            Whereabouts::At(replica) if !headers.contains_key(&FORWARDED) => {
                let path = format!("/v1/runs/{run}/{verb}");
                let answer = self.others.post(&replica, &path, headers, body).await?;
                return Ok(Intervened::Elsewhere(answer));
            }
            Whereabouts::At(_) | Whereabouts::Nowhere => return Err(Error::Nowhere),
        }
        let wanted = wanted(&view, verb, body)?;
        // Whom a tool speaks for is what it says; who it is itself is proven.
        let who = match headers.get(ON_BEHALF_OF).and_then(|value| value.to_str().ok()) {
            Some(person) => format!("{who} for {person}"),
            None => who,
        };
        self.engine.intervene(id, wanted, &who, &body.reason).await?;
        tracing::info!(run, verb, who, reason = body.reason, "an operator intervened");
        let view = self.view(id).await?;
        Ok(Intervened::Here(Box::new(shown::run(&view))))
    }

    /// A run as it is stored.
    pub async fn view(&self, run: RunId) -> Result<View, Error> {
        let view = self.engine.view(run).await?;
        view.ok_or_else(|| Error::NoRun(run.to_string()))
    }

    /// A run for somebody who may look at it.
    async fn looked_at(&self, headers: &HeaderMap, run: &str) -> Result<View, Error> {
        let run: RunId = run.parse()?;
        let caller = self.access.caller(headers).await?;
        let view = self.view(run).await?;
        let namespace = view.compiled.namespace();
        self.access.allow(&caller, Wish::Look, namespace).await?;
        Ok(view)
    }

    /// The run when it has another number of records, or has ended, or when the time is over.
    async fn changed(&self, run: RunId, records: u64, most: Duration) -> Result<View, Error> {
        let deadline = Instant::now() + most.min(LONGEST_WAIT);
        loop {
            let view = self.view(run).await?;
            let is_news = view.records.len() as u64 != records || view.state.end().is_some();
            let left = deadline.saturating_duration_since(Instant::now());
            if is_news || left.is_zero() {
                return Ok(view);
            }
            time::sleep(LOOK.min(left)).await;
        }
    }

    /// The run when it has ended, or when the time is over.
    async fn wait(&self, run: RunId, most: Duration) -> Result<View, Error> {
        let deadline = Instant::now() + most.min(LONGEST_WAIT);
        loop {
            let view = self.view(run).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if view.state.end().is_some() || left.is_zero() {
                return Ok(view);
            }
            match self.engine.whereabouts(run) {
                Whereabouts::Here => self.engine.ended(run, left).await,
                Whereabouts::At(_) | Whereabouts::Nowhere => time::sleep(LOOK.min(left)).await,
            }
        }
    }
}

/// A key that a run may be started by, from a header or a field.
pub fn key(field: &str, text: &[u8]) -> Result<String, Error> {
    let is_good = (1..=LONGEST_KEY).contains(&text.len())
        && text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    match str::from_utf8(text) {
        Ok(text) if is_good => Ok(text.to_owned()),
        _ => {
            let message = format!("must be 1 to {LONGEST_KEY} printable ASCII characters");
            Err(Error::Invalid(vec![FieldError::new(field, message)]))
        }
    }
}

/// What an operator wants, in the terms of the core.
fn wanted(view: &View, verb: &str, body: &Intervention) -> Result<Verb, Error> {
    let fault = |field: &str, message: String| Error::Invalid(vec![FieldError::new(field, message)]);
    let step = || {
        let named = body.step.as_deref();
        let named = named.ok_or_else(|| fault("step", "must name a step".to_owned()))?;
        let steps = &view.compiled.program.definition.steps;
        let place = steps.iter().position(|step| step.name == named);
        let place = place.and_then(|place| u32::try_from(place).ok());
        place.ok_or_else(|| fault("step", format!("there is no step {named:?}")))
    };
    Ok(match verb {
        "retry" => Verb::Retry,
        "retry-from" => Verb::RetryFrom { step: step()? },
        "skip" => {
            let (step, op) = (
                step()?,
                if body.compensation {
                    Op::Compensation
                } else {
                    Op::Action
                },
            );
            let stuck = view.state.stuck_calls();
            let is_meant = |call: &&CallId| call.step == step && call.item == body.index && call.op == op;
            let call = stuck.iter().find(is_meant).copied().unwrap_or(CallId {
                step,
                item: body.index,
                op,
                incarnation: view.state.incarnation(step as usize),
            });
            if op == Op::Action {
                view.compiled
                    .program
                    .check_output(step as usize, body.output.as_ref())
                    .map_err(|error| fault("output", error.to_string()))?;
            }
            let output = body
                .output
                .as_ref()
                .map(|output| Payload(output.to_string().into()));
            Verb::Skip { call, output }
        }
        "force-complete" => Verb::ForceComplete,
        "cancel" => Verb::Cancel,
        other => {
            let known = "retry, retry-from, skip, force-complete, cancel";
            return Err(fault("verb", format!("{other:?} is none of {known}")));
        }
    })
}
