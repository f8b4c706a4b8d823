//! Requests of an app to other services.

use trellis_proxy_config::Protocol;

use crate::support::{
    backend::Backend,
    client::{Client, get, over_http2, post},
    document::{self, cluster},
    free_port,
    proxy::Proxy,
};

#[tokio::test]
async fn a_service_is_found_by_its_host_in_any_case_with_any_port() {
    let user = Backend::echo().await;
    let name = cluster("user", "http");
    let document = document::sidecar()
        .local_cluster(&name, user.address.port(), Protocol::Http1)
        .outbound(&["user.mesh", "user.shop.mesh"], &name)
        .build();
    let proxy = Proxy::start(&document).await;
    proxy.knows("shop/user/http", 1).await;
    let mut caller = Client::http1(proxy.outbound).await;
    for host in ["user.mesh", "user.mesh:15001", "USER.Shop.mesh:80", "user.mesh."] {
        let mut request = get("/users/ann");
        request.headers_mut().insert("host", host.parse().unwrap());
        let told = caller.send(request).await.text();
        assert!(told.starts_with("GET /users/ann HTTP/1.1\n"), "{told}");
        assert!(told.contains(&format!("\nhost: {host}\n")), "{told}");
    }
    let told = Client::http2(proxy.outbound)
        .await
        .send(over_http2(get("/x")))
        .await
        .text();
    assert!(told.starts_with("GET /x HTTP/1.1\n"), "{told}");
}

#[tokio::test]
async fn an_unknown_host_is_a_404_of_the_proxy_itself() {
    let proxy = Proxy::start(&document::sidecar().build()).await;
    let answer = Client::http1(proxy.outbound).await.send(get("/")).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.header("x-trellis-origin"), Some("proxy"));
    assert_eq!(answer.header("x-trellis-reason"), Some("no_route"));
    assert!(answer.text().contains("spec.dependsOn"), "{}", answer.text());
}

#[tokio::test]
async fn a_service_without_endpoints_is_a_503_that_says_when_to_come_back() {
    let name = cluster("user", "http");
    let document = document::sidecar()
        .cluster(&name, Protocol::Http1)
        .outbound(&["user.mesh"], &name)
        .build();
    let proxy = Proxy::start(&document).await;
    let answer = Client::http1(proxy.outbound).await.send(post("/", "x")).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("x-trellis-reason"), Some("no_endpoints"));
    assert!(
        answer.text().contains("shop/user/http has no ready endpoint"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_or_breaks_off_is_a_502() {
    let broken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broken_port = broken.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        while let Ok((mut stream, _)) = broken.accept().await {
            // Reads the request and leaves.
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let (gone, leaves) = (cluster("gone", "http"), cluster("leaves", "http"));
    let document = document::sidecar()
        .local_cluster(&gone, free_port(), Protocol::Http1)
        .local_cluster(&leaves, broken_port, Protocol::Http1)
        .outbound(&["gone.mesh"], &gone)
        .outbound(&["leaves.mesh"], &leaves)
        .build();
    let proxy = Proxy::start(&document).await;
    proxy.knows("shop/gone/http", 1).await;
    proxy.knows("shop/leaves/http", 1).await;
    let mut caller = Client::http1(proxy.outbound).await;
    for (host, reason) in [
        ("gone.mesh", "connect_failed"),
        ("leaves.mesh", "upstream_closed"),
    ] {
        let mut request = post("/", "x");
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = caller.send(request).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.header("x-trellis-reason"), Some(reason));
    }
}
