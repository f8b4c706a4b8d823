//! POSTs to whom sagas name in `onStuck.webhook`: a CloudEvent for each run that cannot go on by itself.
//!
//! ```text
//! stuck --> a task of its own: POST, pause, POST, ... --2xx--> delivered
//!                                                     --an hour--> lost: counted and logged
//! ```
//!
//! **What it guarantees.** At least once, if the receiver takes it within an hour: whoever takes the run over tells again, under the same
//! `id` as long as there are no further causes. No run waits for it. Receivers do not delay each other: each has so many POSTs at once.
//!
//! **Where it goes.** Outside the mesh, directly. Whoever writes a Saga chooses the URL, so it leads neither to this pod, where others
//! listen who trust it, nor to its node's own addresses (loopback, link-local); redirects are not followed, and answers are not read.
//! Payloads are not in it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use futures::future::BoxFuture;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{self, Instant};
use trellis_saga_core::event::{Cause, Time};
use trellis_saga_engine::definitions::Compiled;
use trellis_saga_engine::id::RunId;
use trellis_saga_engine::observe::Observe;
use trellis_saga_engine::participants::op_of;

use crate::metrics;

/// Type of the events.
const STUCK: &str = "dev.trellis.saga.run.stuck";
/// Most that wait, of all receivers.
const MOST: usize = 10_000;
/// POSTs to one receiver at once.
const AT_ONCE: usize = 4;
/// Most causes that an event has: the first, which is the root of the others, and so on.
const MOST_CAUSES: usize = 20;

/// Tells receivers. Clones are the same one.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

/// How it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Longest wait for an answer.
    pub answer: Duration,
    /// First pause, and longest; each is twice the one before.
    pub pause: (Duration, Duration),
    /// No further try after this time.
    pub give_up: Duration,
    /// Whether an address is none to send anything to.
    pub refuses: Refuses,
}

/// Addresses that nothing is sent to.
#[derive(Debug, Clone, Copy)]
pub enum Refuses {
    /// Those of the pod, which has this one, and of the node.
    Own(IpAddr),
    /// None.
    #[cfg(test)]
    Nothing,
}

struct Inner {
    terms: Terms,
    plain: Client<HttpConnector<Resolver>, Full<Bytes>>,
    /// None: this machine has no certificates of authorities.
    tls: Option<Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>>,
    metrics: metrics::Webhooks,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Ids of events.
    events: HashSet<String>,
    /// By URL.
    receivers: HashMap<String, Arc<Semaphore>>,
}

/// What is told.
struct Notice {
    namespace: String,
    saga: String,
    id: String,
    url: String,
    body: Bytes,
}

/// Why it was not told.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} is an address of the engine's pod or node: name another receiver")]
    Own(IpAddr),
    #[error("this machine has no certificates of authorities, so https cannot be spoken")]
    NoTls,
    #[error("failed to make the request")]
    Request(#[from] http::Error),
    #[error("failed to reach the receiver")]
    Unreachable(#[from] hyper_util::client::legacy::Error),
    #[error("the receiver answered {0}")]
    Status(http::StatusCode),
    #[error("the receiver did not answer in time")]
    Late,
}

/// Finds addresses, but not those that are refused.
#[derive(Clone)]
struct Resolver(Refuses);

impl Terms {
    /// Anywhere but to the pod that has this address, and its node.
    pub const fn outside(own: IpAddr) -> Self {
        Self {
            answer: Duration::from_secs(10),
            pause: (Duration::from_secs(1), Duration::from_secs(60)),
            give_up: Duration::from_secs(3600),
            refuses: Refuses::Own(own),
        }
    }
}

impl Refuses {
    fn refuses(self, address: IpAddr) -> bool {
        match self {
            Self::Own(own) => {
                let address = address.to_canonical();
                let is_link_local = match address {
                    IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
                    IpAddr::V6(address) => address.is_unicast_link_local(),
                };
                let is_of_node = address.is_loopback() || address.is_unspecified() || address.is_multicast();
                is_link_local || is_of_node || address == own.to_canonical()
            }
            #[cfg(test)]
            Self::Nothing => false,
        }
    }
}

impl tower::Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let refuses = self.0;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            match found.iter().find(|address| refuses.refuses(address.ip())) {
                Some(refused) => Err(io::Error::other(Error::Own(refused.ip()))),
                None => Ok(found.into_iter()),
            }
        })
    }
}

impl Webhooks {
    /// Tells receivers on these terms.
    pub fn new(terms: Terms, metrics: metrics::Webhooks) -> Self {
        let connector = || {
            let mut connector = HttpConnector::new_with_resolver(Resolver(terms.refuses));
            connector.set_connect_timeout(Some(terms.answer));
            connector.enforce_http(false);
            connector
        };
        let pool = || {
            let mut pool = Client::builder(TokioExecutor::new());
            pool.pool_max_idle_per_host(0);
            pool
        };
        let tls = HttpsConnectorBuilder::new().with_native_roots();
        if let Err(error) = &tls {
            let error: &dyn std::error::Error = error;
            tracing::warn!(
                error,
                "failed to read certificates of authorities: https webhooks are told nothing"
            );
        }
        let tls = tls
            .ok()
            .map(|builder| builder.https_only().enable_http1().wrap_connector(connector()));
        Self(Arc::new(Inner {
            terms,
            plain: pool().build(connector()),
            tls: tls.map(|connector| pool().build(connector)),
            metrics,
            waiting: Mutex::default(),
        }))
    }

    fn tell(&self, notice: Notice) {
        let receiver = {
            let mut waiting = self.waiting();
            if waiting.events.contains(&notice.id) {
                return;
            }
            if waiting.events.len() >= MOST {
                drop(waiting);
                return self.lost(&notice, "too many others wait to be told");
            }
            waiting.events.insert(notice.id.clone());
            if !waiting.receivers.contains_key(&notice.url) {
                waiting
                    .receivers
                    .retain(|_, receiver| Arc::strong_count(receiver) > 1);
            }
            let receiver = waiting.receivers.entry(notice.url.clone());
            Arc::clone(receiver.or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))))
        };
        let this = self.clone();
        tokio::spawn(async move {
            this.deliver(&notice, &receiver).await;
            this.waiting().events.remove(&notice.id);
        });
    }

    /// Tries until it is told, or the time is over.
    async fn deliver(&self, notice: &Notice, receiver: &Semaphore) {
        let Terms { pause, give_up, .. } = self.0.terms;
        let until = Instant::now() + give_up;
        let mut next = pause.0;
        loop {
            let error = {
                // It is never closed.
                let _turn = receiver.acquire().await;
                match self.post(notice).await {
                    Ok(()) => return self.0.metrics.count(&notice.namespace, &notice.saga, "delivered"),
                    Err(error) => error,
                }
            };
            let wait = next.mul_f64(rand::rng().random_range(0.8..=1.0));
            next = (next * 2).min(pause.1);
            if Instant::now() + wait > until {
                return self.lost(notice, &text(&error));
            }
            let Notice {
                namespace, saga, id, ..
            } = notice;
            tracing::debug!(
                namespace,
                saga,
                id,
                error = text(&error),
                "failed to tell of a stuck run; trying again"
            );
            self.0.metrics.count(namespace, saga, "retry");
            time::sleep(wait).await;
        }
    }

    async fn post(&self, notice: &Notice) -> Result<(), Error> {
        let uri: Uri = notice.url.parse().map_err(http::Error::from)?;
        // What is written as an address is not looked up.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if let Ok(address) = host.parse()
            && self.0.terms.refuses.refuses(address)
        {
            return Err(Error::Own(address));
        }
        let is_tls = uri.scheme_str() == Some("https");
        let request = Request::post(uri)
            .header(
                header::CONTENT_TYPE,
                "application/cloudevents+json; charset=utf-8",
            )
            .header(
                header::USER_AGENT,
                concat!("trellis-saga/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(notice.body.clone()))?;
        let ask = async {
            match (&self.0.tls, is_tls) {
                (Some(tls), true) => Ok(tls.request(request).await?),
                (None, true) => Err(Error::NoTls),
                (_, false) => Ok(self.0.plain.request(request).await?),
            }
        };
        let answer = time::timeout(self.0.terms.answer, ask).await;
        let status = answer.map_err(|_| Error::Late)??.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(Error::Status(status))
        }
    }

    fn lost(&self, notice: &Notice, error: &str) {
        let Notice {
            namespace, saga, id, ..
        } = notice;
        tracing::warn!(
            namespace,
            saga,
            id,
            error,
            "failed to tell of a stuck run, and given up"
        );
        self.0.metrics.count(namespace, saga, "lost");
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for Webhooks {
    fn stuck(&self, of: &Compiled, run: RunId, causes: &[Cause]) {
        if let Some(url) = &of.program.definition.on_stuck.webhook {
            let id = id(run, causes);
            self.tell(Notice {
                namespace: of.namespace().to_owned(),
                saga: of.saga().to_owned(),
                body: event(of, run, causes, &id).to_string().into(),
                id,
                url: url.clone(),
            });
        }
    }
}

/// The same for the same causes, whoever tells.
fn id(run: RunId, causes: &[Cause]) -> String {
    format!("{run}-{}", causes.len())
}

/// <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>
fn event(of: &Compiled, run: RunId, causes: &[Cause], id: &str) -> Value {
    let steps = &of.program.definition.steps;
    let told = causes.iter().take(MOST_CAUSES).map(|cause| {
        json!({
            "at": time_of(cause.at),
            "what": cause.what.as_ref(),
            "step": cause.call.and_then(|call| steps.get(call.step as usize)).map(|step| &step.name),
            "index": cause.call.map(|call| call.item),
            "op": cause.call.map(|call| op_of(call.op)),
            "attempts": cause.attempts,
            "detail": &*cause.detail,
        })
    });
    json!({
        "specversion": "1.0", "type": STUCK, "id": id, "subject": run.to_string(),
        "source": format!("/namespaces/{}/sagas/{}", of.namespace(), of.saga()),
        "time": causes.last().map(|cause| time_of(cause.at)),
        "datacontenttype": "application/json",
        "data": {
            "namespace": of.namespace(), "saga": of.saga(), "run": run.to_string(), "revision": of.revision,
            "causes": told.collect::<Vec<_>>(),
            "fix": format!("trellis saga show {run}"),
        },
    })
}

fn time_of(time: Time) -> String {
    let millis = i64::try_from(time.0).unwrap_or_default();
    Timestamp::from_millisecond(millis)
        .unwrap_or_default()
        .to_string()
}

/// An error with what caused it.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
