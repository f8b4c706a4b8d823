//! The bulkhead around a service of HTTP: a request keeps its place until the end of its response's body.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{sync::oneshot, time};
use tower::{Layer, Service};

use super::{Arrival, Bulkhead, Refused, Settings, Ticket};
use crate::{
    deadline::Deadline,
    drive::{self, BoxFuture},
};

/// A bulkhead that is shared by all requests to a dependency.
#[derive(Debug, Clone)]
pub struct SharedBulkhead(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bulkhead: Bulkhead,
    /// Those who wait. Who is let in is taken out and woken under one lock, so that a caller who goes away at that moment
    /// knows by what is left here whether it has a place to give back.
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A place inside. Dropped, it is free.
#[derive(Debug)]
#[must_use = "a place that is dropped is free"]
pub struct Place(SharedBulkhead);

/// Where a request is that has arrived.
enum Entry {
    In(Place),
    Queued(Waiter),
}

/// A place in the queue.
struct Waiter {
    bulkhead: SharedBulkhead,
    ticket: Ticket,
    until: Instant,
    called: oneshot::Receiver<()>,
    done: bool,
}

/// Makes [`BulkheadService`].
#[derive(Debug, Clone)]
pub struct BulkheadLayer(pub SharedBulkhead);

/// Lets requests in as the bulkhead has room.
#[derive(Debug, Clone)]
pub struct BulkheadService<S> {
    bulkhead: SharedBulkhead,
    inner: S,
}

/// A body that keeps a place until its end.
#[derive(Debug)]
pub struct PlacedBody<B> {
    body: B,
    place: Option<Place>,
}

impl SharedBulkhead {
    /// An empty bulkhead.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(State {
            bulkhead: Bulkhead::new(settings),
            waiting: HashMap::new(),
        })))
    }

    /// Waits for a place, until the deadline at the latest.
    ///
    /// # Errors
    /// There is no room to wait, or no place came free in time.
    pub async fn enter(&self, deadline: Option<Deadline>) -> Result<Place, Refused> {
        match self.arrive(deadline)? {
            Entry::In(place) => Ok(place),
            Entry::Queued(waiter) => waiter.wait().await,
        }
    }

    fn arrive(&self, deadline: Option<Deadline>) -> Result<Entry, Refused> {
        let mut state = self.lock();
        match state
            .bulkhead
            .arrive(drive::now(), deadline.map(Deadline::moment))
        {
            Arrival::Entered => Ok(Entry::In(Place(self.clone()))),
            Arrival::Full => Err(Refused::Full),
            Arrival::Waits { ticket, until } => {
                let (call, called) = oneshot::channel();
                state.waiting.insert(ticket, call);
                Ok(Entry::Queued(Waiter {
                    bulkhead: self.clone(),
                    ticket,
                    until,
                    called,
                    done: false,
                }))
            }
        }
    }

    /// Takes new settings, as [`Bulkhead::reconfigure`].
    pub fn reconfigure(&self, settings: Settings) {
        let mut state = self.lock();
        for ticket in state.bulkhead.reconfigure(settings, drive::now()) {
            state.wake(ticket);
        }
    }

    /// How many are in, and how many wait.
    #[must_use]
    pub fn load(&self) -> (u32, usize) {
        let state = self.lock();
        (state.bulkhead.inside(), state.bulkhead.waiting())
    }

    fn leave(&self) {
        let mut state = self.lock();
        if let Some(ticket) = state.bulkhead.leave(drive::now()) {
            state.wake(ticket);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self, ticket: Ticket) {
        if let Some(call) = self.waiting.remove(&ticket) {
            // One that is going away gives the place back itself.
            let _ = call.send(());
        }
    }
}

impl Waiter {
    async fn wait(mut self) -> Result<Place, Refused> {
        let in_time = time::timeout_at(self.until.into(), &mut self.called)
            .await
            .is_ok();
        // It may have been let in at the very moment when its time was up.
        let late = !in_time && self.give_up();
        self.done = true;
        if late {
            Err(Refused::Timeout)
        } else {
            Ok(Place(self.bulkhead.clone()))
        }
    }

    /// Leaves the queue; false: it has been let in meanwhile.
    fn give_up(&self) -> bool {
        let mut state = self.bulkhead.lock();
        let waited = state.waiting.remove(&self.ticket).is_some();
        if waited {
            state.bulkhead.abandon(self.ticket);
        }
        waited
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.done && !self.give_up() {
            self.bulkhead.leave();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl<S> Layer<S> for BulkheadLayer {
    type Service = BulkheadService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let bulkhead = self.0.clone();
        BulkheadService { bulkhead, inner }
    }
}

impl<S, B, R> Service<Request<B>> for BulkheadService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error: From<Refused>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Send + 'static,
{
    type Response = Response<PlacedBody<R>>;
    type Error = S::Error;
    type Future = Placed<S::Future, BoxFuture<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = request.extensions().get::<Deadline>().copied();
        match self.bulkhead.arrive(deadline) {
            Err(refused) => Placed::Refused { refused },
            Ok(Entry::In(place)) => Placed::In {
                answered: self.inner.call(request),
                place: Some(place),
            },
            Ok(Entry::Queued(waiter)) => {
                // The one that is ready goes; its clone is asked again next time.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let answered = Box::pin(async move {
                    let place = waiter.wait().await?;
                    let response = inner.call(request).await?;
                    Ok(placed(response, Some(place)))
                });
                Placed::Queued { answered }
            }
        }
    }
}

pin_project! {
    /// The answer to a request that has a place until the end of its body.
    #[project = PlacedProjection]
    #[derive(Debug)]
    #[allow(missing_docs, reason = "the macro takes no docs of a variant's fields")]
    pub enum Placed<F, Q> {
        /// There was room.
        In {
            #[pin]
            answered: F,
            place: Option<Place>,
        },
        /// It had to wait.
        Queued {
            #[pin]
            answered: Q,
        },
        /// There was no room to wait either.
        Refused {
            refused: Refused,
        },
    }
}

impl<F, Q, R, E> Future for Placed<F, Q>
where
    F: Future<Output = Result<Response<R>, E>>,
    Q: Future<Output = Result<Response<PlacedBody<R>>, E>>,
    E: From<Refused>,
{
    type Output = Q::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            PlacedProjection::In { answered, place } => {
                let result = ready!(answered.poll(cx));
                let place = place.take();
                Poll::Ready(result.map(|response| placed(response, place)))
            }
            PlacedProjection::Queued { answered } => answered.poll(cx),
            PlacedProjection::Refused { refused } => Poll::Ready(Err((*refused).into())),
        }
    }
}

fn placed<B>(response: Response<B>, place: Option<Place>) -> Response<PlacedBody<B>> {
    response.map(|body| PlacedBody { body, place })
}

impl<B> PlacedBody<B> {
    /// The body, and the place that is to be kept until its end.
    pub fn into_parts(self) -> (B, Option<Place>) {
        (self.body, self.place)
    }
}

impl<B> Body for PlacedBody<B>
where
    B: Body + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.place = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
