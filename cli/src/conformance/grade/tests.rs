mod bugs;

use serde_json::{Value, json};

use super::*;
use crate::conformance::case::Played;

/// The answer of a status, as the engine reads it.
fn of(status: u16) -> Answer {
    Answer {
        reading: match status {
            200..=299 => Reading::Done,
            408 | 425 | 429 | 500.. => Reading::Again,
            _ => Reading::Refused,
        },
        status: Some(status),
        body: Value::Null,
        tries: 1,
        was_pending: false,
    }
}

/// A case with a status and a state after each play; the first state is that of before.
fn seen(case: Case, statuses: &[u16], states: &[i64]) -> Observation {
    let state = |place: usize| states.get(place).map(|state| State::Value(json!(state)));
    let played = statuses.iter().enumerate().map(|(place, status)| Played {
        answers: vec![of(*status)],
        state: state(place + 1),
    });
    Observation {
        case,
        run: "r1".to_owned(),
        before: state(0),
        played: played.collect(),
    }
}

/// Several copies at once, as the last play.
fn with_copies(mut seen: Observation, statuses: &[u16]) -> Observation {
    let last = seen.played.last_mut().unwrap();
    last.answers = statuses.iter().copied().map(of).collect();
    seen
}

/// What a participant that keeps to the contract shows; a stock of 10, of which an action takes 2.
fn good() -> Vec<Observation> {
    let with = |case: Case, statuses: &[u16], states: &[i64]| seen(case, statuses, states);
    vec![
        with(Case::Action, &[201], &[10, 8]),
        with(Case::DuplicateAction, &[201, 201], &[10, 8, 8]),
        with(Case::LaterAttempt, &[201, 201], &[10, 8, 8]),
        with(Case::EarlierAttempt, &[201, 201], &[10, 8, 8]),
        with_copies(with(Case::ConcurrentActions, &[201], &[10, 8]), &[201, 201]),
        with(Case::Compensation, &[201, 204], &[10, 8, 10]),
        with(Case::DuplicateCompensation, &[201, 204, 204], &[10, 8, 10, 10]),
        with_copies(
            with(Case::ConcurrentCompensations, &[201, 204], &[10, 8, 10]),
            &[204, 204],
        ),
        with(Case::NullCompensation, &[204], &[10, 10]),
        with(Case::HangingAction, &[204, 409], &[10, 10, 10]),
        with(Case::LateAction, &[201, 204, 201], &[10, 8, 10, 10]),
        with(Case::IncarnationAfterNull, &[204, 201, 204], &[10, 10, 8, 10]),
        with(
            Case::IncarnationAfterCompensation,
            &[201, 204, 201, 204],
            &[10, 8, 10, 8, 10],
        ),
        with(Case::PartialHeaders, &[400, 400], &[10, 10, 10]),
    ]
}

/// The grades, with one case seen otherwise.
fn graded(other: &Observation) -> Vec<Graded> {
    let mut observations = good();
    for seen in &mut observations {
        if seen.case == other.case {
            *seen = other.clone();
        }
    }
    grade(&observations, false)
}

fn of_case(graded: &[Graded], case: Case) -> &Graded {
    graded.iter().find(|graded| graded.case == case).unwrap()
}

#[test]
fn what_the_contract_says_passes() {
    let graded = grade(&good(), false);
    let odd: Vec<_> = graded
        .iter()
        .filter(|graded| graded.grade != Grade::Passed)
        .collect();
    assert_eq!((odd, graded.len()), (Vec::new(), Case::ALL.len()));
}

#[test]
fn what_another_fault_explains_is_not_judged() {
    for (other, explained) in [
        (
            seen(Case::DuplicateAction, &[201, 201], &[10, 8, 6]),
            &[Case::LaterAttempt, Case::EarlierAttempt, Case::ConcurrentActions][..],
        ),
        (
            seen(Case::Compensation, &[201, 204], &[10, 8, 8]),
            &[
                Case::DuplicateCompensation,
                Case::ConcurrentCompensations,
                Case::LateAction,
                Case::IncarnationAfterCompensation,
            ],
        ),
        (
            seen(Case::DuplicateCompensation, &[201, 204, 204], &[10, 8, 10, 12]),
            &[Case::ConcurrentCompensations],
        ),
    ] {
        let graded = graded(&other);
        let not_judged = graded.iter().filter(|graded| graded.grade == Grade::NotJudged);
        let cases: Vec<_> = not_judged.map(|graded| graded.case).collect();
        assert_eq!(cases, explained, "{graded:#?}");
    }
}

#[test]
fn what_is_of_no_consequence_passes_and_what_may_have_a_reason_is_a_warning() {
    for (other, grade) in [
        // Nobody waits for the refusal of a try that was given up.
        (
            seen(Case::EarlierAttempt, &[201, 409], &[10, 8, 8]),
            Grade::Passed,
        ),
        // The stored answer, or a refusal: the run is on its way back.
        (
            seen(Case::LateAction, &[201, 204, 409], &[10, 8, 10, 10]),
            Grade::Passed,
        ),
        // Something else guards them.
        (
            seen(Case::PartialHeaders, &[201, 201], &[10, 8, 8]),
            Grade::Passed,
        ),
        (
            seen(Case::PartialHeaders, &[201, 201], &[10, 8, 6]),
            Grade::Warning,
        ),
        // The resource's id is not free any more.
        (
            seen(
                Case::IncarnationAfterCompensation,
                &[201, 204, 409, 204],
                &[10, 8, 10, 10, 10],
            ),
            Grade::Warning,
        ),
    ] {
        let graded = graded(&other);
        assert_eq!(of_case(&graded, other.case).grade, grade, "{other:?}");
    }
}

#[test]
fn a_record_of_what_was_taken_back_may_stay_if_it_is_said() {
    let states = |case: Case| -> &[&str] {
        match case {
            Case::Action | Case::ConcurrentActions => &["", "held"],
            Case::DuplicateAction | Case::LaterAttempt | Case::EarlierAttempt => &["", "held", "held"],
            Case::Compensation | Case::ConcurrentCompensations => &["", "held", "void"],
            Case::DuplicateCompensation | Case::LateAction => &["", "held", "void", "void"],
            Case::NullCompensation => &["", "void"],
            Case::HangingAction => &["", "void", "void"],
            Case::IncarnationAfterNull => &["", "void", "held", "void"],
            Case::IncarnationAfterCompensation => &["", "held", "void", "held", "void"],
            Case::PartialHeaders => &["", "", ""],
        }
    };
    let state = |text: &str| match text {
        "" => State::Absent,
        text => State::Value(json!({ "status": text })),
    };
    let mut observations = good();
    for seen in &mut observations {
        let states = states(seen.case);
        seen.before = Some(state(states[0]));
        for (played, text) in seen.played.iter_mut().zip(&states[1..]) {
            played.state = Some(state(text));
        }
    }
    let graded = grade(&observations, true);
    assert!(
        graded.iter().all(|graded| graded.grade == Grade::Passed),
        "{graded:#?}"
    );
    let graded = grade(&observations, false);
    assert_eq!(
        of_case(&graded, Case::Compensation).bug,
        Some(Bug::CompensationIncomplete)
    );
}

#[test]
fn without_a_state_the_answers_are_judged() {
    let blind = |seen: &Observation| Observation {
        before: None,
        played: seen
            .played
            .iter()
            .map(|played| Played {
                state: None,
                ..played.clone()
            })
            .collect(),
        ..seen.clone()
    };
    let mut observations: Vec<_> = good().iter().map(blind).collect();
    let graded = grade(&observations, false);
    let not_judged = graded
        .iter()
        .filter(|graded| graded.grade != Grade::Passed)
        .map(|graded| (graded.case, graded.grade));
    let expected = [
        (Case::LateAction, Grade::NotJudged),
        (Case::IncarnationAfterCompensation, Grade::NotJudged),
    ];
    assert_eq!(not_judged.collect::<Vec<_>>(), expected);
    observations[9] = blind(&seen(Case::HangingAction, &[204, 201], &[]));
    let graded = grade(&observations, false);
    assert_eq!(
        of_case(&graded, Case::HangingAction).bug,
        Some(Bug::HangingAction)
    );
}

#[test]
fn a_case_that_was_cut_short_or_did_not_begin_is_not_judged() {
    for other in [
        seen(Case::LateAction, &[201, 204], &[10, 8, 10]),
        seen(Case::LateAction, &[409, 204, 409], &[10, 10, 10, 10]),
    ] {
        let graded = graded(&other);
        assert_eq!(of_case(&graded, other.case).grade, Grade::NotJudged);
    }
}

#[test]
fn of_work_that_takes_long_the_end_is_compared() {
    let later = Answer {
        was_pending: true,
        ..of(200)
    };
    assert!(is_same(&of(201), &later));
    let other = Answer {
        body: json!({"number": 7}),
        ..later
    };
    assert!(!is_same(&of(201), &other));
}
