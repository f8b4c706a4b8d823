//! Money: a decimal with at most two places, kept in minor units.
//!
//! The text of the JSON number is read digit by digit. A floating-point number on the way would turn 19.99
//! into 19.989999999999998, and a limit of places could not be told from a rounding.

use std::fmt;

use serde::de::Deserializer;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const PLACES: usize = 2;
const MINOR: i64 = 100;
/// 999 999 999 999.99: enough, and exact in every reader's number type.
const MAX_MINOR: i64 = 99_999_999_999_999;

/// An amount of money in minor units (cents); never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(i64);

/// The amount as it stood in the body: a JSON number or a string, not looked at yet.
#[derive(Debug)]
pub struct Text(Box<RawValue>);

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not digits, with a point between them at most.
    #[error("must be a decimal such as 19.99, as a number or a string")]
    Form,
    /// `1e2`: exact, but nobody writes prices so; more likely a number that was formatted by mistake.
    #[error("must be written without an exponent, for example 100 instead of 1e2")]
    Exponent,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// More than two digits after the point.
    #[error("must have at most {PLACES} decimal places")]
    Places,
    /// Above the maximum.
    #[error("must be at most 999999999999.99")]
    TooLarge,
}

impl Amount {
    /// From minor units that were stored.
    pub fn from_minor(minor: i64) -> Option<Self> {
        (0..=MAX_MINOR).contains(&minor).then_some(Self(minor))
    }

    /// In minor units.
    pub fn minor(self) -> i64 {
        self.0
    }
}

impl Text {
    /// Reads the decimal.
    pub fn parse(&self) -> Result<Amount, AmountError> {
        let raw = self.0.get();
        match raw.as_bytes() {
            // No decimal needs an escape, so the text between the quotes is the text itself.
            [b'"', .., b'"'] => parse(&raw[1..raw.len() - 1]),
            _ => parse(raw),
        }
    }
}

/// `digits [ "." digit{1,2} ]`.
fn parse(text: &str) -> Result<Amount, AmountError> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(positive) = text.strip_prefix('-') {
        return Err(parse(positive).map_or_else(|fault| fault, |_| AmountError::Negative));
    }
    if let Some((mantissa, _)) = text.split_once(['e', 'E']) {
        let numeric = mantissa.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        return Err(if numeric {
            AmountError::Exponent
        } else {
            AmountError::Form
        });
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "00"));
    if !digits(whole) || !digits(fraction) {
        return Err(AmountError::Form);
    }
    if fraction.len() > PLACES {
        return Err(AmountError::Places);
    }
    let whole: i64 = whole.parse().map_err(|_| AmountError::TooLarge)?;
    // One digit means tenths.
    let cents: i64 = format!("{fraction:0<PLACES$}")
        .parse()
        .map_err(|_| AmountError::Form)?;
    let minor = whole
        .checked_mul(MINOR)
        .and_then(|minor| minor.checked_add(cents));
    minor.and_then(Amount::from_minor).ok_or(AmountError::TooLarge)
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self)
    }
}

/// A JSON number with both places, `19.90`.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string())
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / MINOR, self.0 % MINOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<i64, AmountError> {
        serde_json::from_str::<Text>(json)
            .unwrap()
            .parse()
            .map(Amount::minor)
    }

    #[test]
    fn decimals_are_exact_as_number_and_as_string() {
        for (json, minor) in [
            ("19.99", 1999),
            ("\"19.99\"", 1999),
            ("0.1", 10),
            ("0.29", 29),
            ("1.15", 115),
            ("4.35", 435),
            ("20", 2000),
            ("0", 0),
            ("\"007.5\"", 750),
            ("999999999999.99", MAX_MINOR),
        ] {
            assert_eq!(read(json), Ok(minor), "{json}");
        }
    }

    #[test]
    fn every_cent_survives_the_way_out_and_in_again() {
        for minor in (0..100_000).chain(MAX_MINOR - 1000..=MAX_MINOR) {
            let json = serde_json::to_string(&Amount(minor)).unwrap();
            assert_eq!(read(&json), Ok(minor), "{json}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused_with_its_reason() {
        for (json, fault) in [
            ("0.001", AmountError::Places),
            ("1.000", AmountError::Places),
            ("1e2", AmountError::Exponent),
            ("1.5E1", AmountError::Exponent),
            ("-1", AmountError::Negative),
            ("-0.001", AmountError::Places),
            ("1000000000000", AmountError::TooLarge),
            ("99999999999999999999999999", AmountError::TooLarge),
            ("\"\"", AmountError::Form),
            ("\"1,50\"", AmountError::Form),
            ("\".5\"", AmountError::Form),
            ("\"5.\"", AmountError::Form),
            ("\"+5\"", AmountError::Form),
            ("\" 5\"", AmountError::Form),
            ("\"free\"", AmountError::Form),
            ("\"\\u0035\"", AmountError::Form),
            ("null", AmountError::Form),
            ("true", AmountError::Form),
            ("[1]", AmountError::Form),
            ("{\"a\":1}", AmountError::Form),
        ] {
            assert_eq!(read(json), Err(fault), "{json}");
        }
    }

    #[test]
    fn amounts_are_written_with_both_places() {
        for (minor, text) in [(0, "0.00"), (5, "0.05"), (1990, "19.90"), (1999, "19.99")] {
            assert_eq!(serde_json::to_string(&Amount(minor)).unwrap(), text);
        }
    }
}
