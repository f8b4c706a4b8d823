//! What an order is and when one may be created. Pure: no I/O, no clock, no randomness.
//!
//! Creating is idempotent by `order_id`: the same order again is a replay and answered from what is stored;
//! another order of the same id is a conflict. Only an order that is new needs to know whether its user
//! exists, so a replay never depends on the user service.
//!
//! ```text
//! stored?  same     -> Replay            user?  known   -> Create
//!          other    -> Conflict                 unknown -> refused: field `username`
//!          nothing  -> ask about the user       away    -> refused: try again
//! ```

mod amount;
mod status;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trellis_chassis::client::Outcome;
use trellis_chassis::problem::FieldError;

pub use amount::Amount;
pub use status::{Decision, Move, Status, WrongStatus};

/// Largest integer that every JSON reader keeps exact: RFC 8259, section 6.
const MAX_ORDER_ID: i64 = (1 << 53) - 1;
const MAX_LINES: usize = 100;
const MAX_QUANTITY: i64 = 1_000_000;
const MAX_TEXT: usize = 64;
/// Bits of an order id that are random; the others are the time.
const RANDOM_BITS: u32 = 12;
/// 2024-01-01T00:00:00Z: 41 bits of milliseconds from here last until 2093.
const EPOCH_MS: i64 = 1_704_067_200_000;

/// Number of an order, from 1 to 2^53 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OrderId(i64);

/// Name of a user, as the user service knows it: 1 to 64 of `a-z 0-9 . _ -`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Username(String);

/// Name of something that is sold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sku(String);

/// What was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Chosen by the client, or made here.
    pub order_id: OrderId,
    /// Who ordered.
    pub username: Username,
    /// For how much.
    pub amount: Amount,
    /// What, if the client said so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
}

/// An order, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// What was ordered.
    #[serde(flatten)]
    pub order: Order,
    /// What has become of it.
    pub status: Status,
}

/// What the sagas of an order are started with: all that they have to know of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct SagaInput<'a> {
    order_id: OrderId,
    username: &'a Username,
    /// In minor units.
    amount: i64,
    lines: &'a [Line],
}

/// Some of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Of which thing.
    pub sku: Sku,
    /// How many, from 1.
    pub quantity: i32,
}

/// The body of `POST /orders/`, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateOrder {
    order_id: Option<i64>,
    username: String,
    amount: amount::Text,
    #[serde(default)]
    lines: Vec<CreateLine>,
}

/// A line of the body, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateLine {
    sku: String,
    quantity: i64,
}

/// What to do about a request to create an order, as far as the stored orders tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing of that id is stored.
    New,
    /// The same order is stored.
    Replay(Stored),
    /// Another order has the id.
    Conflict,
}

/// Why a new order must not be stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such user.
    UnknownUser,
    /// The user service did not say.
    UserUnavailable {
        /// How long to stay away.
        retry_after: Duration,
    },
}

/// Why a text is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// An order id.
    #[error("must be an integer from 1 to {MAX_ORDER_ID}")]
    OrderId,
    /// A username.
    #[error("must be 1 to {MAX_TEXT} lower-case letters a-z, digits, '.', '_' and '-', not only '.'")]
    Username,
    /// A stock-keeping unit.
    #[error("must be 1 to {MAX_TEXT} letters, digits, '.', '_', '-', '/' and ':'")]
    Sku,
}

/// Turns the body into an order, or into every fault that it has. `generated` is the id for an order whose
/// client did not choose one.
pub fn validate(body: CreateOrder, generated: OrderId) -> Result<Order, Vec<FieldError>> {
    let mut faults = Vec::new();
    let order_id = body.order_id.map_or(Ok(generated), OrderId::try_from);
    let order_id = noted(order_id, "order_id", &mut faults);
    let username = noted(body.username.parse::<Username>(), "username", &mut faults);
    let amount = noted(body.amount.parse(), "amount", &mut faults);
    if body.lines.len() > MAX_LINES {
        faults.push(FieldError::new(
            "lines",
            format_args!("must have at most {MAX_LINES} items"),
        ));
    }
    let mut skus = HashSet::new();
    for (index, line) in body.lines.iter().enumerate() {
        if !skus.insert(line.sku.clone()) {
            let field = format!("lines[{index}].sku");
            faults.push(FieldError::new(
                field,
                "is in a line before; add up their quantities",
            ));
        }
    }
    let lines = body.lines.into_iter().enumerate();
    let lines: Option<Vec<Line>> = lines
        .map(|(index, line)| validate_line(index, &line, &mut faults))
        .collect();
    match (order_id, username, amount, lines) {
        (Some(order_id), Some(username), Some(amount), Some(lines)) if faults.is_empty() => Ok(Order {
            order_id,
            username,
            amount,
            lines,
        }),
        _ => Err(faults),
    }
}

/// Compares `wanted` with the order of that id that is stored.
pub fn standing(wanted: &Order, stored: Option<Stored>) -> Standing {
    match stored {
        None => Standing::New,
        Some(stored) if stored.order == *wanted => Standing::Replay(stored),
        Some(_) => Standing::Conflict,
    }
}

/// Decides whether a new order may be stored, given what the user service said.
pub fn decide<T>(user: &Outcome<T>) -> Result<(), Refusal> {
    match *user {
        Outcome::Found(_) => Ok(()),
        Outcome::NotFound => Err(Refusal::UnknownUser),
        Outcome::Unavailable { retry_after } => Err(Refusal::UserUnavailable { retry_after }),
    }
}

impl Order {
    /// What its sagas are started with.
    pub fn saga_input(&self) -> SagaInput<'_> {
        SagaInput {
            order_id: self.order_id,
            username: &self.username,
            amount: self.amount.minor(),
            lines: &self.lines,
        }
    }

    /// As it is stored first.
    pub fn pending(self) -> Stored {
        Stored {
            order: self,
            status: Status::Pending,
        }
    }
}

impl CreateOrder {
    /// Whether the client chose the id, and so may ask again without ordering twice.
    pub fn chooses_id(&self) -> bool {
        self.order_id.is_some()
    }
}

impl OrderId {
    /// An id for an order whose client chose none: time first, so that new rows lie together, then chance,
    /// so that replicas need not agree. Two of one millisecond collide once in 4096; the store notices.
    pub fn generate(now_ms: i64, random: u32) -> Self {
        let random = i64::from(random & ((1 << RANDOM_BITS) - 1));
        let time = now_ms
            .saturating_sub(EPOCH_MS)
            .clamp(1, MAX_ORDER_ID >> RANDOM_BITS);
        Self((time << RANDOM_BITS) | random)
    }

    /// As a number.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl Username {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Sku {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<i64> for OrderId {
    type Error = TextError;

    fn try_from(number: i64) -> Result<Self, TextError> {
        if (1..=MAX_ORDER_ID).contains(&number) {
            Ok(Self(number))
        } else {
            Err(TextError::OrderId)
        }
    }
}

impl FromStr for OrderId {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let number: i64 = text.parse().map_err(|_| TextError::OrderId)?;
        number.try_into()
    }
}

impl FromStr for Username {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let dots = text.bytes().all(|byte| byte == b'.');
        let good = text.len() <= MAX_TEXT && text.bytes().all(allowed) && !dots;
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(TextError::Username)
        }
    }
}

impl FromStr for Sku {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
        let good = !text.is_empty() && text.len() <= MAX_TEXT && text.bytes().all(allowed);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(TextError::Sku)
        }
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn validate_line(index: usize, line: &CreateLine, faults: &mut Vec<FieldError>) -> Option<Line> {
    let sku = noted(line.sku.parse(), &format!("lines[{index}].sku"), faults);
    let quantity = i32::try_from(line.quantity)
        .ok()
        .filter(|_| (1..=MAX_QUANTITY).contains(&line.quantity));
    let quantity = quantity.ok_or_else(|| format!("must be from 1 to {MAX_QUANTITY}"));
    let quantity = noted(quantity, &format!("lines[{index}].quantity"), faults);
    Some(Line {
        sku: sku?,
        quantity: quantity?,
    })
}

fn noted<T, E: fmt::Display>(result: Result<T, E>, field: &str, faults: &mut Vec<FieldError>) -> Option<T> {
    result
        .map_err(|fault| faults.push(FieldError::new(field, fault)))
        .ok()
}

#[cfg(test)]
mod tests;
