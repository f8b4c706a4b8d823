//! When a lease may be claimed: pure; callers pass both clocks.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use trellis_api::names;

use super::Settings;

/// Bits of an epoch that count acquisitions of one Lease: 16 million.
const ACQUISITIONS: u32 = 24;

/// Who claims the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the process; no other has it at the same time.
    pub identity: String,
    /// Where it is to be reached, if others can know; it stands in the Lease while it leads.
    pub address: Option<String>,
}

/// One candidate's view of the lease.
#[derive(Debug)]
pub struct Claim {
    candidate: Candidate,
    lease: String,
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
    pub fn new(candidate: Candidate, settings: &Settings) -> Self {
        Self {
            candidate,
            lease: settings.lease.clone(),
            duration: settings.duration,
            seen: None,
        }
    }

    /// Who claims.
    pub fn identity(&self) -> &str {
        &self.candidate.identity
    }

    /// Whether the candidate holds the lease by its acquisition of that epoch; a later process of its name has another.
    pub fn holds(&self, lease: &Lease, leads_in: u64) -> bool {
        holder(lease).identity == self.identity() && epoch(lease) == leads_in
    }

    /// What to do about the lease as it was read at `now`; `leads_in` is the epoch that the candidate leads in, and `time`
    /// is what is written for people to read.
    pub fn decide(
        &mut self,
        lease: Option<&Lease>,
        leads_in: Option<u64>,
        now: Instant,
        time: Timestamp,
    ) -> Decision {
        let Some(lease) = lease else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(self.lease.clone());
            lease.spec = Some(self.acquired(None, time));
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
        // Its own name, and it does not lead: the process before it was killed.
        let is_left_over = holder.identity == self.identity() && leads_in.is_none();
        let mut next = lease.clone();
        next.spec = Some(if leads_in.is_some_and(|epoch| self.holds(lease, epoch)) {
            self.renewed(spec, time)
        } else if holder.identity.is_empty() || is_left_over || dead_in.is_zero() {
            self.acquired(Some(&spec), time)
        } else {
            return Decision::Wait { holder, dead_in };
        });
        self.publish_address(&mut next);
        Decision::Update(next)
    }

    /// The lease given back; None if it is not that of our acquisition.
    pub fn released(&self, lease: &Lease, leads_in: u64) -> Option<Lease> {
        if !self.holds(lease, leads_in) {
            return None;
        }
        let mut lease = lease.clone();
        lease.spec.get_or_insert_default().holder_identity = None;
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

    fn acquired(&self, before: Option<&LeaseSpec>, time: Timestamp) -> LeaseSpec {
        let transitions = before.map(|spec| spec.lease_transitions.unwrap_or_default().saturating_add(1));
        self.renewed(
            LeaseSpec {
                acquire_time: Some(MicroTime(time)),
                lease_transitions: Some(transitions.unwrap_or_default()),
                ..LeaseSpec::default()
            },
            time,
        )
    }

    fn renewed(&self, spec: LeaseSpec, time: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity().to_owned()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: spec.acquire_time.or(Some(MicroTime(time))),
            renew_time: Some(MicroTime(time)),
            lease_transitions: Some(spec.lease_transitions.unwrap_or_default()),
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

/// The epoch of a lease as the API server answered it. A sum, so that it grows beyond the bits of acquisitions too.
pub fn epoch(lease: &Lease) -> u64 {
    let created = lease.metadata.creation_timestamp.as_ref();
    let created = created.and_then(|time| u64::try_from(time.0.as_second()).ok());
    let spec = lease.spec.as_ref();
    let acquisitions = spec.and_then(|spec| u64::try_from(spec.lease_transitions?).ok());
    (created.unwrap_or_default() << ACQUISITIONS) + acquisitions.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(15);
    /// When the leases of these tests were made, in seconds since 1970.
    const MADE: i64 = 1_800_000_000;

    fn claim(identity: &str) -> Claim {
        let candidate = Candidate {
            identity: identity.to_owned(),
            address: Some(format!("http://{identity}:15010")),
        };
        let settings = Settings {
            lease: "lease".to_owned(),
            duration: LENGTH,
            deadline: LENGTH * 4 / 5,
            renew: LENGTH / 3,
        };
        Claim::new(candidate, &settings)
    }

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.metadata.creation_timestamp = Some(Time(Timestamp::from_second(MADE).unwrap()));
        lease.spec = Some(claim(holder).acquired(None, Timestamp::UNIX_EPOCH));
        claim(holder).publish_address(&mut lease);
        lease
    }

    /// What a candidate that leads in the epoch, if in any, makes of the lease.
    fn claimed(claim: &mut Claim, lease: &Lease, leads_in: Option<u64>, now: Instant) -> Option<Lease> {
        match claim.decide(Some(lease), leads_in, now, Timestamp::UNIX_EPOCH) {
            Decision::Update(lease) => Some(lease),
            Decision::Create(_) | Decision::Wait { .. } => None,
        }
    }

    fn decide(claim: &mut Claim, lease: &Lease, now: Instant) -> Option<LeaseSpec> {
        claimed(claim, lease, None, now)?.spec
    }

    #[test]
    fn no_lease_is_made_with_us_as_holder() {
        let decision = claim("a").decide(None, None, Instant::now(), Timestamp::UNIX_EPOCH);
        let Decision::Create(lease) = decision else {
            panic!("{decision:?}")
        };
        assert_eq!(lease.metadata.name.as_deref(), Some("lease"));
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
            None,
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
    fn a_lease_that_was_given_back_is_taken_at_once_in_a_new_epoch() {
        let (leader, mut standby) = (claim("a"), claim("b"));
        let held = lease("a", "1");
        let given_back = leader.released(&held, epoch(&held)).unwrap();
        let taken = claimed(&mut standby, &given_back, None, Instant::now()).unwrap();
        assert_eq!(epoch(&taken), epoch(&held) + 1);
        let not_ours = standby.released(&held, epoch(&held));
        assert_eq!(not_ours, None, "not ours to give back");
    }

    #[test]
    fn the_lease_says_where_its_holder_is_and_nothing_once_it_was_given_back() {
        let (mut standby, now) = (claim("b"), Instant::now());
        let held = lease("a", "1");
        let Decision::Wait { holder: leader, .. } =
            standby.decide(Some(&held), None, now, Timestamp::UNIX_EPOCH)
        else {
            panic!("taken")
        };
        assert_eq!(leader.address.as_deref(), Some("http://a:15010"));
        let given_back = claim("a").released(&held, epoch(&held)).unwrap();
        assert_eq!(holder(&given_back).address, None);
        let taken = claimed(&mut standby, &given_back, None, now).unwrap();
        assert_eq!(holder(&taken).address.as_deref(), Some("http://b:15010"));
    }

    #[test]
    fn our_own_lease_is_renewed_without_a_transition() {
        let (mut claim, now) = (claim("a"), Instant::now());
        let held = lease("a", "1");
        let time = Timestamp::from_second(5).unwrap();
        let Decision::Update(renewed) = claim.decide(Some(&held), Some(epoch(&held)), now, time) else {
            panic!("not renewed")
        };
        assert_eq!(epoch(&renewed), epoch(&held));
        let spec = renewed.spec.unwrap();
        assert_eq!(spec.lease_transitions, Some(0));
        assert_eq!(spec.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)));
        assert_eq!(spec.renew_time, Some(MicroTime(time)));
    }

    #[test]
    fn a_process_that_was_killed_is_followed_at_once_by_one_of_its_name_in_a_new_epoch() {
        let (before, mut after) = (claim("a"), claim("a"));
        let held = lease("a", "1");
        let time = Timestamp::from_second(5).unwrap();
        let Decision::Update(taken) = after.decide(Some(&held), None, Instant::now(), time) else {
            panic!("not taken")
        };
        assert_eq!(epoch(&taken), epoch(&held) + 1);
        let spec = taken.spec.as_ref().unwrap();
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(spec.acquire_time, Some(MicroTime(time)));
        let not_ours = before.released(&taken, epoch(&held));
        assert_eq!(not_ours, None, "not the former's to give back");
    }

    #[test]
    fn a_leader_does_not_renew_what_another_process_of_its_name_took() {
        let (mut before, now) = (claim("a"), Instant::now());
        let held = lease("a", "1");
        let taken = claimed(&mut claim("a"), &held, None, now).unwrap();
        assert_eq!(claimed(&mut before, &taken, Some(epoch(&held)), now), None);
    }

    #[test]
    fn epochs_grow_by_acquisitions_and_by_the_second_in_which_the_lease_was_made() {
        let at = |seconds: i64, transitions: i32| {
            let mut lease = lease("a", "1");
            lease.metadata.creation_timestamp = Some(Time(Timestamp::from_second(seconds).unwrap()));
            lease.spec.as_mut().unwrap().lease_transitions = Some(transitions);
            epoch(&lease)
        };
        assert_eq!(at(MADE, 7), 1_800_000_000 << 24 | 7);
        let growing = [
            at(MADE, 0),
            at(MADE, 1),
            at(MADE, (1 << 24) - 1),
            at(MADE + 1, 0),
            at(MADE + 1, 1 << 24),
            at(MADE + 1, (1 << 24) + 1),
        ];
        assert!(growing.is_sorted(), "{growing:?}");
    }
}
