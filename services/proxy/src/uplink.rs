//! Streams to the control plane: how they connect, prove who the proxy is, and are tried again.
//!
//! The proxy needs none of them to serve. While one is away the proxy tries again, ever less often and never in step with others,
//! because every proxy of a cluster loses it at the same moment.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::RngExt as _;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{self, Channel, Endpoint},
};

/// One that is lost on the way to a pod that is gone costs a second, and not the patience of a handshake over the ocean.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Who is back after minutes has all its proxies within seconds: ten thousand of them knock 4,500 times a second until then, and most
/// of that meets a closed port.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A stream that lived this long was a good one: the next pause is short again. Short itself, or a peer that rolls just after it
/// was away finds its proxies with the longest pause.
const GOOD: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to use {0:?} as an address; give one as http://name:port")]
    Address(String, #[source] transport::Error),
    #[error("failed to connect to {0}")]
    Connect(String, #[source] transport::Error),
    #[error("failed to read the token {path}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("failed to use the content of {0} as a token")]
    TokenContent(PathBuf),
}

/// Connects. A peer that vanishes without a word is noticed 3 s after `ping` at the latest.
pub(crate) async fn connect(address: &str, ping: Duration) -> Result<Channel, Error> {
    Endpoint::from_shared(address.to_owned())
        .map_err(|source| Error::Address(address.to_owned(), source))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ping)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|source| Error::Connect(address.to_owned(), source))
}

/// The proof of who this proxy is, from the file that the kubelet keeps fresh: to be read for each stream.
pub(crate) async fn authorization(path: &Path) -> Result<MetadataValue<Ascii>, Error> {
    let token = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| Error::Token {
            path: path.to_owned(),
            source,
        })?;
    format!("Bearer {}", token.trim())
        .parse()
        .map_err(|_| Error::TokenContent(path.to_owned()))
}

/// The time between tries.
#[derive(Debug)]
pub(crate) struct Pause {
    last: Duration,
    /// Since when the stream is up; a try that never gets so far may take as long as a good stream.
    up_since: Option<Instant>,
}

impl Pause {
    pub(crate) const fn new() -> Self {
        Self {
            last: FIRST_PAUSE,
            up_since: None,
        }
    }

    /// The stream is up since then.
    pub(crate) const fn up(&mut self, since: Instant) {
        self.up_since = Some(since);
    }

    /// Whether the stream that has just ended was a good one.
    pub(crate) fn was_good(&self) -> bool {
        self.up_since.is_some_and(|since| since.elapsed() >= GOOD)
    }

    /// How long to wait before the next try.
    pub(crate) fn next(&mut self) -> Duration {
        self.last = if self.was_good() {
            FIRST_PAUSE
        } else {
            (self.last * 2).min(LONGEST_PAUSE)
        };
        self.up_since = None;
        jittered(self.last)
    }
}

/// Before a try that another replica has asked for.
pub(crate) fn short_pause() -> Duration {
    jittered(FIRST_PAUSE)
}

/// Between half and the whole.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_three_seconds_and_are_short_again_after_a_good_stream() {
        let mut pause = Pause::new();
        let short = FIRST_PAUSE / 2..=FIRST_PAUSE;
        let bad: Vec<Duration> = (0..10).map(|_| pause.next()).collect();
        assert!(bad.iter().all(|pause| *pause <= LONGEST_PAUSE), "{bad:?}");
        assert!(bad[9] >= LONGEST_PAUSE / 2, "{bad:?}");
        let long_ago = Instant::now().checked_sub(GOOD).unwrap();
        pause.up(long_ago);
        assert!(pause.was_good() && short.contains(&pause.next()));
        assert!(!pause.was_good(), "it is down");
        pause.up(Instant::now());
        assert!(!pause.was_good());
        assert!(short.contains(&short_pause()));
    }
}
