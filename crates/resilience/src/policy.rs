//! All that stands around the calls of one dependency, as a document carries it.
//!
//! What a document does not say is the default of the part, so a document that says nothing has safe defaults, and a newer
//! part is off, or at its default, where an older writer did not know it.

use serde::{Deserialize, Serialize};

use crate::{breaker, budget, bulkhead, deadline, fault::Fault, retry};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// How long requests and tries may take.
    #[serde(skip_serializing_if = "is_default")]
    pub deadline: deadline::Settings,
    /// How many requests at once.
    #[serde(skip_serializing_if = "is_default")]
    pub bulkhead: bulkhead::Settings,
    /// What is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: retry::Settings,
    /// What bounds all retries together.
    #[serde(skip_serializing_if = "is_default")]
    pub budget: budget::Settings,
    /// When calls end; null: they never do.
    #[serde(skip_serializing_if = "is_usual_breaker")]
    pub breaker: Option<breaker::Settings>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            deadline: deadline::Settings::default(),
            bulkhead: bulkhead::Settings::default(),
            retry: retry::Settings::default(),
            budget: budget::Settings::default(),
            breaker: Some(breaker::Settings::default()),
        }
    }
}

impl Policy {
    /// Every fault.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = self.deadline.faults();
        faults.extend(self.bulkhead.faults());
        faults.extend(self.retry.faults());
        faults.extend(self.budget.faults());
        faults.extend(self.breaker.iter().flat_map(breaker::Settings::faults));
        faults
    }
}

fn is_default<T: Default + PartialEq>(settings: &T) -> bool {
    *settings == T::default()
}

fn is_usual_breaker(breaker: &Option<breaker::Settings>) -> bool {
    breaker.as_ref().is_some_and(is_default)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_the_default_and_defaults_are_not_said() {
        let nothing: Policy = serde_json::from_value(json!({})).unwrap();
        assert_eq!(nothing, Policy::default());
        assert_eq!(serde_json::to_value(&nothing).unwrap(), json!({}));
        assert_eq!(nothing.faults(), []);
    }

    #[test]
    fn what_is_said_comes_back() {
        let policy = Policy {
            deadline: deadline::Settings {
                total: None,
                per_try: Some(Duration::from_millis(250)),
            },
            retry: retry::Settings {
                attempts: NonZeroU32::new(3).unwrap(),
                on: vec![
                    retry::Condition::Timeout,
                    retry::Condition::Status(http::StatusCode::CONFLICT),
                ],
                methods: vec![http::Method::POST],
                ..retry::Settings::default()
            },
            breaker: None,
            ..Policy::default()
        };
        let text = serde_json::to_value(&policy).unwrap();
        assert_eq!(
            text,
            json!({
                "deadline": {"total": null, "perTry": 250},
                "retry": {
                    "attempts": 3, "on": ["Timeout", {"Status": 409}], "methods": ["POST"],
                    "backoff": {"base": 25, "max": 250},
                },
                "breaker": null,
            })
        );
        assert_eq!(serde_json::from_value::<Policy>(text).unwrap(), policy);
    }
}
