//! What a listener lets in.

use serde_json::{Value, json};
use tokio::sync::watch;
use trellis_proxy_config::{Document, Protocol};

use crate::support::{
    backend::{Backend, text},
    client::{Answer, Client, get, post},
    document, eventually, free_port,
    proxy::{Proxy, Setup, local},
    soon,
};

fn document(version: u64, port: u16, app: &Backend, limits: Value) -> Document {
    let mut document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .build();
    document.config.limits = serde_json::from_value(limits).unwrap();
    Document::new(version, document.config)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "a `json!` literal reads best as an argument by value"
)]
fn limit(name: &str, rule: Value) -> Value {
    json!({"policy": "limits", "generation": 1, "name": name, "rule": rule})
}

fn per_minute(limit: u32) -> Value {
    json!({"rates": {"algorithm": "SlidingWindow", "rates": [{"limit": limit, "window": 60_000}]}})
}

/// `base` with more fields.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a `json!` literal reads best as an argument by value"
)]
fn with(base: Value, more: Value) -> Value {
    let mut base = base;
    for (name, value) in more.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}

async fn proxy(limits: Value) -> (Backend, Setup, Proxy, u16) {
    let app = Backend::echo().await;
    let port = free_port();
    let setup = Setup::with(&document(1, port, &app, limits));
    let proxy = setup.start().await;
    proxy.ready().await;
    (app, setup, proxy, port)
}

async fn ask(port: u16, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = get(path);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    Client::http1(local(port)).await.send(request).await
}

#[tokio::test]
async fn the_request_after_the_last_one_is_refused_and_told_when_to_come_back() {
    let (_app, _setup, proxy, port) = proxy(json!([limit("all", per_minute(3))])).await;
    for left in ["2", "1", "0"] {
        let answer = ask(port, "/orders", &[]).await;
        assert_eq!(answer.status(), 200);
        let told = answer.header("ratelimit").unwrap();
        assert!(told.starts_with(&format!("\"all\";r={left};t=")), "{told}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"all\";q=3;w=60"));
    }
    let refused = ask(port, "/orders", &[]).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.header("x-trellis-reason"), Some("rate_limited"));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert!(refused.text().contains("\\\"limits\\\""), "{}", refused.text());
    let line = "rate_limit_refused_total{policy=\"limits\",limit=\"all\",route=\"\"} 1";
    let metrics = proxy.metrics().await;
    assert!(metrics.lines().any(|it| it == line), "{metrics}");
    assert_eq!(
        proxy.logged(|line| line["status"] == 429).await["reason"],
        "rate_limited"
    );
}

#[tokio::test]
async fn callers_routes_and_conditions_have_limits_of_their_own_and_all_are_charged_or_none() {
    let (_app, _setup, _proxy, port) = proxy(json!([
        with(
            limit("each", per_minute(2)),
            json!({"counters": ["request.headers[\"x-user\"]"]})
        ),
        with(
            limit("orders", per_minute(3)),
            json!({"route": {"name": "orders", "path": "/orders", "methods": ["GET"]}})
        ),
        with(
            limit("heavy", per_minute(10)),
            json!({
                "when": ["request.path.startsWith(\"/heavy\")"], "cost": "size(request.path)",
            })
        ),
    ]))
    .await;
    let (ann, bob) = (("x-user", "ann"), ("x-user", "bob"));
    assert_eq!(ask(port, "/orders/1", &[ann]).await.status(), 200);
    assert_eq!(
        ask(port, "/%6frders/1", &[ann]).await.status(),
        200,
        "the same route"
    );
    assert_eq!(ask(port, "/orders", &[ann]).await.status(), 429);
    // Ann's refusal cost the route nothing.
    assert_eq!(ask(port, "/orders", &[bob]).await.status(), 200);
    assert_eq!(
        ask(port, "/orders", &[bob]).await.status(),
        429,
        "the route is used up"
    );
    assert_eq!(ask(port, "/other", &[bob]).await.status(), 200);
    assert_eq!(ask(port, "/other", &[bob]).await.status(), 429);
    // Nobody's request is nobody's to limit.
    for _ in 0..5 {
        assert_eq!(ask(port, "/other", &[]).await.status(), 200);
    }
    assert_eq!(ask(port, "/heavy", &[]).await.status(), 200, "costs 6 of 10");
    assert_eq!(ask(port, "/heavy", &[]).await.status(), 429);
    assert_eq!(ask(port, "/heav", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_new_limit_takes_effect_at_once_and_resets_nothing() {
    let (app, setup, proxy, port) = proxy(json!([limit("all", per_minute(3))])).await;
    for _ in 0..3 {
        assert_eq!(ask(port, "/", &[]).await.status(), 200);
    }
    setup.write(&document(2, port, &app, json!([limit("all", per_minute(5))])));
    proxy.uses(2).await;
    for status in [200, 200, 429] {
        assert_eq!(ask(port, "/", &[]).await.status(), status);
    }
    // A bad one is refused with its place, and what was in force stays.
    let bad = with(limit("all", per_minute(9)), json!({"when": ["request.nothing"]}));
    setup.write(&document(3, port, &app, json!([bad])));
    eventually("the document is refused", || async {
        let refused = proxy.lines().into_iter().any(|line| {
            let faults = line["faults"].as_str().unwrap_or_default();
            line["message"] == "configuration refused" && faults.contains("config.limits[0].when[0]")
        });
        refused.then_some(())
    })
    .await;
    assert_eq!(ask(port, "/", &[]).await.status(), 429);
    setup.write(&document(4, port, &app, json!([])));
    proxy.uses(4).await;
    assert_eq!(ask(port, "/", &[]).await.status(), 200);
}

#[tokio::test]
async fn shadow_limits_refuse_nobody_and_count() {
    let shadow = with(limit("later", per_minute(1)), json!({"shadow": true}));
    let (_app, _setup, proxy, port) = proxy(json!([shadow])).await;
    for _ in 0..3 {
        let answer = ask(port, "/", &[]).await;
        assert_eq!((answer.status(), answer.header("ratelimit")), (200, None));
    }
    let line = "rate_limit_shadow_refused_total{policy=\"limits\",limit=\"later\",route=\"\"} 2";
    let metrics = proxy.metrics().await;
    assert!(metrics.lines().any(|it| it == line), "{metrics}");
}

#[tokio::test]
async fn refusals_look_as_the_policy_says_and_to_grpc_as_grpc_does() {
    let own = with(
        limit("all", per_minute(1)),
        json!({"status": 503, "body": "later", "headers": "Draft03"}),
    );
    let (_app, _setup, _proxy, port) = proxy(json!([own])).await;
    let passed = ask(port, "/", &[]).await;
    assert_eq!(passed.header("ratelimit-limit"), Some("1"));
    assert_eq!(passed.header("ratelimit-remaining"), Some("0"));
    assert_eq!(passed.header("ratelimit"), None);
    let refused = ask(port, "/", &[]).await;
    assert_eq!((refused.status(), &*refused.text()), (503, "later"));
    let mut call = post("/p.S/M", "x");
    call.headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let refused = Client::http1(local(port)).await.send(call).await;
    assert_eq!(
        (refused.status(), refused.header("grpc-status")),
        (200, Some("8"))
    );
    assert!(refused.header("grpc-retry-pushback-ms").is_some());
}

#[tokio::test]
async fn what_is_told_of_limits_stands_in_place_of_what_the_app_tells() {
    let app = Backend::start(|_| async {
        let mut answer = text("limited elsewhere too");
        for name in ["ratelimit", "ratelimit-policy", "ratelimit-limit"] {
            answer.headers_mut().insert(name, "7".parse().unwrap());
        }
        answer
    })
    .await;
    let port = free_port();
    let limits = json!([
        limit("all", per_minute(3)),
        with(limit("old", per_minute(5)), json!({"headers": "Draft03"})),
    ]);
    let _proxy = Proxy::start(&document(1, port, &app, limits)).await;
    let answer = ask(port, "/", &[]).await;
    let all = |name: &str| {
        answer
            .head
            .headers
            .get_all(name)
            .iter()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(all("ratelimit-policy"), ["\"all\";q=3;w=60"]);
    assert_eq!(all("ratelimit").len(), 1);
    assert_eq!(all("ratelimit-limit"), ["5"]);
}

#[tokio::test]
async fn what_is_under_way_counts_until_the_end_of_its_body() {
    let (let_go, hold) = watch::channel(false);
    let (came, mut comes) = watch::channel(false);
    let app = Backend::start(move |_| {
        let (mut hold, came) = (hold.clone(), came.clone());
        async move {
            came.send_replace(true);
            let _ = hold.wait_for(|go| *go).await;
            text("done")
        }
    })
    .await;
    let port = free_port();
    let one = limit("one", json!({"concurrency": 1}));
    let proxy = Proxy::start(&document(1, port, &app, json!([one]))).await;
    let first = tokio::spawn(ask(port, "/", &[]));
    soon("the first is under way", comes.wait_for(|came| *came))
        .await
        .unwrap();
    assert_eq!(ask(port, "/", &[]).await.status(), 429);
    let_go.send_replace(true);
    assert_eq!(first.await.unwrap().status(), 200);
    eventually("the place is free", || async {
        (ask(port, "/", &[]).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(proxy.readyz().await, 200);
}
