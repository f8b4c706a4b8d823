use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn memory() -> Memory {
    Memory::new(100, LONG, 1000)
}

fn call(run: &str, op: &str, incarnation: u32) -> Branch {
    let headers = [
        ("idempotency-key", "k".to_owned()),
        ("trellis-saga-run", run.to_owned()),
        ("trellis-saga-step", "buy".to_owned()),
        ("trellis-saga-index", "0".to_owned()),
        ("trellis-saga-op", op.to_owned()),
        ("trellis-saga-incarnation", incarnation.to_string()),
        ("trellis-saga-attempt", "1".to_owned()),
        ("trellis-saga-epoch", "1".to_owned()),
    ];
    let headers = headers
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Branch::of(&headers.collect()).unwrap().unwrap()
}

fn action(run: &str) -> Branch {
    call(run, "action", 0)
}

fn compensation(run: &str) -> Branch {
    call(run, "compensation", 0)
}

fn known(status: u16, body: &'static str) -> Known {
    Known {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

fn done() -> Known {
    known(201, "done")
}

#[test]
fn a_copy_waits_and_then_gets_the_first_answer() {
    let (mut memory, now) = (memory(), Instant::now());
    assert_eq!(memory.decide(&action("a"), now), Decision::Ask);
    assert_eq!(memory.decide(&action("a"), now), Decision::Wait);
    memory.settle(&action("a"), Outcome::Done(done()));
    assert_eq!(memory.decide(&action("a"), now), Decision::Again(done()));
    assert_eq!(memory.decide(&action("b"), now), Decision::Ask, "another run");
    assert_eq!(
        memory.decide(&call("a", "action", 1), now),
        Decision::Ask,
        "another incarnation"
    );
}

#[test]
fn a_compensation_that_comes_first_does_nothing_and_the_action_is_refused_after_it() {
    let (mut memory, now) = (memory(), Instant::now());
    for _ in 0..2 {
        assert_eq!(memory.decide(&compensation("a"), now), Decision::NothingDone);
    }
    assert_eq!(memory.decide(&action("a"), now), Decision::Refuse);
    assert_eq!(
        memory.decide(&call("a", "action", 1), now),
        Decision::Ask,
        "another incarnation"
    );
}

#[test]
fn what_was_refused_stays_refused_and_needs_no_compensation() {
    let (mut memory, now) = (memory(), Instant::now());
    assert_eq!(memory.decide(&action("a"), now), Decision::Ask);
    memory.settle(&action("a"), Outcome::Refused(known(409, "sold out")));
    assert_eq!(
        memory.decide(&action("a"), now),
        Decision::Again(known(409, "sold out"))
    );
    assert_eq!(memory.decide(&compensation("a"), now), Decision::NothingDone);
}

#[test]
fn what_was_done_is_taken_back_once_after_the_end_of_the_action() {
    let (mut memory, now) = (memory(), Instant::now());
    memory.decide(&action("a"), now);
    assert_eq!(memory.decide(&compensation("a"), now), Decision::Wait);
    memory.settle(&action("a"), Outcome::Done(done()));
    assert_eq!(memory.decide(&compensation("a"), now), Decision::Ask);
    assert_eq!(memory.decide(&compensation("a"), now), Decision::Wait);
    memory.settle(&compensation("a"), Outcome::Done(known(204, "")));
    assert_eq!(
        memory.decide(&compensation("a"), now),
        Decision::Again(known(204, ""))
    );
    assert_eq!(
        memory.decide(&action("a"), now),
        Decision::Again(done()),
        "a late copy"
    );
}

#[test]
fn what_nobody_knows_is_asked_for_again_and_is_compensated_by_the_service() {
    let (mut memory, now) = (memory(), Instant::now());
    memory.decide(&action("a"), now);
    memory.settle(&action("a"), Outcome::Unknown);
    assert_eq!(memory.decide(&action("a"), now), Decision::Ask);
    memory.settle(&action("a"), Outcome::Unknown);
    assert_eq!(memory.decide(&compensation("a"), now), Decision::Ask);
    memory.settle(&compensation("a"), Outcome::Unknown);
    assert_eq!(memory.decide(&action("a"), now), Decision::Refuse, "a late copy");
    assert_eq!(
        memory.decide(&compensation("a"), now),
        Decision::Ask,
        "tried again"
    );
    memory.settle(&compensation("a"), Outcome::Refused(known(409, "shipped")));
    assert_eq!(
        memory.decide(&compensation("a"), now),
        Decision::Ask,
        "the cause was mended"
    );
}

#[test]
fn the_oldest_are_forgotten_by_number() {
    let (mut memory, now) = (Memory::new(2, LONG, 1000), Instant::now());
    for run in ["a", "b", "c"] {
        assert_eq!(memory.decide(&action(run), now), Decision::Ask);
        memory.settle(&action(run), Outcome::Done(done()));
    }
    assert_eq!(memory.decide(&action("b"), now), Decision::Again(done()));
    assert_eq!(memory.decide(&action("a"), now), Decision::Ask, "forgotten");
    assert_eq!((memory.calls.len(), memory.order.len(), memory.bytes), (2, 2, 4));
}

#[test]
fn what_is_under_way_is_never_forgotten() {
    let (mut memory, now) = (Memory::new(2, LONG, 1000), Instant::now());
    memory.decide(&action("a"), now);
    memory.decide(&action("b"), now);
    let later = now + LONG * 2;
    assert_eq!(memory.decide(&action("c"), later), Decision::Full);
    assert_eq!(memory.decide(&action("a"), later), Decision::Wait);
    memory.settle(&action("b"), Outcome::Done(done()));
    assert_eq!(memory.decide(&action("c"), now), Decision::Ask);
}

#[test]
fn what_is_old_is_forgotten() {
    let (mut memory, now) = (memory(), Instant::now());
    memory.decide(&action("a"), now);
    memory.settle(&action("a"), Outcome::Done(done()));
    assert_eq!(memory.decide(&action("a"), now + LONG), Decision::Again(done()));
    assert_eq!(memory.decide(&action("a"), now + LONG * 2), Decision::Ask);
}

#[test]
fn the_oldest_are_forgotten_by_the_size_of_answers_but_not_the_last() {
    let (mut memory, now) = (Memory::new(100, LONG, 10), Instant::now());
    for (run, body) in [("a", "12345"), ("b", "12345"), ("c", "123456789012")] {
        memory.decide(&action(run), now);
        memory.settle(&action(run), Outcome::Done(known(200, body)));
    }
    assert_eq!(
        memory.decide(&action("c"), now),
        Decision::Again(known(200, "123456789012"))
    );
    assert_eq!((memory.calls.len(), memory.bytes), (1, 12));
}
