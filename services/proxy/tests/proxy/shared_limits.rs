//! Limits that all pods of a service share.

use std::net::SocketAddr;

use serde_json::{Value, json};
use trellis_proxy_config::{Document, Protocol};

use crate::support::{
    authority::Authority,
    backend::Backend,
    client::{Answer, Client, get},
    document, free_port,
    proxy::{Proxy, Setup, local},
};

struct Pod {
    setup: Setup,
    proxy: Proxy,
    port: u16,
}

/// A limit over all of two pods.
fn limit(limit: u32, on_loss: &str, counters: &[&str]) -> Value {
    json!({
        "policy": "limits", "generation": 1, "name": "all", "counters": counters,
        "rule": {"rates": {"algorithm": "SlidingWindow", "rates": [{"limit": limit, "window": 60_000}]}},
        "lease": {"replicas": 2, "onLoss": on_loss},
    })
}

fn document(version: u64, port: u16, app: &Backend, quota: SocketAddr, limit: &Value) -> Document {
    let mut document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .build();
    document.config.limits = serde_json::from_value(json!([limit])).unwrap();
    document.config.quota = serde_json::from_value(json!({"address": format!("http://{quota}")})).unwrap();
    Document::new(version, document.config)
}

async fn pod(app: &Backend, quota: SocketAddr, limit: &Value) -> Pod {
    let port = free_port();
    let setup = Setup::with(&document(1, port, app, quota, limit));
    let proxy = setup.start().await;
    proxy.ready().await;
    Pod { setup, proxy, port }
}

impl Pod {
    async fn ask(&self, user: &str) -> Answer {
        let mut request = get("/");
        request.headers_mut().insert("x-user", user.parse().unwrap());
        Client::http1(local(self.port)).await.send(request).await
    }

    /// How many of so many requests are let in.
    async fn passes(&self, requests: u32, user: &str) -> u32 {
        let mut passed = 0;
        for _ in 0..requests {
            passed += u32::from(self.ask(user).await.status() == 200);
        }
        passed
    }
}

#[tokio::test]
async fn two_pods_let_in_as_much_together_as_the_limit_says_and_no_first_request_is_refused() {
    let app = Backend::echo().await;
    let authority = Authority::start().await;
    let limit = limit(20, "Share", &[]);
    let (one, two) = (
        pod(&app, authority.address, &limit).await,
        pod(&app, authority.address, &limit).await,
    );
    let first = one.ask("ann").await;
    assert_eq!(first.status(), 200);
    assert_eq!(first.header("ratelimit-policy"), Some("\"all\";q=20;w=60"));
    let mut passed = 1 + two.passes(1, "ann").await;
    assert_eq!(passed, 2);
    // One asks for more as it goes on; in the end all is used, and no more.
    for _ in 0..30 {
        passed += one.passes(5, "ann").await + two.passes(1, "ann").await;
    }
    assert_eq!(passed, 20);
    let refused = one.ask("ann").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(
        authority.authorizations(),
        ["Bearer a-quota-token", "Bearer a-quota-token"]
    );
}

#[tokio::test]
async fn a_burst_is_let_in_whoever_holds_what_it_takes() {
    let app = Backend::echo().await;
    let authority = Authority::start().await;
    let limit = limit(40, "Share", &[]);
    let (one, two) = (
        pod(&app, authority.address, &limit).await,
        pod(&app, authority.address, &limit).await,
    );
    // Both have some, and neither uses it.
    assert_eq!(two.passes(1, "ann").await + one.passes(1, "ann").await, 2);
    // At once, unless an answer takes 100 ms; see the tests of parts.
    let mut passed = 0;
    for _ in 0..1_000 {
        passed += one.passes(1, "ann").await;
    }
    // Of two's part, what it has used, and one that it may need next.
    assert_eq!((passed, two.passes(1, "ann").await), (37, 1));
}

#[tokio::test]
async fn every_caller_has_a_limit_of_its_own_over_all_pods() {
    let app = Backend::echo().await;
    let authority = Authority::start().await;
    let limit = limit(6, "Share", &["request.headers[\"x-user\"]"]);
    let (one, two) = (
        pod(&app, authority.address, &limit).await,
        pod(&app, authority.address, &limit).await,
    );
    for user in ["ann", "bob"] {
        let mut passed = 0;
        for _ in 0..30 {
            passed += one.passes(1, user).await + two.passes(1, user).await;
        }
        assert_eq!(passed, 6, "{user}");
    }
    let line = "rate_limit_leased_keys{policy=\"limits\",limit=\"all\",route=\"\"} 2";
    let metrics = one.proxy.metrics().await;
    assert!(metrics.lines().any(|it| it == line), "{metrics}");
}

#[tokio::test]
async fn a_replica_that_does_not_grant_says_which_does() {
    let app = Backend::echo().await;
    let mut authority = Authority::start().await;
    let standby = authority.standby().await;
    let pod = pod(&app, standby, &limit(5, "Closed", &[])).await;
    assert_eq!(pod.passes(1, "ann").await, 1);
}

#[tokio::test]
async fn a_pod_that_never_had_a_lease_does_as_the_limit_says() {
    let app = Backend::echo().await;
    let nobody = local(free_port());
    for (on_loss, passes) in [("Share", 0), ("Closed", 0), ("Open", 3)] {
        let pod = pod(&app, nobody, &limit(1, on_loss, &[])).await;
        assert_eq!(pod.passes(3, "ann").await, passes, "{on_loss}");
        if passes == 0 {
            assert_eq!(pod.ask("ann").await.header("retry-after"), Some("1"));
        }
    }
}

#[tokio::test]
async fn without_the_authority_a_pod_goes_on_with_what_it_has_and_an_edit_holds_at_once() {
    let app = Backend::echo().await;
    let authority = Authority::start().await;
    let quota = authority.address;
    let pod = pod(&app, quota, &limit(20, "Share", &[])).await;
    assert_eq!(pod.ask("ann").await.status(), 200);
    drop(authority);
    // What it asks for, one or two, and half of the rest, which nobody else has asked for.
    let passed = 1 + pod.passes(30, "ann").await;
    assert!((10..=11).contains(&passed), "{passed}");
    pod.setup
        .write(&document(2, pod.port, &app, quota, &limit(60, "Share", &[])));
    pod.proxy.uses(2).await;
    // The same part of three times as much, less what was used.
    let more = pod.passes(80, "ann").await;
    assert_eq!(passed + more, 3 * passed);
}
