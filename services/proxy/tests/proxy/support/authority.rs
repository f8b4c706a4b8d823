//! A quota authority: the core, behind the interface, without a cluster.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use trellis_quota_stream::{
    AUTHORIZATION, LEADER, clock,
    v1::{
        self, Answers, Batch, LeaseRequest, LeaseResponse, Welcome,
        lease_request::Message,
        lease_response,
        quota_authority_server::{QuotaAuthority, QuotaAuthorityServer},
    },
    wire,
};
use trellis_rate::lease::{self, Epoch, Incarnation, Pod, Start, Terms};

const EPOCH: Epoch = Epoch(1);

/// An authority. Its streams end when it is dropped.
pub struct Authority {
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Book {
    ledgers: HashMap<(String, Vec<u8>), lease::Authority>,
    terms: HashMap<(Pod, u32), (String, Terms)>,
    next_pod: u64,
    authorizations: Vec<String>,
    streams: Vec<JoinHandle<()>>,
    listeners: HashMap<Pod, Sender>,
}

type Sender = mpsc::Sender<Result<LeaseResponse, Status>>;

struct Service {
    book: Arc<Mutex<Book>>,
    leader: Option<SocketAddr>,
}

impl Authority {
    pub async fn start() -> Self {
        let mut authority = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            book: Arc::default(),
            tasks: Vec::new(),
        };
        authority.address = authority.serve(None).await;
        authority
    }

    /// Another replica, which only says where this one is.
    pub async fn standby(&mut self) -> SocketAddr {
        self.serve(Some(self.address)).await
    }

    async fn serve(&mut self, leader: Option<SocketAddr>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service {
            book: Arc::clone(&self.book),
            leader,
        };
        self.tasks.push(tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(QuotaAuthorityServer::new(service));
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        }));
        address
    }

    pub fn authorizations(&self) -> Vec<String> {
        self.book.lock().unwrap().authorizations.clone()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let streams = std::mem::take(&mut self.book.lock().unwrap().streams);
        for task in self.tasks.iter().chain(&streams) {
            task.abort();
        }
    }
}

impl Book {
    fn answer(&mut self, pod: Pod, batch: &Batch) -> Answers {
        let now = clock::now();
        for limit in &batch.limits {
            let terms = wire::terms(limit).unwrap();
            self.terms
                .insert((pod, limit.number), (limit.name.clone(), terms));
            for ((name, _), ledger) in &mut self.ledgers {
                if *name == limit.name {
                    ledger.change(terms);
                }
            }
        }
        let mut grants = Vec::new();
        for ask in &batch.asks {
            let (name, terms) = self.terms[&(pod, ask.limit)].clone();
            let ledger = self
                .ledgers
                .entry((name.clone(), ask.key.clone()))
                .or_insert_with(|| {
                    let hour = now.after(Duration::from_secs(3600));
                    lease::Authority::new(terms, EPOCH, Start::First, now, hour)
                });
            let age = Duration::from_millis(batch.age);
            let request = wire::request(ask, pod, Incarnation(1), EPOCH, age).unwrap();
            let grant = ledger.receive(&request, now);
            if grant.is_some_and(|grant| grant.amount < request.demand_of(grant.whole)) {
                for other in ledger.overdrawn(now) {
                    recall(&self.listeners[&other], &self.terms, other, &name, &ask.key);
                }
            }
            grants.extend(grant.map(|grant| {
                let key = wire::key_of(&ask.key).unwrap();
                wire::grant(ask.limit, key, &grant)
            }));
        }
        Answers {
            grants,
            recalls: Vec::new(),
        }
    }
}

/// Asks a pod to ask again.
fn recall(listener: &Sender, terms: &HashMap<(Pod, u32), (String, Terms)>, pod: Pod, name: &str, key: &[u8]) {
    let number = terms
        .iter()
        .find(|((of, _), (limit, _))| *of == pod && limit == name);
    let recall = v1::Recall {
        limit: number.unwrap().0.1,
        key: key.to_vec(),
    };
    let answers = Answers {
        grants: Vec::new(),
        recalls: vec![recall],
    };
    let response = LeaseResponse {
        message: Some(lease_response::Message::Answers(answers)),
    };
    // One that is gone holds its part until its lease ends.
    let _ = listener.try_send(Ok(response));
}

#[tonic::async_trait]
impl QuotaAuthority for Service {
    type LeaseStream = ReceiverStream<Result<LeaseResponse, Status>>;

    async fn lease(
        &self,
        request: Request<Streaming<LeaseRequest>>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        if let Some(leader) = self.leader {
            let mut status = Status::failed_precondition("this replica does not grant");
            let leader = MetadataValue::try_from(format!("http://{leader}")).unwrap();
            status.metadata_mut().insert(LEADER, leader);
            return Err(status);
        }
        let authorization = request.metadata().get(AUTHORIZATION).unwrap();
        let authorization = authorization.to_str().unwrap().to_owned();
        let pod = {
            let mut book = self.book.lock().unwrap();
            book.authorizations.push(authorization);
            book.next_pod += 1;
            Pod(book.next_pod)
        };
        let (sender, receiver) = mpsc::channel(64);
        self.book.lock().unwrap().listeners.insert(pod, sender.clone());
        let book = Arc::clone(&self.book);
        let mut requests = request.into_inner();
        let stream = tokio::spawn(async move {
            let welcome = lease_response::Message::Welcome(Welcome { epoch: EPOCH.0 });
            let mut next = Some(welcome);
            loop {
                if let Some(message) = next.take() {
                    let response = LeaseResponse {
                        message: Some(message),
                    };
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                let Ok(Some(request)) = requests.message().await else {
                    return;
                };
                if let Some(Message::Batch(batch)) = request.message {
                    let answers = book.lock().unwrap().answer(pod, &batch);
                    next = Some(lease_response::Message::Answers(answers));
                }
            }
        });
        self.book.lock().unwrap().streams.push(stream);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
