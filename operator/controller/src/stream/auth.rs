//! Who calls: a ServiceAccount token of our own audience, reviewed by the API server.
//!
//! A proxy's token is projected into its pod and good for nothing else (audience `trellis-config`). The answer of a
//! review is kept for a short time by the token's digest, so that a fleet that reconnects does not storm the API server;
//! the token itself is not kept. A deleted pod's token is therefore good for up to [`REMEMBERED`] more.

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
use trellis_api::names;

use crate::{error::chain, key::Key, metrics::Refusal};

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

/// Where a review has the pod that a token is bound to.
const EXTRA_POD: &str = "authentication.kubernetes.io/pod-name";

/// Finds out who calls.
pub struct Authenticator {
    reviews: Api<TokenReview>,
    permits: Semaphore,
    answers: Mutex<Answers>,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Namespace and name of the ServiceAccount.
    pub account: Key,
    /// The pod that the token was made for. None: for none, or by an API server that does not say.
    pub pod: Option<String>,
}

/// None: the token is no good.
type Answer = Option<Caller>;

#[derive(Debug, Default)]
struct Answers(HashMap<[u8; 32], (Answer, Instant)>);

impl Authenticator {
    /// Reviews by the API server of `client`.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            permits: Semaphore::new(MOST_REVIEWS),
            answers: Mutex::default(),
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// There is no token, or none that the API server knows, or it could not be asked.
    pub async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, (Refusal, Status)> {
        let token = bearer(metadata).ok_or_else(|| {
            let text =
                "send a ServiceAccount token with audience trellis-config as `authorization: Bearer ...`";
            (Refusal::Unauthenticated, Status::unauthenticated(text))
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
        answer.ok_or_else(|| {
            let text = "the token is not a ServiceAccount's, has expired, or is for another audience";
            (Refusal::Unauthenticated, Status::unauthenticated(text))
        })
    }

    async fn review(&self, token: &str) -> Result<Answer, (Refusal, Status)> {
        let unavailable = |why: String| {
            tracing::warn!(error = why, "failed to review a token");
            let status = Status::unavailable("the token could not be reviewed; try again");
            (Refusal::Unavailable, status)
        };
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]),
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
            .map_err(|_| unavailable("no answer in time".to_owned()))?
            .map_err(|error| unavailable(chain(&error)))?;
        Ok(review.status.as_ref().and_then(vouched))
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
    let value = metadata
        .get(trellis_config_stream::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    let good = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST_TOKEN;
    good.then_some(token)
}

/// The caller that a review vouches for, with our audience.
fn vouched(status: &TokenReviewStatus) -> Option<Caller> {
    let audience = status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == names::TOKEN_AUDIENCE);
    if status.authenticated != Some(true) || !audience {
        return None;
    }
    let user = status.user.as_ref()?;
    let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = account.split_once(':')?;
    let pod = user
        .extra
        .as_ref()
        .and_then(|extra| extra.get(EXTRA_POD)?.first());
    Some(Caller {
        account: Key::new(namespace, name),
        pod: pod.cloned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reviewed(status: Value) -> Option<String> {
        vouched(&serde_json::from_value(status).unwrap()).map(|caller| match caller.pod {
            Some(pod) => format!("{} in {pod}", caller.account),
            None => caller.account.to_string(),
        })
    }

    #[test]
    fn a_review_names_the_pod_of_a_token_that_is_bound_to_one() {
        let of = |extra: Value| {
            reviewed(json!({
                "authenticated": true, "audiences": ["trellis-config"],
                "user": {"username": "system:serviceaccount:shop:order", "extra": extra},
            }))
        };
        let pod = json!({
            "authentication.kubernetes.io/pod-name": ["order-1"],
            "authentication.kubernetes.io/pod-uid": ["6f1c4c5e-0000-4000-8000-000000000001"],
        });
        assert_eq!(of(pod).as_deref(), Some("shop/order in order-1"));
        assert_eq!(of(json!({})).as_deref(), Some("shop/order"));
    }

    #[test]
    fn a_review_vouches_for_a_service_account_of_our_audience_only() {
        let user = json!({"username": "system:serviceaccount:shop:order"});
        let ours = json!(["trellis-config"]);
        assert_eq!(
            reviewed(json!({"authenticated": true, "audiences": ours, "user": user})).as_deref(),
            Some("shop/order")
        );
        for status in [
            json!({"authenticated": false, "audiences": ours, "user": user}),
            json!({"audiences": ours, "user": user}),
            json!({"authenticated": true, "audiences": ["https://kubernetes.default.svc"], "user": user}),
            json!({"authenticated": true, "user": user}),
            json!({"authenticated": true, "audiences": ours, "user": {"username": "system:node:a"}}),
            json!({"authenticated": true, "audiences": ours}),
        ] {
            assert_eq!(reviewed(status.clone()), None, "{status}");
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
        let order = Caller {
            account: Key::new("shop", "order"),
            pod: Some("order-1".to_owned()),
        };
        answers.put([1; 32], Some(order.clone()), now);
        answers.put([2; 32], None, now);
        assert_eq!(answers.get(&[1; 32], now + REMEMBERED / 2), Some(Some(order)));
        assert_eq!(answers.get(&[1; 32], now + REMEMBERED), None);
        assert_eq!(answers.get(&[2; 32], now), Some(None));
        assert_eq!(answers.get(&[2; 32], now + REFUSED_REMEMBERED), None);
    }
}
