//! What is told of the book, read when somebody asks.
//!
//! | name | meaning |
//! |---|---|
//! | `quota_leading` | 1 while this replica grants |
//! | `quota_limits`, `quota_keys` | limits and counters of which parts are leased |
//! | `quota_streams`, `quota_pods` | proxies that are connected, and pods that exist |
//! | `quota_grants_total`, `quota_recalls_total` | asks answered, and proxies told to ask again |
//! | `quota_full_total` | asks not answered since there are too many counters |

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use trellis_quota_stream::clock;

use crate::book::Book;

/// Figures of the book.
#[derive(Debug)]
pub struct OfBook(pub Arc<Mutex<Book>>);

impl Collector for OfBook {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (leads, size, counts) = {
            let book = self.0.lock();
            (book.holds(clock::now()).is_some(), book.size(), book.counts)
        };
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let gauges = [
            ("quota_leading", "Whether this replica grants", i64::from(leads)),
            (
                "quota_limits",
                "Limits of which parts are leased",
                number(size.limits),
            ),
            (
                "quota_keys",
                "Counters of which parts are leased",
                number(size.keys),
            ),
            (
                "quota_streams",
                "Proxies that are connected",
                number(size.streams),
            ),
            ("quota_pods", "Pods of Microservices", number(size.pods)),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        let counters = [
            ("quota_grants", "Asks answered", counts.grants),
            ("quota_recalls", "Proxies told to ask again", counts.recalls),
            (
                "quota_full",
                "Asks not answered since there are too many counters",
                counts.full,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}
