//! All ledgers of an epoch: who has leased what.
//!
//! Pure but for the channels to the proxies: callers pass the time.
//!
//! Ledgers are made when somebody asks and dropped when nothing in them counts any more, so what is kept is bounded by what is in
//! use; beyond [`MOST_KEYS`], or [`MOST_KEYS_OF_OWNER`], nothing new is leased, and proxies do what their limit says of a loss.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use trellis_quota_stream::wire::KeyDigest;
use trellis_rate::Moment;
use trellis_rate::lease::{Authority, Epoch, Grant, Pod, Request, Start, Terms};

use crate::roster::{self, Owner, Roster};

/// Most ledgers: some 1 KiB each, in a container of 512 MiB.
const MOST_KEYS: usize = 250_000;
/// Most ledgers of one Microservice: a flood of made-up keys is its own affair.
const MOST_KEYS_OF_OWNER: usize = 50_000;
/// Time between two recalls of the same key.
const BETWEEN_RECALLS: Duration = Duration::from_millis(25);

/// Which limit of which Microservice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitId {
    /// Whose.
    pub owner: Owner,
    /// Name of the policy.
    pub policy: String,
    /// Which of that name; empty: not known.
    pub policy_uid: String,
    /// Name of the limit in it.
    pub name: String,
    /// Name of the route; empty: all requests.
    pub route: String,
    /// What keys are made of.
    pub counters: Vec<String>,
}

/// Keys that a proxy has asked about.
pub type Mentioned = HashSet<(Arc<LimitId>, Option<KeyDigest>)>;

/// There are too many keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

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
    /// What there was before the claim; None until that is known.
    epoch: Option<roster::Epoch>,
    limits: HashMap<Arc<LimitId>, Ledgers>,
    keys: usize,
    keys_of: HashMap<Owner, usize>,
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
            self.epoch = None;
            self.limits.clear();
            self.keys = 0;
            self.keys_of.clear();
            self.streams.clear();
        }
        self.claim = claim;
    }

    /// Whether this is the epoch of the claim.
    pub fn claims(&self, epoch: Epoch) -> bool {
        self.claim.is_some_and(|claim| claim.epoch == epoch)
    }

    /// The pods, and the uids of the policies if they are known, of lists that were asked for after the claim was made.
    pub fn listed(&mut self, epoch: Epoch, pods: Vec<(Pod, Owner)>, policies: Option<HashSet<String>>) {
        let Some(claim) = self.claim.filter(|claim| claim.epoch == epoch) else {
            return;
        };
        for (pod, owner) in pods {
            self.roster.appeared(pod, owner);
        }
        self.epoch = Some(roster::Epoch {
            began: claim.began,
            pods: self.roster.all().collect(),
            told: HashMap::new(),
            policies,
        });
    }

    /// The claim, if it holds and everything needed is known.
    pub fn holds(&self, now: Moment) -> Option<Claim> {
        let is_known = self.epoch.is_some() && self.roster.is_complete();
        self.claim.filter(|claim| now < claim.until && is_known)
    }

    /// The pods. Those that are gone are told by [`Self::pod_ended`].
    pub const fn roster(&mut self) -> &mut Roster {
        &mut self.roster
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
    ///
    /// # Errors
    /// There are too many keys.
    pub fn ask(
        &mut self,
        limit: &Agreed,
        key: Option<KeyDigest>,
        request: &Request,
        now: Moment,
    ) -> Result<Option<Grant>, Full> {
        let Agreed { id, .. } = limit;
        let Some((claim, epoch)) = self.holds(now).zip(self.epoch.as_ref()) else {
            return Ok(None);
        };
        if !self.roster.has(request.pod, &id.owner) {
            return Ok(None);
        }
        let ledgers = self
            .limits
            .entry(Arc::clone(id))
            .or_insert_with(|| Ledgers::new(limit));
        ledgers.agree(limit);
        if !ledgers.keys.contains_key(&key) {
            let of_owner = self.keys_of.entry(id.owner.clone()).or_default();
            if self.keys >= MOST_KEYS || *of_owner >= MOST_KEYS_OF_OWNER {
                self.counts.full += 1;
                return Err(Full);
            }
            *of_owner += 1;
            let start = if epoch.is_before(&id.policy_uid) {
                Start::First
            } else {
                Start::Successor(self.roster.of(&id.owner, epoch, now))
            };
            let authority = Authority::new(ledgers.terms, claim.epoch, start, claim.began, claim.until);
            let ledger = Ledger {
                authority,
                recalled_at: Moment::ORIGIN,
            };
            ledgers.keys.insert(key, ledger);
            self.keys += 1;
        }
        let Some(ledger) = ledgers.keys.get_mut(&key) else {
            return Ok(None);
        };
        ledger.authority.prolong(claim.until);
        let Some(grant) = ledger.authority.receive(request, now) else {
            return Ok(None);
        };
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
        Ok(Some(grant))
    }

    /// A pod has told all that it holds and has used: of these keys. Its process began then.
    pub fn told(&mut self, pod: Pod, owner: &Owner, keys: &Mentioned, began: Moment, now: Moment) {
        for (id, ledgers) in self.limits.iter_mut().filter(|(id, _)| id.owner == *owner) {
            for (key, ledger) in &mut ledgers.keys {
                ledger.authority.pod_told(pod, began);
                if !keys.contains(&(Arc::clone(id), *key)) {
                    ledger.authority.pod_let_go(pod, now);
                }
            }
        }
        if let Some(epoch) = &mut self.epoch
            && epoch.pods.contains(&pod)
        {
            epoch.told.entry(pod).or_insert(began);
        }
    }

    /// Forgets what does not count any more.
    pub fn sweep(&mut self, now: Moment) {
        for ledgers in self.limits.values_mut() {
            ledgers.keys.retain(|_, ledger| !ledger.authority.is_idle(now));
        }
        self.limits.retain(|_, ledgers| !ledgers.keys.is_empty());
        self.keys = self.limits.values().map(|ledgers| ledgers.keys.len()).sum();
        self.keys_of.clear();
        for (id, ledgers) in &self.limits {
            *self.keys_of.entry(id.owner.clone()).or_default() += ledgers.keys.len();
        }
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

    use trellis_rate::Usage;
    use trellis_rate::lease::{Client, Incarnation, OnLoss};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    /// Uid of a policy that is older than any claim.
    const OLD: &str = "old";

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn owner() -> Owner {
        ("shop".to_owned(), "order".to_owned())
    }

    /// The policies that are there at each claim.
    fn policies() -> Option<HashSet<String>> {
        Some(HashSet::from([OLD.to_owned()]))
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
            policy_uid: OLD.to_owned(),
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
        book.roster().relisted(&HashSet::new(), at(0));
        book.claimed(claim(1, at(0)));
        book.listed(
            Epoch(1),
            (1..=pods).map(|pod| (Pod(pod), owner())).collect(),
            policies(),
        );
        for pod in 1..=pods {
            book.told(Pod(pod), &owner(), &Mentioned::new(), at(0), at(0));
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
        let request = client.request(Usage::Passed(used), demand, whole, WINDOW, now);
        let grant = book.ask(&limit(100, 1), None, &request, now).unwrap()?;
        client.receive(&grant, now);
        client.share(now).map(|share| share.of(100))
    }

    #[test]
    fn nothing_is_granted_before_the_claim_and_before_all_pods_are_known() {
        let mut book = Book::default();
        assert_eq!(book.holds(at(1)), None);
        book.claimed(claim(1, at(0)));
        book.roster().relisted(&HashSet::new(), at(1));
        assert_eq!(book.holds(at(1)), None, "which pods there were is not known yet");
        book.listed(Epoch(2), Vec::new(), policies());
        assert_eq!(
            lease(&mut book, &mut client(1), 0, 1, at(1)),
            None,
            "it was not listed for this claim"
        );
        book.listed(Epoch(1), Vec::new(), policies());
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
            lease(&mut book, &mut one, 0, 84, now),
            Some(92),
            "and half of what nobody wants"
        );
        assert_eq!(lease(&mut book, &mut two, 0, 40, now), Some(8));
        assert_eq!(recalled.try_recv().unwrap().key, None);
        assert_eq!(lease(&mut book, &mut one, 5, 90, now), Some(60));
        assert_eq!(lease(&mut book, &mut one, 5, 90, now), Some(60));
        assert_eq!(lease(&mut book, &mut two, 0, 40, now), Some(40));
        assert_eq!(book.size().keys, 1);
    }

    #[test]
    fn a_policy_that_is_younger_than_the_claim_is_granted_on_at_once() {
        // Nobody has told, and nobody knows what has ended.
        let mut book = Book::default();
        book.roster().relisted(&HashSet::new(), at(0));
        let pods = || vec![(Pod(1), owner())];
        book.claimed(claim(1, at(0)));
        book.listed(Epoch(1), pods(), policies());
        let whole = NonZeroU32::new(100).unwrap();
        let granted = |book: &mut Book, policy_uid: &str, now: Moment| {
            let mut limit = limit(100, 1);
            Arc::make_mut(&mut limit.id).policy_uid = policy_uid.to_owned();
            let request = client(1).request(Usage::Passed(0), 100, whole, WINDOW, now);
            book.ask(&limit, None, &request, now).unwrap().unwrap().amount
        };
        assert_eq!(granted(&mut book, OLD, at(1)), 0);
        assert_eq!(granted(&mut book, "", at(1)), 0, "of an earlier release");
        assert_eq!(granted(&mut book, "new", at(1)), 100);
        // The next authority does not know what this one has granted.
        book.claimed(claim(2, at(2)));
        book.listed(Epoch(2), pods(), Some(HashSet::from(["new".to_owned()])));
        assert_eq!(granted(&mut book, "new", at(3)), 0);
        // Nor does one that could not list them.
        book.claimed(claim(3, at(4)));
        book.listed(Epoch(3), pods(), None);
        assert_eq!(granted(&mut book, "newer", at(5)), 0);
    }

    #[test]
    fn a_new_epoch_forgets_all_and_closes_the_streams() {
        let mut book = book(1);
        let (recalls, mut recalled) = mpsc::channel(4);
        book.listen(Pod(1), recalls);
        assert!(lease(&mut book, &mut client(1), 0, 10, at(1_000)).is_some());
        book.claimed(claim(2, at(1_001)));
        book.listed(Epoch(2), Vec::new(), policies());
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
    fn a_pod_that_came_after_the_claim_takes_nothing_from_the_others_before_it_asks() {
        let mut book = book(1);
        book.roster().appeared(Pod(2), owner());
        let now = at(1_000);
        assert_eq!(lease(&mut book, &mut client(1), 0, 100, now), Some(100));
        book.told(Pod(2), &owner(), &Mentioned::new(), now, now);
        book.roster().appeared(Pod(3), owner());
        let mut one = client(1).after(trellis_rate::lease::Sequence(1));
        assert_eq!(lease(&mut book, &mut one, 0, 100, now), Some(100));
    }

    #[test]
    fn what_a_pod_does_not_mention_when_it_tells_all_comes_back_a_window_later() {
        let mut book = book(2);
        let mut two = client(2);
        assert_eq!(lease(&mut book, &mut client(1), 0, 100, at(1_000)), Some(100));
        book.told(Pod(1), &owner(), &Mentioned::new(), at(0), at(1_001));
        assert_eq!(lease(&mut book, &mut two, 0, 100, at(1_060)), Some(0));
        assert_eq!(lease(&mut book, &mut two, 0, 100, at(1_062)), Some(100));
    }

    #[test]
    fn one_services_flood_of_keys_leaves_room_for_others() {
        let mut book = book(1);
        let whole = NonZeroU32::new(100).unwrap();
        let mut ask = |limit: &Agreed, key: u64| {
            let mut one = client(1);
            let request = one.request(Usage::Passed(0), 1, whole, WINDOW, at(1_000));
            let digest: KeyDigest = u128::from(key).to_be_bytes();
            book.ask(limit, Some(digest), &request, at(1_000))
        };
        for key in 0..MOST_KEYS_OF_OWNER as u64 {
            ask(&limit(100, 1), key).unwrap();
        }
        assert_eq!(ask(&limit(100, 1), u64::MAX), Err(Full));
        assert!(ask(&limit(100, 1), 0).is_ok(), "one that is there already");
    }

    #[test]
    fn the_terms_of_the_newest_document_hold() {
        let mut book = book(1);
        let whole = NonZeroU32::new(100).unwrap();
        let mut one = client(1);
        let mut ask = |limit: &Agreed, seconds| {
            let request = one.request(Usage::Passed(0), 100, whole, WINDOW, at(seconds));
            let grant = book.ask(limit, None, &request, at(seconds)).unwrap().unwrap();
            one.receive(&grant, at(seconds));
            (grant.amount, grant.whole.get())
        };
        assert_eq!(ask(&limit(100, 1), 1_000), (100, 100));
        assert_eq!(ask(&limit(50, 3), 1_001), (50, 50));
        assert_eq!(ask(&limit(70, 2), 1_002), (50, 50), "of an earlier document");
    }
}
