//! Endpoints go away under load, and no caller notices.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use trellis_proxy_config::{Origin, Protocol};

use crate::support::{
    backend::{Backend, text},
    client::{Client, Error, get, over_http2, post},
    document::{self, cluster},
    eventually, free_port,
    operator::Operator,
    proxy::{Proxy, local},
    soon,
};

/// Callers that keep their connections, never try again, and stop at the first failure. A third of the requests are
/// POSTs.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: JoinSet<Result<(), Error>>,
}

impl Load {
    pub async fn on(address: SocketAddr, callers: usize, http2: bool) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let mut client = connect(address, http2).await;
            tasks.spawn(async move {
                let mut count = caller;
                while !stop.load(Ordering::Relaxed) {
                    count += 1;
                    let body = format!("{caller}-{count}");
                    let request = if count % 3 == 0 {
                        post("/order/x", body.clone())
                    } else {
                        get("/order/x")
                    };
                    let request = if http2 { over_http2(request) } else { request };
                    if client.is_closed() {
                        client = connect(address, http2).await;
                    }
                    let answer = client
                        .try_send(request)
                        .await
                        .map_err(|error| format!("{body}: {error:?}"))?;
                    if answer.status() != 200 || count % 3 == 0 && answer.text() != body {
                        return Err(format!("{body}: {} {}", answer.status(), answer.text()).into());
                    }
                    if answer.header("connection") == Some("close") {
                        client = connect(address, http2).await;
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self {
            stop,
            answered,
            callers: tasks,
        }
    }

    /// Waits until so many more requests were answered.
    pub async fn answers(&mut self, more: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually("requests are answered", || {
            if let Some(ended) = self.callers.try_join_next() {
                panic!("a caller ended: {ended:?}");
            }
            let reached = self.answered.load(Ordering::Relaxed) >= goal;
            async move { reached.then_some(()) }
        })
        .await;
    }

    /// Ends the load; every request was answered as it should.
    pub async fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = soon("callers end", self.callers.join_next()).await {
            ended.unwrap().unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

async fn connect(address: SocketAddr, http2: bool) -> Client {
    if http2 {
        Client::http2(address).await
    } else {
        Client::http1(address).await
    }
}

pub async fn app() -> Backend {
    Backend::start(|request: Request<hyper::body::Incoming>| async move {
        match request.into_body().collect().await {
            Ok(body) => text(body.to_bytes()),
            Err(error) => {
                let mut response = text(error.to_string());
                *response.status_mut() = http::StatusCode::BAD_REQUEST;
                response
            }
        }
    })
    .await
}

/// A gateway whose endpoints come by stream.
pub async fn gateway(operator: &Operator, protocol: Protocol) -> (Proxy, SocketAddr) {
    let order = cluster("order", "http");
    let outside = free_port();
    let document = document::gateway()
        .stream(operator.address)
        .cluster(&order, protocol)
        .listener(outside)
        .route(Origin::ByService, "/order", &[], &order)
        .build();
    (Proxy::start(&document).await, local(outside))
}

async fn sidecars(app: &Backend, protocol: Protocol, count: usize) -> Vec<(Proxy, SocketAddr)> {
    let mut sidecars = Vec::new();
    for _ in 0..count {
        let port = free_port();
        let document = document::sidecar().inbound(port, app.address, protocol).build();
        sidecars.push((Proxy::start(&document).await, local(port)));
    }
    sidecars
}

/// Every sidecar but the last leaves, without anyone telling the gateway.
async fn leave_one_by_one(protocol: Protocol) {
    let app = app().await;
    let mut sidecars = sidecars(&app, protocol, 4).await;
    let operator = Operator::start().await;
    let addresses: Vec<SocketAddr> = sidecars.iter().map(|(_, address)| *address).collect();
    operator.endpoints(&cluster("order", "http"), &addresses);
    let (gateway, address) = gateway(&operator, protocol).await;
    gateway.knows("shop/order/http", 4).await;

    let mut load = Load::on(address, 8, false).await;
    load.answers(200).await;
    while sidecars.len() > 1 {
        let (mut leaving, _) = sidecars.remove(0);
        leaving.signal("TERM").await;
        assert!(leaving.ended().await.success());
        load.answers(200).await;
    }
    load.finish().await;
}

#[tokio::test]
async fn sidecars_that_leave_one_by_one_cost_no_request() {
    leave_one_by_one(Protocol::Http1).await;
}

#[tokio::test]
async fn sidecars_that_leave_one_by_one_cost_no_request_over_http2() {
    leave_one_by_one(Protocol::H2c).await;
}

#[tokio::test]
async fn an_app_that_is_away_behind_its_sidecar_costs_no_request() {
    let (stays, goes) = (app().await, app().await);
    let operator = Operator::start().await;
    let mut addresses = Vec::new();
    let mut proxies = Vec::new();
    for app in [&stays, &goes] {
        let (proxy, address) = sidecars(app, Protocol::Http1, 1).await.remove(0);
        addresses.push(address);
        proxies.push(proxy);
    }
    operator.endpoints(&cluster("order", "http"), &addresses);
    let (gateway, address) = gateway(&operator, Protocol::Http1).await;
    gateway.knows("shop/order/http", 2).await;
    // It takes no connection from the start, so no request can have been half done.
    drop(goes);
    let mut load = Load::on(address, 4, false).await;
    load.answers(500).await;
    load.finish().await;
    let failed = proxies[1]
        .lines()
        .into_iter()
        .filter(|line| line["reason"] == "connect_failed")
        .count();
    assert!(failed > 0, "the load must have met the app that is away");
    assert!(
        failed < 100,
        "an endpoint that fails is left out for a while: {failed}"
    );
}

#[tokio::test]
async fn endpoints_come_and_go_by_stream_under_load() {
    let app = app().await;
    let sidecars = sidecars(&app, Protocol::Http1, 3).await;
    let addresses: Vec<SocketAddr> = sidecars.iter().map(|(_, address)| *address).collect();
    let operator = Operator::start().await;
    let order = cluster("order", "http");
    operator.endpoints(&order, &addresses[..1]);
    let (gateway, address) = gateway(&operator, Protocol::Http1).await;
    gateway.knows("shop/order/http", 1).await;
    let mut load = Load::on(address, 8, true).await;
    for round in 0..30 {
        // Each alone, each pair, and all.
        let known = &addresses[round % 3..(round % 3 + 1 + round / 3 % 3).min(3)];
        operator.endpoints(&order, known);
        gateway.knows("shop/order/http", known.len()).await;
        load.answers(30).await;
    }
    assert!(load.finish().await >= 900);
}

#[tokio::test]
async fn a_request_that_is_faster_than_the_first_endpoints_waits_for_them() {
    let app = app().await;
    let (_sidecar, alive) = sidecars(&app, Protocol::Http1, 1).await.remove(0);
    let operator = Operator::start().await;
    let (gateway, address) = gateway(&operator, Protocol::Http1).await;
    let mut caller = Client::http1(address).await;
    let request = tokio::spawn(async move { caller.send(post("/order/x", "x")).await });
    eventually("the request is in flight", || async {
        (gateway.config().await["inFlight"] == 1).then_some(())
    })
    .await;
    operator.endpoints(&cluster("order", "http"), &[alive]);
    assert_eq!(request.await.unwrap().text(), "x");
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_more_connections() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let (let_go, waiting) = tokio::sync::watch::channel(false);
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (waiting, count) = (waiting.clone(), Arc::clone(&count));
            let service = hyper::service::service_fn(move |_| {
                let (mut waiting, count) = (waiting.clone(), Arc::clone(&count));
                async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    waiting.wait_for(|go| *go).await.unwrap();
                    Ok::<_, std::convert::Infallible>(text("done"))
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .max_concurrent_streams(2)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    let operator = Operator::start().await;
    operator.endpoints(&cluster("order", "http"), &[server]);
    let (gateway, address) = gateway(&operator, Protocol::H2c).await;
    gateway.knows("shop/order/http", 1).await;
    let mut requests = JoinSet::new();
    for _ in 0..20 {
        let mut caller = Client::http1(address).await;
        requests.spawn(async move { caller.send(post("/order/x", "x")).await.text() });
    }
    eventually("every request arrives", || async {
        (arrived.load(Ordering::SeqCst) == 20).then_some(())
    })
    .await;
    let_go.send_replace(true);
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap(), "done");
    }
}

#[tokio::test]
async fn a_stream_that_a_server_refuses_goes_to_another_body_and_all() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(async move {
                        // Some of the body has come, and is of no use.
                        let _ = request.body_mut().data().await;
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    });
                }
            });
        }
    });
    let app = app().await;
    let (_sidecar, alive) = sidecars(&app, Protocol::H2c, 1).await.remove(0);
    let operator = Operator::start().await;
    operator.endpoints(&cluster("order", "http"), &[alive, refusing]);
    let (gateway, address) = gateway(&operator, Protocol::H2c).await;
    gateway.knows("shop/order/http", 2).await;
    let mut caller = Client::http1(address).await;
    let body = "0123456789".repeat(5000);
    for _ in 0..20 {
        let answer = caller.send(post("/order/x", body.clone())).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text() == body);
    }
    assert!(
        refused.load(Ordering::SeqCst) > 0,
        "the refusing server must have been asked"
    );
}

#[tokio::test]
async fn an_endpoint_that_never_answers_a_syn_is_passed_over() {
    let app = app().await;
    let (_sidecar, alive) = sidecars(&app, Protocol::Http1, 1).await.remove(0);
    // A full backlog drops SYNs: nobody accepts, and the queue holds one.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let silent = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(filler)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(silent)).await
    {
        fillers.push(filler);
    }
    let operator = Operator::start().await;
    operator.endpoints(&cluster("order", "http"), &[alive, silent]);
    let (gateway, address) = gateway(&operator, Protocol::Http1).await;
    gateway.knows("shop/order/http", 2).await;
    let mut caller = Client::http1(address).await;
    for _ in 0..20 {
        assert_eq!(caller.send(post("/order/x", "x")).await.status(), 200);
    }
}
