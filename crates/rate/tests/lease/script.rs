//! Single stories, told step by step.

use std::num::NonZeroU32;
use std::time::Duration;

use trellis_rate::Moment;
use trellis_rate::lease::{Authority, Client, Epoch, Incarnation, OnLoss, Pod, Start, Terms};
use trellis_rate::mutation::{self, Mutation};

const LIMIT: u32 = 20;

fn terms() -> Terms {
    Terms {
        limit: LIMIT,
        window: Duration::from_millis(300),
        length: Duration::from_secs(6),
        replicas: NonZeroU32::new(5).unwrap(),
        on_loss: OnLoss::Share,
    }
}

fn at(millis: u64) -> Moment {
    Moment::from_nanos(millis * 1_000_000)
}

fn first() -> Authority {
    Authority::new(terms(), Epoch(1), Start::First, at(0), at(60_000))
}

fn successor(pods: &[Pod], now: Moment) -> Authority {
    Authority::new(
        terms(),
        Epoch(2),
        Start::Successor(pods.to_vec()),
        now,
        at(600_000),
    )
}

fn client(pod: u64) -> Client {
    Client::new(Pod(pod), Incarnation(1), OnLoss::Share)
}

/// Asks and is answered at once; what may be used then.
fn refresh(client: &mut Client, authority: &mut Authority, demand: u32, now: Moment) -> u32 {
    let request = client.request(demand, now);
    if let Some(grant) = authority.receive(&request, now) {
        client.receive(&grant, now);
    }
    client.allowance(now)
}

#[test]
fn a_pod_without_a_lease_uses_nothing_and_one_that_lost_it_an_equal_share() {
    let (mut authority, mut pod) = (first(), client(1));
    assert_eq!(pod.allowance(at(0)), 0);
    assert_eq!(refresh(&mut pod, &mut authority, 50, at(0)), LIMIT);
    assert_eq!(pod.allowance(at(5_999)), LIMIT);
    assert_eq!(pod.allowance(at(6_000)), LIMIT / 5);
    assert_eq!(
        refresh(&mut client(2), &mut authority, 50, at(60_000)),
        0,
        "its claim has ended"
    );
}

#[test]
fn what_one_gives_up_comes_to_the_other_after_a_window() {
    let (mut authority, mut busy, mut other) = (first(), client(1), client(2));
    assert_eq!(refresh(&mut busy, &mut authority, 50, at(0)), 20);
    assert_eq!(refresh(&mut other, &mut authority, 50, at(10)), 0, "all is out");
    assert_eq!(
        refresh(&mut busy, &mut authority, 50, at(20)),
        10,
        "half is its fair share now"
    );
    assert_eq!(
        refresh(&mut other, &mut authority, 50, at(30)),
        0,
        "it has not said that it holds that"
    );
    assert_eq!(refresh(&mut busy, &mut authority, 50, at(40)), 10);
    assert_eq!(
        refresh(&mut other, &mut authority, 50, at(340)),
        0,
        "what it spent counts for a window"
    );
    assert_eq!(refresh(&mut other, &mut authority, 50, at(341)), 10);
    assert_eq!(authority.committed(at(341)), LIMIT);
}

#[test]
fn a_restarted_process_begins_with_nothing_while_what_it_spent_counts() {
    let (mut authority, mut pod) = (first(), client(1));
    assert_eq!(refresh(&mut pod, &mut authority, 50, at(0)), LIMIT);
    let mut again = Client::new(Pod(1), Incarnation(2), OnLoss::Share);
    assert_eq!(refresh(&mut again, &mut authority, 50, at(100)), 0);
    assert_eq!(refresh(&mut again, &mut authority, 50, at(401)), LIMIT);
    let late = pod.request(50, at(402));
    assert_eq!(
        authority.receive(&late, at(402)),
        None,
        "the earlier process is no more"
    );
}

#[test]
fn a_new_epoch_renews_what_is_held_and_grants_more_after_a_lease_and_a_window() {
    let (mut before, mut one, mut two) = (first(), client(1), client(2));
    assert_eq!(refresh(&mut one, &mut before, 15, at(0)), 15);
    assert_eq!(refresh(&mut two, &mut before, 5, at(0)), 5);
    let mut after = successor(&[Pod(1), Pod(2)], at(1_000));
    assert_eq!(refresh(&mut one, &mut after, 50, at(1_010)), 15);
    assert_eq!(refresh(&mut client(3), &mut after, 50, at(1_020)), 0);
    assert_eq!(refresh(&mut two, &mut after, 5, at(1_030)), 5);
    assert_eq!(refresh(&mut one, &mut after, 50, at(5_000)), 15);
    assert_eq!(
        refresh(&mut one, &mut after, 50, at(7_310)),
        15,
        "still learning: clocks may drift"
    );
    assert_eq!(refresh(&mut two, &mut after, 0, at(7_320)), 0);
    assert_eq!(refresh(&mut two, &mut after, 0, at(7_330)), 0);
    assert_eq!(refresh(&mut one, &mut after, 50, at(7_700)), LIMIT);
}

#[test]
fn a_new_epoch_sets_an_equal_share_aside_for_each_pod_that_it_has_not_heard() {
    let mut after = successor(&[Pod(1), Pod(2)], at(0));
    let mut one = client(1);
    assert_eq!(refresh(&mut one, &mut after, 50, at(10)), 0);
    assert_eq!(refresh(&mut one, &mut after, 50, at(20)), 0);
    assert_eq!(refresh(&mut one, &mut after, 50, at(10_000)), 16);
    after.pod_ended(Pod(2), at(10_000));
    assert_eq!(refresh(&mut one, &mut after, 50, at(10_300)), 16);
    assert_eq!(refresh(&mut one, &mut after, 50, at(10_301)), LIMIT);
}

/// A request is on its way for so long that the lease it tells of has ended, was granted to another, and the authority has
/// changed. Random worlds do not come upon this.
fn use_after_a_late_renewal() -> u32 {
    let (mut before, mut late, mut other) = (first(), client(1), client(2));
    assert_eq!(refresh(&mut late, &mut before, 50, at(0)), LIMIT);
    let request = late.request(50, at(5_900));
    assert_eq!(refresh(&mut other, &mut before, 50, at(6_400)), LIMIT - LIMIT / 5);
    let mut after = successor(&[Pod(1), Pod(2)], at(6_500));
    let grant = after.receive(&request, at(7_000)).unwrap();
    late.receive(&grant, at(7_100));
    late.allowance(at(7_100)) + other.allowance(at(7_100))
}

#[test]
fn a_lease_that_has_ended_is_not_renewed() {
    assert_eq!(use_after_a_late_renewal(), LIMIT);
}

#[test]
fn a_renewal_of_what_has_ended_is_found() {
    let used = mutation::with(Mutation::RenewalOfWhatHasEnded, use_after_a_late_renewal);
    assert!(used > LIMIT);
}
