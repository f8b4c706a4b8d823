//! Single stories, told step by step.

use std::num::NonZeroU32;
use std::time::Duration;

use trellis_rate::lease::{
    Authority, Client, Epoch, Incarnation, OnLoss, Pod, Request, Roster, Start, Terms,
};
use trellis_rate::mutation::{self, Mutation};
use trellis_rate::{Moment, Usage};

const LIMIT: u32 = 20;

fn whole() -> NonZeroU32 {
    NonZeroU32::new(LIMIT).unwrap()
}

fn terms() -> Terms {
    Terms {
        limit: whole(),
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
        Start::Successor(Roster {
            pods: pods.to_vec(),
            ended: Vec::new(),
            watched_since: now,
        }),
        now,
        at(600_000),
    )
}

fn client(pod: u64) -> Client {
    Client::new(Pod(pod), Incarnation(1), OnLoss::Share, at(0))
}

/// Asks and is answered at once; what may be used then.
fn refresh(client: &mut Client, authority: &mut Authority, demand: u32, now: Moment) -> u32 {
    let request = ask(client, demand, now);
    if let Some(grant) = authority.receive(&request, now) {
        client.receive(&grant, now);
    }
    allowance(client, now)
}

/// What may be used.
fn allowance(client: &Client, now: Moment) -> u32 {
    client.share(now).unwrap().of(LIMIT)
}

/// Of one that knows of its use only whether there was any.
fn ask(client: &mut Client, demand: u32, now: Moment) -> Request {
    let usage = Usage::Something(allowance(client, now) > 0);
    client.request(usage, demand, whole(), terms().window, now)
}

#[test]
fn a_pod_without_a_lease_uses_nothing_and_one_that_lost_it_an_equal_share() {
    let (mut authority, mut pod) = (first(), client(1));
    assert_eq!(allowance(&pod, at(0)), 0);
    assert_eq!(refresh(&mut pod, &mut authority, 50, at(0)), LIMIT);
    assert_eq!(allowance(&pod, at(5_999)), LIMIT);
    assert_eq!(allowance(&pod, at(6_000)), LIMIT / 5);
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
    let mut again = Client::new(Pod(1), Incarnation(2), OnLoss::Share, at(100));
    assert_eq!(refresh(&mut again, &mut authority, 50, at(100)), 0);
    assert_eq!(refresh(&mut again, &mut authority, 50, at(401)), LIMIT);
    let late = ask(&mut pod, 50, at(402));
    assert_eq!(
        authority.receive(&late, at(402)),
        None,
        "the earlier process is no more"
    );
}

#[test]
fn a_new_epoch_renews_what_is_held_and_grants_more_after_a_lease_and_a_window() {
    let (mut before, mut one, mut two) = (first(), client(1), client(2));
    assert_eq!(
        refresh(&mut one, &mut before, 12, at(0)),
        16,
        "and half of what nobody wants"
    );
    assert_eq!(refresh(&mut two, &mut before, 4, at(0)), 4);
    let mut after = successor(&[Pod(1), Pod(2)], at(1_000));
    assert_eq!(refresh(&mut one, &mut after, 50, at(1_010)), 16);
    assert_eq!(refresh(&mut client(3), &mut after, 50, at(1_020)), 0);
    assert_eq!(refresh(&mut two, &mut after, 4, at(1_030)), 4);
    assert_eq!(refresh(&mut one, &mut after, 50, at(5_000)), 16);
    assert_eq!(
        refresh(&mut one, &mut after, 50, at(7_310)),
        16,
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

/// One that has looked on for long enough knows what it has to wait for.
fn warm_successor(pods: &[Pod], ended: &[(Pod, Moment)], now: Moment) -> Authority {
    let roster = Roster {
        pods: pods.to_vec(),
        ended: ended.to_vec(),
        watched_since: at(0),
    };
    Authority::new(terms(), Epoch(2), Start::Successor(roster), now, at(600_000))
}

#[test]
fn a_new_epoch_that_has_looked_on_grants_as_soon_as_every_pod_has_told() {
    let (mut before, mut one, mut two) = (first(), client(1), client(2));
    assert_eq!(refresh(&mut one, &mut before, 12, at(0)), 16);
    let mut after = warm_successor(&[Pod(1), Pod(2)], &[], at(10_000));
    assert_eq!(
        refresh(&mut two, &mut after, 5, at(10_000)),
        0,
        "it has not seen the epoch"
    );
    assert_eq!(
        refresh(&mut two, &mut after, 5, at(10_010)),
        0,
        "the other one has not told"
    );
    assert!(after.learns(at(10_010)));
    one.see(Epoch(2));
    refresh(&mut one, &mut after, 0, at(10_020));
    assert!(!after.learns(at(10_020)));
    refresh(&mut one, &mut after, 0, at(10_030));
    assert_eq!(refresh(&mut two, &mut after, 20, at(10_400)), LIMIT);
}

#[test]
fn a_new_epoch_waits_for_what_a_pod_spent_that_ended_or_restarted_just_before() {
    let now = at(10_000);
    let mut after = warm_successor(&[Pod(1)], &[(Pod(2), at(9_900))], now);
    let mut one = Client::new(Pod(1), Incarnation(2), OnLoss::Share, at(9_950));
    one.see(Epoch(2));
    assert_eq!(refresh(&mut one, &mut after, 5, now), 0);
    assert_eq!(
        refresh(&mut one, &mut after, 5, at(10_210)),
        0,
        "its process before"
    );
    assert_eq!(refresh(&mut one, &mut after, 20, at(10_260)), LIMIT);
}

#[test]
fn what_a_pod_gives_up_without_having_used_it_comes_to_the_other_at_once() {
    let (mut authority, mut busy, mut other) = (first(), client(1), client(2));
    assert_eq!(refresh(&mut busy, &mut authority, 50, at(0)), 20);
    assert_eq!(refresh(&mut other, &mut authority, 50, at(10)), 0, "all is out");
    assert_eq!(authority.overdrawn(at(10)), [Pod(1)]);
    for millis in [20, 30] {
        let request = busy.request(Usage::Passed(3), 3, whole(), terms().window, at(millis));
        let grant = authority.receive(&request, at(millis)).unwrap();
        assert!(busy.receive(&grant, at(millis)));
    }
    assert_eq!(allowance(&busy, at(30)), 3);
    assert_eq!(refresh(&mut other, &mut authority, 50, at(40)), LIMIT - 3);
    assert_eq!(authority.overdrawn(at(40)), []);
}

#[test]
fn a_changed_limit_changes_what_a_part_is_at_once_and_the_ledger_is_rounded_up() {
    let (mut authority, mut one) = (first(), client(1));
    assert_eq!(refresh(&mut one, &mut authority, 4, at(0)), 12);
    assert_eq!(
        one.share(at(0)).unwrap().of(40),
        24,
        "the proxy knows the new limit"
    );
    let limit = NonZeroU32::new(3).unwrap();
    authority.change(Terms { limit, ..terms() });
    assert_eq!(authority.committed(at(0)), 2, "12 of 20 are more than 1 of 3");
    let request = one.request(Usage::Passed(0), 3, limit, terms().window, at(10));
    assert_eq!(request.allowance, 2);
    let grant = authority.receive(&request, at(10)).unwrap();
    assert!(one.receive(&grant, at(10)));
    assert_eq!(one.share(at(10)).unwrap().of(3), 3);
}

/// A request is on its way for so long that the lease it tells of has ended, was granted to another, and the authority has
/// changed. Random worlds do not come upon this.
fn use_after_a_late_renewal() -> u32 {
    let (mut before, mut late, mut other) = (first(), client(1), client(2));
    assert_eq!(refresh(&mut late, &mut before, 50, at(0)), LIMIT);
    let request = ask(&mut late, 50, at(5_900));
    assert_eq!(refresh(&mut other, &mut before, 50, at(6_400)), LIMIT - LIMIT / 5);
    let mut after = successor(&[Pod(1), Pod(2)], at(6_500));
    let grant = after.receive(&request, at(7_000)).unwrap();
    late.receive(&grant, at(7_100));
    allowance(&late, at(7_100)) + allowance(&other, at(7_100))
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
