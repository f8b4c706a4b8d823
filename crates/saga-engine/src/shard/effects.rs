//! What is done when it is stored: calls, timers, and who is told.

use std::{sync::Arc, time::Duration};

use tokio::time;
use trellis_saga_core::{
    definition::RetryCondition,
    event::{CallId, Effect, Event, Op, Outcome, Time},
};

use super::{Message, Shard, now};
use crate::{
    id::RunId,
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
                    self.observer.stuck(&live.compiled, run);
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
        let participants = Arc::clone(&self.participants);
        tokio::spawn(async move {
            let outcome = answer(&*participants, a_try).await;
            let _ = tell.send(answered(outcome));
        });
    }
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
        Ok(outcome) => outcome,
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
        Err(error) => late(&error, RetryCondition::ServerError),
    }
}
