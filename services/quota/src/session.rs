//! One proxy's stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, Streaming};
use trellis_chassis::drain;
use trellis_quota_stream::clock;
use trellis_quota_stream::v1::{self, lease_request::Message, lease_response};
use trellis_quota_stream::wire::{self, Fault};
use trellis_rate::lease::{Epoch, Incarnation, Pod};

use crate::book::{Agreed, Book, Full, LimitId, Mentioned, Recall};
use crate::roster::Owner;

/// Most limits of one stream; a policy has 16, and a Microservice few of them.
const MOST_LIMITS: usize = 256;
/// Longest names, and CEL expressions of one limit, in bytes.
const LONGEST_NAMES: usize = 16 * 1024;
/// Recalls that wait to be sent.
const RECALLS: usize = 256;

/// A proxy that has proved who it is, while this replica grants.
pub struct Session {
    /// Its pod.
    pub pod: Pod,
    /// Its Microservice.
    pub owner: Owner,
    /// Its process.
    pub incarnation: Incarnation,
    /// The epoch that it is welcomed to.
    pub epoch: Epoch,
    /// What is leased.
    pub book: Arc<Mutex<Book>>,
    /// One of the bounded places.
    pub _place: OwnedSemaphorePermit,
}

/// The limits that messages name by number.
#[derive(Default)]
struct Limits {
    by_number: HashMap<u32, Agreed>,
    numbers: HashMap<Arc<LimitId>, u32>,
    /// Keys that were asked about until all was told; None from then on.
    mentioned: Option<Mentioned>,
    /// Something was asked about that is not in the book.
    is_full: bool,
}

impl Session {
    /// Answers until the proxy leaves, this replica does not grant any more, or `drain` is given.
    pub async fn run(
        self,
        mut inbound: Streaming<v1::LeaseRequest>,
        outbound: mpsc::Sender<Result<v1::LeaseResponse, Status>>,
        drain: drain::Watch,
    ) {
        let (recalls, mut recalled) = mpsc::channel(RECALLS);
        let stream = self.book.lock().listen(self.pod, recalls);
        let welcome = lease_response::Message::Welcome(v1::Welcome { epoch: self.epoch.0 });
        let mut limits = Limits {
            mentioned: Some(Mentioned::new()),
            ..Limits::default()
        };
        let mut next = Some(Ok(welcome));
        loop {
            if let Some(message) = next.take() {
                let response = message.map(|message| v1::LeaseResponse {
                    message: Some(message),
                });
                let failed = response.is_err();
                if outbound.send(response).await.is_err() || failed {
                    break;
                }
            }
            next = tokio::select! {
                request = inbound.message() => match request {
                    Ok(Some(request)) => self.take_in(request, &mut limits),
                    Ok(None) | Err(_) => break,
                },
                recall = recalled.recv() => match recall {
                    Some(recall) => limits.recall(&recall),
                    None => Some(Err(Status::unavailable("this replica does not grant any more, or there is a newer stream"))),
                },
                () = drain.signaled() => Some(Err(Status::unavailable("this replica ends"))),
            };
        }
        self.book.lock().leave(self.pod, stream);
    }

    fn take_in(
        &self,
        request: v1::LeaseRequest,
        limits: &mut Limits,
    ) -> Option<Result<lease_response::Message, Status>> {
        let batch = match request.message {
            Some(Message::Batch(batch)) => batch,
            // A second greeting, or something of a newer release.
            Some(Message::Hello(_)) | None => return None,
        };
        match self.answer(&batch, limits) {
            Err(None) => Some(Err(Status::unavailable(
                "this replica does not grant in this epoch any more",
            ))),
            Ok(grants) if grants.is_empty() => None,
            Ok(grants) => Some(Ok(lease_response::Message::Answers(v1::Answers {
                grants,
                recalls: Vec::new(),
            }))),
            Err(Some(fault)) => Some(Err(Status::invalid_argument(fault))),
        }
    }

    /// The grants for a batch, or what is wrong with it; nothing is, if the epoch is over.
    fn answer(&self, batch: &v1::Batch, limits: &mut Limits) -> Result<Vec<v1::Grant>, Option<String>> {
        for limit in &batch.limits {
            limits.agree(&self.owner, limit)?;
        }
        let age = Duration::from_millis(batch.age);
        let now = clock::now();
        let mut book = self.book.lock();
        if book.holds(now).is_none_or(|claim| claim.epoch != self.epoch) {
            return Err(None);
        }
        let mut grants = Vec::with_capacity(batch.asks.len());
        for ask in &batch.asks {
            let Some(limit) = limits.by_number.get(&ask.limit) else {
                return Err(Some(format!("limit {} was not told: send it first", ask.limit)));
            };
            let of = |fault: Fault| Some(format!("ask for limit {}: {fault}", ask.limit));
            let key = wire::key_of(&ask.key).map_err(of)?;
            let request = wire::request(ask, self.pod, self.incarnation, self.epoch, age).map_err(of)?;
            match book.ask(limit, key, &request, now) {
                Ok(grant) => grants.extend(grant.map(|grant| wire::grant(ask.limit, key, &grant))),
                Err(Full) => limits.is_full = true,
            }
            if let Some(mentioned) = &mut limits.mentioned {
                mentioned.insert((Arc::clone(&limit.id), key));
            }
        }
        // What it holds of keys that are not in the book is not known.
        if let Some(mentioned) = limits.mentioned.take_if(|_| batch.complete)
            && !limits.is_full
        {
            book.told(self.pod, &self.owner, &mentioned, now.before(age), now);
        }
        Ok(grants)
    }
}

impl Limits {
    fn agree(&mut self, owner: &Owner, limit: &v1::Limit) -> Result<(), String> {
        if self.by_number.len() >= MOST_LIMITS && !self.by_number.contains_key(&limit.number) {
            return Err(format!("more than {MOST_LIMITS} limits on one stream"));
        }
        let counters = limit.counters.iter().map(String::len).sum::<usize>();
        if limit.policy.len() + limit.policy_uid.len() + limit.name.len() + limit.route.len() + counters
            > LONGEST_NAMES
        {
            return Err(format!(
                "the names of a limit are longer than {LONGEST_NAMES} bytes"
            ));
        }
        let id = Arc::new(LimitId {
            owner: owner.clone(),
            policy: limit.policy.clone(),
            policy_uid: limit.policy_uid.clone(),
            name: limit.name.clone(),
            route: limit.route.clone(),
            counters: limit.counters.clone(),
        });
        let agreed = Agreed {
            id: Arc::clone(&id),
            terms: wire::terms(limit).map_err(|fault| format!("limit {:?}: {fault}", limit.name))?,
            version: limit.version,
        };
        if let Some(before) = self.by_number.insert(limit.number, agreed) {
            self.numbers.remove(&before.id);
        }
        self.numbers.insert(id, limit.number);
        Ok(())
    }

    fn recall(&self, recall: &Recall) -> Option<Result<lease_response::Message, Status>> {
        let limit = *self.numbers.get(&recall.limit)?;
        Some(Ok(lease_response::Message::Answers(v1::Answers {
            grants: Vec::new(),
            recalls: vec![v1::Recall {
                limit,
                key: wire::bytes(recall.key),
            }],
        })))
    }
}
