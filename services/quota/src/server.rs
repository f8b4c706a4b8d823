//! The gRPC service and its port.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming, transport};
use trellis_chassis::drain;
use trellis_kube::caller::{Authenticator, Caller};
use trellis_quota_stream::v1::{
    self,
    lease_request::Message,
    quota_authority_server::{QuotaAuthority, QuotaAuthorityServer},
};
use trellis_quota_stream::{LEADER, clock, wire};
use trellis_rate::lease::Incarnation;

use crate::book::Book;
use crate::session::Session;

/// Longest wait for a greeting.
const HELLO: Duration = Duration::from_secs(10);
/// Messages that wait for a proxy to read.
const OUTBOUND: usize = 64;
/// Most streams.
const MOST_STREAMS: usize = 20_000;
/// Largest message.
const LARGEST_REQUEST: usize = 1024 * 1024;
/// Time between looks whether a silent proxy is still there, and longest wait for its answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Grants leases while this replica holds the claim.
pub struct Server {
    /// Finds out who calls.
    pub authenticator: Authenticator,
    /// What is leased.
    pub book: Arc<Mutex<Book>>,
    /// Where the replica is that grants, if that is another.
    pub leader: watch::Receiver<Option<String>>,
    /// When to end.
    pub drain: drain::Watch,
}

impl Server {
    /// Serves until told to stop; every stream ends then.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(self, listener: TcpListener) -> Result<(), transport::Error> {
        let drain = self.drain.clone();
        let service = Service {
            server: self,
            places: Arc::new(Semaphore::new(MOST_STREAMS)),
        };
        let service = QuotaAuthorityServer::new(service).max_decoding_message_size(LARGEST_REQUEST);
        transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .tcp_nodelay(true)
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                drain.signaled().await;
            })
            .await
    }
}

struct Service {
    server: Server,
    places: Arc<Semaphore>,
}

impl Service {
    async fn admit(
        &self,
        request: Request<Streaming<v1::LeaseRequest>>,
    ) -> Result<(Session, Streaming<v1::LeaseRequest>), Status> {
        let Server {
            authenticator,
            book,
            leader,
            ..
        } = &self.server;
        let caller = authenticator
            .caller(request.metadata())
            .await
            .map_err(|error| Status::from(&error))?;
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many streams; try again"))?;
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
            .ok_or_else(|| Status::invalid_argument("the first message must be a greeting"))?;
        let uid = vouched(&caller, &hello)?;
        let pod = wire::pod(uid);
        let owner = (hello.namespace, hello.microservice);
        let (claim, is_known) = {
            let mut book = book.lock();
            (book.holds(clock::now()), book.roster().has(pod, &owner))
        };
        let Some(claim) = claim else {
            return Err(not_leading(leader.borrow().as_deref()));
        };
        if !is_known {
            return Err(Status::unavailable(
                "the pod is not known yet, or any more; try again",
            ));
        }
        let session = Session {
            pod,
            owner,
            incarnation: Incarnation(hello.incarnation),
            epoch: claim.epoch,
            book: Arc::clone(book),
            _place: place,
        };
        Ok((session, inbound))
    }
}

/// The UID of the caller's pod, if it is the one that it says.
fn vouched<'a>(caller: &'a Caller, hello: &v1::Hello) -> Result<&'a str, Status> {
    // The ServiceAccount of a Microservice has its name.
    if caller.namespace != hello.namespace || caller.account != hello.microservice {
        let text = format!(
            "ServiceAccount {}/{} may not lease what is {}/{}'s",
            caller.namespace, caller.account, hello.namespace, hello.microservice
        );
        return Err(Status::permission_denied(text));
    }
    match (&caller.pod, &caller.pod_uid) {
        (Some(pod), Some(uid)) if *pod == hello.pod => Ok(uid),
        (Some(pod), Some(_)) => {
            let text = format!(
                "the token is that of pod {pod:?}, which may not speak for {:?}",
                hello.pod
            );
            Err(Status::permission_denied(text))
        }
        _ => Err(Status::permission_denied(
            "the token is not bound to a pod: project it into one",
        )),
    }
}

fn not_leading(leader: Option<&str>) -> Status {
    let mut status = Status::failed_precondition("this replica does not grant");
    if let Some(leader) = leader.and_then(|leader| MetadataValue::try_from(leader).ok()) {
        status.metadata_mut().insert(LEADER, leader);
    }
    status
}

// Written out instead of by `async_trait`, which the generated trait's signature otherwise asks for.
impl QuotaAuthority for Service {
    type LeaseStream = ReceiverStream<Result<v1::LeaseResponse, Status>>;

    fn lease<'life, 'future>(
        &'life self,
        request: Request<Streaming<v1::LeaseRequest>>,
    ) -> BoxFuture<'future, Result<Response<Self::LeaseStream>, Status>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let (session, inbound) = self.admit(request).await.inspect_err(|status| {
                tracing::info!(code = ?status.code(), message = status.message(), "stream refused");
            })?;
            let (outbound, responses) = mpsc::channel(OUTBOUND);
            let drain = self.server.drain.clone();
            tokio::spawn(session.run(inbound, outbound, drain));
            Ok(Response::new(ReceiverStream::new(responses)))
        })
    }
}
