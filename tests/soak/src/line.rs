//! A client's connection to the gateway: one request of HTTP/1.1 at a time, or many of HTTP/2.
//!
//! A request is sent once. A connection that its server has closed in good order (`Connection: close`, GOAWAY, an idle
//! close that was seen) is replaced before the next request; hyper hands a request back if and only if it never began to
//! write it. An HTTP/2 server that leaves may pass a request by in the same good order: it lies above the last one that its
//! GOAWAY promises to look at (RFC 9113 6.8), and was not sent in the sense of any client. Everything else that goes wrong is
//! the failure of that request. Pooled clients do more than that on their own account, which is why none is used.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::{net::TcpStream, sync::Mutex, time::timeout};

use crate::traffic::Answer;

/// A request without its whole answer after this long has failed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Header by which a proxy says why it answered itself.
const REASON: &str = "x-trellis-reason";
/// Header that names the limits of a request.
const LIMITS: &str = "ratelimit-policy";

/// What is spoken to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum, strum::AsRefStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, kept alive.
    H1,
    /// HTTP/2 without TLS.
    H2c,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    #[error("failed to begin the connection")]
    Begin(#[source] hyper::Error),
    #[error("failed to exchange request and response")]
    Exchange(#[source] hyper::Error),
    #[error("failed to get an answer within {DEADLINE:?}")]
    Deadline,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// See the module.
pub(crate) struct Line {
    address: SocketAddr,
    protocol: Protocol,
    /// Held for the whole exchange with HTTP/1.1, to pick the connection with HTTP/2.
    sender: Mutex<Option<Sender>>,
    opened: AtomicU64,
}

impl Line {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self {
            address,
            protocol,
            sender: Mutex::new(None),
            opened: AtomicU64::new(0),
        }
    }

    /// Connections made so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let exchange = async {
            match self.protocol {
                Protocol::H1 => self.over_http1(request).await,
                Protocol::H2c => self.over_http2(request).await,
            }
        };
        timeout(DEADLINE, exchange).await.map_err(|_| Error::Deadline)?
    }

    async fn over_http1(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        request.headers_mut().insert(header::HOST, self.host());
        let mut place = self.sender.lock().await;
        loop {
            // Taken out: if this future is dropped in the middle, the connection goes with it.
            let (mut sender, fresh) = match still_open(place.take()).await {
                Some(sender) => (sender, false),
                None => (self.connect_http1().await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let answer = read(response).await?;
                    *place = Some(Sender::Http1(sender));
                    return Ok(answer);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(Error::Exchange(error.into_error())),
                },
            }
        }
    }

    async fn over_http2(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let absolute = format!("http://{}{path}", self.address);
        *request.uri_mut() = absolute.parse::<Uri>().unwrap_or_default();
        loop {
            let (mut sender, fresh) = self.shared_http2().await?;
            let copy = request.clone();
            match sender.try_send_request(request).await {
                Ok(response) => return read(response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ if !fresh && is_passed_by(error.error()) => request = copy,
                    _ => return Err(Error::Exchange(error.into_error())),
                },
            }
        }
    }

    /// The connection that all share, or a new one if that is closing.
    async fn shared_http2(&self) -> Result<(http2::SendRequest<Full<Bytes>>, bool), Error> {
        let mut place = self.sender.lock().await;
        if let Some(Sender::Http2(sender)) = &mut *place
            && sender.ready().await.is_ok()
        {
            return Ok((sender.clone(), false));
        }
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(Error::Begin)?;
        // How it ends is seen by the requests on it.
        tokio::spawn(connection);
        *place = Some(Sender::Http2(sender.clone()));
        Ok((sender, true))
    }

    async fn connect_http1(&self) -> Result<http1::SendRequest<Full<Bytes>>, Error> {
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::handshake(io).await.map_err(Error::Begin)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let stream = TcpStream::connect(self.address).await.map_err(Error::Connect)?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        Ok(stream)
    }

    fn host(&self) -> HeaderValue {
        // An address and a port are always a valid field.
        HeaderValue::from_str(&self.address.to_string()).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Whether the server says by GOAWAY, and without an error, that it has not looked at the request and will not.
fn is_passed_by(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

async fn still_open(sender: Option<Sender>) -> Option<http1::SendRequest<Full<Bytes>>> {
    let Some(Sender::Http1(mut sender)) = sender else {
        return None;
    };
    sender.ready().await.ok()?;
    Some(sender)
}

async fn read(response: Response<Incoming>) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(Error::Exchange)?.to_bytes();
    let text = |name| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    Ok(Answer {
        status: head.status,
        reason: text(REASON),
        limits: text(LIMITS),
        body,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers each connection's requests with the texts of its turn, then closes it. Returns what was received.
    async fn server(turns: &'static [&'static [&'static str]]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        tokio::spawn(async move {
            for answers in turns {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in *answers {
                    let mut buffer = [0; 1024];
                    let count = stream.read(&mut buffer).await.unwrap();
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    log.lock().unwrap().push(text.lines().next().unwrap().to_owned());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        (address, received)
    }

    fn get(path: &str) -> Request<Full<Bytes>> {
        Request::get(path).body(Full::default()).unwrap()
    }

    const KEPT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn a_connection_is_kept_and_replaced_once_its_server_said_close() {
        let (address, received) = server(&[&[KEPT, LAST], &[KEPT]]).await;
        let line = Line::new(address, Protocol::H1);
        for path in ["/a", "/b", "/c"] {
            line.exchange(get(path)).await.unwrap();
        }
        assert_eq!(line.opened(), 2);
        assert_eq!(
            *received.lock().unwrap(),
            ["GET /a HTTP/1.1", "GET /b HTTP/1.1", "GET /c HTTP/1.1"]
        );
    }

    #[tokio::test]
    async fn a_request_that_gets_no_answer_has_failed_and_is_not_sent_again() {
        let (address, received) = server(&[&[KEPT, ""], &[KEPT]]).await;
        let line = Line::new(address, Protocol::H1);
        line.exchange(get("/a")).await.unwrap();
        let error = line.exchange(get("/b")).await.unwrap_err();
        assert!(matches!(error, Error::Exchange(_)), "{error:?}");
        assert_eq!(*received.lock().unwrap(), ["GET /a HTTP/1.1", "GET /b HTTP/1.1"]);
        line.exchange(get("/c")).await.unwrap();
    }

    #[tokio::test]
    async fn a_gateway_that_refuses_connections_fails_the_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        for protocol in [Protocol::H1, Protocol::H2c] {
            let error = Line::new(address, protocol).exchange(get("/")).await.unwrap_err();
            assert!(matches!(error, Error::Connect(_)), "{error:?}");
        }
    }
}
