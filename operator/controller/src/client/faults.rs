//! Faults on demand, to test what a crash or a lost answer leaves behind. Compiled only with the feature `faults`.
//!
//! ```text
//! TRELLIS_FAULTS=abort-after:3@shop        the third write to namespace `shop` is the last thing that this process does
//!
//!                    request N        N committed       its error arrives      write N+1 committed
//!                        |                 |                    |                       |
//! abort-before ---------- X                |                    |                       |
//! abort-after ---------------------------- X                    |                       |
//! lose-answer ----------------------------------- (answer lost) | goes on ..............|.......>
//! lose-answer-then-abort ------------------------ (answer lost) | goes on ............. X
//! ```
//!
//! A write is a request of any method but GET whose path lies in the namespace; refused ones count as well. What does not
//! count: Leases, which follow a clock, and Events, which another task writes at moments of its own: the number of a write
//! would not be the same in two runs. Reviews of tokens are in no namespace.
//!
//! The process dies by `abort`: no destructor runs and nothing is given back, as if it were killed.

use std::{
    env::{self, VarError},
    pin::Pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use http::{Method, Request, Response};
use kube::client::Body;
use strum::EnumString;
use tower::{BoxError, Layer, Service};

/// Environment variable with the [`Plan`].
const VARIABLE: &str = "TRELLIS_FAULTS";
/// API groups whose writes do not count.
const UNCOUNTED: [&str; 2] = ["/apis/coordination.k8s.io/", "/apis/events.k8s.io/"];

/// The plan cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {VARIABLE}: write FAULT:NUMBER@NAMESPACE, for example abort-after:3@shop")]
pub struct Error;

/// What goes wrong, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    fault: Fault,
    /// Counted from 1.
    write: u32,
    namespace: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "kebab-case")]
enum Fault {
    AbortBefore,
    AbortAfter,
    LoseAnswer,
    LoseAnswerThenAbort,
}

/// What happens to one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    AbortBefore,
    AbortAfter,
    LoseAnswer,
}

/// The layer.
#[derive(Debug, Clone)]
pub struct Faults(Option<Plan>);

/// The service of the layer.
#[derive(Debug, Clone)]
pub struct Faulty<S> {
    inner: S,
    plan: Option<Plan>,
    writes: Arc<AtomicU32>,
}

impl Faults {
    /// What the environment asks for; without the variable nothing goes wrong.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn from_environment() -> Result<Self, Error> {
        match env::var(VARIABLE) {
            Ok(text) => text.parse().map(|plan| Self(Some(plan))),
            Err(VarError::NotPresent) => Ok(Self(None)),
            Err(VarError::NotUnicode(_)) => Err(Error),
        }
    }
}

impl FromStr for Plan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (fault, rest) = text.split_once(':').ok_or(Error)?;
        let (write, namespace) = rest.split_once('@').ok_or(Error)?;
        let plan = Self {
            fault: fault.parse().map_err(|_| Error)?,
            write: write.parse().map_err(|_| Error)?,
            namespace: namespace.to_owned(),
        };
        (plan.write > 0 && !namespace.is_empty())
            .then_some(plan)
            .ok_or(Error)
    }
}

impl Plan {
    fn counts(&self, request: &Request<Body>) -> bool {
        let path = request.uri().path();
        request.method() != Method::GET
            && !UNCOUNTED.iter().any(|group| path.starts_with(group))
            && path.contains(&format!("/namespaces/{}/", self.namespace))
    }

    /// What happens to the write of this number.
    fn effect(&self, number: u32) -> Option<Effect> {
        let (this, next) = (number == self.write, number == self.write.saturating_add(1));
        match self.fault {
            Fault::AbortBefore => this.then_some(Effect::AbortBefore),
            Fault::AbortAfter => this.then_some(Effect::AbortAfter),
            Fault::LoseAnswer | Fault::LoseAnswerThenAbort if this => Some(Effect::LoseAnswer),
            Fault::LoseAnswer => None,
            Fault::LoseAnswerThenAbort => next.then_some(Effect::AbortAfter),
        }
    }
}

impl<S> Layer<S> for Faults {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty {
            inner,
            plan: self.0.clone(),
            writes: Arc::default(),
        }
    }
}

impl<S, B> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let effect = self
            .plan
            .as_ref()
            .filter(|plan| plan.counts(&request))
            .and_then(|plan| {
                let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::info!(number, method = %request.method(), path = request.uri().path(), "a write that counts");
                plan.effect(number)
            });
        if effect == Some(Effect::AbortBefore) {
            std::process::abort();
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            match effect {
                None | Some(Effect::AbortBefore) => answer,
                Some(Effect::AbortAfter) => std::process::abort(),
                Some(Effect::LoseAnswer) => Err("the answer was lost on purpose".into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        text.parse().unwrap()
    }

    #[test]
    fn a_plan_is_a_fault_a_number_and_a_namespace() {
        assert_eq!(
            plan("lose-answer-then-abort:12@shop"),
            Plan {
                fault: Fault::LoseAnswerThenAbort,
                write: 12,
                namespace: "shop".to_owned(),
            }
        );
        for text in [
            "",
            "abort-after",
            "abort-after:1",
            "abort-after:0@shop",
            "abort-after:1@",
            "burn:1@shop",
        ] {
            assert_eq!(text.parse::<Plan>(), Err(Error), "{text}");
        }
    }

    #[test]
    fn only_writes_to_the_namespace_count() {
        let counts = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).body(Body::empty());
            plan("abort-after:1@shop").counts(&request.unwrap())
        };
        assert!(counts("PATCH", "/apis/apps/v1/namespaces/shop/deployments/user"));
        assert!(counts("DELETE", "/api/v1/namespaces/shop/services/user"));
        for (method, path) in [
            ("GET", "/api/v1/namespaces/shop/services/user"),
            ("PATCH", "/api/v1/namespaces/shop-2/services/user"),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/shop/leases/trellis-operator",
            ),
            ("POST", "/apis/events.k8s.io/v1/namespaces/shop/events"),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ] {
            assert!(!counts(method, path), "{method} {path}");
        }
    }

    #[test]
    fn a_lost_answer_is_followed_by_the_death_that_was_asked_for() {
        let effects = |text: &str| [1, 2, 3].map(|number| plan(text).effect(number));
        let (lose, abort) = (Some(Effect::LoseAnswer), Some(Effect::AbortAfter));
        assert_eq!(effects("lose-answer:2@shop"), [None, lose, None]);
        assert_eq!(effects("lose-answer-then-abort:2@shop"), [None, lose, abort]);
        assert_eq!(effects("abort-after:2@shop"), [None, abort, None]);
        assert_eq!(
            effects("abort-before:2@shop"),
            [None, Some(Effect::AbortBefore), None]
        );
    }

    #[tokio::test]
    async fn a_write_whose_answer_is_lost_has_reached_the_api_server() {
        let reached = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&reached);
        let inner = tower::service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, BoxError>(Response::new(())))
        });
        let mut service = Faults(Some(plan("lose-answer:2@shop"))).layer(inner);
        let mut write = async || {
            let request = Request::patch("/api/v1/namespaces/shop/services/user").body(Body::empty());
            service.call(request.unwrap()).await.is_ok()
        };
        assert_eq!([write().await, write().await, write().await], [true, false, true]);
        assert_eq!(reached.load(Ordering::Relaxed), 3);
    }
}
