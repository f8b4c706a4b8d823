//! Callers of a proxy. They never try again by themselves.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{Request, Response, Version, header::HOST};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::soon;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, Error>;

/// A connection to a proxy.
pub enum Client {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A response that has been read.
#[derive(Debug)]
pub struct Answer {
    pub head: http::response::Parts,
    pub body: Bytes,
}

impl Client {
    pub async fn http1(address: SocketAddr) -> Self {
        Self::try_http1(address).await.unwrap()
    }

    pub async fn try_http1(address: SocketAddr) -> io::Result<Self> {
        Self::http1_over(TcpStream::connect(address).await?).await
    }

    /// A caller with an address of its own, say another one of the loopback.
    pub async fn http1_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        Self::http1_over(socket.connect(address).await.unwrap())
            .await
            .unwrap()
    }

    async fn http1_over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok(Self::Http1(sender))
    }

    pub async fn http2(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// Sends a request and gives the response as it comes.
    pub async fn start(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and reads the response.
    pub async fn try_send(&mut self, request: Request<Body>) -> Result<Answer, Error> {
        let (head, body) = self.start(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { head, body })
    }

    /// The same where nothing may go wrong.
    pub async fn send(&mut self, request: Request<Body>) -> Answer {
        soon("a response", self.try_send(request)).await.unwrap()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A request without a body, as a client of HTTP/1.1 makes it.
pub fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header(HOST, "user.mesh:15001")
        .body(empty())
        .unwrap()
}

/// A request with a body, as a client of HTTP/1.1 makes it.
pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    Request::post(path)
        .header(HOST, "user.mesh:15001")
        .body(full(body))
        .unwrap()
}

/// The same request for HTTP/2.
pub fn over_http2(mut request: Request<Body>) -> Request<Body> {
    let host = request.headers_mut().remove(HOST).unwrap();
    let uri = format!("http://{}{}", host.to_str().unwrap(), request.uri());
    *request.uri_mut() = uri.parse().unwrap();
    *request.version_mut() = Version::HTTP_2;
    request
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Sends bytes as they are and reads until the other end closes.
pub async fn raw(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    let mut response = Vec::new();
    // A reset after the response is the other end's right.
    let _ = soon("the end of a raw exchange", stream.read_to_end(&mut response)).await;
    String::from_utf8_lossy(&response).into_owned()
}
