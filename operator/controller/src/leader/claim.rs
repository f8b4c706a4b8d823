//! When a lease may be claimed: pure; callers pass both clocks.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use trellis_api::names;

/// Who claims the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the replica.
    pub identity: String,
    /// Where it serves the stream, if others can know; it stands in the Lease while it leads.
    pub address: Option<String>,
}

/// One candidate's view of the lease.
#[derive(Debug)]
pub struct Claim {
    candidate: Candidate,
    duration: Duration,
    /// Version of the lease that was seen last, and when it was seen first.
    seen: Option<(String, Instant)>,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// There is none: make this one. It fails if another candidate makes one meanwhile.
    Create(Lease),
    /// It is ours, free or dead: replace it by this one. It fails if it changed meanwhile.
    Update(Lease),
    /// Another holds it.
    Wait {
        /// The other.
        holder: Candidate,
        /// For how long at most, unless it is renewed.
        dead_in: Duration,
    },
}

impl Claim {
    /// A candidate that has seen nothing yet.
    pub const fn new(candidate: Candidate, duration: Duration) -> Self {
        Self {
            candidate,
            duration,
            seen: None,
        }
    }

    /// Who claims.
    pub fn identity(&self) -> &str {
        &self.candidate.identity
    }

    /// What to do about the lease as it was read at `now`; `time` is what is written for people to read.
    pub fn decide(&mut self, lease: Option<&Lease>, now: Instant, time: Timestamp) -> Decision {
        let Some(lease) = lease else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(super::LEASE.to_owned());
            lease.spec = Some(self.spec(None, time));
            self.publish_address(&mut lease);
            return Decision::Create(lease);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => now,
        };
        self.seen = Some((version, since));

        let spec = lease.spec.clone().unwrap_or_default();
        let holder = holder(lease);
        let length = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.duration, Duration::from_secs);
        let dead_in = (since + length).saturating_duration_since(now);
        if !(holder.identity.is_empty() || holder.identity == self.identity() || dead_in.is_zero()) {
            return Decision::Wait { holder, dead_in };
        }
        let mut next = lease.clone();
        next.spec = Some(self.spec(Some(&spec), time));
        self.publish_address(&mut next);
        Decision::Update(next)
    }

    /// The lease given back; None if it is not ours.
    pub fn released(&self, lease: &Lease) -> Option<Lease> {
        let mut lease = lease.clone();
        let spec = lease.spec.as_mut()?;
        (spec.holder_identity.as_deref() == Some(self.identity())).then(|| spec.holder_identity = None)?;
        if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(names::ANNOTATION_STREAM_ADDRESS);
        }
        Some(lease)
    }

    /// Puts the own address in the place of that of the holder before.
    fn publish_address(&self, lease: &mut Lease) {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        match &self.candidate.address {
            Some(address) => annotations.insert(names::ANNOTATION_STREAM_ADDRESS.to_owned(), address.clone()),
            None => annotations.remove(names::ANNOTATION_STREAM_ADDRESS),
        };
    }

    fn spec(&self, before: Option<&LeaseSpec>, time: Timestamp) -> LeaseSpec {
        let renewal = before.filter(|spec| spec.holder_identity.as_deref() == Some(self.identity()));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity().to_owned()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: renewal
                .and_then(|spec| spec.acquire_time.clone())
                .or(Some(MicroTime(time))),
            renew_time: Some(MicroTime(time)),
            lease_transitions: Some(
                transitions.saturating_add(i32::from(before.is_some() && renewal.is_none())),
            ),
            ..LeaseSpec::default()
        }
    }
}

/// Who holds a lease; nobody if the identity is empty.
pub fn holder(lease: &Lease) -> Candidate {
    let spec = lease.spec.as_ref();
    let annotations = lease.metadata.annotations.as_ref();
    Candidate {
        identity: spec
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default(),
        address: annotations
            .and_then(|annotations| annotations.get(names::ANNOTATION_STREAM_ADDRESS))
            .cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(15);

    fn claim(identity: &str) -> Claim {
        let candidate = Candidate {
            identity: identity.to_owned(),
            address: Some(format!("http://{identity}:15010")),
        };
        Claim::new(candidate, LENGTH)
    }

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.spec = Some(claim(holder).spec(None, Timestamp::UNIX_EPOCH));
        claim(holder).publish_address(&mut lease);
        lease
    }

    fn decide(claim: &mut Claim, lease: &Lease, now: Instant) -> Option<LeaseSpec> {
        match claim.decide(Some(lease), now, Timestamp::UNIX_EPOCH) {
            Decision::Update(lease) => lease.spec,
            Decision::Create(_) | Decision::Wait { .. } => None,
        }
    }

    #[test]
    fn no_lease_is_made_with_us_as_holder() {
        let decision = claim("a").decide(None, Instant::now(), Timestamp::UNIX_EPOCH);
        let Decision::Create(lease) = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("a"));
    }

    #[test]
    fn a_lease_of_another_is_dead_when_it_did_not_change_for_its_length_on_our_clock() {
        let (mut claim, now) = (claim("b"), Instant::now());
        assert_eq!(decide(&mut claim, &lease("a", "1"), now), None);
        assert_eq!(decide(&mut claim, &lease("a", "1"), now + LENGTH / 2), None);
        assert_eq!(
            decide(&mut claim, &lease("a", "2"), now + LENGTH),
            None,
            "it was renewed"
        );
        assert_eq!(decide(&mut claim, &lease("a", "2"), now + LENGTH * 3 / 2), None);
        let taken = decide(&mut claim, &lease("a", "2"), now + LENGTH * 2).unwrap();
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(taken.lease_transitions, Some(1));
    }

    #[test]
    fn it_is_known_when_a_lease_will_be_dead() {
        let (mut claim, now) = (claim("b"), Instant::now());
        let mut left = |after: Duration| match claim.decide(
            Some(&lease("a", "1")),
            now + after,
            Timestamp::UNIX_EPOCH,
        ) {
            Decision::Wait { dead_in, .. } => Some(dead_in),
            Decision::Create(_) | Decision::Update(_) => None,
        };
        assert_eq!(left(Duration::ZERO), Some(LENGTH));
        assert_eq!(
            left(LENGTH - Duration::from_millis(1)),
            Some(Duration::from_millis(1))
        );
        assert_eq!(left(LENGTH), None);
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let (leader, mut standby) = (claim("a"), claim("b"));
        let given_back = leader.released(&lease("a", "1")).unwrap();
        assert!(decide(&mut standby, &given_back, Instant::now()).is_some());
        assert_eq!(standby.released(&lease("a", "1")), None, "not ours to give back");
    }

    #[test]
    fn the_lease_says_where_its_holder_is_and_nothing_once_it_was_given_back() {
        let (mut standby, now) = (claim("b"), Instant::now());
        let Decision::Wait { holder: leader, .. } =
            standby.decide(Some(&lease("a", "1")), now, Timestamp::UNIX_EPOCH)
        else {
            panic!("taken")
        };
        assert_eq!(leader.address.as_deref(), Some("http://a:15010"));
        let given_back = claim("a").released(&lease("a", "1")).unwrap();
        assert_eq!(holder(&given_back).address, None);
        let taken = standby.decide(Some(&given_back), now, Timestamp::UNIX_EPOCH);
        let Decision::Update(taken) = taken else {
            panic!("{taken:?}")
        };
        assert_eq!(holder(&taken).address.as_deref(), Some("http://b:15010"));
    }

    #[test]
    fn our_own_lease_is_renewed_without_a_transition() {
        let (mut claim, now) = (claim("a"), Instant::now());
        let renewed = decide(&mut claim, &lease("a", "1"), now).unwrap();
        assert_eq!(renewed.lease_transitions, Some(0));
    }
}
