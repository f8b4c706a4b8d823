//! The socket of a caller: knows the first bytes again after looking at them, tells when bytes come, and comes back
//! when the connection is over, so that it can be closed in a way that the caller understands.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

use super::activity::Activity;

/// What an HTTP/2 connection begins with (RFC 9113 3.4). No HTTP/1.1 request does: `PRI` is reserved.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest time and most bytes for which a connection that is over is still read.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 16 * 1024 * 1024;

/// A caller's socket.
pub(super) struct Socket {
    /// There until the socket is dropped.
    stream: Option<TcpStream>,
    /// Where the stream goes then.
    back: Option<oneshot::Sender<TcpStream>>,
    /// The caller has closed its end.
    ended: bool,
    activity: Arc<Activity>,
    first: [u8; PREFACE.len()],
    /// Bytes of `first` that hyper has read, and that are there.
    read: usize,
    filled: usize,
}

impl Socket {
    /// The socket, and where its stream turns up when the connection is over and the caller has not closed it.
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> (Self, oneshot::Receiver<TcpStream>) {
        let (sender, receiver) = oneshot::channel();
        let socket = Self {
            stream: Some(stream),
            back: Some(sender),
            ended: false,
            activity,
            first: [0; PREFACE.len()],
            read: 0,
            filled: 0,
        };
        (socket, receiver)
    }

    /// Reads until it is clear what the caller speaks. True: HTTP/2.
    pub(super) async fn detect(&mut self) -> io::Result<bool> {
        loop {
            let seen = &self.first[..self.filled];
            if *seen != PREFACE[..seen.len()] {
                return Ok(false);
            }
            if self.filled == PREFACE.len() {
                return Ok(true);
            }
            let Some(stream) = &mut self.stream else {
                return Err(closed());
            };
            let count = stream.read(&mut self.first[self.filled..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += count;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read < this.filled {
            let count = buf.remaining().min(this.filled - this.read);
            buf.put_slice(&this.first[this.read..this.read + count]);
            this.read += count;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(Err(closed()));
        };
        let polled = Pin::new(stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.activity.received(Instant::now());
        } else if matches!(polled, Poll::Ready(Ok(()))) && buf.remaining() > 0 {
            this.ended = true;
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write(cx, buf),
            None => Poll::Ready(Err(closed())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            None => Poll::Ready(Err(closed())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(stream), Some(back), false) = (self.stream.take(), self.back.take(), self.ended) {
            // Nobody waits for it if the connection was given up.
            let _ = back.send(stream);
        }
    }
}

/// Closes a connection so that the caller can read the last answer.
///
/// A socket that is closed while bytes lie unread in it, or still come, resets the connection, and a reset overtakes what
/// was written before: callers see "connection reset" instead of a 431, instead of the answer to an upload that was
/// refused, or instead of the GOAWAY that tells which requests may be sent again. So the caller learns that no more
/// comes, and what it still sends is thrown away until it closes its end ("lingering close", as in nginx and Apache).
pub(super) async fn linger(mut stream: TcpStream) {
    let read = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // However it ends, it is over.
    let _ = timeout(LINGER, read).await;
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
