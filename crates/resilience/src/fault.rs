//! What is wrong with settings, and where.

use std::{fmt, time::Duration};

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting, as the user writes it below the policy: `openFor`, `failureRate.window`.
    pub field: &'static str,
    /// What is wrong, and the fix.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Notes a fault if a length of time is not from `least` to `most`.
pub(crate) fn within(
    faults: &mut Vec<Fault>,
    field: &'static str,
    given: Duration,
    least: Duration,
    most: Duration,
) {
    if given < least || given > most {
        let message = format!("is {given:?}; write a time from {least:?} to {most:?}");
        faults.push(Fault { field, message });
    }
}
