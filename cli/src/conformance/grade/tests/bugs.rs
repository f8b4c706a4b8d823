use super::{graded, of_case, seen, with_copies};
use crate::conformance::{bug::Bug, case::Case, grade::Grade};

#[test]
fn each_observation_against_the_contract_has_one_name() {
    for (other, bug) in [
        (seen(Case::Action, &[422], &[10, 10]), Bug::ActionNotDone),
        (seen(Case::Action, &[503], &[10, 10]), Bug::ActionNotDone),
        (seen(Case::Action, &[201], &[10, 10]), Bug::ActionWithoutEffect),
        (
            seen(Case::DuplicateAction, &[201, 201], &[10, 8, 6]),
            Bug::DuplicateEffect,
        ),
        (
            seen(Case::DuplicateAction, &[201, 200], &[10, 8, 8]),
            Bug::DuplicateAnswer,
        ),
        (
            seen(Case::DuplicateAction, &[201, 409], &[10, 8, 8]),
            Bug::DuplicateAnswer,
        ),
        (
            seen(Case::DuplicateAction, &[201, 503], &[10, 8, 8]),
            Bug::DuplicateAnswer,
        ),
        (
            seen(Case::LaterAttempt, &[201, 201], &[10, 8, 6]),
            Bug::AttemptInKey,
        ),
        (
            seen(Case::LaterAttempt, &[201, 409], &[10, 8, 8]),
            Bug::AttemptInKey,
        ),
        (
            seen(Case::EarlierAttempt, &[201, 201], &[10, 8, 6]),
            Bug::AttemptInKey,
        ),
        (
            seen(Case::ConcurrentActions, &[201], &[10, 2]),
            Bug::ConcurrentActions,
        ),
        (
            with_copies(seen(Case::ConcurrentActions, &[201], &[10, 8]), &[201, 409]),
            Bug::ConcurrentActions,
        ),
        (
            with_copies(seen(Case::ConcurrentActions, &[201], &[10, 8]), &[201, 503]),
            Bug::ConcurrentActions,
        ),
        (
            with_copies(seen(Case::ConcurrentActions, &[201], &[10, 8]), &[201, 200]),
            Bug::ConcurrentActions,
        ),
        (
            seen(Case::Compensation, &[201, 404], &[10, 8, 8]),
            Bug::CompensationRefused,
        ),
        (
            seen(Case::Compensation, &[201, 204], &[10, 8, 8]),
            Bug::NotCompensated,
        ),
        (
            seen(Case::Compensation, &[201, 204], &[10, 8, 9]),
            Bug::CompensationIncomplete,
        ),
        (
            seen(Case::DuplicateCompensation, &[201, 204, 404], &[10, 8, 10, 10]),
            Bug::DuplicateCompensationRefused,
        ),
        (
            seen(Case::DuplicateCompensation, &[201, 204, 204], &[10, 8, 10, 12]),
            Bug::DuplicateCompensation,
        ),
        (
            seen(Case::ConcurrentCompensations, &[201, 204], &[10, 8, 14]),
            Bug::ConcurrentCompensations,
        ),
        (
            with_copies(
                seen(Case::ConcurrentCompensations, &[201, 204], &[10, 8, 10]),
                &[204, 409],
            ),
            Bug::ConcurrentCompensations,
        ),
        (
            seen(Case::NullCompensation, &[404], &[10, 10]),
            Bug::NullCompensationRefused,
        ),
        (
            seen(Case::NullCompensation, &[204], &[10, 12]),
            Bug::NullCompensationEffect,
        ),
        (
            seen(Case::HangingAction, &[204, 201], &[10, 10, 8]),
            Bug::HangingAction,
        ),
        (
            seen(Case::HangingAction, &[204, 201], &[10, 10, 10]),
            Bug::HangingAction,
        ),
        (
            seen(Case::HangingAction, &[204, 425], &[10, 10, 10]),
            Bug::HangingActionNotFinal,
        ),
        (
            seen(Case::LateAction, &[201, 204, 201], &[10, 8, 10, 8]),
            Bug::LateAction,
        ),
        (
            seen(Case::IncarnationAfterNull, &[204, 409, 204], &[10, 10, 10, 10]),
            Bug::IncarnationIgnored,
        ),
        (
            seen(
                Case::IncarnationAfterCompensation,
                &[201, 204, 201, 204],
                &[10, 8, 10, 10, 10],
            ),
            Bug::IncarnationIgnored,
        ),
        (
            seen(
                Case::IncarnationAfterCompensation,
                &[201, 204, 201, 204],
                &[10, 8, 10, 8, 8],
            ),
            Bug::IncarnationIgnored,
        ),
    ] {
        let graded = graded(&other);
        let found = of_case(&graded, other.case);
        assert_eq!(
            (found.grade, found.bug),
            (Grade::Failed, Some(bug)),
            "{other:?}: {found:?}"
        );
        let others = graded
            .iter()
            .filter(|graded| graded.case != other.case && graded.bug.is_some());
        assert_eq!(others.count(), 0, "{bug:?}: {graded:#?}");
    }
}
