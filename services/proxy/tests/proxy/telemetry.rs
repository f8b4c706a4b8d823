//! What the proxy tells about requests.

use trellis_proxy_config::{Origin, Protocol};
use trellis_testkit::otlp::Collector;

use crate::support::{
    backend::Backend,
    client::{Client, get, post},
    document::{self, cluster},
    eventually, free_port,
    proxy::{Proxy, Setup, local},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traced(path: &str) -> http::Request<crate::support::client::Body> {
    let mut request = post(path, "hello");
    request.headers_mut().insert(
        "traceparent",
        format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap(),
    );
    request.headers_mut().insert("tracestate", "a=b".parse().unwrap());
    request
        .headers_mut()
        .insert("user-agent", "test/1".parse().unwrap());
    request
}

#[tokio::test]
async fn a_request_is_one_trace_over_gateway_and_sidecar_and_a_line_in_each_log() {
    let app = Backend::echo().await;
    let (inbound, outside) = (free_port(), free_port());
    let sidecar = Proxy::start(
        &document::sidecar()
            .inbound(inbound, app.address, Protocol::Http1)
            .build(),
    )
    .await;
    let order = cluster("order", "http");
    let document = document::gateway()
        .local_cluster(&order, inbound, Protocol::Http1)
        .listener(outside)
        .route(Origin::ByService, "/order", &[], &order)
        .build();
    let gateway = Proxy::start(&document).await;
    gateway.knows("shop/order/http", 1).await;
    let told = Client::http1(local(outside))
        .await
        .send(traced("/order/orders?secret=1"))
        .await
        .text();

    let first = gateway.logged(|line| line["trace_id"] == TRACE).await;
    let second = sidecar.logged(|line| line["trace_id"] == TRACE).await;
    let (first_span, second_span) = (
        first["span_id"].as_str().unwrap(),
        second["span_id"].as_str().unwrap(),
    );
    assert_ne!(first_span, second_span);
    assert!(
        told.contains(&format!("\ntraceparent: 00-{TRACE}-{second_span}-01\n")),
        "{told}"
    );
    assert!(told.contains("\ntracestate: a=b\n"), "{told}");

    for (key, value) in [
        ("direction", "gateway"),
        ("method", "POST"),
        ("path", "/order/orders"),
        ("host", "user.mesh:15001"),
        ("service", "shop/order"),
        ("route", "shop/order"),
        ("cluster", "shop/order/http"),
        ("user_agent", "test/1"),
        ("protocol", "HTTP/1.1"),
        ("level", "INFO"),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!(first["status"], 200);
    assert_eq!(first["bytes_in"], 5);
    assert_eq!(first["bytes_out"], told.len());
    assert_eq!(first["upstream"], format!("127.0.0.1:{inbound}"));
    assert!(
        first["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{first}"
    );
    assert!(first["duration_ms"].as_f64().unwrap() > 0.0);
    assert!(first["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        (&second["direction"], &second["path"]),
        (&"inbound".into(), &"/orders".into())
    );
    assert!(!first.to_string().contains("secret"), "a query may hold secrets");
}

#[tokio::test]
async fn the_access_log_can_be_turned_off() {
    let app = Backend::echo().await;
    let port = free_port();
    let document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .build();
    let mut proxy = Setup::with(&document)
        .env("TRELLIS_ACCESS_LOG", "off")
        .start()
        .await;
    proxy.ready().await;
    assert_eq!(
        Client::http1(local(port)).await.send(get("/")).await.status(),
        200
    );
    proxy.signal("TERM").await;
    assert!(proxy.ended().await.success());
    assert!(proxy.lines().iter().all(|line| line["target"] != "access"));
}

#[tokio::test]
async fn metrics_count_requests_with_bounded_labels() {
    let app = Backend::echo().await;
    let outside = free_port();
    let order = cluster("order", "http");
    let document = document::gateway()
        .local_cluster(&order, app.address.port(), Protocol::Http1)
        .listener(outside)
        .route(Origin::Declared, "/orders", &[], &order)
        .build();
    let proxy = Proxy::start(&document).await;
    proxy.knows("shop/order/http", 1).await;
    let mut caller = Client::http1(local(outside)).await;
    for path in ["/orders/1", "/orders/2", "/unknown/1", "/unknown/2"] {
        let mut request = get(path);
        if path == "/orders/2" {
            *request.method_mut() = "BREW".parse().unwrap();
        }
        caller.send(request).await;
    }
    let expected = [
        r#"request_total{service="shop/order",route="shop/order/orders",method="GET",status="200",direction="gateway"} 1"#,
        r#"request_total{service="shop/order",route="shop/order/orders",method="_OTHER",status="200",direction="gateway"} 1"#,
        r#"request_total{service="shop/gateway",route="_unmatched",method="GET",status="404",direction="gateway"} 2"#,
        r#"response_time_seconds_count{service="shop/order",route="shop/order/orders",method="GET",direction="gateway"} 1"#,
        r#"active_connections{service="shop/order",route="shop/order/orders",method="GET",direction="gateway"} 0"#,
        r#"http_server_request_duration_seconds_count{http_request_method="GET",http_route="shop/order/orders",http_response_status_code="200",direction="gateway"} 1"#,
    ];
    eventually("every line", || async {
        let metrics = proxy.metrics().await;
        expected.iter().all(|line| metrics.contains(line)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn spans_are_exported_when_there_is_a_collector() {
    let collector = Collector::start().await;
    let app = Backend::echo().await;
    let port = free_port();
    let document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .build();
    let setup = Setup::with(&document).env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let mut proxy = setup.start().await;
    proxy.ready().await;
    let told = Client::http1(local(port))
        .await
        .send(traced("/orders"))
        .await
        .text();
    let line = proxy.logged(|line| line["trace_id"] == TRACE).await;
    let span = line["span_id"].as_str().unwrap();
    assert!(
        told.contains(&format!("\ntraceparent: 00-{TRACE}-{span}-01\n")),
        "{told}"
    );
    proxy.signal("TERM").await;
    assert!(proxy.ended().await.success());
    eventually("the span arrives", || async {
        let [arrived] = &collector.trace(TRACE)[..] else {
            return None;
        };
        assert_eq!(arrived.span_id, span);
        assert_eq!(arrived.parent_id.as_deref(), Some("b7ad6b7169203331"));
        assert_eq!(arrived.attribute("trellis.direction"), "inbound");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_document_has_no_longer_goes_from_the_metrics() {
    let app = Backend::echo().await;
    let (first, second) = (free_port(), free_port());
    let (order, user) = (cluster("order", "http"), cluster("user", "http"));
    let with_user = |version, port| {
        document::gateway()
            .version(version)
            .local_cluster(&user, app.address.port(), Protocol::Http1)
            .listener(port)
            .route(Origin::ByService, "/user", &[], &user)
    };
    let both = with_user(1, first)
        .local_cluster(&order, app.address.port(), Protocol::Http1)
        .route(Origin::Declared, "/orders", &[], &order);
    let setup = Setup::with(&both.build());
    let gateway = setup.start().await;
    gateway.knows("shop/order/http", 1).await;
    gateway.knows("shop/user/http", 1).await;
    let mut caller = Client::http1(local(first)).await;
    for path in ["/orders", "/user/ada"] {
        assert_eq!(caller.send(get(path)).await.status(), 200);
    }
    let gone = format!("port=\"{first}\"");
    eventually("both are counted", || async {
        let metrics = gateway.metrics().await;
        let counted = metrics.contains("shop/order/orders") && metrics.contains(&gone);
        counted.then_some(())
    })
    .await;

    setup.write(&with_user(2, second).build());
    gateway.uses(2).await;
    drop(caller);
    let metrics = eventually("what is gone is gone", || async {
        let metrics = gateway.metrics().await;
        (!metrics.contains("shop/order") && !metrics.contains(&gone)).then_some(metrics)
    })
    .await;
    assert!(metrics.contains("route=\"shop/user\""), "{metrics}");
}
