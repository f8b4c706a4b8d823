//! Values that are never shown.

use std::sync::{Arc, Mutex};

use serde_json::json;
use trellis_saga_core::{
    event::{Cause, Event, Op, Outcome, Payload, Verb},
    run::Status,
};
use trellis_saga_engine::{
    definitions::Compiled,
    engine::View,
    id::{PARTITIONS, RunId},
    observe::Observe,
    participants::{Asked, Participants, Try},
    store::{Store as _, postgres::Postgres},
};
use trellis_testkit::wait;

use crate::{
    common,
    process::{MOST_RUNS, Process},
};

const SECRET: &str = "4111111111111111";

/// Participants that say again what they were sent, in every way that they can.
struct Indiscreet;

impl Participants for Indiscreet {
    async fn call(&self, a_try: Try) -> Outcome {
        let Asked::Do(request) = &a_try.request else {
            return Outcome::Failed("nothing is worked on".into());
        };
        let said = format!("409 Conflict: {} is declined", request.path);
        match (a_try.call.op, a_try.call.step, a_try.attempt) {
            (Op::Action, 0, 1) => {
                Outcome::Done(Some(Payload(json!({request.path.clone(): 1}).to_string().into())))
            }
            (Op::Action, 0, _) => Outcome::Done(Some(Payload::from("{}"))),
            (Op::Action, _, 1) => Outcome::Retry {
                condition: trellis_saga_core::definition::RetryCondition::ServerError,
                after: None,
                detail: said.into(),
            },
            _ => Outcome::Failed(said.into()),
        }
    }
}

/// What a webhook would be told.
#[derive(Default)]
struct Heard(Mutex<Vec<Cause>>);

impl Observe for Heard {
    fn stuck(&self, _: &Compiled, _: RunId, causes: &[Cause]) {
        self.0.lock().unwrap().extend_from_slice(causes);
    }
}

/// Everything that is kept of a run besides payloads.
fn kept(view: &View) -> Vec<String> {
    let details = view.records.iter().filter_map(|record| match &record.event {
        Event::Answered {
            outcome: Outcome::Failed(detail) | Outcome::Retry { detail, .. },
            ..
        } => Some(detail.to_string()),
        _ => None,
    });
    let causes = view.state.causes().iter().map(|cause| cause.detail.to_string());
    details.chain(causes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_is_in_no_detail_of_a_run_and_without_secrets_all_is_kept() {
    for (secret, is_kept) in [(json!(["input.id"]), false), (json!([]), true)] {
        let (_database, options) = common::database().await;
        // Its first step answers an object of numbers, at first one of something else.
        let mut revision = common::revision_with("order", 2, &json!({"secret": secret}));
        let schema = json!({"schema": {"type": "object", "additionalProperties": {"type": "string"}}});
        let mut definition: serde_json::Value = serde_json::from_str(&revision.definition).unwrap();
        definition["steps"][0]["output"] = schema;
        revision.definition = definition.to_string();
        Postgres::new(&options).put_revision(&revision).await.unwrap();
        let heard = Arc::<Heard>::default();
        let observer: Arc<dyn Observe> = heard.clone();
        let process = Process::heard_by(&options, &Arc::new(Indiscreet), "a", MOST_RUNS, observer)
            .await
            .owning(PARTITIONS.into())
            .await;
        let run = process.run("1", SECRET).await;
        // The pivot is refused, and so is the compensation.
        process.until(&run, Status::Stuck).await;
        wait::until("somebody hears of it", async || {
            !heard.0.lock().unwrap().is_empty()
        })
        .await;
        let view = process.engine.view(run.parse().unwrap()).await.unwrap().unwrap();
        let mut all = kept(&view);
        let told: Vec<_> = heard
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|cause| cause.detail.to_string())
            .collect();
        assert_eq!((all.len(), told.len()), (6, 2), "{all:?} {told:?}");
        all.extend(told);
        let shown = all.iter().filter(|detail| detail.contains(SECRET)).count();
        assert_eq!(shown, if is_kept { all.len() } else { 0 }, "{all:#?}");
        process
            .engine
            .intervene(run.parse().unwrap(), Verb::ForceComplete, "ada", "no hope")
            .await
            .unwrap();
        process.stop().await;
    }
}
