//! Typed configuration from the environment, read once and validated as a whole before any port is bound.
//!
//! Every fault is collected, so that one failed start shows all of them, and each names the variable, what
//! is wrong with it and what to write instead.
//!
//! ```
//! # use trellis_chassis::config::{self, Environment};
//! struct Config { max_lines: u16 }
//!
//! fn read(env: &mut Environment) -> Option<Config> {
//!     let max_lines = env.optional("MAX_LINES", 50, "write a number from 1 to 1000");
//!     Some(Config { max_lines: max_lines? })
//! }
//!
//! let env = Environment::from_pairs([("MAX_LINES", "many")]);
//! let faults = config::load(env, read).err().unwrap();
//! assert!(faults.to_string().contains("MAX_LINES"));
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The variables of the environment and the faults found in them so far.
#[derive(Debug)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    faults: Vec<Fault>,
}

/// Something wrong with one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The variable, or the file that a variable led to.
    pub variable: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

/// All faults of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

/// Where a service listens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Listen {
    /// Requests of users (`HTTP_ADDRESS`, default 0.0.0.0:8080).
    pub http: SocketAddr,
    /// Health and metrics (`ADMIN_ADDRESS`, default 0.0.0.0:9090).
    pub admin: SocketAddr,
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Reads a configuration and returns it only if it has no fault.
///
/// # Errors
/// Every fault that `read` noted.
pub fn load<C>(mut env: Environment, read: impl FnOnce(&mut Environment) -> Option<C>) -> Result<C, Faults> {
    match read(&mut env) {
        Some(config) if env.faults.is_empty() => Ok(config),
        _ => Err(Faults(env.faults)),
    }
}

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    pub fn process() -> Self {
        let utf8 =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self {
            variables: utf8.collect(),
            faults: Vec::new(),
        }
    }

    /// An environment made by hand.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            faults: Vec::new(),
        }
    }

    /// A variable that must be there. `fix` says what to write.
    pub fn required<T>(&mut self, variable: &str, fix: &str) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let value = self.get(variable);
        if value.is_none() {
            self.fault(variable, "is not set", fix);
        }
        self.parse(variable, &value?, fix)
    }

    /// A variable with a default; an empty one counts as absent.
    pub fn optional<T>(&mut self, variable: &str, default: T, fix: &str) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        match self.get(variable) {
            None => Some(default),
            Some(value) => self.parse(variable, &value, fix),
        }
    }

    /// Notes a fault that the caller found.
    pub fn fault(&mut self, variable: &str, problem: impl fmt::Display, fix: &str) {
        self.faults.push(Fault {
            variable: variable.to_owned(),
            problem: problem.to_string(),
            fix: fix.to_owned(),
        });
    }

    fn get(&self, variable: &str) -> Option<String> {
        self.variables
            .get(variable)
            .filter(|value| !value.is_empty())
            .cloned()
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, variable: &str, value: &str, fix: &str) -> Option<T> {
        match value.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fault(variable, format_args!("is {value:?}: {error}"), fix);
                None
            }
        }
    }
}

impl Listen {
    /// Reads `HTTP_ADDRESS` and `ADMIN_ADDRESS`.
    pub fn read(env: &mut Environment) -> Option<Self> {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let http = env.optional(
            "HTTP_ADDRESS",
            any(8080),
            "write ip:port, for example 0.0.0.0:8080",
        );
        let admin = env.optional(
            "ADMIN_ADDRESS",
            any(9090),
            "write ip:port, for example 0.0.0.0:9090",
        );
        Some(Self {
            http: http?,
            admin: admin?,
        })
    }
}

impl Faults {
    /// The faults, in the order in which they were found.
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            index,
            Fault {
                variable,
                problem,
                fix,
            },
        ) in self.0.iter().enumerate()
        {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{variable} {problem}; {fix}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(env: &mut Environment) -> Option<(Listen, u16)> {
        let listen = Listen::read(env);
        let lines = env.required("MAX_LINES", "write a number from 1 to 65535");
        Some((listen?, lines?))
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_fix() {
        let faults = load(Environment::from_pairs([("HTTP_ADDRESS", "8080")]), read).unwrap_err();
        let text = faults.to_string();
        assert_eq!(faults.as_slice().len(), 2, "{text}");
        assert!(text.contains("HTTP_ADDRESS is \"8080\""), "{text}");
        assert!(text.contains("write ip:port"), "{text}");
        assert!(text.contains("MAX_LINES is not set; write a number"), "{text}");
    }

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let env = Environment::from_pairs([("HTTP_ADDRESS", ""), ("MAX_LINES", "7")]);
        let (listen, lines) = load(env, read).unwrap();
        assert_eq!((listen.http.port(), listen.admin.port(), lines), (8080, 9090, 7));
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "\"***\"");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter2");
    }
}
