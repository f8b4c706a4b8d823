//! The form of records: what was written once can be read for ever, and damage is seen.
//!
//! `TRELLIS_WRITE=1 cargo test -p trellis-saga-core --test log` adds the files of a new version; those of earlier ones never change.

#![allow(clippy::unwrap_used)]

use std::{env, fs};

use trellis_saga_core::{
    definition::RetryCondition,
    event::{CallId, Decision, Event, Op, Outcome, Payload, Time, Timer, Verb},
    log::{self, Contents, Error, Record},
};

/// Every sort of event.
fn events() -> Vec<Event> {
    let action = CallId {
        step: 1,
        item: 2,
        op: Op::Action,
        incarnation: 0,
    };
    let compensation = CallId {
        step: 300,
        item: 0,
        op: Op::Compensation,
        incarnation: 7,
    };
    let output = Some(Payload::from(r#"{"warehouse":"north – süd"}"#));
    let retry = |condition, after| Outcome::Retry {
        condition,
        after,
        detail: "503 Service Unavailable".into(),
    };
    let mut events = vec![
        Event::Started {
            input: output.clone(),
            seed: u64::MAX,
        },
        Event::Started { input: None, seed: 0 },
    ];
    let decisions = [
        Decision::Skip,
        Decision::Once,
        Decision::Items(0),
        Decision::Items(1000),
        Decision::Failed("no_such_key".into()),
    ];
    events.extend(decisions.into_iter().map(|decision| Event::Decided {
        step: 0,
        incarnation: 5,
        decision,
    }));
    let outcomes = [
        Outcome::Done(output.clone()),
        Outcome::Done(None),
        Outcome::Pending {
            location: "/jobs/1".into(),
            after: Some(1500),
        },
        Outcome::Pending {
            location: "/jobs/1".into(),
            after: None,
        },
        Outcome::Failed("409 Conflict".into()),
        retry(RetryCondition::Unreachable, None),
        retry(RetryCondition::Timeout, None),
        retry(RetryCondition::Throttled, Some(3000)),
        retry(RetryCondition::ServerError, Some(0)),
    ];
    for (call, outcome) in [action, compensation].into_iter().cycle().zip(outcomes) {
        events.push(Event::Answered {
            call,
            attempt: 3,
            outcome,
        });
    }
    events.push(Event::TimerFired(Timer::Deadline));
    events.push(Event::TimerFired(Timer::Try {
        call: compensation,
        attempt: 12,
    }));
    let verbs = [
        Verb::Retry,
        Verb::RetryFrom { step: 4 },
        Verb::Skip { call: action, output },
        Verb::Skip {
            call: compensation,
            output: None,
        },
        Verb::ForceComplete,
        Verb::Cancel,
    ];
    events.extend(verbs.into_iter().map(|verb| Event::Operator {
        verb,
        by: "system:serviceaccount:shop:ops".into(),
        reason: "the warehouse is closed".into(),
    }));
    events
}

fn records() -> Vec<Record> {
    events()
        .into_iter()
        .zip(0..)
        .map(|(event, sequence)| Record {
            sequence,
            at: Time(1_700_000_000_000 + sequence * 1000),
            event,
        })
        .collect()
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| log::append(record, &mut bytes));
    bytes
}

#[test]
fn what_was_written_by_any_release_can_be_read() {
    let newest = format!("tests/golden/log/v{}.bin", log::VERSION);
    if env::var_os("TRELLIS_WRITE").is_some() && fs::metadata(&newest).is_err() {
        fs::create_dir_all("tests/golden/log").unwrap();
        fs::write(&newest, written(&records())).unwrap();
    }
    // Of the newest version it is known what it says, of earlier ones that they can be read.
    let bytes = fs::read(&newest).unwrap();
    let read = log::read(&bytes).unwrap();
    assert_eq!(read.records, records());
    assert_eq!(read.length, bytes.len());
    assert_eq!(
        written(&records()),
        bytes,
        "the form has changed: it needs a version of its own"
    );
    for entry in fs::read_dir("tests/golden/log").unwrap() {
        let path = entry.unwrap().path();
        log::read(&fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn runs_that_wait_for_their_turn_can_be_read() {
    let queued = |input| Event::Queued {
        input,
        seed: u64::MAX,
    };
    let events = [queued(Some(Payload::from("{}"))), queued(None), Event::Admitted];
    let records: Vec<Record> = events
        .into_iter()
        .zip(0..)
        .map(|(event, sequence)| Record {
            sequence,
            at: Time(1_700_000_000_000),
            event,
        })
        .collect();
    let path = "tests/golden/log/v1-queued.bin";
    if env::var_os("TRELLIS_WRITE").is_some() && fs::metadata(path).is_err() {
        fs::write(path, written(&records)).unwrap();
    }
    let bytes = fs::read(path).unwrap();
    assert_eq!(log::read(&bytes).unwrap().records, records);
    assert_eq!(written(&records), bytes, "the form has changed");
}

#[test]
fn a_log_that_was_torn_anywhere_has_what_is_before() {
    let records = records();
    let bytes = written(&records);
    let mut ends = vec![0];
    for record in &records {
        ends.push(ends.last().unwrap() + written(std::slice::from_ref(record)).len());
    }
    for length in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= length).count() - 1;
        let expected = Contents {
            records: records[..whole].to_vec(),
            length: ends[whole],
        };
        assert_eq!(log::read(&bytes[..length]), Ok(expected), "{length} bytes");
    }
}

#[test]
fn a_bit_that_flips_is_never_taken_for_another_event() {
    let records = records();
    let bytes = written(&records);
    let last = bytes.len() - written(&records[records.len() - 1..]).len();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            match log::read(&damaged) {
                Err(_) => {}
                // Of the last record, damage is the same as a tear.
                Ok(read) => {
                    assert!(
                        at >= last,
                        "byte {at}, bit {bit}: damage is passed over in silence"
                    );
                    assert_eq!(read.records, records[..records.len() - 1]);
                }
            }
        }
    }
}

#[test]
fn a_record_that_is_missing_or_there_twice_is_seen() {
    let mut records = records();
    records.remove(3);
    assert!(matches!(
        log::read(&written(&records)),
        Err(Error::Missing { expected: 3, .. })
    ));
    let twice = [records[0].clone(), records[0].clone()];
    assert!(matches!(
        log::read(&written(&twice)),
        Err(Error::Missing { expected: 1, .. })
    ));
}

#[test]
fn a_record_of_a_later_release_is_refused_and_not_cut_off() {
    let mut later = written(&records()[..1]);
    // The version is part of the checksum, so a later release has another; here one that says so in its body.
    let unknown: Vec<u8> = vec![0x08, 0x01, 0x7a, 0x00];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[log::VERSION]);
    hasher.update(&unknown);
    let at = later.len();
    later.push(log::VERSION);
    later.extend(u32::try_from(unknown.len()).unwrap().to_le_bytes());
    later.extend(hasher.finalize().to_le_bytes());
    later.extend(unknown);
    assert_eq!(log::read(&later), Err(Error::Unknown(at)));
}
