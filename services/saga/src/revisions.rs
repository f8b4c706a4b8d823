//! Revisions from the operator: stored, compiled, acknowledged. And what runs, told to it.
//!
//! Only the operator's leader has them; another replica of it says where that is. Without it the engine goes on with what it has stored.

use std::path::PathBuf;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::time;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{self, Endpoint};
use tonic::{Request, Status};
use trellis_saga_api::v1::saga_revisions_client::SagaRevisionsClient;
use trellis_saga_api::v1::{self, subscribe_request, subscribe_response::Message};
use trellis_saga_api::{AUTHORIZATION, LEADER};
use trellis_saga_core::run::Status as Standing;
use trellis_saga_engine::engine::Engine;
use trellis_saga_engine::store::postgres::Postgres;
use trellis_saga_engine::store::{self, Filter, Revision, Store as _};

use crate::shown;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Time between looks whether a silent operator is still there, and longest wait for its answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Time to the next try, more or less.
const RETRY: Duration = Duration::from_secs(1);
/// Time between reports of what runs.
const REPORT: Duration = Duration::from_secs(10);
/// Messages that wait for the operator to read.
const OUTBOUND: usize = 64;
/// Most runs that a report names of those that are stuck.
const MOST_NAMED: u32 = 10;

/// The stream.
pub struct Revisions {
    /// What stores and uses them.
    pub engine: Engine<Postgres>,
    /// Where the operator is.
    pub operator: String,
    /// File with the token that proves who this is.
    pub token: PathBuf,
    /// Name of this pod.
    pub pod: String,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to read the token {path}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("failed to use the content of {0} as a token")]
    TokenContent(PathBuf),
    #[error("failed to connect to the operator")]
    Connect(#[from] transport::Error),
    #[error("failed to hold the stream")]
    Stream(#[from] Box<Status>),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Revisions {
    /// Holds the stream again and again.
    pub async fn run(self) {
        let mut leader: Option<String> = None;
        loop {
            let address = leader.take().unwrap_or_else(|| self.operator.clone());
            match self.hold(&address).await {
                Ok(()) => tracing::info!(address, "the operator ended the stream"),
                Err(Error::Stream(status)) if status.code() == tonic::Code::FailedPrecondition => {
                    let told = status.metadata().get(LEADER);
                    leader = told.and_then(|told| told.to_str().ok()).map(str::to_owned);
                    if leader.is_some() {
                        continue;
                    }
                }
                Err(error) => warn(&error, &address),
            }
            let pause = RETRY.mul_f64(rand::rng().random_range(0.5..=1.5));
            time::sleep(pause).await;
        }
    }

    async fn hold(&self, address: &str) -> Result<(), Error> {
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
        let hello = v1::Hello {
            pod: self.pod.clone(),
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // There is room for it.
        let _ = outbound.try_send(request(subscribe_request::Message::Hello(hello)));
        let mut subscription = Request::new(ReceiverStream::new(requests));
        subscription.metadata_mut().insert(AUTHORIZATION, authorization);
        let answer = SagaRevisionsClient::new(channel).subscribe(subscription).await;
        let mut inbound = answer.map_err(Box::new)?.into_inner();
        tracing::info!(address, "connected to the operator");
        let mut report = time::interval(REPORT);
        report.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = inbound.message() => match message.map_err(Box::new)? {
                    Some(response) => self.take(response.message).await?,
                    None => return Ok(()),
                },
                _ = report.tick() => self.report(address).await,
            };
            if let Some(message) = message
                && outbound.send(request(message)).await.is_err()
            {
                return Ok(());
            }
        }
    }

    /// What runs, if it is this replica that counts for all.
    async fn report(&self, address: &str) -> Option<subscribe_request::Message> {
        if !self.engine.is_first() {
            return None;
        }
        match self.runs().await {
            Ok(runs) => Some(subscribe_request::Message::Runs(runs)),
            Err(error) => {
                warn(&error, address);
                None
            }
        }
    }

    async fn authorization(&self) -> Result<MetadataValue<Ascii>, Error> {
        // Read each time: the kubelet renews it.
        let token = tokio::fs::read_to_string(&self.token).await;
        let token = token.map_err(|source| Error::Token {
            path: self.token.clone(),
            source,
        })?;
        let token = format!("Bearer {}", token.trim());
        token.parse().map_err(|_| Error::TokenContent(self.token.clone()))
    }

    async fn take(&self, message: Option<Message>) -> Result<Option<subscribe_request::Message>, Error> {
        Ok(match message {
            Some(Message::Revision(revision)) => Some(self.revision(revision).await?),
            Some(Message::Withdrawn(v1::Withdrawn { namespace, saga })) => {
                self.withdraw(&namespace, &saga).await?;
                Some(answer(namespace, saga, String::new(), String::new()))
            }
            Some(Message::Existing(v1::Existing { sagas })) => {
                for (_, revision) in self.engine.store().revisions().await? {
                    let is_there = sagas
                        .iter()
                        .any(|name| name.namespace == revision.namespace && name.saga == revision.saga);
                    if revision.is_current && !is_there {
                        self.withdraw(&revision.namespace, &revision.saga).await?;
                    }
                }
                None
            }
            None => None,
        })
    }

    /// Stores a revision and makes new runs of it.
    async fn revision(&self, handed: v1::Revision) -> Result<subscribe_request::Message, Error> {
        let v1::Revision {
            namespace,
            saga,
            revision,
            definition,
        } = handed;
        let revision = Revision {
            namespace,
            saga,
            revision,
            definition,
            is_current: true,
        };
        let fault = match trellis_saga_engine::definitions::check(&revision) {
            Ok(()) => {
                let id = self.engine.store().put_revision(&revision).await?;
                self.engine.definitions().put(id, &revision).err()
            }
            Err(error) => Some(error),
        };
        let fault = fault.map(|fault| fault.to_string()).unwrap_or_default();
        let Revision {
            namespace,
            saga,
            revision,
            ..
        } = revision;
        tracing::info!(namespace, saga, revision, fault, "revision handed over");
        Ok(answer(namespace, saga, revision, fault))
    }

    /// Makes no new runs of a saga. Those that are there go on.
    async fn withdraw(&self, namespace: &str, saga: &str) -> Result<(), Error> {
        for (id, mut revision) in self.engine.store().revisions().await? {
            if revision.namespace == namespace && revision.saga == saga && revision.is_current {
                revision.is_current = false;
                self.engine.store().put_revision(&revision).await?;
                // It was compiled before.
                let _ = self.engine.definitions().put(id, &revision);
                tracing::info!(namespace, saga, "saga withdrawn");
            }
        }
        Ok(())
    }

    /// What runs.
    async fn runs(&self) -> Result<v1::RunCounts, Error> {
        let mut revisions: Vec<v1::RunsOfRevision> = Vec::new();
        for count in self.engine.store().counts().await? {
            let is_of = |of: &&mut v1::RunsOfRevision| {
                of.namespace == count.namespace && of.saga == count.saga && of.revision == count.revision
            };
            if revisions.iter_mut().find(is_of).is_none() {
                revisions.push(v1::RunsOfRevision {
                    namespace: count.namespace.clone(),
                    saga: count.saga.clone(),
                    revision: count.revision.clone(),
                    ..v1::RunsOfRevision::default()
                });
            }
            let Some(of) = revisions.iter_mut().find(is_of) else {
                continue;
            };
            match count.status {
                Standing::Running => of.running = count.count,
                Standing::Compensating => of.compensating = count.count,
                Standing::Stuck => of.stuck = count.count,
                Standing::Completed => of.completed = count.count,
                Standing::Compensated => of.compensated = count.count,
            }
        }
        for of in revisions.iter_mut().filter(|of| of.stuck > 0) {
            let filter = Filter {
                namespace: Some(of.namespace.clone()),
                saga: Some(of.saga.clone()),
                statuses: vec![Standing::Stuck],
                before: None,
                limit: MOST_NAMED,
            };
            let stuck = self.engine.store().list(&filter).await?;
            for named in stuck.iter().filter(|run| run.revision == of.revision) {
                let run = named.run.to_string();
                // One that cannot be read is named all the same.
                let view = self.engine.view(named.run).await.ok().flatten();
                let cause = view.as_ref().map(shown::why_stuck).unwrap_or_default();
                of.stuck_runs.push(run.clone());
                of.stuck_causes.push(v1::StuckRun { run, cause });
            }
        }
        Ok(v1::RunCounts { revisions })
    }
}

fn request(message: subscribe_request::Message) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        message: Some(message),
    }
}

fn answer(namespace: String, saga: String, revision: String, fault: String) -> subscribe_request::Message {
    subscribe_request::Message::Answer(v1::Answer {
        namespace,
        saga,
        revision,
        fault,
    })
}

fn warn(error: &Error, address: &str) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(address, error, "failed to hold the stream of revisions");
}
