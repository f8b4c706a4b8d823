//! The circuit breaker: stops calling what fails, and asks once in a while whether it is back.
//!
//! ```text
//!            5 failures in a row, or 50 % of >= 20 results in 10 s failed
//!   Closed ------------------------------------------------------------> Open
//!     ^                                                                   |  60 s
//!     |  the probes succeed                         the probe fails: Open |
//!     +------------------------------ HalfOpen <--------------------------+
//!                                  one try at a time
//! ```
//!
//! **Two signals**, because either alone is blind: failures in a row miss a service that fails every second request, a
//! rate over time is slow on a total outage (linkerd2-proxy, `http/breaker/unified.rs`). The rate is of exact counts in
//! time buckets, not of a moving average.
//!
//! **Tries count**, not requests: a request with two tries that fail is two failures. A connect failure, a timeout, a
//! broken connection and 5xx fail; 4xx do not ([`Verdict`]). A try that had too little time to say anything counts for nothing
//! ([`crate::deadline::Settings::is_telling`]).
//!
//! **Generations.** Every change of state begins a generation, and a [`Pass`] belongs to the one it was given in. What
//! comes back with an older pass changes nothing: a try that began before the opening can neither close the breaker when
//! it succeeds late, nor open it anew.
//!
//! **Guarantees.** No try passes while it is open. Of the tries that begin half-open at most one is undecided; one
//! whose caller went away hands its turn to the next. A probe that says nothing for `open_for` is given up for a new one,
//! so that a call without a timeout cannot keep a breaker from closing.
//!
//! **Concurrency.** The machine is `&mut`; those that share it hold it in one lock, so that every transition is one step
//! that no thread sees half of.
//!
//! **What it does not protect against**: a service that is slow but answers (that is what timeouts and the bulkhead are
//! for), one failing route of a service whose other routes are well (they share the breaker), the load of as many probes
//! as there are proxies, a gRPC status that comes after a body
//! (tries are judged by the response's head), and a caller that has no other way to answer (that is the fallback's).
//!
//! Sources: M. Nygard, "Release It!", 2007 (the pattern); Netflix Hystrix (the rate's defaults: `errorThresholdPercentage`
//! 50, `requestVolumeThreshold` 20, 10 s in 10 buckets).

#[cfg(feature = "tower")]
pub mod layer;
mod settings;
#[cfg(test)]
mod tests;
mod window;

use std::time::{Duration, Instant};

pub use self::settings::{FailureRate, Settings};
use self::window::Window;
use crate::outcome::{Refusal, Verdict};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    settings: Settings,
    state: State,
    generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Closed {
        consecutive: u32,
        window: Option<Window>,
    },
    Open {
        since: Instant,
    },
    HalfOpen {
        /// When the try that decides began; none if its caller went away.
        probe: Option<Instant>,
        /// Probes that have succeeded.
        succeeded: u32,
    },
}

/// Leave to try. Give it back to [`Breaker::record`], whatever becomes of the try.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a pass that is not given back leaves a half-open breaker waiting"]
pub struct Pass {
    generation: u64,
    probe: bool,
}

/// No try now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Open for so much longer.
    #[error("failed to try: the circuit breaker is open for {0:?} more")]
    Open(Duration),
    /// A probe is under way.
    #[error("failed to try: the circuit breaker waits for the result of a probe")]
    Probing,
}

/// What a breaker does now; a label of metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Tries pass.
    Closed,
    /// None passes.
    Open,
    /// One passes.
    HalfOpen,
}

/// A change of state that a result brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// Too many failures in a row.
    OpenedByFailures,
    /// Too large a share of failures.
    OpenedByRate,
    /// The probe failed.
    Reopened,
    /// The probe succeeded.
    Closed,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let state = State::closed(&settings);
        Self {
            settings,
            state,
            generation: 0,
        }
    }

    /// Takes new settings. Failures in a row, an opening and a probe go on counting; the rate begins anew if it changed.
    pub fn reconfigure(&mut self, settings: Settings) {
        if let State::Closed { window, .. } = &mut self.state
            && self.settings.failure_rate != settings.failure_rate
        {
            *window = settings.failure_rate.as_ref().map(Window::new);
        }
        self.settings = settings;
    }

    /// Asks for leave to try.
    ///
    /// # Errors
    /// The breaker is open, or a probe is under way.
    pub fn acquire(&mut self, now: Instant) -> Result<Pass, Refused> {
        let open_for = self.settings.open_for;
        match &self.state {
            State::Closed { .. } => {
                return Ok(Pass {
                    generation: self.generation,
                    probe: false,
                });
            }
            State::Open { since } => {
                let spent = now.saturating_duration_since(*since);
                if spent < open_for {
                    return Err(Refused::Open(open_for - spent));
                }
            }
            State::HalfOpen {
                probe: Some(began), ..
            } if now.saturating_duration_since(*began) < open_for => {
                return Err(Refused::Probing);
            }
            State::HalfOpen { .. } => {}
        }
        let probe = Some(now);
        let succeeded = self.state.succeeded();
        self.enter(State::HalfOpen { probe, succeeded });
        Ok(Pass {
            generation: self.generation,
            probe: true,
        })
    }

    /// Takes a pass back with what became of its try.
    #[allow(clippy::needless_pass_by_value)] // a pass is good for one result
    pub fn record(&mut self, pass: Pass, verdict: Verdict, now: Instant) -> Option<Transition> {
        if pass.generation != self.generation {
            return None;
        }
        match (&mut self.state, verdict) {
            (State::Closed { .. } | State::Open { .. }, Verdict::Unknown) => None,
            (State::Closed { consecutive, window }, _) => {
                let failed = verdict == Verdict::Failure;
                *consecutive = if failed { consecutive.saturating_add(1) } else { 0 };
                if let Some(window) = window {
                    window.add(now, failed);
                }
                // A success opens nothing, however bad what was before it.
                if !failed {
                    return None;
                }
                let by_rate = match (&self.settings.failure_rate, window) {
                    (Some(rate), Some(window)) => window.reaches(rate),
                    _ => false,
                };
                let transition = if *consecutive >= self.settings.consecutive_failures.get() {
                    Transition::OpenedByFailures
                } else if by_rate {
                    Transition::OpenedByRate
                } else {
                    return None;
                };
                self.enter(State::Open { since: now });
                Some(transition)
            }
            (State::HalfOpen { succeeded, .. }, Verdict::Success) => {
                let succeeded = succeeded.saturating_add(1);
                if succeeded < self.settings.probes.get() {
                    let probe = None;
                    self.enter(State::HalfOpen { probe, succeeded });
                    return None;
                }
                self.enter(State::closed(&self.settings));
                Some(Transition::Closed)
            }
            (State::HalfOpen { .. }, Verdict::Failure) => {
                self.enter(State::Open { since: now });
                Some(Transition::Reopened)
            }
            (State::HalfOpen { probe, .. }, Verdict::Unknown) => {
                *probe = None;
                None
            }
            // No pass is given while open.
            (State::Open { .. }, _) => None,
        }
    }

    /// What it does now. An opening that has run out reads as half-open before the probe comes.
    #[must_use]
    pub fn phase(&self, now: Instant) -> Phase {
        match &self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { since } if now.saturating_duration_since(*since) < self.settings.open_for => {
                Phase::Open
            }
            State::Open { .. } | State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

impl State {
    const fn succeeded(&self) -> u32 {
        match self {
            Self::HalfOpen { succeeded, .. } => *succeeded,
            Self::Closed { .. } | Self::Open { .. } => 0,
        }
    }

    fn closed(settings: &Settings) -> Self {
        Self::Closed {
            consecutive: 0,
            window: settings.failure_rate.as_ref().map(Window::new),
        }
    }
}

impl Pass {
    /// Whether this try decides if the breaker closes.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Refused {
    /// When it may be worth to ask again: what remains of the opening, or a second while a probe is under way.
    #[must_use]
    pub const fn retry_after(self) -> Duration {
        match self {
            Self::Open(remaining) => remaining,
            Self::Probing => Duration::from_secs(1),
        }
    }
}

impl From<Refused> for Refusal {
    fn from(_: Refused) -> Self {
        Self::BreakerOpen
    }
}

impl Phase {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Transition {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenedByFailures => "opened_by_failures",
            Self::OpenedByRate => "opened_by_rate",
            Self::Reopened => "reopened",
            Self::Closed => "closed",
        }
    }
}
