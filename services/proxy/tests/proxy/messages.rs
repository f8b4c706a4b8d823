//! What a request and a response look like on the other side.

use http::{Request, Response};
use trellis_proxy_config::Protocol;

use crate::support::{
    backend::{Backend, full},
    client::{Client, get, over_http2, post},
    proxy::{before, before_echo},
};

#[tokio::test]
async fn http1_stays_http1_and_keeps_its_host_path_and_body() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let told = Client::http1(address)
        .await
        .send(post("/a%20b/?q=%2F&x", "hello"))
        .await
        .text();
    assert!(told.starts_with("POST /a%20b/?q=%2F&x HTTP/1.1\n"), "{told}");
    assert!(told.contains("\nhost: user.mesh:15001\n"), "{told}");
    assert!(told.contains("\ncontent-length: 5\n"), "{told}");
    assert!(told.contains("\ntraceparent: 00-"), "{told}");
    assert!(told.ends_with("\n\nhello"), "{told}");
}

#[tokio::test]
async fn http2_is_translated_for_an_app_that_speaks_http1() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let mut request = over_http2(post("/a?b", "hello"));
    request.headers_mut().append("cookie", "a=1".parse().unwrap());
    request.headers_mut().append("cookie", "b=2".parse().unwrap());
    let answer = Client::http2(address).await.send(request).await;
    assert_eq!(answer.head.version, http::Version::HTTP_2);
    let told = answer.text();
    assert!(told.starts_with("POST /a?b HTTP/1.1\n"), "{told}");
    assert!(told.contains("\nhost: user.mesh:15001\n"), "{told}");
    assert!(told.contains("\ncookie: a=1; b=2\n"), "{told}");
    assert!(told.ends_with("\n\nhello"), "{told}");
}

#[tokio::test]
async fn http1_is_translated_for_an_app_that_speaks_http2() {
    let (_app, _proxy, address) = before_echo(Protocol::H2c).await;
    let answer = Client::http1(address).await.send(post("/a?b", "hello")).await;
    assert_eq!(answer.head.version, http::Version::HTTP_11);
    let told = answer.text();
    assert!(
        told.starts_with("POST http://user.mesh:15001/a?b HTTP/2.0\n"),
        "{told}"
    );
    assert!(told.ends_with("\n\nhello"), "{told}");
}

#[tokio::test]
async fn hop_by_hop_fields_do_not_cross_in_either_direction() {
    let app = Backend::start(|request: Request<_>| async move {
        let seen: Vec<&str> = [
            "x-secret",
            "keep-alive",
            "te",
            "proxy-connection",
            "upgrade",
            "x-kept",
        ]
        .into_iter()
        .filter(|name| request.headers().contains_key(*name))
        .collect();
        Response::builder()
            .header("connection", "x-internal")
            .header("x-internal", "1")
            .header("keep-alive", "timeout=5")
            .header("x-kept", seen.join(","))
            .body(full(""))
            .unwrap()
    })
    .await;
    let (_proxy, address) = before(&app, Protocol::Http1).await;
    let mut request = get("/");
    for (name, value) in [
        ("connection", "keep-alive, x-secret"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers, gzip"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("x-kept", "1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = Client::http1(address).await.send(request).await;
    assert_eq!(answer.header("x-kept"), Some("te,x-kept"));
    for name in ["x-internal", "keep-alive", "connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn an_app_cannot_pass_its_answer_off_as_the_proxys() {
    let app = Backend::start(|_| async {
        Response::builder()
            .status(502)
            .header("x-trellis-origin", "proxy")
            .header("x-trellis-reason", "connect_failed")
            .body(full(""))
            .unwrap()
    })
    .await;
    let (_proxy, address) = before(&app, Protocol::Http1).await;
    let answer = Client::http1(address).await.send(get("/")).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(
        (
            answer.header("x-trellis-origin"),
            answer.header("x-trellis-reason")
        ),
        (None, None)
    );
}
