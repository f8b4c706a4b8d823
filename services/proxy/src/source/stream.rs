//! The operator's stream: documents and endpoints within milliseconds.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use trellis_config_stream::{
    AUTHORIZATION,
    v1::{
        Ack, ClusterEndpoints, Hello, Nack, SubscribeRequest, config_stream_client::ConfigStreamClient,
        subscribe_request, subscribe_response::Message,
    },
};
use trellis_proxy_config::ClusterName;

use crate::{
    configuration::{Configuration, InUse, Verdict},
    discovery::Origin,
    snapshot::Source,
    uplink::{self, Pause},
};

const PING: Duration = Duration::from_secs(10);
/// Largest message; an object in Kubernetes has at most 1.5 MiB.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Uplink(#[from] uplink::Error),
    #[error("failed to hold the stream")]
    Stream(#[from] Box<Status>),
    #[error("the operator ended the stream")]
    Ended,
}

/// Holds a stream to the operator that the document in use names, for ever.
pub(crate) async fn follow(token: PathBuf, pod: String, configuration: Arc<Configuration>) {
    let mut versions = configuration.versions();
    let mut pause = Pause::new();
    let mut first = true;
    loop {
        let Some(address) = address(&configuration) else {
            // Only a newer document can name one. The sender lives as long as the configuration.
            let _ = versions.changed().await;
            continue;
        };
        let moved = async {
            loop {
                let _ = versions.changed().await;
                if self::address(&configuration).as_deref() != Some(address.as_str()) {
                    return;
                }
            }
        };
        tokio::select! {
            error = hold(&address, &token, &pod, &configuration, &mut pause) => {
                let error: &dyn std::error::Error = &error;
                // Going away is news; staying away is not.
                if std::mem::take(&mut first) || configuration.discovery.is_stream_up() {
                    tracing::warn!(address, error, "the configuration stream is away");
                } else {
                    tracing::debug!(address, error, "the configuration stream is still away");
                }
            }
            () = moved => tracing::info!(address, "the configuration stream moves"),
        }
        configuration.discovery.stream_away(Instant::now());
        time::sleep(pause.next()).await;
    }
}

fn address(configuration: &Configuration) -> Option<String> {
    configuration
        .snapshot
        .load()
        .as_ref()?
        .document
        .config
        .stream
        .as_ref()
        .map(|stream| stream.address.clone())
}

async fn hold(
    address: &str,
    token: &Path,
    pod: &str,
    configuration: &Configuration,
    pause: &mut Pause,
) -> Error {
    match try_hold(address, token, pod, configuration, pause).await {
        Ok(()) => Error::Ended,
        Err(error) => error,
    }
}

async fn try_hold(
    address: &str,
    token: &Path,
    pod: &str,
    configuration: &Configuration,
    pause: &mut Pause,
) -> Result<(), Error> {
    let authorization = uplink::authorization(token).await?;
    let channel = uplink::connect(address, PING).await?;
    let (answers, receiver) = mpsc::channel(16);
    // The channel has room.
    let _ = answers
        .send(message(subscribe_request::Message::Hello(hello(
            pod,
            configuration,
        ))))
        .await;
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert(AUTHORIZATION, authorization);

    let mut client = ConfigStreamClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut stream = client.subscribe(request).await.map_err(Box::new)?.into_inner();
    pause.up(Instant::now());
    tracing::info!(address, "the configuration stream is up");
    configuration.discovery.stream_up();
    while let Some(response) = stream.message().await.map_err(Box::new)? {
        match response.message {
            Some(Message::Document(document)) => {
                let answer = match configuration.offer(Source::Stream, &document.json) {
                    // Of an older document too: the operator learns what is in use.
                    Verdict::Applied(in_use) | Verdict::Kept(in_use) => ack(in_use),
                    Verdict::Refused(faults) => subscribe_request::Message::Nack(Nack {
                        version: document.version,
                        digest: document.digest,
                        faults,
                    }),
                };
                // A closed channel shows as the end of the stream.
                let _ = answers.send(message(answer)).await;
            }
            Some(Message::Endpoints(endpoints)) => use_endpoints(configuration, endpoints),
            // From a newer operator.
            None => {}
        }
    }
    Ok(())
}

fn use_endpoints(configuration: &Configuration, ClusterEndpoints { cluster, endpoints }: ClusterEndpoints) {
    let name = match cluster.parse::<ClusterName>() {
        Ok(name) => name,
        Err(error) => {
            tracing::warn!(%error, "endpoints ignored");
            return;
        }
    };
    let mut addresses = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        match (endpoint.address.parse::<IpAddr>(), u16::try_from(endpoint.port)) {
            (Ok(ip), Ok(port)) if port != 0 => addresses.push(SocketAddr::new(ip, port)),
            _ => {
                tracing::warn!(%cluster, address = endpoint.address, port = endpoint.port, "endpoint ignored")
            }
        }
    }
    configuration.endpoints(&name, Origin::Stream, addresses);
}

fn hello(pod: &str, configuration: &Configuration) -> Hello {
    let InUse { version, digest } = configuration.in_use();
    let snapshot = configuration.snapshot.load();
    let identity = snapshot
        .as_ref()
        .map(|snapshot| &snapshot.document.config.identity);
    Hello {
        namespace: identity
            .map(|identity| identity.namespace.clone())
            .unwrap_or_default(),
        microservice: identity
            .map(|identity| identity.microservice.clone())
            .unwrap_or_default(),
        pod: pod.to_owned(),
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        document_version: version,
        document_digest: digest,
    }
}

fn ack(InUse { version, digest }: InUse) -> subscribe_request::Message {
    subscribe_request::Message::Ack(Ack { version, digest })
}

fn message(message: subscribe_request::Message) -> SubscribeRequest {
    SubscribeRequest {
        message: Some(message),
    }
}
