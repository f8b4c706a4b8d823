//! The stream to the quota authority.
//!
//! While it is away, parts go on until their leases end, and then as each limit says.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming};
use trellis_quota_stream::{
    AUTHORIZATION, LEADER, clock,
    v1::{
        Answers, Batch, Hello, LeaseRequest, LeaseResponse, lease_request, lease_response::Message,
        quota_authority_client::QuotaAuthorityClient,
    },
    wire,
};
use trellis_rate::lease::Epoch;

use super::leases::{Ask, Asking, SELF, Then, process};
use crate::{
    configuration::Configuration,
    limits::Leased,
    uplink::{self, Pause},
};

const PING: Duration = Duration::from_secs(5);
/// Time between looks for asks that could not be sent when they became urgent.
const URGENT: Duration = Duration::from_millis(20);
/// Time between looks at all counters.
const LOOK: Duration = Duration::from_millis(500);
/// Asks of one message.
const BATCH: usize = 1000;
/// Largest message.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Uplink(#[from] uplink::Error),
    #[error("failed to hold the stream")]
    Stream(#[from] Box<Status>),
    #[error("the replica does not grant; {0} does")]
    Elsewhere(String),
    #[error("the authority did not say welcome")]
    NoWelcome,
    #[error("the authority ended the stream")]
    Ended,
    #[error("other limits are shared now, or by another authority")]
    Moved,
}

/// Holds a stream to the authority that the document in use names, for ever, while a limit is shared.
pub(crate) async fn follow(token: PathBuf, pod: String, configuration: Arc<Configuration>) {
    let mut versions = configuration.versions();
    let mut pause = Pause::new();
    let mut leader: Option<String> = None;
    let mut was_sent_on = false;
    let mut first = true;
    loop {
        let Some(address) = address(&configuration) else {
            // The sender lives as long as the configuration.
            let _ = versions.changed().await;
            continue;
        };
        let to = leader.take().unwrap_or_else(|| address.clone());
        let error = match hold(&address, &to, &token, &pod, &configuration, &mut pause).await {
            Ok(()) => Error::Ended,
            Err(error) => error,
        };
        if let Error::Elsewhere(other) = &error {
            tracing::debug!(address = to, leader = other, "another replica grants");
            leader = Some(other.clone());
            if std::mem::replace(&mut was_sent_on, true) {
                // Two that send us to each other are not asked on and on.
                time::sleep(uplink::short_pause()).await;
            }
            continue;
        }
        was_sent_on = false;
        // Going away is news; staying away is not.
        report(&to, &error, std::mem::take(&mut first) || pause.was_good());
        time::sleep(pause.next()).await;
    }
}

fn report(address: &str, error: &(dyn std::error::Error + 'static), is_news: bool) {
    if is_news {
        tracing::warn!(address, error, "the quota stream is away");
    } else {
        tracing::debug!(address, error, "the quota stream is still away");
    }
}

/// Where to lease from; None if nothing is leased.
fn address(configuration: &Configuration) -> Option<String> {
    let snapshot = configuration.snapshot.load();
    let snapshot = snapshot.as_ref()?;
    snapshot.limits.leased().next()?;
    Some(snapshot.document.config.quota.as_ref()?.address.clone())
}

async fn hold(
    wanted: &str,
    address: &str,
    token: &Path,
    pod: &str,
    configuration: &Configuration,
    pause: &mut Pause,
) -> Result<(), Error> {
    let authorization = uplink::authorization(token).await?;
    let channel = uplink::connect(address, PING).await?;
    // Without bounds: who waited to send would not read, and the authority not either. What is sent is bounded by the counters.
    let (requests, receiver) = mpsc::unbounded_channel();
    // The receiver is here.
    let _ = requests.send(message(lease_request::Message::Hello(hello(pod, configuration))));
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    request.metadata_mut().insert(AUTHORIZATION, authorization);
    let mut client = QuotaAuthorityClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut responses = client.lease(request).await.map_err(elsewhere)?.into_inner();
    let welcome = responses
        .message()
        .await
        .map_err(|status| Error::from(Box::new(status)))?;
    let Some(LeaseResponse {
        message: Some(Message::Welcome(welcome)),
    }) = welcome
    else {
        return Err(Error::NoWelcome);
    };
    pause.up(Instant::now());
    tracing::info!(address, epoch = welcome.epoch, "the quota stream is up");
    let session = Session {
        wanted,
        address,
        epoch: Epoch(welcome.epoch),
        requests,
        configuration,
        told: Vec::new(),
    };
    session.run(&mut responses).await
}

fn elsewhere(status: Status) -> Error {
    let leader = status
        .metadata()
        .get(LEADER)
        .and_then(|leader| leader.to_str().ok());
    match leader {
        Some(leader) => Error::Elsewhere(leader.to_owned()),
        None => Error::Stream(Box::new(status)),
    }
}

/// A stream that was welcomed.
struct Session<'a> {
    /// What the document names.
    wanted: &'a str,
    address: &'a str,
    epoch: Epoch,
    requests: mpsc::UnboundedSender<LeaseRequest>,
    configuration: &'a Configuration,
    /// The limits that the authority was told of, by their numbers.
    told: Vec<Leased>,
}

impl Session<'_> {
    async fn run(mut self, responses: &mut Streaming<LeaseResponse>) -> Result<(), Error> {
        let mut versions = self.configuration.versions();
        let mut urgent = time::interval(URGENT);
        let mut look = time::interval(LOOK);
        for interval in [&mut urgent, &mut look] {
            interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        }
        for leased in self.leased() {
            leased.leases.see(self.epoch);
        }
        self.tell(|leased, asking| leased.leases.all(asking), true)?;
        let wake = self
            .configuration
            .snapshot
            .load()
            .as_ref()
            .map(|snapshot| snapshot.limits.wake())
            .ok_or(Error::Moved)?;
        loop {
            tokio::select! {
                response = responses.message() => {
                    let response = response.map_err(Box::new)?.ok_or(Error::Ended)?;
                    if let Some(Message::Answers(answers)) = response.message {
                        self.take_in(&answers);
                    }
                }
                () = wake.notified() => {
                    self.tell(|leased, asking| leased.leases.urgent(asking), false)?;
                }
                _ = urgent.tick() => {
                    self.tell(|leased, asking| leased.leases.urgent(asking), false)?;
                }
                _ = look.tick() => {
                    self.tell(|leased, asking| leased.leases.due(asking), false)?;
                }
                _ = versions.changed() => {
                    // Of a limit that is shared no more, the authority learns by what a new stream does not tell.
                    let leased = self.leased();
                    let is_gone = |told: &Leased| !leased.iter().any(|leased| leased.is_same(told));
                    if address(self.configuration).as_deref() != Some(self.wanted)
                        || self.told.iter().any(is_gone)
                    {
                        return Err(Error::Moved);
                    }
                }
            }
        }
    }

    fn leased(&self) -> Vec<Leased> {
        let snapshot = self.configuration.snapshot.load();
        snapshot
            .as_ref()
            .map(|snapshot| snapshot.limits.leased().collect())
            .unwrap_or_default()
    }

    /// Sends asks of all limits, and first what the authority does not know of these.
    fn tell(&mut self, asks: impl Fn(&Leased, &Asking<'_>) -> Vec<Ask>, complete: bool) -> Result<(), Error> {
        let version = self.configuration.in_use().version;
        let mut batch = Batch::default();
        for leased in self.leased() {
            let asking = Asking {
                limiter: &leased.limiter,
                whole: leased.whole,
                memory: leased.memory(),
                epoch: self.epoch,
                now: clock::now(),
            };
            let asks = asks(&leased, &asking);
            if asks.is_empty() {
                continue;
            }
            let (number, is_new) = self.number(&leased);
            if is_new {
                batch.limits.push(leased.message(number, version));
            }
            for (key, request) in asks {
                batch.asks.push(wire::ask(number, key, &request));
                if batch.asks.len() >= BATCH {
                    self.send(std::mem::take(&mut batch))?;
                }
            }
        }
        batch.complete = complete;
        if complete || !batch.asks.is_empty() {
            self.send(batch)?;
        }
        Ok(())
    }

    fn send(&self, mut batch: Batch) -> Result<(), Error> {
        let age = clock::now().since(process().began);
        batch.age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let sent = self.requests.send(message(lease_request::Message::Batch(batch)));
        sent.map_err(|_| Error::Ended)
    }

    /// The number of a limit, and whether the authority has to be told of it, or of its new terms.
    fn number(&mut self, leased: &Leased) -> (u32, bool) {
        let known = self.told.iter_mut().position(|told| told.is_same(leased));
        let (place, is_new) = match known {
            Some(place) => {
                let is_new = self.told[place].terms_differ(leased);
                if is_new {
                    self.told[place] = leased.clone();
                }
                (place, is_new)
            }
            None => {
                self.told.push(leased.clone());
                (self.told.len() - 1, true)
            }
        };
        (u32::try_from(place).unwrap_or(u32::MAX), is_new)
    }

    fn take_in(&self, answers: &Answers) {
        let now = clock::now();
        let find = |limit: u32, key: &[u8]| {
            let leased = self.told.get(usize::try_from(limit).ok()?)?;
            let part = leased.leases.find(wire::key_of(key).ok()?)?;
            Some((leased, part))
        };
        for message in &answers.grants {
            let grant = wire::granted(message, SELF, process().incarnation, self.epoch);
            let (Ok(grant), Some((leased, part))) = (grant, find(message.limit, &message.key)) else {
                tracing::debug!(address = self.address, "a grant of nothing that was asked for");
                continue;
            };
            if part.receive(&grant, now) == Then::AskAgain {
                leased.leases.hurry(&part);
            }
        }
        for recall in &answers.recalls {
            if let Some((leased, part)) = find(recall.limit, &recall.key) {
                leased.leases.hurry(&part);
            }
        }
    }
}

fn hello(pod: &str, configuration: &Configuration) -> Hello {
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
        incarnation: process().incarnation.0,
    }
}

const fn message(message: lease_request::Message) -> LeaseRequest {
    LeaseRequest {
        message: Some(message),
    }
}
