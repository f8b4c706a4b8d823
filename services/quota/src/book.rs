//! All ledgers of an epoch: who has leased what.
//!
//! Pure but for the channels to the proxies: callers pass the time.
//!
//! Ledgers are made when somebody asks and dropped when nothing in them counts any more, so what is kept is bounded by what is in
//! use; beyond [`MOST_KEYS`] nothing new is leased, and proxies do what their limit says of a loss.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use trellis_quota_stream::wire::KeyDigest;
use trellis_rate::Moment;
use trellis_rate::lease::{Authority, Epoch, Grant, Pod, Request, Start, Terms};

use crate::roster::{Owner, Roster};

/// Most ledgers.
const MOST_KEYS: usize = 1_000_000;
/// Time between two recalls of the same key.
const BETWEEN_RECALLS: Duration = Duration::from_millis(100);

/// Which limit of which Microservice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitId {
    /// Whose.
    pub owner: Owner,
    /// Name of the policy.
    pub policy: String,
    /// Name of the limit in it.
    pub name: String,
    /// Name of the route; empty: all requests.
    pub route: String,
    /// What keys are made of.
    pub counters: Vec<String>,
}

/// A limit, on the terms of a document.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// Which.
    pub id: Arc<LimitId>,
    /// What is leased.
    pub terms: Terms,
    /// The document's version.
    pub version: u64,
}

/// What a proxy is to ask for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    /// The limit.
    pub limit: Arc<LimitId>,
    /// The key, if it has any.
    pub key: Option<KeyDigest>,
}

/// The claim by which leases are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose turn it is.
    pub epoch: Epoch,
    /// When it was made.
    pub began: Moment,
    /// Until when it holds.
    pub until: Moment,
}

/// What is leased.
#[derive(Debug, Default)]
pub struct Book {
    claim: Option<Claim>,
    roster: Roster,
    limits: HashMap<Arc<LimitId>, Ledgers>,
    keys: usize,
    /// Of each Microservice the pods that have told all in this epoch, and when their processes began.
    told: HashMap<Owner, HashMap<Pod, Moment>>,
    /// Where the proxy of a pod listens, and which of its streams that is.
    streams: HashMap<Pod, (u64, mpsc::Sender<Recall>)>,
    next_stream: u64,
    /// What happened, for metrics.
    pub counts: Counts,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered.
    pub grants: u64,
    /// Recalls sent.
    pub recalls: u64,
    /// Requests not answered since there are too many keys.
    pub full: u64,
}

/// The ledgers of one limit.
#[derive(Debug)]
struct Ledgers {
    terms: Terms,
    version: u64,
    keys: HashMap<Option<KeyDigest>, Ledger>,
}

#[derive(Debug)]
struct Ledger {
    authority: Authority,
    recalled_at: Moment,
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Limits.
    pub limits: usize,
    /// Ledgers.
    pub keys: usize,
    /// Streams of proxies.
    pub streams: usize,
    /// Pods that exist.
    pub pods: usize,
}

impl Book {
    /// Another claim, or the same for longer, or none any more. What was leased under an earlier one is forgotten: proxies tell.
    pub fn claimed(&mut self, claim: Option<Claim>) {
        if self.claim.map(|claim| claim.epoch) != claim.map(|claim| claim.epoch) {
            self.limits.clear();
            self.keys = 0;
            self.told.clear();
            self.streams.clear();
        }
        self.claim = claim;
    }

    /// The claim, if it holds and everything needed is known.
    pub fn holds(&self, now: Moment) -> Option<Claim> {
        self.claim
            .filter(|claim| now < claim.until && self.roster.is_complete())
    }

    /// The pods, to be told of changes by [`Self::pod_appeared`] and [`Self::pod_ended`].
    pub const fn roster(&mut self) -> &mut Roster {
        &mut self.roster
    }

    /// A pod exists.
    pub fn pod_appeared(&mut self, pod: Pod, owner: &Owner) {
        if self.roster.appeared(pod, owner.clone()) {
            for ledger in self.ledgers_of(owner) {
                ledger.authority.pod_appeared(pod);
            }
        }
    }

    /// A pod is gone.
    pub fn pod_ended(&mut self, pod: Pod, now: Moment) {
        if let Some(owner) = self.roster.ended(pod, now) {
            self.close(pod, &owner, now);
        }
    }

    /// A pod that the roster has forgotten already.
    pub fn close(&mut self, pod: Pod, owner: &Owner, now: Moment) {
        for ledger in self.ledgers_of(owner) {
            ledger.authority.pod_ended(pod, now);
        }
        self.streams.remove(&pod);
    }

    fn ledgers_of(&mut self, owner: &Owner) -> impl Iterator<Item = &mut Ledger> {
        let limits = self.limits.iter_mut().filter(move |(id, _)| id.owner == *owner);
        limits.flat_map(|(_, ledgers)| ledgers.keys.values_mut())
    }

    /// A proxy listens; one that did before for the same pod does no more.
    pub fn listen(&mut self, pod: Pod, recalls: mpsc::Sender<Recall>) -> u64 {
        self.next_stream += 1;
        self.streams.insert(pod, (self.next_stream, recalls));
        self.next_stream
    }

    /// A proxy listens no more.
    pub fn leave(&mut self, pod: Pod, stream: u64) {
        if self
            .streams
            .get(&pod)
            .is_some_and(|(current, _)| *current == stream)
        {
            self.streams.remove(&pod);
        }
    }

    /// Answers a request; None if it is out of date, or nothing can be granted at all.
    pub fn ask(
        &mut self,
        limit: &Agreed,
        key: Option<KeyDigest>,
        request: &Request,
        now: Moment,
    ) -> Option<Grant> {
        let claim = self.holds(now)?;
        let Agreed { id, .. } = limit;
        let ledgers = self
            .limits
            .entry(Arc::clone(id))
            .or_insert_with(|| Ledgers::new(limit));
        ledgers.agree(limit);
        if !ledgers.keys.contains_key(&key) {
            if self.keys >= MOST_KEYS {
                self.counts.full += 1;
                return None;
            }
            let empty = HashMap::new();
            let told = self.told.get(&id.owner).unwrap_or(&empty);
            let start = Start::Successor(self.roster.of(&id.owner, told, now));
            let authority = Authority::new(ledgers.terms, claim.epoch, start, claim.began, claim.until);
            let ledger = Ledger {
                authority,
                recalled_at: Moment::ORIGIN,
            };
            ledgers.keys.insert(key, ledger);
            self.keys += 1;
        }
        let ledger = ledgers.keys.get_mut(&key)?;
        ledger.authority.prolong(claim.until);
        let grant = ledger.authority.receive(request, now)?;
        self.counts.grants += 1;
        let wants_more = !grant.is_renewal && grant.amount < request.demand_of(grant.whole);
        if wants_more && now >= ledger.recalled_at.after(BETWEEN_RECALLS) {
            ledger.recalled_at = now;
            for pod in ledger.authority.overdrawn(now) {
                let recall = Recall {
                    limit: Arc::clone(id),
                    key,
                };
                if pod != request.pod
                    && let Some((_, stream)) = self.streams.get(&pod)
                    // A proxy that does not read asks again in its own time.
                    && stream.try_send(recall).is_ok()
                {
                    self.counts.recalls += 1;
                }
            }
        }
        Some(grant)
    }

    /// A pod has told all that it holds and has used, on every limit. Its process began then.
    pub fn told(&mut self, pod: Pod, owner: &Owner, began: Moment) {
        for ledger in self.ledgers_of(owner) {
            ledger.authority.pod_told(pod, began);
        }
        let told = self.told.entry(owner.clone()).or_default();
        told.entry(pod).or_insert(began);
    }

    /// Forgets what does not count any more.
    pub fn sweep(&mut self, now: Moment) {
        for ledgers in self.limits.values_mut() {
            ledgers.keys.retain(|_, ledger| !ledger.authority.is_idle(now));
        }
        self.limits.retain(|_, ledgers| !ledgers.keys.is_empty());
        self.keys = self.limits.values().map(|ledgers| ledgers.keys.len()).sum();
        let roster = &self.roster;
        self.told.retain(|owner, told| {
            // Those that have ended are in the roster's memory, which has to know that they told.
            told.retain(|pod, _| roster.remembers(*pod, owner));
            !told.is_empty()
        });
    }

    /// How full it is.
    pub fn size(&self) -> Size {
        Size {
            limits: self.limits.len(),
            keys: self.keys,
            streams: self.streams.len(),
            pods: self.roster.len(),
        }
    }
}

impl Ledgers {
    fn new(limit: &Agreed) -> Self {
        Self {
            terms: limit.terms,
            version: limit.version,
            keys: HashMap::new(),
        }
    }

    /// Goes by these terms, if they are not from an earlier document.
    fn agree(&mut self, limit: &Agreed) {
        if limit.version < self.version {
            return;
        }
        self.version = limit.version;
        if self.terms != limit.terms {
            self.terms = limit.terms;
            for ledger in self.keys.values_mut() {
                ledger.authority.change(limit.terms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use trellis_rate::lease::{Client, Incarnation, OnLoss};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn owner() -> Owner {
        ("shop".to_owned(), "order".to_owned())
    }

    fn claim(epoch: u64, began: Moment) -> Option<Claim> {
        Some(Claim {
            epoch: Epoch(epoch),
            began,
            until: began.after(Duration::from_secs(10_000)),
        })
    }

    fn limit(whole: u32, version: u64) -> Agreed {
        let id = LimitId {
            owner: owner(),
            policy: "limits".to_owned(),
            name: "all".to_owned(),
            route: String::new(),
            counters: Vec::new(),
        };
        let terms = Terms {
            limit: NonZeroU32::new(whole).unwrap(),
            window: WINDOW,
            length: Duration::from_secs(30),
            replicas: NonZeroU32::new(4).unwrap(),
            on_loss: OnLoss::Share,
        };
        Agreed {
            id: Arc::new(id),
            terms,
            version,
        }
    }

    /// A book of an epoch that has begun long ago, with so many pods that have told.
    fn book(pods: u64) -> Book {
        let mut book = Book::default();
        book.roster().relisted(&Default::default(), at(0));
        book.claimed(claim(1, at(0)));
        for pod in 1..=pods {
            book.pod_appeared(Pod(pod), &owner());
            book.told(Pod(pod), &owner(), at(0));
        }
        book
    }

    fn client(pod: u64) -> Client {
        let mut client = Client::new(Pod(pod), Incarnation(1), OnLoss::Share, at(0));
        client.see(Epoch(1));
        client
    }

    /// Asks for a part of 100 and is answered; what may be used then.
    fn lease(book: &mut Book, client: &mut Client, used: u32, demand: u32, now: Moment) -> Option<u32> {
        let whole = NonZeroU32::new(100).unwrap();
        let request = client.request(used, demand, whole, now);
        let grant = book.ask(&limit(100, 1), None, &request, now)?;
        client.receive(&grant, now);
        client.share(now).map(|share| share.of(100))
    }

    #[test]
    fn nothing_is_granted_before_the_claim_and_before_all_pods_are_known() {
        let mut book = Book::default();
        assert_eq!(book.holds(at(1)), None);
        book.claimed(claim(1, at(0)));
        assert_eq!(book.holds(at(1)), None, "no pod is known yet");
        assert_eq!(lease(&mut book, &mut client(1), 0, 1, at(1)), None);
        book.roster().relisted(&Default::default(), at(2));
        assert_eq!(book.holds(at(2)).map(|claim| claim.epoch), Some(Epoch(1)));
        book.claimed(None);
        assert_eq!(book.holds(at(2)), None);
    }

    #[test]
    fn pods_that_have_told_get_their_shares_at_once_and_who_has_too_much_is_called_back() {
        let mut book = book(2);
        let (mut one, mut two) = (client(1), client(2));
        let (recalls, mut recalled) = mpsc::channel(4);
        book.listen(Pod(1), recalls);
        let now = at(1_000);
        assert_eq!(
            lease(&mut book, &mut one, 0, 90, now),
            Some(92),
            "and a part of what nobody wants"
        );
        assert_eq!(lease(&mut book, &mut two, 0, 40, now), Some(8));
        assert_eq!(recalled.try_recv().unwrap().key, None);
        assert_eq!(lease(&mut book, &mut one, 5, 90, now), Some(60));
        assert_eq!(lease(&mut book, &mut one, 5, 90, now), Some(60));
        assert_eq!(lease(&mut book, &mut two, 0, 40, now), Some(40));
        assert_eq!(book.size().keys, 1);
    }

    #[test]
    fn a_new_epoch_forgets_all_and_closes_the_streams() {
        let mut book = book(1);
        let (recalls, mut recalled) = mpsc::channel(4);
        book.listen(Pod(1), recalls);
        assert!(lease(&mut book, &mut client(1), 0, 10, at(1_000)).is_some());
        book.claimed(claim(2, at(1_001)));
        assert!(recalled.blocking_recv().is_none());
        assert_eq!(book.size().keys, 0);
        // The pod has not told in this epoch: nothing is known of what it has.
        assert_eq!(lease(&mut book, &mut client(1), 0, 10, at(1_001)), Some(0));
    }

    #[test]
    fn a_pod_that_is_gone_gives_its_part_back_a_window_later_and_ledgers_at_rest_go() {
        let mut book = book(2);
        let mut two = client(2);
        assert_eq!(lease(&mut book, &mut client(1), 0, 100, at(1_000)), Some(100));
        book.pod_ended(Pod(1), at(1_001));
        assert_eq!(lease(&mut book, &mut two, 0, 100, at(1_060)), Some(0));
        assert_eq!(lease(&mut book, &mut two, 0, 100, at(1_062)), Some(100));
        for _ in 0..2 {
            assert_eq!(lease(&mut book, &mut two, 0, 0, at(1_063)), Some(0));
        }
        book.sweep(at(1_063));
        assert_eq!(book.size().keys, 0);
    }

    #[test]
    fn the_terms_of_the_newest_document_hold() {
        let mut book = book(1);
        let whole = NonZeroU32::new(100).unwrap();
        let mut one = client(1);
        let mut ask = |limit: &Agreed, seconds| {
            let request = one.request(0, 100, whole, at(seconds));
            let grant = book.ask(limit, None, &request, at(seconds)).unwrap();
            one.receive(&grant, at(seconds));
            (grant.amount, grant.whole.get())
        };
        assert_eq!(ask(&limit(100, 1), 1_000), (100, 100));
        assert_eq!(ask(&limit(50, 3), 1_001), (50, 50));
        assert_eq!(ask(&limit(70, 2), 1_002), (50, 50), "of an earlier document");
    }
}
