//! Names of runs, and partitions.

use std::{fmt, str::FromStr};

use ulid::Ulid;

/// How many partitions there are. It is a part of the store's form and never changes.
pub const PARTITIONS: u16 = 64;

/// Runs that have one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// A run: a ULID, so that later runs sort behind earlier ones. Its last bits name its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u128);

/// A text is no id of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of a run: 26 letters and digits, as 01JD2X3Y4Z5A6B7C8D9E0F1G2H")]
pub struct NoRunId(String);

impl Partition {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }
}

impl RunId {
    /// A new one at a time in milliseconds, of a partition.
    #[must_use]
    pub fn new(now: u64, random: u128, partition: Partition) -> Self {
        let mask = u128::from(PARTITIONS - 1);
        Self(Ulid::from_parts(now, random & !mask | u128::from(partition.0) & mask).0)
    }

    /// When it was made, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn time(self) -> u64 {
        Ulid(self.0).timestamp_ms()
    }

    /// Where it belongs.
    #[must_use]
    pub const fn partition(self) -> Partition {
        Partition((self.0 % PARTITIONS as u128) as u16)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid(self.0).fmt(f)
    }
}

impl FromStr for RunId {
    type Err = NoRunId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ulid = Ulid::from_string(text).map_err(|_| NoRunId(text.to_owned()))?;
        Ok(Self(ulid.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_time_and_its_partition_and_is_read_as_it_is_written() {
        let id = RunId::new(1_700_000_000_000, u128::MAX, Partition(17));
        assert_eq!(id.partition(), Partition(17));
        assert_eq!(id.time(), 1_700_000_000_000);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 26);
        assert!(RunId::new(1_700_000_000_001, 0, Partition(0)) > id);
        assert!("x".parse::<RunId>().is_err());
    }
}
