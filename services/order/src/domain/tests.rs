use super::*;

const GENERATED: OrderId = OrderId(77);

fn body(json: &str) -> CreateOrder {
    serde_json::from_str(json).unwrap()
}

fn order(json: &str) -> Order {
    validate(body(json), GENERATED).unwrap()
}

fn faults(json: &str) -> Vec<String> {
    validate(body(json), GENERATED)
        .unwrap_err()
        .into_iter()
        .map(|fault| fault.field)
        .collect()
}

#[test]
fn an_order_is_read_with_and_without_its_optional_parts() {
    let small = order(r#"{"username":"ada","amount":19.99}"#);
    assert_eq!(
        (small.order_id, small.amount.minor(), small.lines.len()),
        (GENERATED, 1999, 0)
    );
    let full = order(
        r#"{"order_id":7,"username":"ada","amount":"20","lines":[{"sku":"tea/green:1","quantity":3}]}"#,
    );
    assert_eq!((full.order_id.get(), full.lines[0].quantity), (7, 3));
}

#[test]
fn every_fault_of_a_body_is_reported_with_its_path() {
    let json = r#"{"order_id":0,"username":"Ada","amount":0.001,
        "lines":[{"sku":"tea","quantity":1},{"sku":"","quantity":0}]}"#;
    assert_eq!(
        faults(json),
        [
            "order_id",
            "username",
            "amount",
            "lines[1].sku",
            "lines[1].quantity"
        ]
    );
    let twice =
        r#"{"username":"ada","amount":1,"lines":[{"sku":"tea","quantity":1},{"sku":"tea","quantity":2}]}"#;
    assert_eq!(faults(twice), ["lines[1].sku"]);
    let line = |n| format!(r#"{{"sku":"tea-{n}","quantity":1}}"#);
    let many = (0..=MAX_LINES).map(line).collect::<Vec<_>>().join(",");
    assert_eq!(
        faults(&format!(r#"{{"username":"ada","amount":1,"lines":[{many}]}}"#)),
        ["lines"]
    );
}

#[test]
fn ids_stay_within_what_every_json_reader_keeps_exact() {
    for good in [1, MAX_ORDER_ID] {
        assert_eq!(OrderId::try_from(good).unwrap().get(), good);
    }
    for bad in [0, -1, MAX_ORDER_ID + 1, i64::MIN] {
        assert_eq!(OrderId::try_from(bad), Err(TextError::OrderId), "{bad}");
    }
    for bad in ["", "x", "1.0", "99999999999999999999"] {
        assert_eq!(bad.parse::<OrderId>(), Err(TextError::OrderId), "{bad}");
    }
}

#[test]
fn generated_ids_are_valid_ordered_by_time_and_differ_by_chance() {
    let now = 1_800_000_000_000;
    let id = |ms, random| OrderId::generate(ms, random);
    assert!(id(now, u32::MAX) < id(now + 1, 0));
    assert_ne!(id(now, 1), id(now, 2));
    for ms in [i64::MIN, 0, now, i64::MAX] {
        let made = id(ms, u32::MAX);
        assert_eq!(OrderId::try_from(made.get()), Ok(made), "{ms}");
    }
}

#[test]
fn the_same_order_again_is_a_replay_and_any_difference_a_conflict() {
    let stored = order(r#"{"order_id":7,"username":"ada","amount":20,"lines":[{"sku":"tea","quantity":2}]}"#);
    assert_eq!(standing(&stored, None), Standing::New);
    let confirmed = Stored {
        order: stored,
        status: Status::Confirmed,
    };
    let same = r#"{"lines":[{"quantity":2,"sku":"tea"}],"amount":"20.00","username":"ada","order_id":7}"#;
    assert_eq!(
        standing(&order(same), Some(confirmed.clone())),
        Standing::Replay(confirmed.clone()),
        "whatever has become of it"
    );
    for other in [
        r#"{"order_id":7,"username":"bob","amount":20,"lines":[{"sku":"tea","quantity":2}]}"#,
        r#"{"order_id":7,"username":"ada","amount":20.01,"lines":[{"sku":"tea","quantity":2}]}"#,
        r#"{"order_id":7,"username":"ada","amount":20,"lines":[{"sku":"tea","quantity":3}]}"#,
        r#"{"order_id":7,"username":"ada","amount":20}"#,
    ] {
        assert_eq!(
            standing(&order(other), Some(confirmed.clone())),
            Standing::Conflict,
            "{other}"
        );
    }
}

#[test]
fn a_new_order_needs_a_known_user() {
    let retry_after = Duration::from_secs(3);
    assert_eq!(decide(&Outcome::Found(())), Ok(()));
    assert_eq!(decide::<()>(&Outcome::NotFound), Err(Refusal::UnknownUser));
    assert_eq!(
        decide::<()>(&Outcome::Unavailable { retry_after }),
        Err(Refusal::UserUnavailable { retry_after })
    );
}
