//! One trace a run.

use http::StatusCode;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic::{Code, Request};
use trellis_saga_api::v1::GetRequest;
use trellis_saga_engine::id::RunId;
use trellis_testkit::otlp::{Collector, Span};
use trellis_testkit::wait;

use crate::stage::Stage;

const CALLER: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: (&str, &str) = (
    "traceparent",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
);

/// The trace of a run.
fn trace_of(run: &str) -> String {
    let RunId(id) = run.parse().unwrap();
    format!("{id:032x}")
}

fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", span.trace_id, span.span_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_is_a_trace_with_a_span_a_try_and_links_over_retries() {
    let (stage, collector) = (Stage::new().await, Collector::start().await);
    let exporter = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint());
    let mut replica = stage.replica("saga-0", &[exporter]);
    let refused = [StatusCode::SERVICE_UNAVAILABLE];
    stage.participants.answer("first action", refused);
    stage.participants.open(false);
    let run = replica.start(&[PARENT]).await;
    stage.participants.open(true);
    replica.until(&run, "Completed").await;
    assert_eq!(replica.process.leave(), Some(0));

    let trace = collector.trace(&trace_of(&run));
    let root = trace.iter().find(|span| span.parent_id.is_none()).unwrap();
    assert_eq!((&*root.name, root.is_error), ("move", false));
    assert_eq!(root.attribute("saga.outcome"), "completed");
    assert_eq!(root.attribute("saga.run"), run);
    let tries: Vec<&Span> = trace.iter().filter(|span| span.parent_id.is_some()).collect();
    let told: Vec<_> = tries
        .iter()
        .map(|span| {
            assert_eq!(
                (span.kind, span.parent_id.as_ref()),
                (SpanKind::Client, Some(&root.span_id))
            );
            assert!(root.times.0 <= span.times.0 && span.times.1 <= root.times.1);
            let of = |name: &str| span.attribute(&format!("saga.{name}")).to_owned();
            let status = span.attribute("http.response.status_code").to_owned();
            (
                span.name.clone(),
                of("attempt"),
                of("outcome"),
                status,
                span.is_error,
            )
        })
        .collect();
    let expected = [
        ("first action", "1", "retry", "503", true),
        ("first action", "2", "done", "200", false),
        ("last action", "1", "done", "200", false),
    ];
    let expected = expected.map(|(name, attempt, outcome, status, is_error)| {
        (
            name.to_owned(),
            attempt.to_owned(),
            outcome.to_owned(),
            status.to_owned(),
            is_error,
        )
    });
    assert_eq!(told, expected);
    let before = (trace_of(&run), tries[0].span_id.clone());
    assert_eq!(
        [&tries[0].links, &tries[1].links, &tries[2].links],
        [&vec![], &vec![before], &vec![]]
    );

    let seen = stage.participants.seen();
    let sent: Vec<_> = seen
        .iter()
        .map(|headers| headers["traceparent"].clone())
        .collect();
    let spans: Vec<_> = tries.iter().map(|span| traceparent(span)).collect();
    assert_eq!(sent, spans);

    let callers = collector.trace(CALLER);
    let started = callers
        .iter()
        .find(|span| span.attribute("saga.run") == run)
        .unwrap();
    assert_eq!(started.kind, SpanKind::Server);
    assert_eq!(started.links, [(trace_of(&run), root.span_id.clone())]);
    assert_eq!(root.links, [(CALLER.to_owned(), started.span_id.clone())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_is_taken_back_is_an_error_in_its_trace() {
    let (stage, collector) = (Stage::new().await, Collector::start().await);
    let exporter = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint());
    let mut replica = stage.replica("saga-0", &[exporter]);
    stage.participants.answer("last action", [StatusCode::CONFLICT]);
    let run = replica.start(&[]).await;
    replica.until(&run, "Compensated").await;
    assert_eq!(replica.process.leave(), Some(0));
    let trace = collector.trace(&trace_of(&run));
    let of = |name: &str| trace.iter().find(|span| span.name == name).unwrap();
    assert_eq!(of("move").attribute("saga.outcome"), "compensated");
    assert_eq!(of("last action").attribute("saga.outcome"), "failed");
    assert!(of("move").is_error && of("last action").is_error);
    assert_eq!(of("first compensation").attribute("saga.op"), "compensation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_try_without_an_answer_has_a_span_that_says_so() {
    let (stage, collector) = (Stage::new().await, Collector::start().await);
    let exporter = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint());
    let mut replica = stage.replica("saga-0", &[exporter]);
    stage.participants.open(false);
    let run = replica.start(&[]).await;
    wait::until("it is tried again", async || stage.participants.seen().len() > 1).await;
    stage.participants.open(true);
    replica.until(&run, "Completed").await;
    assert_eq!(replica.process.leave(), Some(0));
    let trace = collector.trace(&trace_of(&run));
    let first = trace.iter().find(|span| span.attribute("saga.attempt") == "1");
    let first = first.unwrap();
    assert_eq!((&*first.name, first.is_error), ("first action", true));
    assert_eq!(
        (first.attribute("saga.outcome"), first.attribute("error.type")),
        ("retry", "Timeout")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_span_of_a_request_by_grpc_says_how_it_ended() {
    let (stage, collector) = (Stage::new().await, Collector::start().await);
    let exporter = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint());
    let mut replica = stage.replica("saga-0", &[exporter]);
    let mut asked = Request::new(GetRequest {
        run: "01JD2X3Y4Z5A6B7C8D9E0F1G2H".to_owned(),
        wait_seconds: 0,
    });
    let metadata = [("authorization", "Bearer shop:order"), PARENT];
    for (name, value) in metadata {
        asked.metadata_mut().insert(name, value.parse().unwrap());
    }
    let status = replica.runs().get(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(replica.process.leave(), Some(0));
    let spans = collector.trace(CALLER);
    assert_eq!(spans[0].name, "POST /trellis.saga.v1.Runs/Get");
    assert_eq!(spans[0].attribute("rpc.grpc.status_code"), "5");
    assert!(!spans[0].is_error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_is_not_sampled_says_so_and_leaves_no_span() {
    let (stage, collector) = (Stage::new().await, Collector::start().await);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint()),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    let mut replica = stage.replica("saga-0", &variables);
    let run = replica.start(&[PARENT]).await;
    replica.until(&run, "Completed").await;
    assert_eq!(replica.process.leave(), Some(0));
    assert!(collector.trace(&trace_of(&run)).is_empty());
    // The caller's trace is sampled, and its own.
    assert!(!collector.trace(CALLER).is_empty());
    for headers in stage.participants.seen() {
        let sent = headers["traceparent"].to_str().unwrap();
        assert!(sent.starts_with(&format!("00-{}-", trace_of(&run))), "{sent}");
        assert!(sent.ends_with("-00"), "{sent}");
    }
}
