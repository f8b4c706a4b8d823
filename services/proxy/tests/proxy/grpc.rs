//! gRPC through a gateway and a sidecar. The service is the one at hand: a stream both ways.

use std::{net::SocketAddr, pin::Pin};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use trellis_config_stream::v1::{
    Ack, Nack, ReportRequest, ReportResponse, SubscribeRequest, SubscribeResponse,
    config_stream_client::ConfigStreamClient,
    config_stream_server::{ConfigStream, ConfigStreamServer},
    subscribe_request, subscribe_response,
};
use trellis_proxy_config::{Origin, Protocol};

use crate::support::{
    backend::Backend,
    client::{Client, over_http2, post},
    document::{self, cluster},
    eventually, free_port,
    proxy::{Proxy, local},
    soon,
};

/// Answers each message at once; at a Nack it ends with a status in trailers.
struct Echo;

#[tonic::async_trait]
impl ConfigStream for Echo {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        if request.metadata().contains_key("x-refuse") {
            return Err(Status::failed_precondition("not today"));
        }
        if request.metadata().contains_key("x-never-read") {
            // Keeps the request, never reads it.
            let kept = request.into_inner();
            let never = futures::stream::pending().map(move |never: ()| {
                let _ = (&kept, never);
                Err(Status::internal("unreachable"))
            });
            return Ok(Response::new(Box::pin(never)));
        }
        let echoed = request.into_inner().map(|request| match request?.message {
            Some(subscribe_request::Message::Ack(Ack { version, digest })) => {
                let document = trellis_config_stream::v1::Document {
                    version,
                    digest,
                    json: Vec::new(),
                };
                Ok(SubscribeResponse {
                    message: Some(subscribe_response::Message::Document(document)),
                })
            }
            _ => Err(Status::not_found("no such thing")),
        });
        Ok(Response::new(Box::pin(echoed)))
    }

    async fn report(&self, _: Request<Streaming<ReportRequest>>) -> Result<Response<ReportResponse>, Status> {
        Err(Status::unimplemented("no proxy reports"))
    }
}

struct Chain {
    _gateway: Proxy,
    sidecar: Proxy,
    address: SocketAddr,
}

/// Caller -> gateway -> sidecar -> service.
async fn chain() -> Chain {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(ConfigStreamServer::new(Echo))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let (inbound, outside) = (free_port(), free_port());
    let sidecar = Proxy::start(&document::sidecar().inbound(inbound, app, Protocol::Grpc).build()).await;
    let order = cluster("order", "grpc");
    let document = document::gateway()
        .local_cluster(&order, inbound, Protocol::Grpc)
        .listener(outside)
        .route(
            Origin::Declared,
            "/trellis.config.v1.ConfigStream",
            &["POST"],
            &order,
        )
        .build();
    let gateway = Proxy::start(&document).await;
    gateway.knows("shop/order/grpc", 1).await;
    Chain {
        _gateway: gateway,
        sidecar,
        address: local(outside),
    }
}

async fn client(address: SocketAddr) -> ConfigStreamClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    ConfigStreamClient::new(endpoint.connect().await.unwrap())
}

fn ack(version: u64, digest: String) -> SubscribeRequest {
    SubscribeRequest {
        message: Some(subscribe_request::Message::Ack(Ack { version, digest })),
    }
}

#[tokio::test]
async fn messages_pass_both_ways_one_by_one_and_the_status_comes_in_trailers() {
    let chain = chain().await;
    let (sender, receiver) = mpsc::channel(1);
    let mut client = client(chain.address).await;
    let subscribed = client.subscribe(ReceiverStream::new(receiver));
    sender.send(ack(0, String::new())).await.unwrap();
    let mut stream = soon("the stream", subscribed).await.unwrap().into_inner();
    for version in 1..=100 {
        let answer = soon("an answer", stream.message()).await.unwrap().unwrap();
        let Some(subscribe_response::Message::Document(document)) = answer.message else {
            panic!("{answer:?}")
        };
        assert_eq!(document.version, version - 1);
        sender
            .send(ack(version, "x".repeat(usize::try_from(version).unwrap() * 1000)))
            .await
            .unwrap();
    }
    soon("the last answer", stream.message()).await.unwrap().unwrap();
    let nack = SubscribeRequest {
        message: Some(subscribe_request::Message::Nack(Nack::default())),
    };
    sender.send(nack).await.unwrap();
    let status = soon("the status", stream.message()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "no such thing")
    );
    let line = chain.sidecar.logged(|line| line["grpc_status"] == "5").await;
    assert_eq!(line["path"], "/trellis.config.v1.ConfigStream/Subscribe");
    assert!(line["bytes_in"].as_u64().unwrap() > 5_000_000, "{line}");
}

#[tokio::test]
async fn a_status_without_a_body_passes() {
    let chain = chain().await;
    let mut request = Request::new(futures::stream::iter([ack(1, String::new())]));
    request.metadata_mut().insert("x-refuse", "1".parse().unwrap());
    let status = soon("the status", client(chain.address).await.subscribe(request))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "not today")
    );
}

#[tokio::test]
async fn a_service_that_does_not_read_slows_its_caller_down() {
    let chain = chain().await;
    let (sender, receiver) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request
        .metadata_mut()
        .insert("x-never-read", "1".parse().unwrap());
    let _stream = soon("the stream", client(chain.address).await.subscribe(request))
        .await
        .unwrap();
    let mut sent = 0_u64;
    let message = ack(1, "x".repeat(16 * 1024));
    // Until nothing has gone out for a second.
    while tokio::time::timeout(std::time::Duration::from_secs(1), sender.send(message.clone()))
        .await
        .is_ok()
    {
        sent += 16 * 1024;
        assert!(
            sent < 16 * 1024 * 1024,
            "the proxies took {sent} bytes that nobody reads"
        );
    }
    // The windows and buffers of three connections.
    assert!(sent < 4 * 1024 * 1024, "{sent}");
}

#[tokio::test]
async fn a_caller_that_cancels_cancels_the_service() {
    let chain = chain().await;
    let (sender, receiver) = mpsc::channel(1);
    let mut client = client(chain.address).await;
    let subscribed = client.subscribe(ReceiverStream::new(receiver));
    sender.send(ack(1, String::new())).await.unwrap();
    let stream = soon("the stream", subscribed).await.unwrap();
    assert_eq!(chain.sidecar.config().await["inFlight"], 1);
    drop((stream, sender));
    eventually("the call ends", || async {
        (chain.sidecar.config().await["inFlight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_proxys_own_failures_are_grpc_statuses() {
    let name = cluster("order", "grpc");
    let document = document::sidecar()
        .cluster(&name, Protocol::Grpc)
        .outbound(&["order.mesh"], &name)
        .build();
    let proxy = Proxy::start(&document).await;
    for (host, code, message) in [
        (
            "order.mesh",
            Code::Unavailable,
            "shop/order/grpc has no ready endpoint",
        ),
        ("unknown.mesh", Code::Unimplemented, "no service is called"),
    ] {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", proxy.outbound))
            .unwrap()
            .origin(format!("http://{host}").parse().unwrap())
            .connect()
            .await
            .unwrap();
        let call = ConfigStreamClient::new(channel)
            .subscribe(futures::stream::empty())
            .await;
        let status = call.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(message), "{status}");
        assert_eq!(status.metadata().get("x-trellis-origin").unwrap(), "proxy");
    }
}

#[tokio::test]
async fn grpc_to_a_port_that_speaks_http1_is_a_502_with_the_reason() {
    let app = Backend::echo().await;
    let port = free_port();
    let _proxy = Proxy::start(
        &document::sidecar()
            .inbound(port, app.address, Protocol::Http1)
            .build(),
    )
    .await;
    let mut request = over_http2(post("/shop.User/Get", "x"));
    request
        .headers_mut()
        .insert("content-type", "application/grpc+proto".parse().unwrap());
    let answer = Client::http2(local(port)).await.send(request).await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.header("x-trellis-reason"), Some("grpc_to_http1"));
    assert!(
        answer.text().contains("set the port's protocol to GRPC"),
        "{}",
        answer.text()
    );
    assert_eq!(app.connections(), 0);
}
