//! A replica that does not lead tells the leader what its proxies said.
//!
//! ```text
//! standby: Answers --start_report, Report--------> batches --(one client stream)--> leader: Reported --> Answers
//! ```
//!
//! Where the leader is stands in its Lease (`leader`). The stream starts with every proxy that is connected here, so the
//! leader keeps nothing of a stream before; while it is away nothing is lost, because the next one starts anew.
//!
//! The leader takes reports from the operator's own ServiceAccount only (`server`). Caveat: like the proxies' stream it
//! is not encrypted.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{self, Endpoint},
};
use trellis_chassis::drain;
use trellis_config_stream::{
    AUTHORIZATION,
    v1::{self, config_stream_client::ConfigStreamClient},
};
use trellis_operator_desired::microservice::Answer;

use super::answers::{Answers, ProxyKey, Reported, in_use, proxy_key, refused};
use crate::error::chain;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Time between looks whether a silent leader is still there, and longest wait for its answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Time to the next try.
const RETRY: Duration = Duration::from_secs(2);
/// Changes of this long go together.
const BATCH: Duration = Duration::from_millis(200);
/// Proxies in a message: with the longest texts it is well below what the leader takes.
const PROXIES: usize = 100;
/// Messages that wait for the leader to read.
const OUTBOUND: usize = 4;

/// Tells the leader.
pub struct Reporter {
    /// What proxies said to this replica.
    pub answers: Arc<Answers>,
    /// Where the leader is; None while it is not known, or is this replica.
    pub leader: watch::Receiver<Option<String>>,
    /// File with the token that proves who this is.
    pub token: PathBuf,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to read the token {path}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("failed to use the content of {0} as a token")]
    TokenContent(PathBuf),
    #[error("failed to connect to the leader")]
    Connect(#[from] transport::Error),
    #[error("failed to hold the report")]
    Stream(#[from] Box<Status>),
}

impl Reporter {
    /// Reports to whoever leads until told to stop.
    pub async fn run(self, drain: drain::Watch) {
        let mut leader = self.leader.clone();
        loop {
            let address = leader.borrow_and_update().clone();
            tokio::select! {
                () = self.report(address.as_deref()) => {}
                changed = leader.changed() => if changed.is_err() { return },
                () = drain.signaled() => return,
            }
        }
    }

    /// Reports to the leader at this address again and again; never ends by itself.
    async fn report(&self, address: Option<&str>) {
        let Some(address) = address else {
            return std::future::pending().await;
        };
        loop {
            match self.hold(address).await {
                Ok(()) => tracing::debug!(address, "the leader ended the report"),
                Err(error) => {
                    tracing::warn!(address, error = chain(&error), "failed to report to the leader");
                }
            }
            time::sleep(RETRY).await;
        }
    }

    async fn hold(&self, address: &str) -> Result<(), Error> {
        // Read each time: the kubelet renews it.
        let authorization = self.authorization().await?;
        let channel = Endpoint::from_shared(address.to_owned())?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true)
            .connect()
            .await?;
        let (outbound, requests) = mpsc::channel(OUTBOUND);
        let mut request = Request::new(ReceiverStream::new(requests));
        request.metadata_mut().insert(AUTHORIZATION, authorization);
        let mut client = ConfigStreamClient::new(channel);
        tokio::select! {
            answer = client.report(request) => answer.map(|_| ()).map_err(|status| Box::new(status).into()),
            () = tell(&self.answers, &outbound) => Ok(()),
        }
    }

    async fn authorization(&self) -> Result<MetadataValue<Ascii>, Error> {
        let token = tokio::fs::read_to_string(&self.token)
            .await
            .map_err(|source| Error::Token {
                path: self.token.clone(),
                source,
            })?;
        format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Error::TokenContent(self.token.clone()))
    }
}

/// Sends everything, then what changes, until nobody takes it any more.
async fn tell(answers: &Answers, outbound: &mpsc::Sender<v1::ReportRequest>) {
    let (report, start) = answers.start_report();
    tracing::info!(proxies = start.len(), "reporting to the leader");
    let mut news: Vec<(ProxyKey, Option<Answer>)> = start
        .into_iter()
        .map(|(proxy, answer)| (proxy, Some(answer)))
        .collect();
    loop {
        while !news.is_empty() {
            let rest = news.split_off(news.len().min(PROXIES));
            let proxies = std::mem::replace(&mut news, rest);
            let proxies = proxies.into_iter().map(message).collect();
            if outbound.send(v1::ReportRequest { proxies }).await.is_err() {
                return;
            }
        }
        news = report.unreported(BATCH).await;
    }
}

fn message(((key, pod), answer): (ProxyKey, Option<Answer>)) -> v1::ProxyState {
    let connected = answer.is_some();
    let answer = answer.unwrap_or_default();
    v1::ProxyState {
        namespace: key.namespace,
        microservice: key.name,
        pod,
        connected,
        digest: answer.in_use,
        refused: answer.refused.map(|refused| v1::Nack {
            version: refused.version,
            digest: refused.digest,
            faults: vec![refused.fault],
        }),
    }
}

/// Takes in a report until it ends.
pub async fn take_in(mut reported: Reported, inbound: &mut Streaming<v1::ReportRequest>) {
    while let Ok(Some(request)) = inbound.message().await {
        for state in request.proxies {
            let Some(proxy) = proxy_key(state.namespace, state.microservice, state.pod) else {
                continue;
            };
            let answer = state.connected.then(|| Answer {
                in_use: in_use(&state.digest),
                refused: state.refused.map(|nack| {
                    let fault = nack.faults.first().map_or("", String::as_str);
                    refused(nack.version, &nack.digest, fault)
                }),
            });
            if !reported.told(proxy, answer) {
                tracing::warn!("a report tells of too many proxies; the rest is ignored");
            }
        }
    }
}
