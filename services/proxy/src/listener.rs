//! Sockets that accept connections.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{Admission, Place},
    connect::set_options,
};

/// Connections that wait to be accepted; the kernel caps this by `net.core.somaxconn` (4096 by default).
const BACKLOG: i32 = 4096;
/// How long a handshake that has begun may take to end: many round trips inside a cluster.
const HANDSHAKE: Duration = Duration::from_millis(20);
/// Drops segments that have SYN and not ACK, and lets all others pass. Byte 13 of a TCP header holds the flags.
const NO_NEW_CONNECTIONS: [SockFilter; 5] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 13),
    SockFilter::new(AND, 0, 0, SYN | ACK),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
/// Instructions of classic BPF (`linux/bpf_common.h`) and flags of TCP (RFC 9293 3.1).
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;
/// Pause after an accept that failed for lack of resources (file descriptors).
const PAUSE: Duration = Duration::from_millis(50);

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub(crate) struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens on every address of the pod: on both protocols where IPv6 exists.
pub(crate) fn bind_all(port: u16) -> Result<TcpListener, BindError> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind(both) {
        // Without IPv6 in the kernel or on any interface.
        Err(error) if error.source.kind() != io::ErrorKind::AddrInUse => {
            bind((Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

/// Listens on the pod's loopback only.
pub(crate) fn bind_loopback(port: u16) -> Result<TcpListener, BindError> {
    bind((Ipv4Addr::LOCALHOST, port).into())
}

fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A restarted proxy must not wait for connections of the one before to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| BindError { address, source })
}

/// Accepts as many as `admission` has places for, until told to stop, and leaves nobody behind.
///
/// The kernel completes handshakes by itself. A caller whose connection waits to be accepted thinks that it is connected
/// and sends its request; closing the listener resets it, and the caller cannot know that nobody saw the request. So
/// first no new handshake is let in (the caller sees no answer, then a refusal, and may go elsewhere), then what has
/// begun may end, and what has ended is served.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    stop: CancellationToken,
    admission: Arc<Admission>,
    serve: impl Fn(TcpStream, SocketAddr, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let take = |stream: TcpStream, peer, permit| {
        set_options(&stream);
        tokio::spawn(serve(stream, peer, admission.occupy(permit)));
    };
    loop {
        let accepted = async {
            let permit = admission.free().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(stream, peer, permit),
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    if let Err(error) = SockRef::from(&listener).attach_filter(&NO_NEW_CONNECTIONS) {
        tracing::debug!(%error, "failed to keep new connections out; some may be reset");
    }
    tokio::time::sleep(HANDSHAKE).await;
    // Asked directly: tokio may say "not ready" for reasons of its own, and then it would be too late.
    let Ok(listener) = listener.into_std() else { return };
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    // Whoever waits in the backlog is served, place or not: it is the last time.
                    take(stream, peer, None);
                }
            }
            Err(error) if is_of_connection(&error) => {}
            Err(_) => return,
        }
    }
}

/// The connection broke before it was accepted; the listener is fine.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::watch,
        task::JoinSet,
    };

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{direction::Direction, metrics::Metrics};

    fn admission(most: usize) -> Arc<Admission> {
        let metrics = Metrics::register(&mut Registry::default());
        Admission::new(most, Direction::Inbound, 15100, metrics.connections())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_is_connected_when_a_listener_closes_is_served() {
        let mut rounds = JoinSet::new();
        for _ in 0..16 {
            rounds.spawn(async {
                let listener = bind_loopback(0).unwrap();
                let address = listener.local_addr().unwrap();
                let stop = CancellationToken::new();
                let (served, mut count) = watch::channel(0);
                let accepting = tokio::spawn(accept(
                    listener,
                    stop.clone(),
                    admission(2),
                    move |mut stream, _, place| {
                        let served = served.clone();
                        async move {
                            let byte = stream.read_u8().await.unwrap();
                            stream.write_u8(byte).await.unwrap();
                            served.send_modify(|count| *count += 1);
                            drop(place);
                        }
                    },
                ));
                let mut callers: JoinSet<()> = (0..2).map(|_| call(address)).collect();
                // In the middle of it.
                count.wait_for(|count| *count > 20).await.unwrap();
                stop.cancel();
                accepting.await.unwrap();
                while let Some(called) = callers.join_next().await {
                    called.unwrap();
                }
            });
        }
        while let Some(round) = rounds.join_next().await {
            round.unwrap();
        }
    }

    /// Connects again and again, without waiting for answers. Not getting a connection is fine; losing one is not.
    async fn call(address: SocketAddr) {
        let mut calls = JoinSet::new();
        while let Ok(mut stream) = TcpStream::connect(address).await {
            calls.spawn(async move {
                stream.write_u8(7).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), 7);
            });
        }
        while let Some(called) = calls.join_next().await {
            called.unwrap();
        }
    }
}
