//! Names that clients choose. None of them leads elsewhere in a path.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

const MAX_ID: usize = 128;
const MAX_USERNAME: usize = 64;

/// Name of an authorisation, chosen by the client: 1 to 128 letters, digits, `. _ - :`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorisationId(String);

/// Name of a user, as the user service knows it: 1 to 64 of `a-z 0-9 . _ -`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(String);

/// Why a text is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An id of an authorisation.
    #[error("must be 1 to {MAX_ID} letters, digits, '.', '_', '-' and ':', not only '.'")]
    AuthorisationId,
    /// A username.
    #[error("must be 1 to {MAX_USERNAME} lower-case letters a-z, digits, '.', '_' and '-', not only '.'")]
    Username,
}

impl AuthorisationId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Username {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AuthorisationId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        is_name(text, MAX_ID, allowed)
            .then(|| Self(text.to_owned()))
            .ok_or(NameError::AuthorisationId)
    }
}

impl FromStr for Username {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        is_name(text, MAX_USERNAME, allowed)
            .then(|| Self(text.to_owned()))
            .ok_or(NameError::Username)
    }
}

impl fmt::Display for AuthorisationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str, max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    // An empty text is only dots as well.
    text.len() <= max && text.bytes().all(allowed) && !text.bytes().all(|byte| byte == b'.')
}
