//! How busy an endpoint is: the figure that balancing compares.
//!
//! Requests in flight are enough for endpoints that are alike: a slow one collects requests and so gets fewer. A decaying
//! average of the response time (peak EWMA) multiplies into [`Load::cost`] once endpoints differ; nothing else changes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Requests in flight, from choosing an endpoint to the end of the response's body.
#[derive(Debug, Default)]
pub(crate) struct Load(Arc<AtomicUsize>);

/// One request in flight.
#[derive(Debug)]
pub(crate) struct Claim(Arc<AtomicUsize>);

impl Load {
    /// Counts a request in, until the claim is dropped.
    pub(crate) fn claim(&self) -> Claim {
        self.0.fetch_add(1, Ordering::Relaxed);
        Claim(Arc::clone(&self.0))
    }

    /// The higher, the less a new request should go here.
    pub(crate) fn cost(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
