//! A short, stable fingerprint of a configuration.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// SHA-256 of the value's JSON, the first 16 hex digits: enough to tell the documents of one cluster apart (64 bits).
///
/// Stable because every map in a document is ordered.
#[must_use]
pub fn of<T: Serialize>(value: &T) -> String {
    // Serialising plain data with string keys into memory does not fail; an empty text would show as an odd digest.
    let text = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(&text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
