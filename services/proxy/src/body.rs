//! The one body type of every stack, so that layers compose without a type parameter each.
//!
//! Bodies are streamed: nothing here holds more than the frame in hand. What hyper received goes on as it is, without
//! an allocation; a layer that must see frames pass wraps the body it got by [`Body::boxed`].

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::load::Claim;

/// What went wrong with a body, whoever made it.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// A request through the proxy.
pub(crate) type Request = http::Request<Body>;

/// A response through the proxy.
pub(crate) type Response = http::Response<Body>;

/// A request's or a response's body.
#[derive(Default)]
pub(crate) struct Body {
    kind: Kind,
    /// The endpoint that it comes from counts as busy until the body is gone.
    _claim: Option<Claim>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl Body {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// A body that is in memory.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Kind::Full(bytes.into()).into()
    }

    /// A body that a layer looks into.
    pub(crate) fn boxed(body: impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Self::from_box(Box::new(body))
    }

    /// The same of one that has its allocation already.
    pub(crate) fn from_box(
        body: Box<impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static>,
    ) -> Self {
        Kind::Boxed(Box::into_pin(body)).into()
    }

    /// The body, which keeps a claim.
    pub(crate) fn holding(self, claim: Claim) -> Self {
        Self {
            kind: self.kind,
            _claim: Some(claim),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Body")
            .field(&http_body::Body::size_hint(self))
            .finish()
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Kind::Incoming(body).into()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, _claim: None }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}
