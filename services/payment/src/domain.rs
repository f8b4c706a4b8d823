//! What may be done with money that a customer has promised, and how it is booked. Pure: no I/O, no clock.
//!
//! ```text
//! authorise --> Authorised --capture--> Captured --refund--> Refunded
//!                    +------void------> Voided
//!
//! movement     Customer   Open   Shop
//! authorise       -        +             authorised = voided + captured + what is open
//! void            +        -             refunded <= captured
//! capture                  -      +
//! refund          +               -
//! ```
//!
//! Each request is idempotent by the authorisation's id. Two follow from how sagas go back: one that was
//! voided is not authorised again by the same request, for that is late; and after a refund there is nothing
//! open, so that to void it is done already.
//!
//! The provider is a pretended one that always gives the same answer to the same question.

mod name;

use std::fmt;

use serde::{Deserialize, Serialize};
use trellis_chassis::problem::FieldError;

pub use name::{AuthorisationId, Username};

/// Largest integer that every JSON reader keeps exact: RFC 8259, section 6.
const MAX_AMOUNT: i64 = (1 << 53) - 1;
/// The provider lends less than this.
const CREDIT: Amount = Amount(1_000_000);
/// The provider knows these customers, by how their names begin: who has no money at all, and whose money can be held and not taken.
const DECLINED: &str = "declined";
const FROZEN: &str = "frozen";

/// An amount of money in minor units (cents), from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Amount(i64);

/// A promise that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Chosen by the client.
    pub id: AuthorisationId,
    /// Whose money.
    pub username: Username,
    /// How much.
    pub amount: Amount,
}

/// A promise of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Authorisation {
    /// Chosen by the client.
    pub id: AuthorisationId,
    /// What has become of it.
    pub status: Status,
    /// How much.
    pub amount: Amount,
    /// Whose money; who asks by the id knows.
    #[serde(skip)]
    pub username: Username,
}

/// What has become of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::EnumString, strum::IntoStaticStr)]
pub enum Status {
    /// The money is held for the shop.
    Authorised,
    /// It is the customer's again.
    Voided,
    /// It is the shop's.
    Captured,
    /// It was the shop's, and is the customer's again.
    Refunded,
}

/// What moves money.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::EnumIter, strum::EnumString, strum::IntoStaticStr,
)]
pub enum Movement {
    /// Holds it for the shop.
    Authorise,
    /// Lets it go.
    Void,
    /// Gives it to the shop.
    Capture,
    /// Gives it back to the customer.
    Refund,
}

/// Where money is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::EnumString, strum::IntoStaticStr)]
pub enum Account {
    /// With the customer.
    Customer,
    /// Held for the shop.
    Open,
    /// With the shop.
    Shop,
}

/// A row of the ledger: what a movement does to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// By what.
    pub movement: Movement,
    /// Of which account.
    pub account: Account,
    /// Minor units that came to it; negative if they went.
    pub amount: i64,
}

/// All entries of one authorisation, in the order in which they were made.
#[derive(Debug, Serialize)]
pub struct Ledger {
    /// The entries.
    pub items: Vec<Entry>,
}

/// The body of `POST /authorisations`, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorise {
    id: String,
    username: String,
    amount: i64,
}

/// What to do about a request for a movement.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Move the money.
    Move,
    /// Nothing: that is done already.
    Replay,
}

/// Why the provider does not promise the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Decline {
    /// It is too much.
    #[error("insufficient funds")]
    InsufficientFunds,
    /// It is this customer.
    #[error("card declined")]
    CardDeclined,
    /// It promised it, and cannot keep that.
    #[error("account frozen")]
    AccountFrozen,
}

/// Why money must not be moved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The provider is against it.
    #[error("{0}; pay less, or by other means")]
    Declined(Decline),
    /// The id belongs to another promise.
    #[error("authorisation {0} exists with other values; get it, or choose another id")]
    Taken(AuthorisationId),
    /// It is the customer's again.
    #[error("authorisation {0} was voided; authorise under another id")]
    Voided(AuthorisationId),
    /// It is not the shop's yet.
    #[error("authorisation {0} was not captured; void it instead")]
    NotCaptured(AuthorisationId),
    /// It is the shop's.
    #[error("authorisation {0} was captured; refund it instead")]
    Captured(AuthorisationId),
    /// It was the shop's.
    #[error("authorisation {0} was refunded; authorise under another id")]
    Refunded(AuthorisationId),
}

/// Turns the body into a promise to ask for, or into every fault that it has.
pub fn validate(body: &Authorise) -> Result<Wanted, Vec<FieldError>> {
    let mut faults = Vec::new();
    let id = noted(body.id.parse(), "id", &mut faults);
    let username = noted(body.username.parse(), "username", &mut faults);
    let amount = Amount::from_minor(body.amount)
        .ok_or_else(|| format!("must be minor units (cents), a whole number from 1 to {MAX_AMOUNT}"));
    let amount = noted(amount, "amount", &mut faults);
    match (id, username, amount) {
        (Some(id), Some(username), Some(amount)) => Ok(Wanted { id, username, amount }),
        _ => Err(faults),
    }
}

/// The pretended provider's answer.
pub fn ask_provider(username: &Username, amount: Amount) -> Result<(), Decline> {
    if amount >= CREDIT {
        Err(Decline::InsufficientFunds)
    } else if username.as_str().starts_with(DECLINED) {
        Err(Decline::CardDeclined)
    } else {
        Ok(())
    }
}

/// Decides about a promise of an id that is not stored.
pub fn decide_new(wanted: &Wanted) -> Result<(), Refusal> {
    ask_provider(&wanted.username, wanted.amount).map_err(Refusal::Declined)
}

/// What the books say of a movement.
pub fn entries(movement: Movement, amount: Amount) -> [Entry; 2] {
    let (from, to) = match movement {
        Movement::Authorise => (Account::Customer, Account::Open),
        Movement::Void => (Account::Open, Account::Customer),
        Movement::Capture => (Account::Open, Account::Shop),
        Movement::Refund => (Account::Shop, Account::Customer),
    };
    [(from, -amount.0), (to, amount.0)].map(|(account, amount)| Entry {
        movement,
        account,
        amount,
    })
}

impl Authorisation {
    /// Decides about a request for the same promise.
    pub fn decide_again(&self, wanted: &Wanted) -> Result<Decision, Refusal> {
        if (&self.username, self.amount) == (&wanted.username, wanted.amount) {
            self.decide(Movement::Authorise)
        } else {
            Err(Refusal::Taken(self.id.clone()))
        }
    }

    /// Decides about a movement of its money.
    pub fn decide(&self, movement: Movement) -> Result<Decision, Refusal> {
        use Movement::{Authorise, Capture, Refund, Void};
        let id = || self.id.clone();
        match (movement, self.status) {
            (Capture, Status::Authorised) if self.username.as_str().starts_with(FROZEN) => {
                Err(Refusal::Declined(Decline::AccountFrozen))
            }
            (Void | Capture, Status::Authorised) | (Refund, Status::Captured) => Ok(Decision::Move),
            (Authorise, Status::Authorised | Status::Captured | Status::Refunded)
            | (Void, Status::Voided | Status::Refunded)
            | (Capture, Status::Captured)
            | (Refund, Status::Refunded) => Ok(Decision::Replay),
            (Authorise | Capture | Refund, Status::Voided) => Err(Refusal::Voided(id())),
            (Refund, Status::Authorised) => Err(Refusal::NotCaptured(id())),
            (Void, Status::Captured) => Err(Refusal::Captured(id())),
            (Capture, Status::Refunded) => Err(Refusal::Refunded(id())),
        }
    }

    /// As it is after a movement.
    pub fn after(self, movement: Movement) -> Self {
        let status = match movement {
            Movement::Authorise => Status::Authorised,
            Movement::Void => Status::Voided,
            Movement::Capture => Status::Captured,
            Movement::Refund => Status::Refunded,
        };
        Self { status, ..self }
    }
}

impl From<Wanted> for Authorisation {
    fn from(wanted: Wanted) -> Self {
        Self {
            id: wanted.id,
            status: Status::Authorised,
            amount: wanted.amount,
            username: wanted.username,
        }
    }
}

impl Amount {
    /// From minor units, if they are an amount.
    pub fn from_minor(minor: i64) -> Option<Self> {
        (1..=MAX_AMOUNT).contains(&minor).then_some(Self(minor))
    }

    /// In minor units.
    pub fn minor(self) -> i64 {
        self.0
    }
}

fn noted<T, E: fmt::Display>(result: Result<T, E>, field: &str, faults: &mut Vec<FieldError>) -> Option<T> {
    result
        .map_err(|fault| faults.push(FieldError::new(field, fault)))
        .ok()
}

#[cfg(test)]
mod tests;
