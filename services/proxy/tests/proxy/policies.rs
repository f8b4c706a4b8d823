//! What stands around calls of an app: a dependency fails in every way, and the caller's proxy does what its policy says.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use trellis_proxy_config::{Cluster, Document, Fallback, Protocol, StaticAnswer};

use crate::support::{
    backend::{Backend, Body, text},
    client::{Client, get, over_http2, post},
    document::{self, cluster},
    eventually, free_port,
    proxy::{Proxy, Setup, local},
    soon,
};

/// A dependency whose answers the test decides on, and how many requests have come to it.
struct User {
    backend: Backend,
    status: watch::Sender<Doing>,
    came: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Answers(u16),
    Hangs,
}

impl User {
    async fn start(doing: Doing) -> Self {
        let status = watch::Sender::new(doing);
        let came = Arc::new(AtomicUsize::new(0));
        let (now, count) = (status.clone(), Arc::clone(&came));
        let backend = Backend::start(move |request: Request<Incoming>| {
            count.fetch_add(1, Ordering::SeqCst);
            let doing = *now.borrow();
            async move {
                match doing {
                    Doing::Answers(status) => answer(status, &request),
                    Doing::Hangs => std::future::pending().await,
                }
            }
        })
        .await;
        Self {
            backend,
            status,
            came,
        }
    }

    fn does(&self, doing: Doing) {
        self.status.send_replace(doing);
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    /// A sidecar's document with this dependency.
    fn document(&self, version: u64, policy: Value, fallback: Option<Fallback>) -> Document {
        let name = cluster("user", "http");
        document::sidecar()
            .version(version)
            .local_cluster(&name, self.backend.address.port(), Protocol::Http1)
            .changed(&name, |cluster| stands_around(cluster, policy, fallback))
            .outbound(&["user.mesh"], &name)
            .build()
    }
}

/// The answer tells how long the caller waits.
fn answer(status: u16, request: &Request<Incoming>) -> Response<Body> {
    let left = request.headers().get("trellis-deadline-ms");
    let left = left.map_or("", |left| left.to_str().unwrap());
    let mut response = text(left.to_owned());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn stands_around(cluster: &mut Cluster, policy: Value, fallback: Option<Fallback>) {
    cluster.policy = serde_json::from_value(policy).unwrap();
    cluster.fallback = fallback;
}

async fn start(document: &Document) -> (Setup, Proxy) {
    let setup = Setup::with(document);
    let proxy = setup.start().await;
    proxy.ready().await;
    proxy.knows("shop/user/http", 1).await;
    (setup, proxy)
}

/// Waits for the circuit breaker, by the proxy's metric and by its admin port.
async fn until_breaker(proxy: &Proxy, phase: &str) {
    let number = ["closed", "open", "half_open"]
        .iter()
        .position(|known| *known == phase)
        .unwrap();
    let line = format!("circuit_breaker_state{{cluster=\"shop/user/http\"}} {number}");
    eventually(&format!("the circuit breaker is {phase}"), || async {
        proxy.metrics().await.lines().any(|it| it == line).then_some(())
    })
    .await;
    assert_eq!(
        proxy.config().await["endpoints"]["shop/user/http"]["breaker"],
        phase
    );
}

#[tokio::test]
async fn a_dependency_that_fails_is_left_alone_until_a_probe_succeeds() {
    let user = User::start(Doing::Answers(500)).await;
    let policy = |open_for: u32| json!({"breaker": {"consecutiveFailures": 3, "openFor": open_for}});
    let (setup, proxy) = start(&user.document(1, policy(3_600_000), None)).await;
    let mut app = Client::http1(proxy.outbound).await;
    for _ in 0..3 {
        assert_eq!(app.send(get("/x")).await.status(), 500);
    }
    until_breaker(&proxy, "open").await;
    let refused = app.send(get("/x")).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.header("x-trellis-reason"), Some("breaker_open"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    assert!(refused.text().contains("shop/user/http"), "{}", refused.text());
    assert_eq!(user.came(), 3);
    let line = proxy.logged(|line| line["reason"] == "breaker_open").await;
    assert_eq!(line["breaker"], "open");

    // The time that it stays open is up as soon as it is made so short.
    setup.write(&user.document(2, policy(100), None));
    proxy.uses(2).await;
    until_breaker(&proxy, "half_open").await;
    assert_eq!(app.send(get("/x")).await.status(), 500);
    setup.write(&user.document(3, policy(3_600_000), None));
    proxy.uses(3).await;
    until_breaker(&proxy, "open").await;
    assert_eq!(app.send(get("/x")).await.status(), 503);
    assert_eq!(user.came(), 4, "one probe");
    user.does(Doing::Answers(200));
    setup.write(&user.document(4, policy(100), None));
    proxy.uses(4).await;
    assert_eq!(app.send(get("/x")).await.status(), 200);
    until_breaker(&proxy, "closed").await;
    let metrics = proxy.metrics().await;
    assert!(
        metrics.contains("circuit_breaker_opened_total{cluster=\"shop/user/http\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn new_settings_take_effect_at_once_and_forget_nothing() {
    let user = User::start(Doing::Answers(500)).await;
    let policy = |open_for: u32| json!({"breaker": {"consecutiveFailures": 3, "openFor": open_for}});
    let (setup, proxy) = start(&user.document(1, policy(60_000), None)).await;
    let mut app = Client::http1(proxy.outbound).await;
    for _ in 0..2 {
        app.send(get("/x")).await;
    }
    setup.write(&user.document(2, policy(50_000), None));
    proxy.uses(2).await;
    app.send(get("/x")).await;
    until_breaker(&proxy, "open").await;
    user.does(Doing::Answers(200));
    setup.write(&user.document(3, policy(100), None));
    proxy.uses(3).await;
    until_breaker(&proxy, "half_open").await;
    assert_eq!(app.send(get("/x")).await.status(), 200);
    setup.write(&user.document(4, json!({"breaker": null}), None));
    proxy.uses(4).await;
    user.does(Doing::Answers(500));
    for _ in 0..10 {
        assert_eq!(app.send(get("/x")).await.status(), 500);
    }
    assert_eq!(user.backend.connections(), 1, "connections outlive policies");
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_and_tells_what_is_left() {
    let user = User::start(Doing::Answers(200)).await;
    let policy = json!({"deadline": {"total": 300}, "retry": {"attempts": 1}});
    let (_, proxy) = start(&user.document(1, policy, None)).await;
    let mut app = Client::http1(proxy.outbound).await;
    let left: u64 = app.send(get("/x")).await.text().parse().unwrap();
    assert!((1..=300).contains(&left), "{left}");
    let mut hurried = get("/x");
    hurried
        .headers_mut()
        .insert("trellis-deadline-ms", "100".parse().unwrap());
    let left: u64 = app.send(hurried).await.text().parse().unwrap();
    assert!((1..=100).contains(&left), "{left}");

    user.does(Doing::Hangs);
    let began = Instant::now();
    let late = app.send(get("/x")).await;
    assert_eq!(late.status(), 504);
    assert_eq!(late.header("x-trellis-reason"), Some("deadline_exceeded"));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_grpc_call_has_no_end_but_its_callers_and_its_server_is_told_no_other() {
    let user = Backend::start(|request: Request<Incoming>| async move {
        // Longer than policies give to other requests.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let told = |name: &str| {
            request
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let left = told("grpc-timeout").or_else(|| told("trellis-deadline-ms"));
        text(left.unwrap_or_else(|| "none".to_owned()))
    })
    .await;
    let name = cluster("user", "http");
    let policy = json!({"deadline": {"total": 200, "perTry": 100}});
    let document = document::sidecar()
        .local_cluster(&name, user.address.port(), Protocol::Grpc)
        .changed(&name, |cluster| stands_around(cluster, policy.clone(), None))
        .outbound(&["user.mesh"], &name)
        .build();
    let (setup, proxy) = start(&document).await;
    let mut app = Client::http2(proxy.outbound).await;
    let call = |timeout: Option<&str>| {
        let mut call = over_http2(post("/p.S/M", "x"));
        call.headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        if let Some(timeout) = timeout {
            call.headers_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
        }
        call
    };
    assert_eq!(app.send(call(None)).await.text(), "none");
    // The policy's total ends with the head; what the server is told is the caller's own.
    let late = app.send(call(Some("1H"))).await;
    assert_eq!(late.header("grpc-status"), Some("4"), "{late:?}");
    let policy = json!({"deadline": {"total": 60_000}});
    let mut document = document.config;
    stands_around(document.clusters.get_mut(&name).unwrap(), policy, None);
    setup.write(&Document::new(2, document));
    proxy.uses(2).await;
    let told = app.send(call(Some("1H"))).await.text();
    let left = trellis_deadline(&told);
    assert!(left > Duration::from_secs(3500), "{told}");
}

/// A `grpc-timeout` in the unit that an hour is told in.
fn trellis_deadline(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().unwrap();
    match unit {
        "u" => Duration::from_micros(number),
        "m" => Duration::from_millis(number),
        "S" => Duration::from_secs(number),
        _ => panic!("{text}"),
    }
}

#[tokio::test]
async fn what_a_request_may_still_take_reaches_what_its_app_asks_for_by_trace() {
    let user = User::start(Doing::Answers(200)).await;
    let outbound = Arc::new(OnceLock::new());
    let at = Arc::clone(&outbound);
    // An app that hands on the trace and nothing else.
    let app = Backend::start(move |request: Request<Incoming>| {
        let at = Arc::clone(&at);
        async move {
            let mut ask = get("/users/ann");
            let trace = request.headers()["traceparent"].clone();
            ask.headers_mut().insert("traceparent", trace);
            let told = Client::http1(*at.get().unwrap()).await.send(ask).await;
            text(told.text())
        }
    })
    .await;
    let (port, name) = (free_port(), cluster("user", "http"));
    let document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .local_cluster(&name, user.backend.address.port(), Protocol::Http1)
        .outbound(&["user.mesh"], &name)
        .build();
    let (_, proxy) = start(&document).await;
    outbound.set(proxy.outbound).unwrap();
    let mut caller = Client::http1(local(port)).await;
    let mut left = async |headers: &[(&'static str, &str)]| -> u64 {
        let mut request = get("/orders");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        caller.send(request).await.text().parse().unwrap()
    };
    let own = left(&[]).await;
    assert!((10_000..=15_000).contains(&own), "the default: {own}");
    let callers = left(&[("trellis-deadline-ms", "5000")]).await;
    assert!((1..=5000).contains(&callers), "{callers}");
    let own = left(&[]).await;
    assert!(own > 10_000, "another request's deadline is its own: {own}");

    user.does(Doing::Hangs);
    let mut request = get("/orders");
    request
        .headers_mut()
        .insert("trellis-deadline-ms", "3000".parse().unwrap());
    // A little was kept back, so that the app is in time to say what it asked in vain.
    let told = caller.send(request).await;
    assert_eq!(told.status(), 200);
    assert!(told.text().contains("deadline_exceeded"), "{}", told.text());
}

#[tokio::test]
async fn what_is_worth_it_is_tried_again_and_the_log_says_how_often() {
    let user = User::start(Doing::Answers(503)).await;
    let policy = json!({"retry": {"attempts": 3, "backoff": {"base": 1, "max": 1}}, "breaker": null});
    let (_, proxy) = start(&user.document(1, policy, None)).await;
    let mut app = Client::http1(proxy.outbound).await;
    assert_eq!(app.send(get("/x")).await.status(), 503);
    assert_eq!(user.came(), 3);
    let line = proxy.logged(|line| line["path"] == "/x").await;
    assert_eq!(line["tries"], 3);
    // It may have been acted on.
    assert_eq!(app.send(post("/y", "hello")).await.status(), 503);
    assert_eq!(user.came(), 4);
    let metrics = proxy.metrics().await;
    assert!(
        metrics.contains("retries_total{cluster=\"shop/user/http\"} 2"),
        "{metrics}"
    );
}

#[tokio::test]
async fn retries_of_a_service_that_fails_stay_within_the_budget() {
    let user = User::start(Doing::Answers(503)).await;
    let policy = json!({
        "retry": {"attempts": 3, "backoff": {"base": 1, "max": 1}},
        "budget": {"percent": 20, "minPerSecond": 0},
        "breaker": null,
    });
    let (_, proxy) = start(&user.document(1, policy, None)).await;
    let mut app = Client::http1(proxy.outbound).await;
    for _ in 0..100 {
        assert_eq!(app.send(get("/x")).await.status(), 503);
    }
    assert_eq!(user.came(), 120);
    let metrics = proxy.metrics().await;
    assert!(
        metrics.contains("retries_out_of_budget_total{cluster=\"shop/user/http\"} "),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_full_bulkhead_refuses_at_once_and_a_place_is_kept_until_the_end_of_the_body() {
    let user = User::start(Doing::Hangs).await;
    let policy = |wait: u32| json!({"bulkhead": {"maxConcurrent": 1, "maxWaiting": 1, "maxWait": wait}});
    let (setup, proxy) = start(&user.document(1, policy(50), None)).await;
    let mut first = Client::http1(proxy.outbound).await;
    let hangs = tokio::spawn(async move { first.try_send(get("/x")).await });
    eventually("the first is in", || async { (user.came() == 1).then_some(()) }).await;
    let mut second = Client::http1(proxy.outbound).await;
    let waited = second.send(get("/x")).await;
    assert_eq!(waited.status(), 503);
    assert_eq!(waited.header("x-trellis-reason"), Some("bulkhead_timeout"));
    setup.write(&user.document(2, policy(60_000), None));
    proxy.uses(2).await;
    let waiting = tokio::spawn(async move { second.try_send(get("/x")).await });
    eventually("the second waits", || async {
        let line = "bulkhead_waiting{cluster=\"shop/user/http\"} 1";
        proxy.metrics().await.lines().any(|it| it == line).then_some(())
    })
    .await;
    let mut third = Client::http1(proxy.outbound).await;
    let refused = third.send(get("/x")).await;
    assert_eq!(refused.header("x-trellis-reason"), Some("bulkhead_full"));
    // It goes away while it waits.
    waiting.abort();

    // Its caller goes away: the work stops, and the place is free.
    hangs.abort();
    user.does(Doing::Answers(200));
    eventually("the place is free", || async {
        (Client::http1(proxy.outbound).await.send(get("/x")).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(user.came(), 2, "nobody else has come in");
}

#[tokio::test]
async fn a_bulkhead_in_front_of_the_app_lets_wait_what_limits_have_let_in() {
    let turns = Arc::new(Semaphore::new(0));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (next, noted) = (Arc::clone(&turns), Arc::clone(&told));
    let app = Backend::start(move |request: Request<Incoming>| {
        let left = request
            .headers()
            .get("trellis-deadline-ms")
            .map(|left| left.to_str().unwrap().parse::<u64>().unwrap());
        noted.lock().unwrap().push(left);
        let next = Arc::clone(&next);
        async move {
            next.acquire().await.unwrap().forget();
            text("done")
        }
    })
    .await;
    let port = free_port();
    let document = |version, places: u32, wait: u32| {
        let settings = json!({"maxConcurrent": places, "maxWaiting": 1, "maxWait": wait});
        let limits = json!([{"policy": "limits", "generation": 1, "name": "all", "rule":
            {"rates": {"algorithm": "SlidingWindow", "rates": [{"limit": 5, "window": 600_000}]}}}]);
        let mut config = document::sidecar()
            .inbound(port, app.address, Protocol::Http1)
            .bulkhead(serde_json::from_value(settings).unwrap())
            .build()
            .config;
        config.limits = serde_json::from_value(limits).unwrap();
        Document::new(version, config)
    };
    let setup = Setup::with(&document(1, 1, 60_000));
    let proxy = setup.start().await;
    proxy.ready().await;
    let ask = async |deadline: Option<u32>| {
        let mut request = get("/x");
        if let Some(left) = deadline {
            request.headers_mut().insert("trellis-deadline-ms", left.into());
        }
        Client::http1(local(port)).await.send(request).await
    };
    let counts = async |figures: &[&str]| {
        eventually("the figures are as expected", || async {
            let metrics = proxy.metrics().await;
            let has = |line: &&str| metrics.lines().any(|it| it == *line);
            figures.iter().all(has).then_some(())
        })
        .await;
    };
    let one_in = "inbound_bulkhead_requests{port=\"p0\"} 1";
    let one_waits = "inbound_bulkhead_waiting{port=\"p0\"} 1";
    let none_waits = "inbound_bulkhead_waiting{port=\"p0\"} 0";

    // One is in, one waits, the third is sent away; who asks learns that somebody is alive.
    tokio::join!(
        async { assert_eq!(ask(Some(30_000)).await.status(), 200, "the first") },
        async {
            counts(&[one_in]).await;
            assert_eq!(ask(Some(30_000)).await.status(), 200, "the second");
        },
        async {
            counts(&[one_in, one_waits]).await;
            let refused = ask(None).await;
            assert_eq!(refused.status(), 503);
            assert_eq!(refused.header("x-trellis-reason"), Some("bulkhead_full"));
            assert_eq!(refused.header("retry-after"), Some("1"));
            assert_eq!(told.lock().unwrap().len(), 1, "who waits is not at the app");
            turns.add_permits(1);
            counts(&[one_in, none_waits]).await;
            turns.add_permits(1);
        },
    );
    let left: Vec<u64> = told.lock().unwrap().iter().map(|left| left.unwrap()).collect();
    assert!(
        left[1] < left[0].min(30_000),
        "the wait is not told as time that is left: {left:?}"
    );

    // A wait ends when its caller's time is up, and who is refused by a limit takes no place.
    tokio::join!(
        async { assert_eq!(ask(None).await.status(), 200, "the fourth") },
        async {
            counts(&[one_in]).await;
            let late = ask(Some(50)).await;
            assert_eq!(late.header("x-trellis-reason"), Some("deadline_exceeded"));
            counts(&[one_in, none_waits]).await;
            assert_eq!(ask(None).await.status(), 429, "the sixth");
            turns.add_permits(1);
        },
    );
    assert_eq!(told.lock().unwrap().len(), 3);

    // An edit lets in who waits.
    setup.write(&{
        let mut config = document(2, 1, 60_000).config;
        config.limits.clear();
        Document::new(2, config)
    });
    proxy.uses(2).await;
    tokio::join!(
        async { assert_eq!(ask(None).await.status(), 200, "the first after the edit") },
        async {
            counts(&[one_in]).await;
            assert_eq!(ask(None).await.status(), 200, "who waited");
        },
        async {
            counts(&[one_in, one_waits]).await;
            setup.write(&document(3, 2, 60_000));
            counts(&["inbound_bulkhead_requests{port=\"p0\"} 2", none_waits]).await;
            turns.add_permits(2);
        },
    );
}

#[tokio::test]
async fn a_fallback_answers_what_comes_without_an_answer() {
    let (user, cache) = (
        User::start(Doing::Answers(503)).await,
        User::start(Doing::Answers(203)).await,
    );
    let always = Fallback::Static(StaticAnswer {
        status: 200,
        content_type: "text/plain".to_owned(),
        body: "nobody".to_owned(),
    });
    let policy = json!({"deadline": {"total": 1000}, "retry": {"attempts": 1}, "breaker": null});
    let (setup, proxy) = start(&user.document(1, policy.clone(), Some(always))).await;
    let mut app = Client::http1(proxy.outbound).await;
    for doing in [Doing::Answers(503), Doing::Hangs] {
        user.does(doing);
        let answer = app.send(post("/x", "hello")).await;
        assert_eq!((answer.status(), &*answer.text()), (200, "nobody"), "{doing:?}");
        assert_eq!(answer.header("x-trellis-reason"), Some("fallback"));
    }
    // However long the request is.
    let long = app.send(post("/x", vec![b'x'; 100_000])).await;
    assert_eq!((long.status(), &*long.text()), (200, "nobody"));
    assert_eq!(
        proxy.logged(|line| line["reason"] == "fallback").await["fallback"],
        true
    );
    user.does(Doing::Answers(500));
    assert_eq!(
        app.send(get("/x")).await.status(),
        500,
        "an answer like any other"
    );

    // Each stands in for the other; one that fails, too, fails.
    let (name, other) = (cluster("user", "http"), cluster("cache", "http"));
    let mut document = user.document(2, policy, Some(Fallback::Cluster(other.clone())));
    let mut stand_in = document.config.clusters[&name].clone();
    stand_in.fallback = Some(Fallback::Cluster(name));
    stand_in.dns.as_mut().unwrap().port = cache.backend.address.port();
    document.config.clusters.insert(other, stand_in);
    document = Document::new(2, document.config);
    setup.write(&document);
    proxy.uses(2).await;
    proxy.knows("shop/cache/http", 1).await;
    user.does(Doing::Answers(503));
    assert_eq!(app.send(post("/x", "hello")).await.status(), 203);
    cache.does(Doing::Answers(503));
    assert_eq!(app.send(get("/x")).await.status(), 503);
    let metrics = proxy.metrics().await;
    assert!(
        metrics.contains("fallbacks_total{cluster=\"shop/user/http\"} 5"),
        "{metrics}"
    );
    soon("the proxy goes on", proxy.readyz()).await;
}
