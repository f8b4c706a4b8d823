//! What became of each request, and of the requests of a span of time.

use std::{ops::Range, time::Duration};

use serde::Serialize;

use crate::traffic::{Kind, Ticket};

/// What became of a request. Times are since the load began.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) ticket: Ticket,
    pub(crate) kind: Kind,
    /// When it was due. Latency counts from here: a client that cannot send because others wait has waited too.
    #[serde(serialize_with = "seconds")]
    pub(crate) due: Duration,
    /// When it was sent.
    #[serde(serialize_with = "seconds")]
    pub(crate) sent: Duration,
    #[serde(serialize_with = "seconds")]
    pub(crate) ended: Duration,
    /// Why it failed, if it did.
    pub(crate) fault: Option<String>,
}

impl Sample {
    fn latency(&self) -> Duration {
        self.ended.saturating_sub(self.due)
    }

    /// Whether it was under way at some moment of a span.
    pub(crate) fn overlaps(&self, span: &Range<Duration>) -> bool {
        self.sent < span.end && self.ended > span.start
    }
}

/// The requests that were sent in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) requests: usize,
    pub(crate) failures: usize,
    /// Latency in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    pub(crate) fn of<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let (mut latencies, mut failures) = (Vec::new(), 0);
        for sample in samples {
            failures += usize::from(sample.fault.is_some());
            latencies.push(sample.latency());
        }
        let quantiles = Quantiles::of(latencies);
        Self {
            requests: quantiles.count,
            failures,
            p50: quantiles.p50,
            p99: quantiles.p99,
            max: quantiles.max,
        }
    }
}

/// Quantiles of durations, in milliseconds; the nearest rank, so that each is a time that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) count: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Quantiles {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self {
            count: times.len(),
            p50: rank(50),
            p99: rank(99),
            max: rank(100),
        }
    }
}

/// Seconds with three places: enough for times of requests, and short in a file of thousands.
pub(crate) fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(due: u64, sent: u64, ended: u64) -> Sample {
        Sample {
            ticket: 0,
            kind: Kind::ReadUser,
            due: Duration::from_millis(due),
            sent: Duration::from_millis(sent),
            ended: Duration::from_millis(ended),
            fault: None,
        }
    }

    #[test]
    fn latency_counts_from_when_a_request_was_due_and_not_from_when_it_could_be_sent() {
        let samples = [sample(0, 0, 10), sample(5, 500, 510)];
        let summary = Summary::of(samples.iter());
        assert_eq!((summary.p50, summary.max), (10.0, 505.0));
    }

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = (1..=200).map(Duration::from_millis).collect();
        let quantiles = Quantiles::of(times);
        assert_eq!(
            (quantiles.p50, quantiles.p99, quantiles.max),
            (100.0, 198.0, 200.0)
        );
        assert_eq!(Quantiles::of(Vec::new()).max, 0.0);
    }

    #[test]
    fn a_request_overlaps_a_span_in_which_it_was_under_way() {
        let span = Duration::from_millis(100)..Duration::from_millis(200);
        for (sent, ended, overlaps) in [
            (50, 99, false),
            (50, 150, true),
            (150, 160, true),
            (50, 300, true),
            (200, 210, false),
        ] {
            assert_eq!(
                sample(0, sent, ended).overlaps(&span),
                overlaps,
                "{sent}..{ended}"
            );
        }
    }
}
