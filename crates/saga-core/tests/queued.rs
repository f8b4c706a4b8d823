//! Runs that have to wait for their turn.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use trellis_saga_core::{
    Definition,
    event::{Effect, End, Event, Time, Timer, Verb},
    plan::Plan,
    run::{self, Refused, State, Status},
};

fn queued() -> (Plan, State) {
    let call = json!({
        "call": {"microservice": "a", "method": "POST", "path": "/"}, "timeout": 1000,
        "retry": {"initial": 1000, "factor": 1.0, "maxInterval": 1000, "jitter": 0, "retryOn": []},
    });
    let definition: Definition = serde_json::from_value(json!({
        "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "a", "timeout": 5000, "concurrency": 1,
        "steps": [{"name": "a", "after": [], "kind": "Compensatable", "action": call, "compensation": call}],
        "retention": {"completed": 1, "compensated": 1}, "onStuck": {"event": true},
    }))
    .unwrap();
    let plan = Plan::new(&definition).unwrap();
    let event = Event::Queued { input: None, seed: 1 };
    let (state, effects) = run::start(&plan, &event, Time(1_000)).unwrap();
    assert_eq!(effects, [], "nothing of it begins");
    assert_eq!(
        (state.is_queued(), state.status(), state.end()),
        (true, Status::Running, None)
    );
    assert_eq!(
        state.outstanding(&plan, Time(2_000)),
        [],
        "nor with whoever takes it over"
    );
    (plan, state)
}

#[test]
fn its_time_begins_with_its_turn() {
    let (plan, state) = queued();
    let (state, effects) = run::decide(&plan, &state, &Event::Admitted, Time(100_000)).unwrap();
    assert_eq!(
        (state.started_at(), state.begun_at()),
        (Time(1_000), Time(100_000))
    );
    assert_eq!(state.deadline(&plan), Some(Time(105_000)));
    let deadline = Effect::Wait {
        timer: Timer::Deadline,
        until: Time(105_000),
    };
    assert!(effects.contains(&deadline));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Call { .. })));
    let again = run::decide(&plan, &state, &Event::Admitted, Time(100_001));
    assert_eq!(again, Err(Refused::Stale), "it has one turn");
    let early = Event::TimerFired(Timer::Deadline);
    assert_eq!(
        run::decide(&plan, &state, &early, Time(104_999)),
        Err(Refused::TooEarly)
    );
}

#[test]
fn one_that_is_cancelled_while_it_waits_has_nothing_to_take_back() {
    let (plan, state) = queued();
    for (verb, is_completed, is_forced) in [(Verb::Cancel, false, false), (Verb::ForceComplete, true, true)] {
        let event = Event::Operator {
            verb,
            by: "ada".into(),
            reason: "no hope".into(),
        };
        let (ended, effects) = run::decide(&plan, &state, &event, Time(2_000)).unwrap();
        let end = End {
            is_completed,
            is_forced,
        };
        assert_eq!((ended.end(), effects), (Some(end), vec![Effect::Ended(end)]));
        assert_eq!(
            run::decide(&plan, &ended, &Event::Admitted, Time(3_000)),
            Err(Refused::Ended)
        );
    }
    let retry = Event::Operator {
        verb: Verb::Retry,
        by: "ada".into(),
        reason: "now".into(),
    };
    assert_eq!(
        run::decide(&plan, &state, &retry, Time(2_000)),
        Err(Refused::Stale)
    );
}

#[test]
fn one_that_was_not_queued_has_no_turn() {
    let (plan, _) = queued();
    let event = Event::Started { input: None, seed: 1 };
    let (state, _) = run::start(&plan, &event, Time(1_000)).unwrap();
    assert_eq!(
        run::decide(&plan, &state, &Event::Admitted, Time(1_000)),
        Err(Refused::Stale)
    );
}
