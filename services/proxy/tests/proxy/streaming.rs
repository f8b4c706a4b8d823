//! Exchanges that last: bodies in pieces, tunnels, and those that end early.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use trellis_proxy_config::Protocol;

use crate::support::{
    backend::{self, Backend, full},
    client::{self, Client, get, over_http2, post},
    eventually,
    proxy::{before, before_echo},
    soon,
};

#[tokio::test]
async fn http1_bodies_are_streamed_both_ways_at_once() {
    let app = Backend::start(|request: Request<hyper::body::Incoming>| async move {
        let mut body = request.into_body();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let data = frame.into_data().unwrap().to_ascii_uppercase();
                if sender.send(Ok(Frame::data(Bytes::from(data)))).await.is_err() {
                    return;
                }
            }
        });
        Response::new(StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync())
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (_proxy, address) = before(&app, protocol).await;
        let (sender, receiver) = mpsc::channel(1);
        let body = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
        let request = Request::post("/").header(HOST, "a").body(body).unwrap();
        let mut caller = Client::http1(address).await;
        sender
            .send(Ok::<_, client::Error>(Frame::data("a".into())))
            .await
            .unwrap();
        let mut response = soon("the head", caller.start(request)).await.unwrap().into_body();
        for (sent, expected) in [("b", "A"), ("c", "B"), ("d", "C")] {
            let frame = soon("a frame", response.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), expected);
            sender.send(Ok(Frame::data(sent.into()))).await.unwrap();
        }
        drop(sender);
        let rest = soon("the rest", response.collect()).await.unwrap().to_bytes();
        assert_eq!(rest, "D");
    }
}

#[tokio::test]
async fn a_websocket_becomes_a_tunnel() {
    let app = Backend::start(|mut request: Request<hyper::body::Incoming>| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert_eq!(request.headers()["connection"], "upgrade");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut end = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 4];
            while end.read_exact(&mut buffer).await.is_ok() {
                end.write_all(&buffer.to_ascii_uppercase()).await.unwrap();
            }
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "x")
            .body(full(""))
            .unwrap()
    })
    .await;
    let (proxy, address) = before(&app, Protocol::Http1).await;
    let mut caller = Client::http1(address).await;
    let mut request = get("/socket");
    request
        .headers_mut()
        .insert("connection", "Upgrade".parse().unwrap());
    request
        .headers_mut()
        .insert("upgrade", "websocket".parse().unwrap());
    let response = soon("101", caller.start(request)).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "x");
    let mut end = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut buffer = [0; 4];
    for word in [b"ping", b"pong"] {
        end.write_all(word).await.unwrap();
        soon("an echo", end.read_exact(&mut buffer)).await.unwrap();
        assert_eq!(buffer.to_vec(), word.to_ascii_uppercase());
    }
    assert_eq!(proxy.config().await["inFlight"], 1, "a tunnel is in flight");
    drop(end);
    eventually("the tunnel ends", || async {
        (proxy.config().await["inFlight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_the_app_declines_is_a_plain_exchange() {
    let (_app, _proxy, address) = before_echo(Protocol::Http1).await;
    let mut request = get("/");
    request
        .headers_mut()
        .insert("connection", "Upgrade".parse().unwrap());
    request
        .headers_mut()
        .insert("upgrade", "websocket".parse().unwrap());
    let mut caller = Client::http1(address).await;
    assert_eq!(caller.send(request).await.status(), 200);
    assert_eq!(
        caller.send(get("/")).await.status(),
        200,
        "the connection is still HTTP"
    );
}

#[tokio::test]
async fn connections_to_the_app_are_used_again() {
    let (app, _proxy, address) = before_echo(Protocol::Http1).await;
    let mut caller = Client::http1(address).await;
    for _ in 0..50 {
        assert_eq!(caller.send(post("/", "x")).await.status(), 200);
    }
    // One more may be opened when an answer is read before its connection knows that it is free again.
    assert!(app.connections() <= 5, "{}", app.connections());
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_request_at_the_app() {
    let (gone, mut was_dropped) = mpsc::channel::<()>(1);
    let app = Backend::start(move |_| {
        let gone = gone.clone();
        async move {
            let _gone = gone;
            std::future::pending::<Response<backend::Body>>().await
        }
    })
    .await;
    for http2 in [false, true] {
        let protocol = if http2 { Protocol::H2c } else { Protocol::Http1 };
        let (proxy, address) = before(&app, protocol).await;
        let mut caller = if http2 {
            Client::http2(address).await
        } else {
            Client::http1(address).await
        };
        let request = if http2 { over_http2(get("/")) } else { get("/") };
        let task = tokio::spawn(async move { caller.try_send(request).await.map(drop) });
        eventually("the request is in flight", || async {
            (proxy.config().await["inFlight"] == 1).then_some(())
        })
        .await;
        task.abort();
        eventually("nothing is in flight", || async {
            (proxy.config().await["inFlight"] == 0).then_some(())
        })
        .await;
        let line = proxy.logged(|line| line["status"] == 499).await;
        assert_eq!(line["path"], "/");
    }
    drop(app);
    assert!(
        soon("every request was dropped", was_dropped.recv())
            .await
            .is_none()
    );
}

#[tokio::test]
async fn a_body_that_ends_early_is_not_the_apps_fault() {
    let (_app, proxy, address) = before_echo(Protocol::Http1).await;
    let (sender, receiver) = mpsc::channel(1);
    let body = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
    let request = over_http2(Request::post("/").header(HOST, "a").body(body).unwrap());
    let mut caller = Client::http2(address).await;
    sender.send(Ok(Frame::data("a".into()))).await.unwrap();
    let task = tokio::spawn(async move { caller.try_send(request).await.map(drop) });
    eventually("the request is in flight", || async {
        (proxy.config().await["inFlight"] == 1).then_some(())
    })
    .await;
    sender.send(Err("enough".into())).await.unwrap();
    assert!(soon("the exchange fails", task).await.unwrap().is_err());
    proxy
        .logged(|line| line["reason"] == "caller_aborted" || line["status"] == 499)
        .await;
}
