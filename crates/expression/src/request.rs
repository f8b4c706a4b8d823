//! The names of a request: what rate limits and other policies of the proxy may ask about.
//!
//! | name | type | is |
//! |---|---|---|
//! | `request.method` | string | `GET` |
//! | `request.host` | string | without the port, in lower case |
//! | `request.path` | string | without the query, decoded as routes are matched, so that no spelling goes round a policy |
//! | `request.headers` | map(string, string) | by lower-case name; several of one name are joined with `,` (RFC 9110 5.3) |
//! | `request.query` | map(string, string) | decoded; of several with one name the first |
//! | `source.address` | string | the caller's address, as the proxy believes it |
//!
//! Bytes of a header that are no UTF-8 read as U+FFFD. Identities and claims are reserved: they come with their proof, and
//! nothing is decided by a claim that nobody verified.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, Method};

use crate::{
    environment::{Environment, VariableId},
    evaluate::Bindings,
    types::Type,
    value::Value,
};

const METHOD: VariableId = VariableId(0);
const HOST: VariableId = VariableId(1);
const PATH: VariableId = VariableId(2);
const HEADERS: VariableId = VariableId(3);
const QUERY: VariableId = VariableId(4);
const ADDRESS: VariableId = VariableId(5);

const NO_IDENTITY: &str = "identities and claims are not available yet, and one that nobody verified could be made up by \
                           any caller; use request.headers, request.path or source.address";

/// A request, as expressions see it.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its host, without the port, in lower case.
    pub host: &'a str,
    /// Its path, decoded as routes are matched.
    pub path: &'a str,
    /// Its query, as it came.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Who calls.
    pub source: IpAddr,
}

/// The names of a request and their types.
#[must_use]
pub fn environment() -> Environment {
    let texts = || Type::map(Type::String, Type::String);
    Environment::default()
        .with("request.method", Type::String)
        .with("request.host", Type::String)
        .with("request.path", Type::String)
        .with_lower_case_keys("request.headers", texts())
        .with("request.query", texts())
        .with("source.address", Type::String)
        .reserve("identity", NO_IDENTITY)
        .reserve("claims", NO_IDENTITY)
        .reserve("auth", NO_IDENTITY)
        .reserve("jwt", NO_IDENTITY)
        .reserve("request.auth", NO_IDENTITY)
        .reserve("source.identity", NO_IDENTITY)
        .reserve("source.principal", NO_IDENTITY)
}

impl HttpRequest<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self
            .headers
            .get_all(name)
            .into_iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()));
        let first = values.next()?;
        Some(values.fold(first, |joined, value| format!("{joined},{value}").into()))
    }

    fn queries(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.query.unwrap_or_default().as_bytes())
    }
}

impl Bindings for HttpRequest<'_> {
    fn value(&self, id: VariableId) -> Option<Value<'_>> {
        Some(match id {
            METHOD => Value::text(self.method.as_str()),
            HOST => Value::text(self.host),
            PATH => Value::text(self.path),
            HEADERS => {
                let mut entries = Vec::with_capacity(self.headers.keys_len());
                for name in self.headers.keys() {
                    let value = self.header(name.as_str())?;
                    entries.push((Value::text(name.as_str()), Value::String(value)));
                }
                Value::Map(entries.into())
            }
            QUERY => {
                let mut entries: Vec<(Value<'_>, Value<'_>)> = Vec::new();
                for (name, value) in self.queries() {
                    let name = Value::String(name);
                    if entries.iter().all(|(known, _)| *known != name) {
                        entries.push((name, Value::String(value)));
                    }
                }
                Value::Map(entries.into())
            }
            ADDRESS => Value::String(self.source.to_string().into()),
            _ => return None,
        })
    }

    fn entry(&self, id: VariableId, key: &str) -> Option<Value<'_>> {
        match id {
            HEADERS => self.header(key).map(Value::String),
            QUERY => {
                let found = self.queries().find(|(name, _)| name == key);
                found.map(|(_, value)| Value::String(value))
            }
            _ => None,
        }
    }
}
