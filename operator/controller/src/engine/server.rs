//! The stream to replicas of the engine.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kube::Resource as _;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trellis_chassis::drain;
use trellis_kube::caller::{Authenticator, Caller};
use trellis_saga_api::{
    LEADER,
    v1::{self, saga_revisions_server::SagaRevisions, subscribe_request::Message},
};

use super::{Connected, Engine};
use crate::{cache::Cache, key::Key, leader::Authority, observed::Observed};

/// Longest wait for a greeting.
const HELLO: Duration = Duration::from_secs(10);
/// Longest wait for a replica to read.
const SEND: Duration = Duration::from_secs(30);
/// Messages that wait for a replica to read.
const OUTBOUND: usize = 16;
/// Most replicas.
const MOST: usize = 64;

/// Answers replicas of the engine, while this replica leads.
pub struct Server {
    /// Who calls.
    pub authenticator: Arc<Authenticator>,
    /// What is handed over.
    pub engine: Arc<Engine>,
    /// All sagas.
    pub sagas: Arc<Cache<Observed<trellis_api::Saga>>>,
    /// The engine's ServiceAccount, which has the name of its Microservice.
    pub account: Key,
    /// Whether this replica leads.
    pub authority: Authority,
    /// Where the one is that does.
    pub leader: watch::Receiver<Option<String>>,
    /// How many more may connect.
    pub places: Arc<Semaphore>,
    /// Ends streams.
    pub drain: drain::Watch,
}

impl Server {
    /// Places for as many replicas as there may be.
    pub fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MOST))
    }

    async fn admit(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<(Connected, Streaming<v1::SubscribeRequest>), Status> {
        let caller = self.authenticator.caller(request.metadata()).await;
        let Caller {
            namespace,
            account,
            pod,
            ..
        } = caller.map_err(|error| Status::from(&error))?;
        let account = Key::new(namespace, account);
        if account != self.account {
            let text = format!(
                "ServiceAccount {account} is not the saga engine's, {}",
                self.account
            );
            return Err(Status::permission_denied(text));
        }
        if !self.authority.holds() {
            let mut status = Status::failed_precondition("this replica does not lead");
            let leader = self
                .leader
                .borrow()
                .as_ref()
                .and_then(|leader| leader.parse().ok());
            if let Some(leader) = leader {
                status.metadata_mut().insert(LEADER, leader);
            }
            return Err(status);
        }
        let mut inbound = request.into_inner();
        let hello = time::timeout(HELLO, inbound.message()).await;
        let hello = hello.ok().and_then(Result::ok).flatten();
        let Some(Message::Hello(hello)) = hello.and_then(|hello| hello.message) else {
            return Err(Status::invalid_argument("the first message must be a greeting"));
        };
        if let Some(pod) = pod
            && pod != hello.pod
        {
            let text = format!(
                "the token is that of pod {pod:?}, which may not speak for {:?}",
                hello.pod
            );
            return Err(Status::permission_denied(text));
        }
        tracing::info!(
            pod = hello.pod,
            version = hello.engine_version,
            "saga engine connected"
        );
        Ok((self.engine.connected(&hello.pod), inbound))
    }

    fn existing(&self) -> v1::SubscribeResponse {
        let sagas = self.sagas.all();
        let there = sagas
            .iter()
            .filter(|saga| saga.meta().deletion_timestamp.is_none());
        let names = there.map(|saga| {
            let key = Key::of(&**saga);
            v1::Name {
                namespace: key.namespace,
                saga: key.name,
            }
        });
        let existing = v1::Existing {
            sagas: names.collect(),
        };
        v1::SubscribeResponse {
            message: Some(v1::subscribe_response::Message::Existing(existing)),
        }
    }
}

type Outbound = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// Sends what is handed over, and takes in what is said, until either goes.
async fn serve(
    connected: Connected,
    mut inbound: Streaming<v1::SubscribeRequest>,
    outbound: Outbound,
    existing: v1::SubscribeResponse,
    drain: drain::Watch,
) {
    let mut handed = connected.engine.handed.subscribe();
    handed.mark_changed();
    let mut sent = BTreeMap::new();
    if outbound.send(Ok(existing)).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            changed = handed.changed() => {
                if changed.is_err() {
                    return;
                }
                for message in connected.engine.news(&mut sent) {
                    let sending = time::timeout(SEND, outbound.send(Ok(message))).await;
                    if !matches!(sending, Ok(Ok(()))) {
                        return;
                    }
                }
            }
            request = inbound.message() => match request {
                Ok(Some(v1::SubscribeRequest { message })) => match message {
                    Some(Message::Answer(answer)) => connected.answered(answer),
                    Some(Message::Runs(runs)) => connected.runs(runs),
                    Some(Message::Hello(_)) | None => {}
                },
                Ok(None) | Err(_) => return,
            },
            () = drain.signaled() => {
                // If the replica does not read, it does not miss it.
                let _ = outbound.try_send(Err(Status::unavailable("this replica ends; connect to another")));
                return;
            }
        }
    }
}

// Written out instead of by `async_trait`, which the generated trait's signature otherwise asks for.
impl SagaRevisions for Server {
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
            let permit = Arc::clone(&self.places)
                .try_acquire_owned()
                .map_err(|_| Status::resource_exhausted("too many replicas of the engine"))?;
            let (connected, inbound) = self
                .admit(request)
                .await
                .inspect_err(|status| tracing::warn!(message = status.message(), "engine refused"))?;
            let (outbound, responses) = mpsc::channel(OUTBOUND);
            let (existing, drain) = (self.existing(), self.drain.clone());
            tokio::spawn(async move {
                serve(connected, inbound, outbound, existing, drain).await;
                drop(permit);
            });
            Ok(Response::new(ReceiverStream::new(responses)))
        })
    }
}
