//! The name of a service: of its folder, package, image, Microservice, database and role.
//!
//! It stands in texts and comments of Rust only, or behind `shop-`: a keyword is a name like any other.

use std::fmt;

use anyhow::{Result, bail};

/// Longest name of a Microservice.
const MAX: usize = 50;
/// Ends the name of a headless Service.
const HEADLESS: &str = "-headless";
/// What the names of packages and images begin with.
const PREFIXES: [&str; 2] = ["trellis-", "shop-"];
/// Names that mean something else where the service's would stand.
const TAKEN: [(&str, &str); 7] = [
    ("none", "a word of PostgreSQL that no role may be named"),
    ("operator", "the operator's in `cargo xtask logs operator`"),
    ("postgres", "the database server's"),
    ("public", "a word of PostgreSQL that no role may be named"),
    ("template0", "a database of PostgreSQL's own"),
    ("template1", "a database of PostgreSQL's own"),
    ("trellis", "of Trellis itself"),
];

/// A name that a new service may have, if no other has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Takes a text for a name, or says what is wrong with it and what would be right.
    pub fn parse(text: &str) -> Result<Self> {
        match fault(text) {
            None => Ok(Self(text.to_owned())),
            Some((wrong, None)) => {
                bail!("{text:?} cannot name a service: {wrong}\n  fix: choose another name")
            }
            Some((wrong, Some(right))) => {
                bail!("{text:?} cannot name a service: {wrong}\n  fix: cargo xtask new-service {right}")
            }
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a text, and the nearest one that may be right.
fn fault(text: &str) -> Option<(String, Option<String>)> {
    let foreign = text
        .chars()
        .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'));
    let wrong = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(foreign) = foreign {
        format!("{foreign:?} is in it, and only a-z, 0-9 and '-' may be")
    } else if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        "it does not start with a letter".to_owned()
    } else if text.ends_with('-') {
        "it ends with '-'".to_owned()
    } else if text.len() > MAX {
        let wrong = format!(
            "it has {} characters, and Services are named after it: at most {MAX}",
            text.len()
        );
        return Some((wrong, None));
    } else if text.ends_with(HEADLESS) {
        format!("the headless Service of another may have it: no name ends with {HEADLESS}")
    } else if let Some(prefix) = PREFIXES.iter().find(|prefix| text.starts_with(**prefix)) {
        format!("packages and images get a prefix themselves: no name starts with {prefix}")
    } else {
        let (_, whose) = TAKEN.iter().find(|(taken, _)| *taken == text)?;
        return Some((format!("it is {whose}"), None));
    };
    Some((wrong, nearest(text)))
}

/// Foreign characters are dashes, and what may not be at an end is not there.
fn nearest(text: &str) -> Option<String> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let name = words.join("-").to_ascii_lowercase();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name = PREFIXES
        .iter()
        .fold(name, |name, prefix| name.trim_start_matches(prefix))
        .trim_end_matches(HEADLESS);
    fault_free(name).then(|| name.to_owned())
}

fn fault_free(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase();
    name.len() <= MAX && name.starts_with(letter) && TAKEN.iter().all(|(taken, _)| *taken != name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_microservice_may_have() {
        let long = "x".repeat(50);
        for good in ["a", "shipping", "gift-card2", "type", "self", "shop", &*long] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_bad_name_is_refused_with_what_is_wrong_and_the_fix() {
        let long = "x".repeat(51);
        for (bad, wrong, fix) in [
            ("", "empty", "choose another name"),
            ("Gift_Card", "'G' is in it", "cargo xtask new-service gift-card"),
            ("../payment", "'.' is in it", "cargo xtask new-service payment"),
            ("café", "'é' is in it", "cargo xtask new-service caf"),
            ("Trellis/Mail", "'T' is in it", "cargo xtask new-service mail"),
            ("_", "'_' is in it", "choose another name"),
            ("2nd", "start with a letter", "cargo xtask new-service nd"),
            ("-a", "start with a letter", "cargo xtask new-service a"),
            ("a-", "ends with '-'", "cargo xtask new-service a"),
            (&long, "51 characters", "choose another name"),
            (
                "user-headless",
                "ends with -headless",
                "cargo xtask new-service user",
            ),
            (
                "trellis-mail",
                "starts with trellis-",
                "cargo xtask new-service mail",
            ),
            ("shop-mail", "starts with shop-", "cargo xtask new-service mail"),
            ("shop-2nd", "starts with shop-", "choose another name"),
            ("shop-public", "starts with shop-", "choose another name"),
            ("trellis", "of Trellis", "choose another name"),
            ("public", "PostgreSQL", "choose another name"),
        ] {
            let error = Name::parse(bad).unwrap_err().to_string();
            let (what, how) = error.split_once("\n  fix: ").unwrap();
            assert!(
                what.starts_with(&format!("{bad:?} cannot name a service: ")),
                "{error}"
            );
            assert!(what.contains(wrong), "{error}");
            assert_eq!(how, fix, "{error}");
            if let Some(name) = how.strip_prefix("cargo xtask new-service ") {
                assert!(Name::parse(name).is_ok(), "{error}");
            }
        }
    }
}
