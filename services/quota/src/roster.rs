//! Which pods there are, and which there were.
//!
//! Pure: [`crate::pods`] tells it what the watch of the API server shows.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use trellis_rate::Moment;
use trellis_rate::lease::{self, Pod};

/// How long pods that have ended are remembered. After a change of the authority, limits with a longer window learn for a window.
const REMEMBERED: Duration = Duration::from_secs(25 * 3600);

/// A Microservice: namespace and name.
pub type Owner = (String, String);

/// The pods of all Microservices.
#[derive(Debug, Default)]
pub struct Roster {
    alive: HashMap<Pod, Owner>,
    by_owner: HashMap<Owner, HashSet<Pod>>,
    /// Oldest first.
    ended: VecDeque<(Moment, Pod, Owner)>,
    /// Since when no end was missed; None until everything was seen once.
    complete_since: Option<Moment>,
}

impl Roster {
    /// A pod exists. Says whether that is new.
    pub fn appeared(&mut self, pod: Pod, owner: Owner) -> bool {
        self.by_owner.entry(owner.clone()).or_default().insert(pod);
        self.alive.insert(pod, owner).is_none()
    }

    /// A pod is gone. Whose it was, if it was known.
    pub fn ended(&mut self, pod: Pod, now: Moment) -> Option<Owner> {
        let owner = self.alive.remove(&pod)?;
        if let Some(pods) = self.by_owner.get_mut(&owner) {
            pods.remove(&pod);
            if pods.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        self.ended.push_back((now, pod, owner.clone()));
        while self
            .ended
            .front()
            .is_some_and(|(at, ..)| at.after(REMEMBERED) < now)
        {
            self.ended.pop_front();
        }
        Some(owner)
    }

    /// The watch began anew and has shown all pods that there are, these; answers those that have ended meanwhile. Others may have
    /// come and gone unseen.
    pub fn relisted(&mut self, pods: &HashSet<Pod>, now: Moment) -> Vec<(Pod, Owner)> {
        self.complete_since = Some(now);
        let gone: Vec<Pod> = self
            .alive
            .keys()
            .filter(|pod| !pods.contains(pod))
            .copied()
            .collect();
        gone.into_iter()
            .filter_map(|pod| Some((pod, self.ended(pod, now)?)))
            .collect()
    }

    /// Whether everything was seen once.
    pub const fn is_complete(&self) -> bool {
        self.complete_since.is_some()
    }

    /// Whether a pod exists and is this Microservice's.
    pub fn has(&self, pod: Pod, owner: &Owner) -> bool {
        self.alive.get(&pod) == Some(owner)
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.alive.len()
    }

    /// Every pod.
    pub fn all(&self) -> impl Iterator<Item = Pod> {
        self.alive.keys().copied()
    }

    /// What a ledger has to know of a Microservice's pods: those of before the claim, and of these those that have not told.
    pub fn of(&self, owner: &Owner, epoch: &Epoch, now: Moment) -> lease::Roster {
        let untold = |pod: &Pod| epoch.pods.contains(pod) && !epoch.told.contains_key(pod);
        let alive = self.by_owner.get(owner).into_iter().flatten();
        let ended = self
            .ended
            .iter()
            .filter(|(at, pod, of)| of == owner && (*at < epoch.began || untold(pod)));
        // An earlier process of a pod that has told may have used something until the present one began.
        let of_owner = |pod: &Pod| self.alive.get(pod) == Some(owner);
        let restarted = epoch.told.iter().filter(|(pod, _)| of_owner(pod));
        lease::Roster {
            pods: alive.copied().filter(untold).collect(),
            ended: ended
                .map(|(at, pod, _)| (*pod, *at))
                .chain(restarted.map(|(pod, began)| (*pod, *began)))
                .collect(),
            watched_since: self.complete_since.unwrap_or(now).max(now.before(REMEMBERED)),
        }
    }
}

/// What is known of the pods from before an epoch.
#[derive(Debug, Default)]
pub struct Epoch {
    /// When it was claimed.
    pub began: Moment,
    /// All pods that there were just after. Others cannot have anything from before.
    pub pods: HashSet<Pod>,
    /// Those of them that have told all, and when their processes began.
    pub told: HashMap<Pod, Moment>,
    /// The policies that there were just after; None if that is not known.
    pub policies: Option<HashSet<String>>,
}

impl Epoch {
    /// Whether it was claimed before there was this policy: nobody else has granted on its limits. (Or after it was deleted, by a
    /// proxy that has not heard of that; a policy that is gone promises nothing.)
    pub fn is_before(&self, policy_uid: &str) -> bool {
        let is_new = |policies: &HashSet<String>| !policies.contains(policy_uid);
        !policy_uid.is_empty() && self.policies.as_ref().is_some_and(is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn order() -> Owner {
        ("shop".to_owned(), "order".to_owned())
    }

    /// One that began at 100 s, with these pods from before.
    fn epoch(pods: &[u64]) -> Epoch {
        Epoch {
            began: at(100),
            pods: pods.iter().map(|pod| Pod(*pod)).collect(),
            told: HashMap::new(),
            policies: None,
        }
    }

    #[test]
    fn pods_come_and_go_and_are_remembered_for_a_while() {
        let mut roster = Roster::default();
        assert!(!roster.is_complete());
        assert!(roster.appeared(Pod(1), order()) && !roster.appeared(Pod(1), order()));
        roster.appeared(Pod(2), order());
        assert_eq!(roster.relisted(&HashSet::from([Pod(1), Pod(2)]), at(10)), []);
        assert_eq!(roster.ended(Pod(2), at(20)), Some(order()));
        assert_eq!(roster.ended(Pod(3), at(20)), None);
        let known = roster.of(&order(), &epoch(&[1]), at(130));
        assert_eq!(known.pods, [Pod(1)]);
        assert_eq!(known.ended, [(Pod(2), at(20))]);
        assert_eq!(known.watched_since, at(10));

        let later = at(20).after(REMEMBERED).after(Duration::from_secs(1));
        roster.appeared(Pod(4), order());
        roster.ended(Pod(4), later);
        let known = roster.of(&order(), &epoch(&[1, 4]), later);
        assert_eq!(known.ended, [(Pod(4), later)]);
        assert_eq!(known.watched_since, at(21), "nothing is known of those before");
    }

    #[test]
    fn a_pod_that_came_after_the_claim_has_nothing_from_before() {
        let mut roster = Roster::default();
        roster.appeared(Pod(1), order());
        roster.relisted(&HashSet::from([Pod(1)]), at(10));
        for pod in [2, 3] {
            roster.appeared(Pod(pod), order());
        }
        roster.ended(Pod(3), at(120));
        let known = roster.of(&order(), &epoch(&[1]), at(130));
        assert_eq!((known.pods, known.ended), (vec![Pod(1)], vec![]));
    }

    #[test]
    fn a_pod_that_has_told_is_known_since_its_process_began() {
        let mut roster = Roster::default();
        roster.appeared(Pod(1), order());
        roster.appeared(Pod(2), order());
        let mut epoch = epoch(&[1, 2]);
        epoch.told.insert(Pod(1), at(5));
        let known = roster.of(&order(), &epoch, at(130));
        assert_eq!((known.pods, known.ended), (vec![Pod(2)], vec![(Pod(1), at(5))]));
        roster.ended(Pod(1), at(140));
        let known = roster.of(&order(), &epoch, at(140));
        assert_eq!(known.ended, [], "what it did since stands in the ledgers");
    }

    #[test]
    fn what_ended_while_nobody_looked_has_ended_when_that_is_seen() {
        let mut roster = Roster::default();
        roster.appeared(Pod(1), order());
        roster.relisted(&HashSet::from([Pod(1)]), at(1));
        let gone = roster.relisted(&HashSet::new(), at(50));
        assert_eq!(gone, [(Pod(1), order())]);
        let known = roster.of(&order(), &epoch(&[]), at(151));
        assert_eq!(known.ended, [(Pod(1), at(50))]);
        assert_eq!(known.watched_since, at(50), "another one may have come and gone");
        assert_eq!(roster.len(), 0);
    }
}
