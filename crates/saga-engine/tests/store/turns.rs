//! Runs of a saga with `concurrency`, and what a run may keep.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use futures::future::join_all;
use serde_json::json;
use tokio::sync::watch;
use trellis_saga_core::{
    event::{Op, Outcome, Payload, Verb},
    run::Status,
};
use trellis_saga_engine::{
    engine::{Refusal, StartError},
    id::PARTITIONS,
    participants::{Participants, Try},
    store::{Store as _, postgres::Postgres},
};
use trellis_testkit::wait;

use crate::{
    common,
    process::{Process, request},
};

/// Runs under way at once.
const MOST: usize = 3;

/// Participants that count the runs under way, and let none end before there were as many as there may be.
struct Counting {
    under_way: Mutex<BTreeSet<String>>,
    most: watch::Sender<usize>,
}

impl Counting {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            under_way: Mutex::default(),
            most: watch::Sender::new(0),
        })
    }
}

impl Participants for Counting {
    async fn call(&self, a_try: Try) -> Outcome {
        let count = {
            let mut under_way = self.under_way.lock().unwrap();
            under_way.insert(a_try.run.to_string());
            under_way.len()
        };
        self.most.send_if_modified(|most| {
            let is_more = count > *most;
            *most = (*most).max(count);
            is_more
        });
        let is_last = a_try.call.step as usize + 1 == a_try.compiled.program.definition.steps.len();
        if is_last && a_try.call.op == Op::Action {
            let mut most = self.most.subscribe();
            most.wait_for(|most| *most >= MOST).await.unwrap();
            self.under_way.lock().unwrap().remove(&a_try.run.to_string());
        }
        Outcome::Done(Some(Payload::from("{}")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_replicas_no_more_runs_are_under_way_than_the_saga_says_and_all_have_their_turn() {
    let (_database, options) = common::database().await;
    let revision = common::revision_with("order", 3, &json!({"concurrency": MOST}));
    Postgres::new(&options).put_revision(&revision).await.unwrap();
    let counting = Counting::new();
    let first = Process::start(&options, &counting, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    let second = Process::start(&options, &counting, "b").await.owning(32).await;
    let first = first.owning(32).await;
    let keys: Vec<String> = (0..40).map(|key| key.to_string()).collect();
    let started = keys.iter().enumerate().map(|(place, key)| {
        let process = if place % 2 == 0 { &first } else { &second };
        process.run(key, "fine")
    });
    let runs = join_all(started).await;
    // What one replica leaves the other goes on with.
    first.stop().await;
    let second = second.owning(PARTITIONS.into()).await;
    for run in &runs {
        second.until(run, Status::Completed).await;
    }
    let most = *counting.most.borrow();
    println!("{} runs, {most} at once", runs.len());
    assert_eq!(most, MOST);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_is_cancelled_at_once_and_the_others_go_on_when_the_limit_is_lifted() {
    let (_database, options) = common::database().await;
    let store = Postgres::new(&options);
    let limited = common::revision_with("order", 2, &json!({"concurrency": 1}));
    store.put_revision(&limited).await.unwrap();
    let shop = Arc::<common::Shop>::default();
    let process = Process::start(&options, &shop, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    let away = process.run("1", "away").await;
    wait::until("the first has begun", async || shop.of(&away).0 > 0).await;
    let (second, third) = (process.run("2", "fine").await, process.run("3", "fine").await);
    process
        .engine
        .intervene(second.parse().unwrap(), Verb::Cancel, "ada", "no hope")
        .await
        .unwrap();
    process.until(&second, Status::Compensated).await;
    let view = process
        .engine
        .view(third.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(view.state.is_queued() && view.stored.standing.is_queued);
    assert_eq!((shop.of(&second), shop.of(&third)), ((0, 0), (0, 0)));

    let lifted = common::revision("order", 2);
    let id = store.put_revision(&lifted).await.unwrap();
    process.engine.definitions().put(id, &lifted).unwrap();
    process.until(&third, Status::Completed).await;
    assert_eq!(process.status(&away).await, Status::Running);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_over_runs_that_wait_lets_them_have_their_turn() {
    let (_database, options) = common::database().await;
    let revision = common::revision_with("order", 2, &json!({"concurrency": 1}));
    Postgres::new(&options).put_revision(&revision).await.unwrap();
    let shop = Arc::<common::Shop>::default();
    let first = Process::start(&options, &shop, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    let away = first.run("1", "away").await;
    wait::until("the first has begun", async || shop.of(&away).0 > 0).await;
    let waits = first.run("2", "fine").await;
    first.stop().await;
    let second = Process::start(&options, &shop, "b")
        .await
        .owning(PARTITIONS.into())
        .await;
    assert_eq!(shop.of(&waits), (0, 0));
    second
        .engine
        .intervene(away.parse().unwrap(), Verb::ForceComplete, "ada", "no hope")
        .await
        .unwrap();
    second.until(&waits, Status::Completed).await;
    second.stop().await;
}

/// A participant with long answers.
struct Verbose;

impl Participants for Verbose {
    async fn call(&self, _: Try) -> Outcome {
        let long = "x".repeat(2 * 1024 * 1024);
        Outcome::Done(Some(Payload(json!(long).to_string().into())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_no_more_than_it_may() {
    let (_database, options) = common::database().await;
    let revision = common::revision("order", 3);
    Postgres::new(&options).put_revision(&revision).await.unwrap();
    let process = Process::start(&options, &Arc::new(Verbose), "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    let refused = process
        .engine
        .start(request("1", &"x".repeat(5 * 1024 * 1024)))
        .await;
    assert!(matches!(refused, Err(Refusal::Start(StartError::TooLarge(_)))));
    // The second answer is too much. It may have been done: it is tried again, as its retries say.
    let run = process.run("2", "fine").await;
    let detail = async || {
        let view = process.engine.view(run.parse().unwrap()).await.unwrap().unwrap();
        let mut details = view.records.iter().filter_map(|record| match &record.event {
            trellis_saga_core::event::Event::Answered {
                outcome: Outcome::Retry { detail, .. },
                call,
                ..
            } => Some((call.step, detail.to_string())),
            _ => None,
        });
        details.next()
    };
    wait::until("an answer was too long", async || detail().await.is_some()).await;
    let (step, detail) = detail().await.unwrap();
    assert!(
        step == 1 && detail.contains("more than the 4194304 that it may"),
        "{step}: {detail}"
    );
    process.stop().await;
}
