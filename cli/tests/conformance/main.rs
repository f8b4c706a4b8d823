//! `trellis saga test` against participants: one that keeps to the contract, and one with each fault.

#![allow(clippy::unwrap_used, missing_docs)]

mod participant;
mod services;

use std::process::{Command, Output};

use axum::{Json, Router, routing::post};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task,
};

use crate::participant::{Fault, Shop, serve};

async fn trellis(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trellis"));
    command.args(["saga", "test"]).args(arguments);
    task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// The arguments for a shop, without a look at its state.
fn blind(origin: &str) -> [String; 5] {
    [
        format!("{origin}/reservations"),
        "--body".to_owned(),
        r#"{"id": "${run.id}"}"#.to_owned(),
        "--compensation".to_owned(),
        "DELETE /reservations/${run.id}".to_owned(),
    ]
}

async fn test(arguments: &[String], more: &[&str]) -> Output {
    let arguments: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    trellis(&arguments).await
}

async fn report(origin: &str, more: &[&str]) -> (Value, Option<i32>) {
    let more = [&["-o", "json"], more].concat();
    let output = test(&blind(origin), &more).await;
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (report, output.status.code())
}

/// What was found, each once, with what was warned of.
fn bugs(report: &Value, grade: &str) -> Vec<String> {
    let of_grade = |case: &&Value| case["grade"] == grade;
    let cases = report["cases"].as_array().unwrap().iter().filter(of_grade);
    let mut bugs: Vec<String> = cases
        .map(|case| case["bug"].as_str().unwrap().to_owned())
        .collect();
    bugs.sort();
    bugs.dedup();
    bugs
}

fn assert_all_passed(report: &Value) {
    let odd: Vec<_> = report["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["grade"] != "passed")
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");
    assert_eq!(report["passed"], 14);
}

async fn with(fault: Fault, more: &[&str]) -> (Value, Option<i32>) {
    report(&serve(Shop::with(fault).router()).await, more).await
}

const STATE: [&str; 2] = ["--state", "/stock#/left"];

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_keeps_to_the_contract_passes_every_case() {
    let shop = Shop::with(Fault::None);
    let origin = serve(shop.router()).await;
    let (report, code) = report(&origin, &STATE).await;
    assert_all_passed(&report);
    assert_eq!(code, Some(0));
    let last = report["cases"][13]["calls"][1]["state"].as_i64();
    assert_eq!(last, Some(1000), "what was done was taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_by_its_name_and_no_other() {
    for (fault, expected) in [
        (Fault::DuplicateEffect, "duplicate-effect"),
        (Fault::DuplicateAnswer, "duplicate-answer"),
        (Fault::DuplicateRefused, "duplicate-answer"),
        (Fault::Race, "concurrent-actions"),
        (Fault::RefusesCopiesUnderWay, "concurrent-actions"),
        (Fault::AttemptInKey, "attempt-in-key"),
        (Fault::NullRefused, "null-compensation-refused"),
        (Fault::NullTakes, "null-compensation-effect"),
        (Fault::Hanging, "hanging-action"),
        (Fault::HangingAnsweredAsDone, "hanging-action"),
        (Fault::HangingToBeTriedAgain, "hanging-action-not-final"),
        (Fault::CompensatesTwice, "duplicate-compensation"),
        (Fault::CompensationRace, "concurrent-compensations"),
        (
            Fault::CompensationGoneTheSecondTime,
            "duplicate-compensation-refused",
        ),
        (Fault::NeverCompensates, "not-compensated"),
        (Fault::CompensatesHalf, "compensation-incomplete"),
        (Fault::Revives, "late-action"),
        (Fault::IgnoresIncarnation, "incarnation-ignored"),
        (Fault::DoesNothing, "action-without-effect"),
    ] {
        let (report, code) = with(fault, &[STATE[0], STATE[1], "--timeout", "1"]).await;
        assert_eq!(bugs(&report, "failed"), [expected], "{fault:?}: {report:#}");
        assert_eq!(bugs(&report, "warning"), [""; 0], "{fault:?}: {report:#}");
        assert_eq!(code, Some(1), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_go_past_the_barrier_are_a_warning() {
    let (report, code) = with(Fault::PassesPartialHeaders, &STATE).await;
    assert_eq!(bugs(&report, "failed"), [""; 0]);
    assert_eq!(bugs(&report, "warning"), ["unguarded-headers"]);
    assert_eq!(code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_the_answers_are_judged_and_the_rest_is_said_not_to_be() {
    let origin = serve(Shop::with(Fault::None).router()).await;
    let output = test(&blind(&origin), &[]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("not looked at: only answers are judged; --state shows effects"),
        "{said}"
    );
    assert!(
        said.contains("12 passed, 0 warnings, 0 failed, 2 not judged"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(0));
    let (report, code) = with(Fault::Hanging, &[]).await;
    assert_eq!(bugs(&report, "failed"), ["hanging-action"]);
    assert_eq!(code, Some(1));
    let (report, _) = with(Fault::DuplicateEffect, &[]).await;
    assert_eq!(bugs(&report, "failed"), [""; 0], "the answers are in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_told_with_what_was_seen_and_the_fix() {
    let origin = serve(Shop::with(Fault::Hanging).router()).await;
    let output = test(&blind(&origin), &["--state", "/stock"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "  hanging action                           FAILED      204, 201; left 1000 -> 1000 -> 998\n",
        "\nFAILED: hanging action: hanging: an action that comes after its compensation is performed, and nothing will take it back\n",
        "  fix: remember compensations that came first and refuse their actions with 409, as Barrier::run (crates/saga-participant) does\n",
        "\n14 cases: 13 passed, 0 warnings, 1 failed, 0 not judged\n",
    ] {
        assert!(said.contains(expected), "expected {expected:?} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_compensation_the_action_is_tested_alone() {
    let shop = Shop::with(Fault::None);
    let url = format!("{}/reservations", serve(shop.router()).await);
    let output = trellis(&[&url, "--state", "/stock", "-o", "json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["passed"], &report["notJudged"]), (&json!(6), &json!(8)));
    assert_eq!(shop.strays(), 0, "nothing is taken back by the action");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_is_refused_ends_the_test() {
    let refusal = async || {
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            Json(json!({"detail": "id is missing"})),
        )
    };
    let origin = serve(Router::new().route("/reservations", post(refusal))).await;
    let output = test(&blind(&origin), &[]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains(
            "FAILED: action: the action alone is not done, so nothing can be graded: 422 id is missing\n"
        ),
        "{said}"
    );
    assert!(
        said.contains("\n1 case: 0 passed, 0 warnings, 1 failed"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_participant_that_is_away_or_no_http_server_is_an_error_with_the_fix() {
    let errors = async |origin: &str| {
        let output = test(&blind(origin), &["--timeout", "1"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let said = errors(&format!("http://{address}")).await;
    assert!(
        said.starts_with(&format!(
            "error: failed to connect to http://{address}/reservations; start"
        )),
        "{said}"
    );

    let of_another_protocol = async |banner: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut start = [0; 16];
                    let _ = stream.read(&mut start).await;
                    let _ = stream.write_all(banner).await;
                    // What is silent stays open.
                    while banner.is_empty() && stream.read(&mut start).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        format!("http://{address}")
    };
    let said = errors(&of_another_protocol(b"220 mail.example ESMTP\r\n").await).await;
    assert!(said.contains("name the port of an HTTP/1.1 server"), "{said}");
    let said = errors(&of_another_protocol(b"").await).await;
    assert!(
        said.contains("failed to get any answer to POST http://") && said.contains("--timeout"),
        "{said}"
    );
    let said = errors("https://127.0.0.1").await;
    assert!(said.contains("participants are called by plain HTTP"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_changes_by_itself_is_refused() {
    let shop = Shop::with(Fault::None);
    let clock = std::sync::atomic::AtomicU32::new(0);
    let clock = std::sync::Arc::new(clock);
    let now = move || {
        let now = clock.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move { Json(json!({"now": now, "left": 7})) }
    };
    let origin = serve(shop.router().route("/clock", axum::routing::get(now))).await;
    let output = test(&blind(&origin), &["--state", "/clock"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("the state changes by itself, from one look to the next: now 0 -> 1; name one"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}
