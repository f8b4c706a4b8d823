//! The gRPC service and its port.
//!
//! Callers prove who they are first; only then they take one of the bounded places.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport};
use trellis_chassis::drain;
use trellis_config_stream::v1::{
    self,
    config_stream_server::{ConfigStream, ConfigStreamServer},
    subscribe_request::Message,
};
use trellis_kube::caller::{self, Authenticator, Caller};
use trellis_saga_api::v1::saga_revisions_server::{SagaRevisions, SagaRevisionsServer};

use super::{
    answers::Answers,
    index::Index,
    places::{Full, Place, Places},
    report,
    session::Session,
};
use crate::{
    error::chain,
    key::Key,
    leader::Authority,
    metrics::{Refusal, Stream},
};

/// Longest wait for a greeting.
const HELLO: Duration = Duration::from_secs(10);
/// Messages that wait for a proxy to read.
const OUTBOUND: usize = 8;
/// Most proxies of one replica.
const MOST_SESSIONS: usize = 20_000;
/// Most proxies of one Microservice on one replica.
const MOST_SESSIONS_OF_ACCOUNT: usize = 2_000;
/// Most replicas that report.
const MOST_REPORTS: usize = 16;
/// Largest message: of a proxy an answer with its faults, of a replica a hundred answers.
const LARGEST_REQUEST: usize = 256 * 1024;
/// Time between looks whether a silent proxy is still there, and longest wait for its answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Answers subscriptions, and takes reports in while this replica leads.
pub struct Server {
    authenticator: Arc<Authenticator>,
    index: Arc<Index>,
    reports: Reports,
    places: Arc<Places>,
    reporters: Arc<Semaphore>,
    metrics: Stream,
    drain: drain::Watch,
}

/// Where what proxies said goes, and who may report it.
pub struct Reports {
    /// What is known.
    pub answers: Arc<Answers>,
    /// The operator's own ServiceAccount.
    pub account: Key,
    /// Whether this replica leads.
    pub authority: Authority,
}

impl Server {
    /// A server of what is in `index`.
    pub fn new(
        authenticator: Arc<Authenticator>,
        index: Arc<Index>,
        reports: Reports,
        metrics: Stream,
        drain: drain::Watch,
    ) -> Self {
        Self {
            authenticator,
            index,
            reports,
            places: Places::new(MOST_SESSIONS, MOST_SESSIONS_OF_ACCOUNT),
            reporters: Arc::new(Semaphore::new(MOST_REPORTS)),
            metrics,
            drain,
        }
    }

    /// Serves until told to stop, beside it what the saga engine asks for; every session is told so too.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self,
        listener: TcpListener,
        revisions: impl SagaRevisions,
    ) -> Result<(), transport::Error> {
        let drain = self.drain.clone();
        let service = ConfigStreamServer::new(self).max_decoding_message_size(LARGEST_REQUEST);
        transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .tcp_nodelay(true)
            .add_service(service)
            .add_service(SagaRevisionsServer::new(revisions).max_decoding_message_size(LARGEST_REQUEST))
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                async move { drain.signaled().await },
            )
            .await
    }

    fn refuse(&self, (reason, status): (Refusal, Status)) -> Status {
        self.metrics.refused(reason);
        tracing::warn!(?reason, message = status.message(), "stream refused");
        status
    }

    async fn admit(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<(v1::Hello, Streaming<v1::SubscribeRequest>, Place), (Refusal, Status)> {
        let caller = self.authenticator.caller(request.metadata()).await;
        let Caller {
            namespace,
            account,
            pod,
            ..
        } = caller.map_err(|error| unknown(&error))?;
        let account = Key::new(namespace, account);
        let place = self.places.take(&account).map_err(|full| {
            let text = match full {
                Full::Replica => "too many streams; connect to another replica".to_owned(),
                Full::Account => {
                    format!("too many streams of ServiceAccount {account}; connect to another replica")
                }
            };
            (Refusal::Full, Status::resource_exhausted(text))
        })?;
        let mut inbound = request.into_inner();
        let hello = time::timeout(HELLO, inbound.message())
            .await
            .ok()
            .and_then(Result::ok)
            .flatten()
            .and_then(|request| match request.message {
                Some(Message::Hello(hello)) => Some(hello),
                _ => None,
            })
            .ok_or_else(|| {
                let status = Status::invalid_argument("the first message must be a greeting");
                (Refusal::NoHello, status)
            })?;
        // The ServiceAccount of a Microservice has its name.
        if account.namespace != hello.namespace || account.name != hello.microservice {
            let text = format!(
                "ServiceAccount {account} may not have the configuration of {}/{}",
                hello.namespace, hello.microservice
            );
            return Err((Refusal::Denied, Status::permission_denied(text)));
        }
        if let Some(pod) = pod
            && pod != hello.pod
        {
            let text = format!(
                "the token is that of pod {pod:?}, which may not speak for {:?}",
                hello.pod
            );
            return Err((Refusal::Denied, Status::permission_denied(text)));
        }
        Ok((hello, inbound, place))
    }

    async fn admit_report(
        &self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Streaming<v1::ReportRequest>, (Refusal, Status)> {
        let caller = self.authenticator.caller(request.metadata()).await;
        let caller = caller.map_err(|error| unknown(&error))?;
        let caller = Key::new(caller.namespace, caller.account);
        let account = &self.reports.account;
        if caller != *account {
            let text = format!("ServiceAccount {caller} may not report; only {account} may");
            return Err((Refusal::Denied, Status::permission_denied(text)));
        }
        if !self.reports.authority.holds() {
            let status = Status::failed_precondition("this replica does not lead");
            return Err((Refusal::NotLeading, status));
        }
        Ok(request.into_inner())
    }
}

/// The refusal of a caller of whom it is not known who it is.
fn unknown(error: &caller::Error) -> (Refusal, Status) {
    let reason = match error {
        caller::Error::Missing { .. } | caller::Error::Refused => Refusal::Unauthenticated,
        caller::Error::Review(_) | caller::Error::Late => {
            tracing::warn!(error = chain(error), "failed to review a token");
            Refusal::Unavailable
        }
    };
    (reason, Status::from(error))
}

// Written out instead of by `async_trait`, which the generated trait's signature otherwise asks for.
impl ConfigStream for Server {
    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;

    fn subscribe<'life, 'future>(
        &'life self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> BoxFuture<'future, Result<Response<Self::SubscribeStream>, Status>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let (hello, inbound, place) = self
                .admit(request)
                .await
                .map_err(|refusal| self.refuse(refusal))?;
            let (outbound, responses) = mpsc::channel(OUTBOUND);
            let session = Session::new(
                hello,
                Arc::clone(&self.index),
                &self.reports.answers,
                outbound,
                self.metrics.clone(),
            );
            let drain = self.drain.clone();
            tokio::spawn(async move {
                session.run(inbound, drain).await;
                drop(place);
            });
            Ok(Response::new(ReceiverStream::new(responses)))
        })
    }

    fn report<'life, 'future>(
        &'life self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> BoxFuture<'future, Result<Response<v1::ReportResponse>, Status>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let mut inbound = self
                .admit_report(request)
                .await
                .map_err(|refusal| self.refuse(refusal))?;
            let _permit = Arc::clone(&self.reporters).try_acquire_owned().map_err(|_| {
                let status = Status::resource_exhausted("too many reports");
                self.refuse((Refusal::Full, status))
            })?;
            let reported = self.reports.answers.reported(MOST_SESSIONS);
            self.metrics.reports.inc();
            tokio::select! {
                () = report::take_in(reported, &mut inbound) => {}
                () = self.drain.signaled() => {}
            }
            self.metrics.reports.dec();
            Ok(Response::new(v1::ReportResponse {}))
        })
    }
}

#[cfg(test)]
mod tests;
