//! A request body that can be sent once more.
//!
//! That a request was not acted on may turn out after its body has begun to flow. Until the response's head is there, the
//! frames that went out are remembered (shared, not copied) up to [`LIMIT`] bytes; a longer body cannot be sent again.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Body, BoxError};

/// Most bytes remembered for one request; the size that Linkerd and agentgateway chose.
const LIMIT: usize = 64 * 1024;

/// The keeping end: gives the body back while that is possible.
pub(crate) struct Replay(Option<Arc<Mutex<State>>>);

struct Recording(Arc<Mutex<State>>);

struct State {
    /// Gone once it was recovered; the recording end is then a body that failed.
    rest: Option<Body>,
    sent: Vec<Bytes>,
    bytes: usize,
    lost: bool,
}

/// What was sent, then the rest.
struct Replayed {
    sent: std::vec::IntoIter<Bytes>,
    left: u64,
    rest: Body,
}

impl Replay {
    /// Splits a body into the one to send and the means to send it again.
    pub(crate) fn new(body: Body) -> (Body, Self) {
        if body.is_end_stream() {
            return (body, Self(None));
        }
        let state = State {
            rest: Some(body),
            sent: Vec::new(),
            bytes: 0,
            lost: false,
        };
        let state = Arc::new(Mutex::new(state));
        (Body::boxed(Recording(Arc::clone(&state))), Self(Some(state)))
    }

    /// The body as if nothing had been sent; none if too much was.
    pub(crate) fn recover(mut self) -> Option<Body> {
        let Some(state) = self.0.take() else {
            return Some(Body::empty());
        };
        let mut state = lock(&state);
        if state.lost {
            return None;
        }
        let rest = state.rest.take()?;
        let (sent, left) = (std::mem::take(&mut state.sent), state.bytes as u64);
        if sent.is_empty() {
            return Some(rest);
        }
        Some(Body::boxed(Replayed {
            sent: sent.into_iter(),
            left,
            rest,
        }))
    }
}

impl Drop for Replay {
    /// The response has begun, or nobody will ask: nothing needs to be remembered any more.
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            let mut state = lock(state);
            state.lost = true;
            state.sent = Vec::new();
        }
    }
}

impl http_body::Body for Recording {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = lock(&self.0);
        let Some(rest) = &mut state.rest else {
            return Poll::Ready(Some(Err("the request was taken back".into())));
        };
        let polled = Pin::new(rest).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && !state.lost
        {
            match frame.data_ref() {
                Some(data) if state.bytes + data.len() <= LIMIT => {
                    state.bytes += data.len();
                    state.sent.push(data.clone());
                }
                // Too much, or trailers, after which a request that is refused is not worth the trouble.
                _ => {
                    state.lost = true;
                    state.sent = Vec::new();
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0)
            .rest
            .as_ref()
            .map(Body::size_hint)
            .unwrap_or_default()
    }
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.sent.next() {
            Some(data) => {
                self.left -= data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sent.as_slice().is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + self.left);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + self.left);
        }
        hint
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing is left half-changed by a panic under this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(body: Body) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_was_sent_is_sent_again_before_the_rest() {
        let (mut sending, replay) = Replay::new(Body::full("hello"));
        let frame = sending.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), "hello");
        let again = replay.recover().unwrap();
        assert_eq!(again.size_hint().exact(), Some(5));
        assert_eq!(text(again).await, "hello");
        assert!(
            sending.frame().await.unwrap().is_err(),
            "the first sender must not go on"
        );
    }

    #[tokio::test]
    async fn a_body_above_the_limit_cannot_be_sent_again() {
        let (sending, replay) = Replay::new(Body::full(vec![0; LIMIT + 1]));
        assert_eq!(sending.collect().await.unwrap().to_bytes().len(), LIMIT + 1);
        assert!(replay.recover().is_none());
    }

    #[tokio::test]
    async fn nothing_is_remembered_once_the_response_has_begun() {
        let (sending, replay) = Replay::new(Body::full("hello"));
        drop(replay);
        assert_eq!(text(sending).await, "hello");
    }
}
