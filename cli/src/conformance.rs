//! `trellis saga test`: whether a participant keeps to the contract, by playing against it what networks and engines do.
//!
//! ```text
//! target       the arguments -> requests with a place for the id of the run
//! case         what is sent in which order: duplicates, null compensations, hanging and late actions
//! answer       a response -> what the engine takes it for
//! participant  a case -> answers and states: the only part that needs a network
//! grade        answers and states -> faults, each by its name
//! report       faults, for people or as JSON
//! ```
//!
//! **Flow.** Each case has a run of its own; the state is looked at before it and after each call. What a case leaves behind is taken back
//! at its end, as far as the participant can.
//!
//! **Assumptions.** Nobody else changes the state meanwhile; one that changes by itself is refused.
//!
//! **Caveats.** A race that does not happen is not seen: `copies of the action at once` that passes once may fail the next time. Whether the
//! effect and the memory of it are one transaction shows only when the participant is killed between the two, which the command does not.

mod answer;
mod bug;
mod case;
mod grade;
mod participant;
mod report;
mod state;
mod target;

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time;
use ulid::Ulid;

use self::{
    answer::Reading,
    case::{Case, Observation},
    grade::{Grade, Graded},
    participant::Participant,
    report::Report,
    target::Target,
};
use crate::{args, report::print};

/// A case takes at most so many times as long as a call may.
const LONGEST_CASE: u32 = 6;

/// Why a participant could not be tested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are none.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// The participant, or the way to it.
    #[error(transparent)]
    Participant(#[from] participant::Error),
    /// Nothing answers.
    #[error(
        "failed to get any answer to {request}: {why}; is it an HTTP server, and ready? --timeout gives it more time"
    )]
    NoAnswer {
        /// The first request.
        request: String,
        /// What came instead.
        why: String,
    },
    /// The state says nothing of effects.
    #[error(
        "the state changes by itself, from one look to the next: {0}; name one that only the action changes, by a field if need be: --state 'URL#/FIELD'"
    )]
    Restless(String),
    /// There is no runtime to be had.
    #[error("failed to start")]
    Runtime(#[source] io::Error),
    /// The standard output.
    #[error("failed to write what came of it")]
    Output(#[source] io::Error),
}

/// Plays all cases and prints their grades; false: some failed.
///
/// # Errors
/// The participant cannot be tested.
pub fn run(args: &args::Test) -> Result<bool, Error> {
    let target = Target::read(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let observations = runtime.block_on(observe(&target, args))?;
    let mut graded = grade::grade(&observations, args.keeps_record);
    // Behind an action that is not done there is nothing to be listed.
    if graded.iter().all(|graded| graded.case == Case::Action) && !goes_on(&graded) {
        return finish(&target, args, &observations, graded);
    }
    for case in Case::ALL {
        if !observations.iter().any(|seen| seen.case == case) {
            graded.push(grade::not_played(case, "no --compensation is named"));
        }
    }
    finish(&target, args, &observations, graded)
}

fn finish(
    target: &Target,
    args: &args::Test,
    observations: &[Observation],
    graded: Vec<Graded>,
) -> Result<bool, Error> {
    let report = Report::new(target, observations, graded);
    let text = match args.output {
        args::Output::Text => report.text(),
        args::Output::Json => report.json(),
    };
    print(&text).map_err(Error::Output)?;
    Ok(report.is_good())
}

/// Plays the cases one after another; only the first if its action is not done.
async fn observe(target: &Target, args: &args::Test) -> Result<Vec<Observation>, Error> {
    let timeout = Duration::from_secs(args.timeout);
    let participant = Participant::new(target.clone(), timeout);
    is_quiet(&participant).await?;
    let mut observations = Vec::new();
    for case in Case::ALL {
        if target.compensation.is_none() && !case.is_of_actions_alone() {
            continue;
        }
        let mut seen = Observation {
            case,
            run: new_run(),
            before: None,
            played: Vec::new(),
        };
        // What was seen until then is kept.
        let played = time::timeout(
            timeout * LONGEST_CASE,
            play(&participant, target, &mut seen, args.copies),
        );
        if let Ok(failed) = played.await {
            failed?;
        }
        let first = seen.played.first().and_then(|played| played.answers.first());
        if case == Case::Action
            && let Some(answer) = first
            && answer.status.is_none()
        {
            return Err(Error::NoAnswer {
                request: target.action.shown(),
                why: answer.body.as_str().unwrap_or_default().to_owned(),
            });
        }
        let is_done = first.is_some_and(|answer| answer.reading == Reading::Done);
        observations.push(seen);
        if case == Case::Action && !(is_done && goes_on(&grade::grade(&observations, args.keeps_record))) {
            break;
        }
    }
    Ok(observations)
}

/// Whether the action alone is done.
fn goes_on(graded: &[Graded]) -> bool {
    graded.iter().all(|graded| graded.grade == Grade::Passed)
}

async fn play(
    participant: &Participant,
    target: &Target,
    seen: &mut Observation,
    copies: u16,
) -> Result<(), participant::Error> {
    seen.before = participant.state(&seen.run).await?;
    for play in seen.case.script() {
        seen.played.push(participant.play(&seen.run, play, copies).await?);
    }
    if target.compensation.is_some() {
        for play in seen.leftovers() {
            participant.play(&seen.run, play, copies).await?;
        }
    }
    Ok(())
}

/// Looks twice, with nothing in between.
async fn is_quiet(participant: &Participant) -> Result<(), Error> {
    let run = new_run();
    if let (Some(one), Some(other)) = (participant.state(&run).await?, participant.state(&run).await?)
        && one != other
    {
        return Err(Error::Restless(state::shown(&[&one, &other])));
    }
    Ok(())
}

/// Looks like an id of the engine's.
fn new_run() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ulid::from_parts(u64::try_from(now.as_millis()).unwrap_or_default(), rand::random()).to_string()
}
