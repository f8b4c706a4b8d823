//! One proxy's stream, from its greeting to its end.
//!
//! First the document, if the proxy lacks it, then the endpoints of every cluster of it, then whatever changes. A session
//! ends when the proxy goes, does not read for [`SEND`], or after [`AGE`]: a new one proves its token anew and spreads
//! the proxies over replicas that came later.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::SelectAll};
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};
use trellis_chassis::drain;
use trellis_config_stream::v1::{self, subscribe_request::Message};
use trellis_proxy_config::{ClusterName, Endpoints};

use super::{
    answers::{Answers, Connected},
    document::{Known, Published},
    endpoints,
    index::Index,
};
use crate::{
    key::Key,
    metrics::{Answer, Sent, Stream},
};

/// Longest wait for a proxy to read.
const SEND: Duration = Duration::from_secs(30);
/// Shortest age at which a session is ended; the longest is a half more.
const AGE: Duration = Duration::from_secs(30 * 60);
/// Longest text of a fault that is logged.
const LONGEST_FAULT: usize = 500;

/// Where answers of the operator go.
pub type Outbound = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// A proxy that has proved who it is.
pub struct Session {
    key: Key,
    pod: String,
    known: Known,
    said: Connected,
    index: Arc<Index>,
    outbound: Outbound,
    metrics: Stream,
    clusters: Clusters,
}

/// The clusters of the document, each with its changes and what was sent last.
#[derive(Default)]
struct Clusters {
    names: Vec<ClusterName>,
    changes: SelectAll<futures::stream::BoxStream<'static, (ClusterName, Arc<Endpoints>)>>,
    sent: HashMap<ClusterName, Arc<Endpoints>>,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
enum End {
    Gone,
    NotReading,
    Age,
    Draining,
    Confused,
}

impl Session {
    /// A session with the proxy of this greeting.
    pub fn new(
        hello: v1::Hello,
        index: Arc<Index>,
        answers: &Arc<Answers>,
        outbound: Outbound,
        metrics: Stream,
    ) -> Self {
        let key = Key::new(hello.namespace, hello.microservice);
        Self {
            said: answers.connected(key.clone(), &hello.pod, &hello.document_digest),
            key,
            pod: hello.pod,
            known: Known {
                version: hello.document_version,
                digest: hello.document_digest,
            },
            index,
            outbound,
            metrics,
            clusters: Clusters::default(),
        }
    }

    /// Serves the proxy until the session ends.
    pub async fn run(mut self, inbound: Streaming<v1::SubscribeRequest>, drain: drain::Watch) {
        tracing::info!(microservice = %self.key, pod = self.pod, version = self.known.version, "proxy connected");
        self.metrics.connected.inc();
        let end = self.serve(inbound, drain).await;
        self.metrics.connected.dec();
        let reason: &'static str = end.into();
        tracing::info!(microservice = %self.key, pod = self.pod, reason, "proxy disconnected");
        let status = match end {
            End::Draining => Some(Status::unavailable("this replica ends; connect to another")),
            End::Confused => Some(Status::invalid_argument("a second greeting")),
            End::Gone | End::NotReading | End::Age => None,
        };
        if let Some(status) = status {
            // If the proxy does not read, it does not miss it.
            let _ = self.outbound.try_send(Err(status));
        }
        let Self {
            key, index, clusters, ..
        } = self;
        let Clusters { names, changes, .. } = clusters;
        drop(changes);
        index.release(&key, &names);
    }

    async fn serve(&mut self, mut inbound: Streaming<v1::SubscribeRequest>, drain: drain::Watch) -> End {
        let mut document = self.index.document(&self.key);
        let mut age = std::pin::pin!(time::sleep(AGE.mul_f64(1.0 + rand::random::<f64>() / 2.0)));
        document.mark_changed();
        loop {
            let ended = tokio::select! {
                // In this order: a document comes before the endpoints of its clusters.
                biased;
                () = drain.signaled() => Err(End::Draining),
                () = &mut age => Err(End::Age),
                request = inbound.message() => self.answered(request),
                changed = document.changed() => match changed {
                    Ok(()) => {
                        let published = document.borrow_and_update().clone();
                        self.publish(published).await
                    }
                    Err(_) => Err(End::Draining),
                },
                Some((cluster, endpoints)) = self.clusters.changes.next() => {
                    self.send_endpoints(cluster, endpoints).await
                }
            };
            if let Err(end) = ended {
                return end;
            }
        }
    }

    /// Sends a document that the proxy lacks and turns to its clusters.
    async fn publish(&mut self, published: Option<Arc<Published>>) -> Result<(), End> {
        let Some(published) = published else {
            return Ok(());
        };
        if self.known.lacks(&published) {
            self.send(published.message(), Sent::Document).await?;
            self.known.sent(&published);
        }
        // A replica whose watch lags may know an older document than the proxy: better its clusters than none, but never
        // back from newer ones.
        if published.version >= self.known.version || self.clusters.names.is_empty() {
            self.clusters.turn_to(&published.clusters, &self.index);
        }
        Ok(())
    }

    async fn send_endpoints(&mut self, cluster: ClusterName, endpoints: Arc<Endpoints>) -> Result<(), End> {
        if !self.clusters.is_news(&cluster, &endpoints) {
            return Ok(());
        }
        self.send(endpoints::message(&cluster, &endpoints), Sent::Endpoints)
            .await?;
        self.clusters.sent.insert(cluster, endpoints);
        Ok(())
    }

    async fn send(&mut self, message: v1::SubscribeResponse, what: Sent) -> Result<(), End> {
        match time::timeout(SEND, self.outbound.send(Ok(message))).await {
            Ok(Ok(())) => {
                self.metrics.sent(what);
                Ok(())
            }
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::NotReading),
        }
    }

    /// Takes in what the proxy said.
    fn answered(&mut self, request: Result<Option<v1::SubscribeRequest>, Status>) -> Result<(), End> {
        let request = request.ok().flatten().ok_or(End::Gone)?;
        match request.message {
            Some(Message::Ack(ack)) => {
                self.metrics.answered(Answer::Ack);
                self.said.acknowledged(ack.version, &ack.digest);
                tracing::debug!(microservice = %self.key, pod = self.pod, version = ack.version, "document in use");
            }
            Some(Message::Nack(nack)) => {
                self.metrics.answered(Answer::Nack);
                let first = nack.faults.first().map_or("", String::as_str);
                self.said.refused(nack.version, &nack.digest, first);
                let faults: String = nack.faults.join("; ").chars().take(LONGEST_FAULT).collect();
                tracing::warn!(
                    microservice = %self.key, pod = self.pod, version = nack.version, faults,
                    "document refused by a proxy"
                );
            }
            Some(Message::Hello(_)) => return Err(End::Confused),
            // A newer proxy says something that this release does not know.
            None => {}
        }
        Ok(())
    }
}

impl Clusters {
    /// Follows exactly these clusters. What was sent of those that stay is remembered.
    fn turn_to(&mut self, names: &[ClusterName], index: &Index) {
        if self.names == names {
            return;
        }
        self.names = names.to_vec();
        self.sent.retain(|cluster, _| names.contains(cluster));
        self.changes = names
            .iter()
            .map(|cluster| {
                let cluster = cluster.clone();
                // Starts with the value of now.
                WatchStream::new(index.endpoints(&cluster))
                    .map(move |endpoints| (cluster.clone(), endpoints))
                    .boxed()
            })
            .collect();
    }

    fn is_news(&self, cluster: &ClusterName, endpoints: &Arc<Endpoints>) -> bool {
        self.sent.get(cluster) != Some(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures::FutureExt;

    use super::*;

    fn endpoints(addresses: &[&str]) -> Arc<Endpoints> {
        let addresses = addresses
            .iter()
            .map(|address| address.parse::<SocketAddr>().unwrap());
        Arc::new(addresses.collect())
    }

    #[test]
    fn a_cluster_starts_with_what_is_known_and_one_that_stays_is_not_sent_again() {
        let index = Index::default();
        let (user, product): (ClusterName, ClusterName) = (
            "shop/user/http".parse().unwrap(),
            "shop/product/http".parse().unwrap(),
        );
        let mut clusters = Clusters::default();
        clusters.turn_to(std::slice::from_ref(&user), &index);
        let (cluster, now) = clusters.changes.next().now_or_never().flatten().unwrap();
        assert_eq!(cluster, user);
        assert!(clusters.is_news(&user, &now), "an empty set is told once");
        clusters.sent.insert(user.clone(), now);

        clusters.turn_to(&[user.clone(), product.clone()], &index);
        let mut news = Vec::new();
        while let Some(Some((cluster, now))) = clusters.changes.next().now_or_never() {
            if clusters.is_news(&cluster, &now) {
                news.push(cluster);
            }
        }
        assert_eq!(news, [product]);
        assert!(clusters.is_news(&user, &endpoints(&["10.0.0.1:1"])));
    }
}
