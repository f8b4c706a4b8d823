//! What a user is and when one may be created. Pure: no I/O, no clock.
//!
//! Creating is idempotent by username: the same user again is a replay, another user of the same name a
//! conflict. A client that lost the answer can therefore simply ask again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trellis_chassis::problem::FieldError;

/// Longest address that a mail server takes: RFC 5321, 4.5.3.1.3, less the angle brackets.
const MAX_EMAIL: usize = 254;
const MAX_USERNAME: usize = 64;

/// The name by which a user is known: 1 to 64 of `a-z 0-9 . _ -`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Username(String);

/// An address that may be right; only mail sent to it can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Email(String);

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Never changes.
    pub username: Username,
    /// Where mail goes, if anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
}

/// The body of `POST /users/`, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    username: String,
    email: Option<String>,
}

/// What to do about a request to create a user.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Store it.
    Create,
    /// It is stored already.
    Replay,
    /// Another user has the name.
    Conflict,
}

/// Why a text is no username.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsernameError {
    /// Empty or too long.
    #[error("must have 1 to {MAX_USERNAME} characters")]
    Length,
    /// A character outside the set.
    #[error("must be of lower-case letters a-z, digits, '.', '_' and '-' only")]
    Character,
    /// `.` and `..` mean other places in a URL's path.
    #[error("must have a character other than '.'")]
    OnlyDots,
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an address such as ada@example.org, of at most {MAX_EMAIL} characters")]
pub struct EmailError;

/// Turns the body into a user, or into every fault that it has.
pub fn validate(body: CreateUser) -> Result<User, Vec<FieldError>> {
    let mut faults = Vec::new();
    let username = body.username.parse().map_err(|fault: UsernameError| {
        faults.push(FieldError::new("username", fault));
    });
    let email = body
        .email
        .map(|email| email.parse())
        .transpose()
        .map_err(|fault: EmailError| {
            faults.push(FieldError::new("email", fault));
        });
    match (username, email) {
        (Ok(username), Ok(email)) => Ok(User { username, email }),
        _ => Err(faults),
    }
}

/// Decides about `wanted`, given the user of that name that is stored.
pub fn decide(wanted: &User, stored: Option<&User>) -> Decision {
    match stored {
        None => Decision::Create,
        Some(stored) if stored == wanted => Decision::Replay,
        Some(_) => Decision::Conflict,
    }
}

impl FromStr for Username {
    type Err = UsernameError;

    fn from_str(text: &str) -> Result<Self, UsernameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if text.is_empty() || text.chars().count() > MAX_USERNAME {
            Err(UsernameError::Length)
        } else if !text.bytes().all(allowed) {
            Err(UsernameError::Character)
        } else if text.bytes().all(|byte| byte == b'.') {
            Err(UsernameError::OnlyDots)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        let plain = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        let parts = text
            .rsplit_once('@')
            .is_some_and(|(local, host)| !local.is_empty() && !host.is_empty());
        if plain && parts && text.len() <= MAX_EMAIL {
            Ok(Self(text.to_owned()))
        } else {
            Err(EmailError)
        }
    }
}

impl Username {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Email {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(username: &str, email: Option<&str>) -> CreateUser {
        CreateUser {
            username: username.to_owned(),
            email: email.map(str::to_owned),
        }
    }

    fn user(username: &str, email: Option<&str>) -> User {
        validate(body(username, email)).unwrap()
    }

    #[test]
    fn usernames_are_short_lower_case_and_safe_in_a_path() {
        for good in ["a", "ada", "ada.lovelace", "a_b-c.9", "..a", &"x".repeat(64)] {
            assert_eq!(good.parse::<Username>().unwrap().as_str(), good);
        }
        for (bad, fault) in [
            ("", UsernameError::Length),
            (&*"x".repeat(65), UsernameError::Length),
            ("Ada", UsernameError::Character),
            ("ada lovelace", UsernameError::Character),
            ("ada/../bob", UsernameError::Character),
            ("adá", UsernameError::Character),
            (".", UsernameError::OnlyDots),
            ("..", UsernameError::OnlyDots),
        ] {
            assert_eq!(bad.parse::<Username>(), Err(fault), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_checked_for_what_cannot_be_one() {
        for good in ["a@b", "ada@example.org", "\"a@b\"@example.org"] {
            assert!(good.parse::<Email>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "a da@example.org",
            &format!("{}@b", "a".repeat(300)),
        ] {
            assert_eq!(bad.parse::<Email>(), Err(EmailError), "{bad}");
        }
    }

    #[test]
    fn every_fault_of_a_body_is_reported_with_its_field() {
        let faults = validate(body("Ada", Some("ada"))).unwrap_err();
        assert_eq!(
            faults
                .iter()
                .map(|fault| fault.field.as_str())
                .collect::<Vec<_>>(),
            ["username", "email"]
        );
    }

    #[test]
    fn creating_again_is_a_replay_only_if_nothing_differs() {
        let ada = user("ada", Some("ada@example.org"));
        assert_eq!(decide(&ada, None), Decision::Create);
        assert_eq!(decide(&ada, Some(&ada.clone())), Decision::Replay);
        assert_eq!(decide(&ada, Some(&user("ada", None))), Decision::Conflict);
    }
}
