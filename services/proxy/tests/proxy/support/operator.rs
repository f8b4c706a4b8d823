//! The operator's end of the stream.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use trellis_config_stream::{
    AUTHORIZATION,
    v1::{
        self, ClusterEndpoints, Hello, SubscribeRequest, SubscribeResponse,
        config_stream_server::{ConfigStream, ConfigStreamServer},
        subscribe_request, subscribe_response,
    },
};
use trellis_proxy_config::{ClusterName, Document};

use super::eventually;

/// An operator. Its stream ends when it is dropped.
pub struct Operator {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

/// What proxies said.
#[derive(Debug, Default, Clone)]
pub struct Heard {
    pub hellos: Vec<Hello>,
    pub authorizations: Vec<String>,
    pub answers: Vec<subscribe_request::Message>,
}

#[derive(Debug, Default, Clone)]
struct State {
    document: Option<v1::Document>,
    endpoints: BTreeMap<String, Vec<SocketAddr>>,
}

struct Service {
    state: watch::Receiver<State>,
    heard: Arc<Mutex<Heard>>,
}

impl Operator {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (state, receiver) = watch::channel(State::default());
        let heard = Arc::<Mutex<Heard>>::default();
        let service = Service {
            state: receiver,
            heard: Arc::clone(&heard),
        };
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(ConfigStreamServer::new(service));
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            state,
            heard,
            task,
        }
    }

    /// Sends a document, now and to whoever comes.
    pub fn document(&self, document: &Document) {
        self.text(
            document.version,
            &document.digest,
            serde_json::to_vec(document).unwrap(),
        );
    }

    pub fn text(&self, version: u64, digest: &str, json: Vec<u8>) {
        let document = v1::Document {
            version,
            digest: digest.to_owned(),
            json,
        };
        self.state.send_modify(|state| state.document = Some(document));
    }

    pub fn endpoints(&self, cluster: &ClusterName, addresses: &[SocketAddr]) {
        self.state.send_modify(|state| {
            state.endpoints.insert(cluster.to_string(), addresses.to_vec());
        });
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    /// Waits for an answer of a proxy.
    pub async fn hears(
        &self,
        matches: impl Fn(&subscribe_request::Message) -> bool,
    ) -> subscribe_request::Message {
        eventually("an answer on the stream", || async {
            self.heard().answers.into_iter().find(|answer| matches(answer))
        })
        .await
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl ConfigStream for Service {
    type SubscribeStream = ReceiverStream<Result<SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let authorization = request
            .metadata()
            .get(AUTHORIZATION)
            .map(|value| value.to_str().unwrap().to_owned());
        self.heard.lock().unwrap().authorizations.extend(authorization);
        let heard = Arc::clone(&self.heard);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let mut heard = heard.lock().unwrap();
                match request.message.unwrap() {
                    subscribe_request::Message::Hello(hello) => heard.hellos.push(hello),
                    answer => heard.answers.push(answer),
                }
            }
        });
        let (sender, receiver) = mpsc::channel(16);
        let mut state = self.state.clone();
        state.mark_changed();
        tokio::spawn(async move {
            let mut sent = State::default();
            while state.changed().await.is_ok() {
                let State { document, endpoints } = state.borrow_and_update().clone();
                if let Some(document) = document.clone().filter(|_| document != sent.document) {
                    let message = subscribe_response::Message::Document(document);
                    if send(&sender, message).await.is_err() {
                        return;
                    }
                }
                for (cluster, addresses) in &endpoints {
                    if sent.endpoints.get(cluster) != Some(addresses)
                        && send(&sender, of_cluster(cluster, addresses)).await.is_err()
                    {
                        return;
                    }
                }
                sent = State { document, endpoints };
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report(
        &self,
        _: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        Err(Status::unimplemented("no proxy reports"))
    }
}

fn of_cluster(cluster: &str, addresses: &[SocketAddr]) -> subscribe_response::Message {
    let endpoints = addresses.iter().map(|address| v1::Endpoint {
        address: address.ip().to_string(),
        port: address.port().into(),
    });
    subscribe_response::Message::Endpoints(ClusterEndpoints {
        cluster: cluster.to_owned(),
        endpoints: endpoints.collect(),
    })
}

async fn send(
    sender: &mpsc::Sender<Result<SubscribeResponse, Status>>,
    message: subscribe_response::Message,
) -> Result<(), ()> {
    sender
        .send(Ok(SubscribeResponse {
            message: Some(message),
        }))
        .await
        .map_err(drop)
}
