//! Runs by gRPC.

use tonic::{Code, Request};
use tonic_types::StatusExt;
use trellis_saga_api::v1::intervene_request::Verb;
use trellis_saga_api::v1::{self, GetRequest, InterveneRequest, ListRequest, StartRequest, WatchRequest};
use trellis_testkit::wait;

use crate::stage::{Replica, Stage};
use crate::stand_ins::SAGA;

/// A request of somebody.
fn of<T>(who: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = format!("Bearer {who}").parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    request
}

fn start(key: &str, input: &str) -> StartRequest {
    StartRequest {
        namespace: "shop".to_owned(),
        saga: SAGA.to_owned(),
        idempotency_key: key.to_owned(),
        input: input.to_owned(),
        wait_seconds: 8,
    }
}

fn intervene(run: &str, verb: Verb) -> InterveneRequest {
    InterveneRequest {
        run: run.to_owned(),
        reason: "a test".to_owned(),
        verb: Some(verb),
    }
}

/// A run whose first step is not done.
async fn held(stage: &Stage, replica: &Replica) -> String {
    stage.participants.hold("first action");
    replica.start(&[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_is_started_looked_at_and_listed() {
    let stage = Stage::new().await;
    let replica = stage.replica("saga-0", &[]);
    let mut runs = replica.runs();
    let asked = of("shop:order", start("order-7", r#"{"id": "7"}"#));
    let v1::StartResponse { run, is_known } = runs.start(asked).await.unwrap().into_inner();
    let run = run.unwrap();
    assert_eq!((&*run.status, is_known), ("Completed", false));
    assert_eq!((&*run.key, run.calls.len()), ("order-7", 2));

    let asked = of("shop:order", start("order-7", r#"{"id": "7"}"#));
    let again = runs.start(asked).await.unwrap().into_inner();
    assert_eq!((again.run.unwrap().id, again.is_known), (run.id.clone(), true));

    let get = GetRequest {
        run: run.id.clone(),
        wait_seconds: 0,
    };
    let found = runs.get(of("shop:order", get)).await.unwrap().into_inner();
    assert_eq!(found, run);

    let list = ListRequest {
        namespace: "shop".to_owned(),
        status: "completed".to_owned(),
        ..ListRequest::default()
    };
    let page = runs.list(of("shop:order", list)).await.unwrap().into_inner();
    assert_eq!(page.runs.len(), 1);
    assert_eq!(
        (&page.runs[0].id, &page.runs[0].ended_at),
        (&run.id, &run.ended_at)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_done_has_the_code_and_the_text_that_say_why() {
    let stage = Stage::new().await;
    let replica = stage.replica("saga-0", &[]);
    let mut runs = replica.runs();
    let asked = of("shop:order", start("order-7", r#"{"id": "7"}"#));
    runs.start(asked).await.unwrap();
    let unknown = StartRequest {
        saga: "nothing".to_owned(),
        ..start("", r#"{"id": "7"}"#)
    };
    for (who, asked, code, text) in [
        (
            "shop:order",
            start("order-7", r#"{"id": "8"}"#),
            Code::AlreadyExists,
            "was started by the same key with another input",
        ),
        (
            "shop:order",
            unknown,
            Code::NotFound,
            "there is no saga nothing in namespace shop",
        ),
        (
            "store:order",
            start("", r#"{"id": "7"}"#),
            Code::PermissionDenied,
            "system:serviceaccount:store:order may not create sagas/runs in namespace shop",
        ),
        (
            "nobody",
            start("", r#"{"id": "7"}"#),
            Code::Unauthenticated,
            "failed to accept the token",
        ),
    ] {
        let status = runs.start(of(who, asked)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    for (key, input, field) in [
        ("", r#"{"id": 7}"#, "input"),
        ("", "{", "input"),
        ("a\nb", r#"{"id": "7"}"#, "idempotency_key"),
    ] {
        let status = runs.start(of("shop:order", start(key, input))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field, "{status}");
    }
    let unproven = runs.list(Request::new(ListRequest::default())).await.unwrap_err();
    assert_eq!(unproven.code(), Code::InvalidArgument, "{unproven}");
    let list = ListRequest {
        namespace: "shop".to_owned(),
        ..ListRequest::default()
    };
    let unproven = runs.list(Request::new(list)).await.unwrap_err();
    assert_eq!(unproven.code(), Code::Unauthenticated, "{unproven}");
    for (run, code) in [
        ("x", Code::NotFound),
        ("01JD2X3Y4Z5A6B7C8D9E0F1G2H", Code::NotFound),
    ] {
        let watch = WatchRequest {
            run: run.to_owned(),
            records: 0,
        };
        let status = runs.watch(of("shop:order", watch)).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_is_watched_until_it_has_ended() {
    let stage = Stage::new().await;
    let replica = stage.replica("saga-0", &[]);
    let run = held(&stage, &replica).await;
    let watch = WatchRequest {
        run: run.clone(),
        records: 0,
    };
    let watched = replica.runs().watch(of("shop:order", watch)).await.unwrap();
    let mut watched = watched.into_inner();
    let (mut records, mut changes) = (0, 0);
    let last = loop {
        let run = watched.message().await.unwrap().unwrap();
        assert!(run.records > records, "{run:?}");
        records = run.records;
        changes += 1;
        if changes == 2 {
            stage.participants.release("first action");
        }
        if !run.ended_at.is_empty() {
            break run;
        }
        assert_eq!(run.status, "Running");
    };
    assert_eq!((&*last.status, &last.id), ("Completed", &run));
    assert_eq!(watched.message().await.unwrap(), None);
    // Who knows all of it is told nothing more.
    let watch = WatchRequest { run, records };
    let watched = replica.runs().watch(of("shop:order", watch)).await.unwrap();
    assert_eq!(watched.into_inner().message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_is_asked_has_the_owner_do_what_an_operator_wants() {
    let stage = Stage::new().await;
    let mut owner = stage.replica("saga-0", &[]);
    let mut other = stage.replica("saga-1", &[]);
    other.has_its_part(2);
    let run = held(&stage, &owner).await;

    let denied = intervene(&run, Verb::Cancel(v1::Cancel {}));
    let denied = other
        .runs()
        .intervene(of("shop:order", denied))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");

    let cancel = of("shop:people", intervene(&run, Verb::Cancel(v1::Cancel {})));
    let cancelled = other.runs().intervene(cancel).await.unwrap().into_inner();
    assert_eq!(cancelled.interventions[0].verb, "cancel");
    assert_eq!(owner.process.line("an operator intervened")["run"], run);
    other.until(&run, "Compensated").await;

    let no_step = v1::Skip {
        step: "none".to_owned(),
        ..v1::Skip::default()
    };
    for (replica, run) in [(&owner, run.clone()), (&other, run)] {
        let late = intervene(&run, Verb::Cancel(v1::Cancel {}));
        let late = replica
            .runs()
            .intervene(of("shop:people", late))
            .await
            .unwrap_err();
        assert!(
            matches!(late.code(), Code::Unavailable | Code::FailedPrecondition),
            "{late}"
        );
        let wrong = intervene(&run, Verb::Skip(no_step.clone()));
        let wrong = replica
            .runs()
            .intervene(of("shop:people", wrong))
            .await
            .unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong}");
        let violations = wrong.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "step");
        assert!(wrong.message().contains("there is no step \"none\""), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replica_that_leaves_lets_its_watchers_go() {
    let stage = Stage::new().await;
    let mut replica = stage.replica("saga-0", &[]);
    let run = held(&stage, &replica).await;
    let watch = WatchRequest { run, records: 0 };
    let watched = replica.runs().watch(of("shop:order", watch)).await.unwrap();
    let mut watched = watched.into_inner();
    watched.message().await.unwrap().unwrap();
    let left = tokio::task::spawn_blocking(move || replica.process.leave());
    let status = loop {
        match watched.message().await {
            Ok(run) => assert!(run.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("this replica leaves"), "{status}");
    wait::until("it has left", async || left.is_finished()).await;
    assert_eq!(left.await.unwrap(), Some(0));
}
