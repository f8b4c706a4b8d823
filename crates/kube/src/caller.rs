//! Who calls: a ServiceAccount token of our own audience, reviewed by the API server.
//!
//! A caller's token is projected into its pod and good for nothing else (its audience). The answer of a
//! review is kept for a short time by the token's digest, so that a fleet that reconnects does not storm the API server;
//! the token itself is not kept. A deleted pod's token is therefore good for up to a minute more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, time};
use tonic::{Status, metadata::MetadataMap};

/// How long the answer of a review is used.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long a refusal is.
const REFUSED_REMEMBERED: Duration = Duration::from_secs(5);
/// Most answers that are remembered.
const MOST_REMEMBERED: usize = 20_000;
/// Most reviews at once.
const MOST_REVIEWS: usize = 16;
/// Longest wait for a review.
const REVIEW: Duration = Duration::from_secs(5);
/// Longest token that is looked at.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Metadata key with the caller's proof: `Bearer <token>`.
const AUTHORIZATION: &str = "authorization";
/// Where a review has the name of the pod that a token is bound to.
const EXTRA_POD: &str = "authentication.kubernetes.io/pod-name";
/// Where it has the pod's UID.
const EXTRA_POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Finds out who calls.
pub struct Authenticator {
    reviews: Api<TokenReview>,
    audience: String,
    permits: Semaphore,
    answers: Mutex<Answers>,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the ServiceAccount.
    pub namespace: String,
    /// Name of the ServiceAccount.
    pub account: String,
    /// Name of the pod that the token was made for. None: for none, or by an API server that does not say.
    pub pod: Option<String>,
    /// UID of that pod.
    pub pod_uid: Option<String>,
}

/// Why it is not known who calls. As a [`Status`] it is what the caller is told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no token.
    #[error(
        "failed to find a token; send one of a ServiceAccount with audience {audience} as `authorization: Bearer ...`"
    )]
    Missing {
        /// The audience that a token must have.
        audience: String,
    },
    /// The API server does not vouch for the token.
    #[error(
        "failed to accept the token: it is not a ServiceAccount's, has expired, or is for another audience"
    )]
    Refused,
    /// The API server could not be asked.
    #[error("failed to review the token")]
    Review(#[source] kube::Error),
    /// The API server said nothing in time.
    #[error("failed to review the token: no answer in time")]
    Late,
}

/// None: the token is no good.
type Answer = Option<Caller>;

#[derive(Debug, Default)]
struct Answers(HashMap<[u8; 32], (Answer, Instant)>);

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        match error {
            Error::Missing { .. } | Error::Refused => Self::unauthenticated(error.to_string()),
            Error::Review(_) | Error::Late => Self::unavailable("the token could not be reviewed; try again"),
        }
    }
}

impl Authenticator {
    /// Reviews by the API server of `client`; only tokens of that audience are good.
    pub fn new(client: Client, audience: impl Into<String>) -> Self {
        Self {
            reviews: Api::all(client),
            audience: audience.into(),
            permits: Semaphore::new(MOST_REVIEWS),
            answers: Mutex::default(),
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// There is no token, or none that the API server knows, or it could not be asked.
    pub async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Error> {
        let token = bearer(metadata).ok_or_else(|| Error::Missing {
            audience: self.audience.clone(),
        })?;
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let remembered = self.answers().get(&digest, Instant::now());
        let answer = match remembered {
            Some(answer) => answer,
            None => {
                let answer = self.review(token).await?;
                self.answers().put(digest, answer.clone(), Instant::now());
                answer
            }
        };
        answer.ok_or(Error::Refused)
    }

    async fn review(&self, token: &str) -> Result<Answer, Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let ask = async {
            // The semaphore is never closed, so an error is as good as a permit.
            let _permit = self.permits.acquire().await;
            self.reviews.create(&PostParams::default(), &review).await
        };
        let review = time::timeout(REVIEW, ask)
            .await
            .map_err(|_| Error::Late)?
            .map_err(Error::Review)?;
        let status = review.status.as_ref();
        Ok(status.and_then(|status| vouched(status, &self.audience)))
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn get(&self, digest: &[u8; 32], now: Instant) -> Option<Answer> {
        let (answer, until) = self.0.get(digest)?;
        (now < *until).then(|| answer.clone())
    }

    fn put(&mut self, digest: [u8; 32], answer: Answer, now: Instant) {
        if self.0.len() >= MOST_REMEMBERED {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= MOST_REMEMBERED {
            self.0.clear();
        }
        let length = if answer.is_some() {
            REMEMBERED
        } else {
            REFUSED_REMEMBERED
        };
        self.0.insert(digest, (answer, now + length));
    }
}

/// The token in the metadata.
fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    let good = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST_TOKEN;
    good.then_some(token)
}

/// The caller that a review vouches for, with our audience.
fn vouched(status: &TokenReviewStatus, audience: &str) -> Option<Caller> {
    let is_ours = status
        .audiences
        .iter()
        .flatten()
        .any(|granted| granted == audience);
    if status.authenticated != Some(true) || !is_ours {
        return None;
    }
    let user = status.user.as_ref()?;
    let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = account.split_once(':')?;
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().cloned();
    Some(Caller {
        namespace: namespace.to_owned(),
        account: name.to_owned(),
        pod: extra(EXTRA_POD),
        pod_uid: extra(EXTRA_POD_UID),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tonic::Code;

    use super::*;

    fn order(pod: Option<&str>, pod_uid: Option<&str>) -> Caller {
        Caller {
            namespace: "shop".to_owned(),
            account: "order".to_owned(),
            pod: pod.map(str::to_owned),
            pod_uid: pod_uid.map(str::to_owned),
        }
    }

    fn reviewed(status: &Value) -> Option<Caller> {
        let status = serde_json::from_value(status.clone()).unwrap();
        vouched(&status, "trellis-config")
    }

    #[test]
    fn a_review_names_the_pod_of_a_token_that_is_bound_to_one() {
        let of = |extra: Value| {
            reviewed(&json!({
                "authenticated": true, "audiences": ["trellis-config"],
                "user": {"username": "system:serviceaccount:shop:order", "extra": extra},
            }))
        };
        let uid = "6f1c4c5e-0000-4000-8000-000000000001";
        let pod = json!({
            "authentication.kubernetes.io/pod-name": ["order-1"],
            "authentication.kubernetes.io/pod-uid": [uid],
        });
        assert_eq!(of(pod), Some(order(Some("order-1"), Some(uid))));
        assert_eq!(of(json!({})), Some(order(None, None)));
    }

    #[test]
    fn a_review_vouches_for_a_service_account_of_our_audience_only() {
        let user = json!({"username": "system:serviceaccount:shop:order"});
        let ours = json!(["trellis-config"]);
        assert_eq!(
            reviewed(&json!({"authenticated": true, "audiences": ours, "user": user})),
            Some(order(None, None))
        );
        for status in [
            json!({"authenticated": false, "audiences": ours, "user": user}),
            json!({"audiences": ours, "user": user}),
            json!({"authenticated": true, "audiences": ["https://kubernetes.default.svc"], "user": user}),
            json!({"authenticated": true, "audiences": ["trellis-quota"], "user": user}),
            json!({"authenticated": true, "user": user}),
            json!({"authenticated": true, "audiences": ours, "user": {"username": "system:node:a"}}),
            json!({"authenticated": true, "audiences": ours}),
        ] {
            assert_eq!(reviewed(&status), None, "{status}");
        }
    }

    #[test]
    fn the_token_is_what_follows_bearer() {
        let token = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", value.parse().unwrap());
            bearer(&metadata).map(str::to_owned)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer "), None);
        assert_eq!(token(&format!("Bearer {}", "a".repeat(LONGEST_TOKEN + 1))), None);
        assert_eq!(bearer(&MetadataMap::new()), None);
    }

    #[test]
    fn answers_are_forgotten_in_time_and_refusals_sooner() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let order = order(Some("order-1"), None);
        answers.put([1; 32], Some(order.clone()), now);
        answers.put([2; 32], None, now);
        assert_eq!(answers.get(&[1; 32], now + REMEMBERED / 2), Some(Some(order)));
        assert_eq!(answers.get(&[1; 32], now + REMEMBERED), None);
        assert_eq!(answers.get(&[2; 32], now), Some(None));
        assert_eq!(answers.get(&[2; 32], now + REFUSED_REMEMBERED), None);
    }

    #[test]
    fn a_caller_is_told_which_token_to_send_or_that_another_try_may_help() {
        let missing = Error::Missing {
            audience: "trellis-config".to_owned(),
        };
        let told = Status::from(&missing);
        assert_eq!(told.code(), Code::Unauthenticated);
        assert!(told.message().contains("audience trellis-config"), "{told}");
        assert_eq!(Status::from(&Error::Refused).code(), Code::Unauthenticated);
        let unasked = Error::Review(kube::Error::TlsRequired);
        for error in [unasked, Error::Late] {
            assert_eq!(Status::from(&error).code(), Code::Unavailable, "{error}");
        }
    }
}
