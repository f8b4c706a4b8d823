//! What the proxies forward to: a server that costs as little as possible and answers the same to everything.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};

/// Length of every answer: the 1 KiB of Istio's and Dapr's published figures.
pub const BODY: usize = 1024;

static ANSWER: [u8; BODY] = [b'x'; BODY];

/// Starts it on a thread of its own, on every address that `localhost` may mean; returns its port. `reached` is called for every
/// request when its head is there.
pub fn start(reached: impl Fn() + Clone + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
        .context("failed to listen")?;
    listener
        .set_nonblocking(true)
        .context("failed to set up a socket")?;
    let port = listener
        .local_addr()
        .context("a socket without an address")?
        .port();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start a runtime")?;
    std::thread::Builder::new()
        .name("upstream".to_owned())
        .spawn(move || runtime.block_on(serve(listener, reached)))
        .context("failed to start a thread")?;
    Ok(port)
}

async fn serve(listener: TcpListener, reached: impl Fn() + Clone + Send + 'static) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let reached = reached.clone();
        let answer = service_fn(move |_| {
            reached();
            let answer = Response::new(Full::new(Bytes::from_static(&ANSWER)));
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A proxy that breaks a connection fails the request that it belonged to, which the load notices.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
