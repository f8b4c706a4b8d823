//! The stream over a real connection, with an API server that only reviews tokens: the token `order` is the
//! ServiceAccount shop/order's, the token `order@order-1` that of its pod `order-1`. Of the token `slow` it never says anything.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::Response as HttpResponse;
use k8s_openapi::api::{authentication::v1::TokenReview, core::v1::ConfigMap, discovery::v1::EndpointSlice};
use kube::client::Body;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::{Code, metadata::MetadataValue};
use trellis_config_stream::v1::{config_stream_client::ConfigStreamClient, subscribe_response};

use super::*;
use crate::{cache::Change, metrics::Metrics, stream::report::Reporter};
use crate::{engine, sagas};

/// Longest wait for a message.
const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    index: Arc<Index>,
    answers: Arc<Answers>,
    address: String,
    drain: drain::Trigger,
    draining: drain::Watch,
    reviews: Arc<AtomicUsize>,
}

struct Proxy {
    outbound: mpsc::Sender<v1::SubscribeRequest>,
    inbound: Streaming<v1::SubscribeResponse>,
}

fn api_server(reviews: Arc<AtomicUsize>) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        reviews.fetch_add(1, Ordering::Relaxed);
        async move {
            let body = request.into_body().collect_bytes().await.unwrap();
            let review: TokenReview = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                review.spec.audiences.as_deref(),
                Some(&["trellis-config".to_owned()][..])
            );
            let status = match &*review.spec.token {
                "slow" => std::future::pending().await,
                "bad" => json!({"authenticated": false}),
                token => {
                    let (name, pod) = token.split_once('@').unzip();
                    let extra = pod.map(|pod| json!({"authentication.kubernetes.io/pod-name": [pod]}));
                    json!({
                        "authenticated": true, "audiences": ["trellis-config"],
                        "user": {
                            "username": format!("system:serviceaccount:shop:{}", name.unwrap_or(token)),
                            "extra": extra,
                        },
                    })
                }
            };
            let answer = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "metadata": {}, "spec": {"token": ""}, "status": status,
            });
            let response = HttpResponse::builder()
                .status(201)
                .body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    kube::Client::new(service, "default")
}

async fn serve() -> Fixture {
    serve_with(Authority::held()).await
}

async fn serve_with(authority: Authority) -> Fixture {
    serve_bounded(
        authority,
        Places::new(MOST_SESSIONS, MOST_SESSIONS_OF_ACCOUNT),
        MOST_REPORTS,
    )
    .await
}

async fn serve_bounded(authority: Authority, places: Arc<Places>, most_reports: usize) -> Fixture {
    let index = Arc::new(Index::default());
    let answers = Arc::<Answers>::default();
    let reviews = Arc::default();
    let (trigger, watch) = drain::channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let authenticator = Arc::new(Authenticator::new(
        api_server(Arc::clone(&reviews)),
        "trellis-config",
    ));
    let revisions = engine::server::Server {
        authenticator: Arc::clone(&authenticator),
        engine: Arc::new(engine::Engine::new(
            sagas::Concerned::channel(Key::new("trellis-system", "trellis-saga")).0,
        )),
        sagas: Arc::default(),
        account: Key::new("shop", "engine"),
        authority: authority.clone(),
        leader: watch::channel(None).1,
        places: engine::server::Server::places(),
        drain: watch.clone(),
    };
    let mut server = Server::new(
        authenticator,
        Arc::clone(&index),
        Reports {
            answers: Arc::clone(&answers),
            account: Key::new("shop", "operator"),
            authority,
        },
        Metrics::register(&mut Registry::default()).stream,
        watch.clone(),
    );
    server.places = places;
    server.reporters = Arc::new(Semaphore::new(most_reports));
    tokio::spawn(server.serve(listener, revisions));
    Fixture {
        index,
        answers,
        address,
        drain: trigger,
        draining: watch,
        reviews,
    }
}

impl Fixture {
    async fn connect(&self, token: &str, microservice: &str, version: u64) -> Result<Proxy, Status> {
        self.connect_pod(token, microservice, version, "order-1").await
    }

    async fn connect_pod(
        &self,
        token: &str,
        microservice: &str,
        version: u64,
        pod: &str,
    ) -> Result<Proxy, Status> {
        let (outbound, requests) = mpsc::channel(8);
        let hello = v1::Hello {
            namespace: "shop".to_owned(),
            microservice: microservice.to_owned(),
            document_version: version,
            pod: pod.to_owned(),
            ..v1::Hello::default()
        };
        outbound.send(say(Message::Hello(hello))).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(requests));
        if !token.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let channel = transport::Endpoint::from_shared(self.address.clone()).unwrap();
        let mut client = ConfigStreamClient::new(channel.connect().await.unwrap());
        let inbound = client.subscribe(request).await?.into_inner();
        Ok(Proxy { outbound, inbound })
    }

    /// What is known of the proxies of `order`, in short, once that is as expected.
    async fn knows(&self, expected: &[&str]) {
        let known = || {
            let answers = self.answers.of(&Key::new("shop", "order")).into_iter();
            answers
                .map(|(pod, answer)| match answer.refused {
                    Some(refused) => format!("{pod} refused {}: {}", refused.digest, refused.fault),
                    None => format!("{pod} runs by {}", answer.in_use),
                })
                .collect::<Vec<_>>()
        };
        let until = async {
            while known() != expected {
                tokio::task::yield_now().await;
            }
        };
        if time::timeout(PATIENCE, until).await.is_err() {
            assert_eq!(known(), expected);
        }
    }

    /// Reports to the leader at an address, as the ServiceAccount `token`; ends when dropped.
    fn report_to(&self, leader: &Self, token: &str) -> Reporting {
        let file = std::env::temp_dir().join(format!("trellis-report-{:016x}", rand::random::<u64>()));
        std::fs::write(&file, token).unwrap();
        let (address, leader) = watch::channel(Some(leader.address.clone()));
        let reporter = Reporter {
            answers: Arc::clone(&self.answers),
            leader,
            token: file.clone(),
        };
        let task = tokio::spawn(reporter.run(self.draining.clone()));
        Reporting { task, file, address }
    }

    fn publish(&self, version: u64, digest: &str, clusters: &[&str]) {
        let clusters: serde_json::Map<String, Value> = clusters
            .iter()
            .map(|cluster| ((*cluster).to_owned(), json!({"protocol": "Http1"})))
            .collect();
        let document = json!({
            "apiVersion": "proxy.trellis.dev/v1", "version": version, "digest": digest,
            "config": {"role": "Sidecar", "identity": {"namespace": "shop", "microservice": "order"}, "clusters": clusters},
        });
        let object: ConfigMap = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "order-proxy", "labels": {"trellis.dev/microservice": "order"}},
            "data": {"proxy.json": document.to_string()},
        }))
        .unwrap();
        self.index.config_map(&set(object));
    }

    fn endpoints(&self, microservice: &str, addresses: &[&str]) {
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"addresses": [address]}))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": microservice, "labels": {
                "trellis.dev/microservice": microservice, "app.kubernetes.io/managed-by": "trellis",
                "kubernetes.io/service-name": microservice,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            }},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 15100}], "endpoints": endpoints,
        }))
        .unwrap();
        self.index.endpoint_slice(&set(slice));
    }
}

/// A replica that reports.
struct Reporting {
    task: tokio::task::JoinHandle<()>,
    file: std::path::PathBuf,
    address: watch::Sender<Option<String>>,
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.task.abort();
        // It is in the folder for temporary files.
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Proxy {
    async fn say(&self, message: Message) {
        self.outbound.send(say(message)).await.unwrap();
    }

    /// The next message, in short.
    async fn next(&mut self) -> String {
        let message = time::timeout(PATIENCE, self.inbound.message()).await.unwrap();
        match message.map(|response| response.and_then(|response| response.message)) {
            Ok(Some(subscribe_response::Message::Document(document))) => {
                format!("document {}", document.version)
            }
            Ok(Some(subscribe_response::Message::Endpoints(endpoints))) => {
                let addresses: Vec<String> = endpoints
                    .endpoints
                    .into_iter()
                    .map(|endpoint| endpoint.address)
                    .collect();
                format!("{} [{}]", endpoints.cluster, addresses.join(" "))
            }
            Ok(None) => "end".to_owned(),
            Err(status) => format!("{:?}", status.code()),
        }
    }
}

fn say(message: Message) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        message: Some(message),
    }
}

fn set<K>(object: K) -> Change<K> {
    Change::Set {
        before: None,
        after: Arc::new(object),
    }
}

#[tokio::test]
async fn a_proxy_gets_its_document_then_endpoints_then_changes_only() {
    let fixture = serve().await;
    fixture.publish(5, "five", &["shop/user/http"]);
    fixture.endpoints("user", &["10.0.0.1"]);
    let mut proxy = fixture.connect("order", "order", 0).await.unwrap();
    assert_eq!(proxy.next().await, "document 5");
    assert_eq!(proxy.next().await, "shop/user/http [10.0.0.1]");
    let ack = v1::Ack {
        version: 5,
        digest: "five".to_owned(),
    };
    proxy.outbound.send(say(Message::Ack(ack))).await.unwrap();

    fixture.endpoints("product", &["10.0.0.9"]);
    fixture.endpoints("user", &["10.0.0.1"]);
    fixture.publish(4, "four", &[]);
    fixture.endpoints("user", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        proxy.next().await,
        "shop/user/http [10.0.0.1 10.0.0.2]",
        "nothing else was news"
    );
}

#[tokio::test]
async fn a_newer_document_brings_the_endpoints_of_its_new_clusters() {
    let fixture = serve().await;
    fixture.publish(5, "five", &["shop/user/http"]);
    let mut proxy = fixture.connect("order", "order", 0).await.unwrap();
    assert_eq!(proxy.next().await, "document 5");
    assert_eq!(
        proxy.next().await,
        "shop/user/http []",
        "no endpoints is an answer"
    );
    fixture.endpoints("product", &["10.0.0.9"]);
    fixture.publish(6, "six", &["shop/product/http", "shop/user/http"]);
    assert_eq!(proxy.next().await, "document 6");
    assert_eq!(proxy.next().await, "shop/product/http [10.0.0.9]");
}

#[tokio::test]
async fn a_proxy_that_has_the_document_gets_endpoints_at_once() {
    let fixture = serve().await;
    fixture.publish(5, "five", &["shop/user/http"]);
    let mut proxy = fixture.connect("order", "order", 5).await.unwrap();
    assert_eq!(proxy.next().await, "shop/user/http []");
}

#[tokio::test]
async fn only_the_microservice_itself_gets_its_configuration() {
    let fixture = serve().await;
    fixture.publish(5, "five", &[]);
    for (token, code) in [
        ("", Code::Unauthenticated),
        ("bad", Code::Unauthenticated),
        ("user", Code::PermissionDenied),
    ] {
        let refused = fixture
            .connect(token, "order", 0)
            .await
            .err()
            .map(|status| status.code());
        assert_eq!(refused, Some(code), "{token:?}");
    }
}

#[tokio::test]
async fn a_token_is_reviewed_once_for_many_streams() {
    let fixture = serve().await;
    for _ in 0..3 {
        fixture.connect("order", "order", 0).await.unwrap();
    }
    assert_eq!(fixture.reviews.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_replica_that_ends_says_so() {
    let fixture = serve().await;
    fixture.publish(5, "five", &[]);
    let mut proxy = fixture.connect("order", "order", 0).await.unwrap();
    assert_eq!(proxy.next().await, "document 5");
    fixture.drain.start();
    assert_eq!(proxy.next().await, "Unavailable");
}

#[tokio::test]
async fn the_leader_knows_what_proxies_said_to_it_and_to_the_other_replica() {
    let (leader, standby) = (serve().await, serve_with(Authority::lost()).await);
    for replica in [&leader, &standby] {
        replica.publish(5, "five", &[]);
    }
    let first = leader.connect_pod("order", "order", 0, "order-1").await.unwrap();
    let second = standby.connect_pod("order", "order", 0, "order-2").await.unwrap();
    let reporting = standby.report_to(&leader, "operator");
    leader.knows(&["order-1 runs by ", "order-2 runs by "]).await;

    let ack = v1::Ack {
        version: 5,
        digest: "five".to_owned(),
    };
    first.say(Message::Ack(ack.clone())).await;
    let nack = v1::Nack {
        version: 5,
        digest: "five".to_owned(),
        faults: vec!["config.role: no".to_owned(), "another".to_owned()],
    };
    second.say(Message::Nack(nack)).await;
    let refused = ["order-1 runs by five", "order-2 refused five: config.role: no"];
    leader.knows(&refused).await;

    // The standby loses sight of the leader, hears something meanwhile, and finds it again.
    reporting.address.send_replace(None);
    let third = standby.connect_pod("order", "order", 0, "order-3").await.unwrap();
    standby
        .knows(&["order-2 refused five: config.role: no", "order-3 runs by "])
        .await;
    reporting.address.send_replace(Some(leader.address.clone()));
    leader.knows(&[refused[0], refused[1], "order-3 runs by "]).await;

    third.say(Message::Ack(ack.clone())).await;
    second.say(Message::Ack(ack)).await;
    leader
        .knows(&[
            "order-1 runs by five",
            "order-2 runs by five",
            "order-3 runs by five",
        ])
        .await;
}

#[tokio::test]
async fn only_the_operator_itself_reports_and_only_to_the_leader() {
    let (leader, standby) = (serve().await, serve_with(Authority::lost()).await);
    for (replica, token, code) in [
        (&leader, "", Code::Unauthenticated),
        (&leader, "order", Code::PermissionDenied),
        (&standby, "operator", Code::FailedPrecondition),
    ] {
        let mut request = Request::new(tokio_stream::pending());
        if !token.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let channel = transport::Endpoint::from_shared(replica.address.clone()).unwrap();
        let mut client = ConfigStreamClient::new(channel.connect().await.unwrap());
        let refused = time::timeout(PATIENCE, client.report(request)).await.unwrap();
        assert_eq!(refused.unwrap_err().code(), code, "{token:?}");
    }
}

/// Waits for a condition.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test]
async fn who_has_not_proved_who_it_is_takes_no_place_from_others() {
    let fixture = Arc::new(serve_bounded(Authority::held(), Places::new(1, 1), 1).await);
    let subscribing = tokio::spawn({
        let fixture = Arc::clone(&fixture);
        async move { fixture.connect("slow", "order", 0).await.is_ok() }
    });
    let mut request = Request::new(tokio_stream::pending::<v1::ReportRequest>());
    let value = MetadataValue::from_static("Bearer slow");
    request.metadata_mut().insert("authorization", value);
    let channel = transport::Endpoint::from_shared(fixture.address.clone()).unwrap();
    let mut client = ConfigStreamClient::new(channel.connect().await.unwrap());
    let reporting = tokio::spawn(async move { client.report(request).await.is_ok() });
    until(|| fixture.reviews.load(Ordering::Relaxed) == 2).await;

    let _order = fixture.connect("order", "order", 0).await.unwrap();
    let standby = serve_with(Authority::lost()).await;
    let _second = standby.connect_pod("order", "order", 0, "order-2").await.unwrap();
    let _report = standby.report_to(&fixture, "operator");
    fixture.knows(&["order-1 runs by ", "order-2 runs by "]).await;
    subscribing.abort();
    reporting.abort();
}

#[tokio::test]
async fn one_service_account_cannot_fill_a_replica_and_who_goes_gives_its_place_back() {
    let places = Places::new(3, 1);
    let fixture = serve_bounded(Authority::held(), Arc::clone(&places), 1).await;
    let order = fixture.connect("order", "order", 0).await.unwrap();
    let refused = fixture.connect("order", "order", 0).await.err();
    assert_eq!(refused.unwrap().code(), Code::ResourceExhausted);
    let _user = fixture.connect("user", "user", 0).await.unwrap();
    // Nor does who is refused for another reason keep a place.
    let refused = fixture.connect("product", "order", 0).await.err();
    assert_eq!(refused.unwrap().code(), Code::PermissionDenied);
    fixture.connect("product", "product", 0).await.unwrap();

    drop(order);
    until(|| places.take(&Key::new("shop", "order")).is_ok()).await;
    fixture.connect("order", "order", 0).await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_made_for_a_pod_speaks_for_no_other() {
    let fixture = serve().await;
    let token = "order@order-1";
    for pod in ["order-2", ""] {
        let refused = fixture.connect_pod(token, "order", 0, pod).await.err();
        assert_eq!(refused.unwrap().code(), Code::PermissionDenied, "{pod:?}");
    }
    let _order = fixture.connect_pod(token, "order", 0, "order-1").await.unwrap();
    fixture.knows(&["order-1 runs by "]).await;
}
