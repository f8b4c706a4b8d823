//! Compensations: they take back what was done, once, and nothing if nothing was; and new incarnations, which are other calls.

use super::{Context, Verdict, answer, needs_done, told};
use crate::conformance::{
    answer::Reading,
    bug::Bug,
    case::{Case, Observation},
    state::State,
};

impl Context<'_> {
    pub(super) fn compensation(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        needs_done(seen, 1)?;
        is_accepted(
            seen,
            1,
            Bug::CompensationRefused,
            "the compensation of what was done",
        )?;
        let Some(states) = seen.states() else {
            return Ok(Verdict::Passed(
                "it is answered as done; whether it was is not seen",
            ));
        };
        Ok(if states[2] == states[0] {
            Verdict::Passed("the state is as before")
        } else if states[2] == states[1] {
            Verdict::Failed(
                Bug::NotCompensated,
                "the compensation is answered as done, and the effect of the action stays".to_owned(),
            )
        } else if self.keeps_record {
            Verdict::Passed("the effect is gone, a record of it stays")
        } else {
            Verdict::Failed(
                Bug::CompensationIncomplete,
                "after the compensation the state is neither that of before nor that after the action"
                    .to_owned(),
            )
        })
    }

    pub(super) fn duplicate_compensation(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        self.needs_a_compensation()?;
        needs_done(seen, 2)?;
        is_accepted(
            seen,
            2,
            Bug::DuplicateCompensationRefused,
            "a duplicate of the compensation",
        )?;
        Ok(match seen.states() {
            Some(states) if states[2] != states[3] => Verdict::Failed(
                Bug::DuplicateCompensation,
                "not idempotent: a duplicate of the compensation takes back once more".to_owned(),
            ),
            Some(_) => Verdict::Passed("it succeeds, and changes nothing"),
            None => Verdict::Passed("it succeeds"),
        })
    }

    pub(super) fn concurrent_compensations(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        self.needs_a_compensation()?;
        needs_done(seen, 1)?;
        if self.has(Bug::DuplicateCompensation) || self.has(Bug::DuplicateCompensationRefused) {
            return Err(Verdict::NotJudged(
                "duplicates are faulty also one after another: see the duplicate compensation".to_owned(),
            ));
        }
        let fail = |how: String| {
            Err(Verdict::Failed(
                Bug::ConcurrentCompensations,
                format!("race: {how}"),
            ))
        };
        let answers = &seen.played[1].answers;
        if let Some(states) = seen.states() {
            let times = self.times(Case::Compensation, (states[1], states[2]));
            if let Some(times @ 2..) = times {
                return fail(format!(
                    "{} copies of the compensation that come at once take back {times} times",
                    answers.len()
                ));
            }
            if states[1] == states[2] || (states[0] != states[2] && !self.keeps_record) {
                return fail(
                    "after copies of the compensation that come at once the state is not as before"
                        .to_owned(),
                );
            }
        }
        match answers.iter().find(|answer| answer.reading != Reading::Done) {
            Some(answer) => fail(format!(
                "of copies of the compensation that come at once not all succeed: {}",
                told(answer)
            )),
            None if seen.states().is_some() => Ok(Verdict::Passed("they take back once")),
            None => Ok(Verdict::Passed("all succeed")),
        }
    }

    pub(super) fn null_compensation(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        is_accepted(
            seen,
            0,
            Bug::NullCompensationRefused,
            "no null compensation: one whose action never came",
        )?;
        let Some(states) = seen.states() else {
            return Ok(Verdict::Passed("it succeeds"));
        };
        let change = (states[0], states[1]);
        let takes_away = self
            .times(Case::Compensation, change)
            .is_some_and(|times| times > 0);
        Ok(if states[0] == states[1] {
            Verdict::Passed("it succeeds, and changes nothing")
        } else if self.keeps_record && !takes_away {
            Verdict::Passed("it succeeds, and leaves a record")
        } else {
            Verdict::Failed(
                Bug::NullCompensationEffect,
                "a null compensation, whose action never came, takes away what was never given".to_owned(),
            )
        })
    }

    /// A compensation without an action fences off its own incarnation alone.
    pub(super) fn incarnation_after_null(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        needs_done(seen, 1)?;
        let anew = answer(seen, 1);
        match anew.reading {
            Reading::Done => self.incarnation(seen, 1),
            Reading::Refused => Err(Verdict::Failed(
                Bug::IncarnationIgnored,
                format!(
                    "the incarnation is ignored: an action that an operator has done anew is refused as if it were the earlier one ({})",
                    told(anew)
                ),
            )),
            Reading::Again | Reading::Pending => Err(Verdict::NotJudged(format!(
                "the action of the new incarnation was not done this time: {}",
                told(anew)
            ))),
        }
    }

    pub(super) fn incarnation_after_compensation(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        self.needs_a_compensation()?;
        needs_done(seen, 2)?;
        let anew = answer(seen, 2);
        match anew.reading {
            Reading::Done if seen.states().is_some() => self.incarnation(seen, 2),
            Reading::Done => Err(Verdict::NotJudged(
                "it is answered as done; name a --state that shows whether it was".to_owned(),
            )),
            // Of the domain, maybe: a reservation that was given back under an id that is free no more. The engine asks for another
            // incarnation of steps that were never compensated.
            Reading::Refused => Err(Verdict::Warning(
                Bug::IncarnationIgnored,
                format!(
                    "a new incarnation of an action that was compensated is refused ({}): fine if it is because of the resource's id, which is the same; not if it is taken for a copy",
                    told(anew)
                ),
            )),
            Reading::Again | Reading::Pending => Err(Verdict::NotJudged(format!(
                "the action of the new incarnation was not done this time: {}",
                told(anew)
            ))),
        }
    }

    /// The new incarnation's action, which is the play of that number, and the compensation after it.
    fn incarnation(&self, seen: &Observation, play: usize) -> Result<Verdict, Verdict> {
        let (Some(states), compensation) = (seen.states(), answer(seen, play + 1)) else {
            return Ok(Verdict::Passed("it is answered as done"));
        };
        let (before, between, after): (&State, &State, &State) =
            (states[play], states[play + 1], states[play + 2]);
        let fail = |how: &str| {
            Err(Verdict::Failed(
                Bug::IncarnationIgnored,
                format!("the incarnation is ignored: {how}"),
            ))
        };
        if before == between {
            return fail("an action that an operator has done anew is answered as done, and does nothing");
        }
        if self.needs_a_compensation().is_err() {
            return Ok(Verdict::Passed("it takes effect"));
        }
        if compensation.reading != Reading::Done {
            return fail("the compensation of a new incarnation is refused");
        }
        if between == after {
            return fail("the compensation of a new incarnation is answered as done, and does nothing");
        }
        if before != after && !self.keeps_record {
            return fail("the compensation of a new incarnation takes back something else than was done");
        }
        Ok(Verdict::Passed("it takes effect, and is taken back"))
    }
}

/// A compensation has to succeed.
fn is_accepted(seen: &Observation, play: usize, bug: Bug, what: &str) -> Result<(), Verdict> {
    let answer = answer(seen, play);
    match answer.reading {
        Reading::Done => Ok(()),
        Reading::Refused => Err(Verdict::Failed(
            bug,
            format!(
                "{what} is refused for good ({}): the run gets stuck",
                told(answer)
            ),
        )),
        Reading::Again | Reading::Pending => Err(Verdict::Failed(
            bug,
            format!(
                "{what} gets no answer for good ({}): the run cannot end",
                told(answer)
            ),
        )),
    }
}
