//! Where a message begins and ends, read in one way only.

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use trellis_proxy_config::Protocol;

use crate::support::{
    backend::Backend,
    client::{Client, get, raw},
    proxy::{before, before_echo},
    soon,
};

#[tokio::test]
async fn responses_without_a_body_keep_their_framing() {
    let app = Backend::start(|request: Request<_>| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::builder()
            .status(status)
            .body(Empty::new().boxed_unsync())
            .unwrap();
        if status != 204 {
            response
                .headers_mut()
                .insert("content-length", "123".parse().unwrap());
        }
        response
    })
    .await;
    let (_proxy, address) = before(&app, Protocol::Http1).await;
    let mut caller = Client::http1(address).await;
    for (method, status, length) in [
        ("HEAD", 200, Some("123")),
        // hyper leaves it out, which is allowed (RFC 9110 15.4.5).
        ("GET", 304, None),
        ("GET", 204, None),
    ] {
        let mut request = get(&format!("/{status}"));
        *request.method_mut() = method.parse().unwrap();
        let answer = caller.send(request).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("content-length"), length, "{method} {status}");
        assert_eq!(answer.header("transfer-encoding"), None);
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn a_caller_that_expects_continue_gets_it() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    soon("100", stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    soon("the response", stream.read_to_string(&mut rest))
        .await
        .unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
    assert!(rest.ends_with("\n\nhello"), "{rest}");
}

#[tokio::test]
async fn an_absolute_target_overrules_host() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let request = "GET http://order.mesh/x?y HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    let told = raw(address, request).await;
    assert!(told.contains("GET /x?y HTTP/1.1\n"), "{told}");
    assert!(told.contains("\nhost: order.mesh\n"), "{told}");
    assert!(!told.contains("other"), "{told}");
}

#[tokio::test]
async fn a_caller_of_http10_is_served() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let told = raw(address, "GET /x HTTP/1.0\r\n\r\n").await;
    assert!(told.starts_with("HTTP/1.0 200 OK\r\n"), "{told}");
    assert!(told.contains("GET /x HTTP/1.1\n"), "{told}");
    assert!(told.contains("\nhost: localhost\n"), "{told}");
}

#[tokio::test]
async fn two_ways_to_read_a_length_never_reach_the_app() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let refused = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "CONNECT user.mesh:80 HTTP/1.1\r\nHost: user.mesh:80\r\n\r\n",
    ];
    for request in refused {
        // A request that was taken for complete would otherwise leave the connection open.
        let closing = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let answer = raw(address, closing).await;
        assert!(
            answer.starts_with("HTTP/1.") && answer[9..].starts_with("400"),
            "{request:?}: {answer}"
        );
        assert!(
            !answer.contains("POST /") && !answer.contains("GET /"),
            "{request:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn chunks_overrule_a_length_and_only_one_request_reaches_the_app() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let request = "POST /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 40\r\n\
                   Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let told = raw(address, request).await;
    assert!(told.contains("POST /first HTTP/1.1\n"), "{told}");
    assert!(!told.contains("content-length: 40"), "{told}");
    assert!(!told.contains("smuggled"), "{told}");
}
