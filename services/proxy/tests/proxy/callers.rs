//! Whose word about the caller is taken.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use trellis_proxy_config::{Origin, Protocol};

use crate::support::{
    backend::Backend,
    client::{Body, Client, get},
    document::{self, cluster},
    free_port,
    proxy::{Proxy, local},
};

const GATEWAY: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";
const CLIENT: &str = "127.0.0.3";

fn from(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A request that says that it was made for somebody else.
fn claiming(address: &str) -> Request<Body> {
    let mut request = get("/orders");
    for (name, value) in [
        ("x-forwarded-for", address),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/order"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

/// A sidecar that knows a gateway at [`GATEWAY`].
async fn behind_a_gateway(app: &Backend) -> (Proxy, SocketAddr) {
    let (gateway, port) = (cluster("gateway", "http"), free_port());
    let document = document::sidecar()
        .inbound(port, app.address, Protocol::Http1)
        .local_cluster(&gateway, 10080, Protocol::Http1)
        .behind(&gateway);
    let proxy = Proxy::start(&document.build()).await;
    // The first word about endpoints may come after the document.
    crate::support::eventually("the gateway is known", || async {
        let config = proxy.config().await;
        let known = config["endpoints"]["shop/gateway/http"]["addresses"].to_string();
        known.contains(GATEWAY).then_some(())
    })
    .await;
    (proxy, local(port))
}

#[tokio::test]
async fn a_sidecar_believes_its_gateway_about_the_caller_and_nobody_else() {
    let app = Backend::echo().await;
    let (proxy, address) = behind_a_gateway(&app).await;

    let mut gateway = Client::http1_from(from(GATEWAY), address).await;
    let told = gateway.send(claiming("203.0.113.1")).await.text();
    for field in [
        "x-forwarded-for: 203.0.113.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: shop.example",
        "x-forwarded-port: 443",
        "x-forwarded-prefix: /order",
    ] {
        assert!(told.contains(&format!("\n{field}\n")), "{field}: {told}");
    }
    let line = proxy.logged(|line| line["client"] == "203.0.113.1").await;
    assert!(line["peer"].as_str().unwrap().starts_with(GATEWAY), "{line}");

    let mut other = Client::http1_from(from(OTHER), address).await;
    let told = other.send(claiming("203.0.113.2")).await.text();
    for field in [
        "x-forwarded-for: 127.0.0.2",
        "x-forwarded-proto: http",
        "x-forwarded-host: user.mesh:15001",
    ] {
        assert!(told.contains(&format!("\n{field}\n")), "{field}: {told}");
    }
    for claim in [
        "203.0.113",
        "https",
        "shop.example",
        "x-forwarded-port",
        "x-forwarded-prefix",
    ] {
        assert!(!told.contains(claim), "{claim}: {told}");
    }
    proxy.logged(|line| line["client"] == OTHER).await;
}

#[tokio::test]
async fn the_address_that_a_gateway_saw_reaches_the_app_and_the_log_of_its_sidecar() {
    let app = Backend::echo().await;
    let (sidecar, inbound) = behind_a_gateway(&app).await;
    let (order, port) = (cluster("order", "http"), free_port());
    let document = document::gateway()
        .local_cluster(&order, inbound.port(), Protocol::Http1)
        .listener(port)
        .route(Origin::ByService, "/order", &[], &order);
    let gateway = Proxy::start(&document.build()).await;
    gateway.knows("shop/order/http", 1).await;

    let mut caller = Client::http1_from(from(CLIENT), local(port)).await;
    let mut request = claiming("203.0.113.1");
    *request.uri_mut() = "/order/orders".parse().unwrap();
    let told = caller.send(request).await.text();
    for field in [
        "x-forwarded-for: 127.0.0.3",
        "x-forwarded-proto: http",
        "x-forwarded-prefix: /order",
    ] {
        assert!(told.contains(&format!("\n{field}\n")), "{field}: {told}");
    }
    assert!(!told.contains("203.0.113.1"), "{told}");
    gateway.logged(|line| line["client"] == CLIENT).await;
    let line = sidecar.logged(|line| line["client"] == CLIENT).await;
    assert!(line["peer"].as_str().unwrap().starts_with(GATEWAY), "{line}");
}

#[tokio::test]
async fn what_an_app_says_about_its_caller_leaves_the_pod_as_it_is() {
    let other = Backend::echo().await;
    let user = cluster("user", "http");
    let document = document::sidecar()
        .local_cluster(&user, other.address.port(), Protocol::Http1)
        .outbound(&["user.mesh"], &user);
    let proxy = Proxy::start(&document.build()).await;
    proxy.knows("shop/user/http", 1).await;
    let told = Client::http1(proxy.outbound)
        .await
        .send(claiming("203.0.113.1"))
        .await
        .text();
    assert!(told.contains("\nx-forwarded-for: 203.0.113.1\n"), "{told}");
}
