//! Actions: done once, however often and late they come.

use super::{Context, Verdict, answer, is_same, needs_done, told};
use crate::conformance::{
    answer::Reading,
    bug::Bug,
    case::{Case, Observation},
};

impl Context<'_> {
    pub(super) fn action(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        let answer = answer(seen, 0);
        if answer.reading != Reading::Done {
            return Err(Verdict::Failed(
                Bug::ActionNotDone,
                format!(
                    "the action alone is not done, so nothing can be graded: {}",
                    told(answer)
                ),
            ));
        }
        Ok(match seen.states() {
            Some(states) if states[0] == states[1] => Verdict::Failed(
                Bug::ActionWithoutEffect,
                "the action is answered as done, and the state is as before, so nothing can be graded"
                    .to_owned(),
            ),
            Some(_) => Verdict::Passed("it is done, and its effect is seen"),
            None => Verdict::Passed("it is answered as done"),
        })
    }

    pub(super) fn duplicate_action(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        needs_done(seen, 1)?;
        if let Some(states) = seen.states()
            && states[1] != states[2]
        {
            return Err(Verdict::Failed(
                Bug::DuplicateEffect,
                "not idempotent: a duplicate of the action takes effect again".to_owned(),
            ));
        }
        Ok(match another_answer(seen) {
            Some(how) => Verdict::Failed(Bug::DuplicateAnswer, format!("a duplicate of the action {how}")),
            None if seen.states().is_some() => {
                Verdict::Passed("the duplicate gets the first answer, and changes nothing")
            }
            None => Verdict::Passed("the duplicate gets the first answer"),
        })
    }

    /// The same call under another number of the try and of the replica, as the engine sends it when nobody answered.
    pub(super) fn other_attempt(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        let which = if seen.case == Case::LaterAttempt {
            "a later"
        } else {
            "an earlier"
        };
        needs_done(seen, 1)?;
        if self.has(Bug::DuplicateEffect) {
            return Err(Verdict::NotJudged(
                "duplicates take effect again anyway: see the duplicate action".to_owned(),
            ));
        }
        let states = seen.states();
        if states.as_ref().is_some_and(|states| states[1] != states[2]) {
            return Err(Verdict::Failed(
                Bug::AttemptInKey,
                format!(
                    "not idempotent over tries: the same action under {which} attempt and epoch takes effect again"
                ),
            ));
        }
        // Nobody waits for the refusal of a try that was given up.
        let is_of_no_use = seen.case == Case::EarlierAttempt && answer(seen, 1).reading == Reading::Refused;
        Ok(match another_answer(seen) {
            None => Verdict::Passed("it is known again, and gets the first answer"),
            Some(_) if is_of_no_use => Verdict::Passed("it is refused, and nobody waits for that answer"),
            Some(_) if self.has(Bug::DuplicateAnswer) => Verdict::NotJudged(
                "duplicates get another answer anyway: see the duplicate action".to_owned(),
            ),
            Some(how) => Verdict::Failed(
                Bug::AttemptInKey,
                format!("the same action under {which} attempt and epoch {how}"),
            ),
        })
    }

    pub(super) fn concurrent_actions(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        if self.has(Bug::DuplicateEffect) {
            return Err(Verdict::NotJudged(
                "duplicates take effect again also one after another: see the duplicate action".to_owned(),
            ));
        }
        let fail = |how: String| Err(Verdict::Failed(Bug::ConcurrentActions, format!("race: {how}")));
        let answers = &seen.played[0].answers;
        let done: Vec<_> = answers
            .iter()
            .filter(|answer| answer.reading == Reading::Done)
            .collect();
        let states = seen.states();
        if let Some(states) = &states {
            if let Some(times @ 2..) = self.times(Case::Action, (states[0], states[1])) {
                return fail(format!(
                    "{} copies of the action that come at once take effect {times} times",
                    answers.len()
                ));
            }
            if !done.is_empty() && states[0] == states[1] {
                return fail("of copies of the action that come at once none takes effect".to_owned());
            }
        }
        let other = answers.iter().find(|answer| answer.reading != Reading::Done);
        match (done.first(), other) {
            (None, Some(other)) => Err(Verdict::NotJudged(format!(
                "the action was not done this time: {}",
                told(other)
            ))),
            (Some(_), Some(other))
                if other.reading == Reading::Refused && !self.has(Bug::DuplicateAnswer) =>
            {
                fail(format!(
                    "a copy that comes while the action is under way is refused for good ({}): the engine takes the step for failed",
                    told(other)
                ))
            }
            (Some(_), Some(other)) if other.reading != Reading::Refused => fail(format!(
                "a copy that comes while the action is under way gets no answer for good: {}",
                told(other)
            )),
            (Some(first), None)
                if !self.has(Bug::DuplicateAnswer) && !done.iter().all(|other| is_same(first, other)) =>
            {
                fail("copies of the action that come at once get different answers".to_owned())
            }
            _ if states.is_some() => Ok(Verdict::Passed("they take effect once")),
            _ if self.has(Bug::DuplicateAnswer) => Err(Verdict::NotJudged(
                "duplicates get another answer anyway, and no --state shows more".to_owned(),
            )),
            _ => Ok(Verdict::Passed("all get one answer")),
        }
    }

    pub(super) fn hanging_action(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        needs_done(seen, 1)?;
        let answer = answer(seen, 1);
        if let Some(states) = seen.states()
            && states[1] != states[2]
        {
            return Err(Verdict::Failed(
                Bug::HangingAction,
                "hanging: an action that comes after its compensation is performed, and nothing will take it back".to_owned(),
            ));
        }
        Ok(match answer.reading {
            Reading::Refused => Verdict::Passed("it is refused for good"),
            Reading::Done | Reading::Pending => Verdict::Failed(
                Bug::HangingAction,
                format!(
                    "hanging: an action that comes after its compensation is answered as done ({})",
                    told(answer)
                ),
            ),
            Reading::Again => Verdict::Failed(
                Bug::HangingActionNotFinal,
                format!(
                    "an action that comes after its compensation is not refused for good, but to be tried again: {}",
                    told(answer)
                ),
            ),
        })
    }

    pub(super) fn late_action(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        self.needs_a_compensation()?;
        needs_done(seen, 2)?;
        let Some(states) = seen.states() else {
            return Err(Verdict::NotJudged(
                "any answer will do; name a --state that shows whether the effect is back".to_owned(),
            ));
        };
        Ok(if states[2] == states[3] {
            Verdict::Passed("it changes nothing")
        } else {
            Verdict::Failed(
                Bug::LateAction,
                "a late copy of the action does again what was taken back, and nothing will take it back once more".to_owned(),
            )
        })
    }

    pub(super) fn partial_headers(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        if answer(seen, 0).reading == Reading::Refused {
            return Ok(Verdict::Passed("they are refused"));
        }
        needs_done(seen, 1)?;
        let Some(states) = seen.states() else {
            return Err(Verdict::NotJudged(
                "they are done; name a --state that shows whether every copy is".to_owned(),
            ));
        };
        Ok(if states[1] == states[2] {
            Verdict::Passed("they are done, but once: something else guards them")
        } else {
            Verdict::Warning(
                Bug::UnguardedHeaders,
                "an action with some of the engine's headers is done as often as it comes, past the barrier"
                    .to_owned(),
            )
        })
    }
}

/// How the second call was answered, if otherwise than the first.
fn another_answer(seen: &Observation) -> Option<String> {
    let (first, second) = (answer(seen, 0), answer(seen, 1));
    match second.reading {
        _ if is_same(first, second) => None,
        Reading::Refused => Some(format!(
            "is refused for good ({}): the engine takes the step for failed",
            told(second)
        )),
        Reading::Again | Reading::Pending => Some(format!("gets no answer for good: {}", told(second))),
        Reading::Done if first.status != second.status && !second.was_pending => Some(format!(
            "gets another answer: first {}, then {}",
            told(first),
            told(second)
        )),
        Reading::Done => Some(format!("gets another body, with {}", told(second))),
    }
}
