use super::*;

fn reserve(json: &str) -> Result<Wanted, Vec<String>> {
    let fields = |faults: Vec<FieldError>| faults.into_iter().map(|fault| fault.field).collect();
    validate(serde_json::from_str(json).unwrap()).map_err(fields)
}

fn wanted() -> Wanted {
    reserve(r#"{"id":"r1","lines":[{"sku":"tea","quantity":2},{"sku":"cup","quantity":1}]}"#).unwrap()
}

fn stored(status: Status) -> Reservation {
    let wanted = wanted();
    Reservation::new(wanted.id, status, wanted.lines, Timestamp::UNIX_EPOCH)
}

fn stock(sku: &str, on_hand: i64, reserved: i64) -> Stock {
    Stock::new(sku.parse().unwrap(), on_hand, reserved)
}

#[test]
fn every_fault_of_a_body_is_reported_with_its_path() {
    let json = r#"{"id":"..","lines":[{"sku":"tea","quantity":0},{"sku":"a b","quantity":1},
        {"sku":"cup","quantity":1},{"sku":"cup","quantity":1000001},{"sku":"cup","quantity":1}]}"#;
    let fields = [
        "id",
        "lines[0].quantity",
        "lines[1].sku",
        "lines[3].quantity",
        "lines[4].sku",
    ];
    assert_eq!(reserve(json).unwrap_err(), fields);
    assert_eq!(reserve(r#"{"id":"r1","lines":[]}"#).unwrap_err(), ["lines"]);
}

#[test]
fn names_are_safe_in_a_path() {
    for good in ["a", "tea/green:1", "..a", &"x".repeat(64)] {
        assert_eq!(good.parse::<Sku>().unwrap().as_str(), good);
    }
    for bad in ["", ".", "..", "a b", "é", &"x".repeat(65)] {
        assert_eq!(bad.parse::<Sku>(), Err(NameError::Sku), "{bad:?}");
    }
    for bad in ["", "..", "a/b", &"x".repeat(129)] {
        assert_eq!(
            bad.parse::<ReservationId>(),
            Err(NameError::ReservationId),
            "{bad:?}"
        );
    }
}

#[test]
fn what_is_on_hand_never_falls_below_what_is_reserved() {
    assert_eq!(decide_stock(3, &stock("tea", 9, 3)), Ok(()));
    let refusal = decide_stock(2, &stock("tea", 9, 3)).unwrap_err();
    assert!(refusal.to_string().contains("3 of tea are reserved; set"));
    for on_hand in [-1, MAX_ON_HAND + 1] {
        assert_eq!(
            validate_stock(&SetStock { on_hand }).unwrap_err()[0].field,
            "on_hand"
        );
    }
}

#[test]
fn lines_are_taken_only_from_what_is_available() {
    let lines = wanted().lines;
    assert_eq!(
        decide_lines(&lines, &[stock("cup", 1, 0), stock("tea", 5, 3)]),
        Ok(())
    );
    let short = decide_lines(&lines, &[stock("cup", 1, 0), stock("tea", 5, 4)]).unwrap_err();
    assert_eq!(
        short,
        Refusal::Short {
            sku: "tea".parse().unwrap(),
            quantity: 2,
            available: 1
        }
    );
    let unknown = decide_lines(&lines, &[stock("tea", 0, 0)]).unwrap_err();
    assert!(
        matches!(&unknown, Refusal::Unknown(fields) if fields[0].field == "lines[1].sku"),
        "{unknown:?}"
    );
}

#[test]
fn the_same_reservation_again_is_a_replay_unless_it_was_given_back() {
    for status in [Status::Reserved, Status::Expired, Status::Committed] {
        assert!(decide_again(&wanted(), stored(status)).is_ok(), "{status:?}");
    }
    let id = wanted().id;
    assert_eq!(
        decide_again(&wanted(), stored(Status::GivenBack)),
        Err(Refusal::GivenBack(id.clone()))
    );
    let other = Wanted {
        lines: wanted().lines[..1].to_vec(),
        ..wanted()
    };
    assert_eq!(
        decide_again(&other, stored(Status::Reserved)),
        Err(Refusal::Taken(id))
    );
}

#[test]
fn every_change_of_a_reservation_is_decided() {
    use Decision::{Change, Replay};
    let id = || wanted().id;
    let not_committed = || Err(Refusal::NotCommitted(id()));
    for (status, give_back, commit, take_back) in [
        (Status::Reserved, Ok(Change), Ok(Change), not_committed()),
        (Status::Expired, Ok(Change), Ok(Change), not_committed()),
        (
            Status::GivenBack,
            Ok(Replay),
            Err(Refusal::GivenBack(id())),
            not_committed(),
        ),
        (
            Status::Committed,
            Err(Refusal::Committed(id())),
            Ok(Replay),
            Ok(Change),
        ),
        (
            Status::Returned,
            Ok(Replay),
            Err(Refusal::Returned(id())),
            Ok(Replay),
        ),
    ] {
        let reservation = stored(status);
        assert_eq!(reservation.give_back(), give_back, "{status:?}");
        assert_eq!(reservation.commit(), commit, "{status:?}");
        assert_eq!(reservation.take_back(), take_back, "{status:?}");
        assert_eq!(<&str>::from(status).parse(), Ok(status));
    }
}
