//! What a breaker is set to, and where the defaults come from.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    fault::{self, Fault},
    percent::Percent,
    wire,
};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Failures in a row that open it. Default 5, as in Envoy's outlier detection (`consecutive_5xx`).
    pub consecutive_failures: NonZeroU32,
    /// The second signal. Default 50 % of at least 20 results in 10 s, as in Hystrix; none turns it off.
    pub failure_rate: Option<FailureRate>,
    /// How long it stays open before it lets a probe through. Default 60 s.
    #[serde(with = "wire::millis")]
    pub open_for: Duration,
    /// Probes that have to succeed, one after the other, before it closes. Default 1.
    pub probes: NonZeroU32,
}

/// A share of failures among recent results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRate {
    /// Failures among the results that open the breaker.
    pub percent: Percent,
    /// Results below which the share says nothing.
    pub min_samples: NonZeroU32,
    /// How far back results count; ten buckets of a tenth each.
    #[serde(with = "wire::millis")]
    pub window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_failures: const { NonZeroU32::new(5).expect("not zero") },
            failure_rate: Some(FailureRate::default()),
            open_for: Duration::from_secs(60),
            probes: NonZeroU32::MIN,
        }
    }
}

impl Default for FailureRate {
    fn default() -> Self {
        Self {
            percent: Percent::constant(50),
            min_samples: const { NonZeroU32::new(20).expect("not zero") },
            window: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Every fault. A breaker with faulty settings is harmless but of no use.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
        fault::within(&mut faults, "circuitBreaker.openFor", self.open_for, least, most);
        if let Some(rate) = &self.failure_rate {
            fault::within(
                &mut faults,
                "circuitBreaker.failureRate.window",
                rate.window,
                least,
                most,
            );
            if rate.percent.get() == 0 {
                faults.push(Fault {
                    field: "circuitBreaker.failureRate.percent",
                    message: "is 0, which every result reaches; write 1 to 100, or leave failureRate out"
                        .to_owned(),
                });
            }
        }
        faults
    }
}
