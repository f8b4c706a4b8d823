//! A participant that hangs, and the runs of others.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use futures::future::join_all;
use trellis_saga_core::{
    event::{Outcome, Payload},
    run::Status,
};
use trellis_saga_engine::{
    engine::Request,
    id::PARTITIONS,
    participants::{Participants, Try},
    store::{Revision, Store as _, postgres::Postgres},
};
use trellis_testkit::wait;

use crate::{
    common,
    process::{Process, request},
};

/// One of them never answers.
#[derive(Default)]
struct OneHangs(AtomicUsize);

impl Participants for OneHangs {
    async fn call(&self, a_try: Try) -> Outcome {
        if a_try
            .definition()
            .is_some_and(|call| call.call.microservice == "hangs")
        {
            self.0.fetch_add(1, Ordering::Relaxed);
            return future::pending().await;
        }
        Outcome::Done(Some(Payload::from("{}")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_hangs_does_not_delay_the_runs_of_another() {
    let (_database, options) = common::database().await;
    let store = Postgres::new(&options);
    store.put_revision(&common::revision("order", 3)).await.unwrap();
    let hanging = common::revision("hanging", 1);
    let hanging = Revision {
        definition: hanging
            .definition
            .replace(r#""microservice":"shop""#, r#""microservice":"hangs""#),
        ..hanging
    };
    store.put_revision(&hanging).await.unwrap();
    let participants = Arc::<OneHangs>::default();
    let process = Process::with_room(&options, &participants, "a", 2_000)
        .await
        .owning(PARTITIONS.into())
        .await;
    let begin = async |saga: &str, count: usize| {
        let start = async |key: usize| {
            let request = Request {
                saga: saga.to_owned(),
                ..request(&format!("{saga}-{key}"), "fine")
            };
            process.engine.start(request).await.unwrap().run.to_string()
        };
        join_all((0..count).map(start)).await
    };
    begin("hanging", 800).await;
    wait::until("its lane is full", async || {
        participants.0.load(Ordering::Relaxed) >= 128
    })
    .await;
    let since = Instant::now();
    for run in begin("order", 200).await {
        process.until(&run, Status::Completed).await;
    }
    println!("200 runs beside 800 that hang: {:?}", since.elapsed());
    // None of their tries has ended: each may take 5 s.
    assert!(since.elapsed().as_secs() < 5);
    assert_eq!(participants.0.load(Ordering::Relaxed), 128);
    process.stop().await;
}
