//! What is run next, and when, by the clock of the test.

use super::*;

const VISIT: Done = Done::Visit(Duration::from_secs(600));

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

fn name(next: &Next) -> Option<&str> {
    match next {
        Next::Run { key, .. } => Some(&key.name),
        Next::At(_) | Next::Idle => None,
    }
}

#[test]
fn a_burst_of_events_is_one_run() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    assert!(queue.add(key("user"), Cause::Event, now));
    assert!(!queue.add(key("user"), Cause::Event, now + DEBOUNCE / 2));
    assert_eq!(queue.next(now), Next::At(now + DEBOUNCE));
    assert_eq!(name(&queue.next(now + DEBOUNCE)), Some("user"));
    queue.done(&key("user"), Done::Gone, now + DEBOUNCE, 0.0);
    assert_eq!(queue.next(now + DEBOUNCE * 9), Next::Idle);
}

#[test]
fn what_a_user_changed_elsewhere_is_looked_at_at_once_and_then_not_more_often_than_events() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("gateway"), Cause::Neighbour, now);
    assert_eq!(name(&queue.next(now)), Some("gateway"));
    queue.done(&key("gateway"), VISIT, now, 0.0);
    for moment in [DEBOUNCE / 4, DEBOUNCE / 2] {
        queue.add(key("gateway"), Cause::Neighbour, now + moment);
        assert_eq!(queue.next(now + moment), Next::At(now + DEBOUNCE));
    }
    assert_eq!(name(&queue.next(now + DEBOUNCE)), Some("gateway"));
    queue.done(&key("gateway"), VISIT, now + DEBOUNCE, 0.0);
    queue.add(key("gateway"), Cause::Neighbour, now + DEBOUNCE * 3);
    assert_eq!(
        name(&queue.next(now + DEBOUNCE * 3)),
        Some("gateway"),
        "quiet since"
    );
}

#[test]
fn an_event_during_a_run_is_one_more_run_and_never_a_second_one_at_once() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("user"), Cause::User, now);
    assert_eq!(name(&queue.next(now)), Some("user"));
    queue.add(key("user"), Cause::Event, now);
    assert_eq!(queue.next(now + DEBOUNCE * 2), Next::Idle);
    queue.done(&key("user"), VISIT, now + DEBOUNCE * 3, 0.0);
    assert_eq!(name(&queue.next(now + DEBOUNCE * 3)), Some("user"));
}

#[test]
fn events_do_not_cut_a_backoff_short_but_a_user_does() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("user"), Cause::User, now);
    queue.next(now);
    queue.done(&key("user"), Done::Failed, now, 0.0);
    queue.add(key("user"), Cause::Event, now);
    assert_eq!(
        queue.next(now + DEBOUNCE * 2),
        Next::At(now + Duration::from_secs(1))
    );
    queue.add(key("user"), Cause::User, now + DEBOUNCE * 2);
    assert_eq!(name(&queue.next(now + DEBOUNCE * 2)), Some("user"));
    queue.done(&key("user"), Done::Failed, now + DEBOUNCE * 2, 0.0);
    assert_eq!(
        queue.next(now + DEBOUNCE * 2),
        Next::At(now + DEBOUNCE * 2 + Duration::from_secs(1)),
        "the backoff starts over"
    );
}

#[test]
fn an_event_that_came_during_a_failing_run_waits_for_the_backoff_too() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("user"), Cause::User, now);
    queue.next(now);
    queue.add(key("user"), Cause::Event, now);
    queue.done(&key("user"), Done::Failed, now, 0.0);
    assert_eq!(
        queue.next(now + DEBOUNCE * 2),
        Next::At(now + Duration::from_secs(1))
    );
}

#[test]
fn a_user_goes_before_a_storm_of_first_visits_and_a_visit_is_not_starved() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for i in 0..100 {
        queue.add(key(&format!("old-{i}")), Cause::Resync, now);
    }
    let later = now + Duration::from_secs(1);
    queue.add(key("new"), Cause::User, later);
    assert_eq!(name(&queue.next(later)), Some("new"));
    let much_later = now + RESYNC_PENALTY + Duration::from_secs(1);
    queue.add(key("newer"), Cause::User, much_later);
    assert_eq!(name(&queue.next(much_later)), Some("old-0"));
}

#[test]
fn a_user_goes_before_events_that_came_earlier_and_an_event_is_not_starved() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("child"), Cause::Event, now);
    let later = now + EVENT_PENALTY / 2;
    queue.add(key("user"), Cause::User, later);
    assert_eq!(name(&queue.next(later)), Some("user"));
    let much_later = now + DEBOUNCE + EVENT_PENALTY * 2;
    queue.add(key("another"), Cause::User, much_later);
    assert_eq!(name(&queue.next(much_later)), Some("child"));
    assert_eq!(name(&queue.next(much_later)), Some("another"));
}

#[test]
fn a_visit_that_becomes_urgent_moves_to_the_front() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("a"), Cause::Resync, now);
    queue.add(key("b"), Cause::Resync, now);
    queue.add(key("b"), Cause::User, now);
    assert_eq!(name(&queue.next(now)), Some("b"));
}

#[test]
fn a_hot_loop_is_held_to_its_budget() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let mut runs = 0;
    for millisecond in 0..10_000 {
        let at = now + Duration::from_millis(millisecond);
        queue.add(key("user"), Cause::User, at);
        if name(&queue.next(at)).is_some() {
            runs += 1;
            queue.done(&key("user"), VISIT, at, 0.0);
        }
    }
    assert!((150..=200).contains(&runs), "{runs}");
    assert!(queue.throttled() > 0);
}

#[test]
fn after_a_good_run_the_next_visit_is_due_later() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("user"), Cause::User, now);
    queue.next(now);
    queue.done(&key("user"), Done::Visit(Duration::from_secs(2)), now, 0.0);
    assert_eq!(queue.next(now), Next::At(now + Duration::from_secs(2)));
    assert_eq!(name(&queue.next(now + Duration::from_secs(2))), Some("user"));
}

#[test]
fn an_object_that_is_gone_is_forgotten() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(key("user"), Cause::User, now);
    queue.next(now);
    queue.done(&key("user"), Done::Gone, now, 0.0);
    assert!(queue.entries.is_empty() && queue.waiting.is_empty() && queue.ready.is_empty());
}

#[test]
fn failing_objects_are_counted_until_they_recover_or_go() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    let mut at = now;
    let mut run = |queue: &mut Queue, name: &str, done| {
        at += Duration::from_secs(100);
        queue.add(key(name), Cause::Event, at);
        at += DEBOUNCE;
        queue.next(at);
        queue.done(&key(name), done, at, 0.0);
        queue.failing()
    };
    assert_eq!(run(&mut queue, "a", Done::Failed), 1);
    assert_eq!(run(&mut queue, "a", Done::Failed), 1);
    assert_eq!(run(&mut queue, "a", VISIT), 0);
    assert_eq!(run(&mut queue, "b", Done::Failed), 1);
    assert_eq!(run(&mut queue, "b", Done::Gone), 0);
    assert_eq!(run(&mut queue, "c", Done::Failed), 1);
    queue.add(key("c"), Cause::User, now);
    assert_eq!(queue.failing(), 0, "it is due at once, as if it had not failed");
}
