use super::*;

fn item(id: &str, quantity: i64) -> Result<Item, Vec<String>> {
    let fields = |faults: Vec<FieldError>| faults.into_iter().map(|fault| fault.field).collect();
    validate(id, &PutItem { quantity }).map_err(fields)
}

#[test]
fn ids_are_safe_in_a_path() {
    for good in ["a", "a1", "..a", "run:1_a-b.c", &"x".repeat(128)] {
        assert_eq!(good.parse::<ItemId>().unwrap().as_str(), good);
    }
    for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(129)] {
        assert_eq!(bad.parse::<ItemId>(), Err(ItemIdError), "{bad:?}");
    }
}

#[test]
fn every_fault_of_a_request_is_reported_with_its_field() {
    assert_eq!(item("a1", 1).unwrap().quantity.get(), 1);
    assert_eq!(item("a1", 1_000_000).unwrap().quantity.get(), 1_000_000);
    for bad in [0, -1, 1_000_001, i64::MAX] {
        assert_eq!(item("a/b", bad).unwrap_err(), ["id", "quantity"], "{bad}");
    }
}

#[test]
fn the_same_item_again_is_a_replay_and_any_difference_a_conflict() {
    let stored = item("a1", 5).unwrap();
    assert_eq!(decide_again(&stored.clone(), &stored), Ok(()));
    let other = item("a1", 6).unwrap();
    assert_eq!(
        decide_again(&other, &stored),
        Err(Refusal::Taken(other.id.clone()))
    );
}
