//! What callers cannot make the proxy do.

use std::{pin::pin, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use trellis_proxy_config::Protocol;

use crate::support::{
    backend::Backend,
    client::{Client, get, over_http2, raw},
    document, eventually, free_port,
    proxy::{Setup, before_echo, local},
    soon,
};

#[tokio::test]
async fn a_head_with_too_many_fields_or_bytes_is_a_431() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let some: String = (0..85).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many: String = (0..101).map(|i| format!("x-{i}: 1\r\n")).collect();
    let bytes = format!("x: {}\r\n", "x".repeat(17 * 1024));
    let huge = format!("x: {}\r\n", "x".repeat(300 * 1024));
    let explained = raw(
        address,
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{some}\r\n"),
    )
    .await;
    assert!(
        explained.contains("headers_too_large"),
        "a refusal of ours has a reason: {explained}"
    );
    for fields in [some, many, bytes, huge] {
        let answer = raw(
            address,
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n"),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 431 "),
            "{}",
            &answer[..answer.len().min(200)]
        );
    }
}

#[tokio::test]
async fn a_head_with_too_many_fields_or_bytes_is_a_431_over_http2_too() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let mut caller = Client::http2(address).await;
    let mut many = over_http2(get("/"));
    for _ in 0..101 {
        many.headers_mut().append("cookie", "a=1".parse().unwrap());
    }
    assert_eq!(caller.send(many).await.status(), 431);
    let mut large = over_http2(get("/"));
    large
        .headers_mut()
        .insert("x", "x".repeat(17 * 1024).parse().unwrap());
    assert_eq!(caller.send(large).await.status(), 431);
    assert_eq!(
        caller.send(over_http2(get("/"))).await.status(),
        200,
        "the connection is still good"
    );
}

#[tokio::test]
async fn a_target_that_is_too_long_is_a_414() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let answer = Client::http1(address)
        .await
        .send(get(&format!("/{}", "x".repeat(9000))))
        .await;
    assert_eq!(answer.status(), 414);
    assert_eq!(answer.header("x-trellis-reason"), Some("uri_too_long"));
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_cut_off_while_a_slow_body_is_not() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let start = Instant::now();
    let dribble = async |first: &'static [u8], drop: &'static [u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(first).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let ended = read.read_to_end(&mut answer);
        let dribbling = async {
            let mut tick = tokio::time::interval(Duration::from_millis(200));
            loop {
                tick.tick().await;
                if write.write_all(drop).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            // A reset tells the same.
            _ = ended => start.elapsed(),
            () = dribbling => unreachable!(),
        }
    };
    let body = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..65 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stream.write_all(b"x").await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let all = async {
        tokio::join!(
            dribble(b"", b""),
            dribble(b"P", b""),
            dribble(b"GET / HTTP/1.1\r\n", b"x: 1\r\n"),
            dribble(
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n",
                b"x: 1\r\n"
            ),
            body,
        )
    };
    let (silent, started, slow, second, body) = soon("everything ends", all).await;
    for elapsed in [silent, started, slow, second] {
        assert!((9..15).contains(&elapsed.as_secs()), "{elapsed:?}");
    }
    assert!(body.starts_with("HTTP/1.1 200 OK"), "{body}");
}

#[tokio::test]
async fn http2_callers_may_not_open_streams_without_bound() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, mut connection) = h2::client::handshake(stream).await.unwrap();
    // The settings come with the first exchange.
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::get("http://a/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let exchange = async {
        tokio::select! {
            response = response => response.unwrap().status(),
            _ = &mut connection => panic!("the connection ended"),
        }
    };
    assert_eq!(soon("a response", exchange).await, 200);
    assert_eq!(connection.max_concurrent_send_streams(), 100);
}

#[tokio::test]
async fn callers_beyond_the_bound_of_connections_wait_for_one_to_end() {
    let (app, port) = (Backend::echo().await, free_port());
    let document = document::sidecar().inbound(port, app.address, Protocol::Http1);
    let setup = Setup::with(&document.build()).env("TRELLIS_MAX_CONNECTIONS", "2");
    let proxy = setup.start().await;
    proxy.ready().await;
    let address = local(port);
    let (mut first, mut second) = (Client::http1(address).await, Client::http1(address).await);
    for caller in [&mut first, &mut second] {
        assert_eq!(caller.send(get("/")).await.status(), 200);
    }
    // The kernel takes it; the proxy does not yet.
    let mut third = Client::http1(address).await;
    let mut waits = pin!(third.send(get("/")));
    assert!(futures::poll!(waits.as_mut()).is_pending());
    let labels = format!("{{direction=\"inbound\",port=\"{port}\"}}");
    for _ in 0..20 {
        assert_eq!(first.send(get("/")).await.status(), 200);
        assert!(futures::poll!(waits.as_mut()).is_pending());
    }
    let metrics = proxy.metrics().await;
    for line in [
        format!("caller_connections{labels} 2\n"),
        format!("caller_connections_full_total{labels} 1\n"),
    ] {
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    assert!(futures::poll!(waits.as_mut()).is_pending());
    drop(second);
    assert_eq!(waits.await.status(), 200);
    let told = |line: &Value| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.starts_with("all places"))
    };
    assert_eq!(
        proxy.lines().iter().filter(|line| told(line)).count(),
        1,
        "the second time is kept back"
    );
}

#[tokio::test]
async fn what_is_no_request_is_counted_and_not_logged_each_time() {
    let (_app, proxy, address) = before_echo(Protocol::Http1).await;
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n",
        "x".repeat(300 * 1024)
    );
    for (head, status) in [
        ("\x16\x03\x01 hello, TLS?\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (huge.as_str(), 431),
    ] {
        let answer = raw(address, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let port = address.port();
    let line = |reason, count| {
        format!("refused_heads_total{{direction=\"inbound\",port=\"{port}\",reason=\"{reason}\"}} {count}\n")
    };
    eventually("all are counted", || async {
        let metrics = proxy.metrics().await;
        let counted = metrics.contains(&line("malformed", 2)) && metrics.contains(&line("too_large", 1));
        counted.then_some(())
    })
    .await;
    let told = proxy.lines();
    let told = told
        .iter()
        .filter(|line| line["message"] == "refused what could not be read");
    assert_eq!(told.count(), 1);
}
