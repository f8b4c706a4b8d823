//! What proxies said to their documents, as far as this replica knows.
//!
//! ```text
//! session of a proxy --------> Connected --\
//!                                           > Answers --(coalesced)--> triggers --> a pass puts them into the status
//! report of another replica -> Reported ---/     \------(batched)----> report to the leader
//! ```
//!
//! Every replica keeps this of its own proxies; the leader also what the others report (see `report`). Who goes is
//! counted for [`GRACE`] more, so that a proxy that changes replicas, or a report that is taken up again, shows nowhere.
//! Nothing is stored: after a restart the proxies connect again and say what they run by.
//!
//! Bounded: one entry a proxy that holds a stream, texts cut.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc},
    time,
};
use trellis_operator_desired::microservice::{Answer, Refused};

use crate::{key::Key, queue::Cause, workers::Trigger};

/// For how long one that went is counted. A proxy comes back within 10 s, if it does.
const GRACE: Duration = Duration::from_secs(30);
/// Time between looks at who went.
const SWEEP: Duration = Duration::from_secs(5);
/// Answers to one document come together; a Microservice is due once for those of this long.
const COALESCE: Duration = Duration::from_millis(500);
/// Longest name of a pod, and of anything else in Kubernetes.
const LONGEST_NAME: usize = 253;
/// Longest digest; ours have 16 characters.
const LONGEST_DIGEST: usize = 64;
/// Longest text of a fault that is kept.
const LONGEST_FAULT: usize = 500;

/// What proxies said.
#[derive(Debug, Default)]
pub struct Answers {
    inner: Mutex<Inner>,
    has_due: Notify,
    has_unreported: Notify,
}

/// Namespace and name of a Microservice, and the pod.
pub type ProxyKey = (Key, String);

/// A proxy that holds a stream to this replica; gone when dropped.
#[derive(Debug)]
pub struct Connected {
    answers: Arc<Answers>,
    source: Source,
    proxy: ProxyKey,
    answer: Answer,
}

/// Another replica's report; what it told goes when this is dropped.
#[derive(Debug)]
pub struct Reported {
    answers: Arc<Answers>,
    source: Source,
    most: usize,
    told: BTreeSet<ProxyKey>,
}

/// This replica's report to the leader: changes are kept for it until it is dropped.
#[derive(Debug)]
pub struct Report<'a>(&'a Answers);

#[derive(Debug, Default)]
struct Inner {
    microservices: HashMap<Key, BTreeMap<String, Entry>>,
    sources: u64,
    /// Microservices of which something changed.
    due: BTreeSet<Key>,
    /// Own proxies of which something changed. None: nobody reports.
    unreported: Option<BTreeSet<ProxyKey>>,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    answer: Answer,
    /// When it is forgotten, for one that went.
    until: Option<Instant>,
}

/// Who an entry is from. A later one replaces an earlier one; who went takes nothing along that is another's by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Session(u64),
    Report(u64),
}

impl Answers {
    /// Takes in that a proxy connected and what it runs by.
    pub fn connected(self: &Arc<Self>, key: Key, pod: &str, digest: &str) -> Connected {
        let proxy = (key, cut(pod, LONGEST_NAME));
        let mut inner = self.lock();
        let source = Source::Session(inner.next_source());
        let in_use = cut(digest, LONGEST_DIGEST);
        // It gets a document that it refused once more and will refuse it again; nothing is new until then.
        let refused = inner
            .get(&proxy)
            .filter(|known| known.answer.in_use == in_use)
            .and_then(|known| known.answer.refused.clone());
        let answer = Answer { in_use, refused };
        inner.set(&proxy, source, answer.clone());
        drop(inner);
        self.wake();
        Connected {
            answers: Arc::clone(self),
            source,
            proxy,
            answer,
        }
    }

    /// Starts to take in what another replica reports, of at most so many proxies.
    pub fn reported(self: &Arc<Self>, most: usize) -> Reported {
        Reported {
            answers: Arc::clone(self),
            source: Source::Report(self.lock().next_source()),
            most,
            told: BTreeSet::new(),
        }
    }

    /// What the proxies of a Microservice said, by pod.
    pub fn of(&self, key: &Key) -> BTreeMap<String, Answer> {
        let inner = self.lock();
        let entries = inner.microservices.get(key).into_iter().flatten();
        entries
            .map(|(pod, entry)| (pod.clone(), entry.answer.clone()))
            .collect()
    }

    /// Starts a report, the only one at a time: every proxy that is connected to this replica now.
    /// [`Report::unreported`] has what comes after.
    pub fn start_report(&self) -> (Report<'_>, Vec<(ProxyKey, Answer)>) {
        let mut inner = self.lock();
        inner.unreported = Some(BTreeSet::new());
        let own = |entry: &Entry| matches!(entry.source, Source::Session(_)) && entry.until.is_none();
        let microservices = inner.microservices.iter();
        let start = microservices
            .flat_map(|(key, pods)| pods.iter().map(move |(pod, entry)| (key, pod, entry)))
            .filter(|(_, _, entry)| own(entry))
            .map(|(key, pod, entry)| ((key.clone(), pod.clone()), entry.answer.clone()))
            .collect();
        drop(inner);
        (Report(self), start)
    }

    /// Makes Microservices due of which something changed, for ever.
    pub async fn trigger(self: Arc<Self>, triggers: mpsc::UnboundedSender<Trigger>) {
        let mut sweep = time::interval(SWEEP);
        loop {
            tokio::select! {
                () = self.has_due.notified() => time::sleep(COALESCE).await,
                _ = sweep.tick() => {
                    self.lock().sweep(Instant::now());
                    self.wake();
                    continue;
                }
            }
            let due = std::mem::take(&mut self.lock().due);
            for key in due {
                // Nobody listens any more only when the process ends.
                let _ = triggers.send((key, Cause::Event));
            }
        }
    }

    fn wake(&self) {
        let inner = self.lock();
        if !inner.due.is_empty() {
            self.has_due.notify_one();
        }
        if inner
            .unreported
            .as_ref()
            .is_some_and(|changes| !changes.is_empty())
        {
            self.has_unreported.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report<'_> {
    /// Waits until something was not reported yet, and for `batch` more. None: the proxy is gone.
    pub async fn unreported(&self, batch: Duration) -> Vec<(ProxyKey, Option<Answer>)> {
        loop {
            self.0.has_unreported.notified().await;
            time::sleep(batch).await;
            let changes = self.0.lock().take_unreported();
            if !changes.is_empty() {
                return changes;
            }
        }
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        // Nobody would ever take it: a replica that leads reports to nobody, and the next report starts with everything.
        self.0.lock().unreported = None;
    }
}

impl Connected {
    /// The proxy runs by a document.
    pub fn acknowledged(&mut self, version: u64, digest: &str) {
        self.answer.in_use = cut(digest, LONGEST_DIGEST);
        // It may say so of an older one too, which a replica sent whose watch lags.
        self.answer.refused.take_if(|refused| refused.version <= version);
        self.tell();
    }

    /// The proxy refused a document.
    pub fn refused(&mut self, version: u64, digest: &str, fault: &str) {
        self.answer.refused = Some(refused(version, digest, fault));
        self.tell();
    }

    fn tell(&self) {
        self.answers
            .lock()
            .set(&self.proxy, self.source, self.answer.clone());
        self.answers.wake();
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.answers
            .lock()
            .leave(&self.proxy, self.source, Instant::now());
    }
}

impl Reported {
    /// Takes in what the replica says of a proxy; None: it is gone. False: it is one too many.
    pub fn told(&mut self, proxy: ProxyKey, answer: Option<Answer>) -> bool {
        let mut inner = self.answers.lock();
        match answer {
            None => {
                self.told.remove(&proxy);
                inner.remove(&proxy, self.source);
            }
            Some(_) if self.told.len() >= self.most && !self.told.contains(&proxy) => return false,
            Some(answer) => {
                inner.set(&proxy, self.source, answer);
                self.told.insert(proxy);
            }
        }
        drop(inner);
        self.answers.wake();
        true
    }
}

impl Drop for Reported {
    fn drop(&mut self) {
        let mut inner = self.answers.lock();
        for proxy in &self.told {
            inner.leave(proxy, self.source, Instant::now());
        }
    }
}

impl Inner {
    const fn next_source(&mut self) -> u64 {
        self.sources += 1;
        self.sources
    }

    fn get(&self, (key, pod): &ProxyKey) -> Option<&Entry> {
        self.microservices.get(key)?.get(pod)
    }

    fn set(&mut self, proxy: &ProxyKey, source: Source, answer: Answer) {
        let known = self.get(proxy);
        let news = known.is_none_or(|known| known.answer != answer);
        // That it moved here is news for the leader only: what the leader heard before goes with the session before.
        let moved = known.is_none_or(|known| known.source != source || known.until.is_some());
        if news {
            self.due.insert(proxy.0.clone());
        }
        if let (Source::Session(_), Some(unreported)) = (source, &mut self.unreported)
            && (news || moved)
        {
            unreported.insert(proxy.clone());
        }
        let entry = Entry {
            source,
            answer,
            until: None,
        };
        self.microservices
            .entry(proxy.0.clone())
            .or_default()
            .insert(proxy.1.clone(), entry);
    }

    fn leave(&mut self, (key, pod): &ProxyKey, source: Source, now: Instant) {
        let entry = self.microservices.get_mut(key).and_then(|pods| pods.get_mut(pod));
        if let Some(entry) = entry.filter(|entry| entry.source == source) {
            entry.until = Some(now + GRACE);
        }
    }

    fn remove(&mut self, proxy: &ProxyKey, source: Source) {
        if self.get(proxy).is_none_or(|entry| entry.source != source) {
            return;
        }
        let (key, pod) = proxy;
        if let Some(pods) = self.microservices.get_mut(key) {
            pods.remove(pod);
            if pods.is_empty() {
                self.microservices.remove(key);
            }
        }
        self.due.insert(key.clone());
        if let (Source::Session(_), Some(unreported)) = (source, &mut self.unreported) {
            unreported.insert(proxy.clone());
        }
    }

    fn sweep(&mut self, now: Instant) {
        let gone: Vec<(ProxyKey, Source)> = self
            .microservices
            .iter()
            .flat_map(|(key, pods)| pods.iter().map(move |(pod, entry)| (key, pod, entry)))
            .filter(|(_, _, entry)| entry.until.is_some_and(|until| until <= now))
            .map(|(key, pod, entry)| ((key.clone(), pod.clone()), entry.source))
            .collect();
        for (proxy, source) in gone {
            self.remove(&proxy, source);
        }
    }

    fn take_unreported(&mut self) -> Vec<(ProxyKey, Option<Answer>)> {
        let changes = self.unreported.as_mut().map(std::mem::take).unwrap_or_default();
        changes
            .into_iter()
            .map(|proxy| {
                let answer = self.get(&proxy).map(|entry| entry.answer.clone());
                (proxy, answer)
            })
            .collect()
    }
}

/// A refusal with texts of bounded length.
pub fn refused(version: u64, digest: &str, fault: &str) -> Refused {
    Refused {
        version,
        digest: cut(digest, LONGEST_DIGEST),
        fault: cut(fault, LONGEST_FAULT),
    }
}

/// The key of a proxy of another replica; None if its names are none.
pub fn proxy_key(namespace: String, microservice: String, pod: String) -> Option<ProxyKey> {
    let names = [&namespace, &microservice, &pod];
    let good = names.iter().all(|name| (1..=LONGEST_NAME).contains(&name.len()));
    good.then(|| (Key::new(namespace, microservice), pod))
}

/// What a proxy of another replica runs by.
pub fn in_use(digest: &str) -> String {
    cut(digest, LONGEST_DIGEST)
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests;
