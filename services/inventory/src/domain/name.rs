//! Names that clients choose. None of them leads elsewhere in a path, if `/` is escaped.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

const MAX_SKU: usize = 64;
const MAX_ID: usize = 128;

/// Name of something that is sold: 1 to 64 letters, digits, `. _ - / :`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sku(String);

/// Name of a reservation, chosen by the client: 1 to 128 letters, digits, `. _ - :`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReservationId(String);

/// Why a text is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A stock-keeping unit.
    #[error("must be 1 to {MAX_SKU} letters, digits, '.', '_', '-', '/' and ':', not only '.'")]
    Sku,
    /// An id of a reservation.
    #[error("must be 1 to {MAX_ID} letters, digits, '.', '_', '-' and ':', not only '.'")]
    ReservationId,
}

impl Sku {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ReservationId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sku {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        is_name(text, MAX_SKU, b"._-/:")
            .then(|| Self(text.to_owned()))
            .ok_or(NameError::Sku)
    }
}

impl FromStr for ReservationId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        is_name(text, MAX_ID, b"._-:")
            .then(|| Self(text.to_owned()))
            .ok_or(NameError::ReservationId)
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str, max: usize, signs: &[u8]) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || signs.contains(&byte);
    // An empty text is only dots as well.
    text.len() <= max && text.bytes().all(allowed) && !text.bytes().all(|byte| byte == b'.')
}
