//! Deadlines: how long a request may take in all, and how long a try of it may.
//!
//! A request has one deadline from the moment it arrives: the earlier of what the caller still has and of what the policy
//! gives. Waiting in a queue, tries and pauses between them all happen within it. What is left is told to the next hop in
//! relative time ([`wire`]), because clocks of two machines differ by more than a deadline is long; so each hop has what
//! the one before has left when it sends.
//!
//! **A timeout ends at the response's head.** A body may stream for hours. A gRPC call may be a stream whose first message
//! is far away, and a proxy cannot tell; so gRPC has a deadline only if its caller gave one (`grpc-timeout`), and the
//! policy's own total only shortens that.
//!
//! **What it does not protect against**: work that goes on in a service that does not look at its deadline after its
//! caller was told that time is up; a body that trickles; callers
//! that are not to be believed about their deadline (a gateway that serves strangers removes these headers first); and the time a message spends on the wire, which no hop counts.
//!
//! Sources: gRPC over HTTP/2 (`grpc-timeout`); "The Tail at Scale", J. Dean and L. Barroso, 2013 (why tries need an end of
//! their own); the default of 15 s is that of Envoy's routes.

#[cfg(feature = "tower")]
pub mod layer;
pub mod wire;

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};

use crate::{
    fault::{self, Fault},
    outcome::{Outcome, Verdict},
    wire as config_wire,
};

/// What is long enough for any service that is well, whatever its policy.
pub const TELLING: Duration = Duration::from_secs(1);

/// How long requests and tries may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// The whole request, up to the response's head. Default 15 s; none: as long as the caller likes.
    #[serde(with = "config_wire::optional_millis")]
    pub total: Option<Duration>,
    /// One try. Default none: what is left of the total.
    #[serde(with = "config_wire::optional_millis")]
    pub per_try: Option<Duration>,
}

/// A moment after which nobody waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// When a try ends, whatever it is doing; the breaker below reads it, because a try whose time is up is dropped just like
/// one whose caller went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TryEnd {
    /// The moment.
    pub at: Instant,
    /// Whether time that is up says something about the target ([`Settings::is_telling`]).
    pub telling: bool,
}

/// When the caller of a request stops waiting, by its own word. For gRPC this is what the next hop is told: the policy's total
/// ends with the head of the response, and a stream may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerEnd(pub Instant);

/// The two kinds of calls that deadlines differ for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// HTTP.
    Http,
    /// gRPC, unary or stream.
    Grpc,
}

/// Time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Elapsed {
    /// For the request.
    #[error("failed to get a response before the request's deadline")]
    Request,
    /// For this try.
    #[error("failed to get a response before the end of the try")]
    Try,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            total: Some(Duration::from_secs(15)),
            per_try: None,
        }
    }
}

impl Call {
    /// Which kind a request is, by its content type. gRPC-Web is HTTP to a proxy.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
        match rest.map(<[u8]>::first) {
            Some(None | Some(b'+' | b';' | b' ')) => Self::Grpc,
            _ => Self::Http,
        }
    }
}

impl Settings {
    /// Every fault.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(86_400));
        for (field, given) in [("timeout", self.total), ("perTryTimeout", self.per_try)] {
            if let Some(given) = given {
                fault::within(&mut faults, field, given, least, most);
            }
        }
        if let (Some(total), Some(per_try)) = (self.total, self.per_try)
            && per_try > total
        {
            let message = format!("is longer than the timeout of the whole request, {total:?}; shorten it");
            faults.push(Fault {
                field: "perTryTimeout",
                message,
            });
        }
        faults
    }

    /// The deadline of a request that arrived then and whose caller had so much left.
    #[must_use]
    pub fn deadline(&self, arrived: Instant, call: Call, callers: Option<Duration>) -> Option<Deadline> {
        let allowed = match (self.total, callers) {
            (Some(own), Some(callers)) => own.min(callers),
            (Some(_), None) if call == Call::Grpc => return None,
            (own, callers) => own.or(callers)?,
        };
        // Past the end of the clock is no deadline.
        arrived.checked_add(allowed).map(Deadline)
    }

    /// Whether a try that had so long and did not end says that its target fails. One that had less than [`TELLING`] and
    /// less than half of what the policy gives says that its caller was in a hurry: a few callers with tiny deadlines must
    /// not open the breaker for all.
    #[must_use]
    pub fn is_telling(&self, given: Duration) -> bool {
        let own = self.per_try.into_iter().chain(self.total).min();
        given >= TELLING || own.is_some_and(|own| given >= own / 2)
    }

    /// How long a try that begins now may take. None: without end. Zero: the deadline has passed. gRPC that has no deadline has
    /// none for its tries either.
    #[must_use]
    pub fn for_try(&self, call: Call, deadline: Option<Deadline>, now: Instant) -> Option<Duration> {
        if call == Call::Grpc && deadline.is_none() {
            return None;
        }
        let left = deadline.map(|deadline| deadline.remaining(now));
        match (left, self.per_try) {
            (Some(left), Some(per_try)) => Some(left.min(per_try)),
            (left, per_try) => left.or(per_try),
        }
    }
}

impl TryEnd {
    /// What a try says about its target that ended so. Time that was up says nothing if the try had too little of it.
    #[must_use]
    pub fn judge(end: Option<Self>, outcome: &Outcome) -> Verdict {
        match (end, outcome) {
            (Some(Self { telling: false, .. }), Outcome::Timeout) => Verdict::Unknown,
            _ => outcome.verdict(),
        }
    }

    /// What a try that was dropped now says about its target.
    #[must_use]
    pub fn verdict(self, now: Instant) -> Verdict {
        if self.telling && now >= self.at {
            Verdict::Failure
        } else {
            Verdict::Unknown
        }
    }
}

impl Deadline {
    /// The deadline at this moment.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self(moment)
    }

    /// When it is.
    #[must_use]
    pub const fn moment(self) -> Instant {
        self.0
    }

    /// What is left; zero when it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_earlier_of_the_callers_and_our_own_deadline_holds() {
        let now = Instant::now();
        for (own, call, callers, expected) in [
            (Some(100), Call::Http, None, Some(100)),
            (Some(100), Call::Http, Some(30), Some(30)),
            (Some(100), Call::Http, Some(300), Some(100)),
            (None, Call::Http, Some(300), Some(300)),
            (None, Call::Http, None, None),
            // A stream has no end unless its caller gave it one.
            (Some(100), Call::Grpc, None, None),
            (Some(100), Call::Grpc, Some(300), Some(100)),
            (None, Call::Grpc, Some(300), Some(300)),
        ] {
            let settings = Settings {
                total: own.map(millis),
                per_try: None,
            };
            let deadline = settings.deadline(now, call, callers.map(millis));
            let expected = expected.map(|left| Deadline::at(now + millis(left)));
            assert_eq!(deadline, expected, "{own:?} {call:?} {callers:?}");
        }
    }

    #[test]
    fn a_try_ends_with_the_request_at_the_latest() {
        let now = Instant::now();
        let settings = Settings {
            total: None,
            per_try: Some(millis(50)),
        };
        let deadline = Some(Deadline::at(now + millis(70)));
        assert_eq!(settings.for_try(Call::Http, None, now), Some(millis(50)));
        assert_eq!(settings.for_try(Call::Http, deadline, now), Some(millis(50)));
        assert_eq!(
            settings.for_try(Call::Http, deadline, now + millis(40)),
            Some(millis(30))
        );
        assert_eq!(
            settings.for_try(Call::Http, deadline, now + millis(90)),
            Some(Duration::ZERO)
        );
        let without = Settings {
            total: None,
            per_try: None,
        };
        assert_eq!(without.for_try(Call::Http, None, now), None);
    }

    #[test]
    fn time_that_is_up_says_something_only_if_there_was_enough_of_it() {
        for (total, per_try, given, telling) in [
            (Some(15_000), None, 15_000, true),
            (Some(15_000), None, 1_000, true),
            (Some(15_000), None, 999, false),
            (Some(15_000), Some(200), 200, true),
            (Some(15_000), Some(200), 100, true),
            (Some(15_000), Some(200), 99, false),
            (None, None, 999, false),
        ] {
            let settings = Settings {
                total: total.map(millis),
                per_try: per_try.map(millis),
            };
            assert_eq!(
                settings.is_telling(millis(given)),
                telling,
                "{settings:?} {given}"
            );
        }
        let at = Instant::now();
        let end = TryEnd { at, telling: true };
        assert_eq!(end.verdict(at), Verdict::Failure);
        assert_eq!(
            end.verdict(at - millis(1)),
            Verdict::Unknown,
            "its caller went away"
        );
        let hurried = TryEnd {
            telling: false,
            ..end
        };
        assert_eq!(hurried.verdict(at), Verdict::Unknown);
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, call) in [
            ("application/grpc", Call::Grpc),
            ("application/grpc+proto", Call::Grpc),
            ("application/grpc;charset=utf-8", Call::Grpc),
            ("application/grpc-web", Call::Http),
            ("application/json", Call::Http),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(Call::of(&headers), call, "{content_type}");
        }
        assert_eq!(Call::of(&HeaderMap::new()), Call::Http);
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_none() {
        let settings = Settings {
            total: None,
            per_try: None,
        };
        let callers = Some(Duration::MAX);
        assert_eq!(settings.deadline(Instant::now(), Call::Http, callers), None);
    }

    #[test]
    fn a_try_longer_than_the_request_is_a_fault() {
        let settings = Settings {
            total: Some(millis(10)),
            per_try: Some(millis(20)),
        };
        assert_eq!(settings.faults()[0].field, "perTryTimeout");
        assert_eq!(Settings::default().faults(), []);
    }
}
