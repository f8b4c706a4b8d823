use std::num::NonZeroU32;

use super::*;
use crate::percent::Percent;

const FAILURE: Verdict = Verdict::Failure;
const SUCCESS: Verdict = Verdict::Success;

fn fail(breaker: &mut Breaker, times: u32, now: Instant) -> Option<Transition> {
    (0..times)
        .map(|_| {
            let pass = breaker.acquire(now).unwrap();
            breaker.record(pass, FAILURE, now)
        })
        .last()
        .flatten()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn five_failures_in_a_row_open_it_for_a_minute_and_one_probe_closes_it() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    assert_eq!(fail(&mut breaker, 4, now), None);
    assert_eq!(fail(&mut breaker, 1, now), Some(Transition::OpenedByFailures));
    let refused = breaker.acquire(now + seconds(13)).unwrap_err();
    assert_eq!(refused, Refused::Open(seconds(47)));
    let later = now + seconds(60);
    assert_eq!(breaker.phase(later), Phase::HalfOpen);
    let probe = breaker.acquire(later).unwrap();
    assert!(probe.is_probe());
    assert_eq!(breaker.acquire(later), Err(Refused::Probing));
    assert_eq!(breaker.record(probe, SUCCESS, later), Some(Transition::Closed));
    assert_eq!(
        fail(&mut breaker, 4, later),
        None,
        "closing forgets what was before"
    );
}

#[test]
fn as_many_probes_as_are_asked_for_have_to_succeed_one_after_the_other() {
    let settings = Settings {
        probes: NonZeroU32::new(2).unwrap(),
        ..Settings::default()
    };
    let (mut breaker, now) = (Breaker::new(settings), Instant::now());
    fail(&mut breaker, 5, now);
    let later = now + seconds(60);
    let probe = breaker.acquire(later).unwrap();
    assert_eq!(breaker.acquire(later), Err(Refused::Probing));
    assert_eq!(breaker.record(probe, SUCCESS, later), None);
    assert_eq!(breaker.phase(later), Phase::HalfOpen);
    let probe = breaker.acquire(later).unwrap();
    assert_eq!(breaker.record(probe, FAILURE, later), Some(Transition::Reopened));
    let later = later + seconds(60);
    for expected in [None, Some(Transition::Closed)] {
        let probe = breaker.acquire(later).unwrap();
        assert_eq!(breaker.record(probe, SUCCESS, later), expected);
    }
}

#[test]
fn a_success_between_failures_begins_the_count_anew() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    for _ in 0..4 {
        assert_eq!(fail(&mut breaker, 4, now), None);
        let pass = breaker.acquire(now).unwrap();
        assert_eq!(breaker.record(pass, SUCCESS, now), None);
    }
    assert_eq!(fail(&mut breaker, 1, now), Some(Transition::OpenedByRate));
}

#[test]
fn every_second_request_failing_opens_it_by_rate_at_the_twentieth_result() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    let opened = (1..=30).find(|count| {
        let pass = breaker.acquire(now).unwrap();
        let verdict = if count % 2 == 0 { FAILURE } else { SUCCESS };
        breaker.record(pass, verdict, now).is_some()
    });
    assert_eq!(opened, Some(20));
}

#[test]
fn results_of_tries_that_began_before_the_opening_count_for_nothing() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    let late = [(); 3].map(|()| breaker.acquire(now).unwrap());
    fail(&mut breaker, 5, now);
    let opened = breaker.clone();
    let later = now + seconds(59);
    for (pass, verdict) in late.into_iter().zip([SUCCESS, FAILURE, Verdict::Unknown]) {
        assert_eq!(breaker.record(pass, verdict, later), None);
        assert_eq!(breaker, opened);
    }
}

#[test]
fn a_probe_whose_caller_went_away_hands_its_turn_on() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    fail(&mut breaker, 5, now);
    let probe = breaker.acquire(now + seconds(60)).unwrap();
    assert_eq!(breaker.record(probe, Verdict::Unknown, now + seconds(61)), None);
    assert!(breaker.acquire(now + seconds(61)).unwrap().is_probe());
}

#[test]
fn a_probe_that_never_ends_is_given_up_for_another_and_then_says_nothing() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    fail(&mut breaker, 5, now);
    let lost = breaker.acquire(now + seconds(60)).unwrap();
    assert_eq!(breaker.acquire(now + seconds(119)), Err(Refused::Probing));
    let second = breaker.acquire(now + seconds(120)).unwrap();
    assert_eq!(breaker.record(lost, SUCCESS, now + seconds(121)), None);
    assert_eq!(
        breaker.record(second, FAILURE, now + seconds(121)),
        Some(Transition::Reopened)
    );
}

#[test]
fn new_settings_keep_the_count_and_the_opening() {
    let (mut breaker, now) = (Breaker::new(Settings::default()), Instant::now());
    fail(&mut breaker, 4, now);
    breaker.reconfigure(Settings {
        open_for: seconds(5),
        ..Settings::default()
    });
    assert_eq!(fail(&mut breaker, 1, now), Some(Transition::OpenedByFailures));
    breaker.reconfigure(Settings {
        open_for: seconds(9),
        ..Settings::default()
    });
    assert_eq!(breaker.acquire(now + seconds(6)), Err(Refused::Open(seconds(3))));
}

#[test]
fn settings_that_cannot_work_are_named() {
    let settings = Settings {
        open_for: Duration::ZERO,
        failure_rate: Some(FailureRate {
            percent: Percent::new(0).unwrap(),
            window: seconds(7200),
            ..FailureRate::default()
        }),
        ..Settings::default()
    };
    let fields: Vec<_> = settings.faults().iter().map(|fault| fault.field).collect();
    assert_eq!(
        fields,
        [
            "circuitBreaker.openFor",
            "circuitBreaker.failureRate.window",
            "circuitBreaker.failureRate.percent"
        ]
    );
    assert_eq!(Settings::default().faults(), []);
}
