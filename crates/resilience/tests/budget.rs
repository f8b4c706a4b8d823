//! Retries never exceed the budget, judged by a log that knows nothing of slots.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use trellis_resilience::{
    budget::{Budget, Settings},
    percent::Percent,
};

#[derive(Debug, Clone, Copy)]
enum Call {
    Request,
    Retry,
}

fn settings() -> impl Strategy<Value = Settings> {
    (0..=100_u32, 0..=20_u32, 1000..=20_000_u64).prop_map(|(percent, min_per_second, window)| Settings {
        percent: Percent::new(percent).expect("at most 100"),
        min_per_second,
        window: Duration::from_millis(window),
    })
}

/// Bursts and pauses: gaps from none to longer than a window.
fn calls() -> impl Strategy<Value = Vec<(Duration, Call)>> {
    let gap = prop_oneof![
        6 => Just(Duration::ZERO),
        3 => (0..50_000_000_u64).prop_map(Duration::from_nanos),
        1 => (0..25_000_u64).prop_map(Duration::from_millis),
    ];
    let call = prop_oneof![Just(Call::Request), Just(Call::Retry)];
    prop::collection::vec((gap, call), 0..400)
}

fn count(log: &[Instant], after: Option<Instant>, until: Instant) -> u64 {
    log.iter()
        .filter(|time| **time <= until && after.is_none_or(|after| **time > after))
        .count() as u64
}

proptest! {
    #[test]
    fn in_every_window_that_ends_with_a_retry_there_are_no_more_than_the_budget(
        settings in settings(),
        calls in calls(),
    ) {
        let mut budget = Budget::new(settings.clone());
        // Far from the clock's beginning, so that a window can begin before the first call.
        let mut now = Instant::now() + Duration::from_secs(86_400);
        let (mut requests, mut retries) = (Vec::new(), Vec::new());
        for (gap, call) in calls {
            now += gap;
            match call {
                Call::Request => {
                    budget.request(now);
                    requests.push(now);
                }
                Call::Retry => {
                    if budget.withdraw(now) {
                        retries.push(now);
                    }
                }
            }
        }
        let seconds = settings.window.as_millis().div_ceil(1000) as u64;
        for end in &retries {
            let start = *end - settings.window;
            let share = count(&requests, Some(start), *end) * u64::from(settings.percent.get());
            let allowed = share + 100 * seconds * u64::from(settings.min_per_second);
            let granted = count(&retries, Some(start), *end) * 100;
            prop_assert!(granted <= allowed, "{granted} > {allowed} hundredths");
        }
    }

    #[test]
    fn without_requests_no_second_has_more_than_the_floor(
        floor in 0..=20_u32,
        gaps in prop::collection::vec(0..400_u64, 0..300),
    ) {
        let mut budget = Budget::new(Settings { min_per_second: floor, ..Settings::default() });
        let mut now = Instant::now() + Duration::from_secs(86_400);
        let mut retries = Vec::new();
        for gap in gaps {
            now += Duration::from_millis(gap);
            if budget.withdraw(now) {
                retries.push(now);
            }
        }
        for end in &retries {
            let in_second = count(&retries, Some(*end - Duration::from_secs(1)), *end);
            prop_assert!(in_second <= u64::from(floor));
        }
    }
}

#[test]
fn under_a_steady_load_nearly_all_of_the_budget_can_be_had() {
    let mut budget = Budget::new(Settings::default());
    let start = Instant::now();
    let mut granted = 0;
    // 1000 requests per second for a minute, and each would like a retry.
    for millisecond in 0..60_000 {
        let now = start + Duration::from_millis(millisecond);
        budget.request(now);
        granted += u32::from(budget.withdraw(now));
    }
    let allowed = 60_000 / 5 + 60 * 10;
    assert!(
        (allowed * 95 / 100..=allowed).contains(&granted),
        "{granted} of {allowed}"
    );
}

#[test]
fn a_share_of_less_than_a_retry_per_request_is_not_rounded() {
    // tower issue 857: 0.6 acted as 1.0.
    for percent in [1, 7, 33, 60, 99] {
        let mut budget = Budget::new(Settings {
            percent: Percent::new(percent).unwrap(),
            min_per_second: 0,
            ..Settings::default()
        });
        let now = Instant::now();
        for _ in 0..1000 {
            budget.request(now);
        }
        let granted = (0..2000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(granted as u32, percent * 10);
    }
}

#[test]
fn retries_count_for_a_whole_window_also_at_the_edge_of_a_slot() {
    let mut budget = Budget::new(Settings {
        percent: Percent::new(50).unwrap(),
        min_per_second: 0,
        ..Settings::default()
    });
    let start = Instant::now();
    let request = |budget: &mut Budget, millis| {
        for _ in 0..100 {
            budget.request(start + Duration::from_millis(millis));
        }
    };
    let retry = |budget: &mut Budget, millis| {
        let now = start + Duration::from_millis(millis);
        (0..100).filter(|_| budget.withdraw(now)).count()
    };
    // One slot: the requests at its beginning, the retries at its end.
    request(&mut budget, 0);
    assert_eq!(retry(&mut budget, 199), 50);
    // The window that ends here has these retries and only the new requests.
    request(&mut budget, 10_190);
    assert_eq!(retry(&mut budget, 10_190), 0);
    assert_eq!(retry(&mut budget, 10_200), 50);
}

#[test]
fn what_was_requested_a_window_ago_pays_for_nothing() {
    let settings = Settings {
        min_per_second: 0,
        ..Settings::default()
    };
    let mut budget = Budget::new(settings);
    let now = Instant::now();
    for _ in 0..100 {
        budget.request(now);
    }
    assert!(budget.withdraw(now + Duration::from_millis(9_700)));
    assert!(!budget.withdraw(now + Duration::from_secs(10)));
}

#[test]
fn new_settings_forgive_nothing() {
    let mut budget = Budget::new(Settings::default());
    let now = Instant::now();
    assert_eq!((0..20).filter(|_| budget.withdraw(now)).count(), 10);
    budget.reconfigure(Settings {
        window: Duration::from_secs(20),
        ..Settings::default()
    });
    assert!(!budget.withdraw(now));
    budget.reconfigure(Settings {
        min_per_second: 12,
        ..Settings::default()
    });
    assert_eq!((0..20).filter(|_| budget.withdraw(now)).count(), 2);
}
