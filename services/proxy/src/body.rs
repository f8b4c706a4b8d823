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
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use trellis_rate::Permit;
use trellis_resilience::{
    bulkhead::layer::Place,
    retry::replay::{self, ReplayBody},
};

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
    /// So does the bulkhead.
    _place: Option<Place>,
    /// So do limits on concurrency.
    permits: Vec<Permit>,
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
            _claim: Some(claim),
            ..self
        }
    }

    /// The body, which keeps a permit of a limit.
    pub(crate) fn permitted(mut self, permit: Permit) -> Self {
        self.permits.push(permit);
        self
    }

    /// The body, which keeps a place in a bulkhead.
    pub(crate) fn keeping(self, place: Place) -> Self {
        Self {
            _place: Some(place),
            ..self
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

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

/// A body that may be sent again.
impl From<ReplayBody<Self>> for Body {
    fn from(body: ReplayBody<Self>) -> Self {
        if http_body::Body::is_end_stream(&body) {
            return Self::empty();
        }
        Self::boxed(body.map_err(|error| match error {
            replay::Error::Source(error) => error,
            taken_back => BoxError::from(taken_back.to_string()),
        }))
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Kind::Incoming(body).into()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            _claim: None,
            _place: None,
            permits: Vec::new(),
        }
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
