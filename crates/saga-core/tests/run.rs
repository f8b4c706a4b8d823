//! Tries of a call and questions after its work, one history each.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use trellis_saga_core::{
    Definition,
    definition::RetryCondition,
    event::{CallId, Effect, Event, Op, Outcome, Time, Timer, Verb, What},
    plan::Plan,
    run::{self, State, Status},
};

/// A run of one step, and what it wants done.
struct Run {
    plan: Plan,
    state: State,
    effects: Vec<Effect>,
}

impl Run {
    fn new(kind: &str, retry: &Value) -> Self {
        let mut all = json!({
            "initial": 1000, "factor": 1.0, "maxInterval": 1000, "jitter": 0,
            "retryOn": ["Timeout", "ServerError", "Throttled", "Unreachable"],
        });
        all.as_object_mut()
            .unwrap()
            .extend(retry.as_object().unwrap().clone());
        let call = json!({
            "call": {"microservice": "a", "method": "POST", "path": "/"}, "timeout": 1000, "retry": all,
        });
        let mut step = json!({"name": "a", "after": [], "kind": kind, "action": call});
        if kind == "Compensatable" {
            step["compensation"] = call;
        }
        let definition: Definition = serde_json::from_value(json!({
            "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "a", "steps": [step],
            "retention": {"completed": 1, "compensated": 1}, "onStuck": {"event": true},
        }))
        .unwrap();
        let plan = Plan::new(&definition).unwrap();
        let started = Event::Started { input: None, seed: 1 };
        let (state, effects) = run::start(&plan, &started, Time(1_000_000)).unwrap();
        Self { plan, state, effects }
    }

    fn take(&mut self, event: &Event) {
        self.effects.clear();
        let now = self.state.now();
        self.state
            .apply(&self.plan, event, now, &mut self.effects)
            .unwrap();
    }

    /// The request that is to be made: its number, and whether it is a question after work under way.
    fn request(&self) -> Option<(CallId, u32, bool)> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Call {
                call, attempt, poll, ..
            } => Some((*call, *attempt, poll.is_some())),
            _ => None,
        })
    }

    /// Answers the request that was to be made, and lets the pause pass, if there is one. Returns whether the next request is a question.
    fn answer(&mut self, outcome: Outcome) -> Option<bool> {
        let (call, attempt, _) = self.request().unwrap();
        self.take(&Event::Answered {
            call,
            attempt,
            outcome,
        });
        let pause = self.effects.iter().find_map(|effect| match effect {
            Effect::Wait {
                timer: timer @ Timer::Try { .. },
                until,
            } => Some((*timer, *until)),
            _ => None,
        });
        if let Some((timer, until)) = pause {
            self.effects.clear();
            let fired = Event::TimerFired(timer);
            self.state
                .apply(&self.plan, &fired, until, &mut self.effects)
                .unwrap();
        }
        self.request().map(|(_, _, is_question)| is_question)
    }

    fn retry(&mut self) {
        self.take(&Event::Operator {
            verb: Verb::Retry,
            by: "somebody".into(),
            reason: "mended".into(),
        });
    }

    fn causes(&self) -> Vec<(What, u32)> {
        self.state
            .causes()
            .iter()
            .map(|cause| (cause.what, cause.attempts))
            .collect()
    }
}

fn pending() -> Outcome {
    Outcome::Pending {
        location: "/jobs/1".into(),
        after: None,
    }
}

fn refused() -> Outcome {
    Outcome::Failed("422".into())
}

fn away() -> Outcome {
    Outcome::Retry {
        condition: RetryCondition::ServerError,
        after: None,
        detail: "503".into(),
    }
}

const TRY: Option<bool> = Some(false);
const QUESTION: Option<bool> = Some(true);
const NONE: Option<bool> = None;

#[test]
fn an_operators_retry_has_as_many_tries_as_the_first() {
    let mut run = Run::new("Pivot", &json!({"maxAttempts": 3}));
    for _ in 0..2 {
        assert_eq!(
            [run.answer(away()), run.answer(away()), run.answer(away())],
            [TRY, TRY, NONE]
        );
        assert_eq!(run.state.status(), Status::Stuck);
        run.retry();
    }
    assert_eq!(run.causes(), [(What::PivotUnknown, 3), (What::PivotUnknown, 3)]);
    // Numbers go on, so that an answer to an earlier try is none to this one.
    assert_eq!(run.request().map(|(_, attempt, _)| attempt), Some(7));
}

#[test]
fn questions_are_no_tries() {
    let mut run = Run::new("Compensatable", &json!({"maxAttempts": 2}));
    for _ in 0..10 {
        assert_eq!(run.answer(pending()), QUESTION);
    }
    assert_eq!(run.answer(Outcome::Done(None)), NONE);
    assert_eq!(run.state.status(), Status::Completed);
}

#[test]
fn questions_that_nobody_answers_end_and_the_call_is_sent_anew() {
    let mut run = Run::new("Compensatable", &json!({"maxAttempts": 2}));
    for next in [TRY, NONE] {
        assert_eq!(run.answer(pending()), QUESTION);
        // One answer among them, and they are counted from the beginning.
        for _ in 0..4 {
            assert_eq!(run.answer(away()), QUESTION);
        }
        assert_eq!(run.answer(pending()), QUESTION);
        for _ in 0..4 {
            assert_eq!(run.answer(away()), QUESTION);
        }
        let last = run.answer(away());
        if next == TRY {
            assert_eq!(last, TRY);
        }
    }
    // It is given up after two tries, and compensated.
    assert_eq!(run.causes(), [(What::RetriesExhausted, 2)]);
    assert_eq!(run.request().map(|(call, _, _)| call.op), Some(Op::Compensation));
}

#[test]
fn a_pivot_whose_work_was_refused_asks_the_barrier() {
    let mut run = Run::new("Pivot", &json!({}));
    assert_eq!(run.answer(pending()), QUESTION);
    assert_eq!(run.answer(refused()), TRY);
    assert_eq!(run.answer(refused()), NONE);
    assert_eq!(run.causes(), [(What::ActionFailed, 2)]);
    assert_eq!(run.state.status(), Status::Compensated);
    // It was done, and whoever is asked how far it is has forgotten it.
    let mut run = Run::new("Pivot", &json!({}));
    assert_eq!([run.answer(pending()), run.answer(refused())], [QUESTION, TRY]);
    assert_eq!(run.answer(Outcome::Done(None)), NONE);
    assert_eq!(run.state.status(), Status::Completed);
}

#[test]
fn what_is_refused_in_work_again_and_again_is_told_to_somebody() {
    for (kind, what) in [("Pivot", What::PivotUnknown), ("Retriable", What::ActionFailed)] {
        let mut run = Run::new(kind, &json!({}));
        assert_eq!(
            [run.answer(pending()), run.answer(refused())],
            [QUESTION, TRY],
            "{kind}"
        );
        assert_eq!(
            [run.answer(pending()), run.answer(refused())],
            [QUESTION, NONE],
            "{kind}"
        );
        assert_eq!(run.causes(), [(what, 2)], "{kind}");
        assert_eq!(run.state.status(), Status::Stuck, "{kind}");
    }
}

#[test]
fn work_before_the_pivot_that_is_refused_is_compensated_at_once() {
    let mut run = Run::new("Compensatable", &json!({}));
    assert_eq!([run.answer(pending()), run.answer(refused())], [QUESTION, TRY]);
    assert_eq!(run.request().map(|(call, _, _)| call.op), Some(Op::Compensation));
    // The compensation's own work, too, is asked for anew before somebody is told.
    assert_eq!([run.answer(pending()), run.answer(refused())], [QUESTION, TRY]);
    assert_eq!(run.answer(refused()), NONE);
    assert_eq!(
        run.causes(),
        [(What::ActionFailed, 1), (What::CompensationFailed, 2)]
    );
    run.retry();
    assert_eq!(run.answer(Outcome::Done(None)), NONE);
    assert_eq!(run.state.status(), Status::Compensated);
}
