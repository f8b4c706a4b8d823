//! What the inventory service must be told: where its database is, and how long a reservation holds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Serialize, Serializer};
use trellis_chassis::config::Environment;
use trellis_chassis::db::Binding;

const DEFAULT_TTL: Ttl = Ttl(SignedDuration::from_mins(15));
const MAX_TTL: SignedDuration = SignedDuration::from_hours(24);

/// Settings of the service; ports and telemetry are the chassis'.
#[derive(Debug, Serialize)]
pub struct Config {
    /// The binding `db` below `SERVICE_BINDING_ROOT`.
    pub database: Binding,
    /// `RESERVATION_TTL`: how long a reservation holds.
    pub reservation_ttl: Ttl,
}

/// How long a reservation holds: from a millisecond to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(SignedDuration);

/// Why a text is no [`Ttl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration of 1ms to 24h")]
pub struct TtlError;

/// Reads the settings; faults are noted in `env`.
pub fn read(env: &mut Environment) -> Option<Config> {
    let database = Binding::read(env, "db");
    let ttl = env.optional(
        "RESERVATION_TTL",
        DEFAULT_TTL,
        "write a duration such as 15m, or leave it out",
    );
    Some(Config {
        database: database?,
        reservation_ttl: ttl?,
    })
}

impl Ttl {
    /// As a duration.
    pub fn get(self) -> Duration {
        self.0.unsigned_abs()
    }
}

impl FromStr for Ttl {
    type Err = TtlError;

    fn from_str(text: &str) -> Result<Self, TtlError> {
        let duration: SignedDuration = text.parse().map_err(|_| TtlError)?;
        if (SignedDuration::from_millis(1)..=MAX_TTL).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(TtlError)
        }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_a_duration_of_up_to_a_day_and_is_written_as_it_is_read() {
        for good in ["1ms", "15m", "1h 30m", "24h"] {
            assert_eq!(good.parse::<Ttl>().unwrap().to_string(), good);
        }
        for bad in ["", "15", "0s", "-1m", "24h 1ms", "soon"] {
            assert_eq!(bad.parse::<Ttl>(), Err(TtlError), "{bad}");
        }
    }
}
