//! The proxy leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use trellis_proxy_config::Protocol;

use crate::{
    failover::{Load, app, gateway},
    support::{
        backend::{Backend, text},
        client::{Client, get, over_http2},
        document::{self, cluster},
        eventually, free_port,
        operator::Operator,
        proxy::{Proxy, Setup, local},
        soon,
    },
};

/// An app that answers once it is let.
async fn held() -> (Backend, watch::Sender<bool>) {
    let (let_go, waiting) = watch::channel(false);
    let app = Backend::start(move |_| {
        let mut waiting = waiting.clone();
        async move {
            waiting.wait_for(|let_go| *let_go).await.unwrap();
            text("done")
        }
    })
    .await;
    (app, let_go)
}

async fn in_flight(proxy: &Proxy, count: usize) {
    eventually("requests are in flight", || async {
        (proxy.config().await["inFlight"] == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn draining_is_not_ready_but_serves_and_says_goodbye() {
    let app = Backend::echo().await;
    let port = free_port();
    let user = cluster("user", "http");
    let document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .local_cluster(&user, app.address.port(), Protocol::Http1)
        .outbound(&["user.mesh"], &user)
        .build();
    let proxy = Proxy::start(&document).await;
    proxy.knows("shop/user/http", 1).await;
    let mut idle = Client::http1(local(port)).await;
    let mut multiplexed = Client::http2(local(port)).await;
    assert_eq!(idle.send(get("/")).await.header("connection"), None);
    assert_eq!(multiplexed.send(over_http2(get("/"))).await.status(), 200);

    assert!(proxy.drain(0).await.success());
    assert_eq!(proxy.readyz().await, 503);
    let answer = idle.send(get("/")).await;
    assert_eq!(
        (answer.status(), answer.header("connection")),
        (200, Some("close"))
    );
    eventually("the connection is closed after its answer", || async {
        idle.is_closed().then_some(())
    })
    .await;
    eventually("GOAWAY ends the connection", || async {
        multiplexed.is_closed().then_some(())
    })
    .await;

    // Callers who do not know yet are served.
    assert_eq!(
        Client::http1(local(port)).await.send(get("/")).await.status(),
        200
    );
    let mut late = Client::http2(local(port)).await;
    for _ in 0..3 {
        assert_eq!(late.send(over_http2(get("/"))).await.status(), 200);
    }
    // The app's own requests are no business of those outside.
    let answer = Client::http1(proxy.outbound).await.send(get("/")).await;
    assert_eq!((answer.status(), answer.header("connection")), (200, None));
}

#[tokio::test]
async fn the_drain_verb_returns_when_nothing_is_in_flight_any_more() {
    let (app, let_go) = held().await;
    let port = free_port();
    let proxy = Proxy::start(
        &document::sidecar()
            .inbound(port, app.address, Protocol::Http1)
            .build(),
    )
    .await;
    let mut caller = Client::http1(local(port)).await;
    let request = tokio::spawn(async move { caller.send(get("/")).await });
    in_flight(&proxy, 1).await;
    let drained_early = AtomicBool::new(true);
    let drain = async {
        assert!(proxy.drain(0).await.success());
        assert!(!drained_early.load(Ordering::SeqCst), "a request was in flight");
    };
    let answer = async {
        eventually("the proxy drains", || async {
            (proxy.readyz().await == 503).then_some(())
        })
        .await;
        drained_early.store(false, Ordering::SeqCst);
        let_go.send_replace(true);
    };
    tokio::join!(drain, answer);
    assert_eq!(request.await.unwrap().text(), "done");
}

#[tokio::test]
async fn sigterm_waits_for_what_is_in_flight() {
    let (app, let_go) = held().await;
    let port = free_port();
    let mut proxy = Proxy::start(
        &document::sidecar()
            .inbound(port, app.address, Protocol::Http1)
            .build(),
    )
    .await;
    let mut first = Client::http1(local(port)).await;
    let mut second = Client::http2(local(port)).await;
    let first = tokio::spawn(async move { first.send(get("/")).await });
    let second = tokio::spawn(async move { second.send(over_http2(get("/"))).await });
    in_flight(&proxy, 2).await;
    proxy.signal("TERM").await;
    eventually("the proxy says that it finishes", || async {
        proxy
            .lines()
            .iter()
            .any(|line| line["message"] == "finishing")
            .then_some(())
    })
    .await;
    // Still accepting: a caller that does not know yet.
    let mut late = Client::http1(local(port)).await;
    let late = tokio::spawn(async move { late.send(get("/")).await });
    in_flight(&proxy, 3).await;
    let_go.send_replace(true);
    for request in [first, second, late] {
        assert_eq!(soon("a response", request).await.unwrap().text(), "done");
    }
    assert!(proxy.ended().await.success());
}

#[tokio::test]
async fn sigterm_ends_a_proxy_that_always_has_something_to_do() {
    let (slow, app) = (held().await, app().await);
    let (port, busy) = (free_port(), free_port());
    let document = document::sidecar()
        .inbound(port, slow.0.address, Protocol::Http1)
        .inbound(busy, app.address, Protocol::Http1);
    let mut proxy = Proxy::start(&document.build()).await;
    let mut caller = Client::http1(local(port)).await;
    let request = tokio::spawn(async move { caller.send(get("/")).await });
    in_flight(&proxy, 1).await;
    proxy.signal("TERM").await;
    eventually("nobody is let in any more", || async {
        Client::try_http1(local(busy)).await.err()
    })
    .await;
    slow.1.send_replace(true);
    assert_eq!(request.await.unwrap().text(), "done");
    assert!(proxy.ended().await.success());
}

#[tokio::test]
async fn the_outbound_side_outlives_the_inbound_side() {
    // The app calls another service in the middle of a request that is in flight when SIGTERM comes.
    let other = Backend::echo().await;
    let user = cluster("user", "http");
    let port = free_port();
    let (calls, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let outbound = Arc::new(std::sync::OnceLock::new());
    let app = {
        let (calls, let_go, outbound) = (Arc::clone(&calls), Arc::clone(&let_go), Arc::clone(&outbound));
        Backend::start(move |_: Request<_>| {
            let (calls, let_go, outbound) = (Arc::clone(&calls), Arc::clone(&let_go), Arc::clone(&outbound));
            async move {
                calls.notify_one();
                let_go.notified().await;
                let mut caller = Client::http1(*outbound.get().unwrap()).await;
                let answer = caller.send(get("/users/ann")).await;
                Response::builder()
                    .status(answer.status())
                    .body(crate::support::backend::full(""))
                    .unwrap()
            }
        })
        .await
    };
    let document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .local_cluster(&user, other.address.port(), Protocol::Http1)
        .outbound(&["user.mesh"], &user)
        .build();
    let mut proxy = Proxy::start(&document).await;
    proxy.knows("shop/user/http", 1).await;
    outbound.set(proxy.outbound).unwrap();
    let mut caller = Client::http1(local(port)).await;
    let request = tokio::spawn(async move { caller.send(get("/")).await });
    soon("the app is asked", calls.notified()).await;
    proxy.signal("TERM").await;
    eventually("the proxy finishes", || async {
        proxy
            .lines()
            .iter()
            .any(|line| line["message"] == "finishing")
            .then_some(())
    })
    .await;
    let_go.notify_one();
    assert_eq!(request.await.unwrap().status(), 200);
    assert!(proxy.ended().await.success());
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let (app, _let_go) = held().await;
    let port = free_port();
    let mut proxy = Proxy::start(
        &document::sidecar()
            .inbound(port, app.address, Protocol::Http1)
            .build(),
    )
    .await;
    let mut caller = Client::http1(local(port)).await;
    let _request = tokio::spawn(async move { caller.try_send(get("/")).await.map(drop) });
    in_flight(&proxy, 1).await;
    proxy.signal("TERM").await;
    eventually("the first is heard", || async {
        proxy
            .lines()
            .iter()
            .any(|line| line["message"] == "termination asked for")
            .then_some(())
    })
    .await;
    let start = Instant::now();
    proxy.signal("TERM").await;
    assert!(proxy.ended().await.success());
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// As a Deployment does it: a new pod comes, the old one drains, leaves the list of endpoints, and gets SIGTERM.
async fn roll(protocol: Protocol, http2: bool) {
    let app = app().await;
    let order = cluster("order", "http");
    let operator = Operator::start().await;
    let sidecar = async || {
        let port = free_port();
        let proxy = Proxy::start(&document::sidecar().inbound(port, app.address, protocol).build()).await;
        (proxy, local(port))
    };
    let mut pods = vec![sidecar().await, sidecar().await];
    let publish = |pods: &[(Proxy, std::net::SocketAddr)]| {
        let addresses: Vec<_> = pods.iter().map(|(_, address)| *address).collect();
        operator.endpoints(&order, &addresses);
    };
    publish(&pods);
    let (gateway, address) = gateway(&operator, protocol).await;
    gateway.knows("shop/order/http", 2).await;
    let mut load = Load::on(address, 8, http2).await;
    for _ in 0..4 {
        pods.push(sidecar().await);
        publish(&pods);
        gateway.knows("shop/order/http", 3).await;
        load.answers(100).await;
        let (mut old, _) = pods.remove(0);
        assert!(old.drain(0).await.success());
        load.answers(50).await;
        publish(&pods);
        gateway.knows("shop/order/http", 2).await;
        old.signal("TERM").await;
        assert!(old.ended().await.success());
        load.answers(50).await;
    }
    load.finish().await;
}

#[tokio::test]
async fn a_roll_under_load_costs_no_request() {
    roll(Protocol::Http1, false).await;
}

#[tokio::test]
async fn a_roll_under_load_costs_no_request_over_http2() {
    roll(Protocol::H2c, true).await;
}

#[tokio::test]
async fn draining_without_a_proxy_says_what_is_missing() {
    let setup = Setup::new();
    let port = free_port().to_string();
    let drain = tokio::process::Command::new(env!("CARGO_BIN_EXE_trellis-proxy"))
        .args(["drain", "--admin-port", &port])
        .current_dir(&**setup.folder)
        .output();
    let output = soon("the verb returns", drain).await.unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("failed to find the proxy's admin port"), "{text}");
}
