//! A request body that can be sent several times.
//!
//! What flows is remembered, shared and not copied, up to a limit; a longer body flows on but cannot be sent again. Each
//! sending is a [`ReplayBody`]; a new one takes the body away from the one before, so that two tries never read the rest of
//! it at once. When the answer is there, [`Replay`] is dropped and nothing more is remembered.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Most bytes that are remembered of a request; what Linkerd and agentgateway chose.
pub const LIMIT: usize = 64 * 1024;

/// The keeping end: gives the body again. None: there is nothing to remember, because the body is empty.
#[derive(Debug)]
pub struct Replay<B>(Option<Arc<Mutex<State<B>>>>);

/// One sending. None: of an empty body.
#[derive(Debug)]
pub struct ReplayBody<B>(Option<Sending<B>>);

#[derive(Debug)]
struct Sending<B> {
    state: Arc<Mutex<State<B>>>,
    sending: u64,
    /// Whether it begins at the beginning.
    whole: bool,
    /// Remembered frames that this one has given.
    given: usize,
    trailers_given: bool,
}

/// Why a body failed.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The request is being sent again.
    #[error("failed to send the body: the request was taken back to be sent again")]
    TakenBack,
    /// It was to be sent again and is not remembered.
    #[error("failed to send the body again: too much of it has gone")]
    Forgotten,
    /// The caller's body failed.
    #[error("failed to read the request's body")]
    Source(#[source] E),
}

#[derive(Debug)]
struct State<B> {
    rest: B,
    /// Frames of data that were read from `rest`. Those that were forgotten are empty.
    read: Vec<Bytes>,
    bytes: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
    memory: Memory,
    sending: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// All that was read is there.
    Whole,
    /// Too much was read, or nobody will ask.
    Lost,
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes>,
{
    /// The first sending of `body`, and what remembers up to `limit` bytes of it. Of a longer one nothing is remembered once so
    /// many have gone; before that it can be sent again, as nothing is lost yet.
    pub fn new(body: B, limit: usize) -> (ReplayBody<B>, Self) {
        if body.is_end_stream() {
            return (ReplayBody(None), Self(None));
        }
        let replay = Self(Some(Arc::new(Mutex::new(State {
            rest: body,
            read: Vec::new(),
            bytes: 0,
            limit,
            trailers: None,
            memory: Memory::Whole,
            sending: 0,
        }))));
        (replay.again(), replay)
    }

    /// The body from its beginning. If it is not repeatable, one that fails.
    #[must_use]
    pub fn again(&self) -> ReplayBody<B> {
        let Some(shared) = &self.0 else {
            return ReplayBody(None);
        };
        let mut state = lock(shared);
        let whole = state.memory == Memory::Whole || state.sending == 0;
        state.sending += 1;
        ReplayBody(Some(Sending {
            whole,
            sending: state.sending,
            state: Arc::clone(shared),
            given: 0,
            trailers_given: false,
        }))
    }

    /// Whether the body can be sent again.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        let memory = self.0.as_ref().map(|state| lock(state).memory);
        memory.is_none_or(|memory| memory == Memory::Whole)
    }
}

impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            lock(state).memory = Memory::Lost;
        }
    }
}

impl<B> State<B> {
    fn remember(&mut self, data: &Bytes) {
        if self.memory == Memory::Whole && self.bytes + data.len() <= self.limit {
            self.bytes += data.len();
            self.read.push(data.clone());
            return;
        }
        self.memory = Memory::Lost;
        self.read = Vec::new();
        self.bytes = 0;
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = Error<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(this) = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        let mut state = lock(&this.state);
        let state = &mut *state;
        if state.sending != this.sending {
            return Poll::Ready(Some(Err(Error::TakenBack)));
        }
        if !this.whole {
            return Poll::Ready(Some(Err(Error::Forgotten)));
        }
        if let Some(data) = state.read.get_mut(this.given) {
            this.given += 1;
            let again = state.memory == Memory::Whole;
            let data = if again { data.clone() } else { std::mem::take(data) };
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = &state.trailers {
            let given = std::mem::replace(&mut this.trailers_given, true);
            return Poll::Ready((!given).then(|| Ok(Frame::trailers(trailers.clone()))));
        }
        let polled = std::task::ready!(Pin::new(&mut state.rest).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            if let Some(data) = frame.data_ref() {
                state.remember(data);
                this.given = state.read.len();
            } else if let Some(trailers) = frame.trailers_ref() {
                state.trailers = Some(trailers.clone());
                this.trailers_given = true;
            }
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Error::Source)))
    }

    fn is_end_stream(&self) -> bool {
        let Some(this) = &self.0 else { return true };
        let state = lock(&this.state);
        let all_given = this.given >= state.read.len();
        let trailers_given = state.trailers.is_none() || this.trailers_given;
        state.sending == this.sending && all_given && trailers_given && state.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let Some(this) = &self.0 else {
            return SizeHint::with_exact(0);
        };
        let state = lock(&this.state);
        let left: usize = state.read.iter().skip(this.given).map(Bytes::len).sum();
        let (left, rest) = (left as u64, state.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(left));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint
    }
}

fn lock<B>(state: &Mutex<State<B>>) -> MutexGuard<'_, State<B>> {
    // A panic under this lock could only be one of the caller's body, which is then no longer polled.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, future::poll_fn};

    use http_body_util::{BodyExt, Full};

    use super::*;

    /// A body of these frames.
    #[derive(Debug)]
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Frames {
        fn new(data: &[&'static str]) -> Self {
            let frame = |text: &&'static str| Frame::data(Bytes::from_static(text.as_bytes()));
            Self(data.iter().map(frame).collect())
        }

        fn with_trailers(mut self) -> Self {
            let mut trailers = HeaderMap::new();
            trailers.insert("checksum", http::HeaderValue::from_static("7"));
            self.0.push_back(Frame::trailers(trailers));
            self
        }
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    /// Drives a future that never waits.
    fn now<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        match future
            .as_mut()
            .poll(&mut Context::from_waker(std::task::Waker::noop()))
        {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("waits"),
        }
    }

    fn frame(body: &mut ReplayBody<Frames>) -> Option<Result<Frame<Bytes>, Error<Infallible>>> {
        now(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)))
    }

    fn text(body: ReplayBody<Frames>) -> String {
        String::from_utf8(now(body.collect()).unwrap().to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_body_is_sent_from_its_beginning_as_often_as_asked() {
        let frames = Frames::new(&["one ", "two ", "three"]).with_trailers();
        let (mut first, replay) = Replay::new(frames, LIMIT);
        assert_eq!(frame(&mut first).unwrap().unwrap().into_data().unwrap(), "one ");
        let mut second = replay.again();
        assert!(
            matches!(frame(&mut first), Some(Err(Error::TakenBack))),
            "the first sender must not go on"
        );
        for _ in 0..2 {
            frame(&mut second).unwrap().unwrap();
        }
        for _ in 0..2 {
            let again = now(replay.again().collect()).unwrap();
            assert_eq!(again.trailers().unwrap()["checksum"], "7");
            assert_eq!(again.to_bytes(), "one two three");
        }
    }

    #[test]
    fn a_body_above_the_limit_flows_on_and_cannot_be_sent_again() {
        let (mut body, replay) = Replay::new(Frames::new(&["12345", "67890", "x"]), 10);
        frame(&mut body);
        frame(&mut body);
        assert!(replay.is_repeatable());
        let end = frame(&mut body).unwrap().unwrap();
        assert_eq!(end.into_data().unwrap(), "x");
        assert!(!replay.is_repeatable());
        assert!(frame(&mut body).is_none());
        assert!(matches!(frame(&mut replay.again()), Some(Err(Error::Forgotten))));
    }

    #[test]
    fn a_body_that_is_too_long_can_be_sent_again_until_it_has_begun_to_flow() {
        let (body, replay) = Replay::new(Full::new(Bytes::from_static(b"longer than ten")), 10);
        assert!(replay.is_repeatable());
        drop(body);
        let again = replay.again();
        assert_eq!(now(again.collect()).unwrap().to_bytes(), "longer than ten");
        assert!(!replay.is_repeatable());
    }

    #[test]
    fn once_the_answer_is_there_the_rest_still_flows_and_nothing_is_kept() {
        let (mut first, replay) = Replay::new(Frames::new(&["one ", "two ", "three"]), LIMIT);
        frame(&mut first);
        let second = replay.again();
        drop(replay);
        let state = Arc::clone(&second.0.as_ref().unwrap().state);
        assert_eq!(text(second), "one two three");
        assert!(lock(&state).read.iter().all(Bytes::is_empty));
    }

    #[test]
    fn what_is_left_is_told_exactly() {
        let (mut body, replay) = Replay::new(Full::new(Bytes::from_static(b"hello")), LIMIT);
        assert_eq!(body.size_hint().exact(), Some(5));
        now(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
        assert!(body.is_end_stream());
        let again = replay.again();
        assert!(!again.is_end_stream());
        assert_eq!(again.size_hint().exact(), Some(5));
    }
}
