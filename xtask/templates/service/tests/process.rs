//! The binary as Kubernetes meets it: its exit codes and how it starts and leaves.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use trellis_testkit::otlp::Collector;
use trellis_testkit::postgres::TestDatabase;
use trellis_testkit::process::Running;

fn service() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shop-__name__"));
    command
        .env_clear()
        .envs([("HTTP_ADDRESS", "127.0.0.1:0"), ("ADMIN_ADDRESS", "127.0.0.1:0")]);
    command
}

fn bound(root: &Path) -> Command {
    let mut command = service();
    command.env("SERVICE_BINDING_ROOT", root);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_missing_binding_ends_the_start_with_64_and_the_fix() {
    let output = service().output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output).contains("SERVICE_BINDING_ROOT is not set; bind a Secret"),
        "{}",
        text(&output)
    );
}

#[tokio::test]
async fn check_config_prints_the_settings_without_the_password() {
    let database = TestDatabase::create().await;
    let output = bound(database.binding_root())
        .arg("--check-config")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains(database.name()), "{}", text(&output));
    assert!(!text(&output).contains("first-password"));
}

#[tokio::test]
async fn a_service_told_to_leave_exits_with_0() {
    let database = TestDatabase::create().await;
    let mut service = Running::start(bound(database.binding_root()));
    service.line("database ready");
    assert_eq!(service.leave(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_the_collector_and_their_trace_is_in_the_log() {
    let (database, collector) = (TestDatabase::create().await, Collector::start().await);
    let mut command = bound(database.binding_root());
    command.envs([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint()),
        ("POD_NAME", "__name__-0"),
        ("LOG", "debug"),
    ]);
    let mut service = Running::start(command);
    let address = service.line("serving")["http"].as_str().unwrap().to_owned();
    service.line("database ready");
    let mut stream = TcpStream::connect(address).unwrap();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    write!(
        stream,
        "GET /items/a1 HTTP/1.1\r\nhost: __name__\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n"
    )
    .unwrap();
    assert_eq!(service.line("request answered")["trace_id"], trace);
    drop(stream);
    assert_eq!(service.leave(), Some(0));
    let spans = collector.trace(trace);
    let span = spans.iter().find(|span| span.name == "GET /items/{id}").unwrap();
    assert_eq!(span.parent_id.as_deref(), Some("b7ad6b7169203331"));
    assert_eq!(span.attribute("service.instance.id"), "__name__-0");
    assert_eq!(span.attribute("service.name"), "__name__");
}
