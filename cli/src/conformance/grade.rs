//! What observations say of a participant. Pure: no network, no clock.
//!
//! A case that another fault makes meaningless is not judged, so that each fault has one name: of a participant that does every duplicate
//! again, several copies at once say nothing more.

mod actions;
mod compensations;

use serde::Serialize;

use super::{
    answer::{Answer, Reading},
    bug::Bug,
    case::{Case, Observation},
    state::{self, State},
};

/// What a case came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// As the contract says.
    Passed,
    /// Against the contract, but of little consequence, or by good reason.
    Warning,
    /// Against the contract.
    Failed,
    /// It could not be told.
    NotJudged,
}

/// A case with its grade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graded {
    /// The case.
    pub case: Case,
    /// The grade.
    pub grade: Grade,
    /// What is wrong.
    pub bug: Option<Bug>,
    /// Why.
    pub message: String,
}

/// A grade on its way.
enum Verdict {
    Passed(&'static str),
    Warning(Bug, String),
    Failed(Bug, String),
    NotJudged(String),
}

/// What is known besides the case itself.
struct Context<'a> {
    observations: &'a [Observation],
    graded: &'a [Graded],
    keeps_record: bool,
}

/// Grades each case that was played, in their order. None is behind an action that is not done: nothing can be told then.
pub fn grade(observations: &[Observation], keeps_record: bool) -> Vec<Graded> {
    let mut graded: Vec<Graded> = Vec::new();
    for observation in observations {
        let context = Context {
            observations,
            graded: &graded,
            keeps_record,
        };
        let verdict = context.judge(observation).unwrap_or_else(|verdict| verdict);
        let (grade, bug, message) = match verdict {
            Verdict::Passed(message) => (Grade::Passed, None, message.to_owned()),
            Verdict::Warning(bug, message) => (Grade::Warning, Some(bug), message),
            Verdict::Failed(bug, message) => (Grade::Failed, Some(bug), message),
            Verdict::NotJudged(message) => (Grade::NotJudged, None, message),
        };
        graded.push(Graded {
            case: observation.case,
            grade,
            bug,
            message,
        });
    }
    graded
}

/// A case that cannot be played.
pub fn not_played(case: Case, why: &str) -> Graded {
    Graded {
        case,
        grade: Grade::NotJudged,
        bug: None,
        message: why.to_owned(),
    }
}

impl Context<'_> {
    /// Either is a verdict; an `Err` is one that leaves nothing more to say.
    fn judge(&self, seen: &Observation) -> Result<Verdict, Verdict> {
        if seen.played.len() < seen.case.script().len() {
            return Err(Verdict::NotJudged("the time for the case was over".to_owned()));
        }
        match seen.case {
            Case::Action => self.action(seen),
            Case::DuplicateAction => self.duplicate_action(seen),
            Case::LaterAttempt | Case::EarlierAttempt => self.other_attempt(seen),
            Case::ConcurrentActions => self.concurrent_actions(seen),
            Case::HangingAction => self.hanging_action(seen),
            Case::LateAction => self.late_action(seen),
            Case::PartialHeaders => self.partial_headers(seen),
            Case::Compensation => self.compensation(seen),
            Case::DuplicateCompensation => self.duplicate_compensation(seen),
            Case::ConcurrentCompensations => self.concurrent_compensations(seen),
            Case::NullCompensation => self.null_compensation(seen),
            Case::IncarnationAfterNull => self.incarnation_after_null(seen),
            Case::IncarnationAfterCompensation => self.incarnation_after_compensation(seen),
        }
    }

    /// Whether the fault was found.
    fn has(&self, bug: Bug) -> bool {
        self.graded.iter().any(|graded| graded.bug == Some(bug))
    }

    /// An action and its compensation have to work by themselves, or nothing can be told of more.
    fn needs_a_compensation(&self) -> Result<(), Verdict> {
        let of = |graded: &&Graded| graded.case == Case::Compensation;
        match self.graded.iter().find(of) {
            Some(graded) if graded.grade == Grade::Passed => Ok(()),
            _ => Err(Verdict::NotJudged(
                "the compensation does not work by itself: see there".to_owned(),
            )),
        }
    }

    /// The change by one action, or by one compensation.
    fn change_by(&self, case: Case) -> Option<(&State, &State)> {
        let seen = self.observations.iter().find(|seen| seen.case == case)?;
        let states = seen.states()?;
        match states[..] {
            [.., before, after] => Some((before, after)),
            _ => None,
        }
    }

    /// How many times the change of a case is that of one call; none if the state does not tell.
    fn times(&self, case: Case, now: (&State, &State)) -> Option<u32> {
        state::times(self.change_by(case)?, now)
    }
}

/// Up to there all must have been done, or nothing can be told of what comes after it.
fn needs_done(seen: &Observation, plays: usize) -> Result<(), Verdict> {
    let script = seen.case.script();
    for (play, played) in script.iter().zip(&seen.played).take(plays) {
        if let Some(answer) = played
            .answers
            .iter()
            .find(|answer| answer.reading != Reading::Done)
        {
            return Err(Verdict::NotJudged(format!(
                "the {} that it begins with was not done this time: {}",
                play.op.name(),
                told(answer)
            )));
        }
    }
    Ok(())
}

/// The answer to the only copy of a call.
fn answer(seen: &Observation, play: usize) -> &Answer {
    // Whatever was played has an answer for each copy, and each call has a copy.
    &seen.played[play].answers[0]
}

/// Whether two answers are the same to the engine. Of work that takes long only the end counts.
fn is_same(one: &Answer, other: &Answer) -> bool {
    let was_pending = one.was_pending || other.was_pending;
    one.reading == other.reading && one.body == other.body && (was_pending || one.status == other.status)
}

/// `409 card declined`, `no answer in time`.
fn told(answer: &Answer) -> String {
    let of = |name: &str| answer.body.get(name)?.as_str();
    let said = of("detail").or_else(|| of("title")).unwrap_or_default();
    let text = match answer.status {
        Some(status) => format!("{status} {said}").trim_end().to_owned(),
        None => answer.body.as_str().unwrap_or_default().to_owned(),
    };
    match answer.reading {
        Reading::Again if answer.tries > 1 => format!("{text}, {} times", answer.tries),
        Reading::Pending => format!("{text}, and still working"),
        _ => text,
    }
}

#[cfg(test)]
mod tests;
