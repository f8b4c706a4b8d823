//! Grades, for people or as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    answer::{Answer, Reading},
    bug::Bug,
    case::{Case, Observation, Op},
    grade::{Grade, Graded},
    state::{self, State},
    target::Target,
};

/// What came of all cases.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    compensation: Option<String>,
    /// None: only answers are judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    passed: usize,
    warnings: usize,
    failed: usize,
    not_judged: usize,
    cases: Vec<Line>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    case: Case,
    grade: Grade,
    #[serde(skip_serializing_if = "Option::is_none")]
    bug: Option<Bug>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// The state before anything was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<State>,
    calls: Vec<Sent>,
    #[serde(skip)]
    seen: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    op: Op,
    incarnation: u32,
    attempt: u32,
    epoch: u64,
    answers: Vec<Answer>,
    /// The state after them.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

impl Report {
    /// Grades with what they were given for.
    pub fn new(target: &Target, observations: &[Observation], graded: Vec<Graded>) -> Self {
        let count = |grade| graded.iter().filter(|graded| graded.grade == grade).count();
        Self {
            action: target.action.shown(),
            compensation: target.compensation.as_ref().map(super::target::Template::shown),
            state: target.state.as_ref().map(super::target::StateTemplate::shown),
            passed: count(Grade::Passed),
            warnings: count(Grade::Warning),
            failed: count(Grade::Failed),
            not_judged: count(Grade::NotJudged),
            cases: graded
                .into_iter()
                .map(|graded| {
                    let seen = observations.iter().find(|seen| seen.case == graded.case);
                    Line::new(graded, seen)
                })
                .collect(),
        }
    }

    /// Whether no case failed.
    pub const fn is_good(&self) -> bool {
        self.failed == 0
    }

    /// A JSON object.
    pub fn json(&self) -> String {
        // Plain data with string keys always serialises.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// A table, and a paragraph for each case that did not pass.
    pub fn text(&self) -> String {
        let mut text = format!("action        {}\n", self.action);
        // Writing into a text does not fail.
        if let Some(compensation) = &self.compensation {
            let _ = writeln!(text, "compensation  {compensation}");
        }
        let state = self.state.as_deref();
        let _ = writeln!(
            text,
            "state         {}\n",
            state.unwrap_or("not looked at: only answers are judged; --state shows effects")
        );
        let width = self.cases.iter().map(|line| line.case.name().len()).max();
        let width = width.unwrap_or_default() + 2;
        for line in &self.cases {
            let row = format!(
                "  {:<width$}{:<12}{}",
                line.case.name(),
                line.grade.shown(),
                line.seen
            );
            let _ = writeln!(text, "{}", row.trim_end());
        }
        for line in self.cases.iter().filter(|line| line.bug.is_some()) {
            let (grade, case) = (line.grade.shown(), line.case.name());
            let _ = writeln!(text, "\n{grade}: {case}: {}", line.message);
            let _ = writeln!(text, "  fix: {}", line.fix.unwrap_or_default());
        }
        let not_judged = |line: &&Line| line.grade == Grade::NotJudged;
        for (place, line) in self.cases.iter().filter(not_judged).enumerate() {
            let separator = if place == 0 { "\n" } else { "" };
            let (grade, case) = (line.grade.shown(), line.case.name());
            let _ = writeln!(text, "{separator}{grade}: {case}: {}", line.message);
        }
        let plural = |count| if count == 1 { "" } else { "s" };
        let _ = writeln!(
            text,
            "\n{} case{}: {} passed, {} warning{}, {} failed, {} not judged",
            self.cases.len(),
            plural(self.cases.len()),
            self.passed,
            self.warnings,
            plural(self.warnings),
            self.failed,
            self.not_judged
        );
        text
    }
}

impl Line {
    fn new(graded: Graded, seen: Option<&Observation>) -> Self {
        let sent = |seen: &Observation| {
            let script = seen.case.script();
            let calls = script.into_iter().zip(seen.played.clone());
            calls
                .map(|(play, played)| Sent {
                    op: play.op,
                    incarnation: play.incarnation,
                    attempt: play.attempt,
                    epoch: play.epoch,
                    answers: played.answers,
                    state: played.state,
                })
                .collect()
        };
        Self {
            case: graded.case,
            grade: graded.grade,
            bug: graded.bug,
            message: graded.message,
            fix: graded.bug.map(Bug::fix),
            run: seen.map(|seen| seen.run.clone()),
            before: seen.and_then(|seen| seen.before.clone()),
            calls: seen.map(sent).unwrap_or_default(),
            seen: seen.map(what_was_seen).unwrap_or_default(),
        }
    }
}

impl Grade {
    const fn shown(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::NotJudged => "not judged",
        }
    }
}

/// `201, 204, 204; reserved 0 -> 2 -> 0 -> 0`.
fn what_was_seen(seen: &Observation) -> String {
    let answers: Vec<_> = seen
        .played
        .iter()
        .map(|played| statuses(&played.answers))
        .collect();
    let answers = answers.join(", ");
    match seen.states() {
        Some(states) => format!("{answers}; {}", state::shown(&states)),
        None => answers,
    }
}

/// `201`, `7 x 201 + 409`.
fn statuses(answers: &[Answer]) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for answer in answers {
        let status = answer
            .status
            .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let text = match answer.reading {
            Reading::Pending => format!("{status} still working"),
            _ if answer.was_pending => format!("202 then {status}"),
            _ => status,
        };
        match counts.iter_mut().find(|(other, _)| *other == text) {
            Some((_, count)) => *count += 1,
            None => counts.push((text, 1)),
        }
    }
    let parts: Vec<_> = counts
        .into_iter()
        .map(|(text, count)| {
            if count == 1 {
                text
            } else {
                format!("{count} x {text}")
            }
        })
        .collect();
    parts.join(" + ")
}
