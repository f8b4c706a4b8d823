//! Engines over one store in PostgreSQL: they share partitions, go on where another ended, and do nothing twice.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use trellis_saga_core::{event::Verb, run::Status};
use trellis_saga_engine::{
    engine::{Refusal, Request, StartError, Whereabouts},
    id::PARTITIONS,
    store::{Filter, Store as _},
};
use trellis_testkit::wait;

use crate::process::{MOST_RUNS, Process, request, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_completed_or_compensated_and_a_key_is_one_run() {
    let (_database, options, shop) = world().await;
    let process = Process::start(&options, &shop, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    let good = process.run("1", "fine").await;
    process
        .engine
        .ended(good.parse().unwrap(), Duration::from_secs(10))
        .await;
    assert_eq!(process.status(&good).await, Status::Completed);
    assert_eq!(shop.of(&good), (3, 0));

    let bad = process.run("2", "refuse").await;
    process.until(&bad, Status::Compensated).await;
    assert_eq!(shop.of(&bad), (2, 2));

    let again = process.engine.start(request("1", "fine")).await.unwrap();
    assert_eq!((again.run.to_string(), again.is_known), (good.clone(), true));
    let other = process.engine.start(request("1", "other")).await;
    assert!(matches!(other, Err(Refusal::Conflict(run)) if run.to_string() == good));
    let wrong = Request {
        input: Some(json!({"id": 7})),
        ..request("3", "")
    };
    let wrong = process.engine.start(wrong).await.unwrap_err();
    assert!(matches!(wrong, Refusal::Input(_)), "{wrong}");
    let none = Request {
        saga: "none".to_owned(),
        ..request("4", "")
    };
    assert!(matches!(
        process.engine.start(none).await,
        Err(Refusal::NoSaga { .. })
    ));

    let listed = process
        .engine
        .store()
        .list(&Filter {
            limit: 10,
            ..Filter::default()
        })
        .await
        .unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|run| (run.run.to_string(), run.standing.status))
        .collect();
    assert_eq!(listed, [(bad, Status::Compensated), (good, Status::Completed)]);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_not_refused_for_good_while_the_store_cannot_say_what_has_begun_by_its_key() {
    let (database, options, shop) = world().await;
    let process = Process::start(&options, &shop, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    let run = process.run("1", "fine").await;
    process.until(&run, Status::Completed).await;
    let wrong = || Request {
        input: Some(json!({"id": 7})),
        ..request("1", "")
    };

    database.go_away().await;
    let unknown = process.engine.start(wrong()).await.unwrap_err();
    assert!(matches!(unknown, Refusal::Store(_)), "{unknown}");

    database.come_back().await;
    wait::until("the store says which run has the key", async || {
        matches!(process.engine.start(wrong()).await, Err(Refusal::Conflict(known)) if known.to_string() == run)
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_no_more_runs_of_a_saga_than_it_may_and_what_has_ended_goes_when_its_time_has_come() {
    let (_database, options, shop) = world().await;
    let process = Process::start(&options, &shop, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    for key in 0..MOST_RUNS / 2 {
        process.run(&key.to_string(), "away").await;
    }
    let refused = process.engine.start(request("more", "fine")).await.unwrap_err();
    assert!(
        matches!(refused, Refusal::Start(StartError::FullOfSaga(runs)) if runs == MOST_RUNS / 2),
        "{refused}"
    );
    let all = Filter {
        limit: 1000,
        ..Filter::default()
    };
    for run in process.engine.store().list(&all).await.unwrap() {
        process
            .engine
            .intervene(run.run, Verb::ForceComplete, "ada", "no hope")
            .await
            .unwrap();
    }
    wait::until("there is room", async || process.engine.runs() == 0).await;
    process.run("more", "fine").await;
    // They are kept for a second.
    wait::until("all are gone", async || {
        process.engine.purge().await.unwrap();
        process.engine.store().list(&all).await.unwrap().is_empty()
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_partitions_and_go_on_where_another_ended() {
    let (_database, options, shop) = world().await;
    let first = Process::start(&options, &shop, "a")
        .await
        .owning(PARTITIONS.into())
        .await;
    // Their pivot cannot be reached: they go on for as long as it takes.
    let mut runs = Vec::new();
    for key in 0..20 {
        runs.push(first.run(&key.to_string(), "away").await);
    }
    let second = Process::start(&options, &shop, "b").await.owning(32).await;
    let first = first.owning(32).await;
    // Whoever starts a run has it, and each knows where the others' are.
    let here = second.run("here", "fine").await;
    second.until(&here, Status::Completed).await;
    assert_eq!(
        second.engine.whereabouts(here.parse().unwrap()),
        Whereabouts::Here
    );
    wait::until("the first knows of the second", async || {
        matches!(first.engine.whereabouts(here.parse().unwrap()), Whereabouts::At(replica) if replica.name == "b")
    })
    .await;
    // The same key elsewhere is the same run.
    let again = first.engine.start(request("here", "fine")).await.unwrap();
    assert_eq!((again.run.to_string(), again.is_known), (here, true));
    first.stop().await;
    let second = second.owning(PARTITIONS.into()).await;
    for run in &runs {
        assert_eq!(second.status(run).await, Status::Running);
        assert_eq!(shop.of(run), (2, 0), "what was done is not done again");
    }
    // An operator turns one back: nobody knows whether the pivot was done, so that is refused as long as it is tried.
    let run = runs[0].parse().unwrap();
    let refused = second.engine.intervene(run, Verb::Cancel, "ada", "no hope").await;
    assert!(refused.is_err());
    second
        .engine
        .intervene(run, Verb::ForceComplete, "ada", "no hope")
        .await
        .unwrap();
    second.until(&runs[0], Status::Completed).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_vanishes_is_succeeded_when_its_lease_is_over() {
    let (_database, options, shop) = world().await;

    let (there, gone) = (options.clone(), Arc::clone(&shop));
    let vanishing = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let runs = runtime.block_on(async {
            let process = Process::start(&there, &gone, "a")
                .await
                .owning(PARTITIONS.into())
                .await;
            let mut runs = Vec::new();
            for key in 0..50 {
                runs.push(
                    process
                        .run(&key.to_string(), if key % 2 == 0 { "fine" } else { "refuse" })
                        .await,
                );
            }
            runs
        });
        // Every task of it ends where it is.
        runtime.shutdown_background();
        runs
    });
    let runs = vanishing.await.unwrap();
    let second = Process::start(&options, &shop, "b")
        .await
        .owning(PARTITIONS.into())
        .await;
    for (run, expected) in runs
        .iter()
        .zip([Status::Completed, Status::Compensated].into_iter().cycle())
    {
        second.until(run, expected).await;
    }
    second.stop().await;
}
