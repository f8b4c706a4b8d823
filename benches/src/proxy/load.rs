//! The load: lanes that each have at most one request under way.
//!
//! With a rate, every request has a time at which it is due, whatever became of those before (an open loop). Its latency
//! counts from when it was sent, or from when it was due if the lane was still busy then, so that a subject that stalls is
//! not spared the requests that would have come meanwhile (coordinated omission). Timers have a resolution of 1 ms, so
//! requests come in small bunches, the same for every subject.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until},
};

use super::{case::Protocol, configuration::PREFIX, upstream::BODY};
use crate::statistics::Times;

/// Lanes that share a connection of HTTP/2.
const STREAMS: usize = 8;
/// Header by which lanes of HTTP/1.1 say which they are, as callers would.
pub const CALLER: &str = "x-user";
/// Most bytes of an answer's head.
const HEAD: usize = 4096;

/// How fast requests are made.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Requests a second, over all lanes.
    Rate(u32),
    /// As fast as they are answered.
    Saturated,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// All of them were answered well.
    pub requests: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// One a request.
    pub times: Times,
}

/// Connections to a subject.
pub struct Lanes(Vec<Lane>);

enum Lane {
    Http1 {
        stream: TcpStream,
        request: Bytes,
        buffer: Box<[u8; HEAD + BODY]>,
    },
    H2c {
        sender: http2::SendRequest<Empty<Bytes>>,
        uri: String,
    },
}

impl Lanes {
    /// Connects.
    pub async fn connect(address: SocketAddr, protocol: Protocol, lanes: u32) -> Result<Self> {
        let mut all = Vec::new();
        let mut shared: Option<http2::SendRequest<Empty<Bytes>>> = None;
        for lane in 0..usize::try_from(lanes)? {
            all.push(match protocol {
                Protocol::Http1 => Lane::http1(address, lane).await?,
                Protocol::H2c => {
                    if lane % STREAMS == 0 {
                        let (sender, connection) =
                            http2::handshake(TokioExecutor::new(), TokioIo::new(open(address).await?))
                                .await?;
                        // Its end fails the requests on it.
                        tokio::spawn(connection);
                        shared = Some(sender);
                    }
                    Lane::H2c {
                        sender: shared.clone().context("no connection to share")?,
                        uri: format!("http://{address}{PREFIX}items/42"),
                    }
                }
            });
        }
        Ok(Self(all))
    }

    /// Makes requests for `length`.
    pub async fn run(&mut self, pace: Pace, length: Duration) -> Result<Outcome> {
        let (begin, lanes) = (Instant::now(), self.0.len());
        let end = begin + length;
        let lanes = self.0.iter_mut().enumerate().map(async |(number, lane)| {
            let mut latencies = Vec::new();
            for turn in 0_usize.. {
                let now = Instant::now();
                let from = match pace {
                    Pace::Saturated => now,
                    Pace::Rate(rate) => {
                        begin + Duration::from_secs(1) * u32::try_from(turn * lanes + number)? / rate
                    }
                };
                // What is due before the end is asked for, however late.
                if from >= end {
                    break;
                }
                let from = if from > now {
                    sleep_until(from).await;
                    Instant::now()
                } else {
                    from
                };
                let admitted = lane.exchange().await?;
                ensure!(admitted, "the answer is {}", StatusCode::TOO_MANY_REQUESTS);
                latencies.push(from.elapsed());
            }
            anyhow::Ok(latencies)
        });
        let latencies = try_join_all(lanes).await?;
        let elapsed = begin.elapsed();
        Ok(Outcome {
            requests: latencies.iter().map(Vec::len).sum(),
            elapsed,
            times: latencies.into_iter().flatten().collect(),
        })
    }

    /// Makes requests at these times from now on, in order, whatever becomes of them; an open loop. Returns how many were
    /// admitted.
    pub async fn run_at(&mut self, due: &[Duration]) -> Result<usize> {
        let (begin, count) = (Instant::now(), self.0.len());
        let lanes = self.0.iter_mut().enumerate().map(async |(number, lane)| {
            let mut admitted = 0;
            for due in due.iter().skip(number).step_by(count) {
                sleep_until(begin + *due).await;
                admitted += usize::from(lane.exchange().await?);
            }
            anyhow::Ok(admitted)
        });
        Ok(try_join_all(lanes).await?.into_iter().sum())
    }
}

impl Lane {
    async fn http1(address: SocketAddr, number: usize) -> Result<Self> {
        let request = format!(
            "GET {PREFIX}items/42 HTTP/1.1\r\nHost: {address}\r\nUser-Agent: trellis-bench\r\nAccept: */*\r\n\
             {CALLER}: lane-{number}\r\n\r\n"
        );
        Ok(Self::Http1 {
            stream: open(address).await?,
            request: request.into(),
            buffer: Box::new([0; HEAD + BODY]),
        })
    }

    /// A request and its answer, which must be the upstream's or, over HTTP/1.1, say that there were too many: false.
    async fn exchange(&mut self) -> Result<bool> {
        match self {
            Self::Http1 {
                stream,
                request,
                buffer,
            } => {
                stream.write_all(request).await.context("failed to send")?;
                let (mut length, mut answer) = (0, None);
                loop {
                    if let Some(Coming { admitted, missing: 0 }) = answer {
                        return Ok(admitted);
                    }
                    let read = stream
                        .read(&mut buffer[length..])
                        .await
                        .context("failed to receive")?;
                    ensure!(read > 0, "the connection ended before the answer did");
                    length += read;
                    answer = coming(&buffer[..length])?;
                }
            }
            Self::H2c { sender, uri } => {
                sender.ready().await?;
                let request = Request::get(&**uri)
                    .header("user-agent", "trellis-bench")
                    .header("accept", "*/*")
                    .body(Empty::new())?;
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                let body = answer.into_body().collect().await?.to_bytes();
                ensure!(
                    status == StatusCode::OK && body.len() == BODY,
                    "the answer is {status} with {} bytes",
                    body.len()
                );
                Ok(true)
            }
        }
    }
}

async fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Coming {
    /// Whether it is the upstream's.
    admitted: bool,
    /// Bytes of it that are still to come.
    missing: usize,
}

/// What is known of an answer so far; none if its head is not complete.
fn coming(answer: &[u8]) -> Result<Option<Coming>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(begin) = head.parse(answer).context("the answer is no HTTP")? else {
        ensure!(answer.len() < HEAD, "the head of the answer is too long");
        return Ok(None);
    };
    let length = head
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    let (admitted, length) = match (head.code, length) {
        (Some(200), Some(BODY)) => (true, BODY),
        (Some(429), Some(length)) if length <= BODY => (false, length),
        (code, length) => bail!("the answer is {code:?} with {length:?} bytes"),
    };
    let total = begin + length;
    ensure!(answer.len() <= total, "more came than was asked for");
    Ok(Some(Coming {
        admitted,
        missing: total - answer.len(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_good_only_as_the_upstream_made_it() {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        let known = |admitted, missing| Some(Coming { admitted, missing });
        assert_eq!(coming(&head.as_bytes()[..20]).unwrap(), None);
        assert_eq!(coming(head.as_bytes()).unwrap(), known(true, BODY));
        let whole = [head.as_bytes(), &[b'x'; BODY]].concat();
        assert_eq!(coming(&whole).unwrap(), known(true, 0));
        let refused = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 3\r\n\r\nab";
        assert_eq!(coming(refused).unwrap(), known(false, 1));
        assert!(coming(b"HTTP/1.1 503 No\r\nContent-Length: 1024\r\n\r\n").is_err());
        assert!(coming(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").is_err());
    }

    #[tokio::test]
    async fn a_rate_is_kept_and_every_request_is_answered() {
        let port = super::super::upstream::start(|| {}).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut lanes = Lanes::connect(address, Protocol::Http1, 4).await.unwrap();
        let outcome = lanes
            .run(Pace::Rate(100), Duration::from_millis(200))
            .await
            .unwrap();
        assert_eq!(outcome.requests, 20);
        assert_eq!(outcome.times.percentiles().unwrap().count, 20);
    }
}
