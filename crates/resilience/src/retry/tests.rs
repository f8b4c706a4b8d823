use super::*;
use crate::outcome::Answer;

fn answered(status: u16) -> Outcome {
    Outcome::Answered(Answer {
        status: StatusCode::from_u16(status).unwrap(),
        grpc: None,
        pushback: None,
    })
}

fn asking(pushback: Pushback) -> Outcome {
    Outcome::Answered(Answer {
        status: StatusCode::SERVICE_UNAVAILABLE,
        grpc: None,
        pushback: Some(pushback),
    })
}

fn grpc(code: GrpcCode) -> Outcome {
    Outcome::Answered(Answer {
        status: StatusCode::OK,
        grpc: Some(code),
        pushback: None,
    })
}

const fn tried(outcome: Outcome) -> Tried<'static> {
    Tried {
        attempts: 1,
        method: &Method::GET,
        repeatable: true,
        outcome,
        left: None,
    }
}

/// The longest pause there can be.
const LONGEST: u32 = u32::MAX;

#[test]
fn outcomes_are_tried_again_as_the_conditions_say() {
    let refused = Outcome::Refused(Refusal::BreakerOpen);
    let gone = Outcome::Refused(Refusal::NoEndpoints);
    for (condition, covered, not) in [
        (
            Condition::ConnectFailure,
            vec![Outcome::ConnectFailed, gone],
            vec![Outcome::Broken, Outcome::Timeout, answered(503), refused],
        ),
        (
            Condition::Unavailable,
            vec![answered(503), grpc(GrpcCode::Unavailable)],
            vec![answered(500), answered(200), grpc(GrpcCode::Ok), refused],
        ),
        (Condition::Timeout, vec![Outcome::Timeout], vec![answered(504)]),
        (
            Condition::Broken,
            vec![Outcome::Broken],
            vec![Outcome::ConnectFailed],
        ),
        (
            Condition::ServerError,
            vec![answered(500), answered(599)],
            vec![answered(499), answered(429)],
        ),
        (
            Condition::Status(StatusCode::TOO_MANY_REQUESTS),
            vec![answered(429)],
            vec![answered(500)],
        ),
        (
            Condition::Grpc(GrpcCode::Aborted),
            vec![grpc(GrpcCode::Aborted)],
            vec![grpc(GrpcCode::Internal), answered(409)],
        ),
    ] {
        let settings = Settings {
            on: vec![condition],
            ..Settings::default()
        };
        for outcome in covered {
            let decision = settings.decide(tried(outcome), 0, || true);
            assert_eq!(
                decision,
                Decision::Again(Duration::ZERO),
                "{condition:?} {outcome:?}"
            );
        }
        for outcome in not {
            let decision = settings.decide(tried(outcome), 0, || panic!("charged for nothing"));
            assert_eq!(
                decision,
                Decision::Keep(Kept::Outcome),
                "{condition:?} {outcome:?}"
            );
        }
    }
}

#[test]
fn what_may_have_been_acted_on_is_sent_twice_only_if_its_method_allows() {
    let settings = Settings::default();
    let post = |outcome| Tried {
        method: &Method::POST,
        ..tried(outcome)
    };
    let keep = |why| Decision::Keep(why);
    assert_eq!(
        settings.decide(post(answered(503)), 0, || true),
        keep(Kept::Method)
    );
    let again = Decision::Again(Duration::ZERO);
    assert_eq!(settings.decide(post(Outcome::ConnectFailed), 0, || true), again);
    let declared = Settings {
        methods: vec![Method::POST],
        ..settings
    };
    assert_eq!(declared.decide(post(answered(503)), 0, || true), again);
    assert_eq!(
        declared.decide(tried(answered(503)), 0, || true),
        keep(Kept::Method)
    );
}

#[test]
fn nothing_is_charged_for_a_retry_that_is_not_made() {
    let settings = Settings::default();
    let short = Duration::from_millis(20);
    let long = Duration::from_secs(3);
    for (case, why) in [
        (
            Tried {
                attempts: 2,
                ..tried(answered(503))
            },
            Kept::Attempts,
        ),
        (
            Tried {
                repeatable: false,
                ..tried(answered(503))
            },
            Kept::Body,
        ),
        (tried(asking(Pushback::Never)), Kept::Pushback),
        (
            Tried {
                left: Some(short),
                ..tried(asking(Pushback::After(long)))
            },
            Kept::Pushback,
        ),
        (
            Tried {
                left: Some(short),
                ..tried(answered(503))
            },
            Kept::Deadline,
        ),
    ] {
        let decision = settings.decide(case, LONGEST, || panic!("charged for {why:?}"));
        assert_eq!(decision, Decision::Keep(why));
    }
    let decision = settings.decide(tried(answered(503)), 0, || false);
    assert_eq!(decision, Decision::Keep(Kept::Budget));
}

#[test]
fn the_server_is_not_asked_before_it_wants_to_be_and_the_pause_comes_on_top() {
    let asked = Duration::from_millis(900);
    let decision = Settings::default().decide(tried(asking(Pushback::After(asked))), LONGEST, || true);
    let Decision::Again(pause) = decision else {
        panic!("{decision:?}");
    };
    assert!(
        pause > asked && pause < asked + Duration::from_millis(25),
        "{pause:?}"
    );
}

#[test]
fn settings_that_cannot_work_are_named() {
    let settings = Settings {
        attempts: NonZeroU32::new(11).unwrap(),
        on: vec![Condition::Status(StatusCode::OK)],
        backoff: Backoff {
            base: Duration::from_secs(2),
            max: Duration::from_secs(1),
        },
        ..Settings::default()
    };
    let fields: Vec<_> = settings.faults().iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["retry.attempts", "retry.retryOn", "retry.backoff.max"]);
    assert_eq!(Settings::default().faults(), []);
}
