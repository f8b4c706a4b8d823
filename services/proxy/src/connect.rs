//! TCP connections to endpoints.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// A pod in the same cluster answers a SYN in less than a millisecond; one second covers a lost SYN (retransmitted
/// after 1 s by Linux only) badly on purpose: another endpoint is the better second try.
const TIMEOUT: Duration = Duration::from_secs(1);
/// First keep-alive probe: a peer that vanished without a word is noticed within half a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Refused, unreachable, or out of sockets.
    #[error("failed to connect to {address}")]
    Io {
        /// Where to.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The other end does not speak the language that the document says.
    #[error("failed to speak HTTP/2 with {0}")]
    NotHttp2(SocketAddr),
    /// No answer.
    #[error("failed to connect to {0} within {seconds} s", seconds = TIMEOUT.as_secs())]
    Timeout(SocketAddr),
}

/// Opens a connection with the options of every connection of the proxy.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    match tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            set_options(&stream);
            Ok(stream)
        }
        Ok(Err(source)) => Err(Error::Io { address, source }),
        Err(_) => Err(Error::Timeout(address)),
    }
}

/// No delay (frames are written whole), and keep-alive probes.
pub(crate) fn set_options(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    // A connection works without these options; an error shows again at the first read.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
