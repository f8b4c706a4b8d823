//! All policies around one service, in the order of the contract, on a clock that the tests move.

#![allow(clippy::unwrap_used)]

mod places;
mod support;

use std::{num::NonZeroU32, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use support::{Backend, Collected, Failure, Other, Policies, Trouble, get, nothing, put, seconds, status};
use tokio::time::{self, Instant};
use tower::{ServiceExt, service_fn};
use trellis_resilience::{
    breaker::{self, Transition, layer::SharedBreaker},
    budget,
    bulkhead::{self, layer::SharedBulkhead},
    deadline::{self, Elapsed, wire},
    fallback::{self, Otherwise},
    outcome::Refusal,
    percent::Percent,
    retry::{Condition, Decision, Kept, layer::SharedBudget, replay::ReplayBody},
};

#[tokio::test(start_paused = true)]
async fn a_service_that_refuses_opens_the_breaker_after_five_tries_and_one_probe_closes_it() {
    let policies = Policies::new();
    let backend = Backend::new(Trouble::Refuse);
    let stack = policies.around(&backend);
    // Two tries each.
    assert_eq!(status(&stack, get()).await, Err(Failure::Connect));
    assert_eq!(status(&stack, get()).await, Err(Failure::Connect));
    let open = Err(Failure::Refused(Refusal::BreakerOpen));
    assert_eq!(status(&stack, get()).await, open, "the second try is refused");
    assert_eq!(backend.tries(), 5);
    for _ in 0..100 {
        assert_eq!(status(&stack, get()).await, open);
    }
    assert_eq!(backend.tries(), 5, "open calls nobody");

    time::advance(seconds(61)).await;
    backend.becomes(Trouble::Hang);
    let probe = tokio::spawn({
        let stack = stack.clone();
        async move { status(&stack, get()).await }
    });
    tokio::task::yield_now().await;
    for _ in 0..100 {
        assert_eq!(status(&stack, get()).await, open);
    }
    assert_eq!(backend.tries(), 6, "one probe");
    // Its caller goes away; the next one is asked instead.
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    backend.becomes(Trouble::None);
    assert_eq!(status(&stack, get()).await, Ok(200));
    assert_eq!(status(&stack, get()).await, Ok(200));
    assert_eq!(
        *policies.transitions.lock().unwrap(),
        [Transition::OpenedByFailures, Transition::Closed]
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_is_left_at_the_deadline_and_the_next_hop_was_told_of_it() {
    let mut policies = Policies::new();
    policies.deadline = deadline::Settings {
        total: Some(seconds(2)),
        per_try: Some(Duration::from_millis(500)),
    };
    policies.retry.on = vec![Condition::Timeout];
    policies.retry.attempts = NonZeroU32::new(10).unwrap();
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let start = Instant::now();
    let result = status(&stack, get()).await;
    assert_eq!(result, Err(Failure::Elapsed(Elapsed::Request)));
    assert_eq!(start.elapsed(), seconds(2));
    assert!((3..=4).contains(&backend.tries()), "{} tries", backend.tries());

    backend.becomes(Trouble::None);
    let mut request = get();
    request
        .headers_mut()
        .insert(wire::DEADLINE, HeaderValue::from_static("200"));
    assert_eq!(status(&stack, request).await, Ok(200));
    assert_eq!(status(&stack, get()).await, Ok(200));
    let told: Vec<_> = backend
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.1.clone())
        .collect();
    assert_eq!(told, [Some("200".to_owned()), Some("500".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn tries_that_time_out_open_the_breaker_and_callers_in_a_hurry_do_not() {
    let open = Err(Failure::Refused(Refusal::BreakerOpen));
    for per_try in [None, Some(Duration::from_millis(100))] {
        let mut policies = Policies::new();
        policies.deadline.per_try = per_try;
        let backend = Backend::new(Trouble::Hang);
        let stack = policies.around(&backend);
        for _ in 0..20 {
            let mut hurried = get();
            let headers = hurried.headers_mut();
            headers.insert(wire::DEADLINE, HeaderValue::from_static("20"));
            let result = status(&stack, hurried).await;
            assert_eq!(result, Err(Failure::Elapsed(Elapsed::Request)));
        }
        for _ in 0..5 {
            let result = status(&stack, get()).await;
            assert!(matches!(result, Err(Failure::Elapsed(_))), "{result:?}");
        }
        assert_eq!(status(&stack, get()).await, open);
        assert_eq!(backend.tries(), 20 + 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_has_no_deadline_unless_its_caller_gave_one() {
    let policies = Policies::new();
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let grpc = |timeout: Option<&'static str>| {
        let mut request = put("");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(timeout) = timeout {
            headers.insert(wire::GRPC_TIMEOUT, HeaderValue::from_static(timeout));
        }
        request
    };
    let hour = time::timeout(seconds(3600), status(&stack, grpc(None))).await;
    assert!(hour.is_err(), "it ended: {hour:?}");
    let start = Instant::now();
    let result = status(&stack, grpc(Some("3S"))).await;
    assert_eq!(result, Err(Failure::Elapsed(Elapsed::Request)));
    assert_eq!(start.elapsed(), seconds(3));
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_again_whole_and_one_that_is_too_long_once() {
    let policies = Policies::new();
    let backend = Backend::new(Trouble::FailOnce);
    let stack = policies.around(&backend);
    assert_eq!(status(&stack, put("the body")).await, Ok(200));
    let bodies: Vec<_> = backend
        .seen
        .lock()
        .unwrap()
        .iter()
        .map(|seen| seen.0.clone())
        .collect();
    assert_eq!(bodies, ["the body", "the body"]);

    let backend = Backend::new(Trouble::FailOnce);
    let stack = policies.around(&backend);
    assert_eq!(status(&stack, put(vec![0; 64 * 1024 + 1])).await, Ok(503));
    assert_eq!(backend.tries(), 1);
    let last = policies.decisions.lock().unwrap().last().copied();
    assert_eq!(last, Some(Decision::Keep(Kept::Body)));
}

#[tokio::test(start_paused = true)]
async fn retries_never_exceed_the_budget() {
    let mut policies = Policies::new();
    policies.retry.on = vec![Condition::ServerError];
    policies.retry.attempts = NonZeroU32::new(4).unwrap();
    policies.budget = SharedBudget::new(budget::Settings {
        percent: Percent::new(20).unwrap(),
        min_per_second: 0,
        ..budget::Settings::default()
    });
    policies.breaker = SharedBreaker::new(
        breaker::Settings {
            consecutive_failures: NonZeroU32::MAX,
            failure_rate: None,
            ..breaker::Settings::default()
        },
        drop,
    );
    let backend = Backend::new(Trouble::Status(500));
    let stack = policies.around(&backend);
    for request in 1..=200_u32 {
        assert_eq!(status(&stack, get()).await, Ok(500));
        let retries = backend.tries() - request;
        assert!(retries * 5 <= request, "{retries} retries of {request} requests");
    }
    assert_eq!(backend.tries(), 240);
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_refuses_at_once_and_those_who_wait_no_longer_than_their_deadline() {
    let mut policies = Policies::new();
    policies.bulkhead = SharedBulkhead::new(bulkhead::Settings {
        max_concurrent: NonZeroU32::new(1).unwrap(),
        max_waiting: 1,
        max_wait: seconds(5),
    });
    policies.deadline.total = Some(seconds(2));
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let spawn = || {
        let stack = stack.clone();
        tokio::spawn(async move { status(&stack, get()).await })
    };
    let inside = spawn();
    tokio::task::yield_now().await;
    time::advance(seconds(1)).await;
    let waiting = spawn();
    tokio::task::yield_now().await;
    assert_eq!(policies.bulkhead.load(), (1, 1));
    let full = Err(Failure::Refused(Refusal::BulkheadFull));
    assert_eq!(status(&stack, get()).await, full);
    let start = Instant::now();
    assert!(inside.await.unwrap().is_err());
    backend.becomes(Trouble::None);
    assert_eq!(start.elapsed(), seconds(1), "left at its deadline");
    // Its place went to the one that waited, which hangs as well and has a second left.
    assert_eq!(waiting.await.unwrap(), Err(Failure::Elapsed(Elapsed::Request)));
    assert_eq!(start.elapsed(), seconds(2));
    assert_eq!(policies.bulkhead.load(), (0, 0));
    assert_eq!(status(&stack, get()).await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn the_fallback_answers_what_the_policies_refuse_and_what_takes_too_long() {
    let mut policies = Policies::new();
    policies.fallback = fallback::Settings::new(Otherwise::Static(nothing()));
    policies.deadline.total = Some(seconds(1));
    let backend = Backend::new(Trouble::Hang);
    let stack = policies.around(&backend);
    let response = stack.clone().oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(response.body().0, "[]");
    backend.becomes(Trouble::Refuse);
    for _ in 0..20 {
        assert_eq!(stack.clone().oneshot(get()).await.unwrap().body().0, "[]");
    }
    assert!(backend.tries() <= 6, "the breaker opened all the same");
    let opened = policies.transitions.lock().unwrap().clone();
    assert_eq!(opened, [Transition::OpenedByFailures]);
}

#[tokio::test(start_paused = true)]
async fn another_service_gets_the_whole_request_instead() {
    let other = service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async {
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = format!("{method} {}", String::from_utf8_lossy(&body));
        Ok::<_, Failure>(Response::new(Collected(Bytes::from(text))))
    });
    let mut policies = Policies::new();
    policies.fallback = fallback::Settings::new(Otherwise::Service(Other::new(other)));
    let backend = Backend::new(Trouble::Status(503));
    let stack = policies.around(&backend);
    let response = stack.clone().oneshot(put("the body")).await.unwrap();
    assert_eq!(response.body().0, "PUT the body");
    let long = stack.oneshot(put(vec![0; 64 * 1024 + 1])).await.unwrap();
    assert_eq!(long.status(), 503, "too long to be sent to another");
}
