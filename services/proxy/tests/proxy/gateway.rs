//! The proxy as a gateway.

use http::Request;
use trellis_proxy_config::{Origin, Protocol};

use crate::support::{
    backend::{Backend, text},
    client::{Client, get, over_http2, post},
    document::{self, Builder, cluster},
    eventually, free_port,
    proxy::{Proxy, Setup, before, local},
};

/// A gateway with the routes of an order service.
fn document_for(app: &Backend, port: u16) -> Builder {
    let order = cluster("order", "http");
    document::gateway()
        .local_cluster(&order, app.address.port(), Protocol::Http1)
        .listener(port)
        .route(Origin::Declared, "/orders", &["GET", "POST"], &order)
        .route(Origin::ByService, "/order", &[], &order)
}

async fn gateway(app: &Backend) -> (Proxy, std::net::SocketAddr) {
    let port = free_port();
    let proxy = Proxy::start(&document_for(app, port).build()).await;
    proxy.knows("shop/order/http", 1).await;
    (proxy, local(port))
}

#[tokio::test]
async fn services_are_reached_by_name_and_by_the_paths_that_they_declare() {
    let app = Backend::echo().await;
    let (_proxy, address) = gateway(&app).await;
    let mut caller = Client::http1(address).await;
    for (path, seen) in [
        ("/orders", "/orders"),
        ("/orders/7?a=%2F", "/orders/7?a=%2F"),
        ("/order/orders/7?x", "/orders/7?x"),
        ("/order", "/"),
        ("/order/", "/"),
        ("/order/a%20b/", "/a%20b/"),
    ] {
        let told = caller.send(get(path)).await.text();
        assert!(
            told.starts_with(&format!("GET {seen} HTTP/1.1\n")),
            "{path}: {told}"
        );
    }
}

#[tokio::test]
async fn nobody_from_outside_speaks_for_the_saga_engine() {
    let app = Backend::echo().await;
    let (_proxy, address) = gateway(&app).await;
    let mut request = post("/orders/7/confirm", "");
    for (name, value) in [
        ("trellis-saga-run", "r1"),
        ("Trellis-Saga-Op", "action"),
        ("idempotency-key", "k1"),
    ] {
        request.headers_mut().insert(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    let told = Client::http1(address).await.send(request).await.text();
    assert!(
        told.contains("idempotency-key: k1") && !told.contains("trellis-saga"),
        "{told}"
    );
}

#[tokio::test]
async fn what_is_not_served_is_said_by_the_gateway_itself() {
    let app = Backend::echo().await;
    let (_proxy, address) = gateway(&app).await;
    let mut caller = Client::http1(address).await;
    for (method, path, status, reason) in [
        ("GET", "/", 404, "no_route"),
        ("GET", "/orders2", 404, "no_route"),
        ("GET", "/user/x", 404, "no_route"),
        ("DELETE", "/orders/7", 405, "method_not_allowed"),
        ("GET", "/order/../user", 400, "ambiguous_path"),
        ("GET", "/order/%2e%2e/user", 400, "ambiguous_path"),
        ("GET", "/order%2forders", 400, "ambiguous_path"),
        ("GET", "//orders", 400, "ambiguous_path"),
        ("GET", "/orders//7", 400, "ambiguous_path"),
        ("GET", "/./orders", 400, "ambiguous_path"),
    ] {
        let request = Request::builder().method(method).uri(path).header("host", "a");
        let answer = caller
            .send(request.body(crate::support::client::empty()).unwrap())
            .await;
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.header("x-trellis-origin"), Some("proxy"));
        assert_eq!(answer.header("x-trellis-reason"), Some(reason), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["status"], status);
        assert_eq!(
            answer.header("allow"),
            (status == 405).then_some("GET, HEAD, POST")
        );
    }
    assert_eq!(
        app.connections(),
        0,
        "no byte of a refused request reaches a service"
    );
}

#[tokio::test]
async fn head_is_served_where_get_is() {
    let app = Backend::echo().await;
    let (_proxy, address) = gateway(&app).await;
    let mut request = get("/orders");
    *request.method_mut() = http::Method::HEAD;
    assert_eq!(Client::http1(address).await.send(request).await.status(), 200);
}

#[tokio::test]
async fn services_learn_who_called_from_the_gateway_and_not_from_the_caller() {
    let app = Backend::echo().await;
    let (_proxy, address) = gateway(&app).await;
    for http2 in [false, true] {
        let mut request = get("/orders");
        for (name, value) in [
            ("x-forwarded-for", "10.9.9.9"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.9.9.9"),
            ("connection", "x-forwarded-for"),
        ] {
            if !(http2 && name == "connection") {
                request.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        let told = if http2 {
            Client::http2(address)
                .await
                .send(over_http2(request))
                .await
                .text()
        } else {
            Client::http1(address).await.send(request).await.text()
        };
        for field in [
            "\nx-forwarded-for: 127.0.0.1\n",
            "\nx-forwarded-host: user.mesh:15001\n",
            "\nx-forwarded-proto: http\n",
            "\nhost: user.mesh:15001\n",
        ] {
            assert!(told.contains(field), "{field}: {told}");
        }
        assert!(!told.contains("10.9.9.9") && !told.contains("evil"), "{told}");
    }
}

#[tokio::test]
async fn links_of_a_service_whose_prefix_was_cut_off_lead_back_through_the_gateway() {
    // Answers with its `Location` and what it was told about the prefix; the links are asked for in the query.
    let app = Backend::start(|request: Request<hyper::body::Incoming>| async move {
        let told = |name| {
            request
                .headers()
                .get(name)
                .map_or("-", |value| value.to_str().unwrap())
        };
        let link = request
            .uri()
            .query()
            .unwrap_or_default()
            .replace("{host}", told("host"));
        let mut response = text(format!("{} {}", request.uri().path(), told("x-forwarded-prefix")));
        *response.status_mut() = http::StatusCode::CREATED;
        for name in ["location", "content-location"] {
            response.headers_mut().insert(name, link.parse().unwrap());
        }
        response
    })
    .await;
    let (_proxy, address) = gateway(&app).await;
    for http2 in [false, true] {
        let mut caller = if http2 {
            Client::http2(address).await
        } else {
            Client::http1(address).await
        };
        for (path, link, seen, leads_to) in [
            (
                "/order/orders/",
                "/orders/7",
                "/orders/ /order",
                "/order/orders/7",
            ),
            ("/order", "/order/orders/7", "/ /order", "/order/orders/7"),
            (
                "/order/a",
                "http://{host}/orders/7",
                "/a /order",
                "http://user.mesh:15001/order/orders/7",
            ),
            (
                "/order/a",
                "http://other/orders/7",
                "/a /order",
                "http://other/orders/7",
            ),
            ("/order/a", "7", "/a /order", "7"),
            ("/orders", "/orders/7", "/orders -", "/orders/7"),
        ] {
            let mut request = get(&format!("{path}?{link}"));
            let claim = "/evil".parse().unwrap();
            request.headers_mut().insert("x-forwarded-prefix", claim);
            let request = if http2 { over_http2(request) } else { request };
            let answer = caller.send(request).await;
            assert_eq!(answer.header("location"), Some(leads_to), "{path} {link}");
            assert_eq!(answer.header("content-location"), Some(leads_to), "{path} {link}");
            assert_eq!(answer.text(), seen, "{path}");
        }
    }
}

#[tokio::test]
async fn a_link_is_led_back_once_on_its_way_through_a_gateway_and_a_sidecar() {
    let app = Backend::start(|_| async {
        let mut response = text("");
        response
            .headers_mut()
            .insert("location", "/orders/7".parse().unwrap());
        response
    })
    .await;
    let (_sidecar, inbound) = before(&app, Protocol::Http1).await;
    let (order, port) = (cluster("order", "http"), free_port());
    let document = document::gateway()
        .local_cluster(&order, inbound.port(), Protocol::Http1)
        .listener(port)
        .route(Origin::ByService, "/order", &[], &order);
    let proxy = Proxy::start(&document.build()).await;
    proxy.knows("shop/order/http", 1).await;
    let answer = Client::http1(local(port)).await.send(get("/order/x")).await;
    assert_eq!(answer.header("location"), Some("/order/orders/7"));
}

#[tokio::test]
async fn a_new_document_changes_routes_under_an_open_connection() {
    let (app, other) = (Backend::echo().await, Backend::echo().await);
    let port = free_port();
    let setup = Setup::with(&document_for(&app, port).build());
    let proxy = setup.start().await;
    proxy.knows("shop/order/http", 1).await;
    let mut caller = Client::http1(local(port)).await;
    assert_eq!(caller.send(get("/orders")).await.status(), 200);
    assert_eq!(caller.send(get("/users")).await.status(), 404);

    let user = cluster("user", "http");
    let document = document_for(&app, port)
        .version(2)
        .local_cluster(&user, other.address.port(), Protocol::Http1)
        .route(Origin::Declared, "/users", &[], &user)
        .build();
    setup.write(&document);
    proxy.uses(2).await;
    proxy.knows("shop/user/http", 1).await;
    assert_eq!(caller.send(get("/users")).await.status(), 200);
    assert_eq!(caller.send(get("/orders")).await.status(), 200);
    assert_eq!(app.connections(), 1, "an unchanged cluster keeps its connections");
}

#[tokio::test]
async fn listeners_come_and_go_without_a_dropped_connection() {
    let app = Backend::start(|request: Request<hyper::body::Incoming>| async move {
        // Answers when the whole body is there.
        use http_body_util::BodyExt;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(body)
    })
    .await;
    let (first, second) = (free_port(), free_port());
    let setup = Setup::with(&document_for(&app, first).build());
    let proxy = setup.start().await;
    proxy.knows("shop/order/http", 1).await;
    let mut stays = Client::http1(local(first)).await;
    assert_eq!(stays.send(post("/orders", "a")).await.text(), "a");

    let order = cluster("order", "http");
    let both =
        document_for(&app, first)
            .version(2)
            .listener(second)
            .route(Origin::ByService, "/order", &[], &order);
    setup.write(&both.build());
    proxy.uses(2).await;
    assert_eq!(
        Client::http1(local(second))
            .await
            .send(post("/order/x", "b"))
            .await
            .text(),
        "b"
    );
    assert_eq!(stays.send(post("/orders", "c")).await.text(), "c");

    // The first port goes while a request on it is in flight.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let request = Request::post("/orders")
        .header("host", "a")
        .body(http_body_util::BodyExt::boxed_unsync(body));
    let in_flight = tokio::spawn(async move { stays.send(request.unwrap()).await });
    let frame =
        |text: &'static str| Ok::<_, crate::support::client::Error>(hyper::body::Frame::data(text.into()));
    sender.send(frame("d")).await.unwrap();
    eventually("a request is in flight", || async {
        (proxy.config().await["inFlight"] == 1).then_some(())
    })
    .await;
    let last = document::gateway()
        .version(3)
        .local_cluster(&order, app.address.port(), Protocol::Http1)
        .listener(second)
        .route(Origin::ByService, "/order", &[], &order);
    setup.write(&last.build());
    proxy.uses(3).await;
    eventually("the port is closed", || async {
        Client::try_http1(local(first)).await.err()
    })
    .await;
    sender.send(frame("e")).await.unwrap();
    drop(sender);
    assert_eq!(in_flight.await.unwrap().text(), "de");
}
