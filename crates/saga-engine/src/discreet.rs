//! What is kept of participants' words: in a saga with `secret`, nothing but a status.
//!
//! A participant that was sent a secret may say it again, in part or in other letters, in what it says of a failure; that is stored, and
//! shown as the detail of a cause, in Events, webhooks and by `trellis saga show`. Whoever looks for the values in the text finds some of
//! them. So the words are dropped before they become an event, for each call of the saga: any of them may have been handed any value.

use std::sync::Arc;

use trellis_saga_core::{Definition, event::Outcome};

/// Digits of a status.
const LONGEST_STATUS: usize = 3;

/// An outcome without the participant's words, if the saga has secrets.
pub(crate) fn discreet(definition: &Definition, outcome: Outcome) -> Outcome {
    if definition.secret.is_empty() {
        return outcome;
    }
    match outcome {
        Outcome::Failed(detail) => Outcome::Failed(status(&detail, "refused")),
        Outcome::Retry {
            condition,
            after,
            detail,
        } => Outcome::Retry {
            condition,
            after,
            detail: status(&detail, &format!("{condition:?}")),
        },
        // Where it is to be asked is needed, and shown nowhere.
        Outcome::Done(_) | Outcome::Pending { .. } => outcome,
    }
}

/// `ServerError, 503; what was said is not kept, since the saga has secrets`. A detail begins with a status, if there is one.
fn status(detail: &str, what: &str) -> Arc<str> {
    let (first, _) = detail.split_once([' ', ':']).unwrap_or((detail, ""));
    let is_status =
        (1..=LONGEST_STATUS).contains(&first.len()) && first.bytes().all(|byte| byte.is_ascii_digit());
    let status = if is_status {
        format!(", {first}")
    } else {
        String::new()
    };
    format!("{what}{status}; what was said is not kept, since the saga has secrets").into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use trellis_saga_core::definition::RetryCondition;

    use super::*;

    fn definition(secret: &[&str]) -> Definition {
        serde_json::from_value(json!({
            "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "a", "steps": [], "secret": secret,
            "retention": {"completed": 1, "compensated": 1}, "onStuck": {"event": true},
        }))
        .unwrap()
    }

    #[test]
    fn of_a_saga_with_secrets_only_the_status_is_kept() {
        let secret = definition(&["input.card"]);
        let failed = |detail: &str| match discreet(&secret, Outcome::Failed(detail.into())) {
            Outcome::Failed(detail) => detail.to_string(),
            other => panic!("{other:?}"),
        };
        let not_kept = "; what was said is not kept, since the saga has secrets";
        for (said, kept) in [
            ("409 Conflict: card 4111111111111111 is declined", "refused, 409"),
            ("409 Conflict", "refused, 409"),
            ("14: 4111111111111111", "refused, 14"),
            ("4111111111111111 is declined", "refused"),
            ("4111 1111", "refused"),
            ("/cards/4111111111111111 cannot be asked", "refused"),
            ("", "refused"),
        ] {
            assert_eq!(failed(said), format!("{kept}{not_kept}"));
        }
        let retry = Outcome::Retry {
            condition: RetryCondition::ServerError,
            after: Some(5),
            detail: "503 Service Unavailable: 4111".into(),
        };
        let kept = Outcome::Retry {
            condition: RetryCondition::ServerError,
            after: Some(5),
            detail: format!("ServerError, 503{not_kept}").into(),
        };
        assert_eq!(discreet(&secret, retry), kept);
    }

    #[test]
    fn of_any_other_all_is_kept() {
        let outcome = Outcome::Failed("409 Conflict: insufficient funds".into());
        assert_eq!(discreet(&definition(&[]), outcome.clone()), outcome);
    }
}
