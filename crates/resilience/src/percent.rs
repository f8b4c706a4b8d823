//! A share of a hundred, in whole percent: exact where a fraction of floats would drift.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 0 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Percent(u8);

/// Why a number is no percentage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {0} as a percentage; write a whole number from 0 to 100")]
pub struct Error(u32);

impl Percent {
    /// # Errors
    /// The number is above 100.
    pub const fn new(percent: u32) -> Result<Self, Error> {
        if percent <= 100 {
            Ok(Self(percent as u8))
        } else {
            Err(Error(percent))
        }
    }

    /// A constant of this crate.
    pub(crate) const fn constant(percent: u8) -> Self {
        assert!(percent <= 100);
        Self(percent)
    }

    /// The number, 0 to 100.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether `part` is at most this share of `whole`.
    #[must_use]
    pub fn covers(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 100 <= u128::from(whole) * u128::from(self.0)
    }

    /// Whether `part` is at least this share of `whole`.
    #[must_use]
    pub fn is_reached_by(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 100 >= u128::from(whole) * u128::from(self.0)
    }
}

impl TryFrom<u32> for Percent {
    type Error = Error;

    fn try_from(percent: u32) -> Result<Self, Error> {
        Self::new(percent)
    }
}

impl From<Percent> for u32 {
    fn from(percent: Percent) -> Self {
        percent.0.into()
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_exact_at_its_edge() {
        let third = Percent::new(33).unwrap();
        assert!(third.covers(33, 100) && !third.covers(34, 100));
        assert!(third.is_reached_by(33, 100) && !third.is_reached_by(32, 100));
        assert!(third.covers(u64::MAX / 4, u64::MAX));
        assert_eq!(Percent::new(101), Err(Error(101)));
    }
}
