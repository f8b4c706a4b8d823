//! What a connection is doing, and how long it may go on doing it.
//!
//! | state | from | until | limit |
//! |---|---|---|---|
//! | head | accept, or a byte while idle | the head is complete | [`HEAD_TIMEOUT`] |
//! | busy | the head is complete | the response has been sent | none here |
//! | idle | the response has been sent | the next byte | [`IDLE_TIMEOUT`] |
//!
//! On HTTP/2 there are only busy and idle: heads come in one piece of at most 16 KiB, and frames that are no request, as
//! the answers to our pings, make no connection busy. It idles from its preface on.
//!
//! hyper's own timer makes no difference between head and idle: long enough for keep-alive, it lets a slow head live for
//! a minute; short enough for heads, it closes idle connections under the hands of pools.
//!
//! What this does not protect against: a body that dribbles in. A deadline of the route does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::Place,
    lifecycle::{InFlight, Running},
};

/// Time for the head of a request.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between requests: longer than pools of ours keep a connection.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What a connection is doing.
#[derive(Debug)]
pub(crate) struct Activity {
    epoch: Instant,
    in_flight: InFlight,
    /// Kept by tunnels, too, which outlive what HTTP knows of the connection.
    place: Place,
    http2: AtomicBool,
    requests: AtomicUsize,
    fresh: AtomicBool,
    /// A byte of a head has come.
    in_head: AtomicBool,
    /// Milliseconds after `epoch` at which the current head, or idling, began.
    since: AtomicU64,
}

/// What to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is fine; look again then.
    Check(Instant),
    /// It took too long.
    GiveUp,
}

/// A request of the connection that has not ended, until this and all its clones are dropped. Travels in the request's
/// extensions.
#[derive(Debug, Clone)]
pub(crate) struct Busy(#[expect(dead_code, reason = "it counts while it is there")] Arc<Request>);

#[derive(Debug)]
struct Request {
    activity: Arc<Activity>,
    _running: Running,
}

impl Activity {
    /// A connection that was just accepted: its first head is due.
    pub(crate) fn new(now: Instant, in_flight: InFlight, place: Place) -> Self {
        Self {
            epoch: now,
            in_flight,
            place,
            http2: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            fresh: AtomicBool::new(true),
            in_head: AtomicBool::new(true),
            since: AtomicU64::new(0),
        }
    }

    /// The caller speaks HTTP/2.
    pub(crate) fn speaks_http2(&self, now: Instant) {
        self.http2.store(true, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
        self.since.store(self.millis(now), Ordering::Relaxed);
    }

    /// Where the connection is counted.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Bytes have come.
    pub(crate) fn received(&self, now: Instant) {
        if self.http2.load(Ordering::Relaxed) {
            return;
        }
        if self.requests.load(Ordering::Relaxed) == 0 && !self.in_head.swap(true, Ordering::Relaxed) {
            self.since.store(self.millis(now), Ordering::Relaxed);
        }
    }

    /// Whether no request has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Whether the connection may go on.
    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        if self.requests.load(Ordering::Relaxed) > 0 {
            return Verdict::Check(now + HEAD_TIMEOUT);
        }
        let limit = if self.in_head.load(Ordering::Relaxed) {
            HEAD_TIMEOUT
        } else {
            IDLE_TIMEOUT
        };
        let since = self.epoch + Duration::from_millis(self.since.load(Ordering::Relaxed));
        let end = since + limit;
        if now >= end {
            Verdict::GiveUp
        } else {
            // A head may begin at any time and has to be seen to end in time.
            Verdict::Check(end.min(now + HEAD_TIMEOUT))
        }
    }

    fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.fresh.store(false, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
    }

    fn end(&self, now: Instant) {
        self.since.store(self.millis(now), Ordering::Relaxed);
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Busy {
    /// Marks the connection as busy.
    pub(crate) fn new(activity: &Arc<Activity>) -> Self {
        activity.begin();
        Self(Arc::new(Request {
            activity: Arc::clone(activity),
            _running: activity.in_flight.begin(),
        }))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.activity.end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{admission::Admission, direction::Direction, metrics::Metrics};

    const SECOND: Duration = Duration::from_secs(1);

    fn place() -> Place {
        let metrics = Metrics::register(&mut Registry::default());
        Admission::new(1, Direction::Inbound, 15100, metrics.connections()).occupy(None)
    }

    #[test]
    fn the_first_head_is_due_at_once() {
        let start = Instant::now();
        let activity = Activity::new(start, InFlight::default(), place());
        assert!(activity.is_fresh());
        activity.received(start + 9 * SECOND);
        assert_eq!(
            activity.verdict(start + 9 * SECOND),
            Verdict::Check(start + 10 * SECOND)
        );
        assert_eq!(activity.verdict(start + 10 * SECOND), Verdict::GiveUp);
    }

    #[test]
    fn a_request_may_take_its_time_and_then_the_connection_may_idle() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start, InFlight::default(), place()));
        let busy = Busy::new(&activity);
        assert!(!activity.is_fresh());
        assert_ne!(activity.verdict(start + 3600 * SECOND), Verdict::GiveUp);
        drop(busy);
        let now = Instant::now();
        assert_eq!(activity.verdict(now), Verdict::Check(now + HEAD_TIMEOUT));
        assert_eq!(activity.verdict(now + IDLE_TIMEOUT + SECOND), Verdict::GiveUp);
    }

    #[test]
    fn a_head_that_begins_while_idle_is_due_soon() {
        let activity = Arc::new(Activity::new(Instant::now(), InFlight::default(), place()));
        drop(Busy::new(&activity));
        let now = Instant::now() + 60 * SECOND;
        activity.received(now);
        activity.received(now + 9 * SECOND);
        assert_ne!(activity.verdict(now + 9 * SECOND), Verdict::GiveUp);
        assert_eq!(activity.verdict(now + 10 * SECOND + SECOND), Verdict::GiveUp);
    }

    #[test]
    fn over_http2_only_requests_keep_a_connection_from_idling() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start, InFlight::default(), place()));
        activity.speaks_http2(start + 5 * SECOND);
        // The answer to a ping.
        activity.received(start + 60 * SECOND);
        assert_ne!(activity.verdict(start + 79 * SECOND), Verdict::GiveUp);
        assert_eq!(activity.verdict(start + 80 * SECOND), Verdict::GiveUp);
        let busy = Busy::new(&activity);
        assert_ne!(activity.verdict(start + 3600 * SECOND), Verdict::GiveUp);
        drop(busy);
        assert_ne!(activity.verdict(Instant::now() + 74 * SECOND), Verdict::GiveUp);
        assert_eq!(activity.verdict(Instant::now() + 76 * SECOND), Verdict::GiveUp);
    }
}
