//! What was asked and what was answered. Pure: no I/O, and `now` is an argument.
//!
//! ```text
//! action        new         -> ask, unless it is fenced off    compensation  action new, refused  -> nothing done
//!               under way   -> wait                                          action under way     -> wait
//!               done        -> its answer                                    action done, unknown -> ask
//!               refused     -> its answer                                    done                 -> its answer
//!               unknown     -> ask, unless it is fenced off                  unknown, refused     -> ask
//! ```
//!
//! A compensation fences its action off whatever it comes to: the engine sends no action after it, so what comes
//! is a late copy.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::body::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::branch::{Branch, Op};

/// Calls, the oldest of which are forgotten.
#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    age: Duration,
    most_bytes: usize,
    calls: HashMap<Key, Call>,
    /// In the order in which they were first seen.
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
}

/// What a request has to be answered with.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// What the service says; it is under way from now on, until it is settled.
    Ask,
    /// What the first copy was answered with.
    Again(Known),
    /// Nothing yet: a copy, or the action, is under way.
    Wait,
    /// A success: there is nothing to take back.
    NothingDone,
    /// A refusal for good: it was compensated before it came.
    Refuse,
    /// A refusal that may pass: it could not be remembered.
    Full,
}

/// What came of asking the service.
#[derive(Debug)]
pub(super) enum Outcome {
    Done(Known),
    Refused(Known),
    /// Nobody knows what was done.
    Unknown,
}

/// An answer that can be given again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An action with its compensation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    run: String,
    step: String,
    index: u32,
    incarnation: u32,
}

#[derive(Debug, Default)]
struct Call {
    action: Progress,
    compensation: Progress,
    /// A compensation has come: the action is not asked for any more.
    is_fenced: bool,
}

#[derive(Debug, Default)]
enum Progress {
    #[default]
    New,
    UnderWay,
    Done(Known),
    Refused(Known),
    Unknown,
}

impl Memory {
    /// Remembers at most so many calls, for so long, with so many bytes of answers.
    pub(super) fn new(most: usize, age: Duration, most_bytes: usize) -> Self {
        Self {
            most,
            age,
            most_bytes,
            calls: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// What to do about a request that comes now.
    pub(super) fn decide(&mut self, branch: &Branch, now: Instant) -> Decision {
        while self.oldest(None).is_some_and(|place| {
            let (seen, _) = self.order[place];
            now.duration_since(seen) > self.age
        }) {
            self.forget_oldest(None);
        }
        let key = Key::of(branch);
        if !self.calls.contains_key(&key) {
            while self.calls.len() >= self.most {
                if !self.forget_oldest(None) {
                    return Decision::Full;
                }
            }
            self.order.push_back((now, key.clone()));
        }
        let call = self.calls.entry(key).or_default();
        match branch.op() {
            Op::Action => call.action(),
            Op::Compensation => call.compensation(),
        }
    }

    /// A call is no longer under way.
    pub(super) fn settle(&mut self, branch: &Branch, outcome: Outcome) {
        let key = Key::of(branch);
        // What is under way is not forgotten.
        let Some(call) = self.calls.get_mut(&key) else {
            return;
        };
        let progress = match branch.op() {
            Op::Action => &mut call.action,
            Op::Compensation => &mut call.compensation,
        };
        *progress = match outcome {
            Outcome::Done(known) => Progress::Done(known),
            // An operator mends the cause of a compensation's refusal and has it tried again.
            Outcome::Refused(_) if branch.op() == Op::Compensation => Progress::Unknown,
            Outcome::Refused(known) => Progress::Refused(known),
            Outcome::Unknown => Progress::Unknown,
        };
        self.bytes += progress.bytes();
        while self.bytes > self.most_bytes && self.forget_oldest(Some(&key)) {}
    }

    /// Place of the oldest call that may be forgotten.
    fn oldest(&self, but: Option<&Key>) -> Option<usize> {
        self.order.iter().position(|(_, key)| {
            Some(key) != but && self.calls.get(key).is_none_or(|call| !call.is_under_way())
        })
    }

    /// Whether there was one to be forgotten.
    fn forget_oldest(&mut self, but: Option<&Key>) -> bool {
        let Some((_, key)) = self.oldest(but).and_then(|place| self.order.remove(place)) else {
            return false;
        };
        if let Some(call) = self.calls.remove(&key) {
            self.bytes -= call.action.bytes() + call.compensation.bytes();
        }
        true
    }
}

impl Key {
    fn of(branch: &Branch) -> Self {
        Self {
            run: branch.run().to_owned(),
            step: branch.step().to_owned(),
            index: branch.index(),
            incarnation: branch.incarnation(),
        }
    }
}

impl Call {
    fn action(&mut self) -> Decision {
        match &self.action {
            Progress::UnderWay => Decision::Wait,
            Progress::Done(known) | Progress::Refused(known) => Decision::Again(known.clone()),
            Progress::New | Progress::Unknown if self.is_fenced => Decision::Refuse,
            Progress::New | Progress::Unknown => {
                self.action = Progress::UnderWay;
                Decision::Ask
            }
        }
    }

    fn compensation(&mut self) -> Decision {
        match (&self.compensation, &self.action) {
            (Progress::Done(known) | Progress::Refused(known), _) => Decision::Again(known.clone()),
            (Progress::UnderWay, _) | (_, Progress::UnderWay) => Decision::Wait,
            (_, Progress::New | Progress::Refused(_)) => {
                self.is_fenced = true;
                Decision::NothingDone
            }
            (_, Progress::Done(_) | Progress::Unknown) => {
                self.is_fenced = true;
                self.compensation = Progress::UnderWay;
                Decision::Ask
            }
        }
    }

    fn is_under_way(&self) -> bool {
        matches!(self.action, Progress::UnderWay) || matches!(self.compensation, Progress::UnderWay)
    }
}

impl Progress {
    fn bytes(&self) -> usize {
        match self {
            Self::Done(known) | Self::Refused(known) => known.bytes(),
            Self::New | Self::UnderWay | Self::Unknown => 0,
        }
    }
}

impl Known {
    fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        self.body.len()
            + headers
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
