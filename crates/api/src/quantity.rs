//! An amount of a resource as Kubernetes spells it: `50m`, `1`, `32Mi`.
//!
//! The user's spelling is kept in the Microservice, so that GitOps tools see no difference between what was written and
//! what is stored. In the children it becomes the spelling that the API server stores ([`Quantity::canonical`]), so that
//! what is wanted and what is live compare equal.

use std::{cmp::Ordering, fmt};

use k8s_openapi::apimachinery::pkg::api::resource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A Kubernetes quantity. A bare integer (`cpu: 1`) is taken as well as a string (`cpu: "1"`), as in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

/// The form of a quantity, from `k8s.io/apimachinery/pkg/api/resource` (signed number, suffix or exponent).
pub const PATTERN: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {0:?} as a quantity; write a number with a unit, for example 50m, 1, 32Mi or 1G")]
pub struct Error(String);

/// The value of a quantity, in units of 10^-9, and how it is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    nanos: i128,
    spelling: Spelling,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Decimal,
    Binary,
    Exponent,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 9] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
];
const BINARY: [(&str, u32); 6] = [("Ki", 1), ("Mi", 2), ("Gi", 3), ("Ti", 4), ("Pi", 5), ("Ei", 6)];

impl Quantity {
    /// The quantity as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its value.
    ///
    /// # Errors
    /// The text has another form, or the number is beyond what Kubernetes can hold (2^63).
    pub fn amount(&self) -> Result<Amount, Error> {
        Amount::parse(&self.0).ok_or_else(|| Error(self.0.clone()))
    }

    /// In the spelling that the API server stores: `1000m` is `1`, `0.5` is `500m`, `1.5Gi` is `1536Mi`. As written if
    /// it is no quantity.
    #[must_use]
    pub fn canonical(&self) -> resource::Quantity {
        resource::Quantity(
            self.amount()
                .map_or_else(|_| self.0.clone(), |amount| amount.to_string()),
        )
    }
}

impl Amount {
    /// Whether it is less than nothing.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// After `ParseQuantity` of `k8s.io/apimachinery/pkg/api/resource`.
    fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (exponent, factor, spelling) = unit(suffix)?;
        let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let mantissa = mantissa.checked_mul(factor)?;
        // Decimal places of `nanos`: 9, plus the unit's exponent, less those that the fraction already gave.
        let places = 9 + exponent - i32::try_from(fraction.len()).ok()?;
        let nanos = if places >= 0 {
            mantissa.checked_mul(10_i128.checked_pow(places.unsigned_abs())?)?
        } else {
            // Finer than 10^-9 is rounded up, as Kubernetes does.
            match 10_i128.checked_pow(places.unsigned_abs()) {
                Some(divisor) => mantissa / divisor + i128::from(mantissa % divisor != 0),
                None => i128::from(mantissa != 0),
            }
        };
        if nanos > i128::from(i64::MAX) * NANO {
            return None;
        }
        Some(Self {
            nanos: if negative { -nanos } else { nanos },
            spelling,
        })
    }
}

/// Power of ten, factor and spelling of a suffix.
fn unit(suffix: &str) -> Option<(i32, i128, Spelling)> {
    if suffix == "E" {
        return Some((18, 1, Spelling::Decimal));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((*exponent, 1, Spelling::Decimal));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((0, 1024_i128.pow(*power), Spelling::Binary));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-27..=18)
        .contains(&exponent)
        .then_some((exponent, 1, Spelling::Exponent))
}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.nanos.partial_cmp(&other.nanos)
    }
}

/// The spelling that the API server stores, after `CanonicalizeBytes` of the same package.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Below 1024 and where it would be inexact, binary spelling gives way to decimal.
        if self.spelling == Spelling::Binary && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            let suffix = power.checked_sub(1).map_or("", |index| BINARY[index].0);
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.spelling == Spelling::Exponent {
            return if exponent == 0 {
                write!(f, "{value}")
            } else {
                write!(f, "{value}e{exponent}")
            };
        }
        let suffix = DECIMAL
            .iter()
            .find(|(_, e)| *e == exponent)
            .map_or("E", |(name, _)| name);
        write!(f, "{value}{suffix}")
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 50m, 1 or 32Mi")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Quantity, E> {
                Ok(Quantity(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Quantity, E> {
                Ok(Quantity(value.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": PATTERN,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_spelling_is_that_of_the_api_server() {
        for (written, stored) in [
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            (".25", "250m"),
            ("100.", "100"),
            ("0", "0"),
            ("0Mi", "0"),
            ("+5", "5"),
            ("-5m", "-5m"),
            ("50m", "50m"),
            ("32Mi", "32Mi"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Mi", "512Ki"),
            ("0.5Ki", "512"),
            ("1000M", "1G"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1e0", "1"),
            ("12e1", "120"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("0.1n", "1n"),
        ] {
            assert_eq!(Quantity::from(written).canonical().0, stored, "{written}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "m",
            "1x",
            "1 Mi",
            "1Mib",
            "--1",
            "1e1.5",
            "1.2.3",
            "ten",
            ".",
            "99999999999E",
            "1e99",
        ] {
            assert!(Quantity::from(text).amount().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn amounts_compare_by_value_whatever_their_spelling() {
        let amount = |text: &str| Quantity::from(text).amount().unwrap();
        assert!(amount("1Gi") > amount("1G"));
        assert!(amount("999m") < amount("1"));
        assert!(amount("1e3") <= amount("1k"));
    }
}
