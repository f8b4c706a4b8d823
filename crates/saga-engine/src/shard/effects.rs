//! What is done when it is stored: calls, timers, and who is told.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use trellis_saga_core::{
    definition::{self, RetryCondition},
    event::{CallId, Effect, Event, Op, Outcome, Time},
};

use super::{Message, Shard, now};
use crate::{
    discreet::discreet,
    id::RunId,
    lanes::{Lane, Lanes},
    observe::Observe,
    participants::{Asked, Participants, Try},
    store::Store,
};

impl<S: Store, P: Participants> Shard<S, P> {
    pub(super) fn decide(&mut self, run: RunId, step: u32, incarnation: u32) {
        let Some(live) = self.runs.get(&run) else { return };
        let decision = live
            .compiled
            .program
            .decide(&live.state, live.about(), step as usize);
        let event = Event::Decided {
            step,
            incarnation,
            decision,
        };
        self.decided.push_back((run, event));
    }

    /// Does what was decided; it is stored.
    pub(super) fn perform(&mut self, run: RunId, effect: Effect) {
        match effect {
            Effect::Decide { step, incarnation } => self.decide(run, step, incarnation),
            Effect::Wait { timer, until } => {
                self.timers.insert((until, run, timer));
            }
            Effect::Call {
                call,
                attempt,
                until,
                poll,
            } => self.call(run, call, attempt, until, poll),
            Effect::Stuck => {
                if let Some(live) = self.runs.get(&run) {
                    self.observer.stuck(&live.compiled, run, live.state.causes());
                }
            }
            Effect::Ended(end) => {
                if let Some(live) = self.runs.remove(&run) {
                    self.forget_deadline(run, &live);
                    self.observer.ended(&live.compiled, run, end);
                    for waiter in live.waiters {
                        // Who waited may have gone.
                        let _ = waiter.send(());
                    }
                }
            }
        }
    }

    pub(super) fn call(
        &mut self,
        run: RunId,
        call: CallId,
        attempt: u32,
        until: Time,
        poll: Option<Arc<str>>,
    ) {
        let (Some(live), Some(&epoch)) = (self.runs.get(&run), self.epochs.get(&run.partition())) else {
            return;
        };
        let answered = move |outcome| {
            let event = Event::Answered {
                call,
                attempt,
                outcome,
            };
            Message::Happened(run, event)
        };
        let request = match poll {
            Some(location) => Ok(Some(Asked::Poll(location))),
            None => live
                .compiled
                .program
                .request(&live.state, live.about(), call, attempt)
                .map(|request| request.map(Asked::Do)),
        };
        let tell = self.tell.clone();
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                // Nobody listens any more only when the process ends.
                let _ = tell.send(answered(Outcome::Failed(error.to_string().into())));
                return;
            }
        };
        let a_try = Try {
            run,
            compiled: Arc::clone(&live.compiled),
            call,
            attempt,
            epoch,
            timeout: until.0.saturating_sub(now().0).max(1),
            request,
        };
        // Up to the pivot an action is of no use any more when the time of its run is up.
        let deadline = live.state.deadline(&live.compiled.plan);
        let left = deadline.filter(|_| call.op == Op::Action);
        let left = left.map(|until| Duration::from_millis(until.0.saturating_sub(now().0)));
        let (participants, lanes) = (Arc::clone(&self.participants), self.lanes.clone());
        let observer = Arc::clone(&self.observer);
        tokio::spawn(async move {
            let outcome = in_turn(&*participants, a_try, &lanes, left, &*observer).await;
            let _ = tell.send(answered(outcome));
        });
    }
}

/// Tries a call when it is its turn. What it waits is not of the time of the try; `left` is what the run has left.
async fn in_turn<P: Participants>(
    participants: &P,
    a_try: Try,
    lanes: &Lanes,
    left: Option<Duration>,
    observer: &dyn Observe,
) -> Outcome {
    let name = |definition: &definition::Call| Arc::from(&*definition.call.microservice);
    let participant: Arc<str> = a_try.definition().map(name).unwrap_or_default();
    let lane = Lane {
        participant: (a_try.compiled.namespace().into(), Arc::clone(&participant)),
        saga: a_try.compiled.saga().into(),
    };
    let begin = Instant::now();
    let pass = match left {
        None => Some(lanes.enter(&lane).await),
        Some(left) => time::timeout(left, lanes.enter(&lane)).await.ok(),
    };
    observer.waited(&a_try.compiled, &participant, begin.elapsed());
    if pass.is_none() {
        return Outcome::Retry {
            condition: RetryCondition::Unreachable,
            after: None,
            detail: "it was not sent: too many other calls of the participant were on their way until the saga's time was up".into(),
        };
    }
    answer(participants, a_try).await
}

/// Tries a call within its time. An answer that is not what the definition says is none.
async fn answer<P: Participants>(participants: &P, a_try: Try) -> Outcome {
    let (compiled, call) = (Arc::clone(&a_try.compiled), a_try.call);
    let late = |detail: &str, condition| Outcome::Retry {
        condition,
        after: None,
        detail: detail.into(),
    };
    let within = Duration::from_millis(a_try.timeout);
    let outcome = match time::timeout(within, participants.call(a_try)).await {
        Ok(outcome) => discreet(&compiled.program.definition, outcome),
        Err(_) => return late("no answer in time", RetryCondition::Timeout),
    };
    let Outcome::Done(output) = &outcome else {
        return outcome;
    };
    if call.op == Op::Compensation {
        return Outcome::Done(None);
    }
    let has_schema = compiled
        .program
        .definition
        .steps
        .get(call.step as usize)
        .is_some_and(|step| step.output.is_some());
    let json = output
        .as_ref()
        .map(|output| serde_json::from_str(&output.0))
        .transpose();
    let checked = match json {
        Ok(json) => compiled
            .program
            .check_output(call.step as usize, json.as_ref())
            .map_err(|error| error.to_string()),
        // Nobody may ask for it; it is done all the same.
        Err(_) if !has_schema => return Outcome::Done(None),
        Err(error) => Err(format!("the answer is no JSON: {error}")),
    };
    match checked {
        Ok(()) => outcome,
        // It names keys of the answer.
        Err(_) if !compiled.program.definition.secret.is_empty() => late(
            "the answer is not what output.schema says; where is not kept, since the saga has secrets",
            RetryCondition::ServerError,
        ),
        Err(error) => late(&error, RetryCondition::ServerError),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use trellis_saga_core::{Definition, canonical};

    use super::*;
    use crate::{
        definitions::Compiled,
        id::Partition,
        observe::Nobody,
        store::{Revision, RevisionId},
    };

    /// A participant that hangs.
    struct Hangs;

    impl Participants for Hangs {
        async fn call(&self, _: Try) -> Outcome {
            std::future::pending().await
        }
    }

    fn a_try(timeout: u64) -> Try {
        let definition: Definition = serde_json::from_value(json!({
            "apiVersion": "saga.trellis.dev/v1", "namespace": "shop", "name": "a", "onStuck": {"event": true},
            "retention": {"completed": 1, "compensated": 1},
            "steps": [{"name": "a", "after": [], "kind": "Pivot", "action": {
                "call": {"microservice": "inventory", "method": "POST", "path": "/"}, "timeout": timeout,
                "retry": {"initial": 1, "factor": 1.0, "maxInterval": 1, "jitter": 0, "retryOn": []},
            }}],
        }))
        .unwrap();
        let revision = Revision {
            namespace: "shop".to_owned(),
            saga: "a".to_owned(),
            revision: "r".to_owned(),
            definition: canonical::text(&definition),
            is_current: true,
        };
        Try {
            run: RunId::new(1, 0, Partition(0)),
            compiled: Arc::new(Compiled::new(RevisionId(1), &revision).unwrap()),
            call: CallId {
                step: 0,
                item: 0,
                op: Op::Action,
                incarnation: 0,
            },
            attempt: 1,
            epoch: 1,
            timeout,
            request: Asked::Poll("/".into()),
        }
    }

    /// Fills the lane for a second.
    async fn full(lanes: &Lanes) {
        for _ in 0..128 {
            let (lanes, mut a_try) = (lanes.clone(), a_try(1_000));
            a_try.timeout = 1_000;
            tokio::spawn(async move { in_turn(&Hangs, a_try, &lanes, None, &Nobody).await });
        }
        let lane = Lane {
            participant: ("shop".into(), "inventory".into()),
            saga: "a".into(),
        };
        crate::lanes::tests::on_their_way(lanes, &lane, 128).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_try_begins_when_it_is_sent() {
        let lanes = Lanes::default();
        full(&lanes).await;
        let begin = Instant::now();
        let outcome = in_turn(&Hangs, a_try(3_000), &lanes, None, &Nobody).await;
        assert_eq!(
            begin.elapsed().as_secs(),
            4,
            "a second until its turn, and three of its own"
        );
        assert!(matches!(
            outcome,
            Outcome::Retry {
                condition: RetryCondition::Timeout,
                ..
            }
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_waits_no_longer_than_its_run_has_time() {
        let lanes = Lanes::default();
        full(&lanes).await;
        let begin = Instant::now();
        let left = Some(Duration::from_millis(500));
        let outcome = in_turn(&Hangs, a_try(3_000), &lanes, left, &Nobody).await;
        assert_eq!(begin.elapsed().as_millis(), 500);
        assert!(matches!(
            outcome,
            Outcome::Retry {
                condition: RetryCondition::Unreachable,
                ..
            }
        ));
    }
}
