//! How a service leaves: the promise behind "no failed request during a rollout".
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use trellis_chassis::config::Listen;
use trellis_chassis::server::{self, Bound, Error, Process, Times};
use trellis_testkit::wait;

const TIMES: Times = Times {
    quiet: Duration::from_millis(300),
    linger: Duration::from_secs(5),
    deadline: Duration::from_secs(10),
};

struct Service {
    http: SocketAddr,
    admin: SocketAddr,
    finish: Arc<Notify>,
    leave: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), Error>>,
}

impl Service {
    async fn start(times: Times) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let bound = Bound::bind(Listen {
            http: any,
            admin: any,
        })
        .await
        .unwrap();
        let (http, admin) = bound.addresses().unwrap();
        let finish = Arc::new(Notify::new());
        let until = Arc::clone(&finish);
        let slow = async move || {
            until.notified().await;
            "finished"
        };
        let router = Router::new()
            .route("/now", get(async || "now"))
            .route("/slow", get(slow));
        let mut process = Process::default();
        let router = server::app("test", router, &mut process);
        let (leave, told) = oneshot::channel();
        let told = async move { told.await.unwrap_or_default() };
        let ended = tokio::spawn(bound.run(router, process, times, told));
        Self {
            http,
            admin,
            finish,
            leave: Some(leave),
            ended,
        }
    }

    fn leave(&mut self) {
        self.leave.take().unwrap().send(()).unwrap();
    }
}

async fn open(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn ask(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn ready(admin: SocketAddr) -> bool {
    let mut stream = open(admin).await;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    rest(&mut stream).await.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn a_service_that_leaves_is_not_ready_but_still_answers_and_asks_to_close() {
    let mut service = Service::start(TIMES).await;
    assert!(ready(service.admin).await);
    let mut kept = open(service.http).await;
    service.leave();
    wait::until("the service is not ready", async || !ready(service.admin).await).await;

    ask(&mut kept, "/now").await;
    let answer = rest(&mut kept).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");

    service.ended.await.unwrap().unwrap();
    assert!(TcpStream::connect(service.http).await.is_err());
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_exit() {
    let mut service = Service::start(TIMES).await;
    let mut slow = open(service.http).await;
    ask(&mut slow, "/slow").await;
    // The handler's turn: the request must be running when the signal comes.
    wait::until("the request runs", async || running(service.admin).await).await;
    service.leave();
    wait::until("the service is not ready", async || !ready(service.admin).await).await;
    assert!(!service.ended.is_finished());
    service.finish.notify_one();
    assert!(rest(&mut slow).await.ends_with("finished"));
    service.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_exit() {
    let mut service = Service::start(TIMES).await;
    let mut idle = open(service.http).await;
    service.leave();
    service.ended.await.unwrap().unwrap();
    assert_eq!(rest(&mut idle).await, "");
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up_at_the_deadline() {
    let short = Duration::from_millis(200);
    let mut service = Service::start(Times {
        quiet: short,
        linger: short,
        deadline: 2 * short,
    })
    .await;
    let mut stuck = open(service.http).await;
    ask(&mut stuck, "/slow").await;
    wait::until("the request runs", async || running(service.admin).await).await;
    service.leave();
    assert!(matches!(service.ended.await.unwrap(), Err(Error::Deadline(_))));
}

async fn running(admin: SocketAddr) -> bool {
    let mut stream = open(admin).await;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    rest(&mut stream)
        .await
        .contains(r#"active_connections{service="test",route="/slow",method="GET"} 1"#)
}
