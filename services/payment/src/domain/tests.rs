use strum::IntoEnumIterator as _;

use super::*;

fn authorise(json: &str) -> Result<Wanted, Vec<String>> {
    let fields = |faults: Vec<FieldError>| faults.into_iter().map(|fault| fault.field).collect();
    validate(&serde_json::from_str(json).unwrap()).map_err(fields)
}

fn wanted(username: &str, amount: i64) -> Wanted {
    Wanted {
        id: "a1".parse().unwrap(),
        username: username.parse().unwrap(),
        amount: Amount::from_minor(amount).unwrap(),
    }
}

fn balance(ledger: &[Entry], account: Account) -> i64 {
    let entries = ledger.iter().filter(|entry| entry.account == account);
    entries.map(|entry| entry.amount).sum()
}

/// What a movement brought to where it leads.
fn moved(ledger: &[Entry], movement: Movement) -> i64 {
    let entries = ledger.iter().filter(|entry| entry.movement == movement);
    entries.map(|entry| entry.amount.max(0)).sum()
}

#[test]
fn every_fault_of_a_body_is_reported_with_its_field() {
    assert_eq!(
        authorise(r#"{"id":"a1","username":"ada","amount":1}"#),
        Ok(wanted("ada", 1))
    );
    for bad in [
        r#"{"id":"a/b","username":"Ada","amount":0}"#,
        r#"{"id":"..","username":"","amount":9007199254740992}"#,
    ] {
        assert_eq!(authorise(bad).unwrap_err(), ["id", "username", "amount"], "{bad}");
    }
}

#[test]
fn the_provider_declines_large_amounts_and_some_customers() {
    for (username, amount, answer) in [
        ("ada", 999_999, Ok(())),
        ("ada", 1_000_000, Err(Decline::InsufficientFunds)),
        ("declined.ada", 1, Err(Decline::CardDeclined)),
        ("ada.declined", 1, Ok(())),
    ] {
        let Wanted { username, amount, .. } = wanted(username, amount);
        assert_eq!(ask_provider(&username, amount), answer, "{username:?} {amount:?}");
    }
}

#[test]
fn the_same_promise_again_is_a_replay_and_any_difference_a_conflict() {
    let stored = Authorisation::from(wanted("ada", 5));
    assert_eq!(stored.decide_again(&wanted("ada", 5)), Ok(Decision::Replay));
    for other in [wanted("bob", 5), wanted("ada", 6)] {
        assert_eq!(stored.decide_again(&other), Err(Refusal::Taken(other.id.clone())));
    }
    let voided = stored.after(Movement::Void);
    assert_eq!(
        voided.decide_again(&wanted("ada", 5)),
        Err(Refusal::Voided(voided.id))
    );
}

#[test]
fn a_saga_can_go_back_from_everywhere() {
    let captured = Authorisation::from(wanted("ada", 5)).after(Movement::Capture);
    let refunded = captured.after(Movement::Refund);
    assert_eq!(refunded.decide(Movement::Void), Ok(Decision::Replay));
}

/// Every series of up to six requests. What is booked twice, or without having been there, shows in a sum.
#[test]
fn after_every_series_of_movements_the_sums_are_right() {
    let amount = Amount::from_minor(7).unwrap();
    let mut reached = vec![(
        Authorisation::from(wanted("ada", 7)),
        entries(Movement::Authorise, amount).to_vec(),
    )];
    for _ in 0..6 {
        let mut next = Vec::new();
        for (authorisation, ledger) in &reached {
            for movement in Movement::iter() {
                if authorisation.decide(movement) == Ok(Decision::Move) {
                    let ledger = [&ledger[..], &entries(movement, amount)].concat();
                    next.push((authorisation.clone().after(movement), ledger));
                }
            }
        }
        reached.extend(next);
    }
    for (authorisation, ledger) in reached {
        let (open, shop) = (balance(&ledger, Account::Open), balance(&ledger, Account::Shop));
        let sum = |movement| moved(&ledger, movement);
        assert_eq!(
            sum(Movement::Authorise),
            sum(Movement::Void) + sum(Movement::Capture) + open,
            "{authorisation:?}"
        );
        assert!(
            sum(Movement::Refund) <= sum(Movement::Capture),
            "{authorisation:?}"
        );
        assert!(open >= 0 && shop >= 0, "{authorisation:?}");
        assert_eq!(open + shop + balance(&ledger, Account::Customer), 0);
    }
}
