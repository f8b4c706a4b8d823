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
                Protocol::Http1 => Lane::http1(address).await?,
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
                lane.exchange().await?;
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
}

impl Lane {
    async fn http1(address: SocketAddr) -> Result<Self> {
        let request = format!(
            "GET {PREFIX}items/42 HTTP/1.1\r\nHost: {address}\r\nUser-Agent: trellis-bench\r\nAccept: */*\r\n\r\n"
        );
        Ok(Self::Http1 {
            stream: open(address).await?,
            request: request.into(),
            buffer: Box::new([0; HEAD + BODY]),
        })
    }

    /// A request and its answer, which must be the upstream's.
    async fn exchange(&mut self) -> Result<()> {
        match self {
            Self::Http1 {
                stream,
                request,
                buffer,
            } => {
                stream.write_all(request).await.context("failed to send")?;
                let (mut length, mut missing) = (0, None);
                while missing.is_none_or(|missing| missing > 0) {
                    let read = stream
                        .read(&mut buffer[length..])
                        .await
                        .context("failed to receive")?;
                    ensure!(read > 0, "the connection ended before the answer did");
                    length += read;
                    missing = missing_of(&buffer[..length])?;
                }
                Ok(())
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
                Ok(())
            }
        }
    }
}

async fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How many bytes of the answer are still to come; none if its head is not complete.
fn missing_of(answer: &[u8]) -> Result<Option<usize>> {
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
    if head.code != Some(200) || length != Some(BODY) {
        bail!("the answer is {:?} with {length:?} bytes", head.code);
    }
    let total = begin + BODY;
    ensure!(answer.len() <= total, "more came than was asked for");
    Ok(Some(total - answer.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_good_only_as_the_upstream_made_it() {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        assert_eq!(missing_of(&head.as_bytes()[..20]).unwrap(), None);
        assert_eq!(missing_of(head.as_bytes()).unwrap(), Some(BODY));
        let whole = [head.as_bytes(), &[b'x'; BODY]].concat();
        assert_eq!(missing_of(&whole).unwrap(), Some(0));
        assert!(missing_of(b"HTTP/1.1 503 No\r\nContent-Length: 1024\r\n\r\n").is_err());
        assert!(missing_of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").is_err());
    }

    #[tokio::test]
    async fn a_rate_is_kept_and_every_request_is_answered() {
        let port = super::super::upstream::start().unwrap();
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
