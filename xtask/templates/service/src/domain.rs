//! What an item is, and when one may be stored. Pure: no I/O, no clock.
//!
//! Each request is idempotent by the item's id. The same item again is a replay, another one under its id is
//! refused, and what is not there is deleted already. So a saga that names an item after its run may ask again,
//! and takes its step back by deleting the item.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use trellis_chassis::problem::FieldError;

const MAX_ID: usize = 128;
const MAX_QUANTITY: i32 = 1_000_000;

/// Name of an item, chosen by the client: 1 to 128 letters, digits, `. _ - :`, not only dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemId(String);

/// How many, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantity(i32);

/// An item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Chosen by the client.
    pub id: ItemId,
    /// How many there are.
    pub quantity: Quantity,
}

/// The body of `PUT /items/{id}`, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutItem {
    quantity: i64,
}

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_ID} letters, digits, '.', '_', '-' and ':', not only '.'")]
pub struct ItemIdError;

/// Why a number is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from 1 to {MAX_QUANTITY}")]
pub struct QuantityError;

/// Why an item must not be stored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id belongs to another one.
    #[error("item {0} exists with other values; get it, or choose another id")]
    Taken(ItemId),
}

/// Turns id and body into an item, or into every fault that they have.
pub fn validate(id: &str, body: &PutItem) -> Result<Item, Vec<FieldError>> {
    let mut faults = Vec::new();
    let id = noted(id.parse(), "id", &mut faults);
    let quantity = noted(Quantity::try_from(body.quantity), "quantity", &mut faults);
    match (id, quantity) {
        (Some(id), Some(quantity)) => Ok(Item { id, quantity }),
        _ => Err(faults),
    }
}

/// Decides about a request to store `wanted` under an id that is there already.
pub fn decide_again(wanted: &Item, stored: &Item) -> Result<(), Refusal> {
    if stored == wanted {
        Ok(())
    } else {
        Err(Refusal::Taken(wanted.id.clone()))
    }
}

impl ItemId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Quantity {
    /// As a number.
    pub fn get(self) -> i32 {
        self.0
    }
}

impl FromStr for ItemId {
    type Err = ItemIdError;

    fn from_str(text: &str) -> Result<Self, ItemIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        // An empty text is only dots as well.
        if text.len() <= MAX_ID && text.bytes().all(allowed) && !text.bytes().all(|byte| byte == b'.') {
            Ok(Self(text.to_owned()))
        } else {
            Err(ItemIdError)
        }
    }
}

impl TryFrom<i64> for Quantity {
    type Error = QuantityError;

    fn try_from(number: i64) -> Result<Self, QuantityError> {
        let number = i32::try_from(number).map_err(|_| QuantityError)?;
        if (1..=MAX_QUANTITY).contains(&number) {
            Ok(Self(number))
        } else {
            Err(QuantityError)
        }
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn noted<T, E: fmt::Display>(result: Result<T, E>, field: &str, faults: &mut Vec<FieldError>) -> Option<T> {
    result
        .map_err(|fault| faults.push(FieldError::new(field, fault)))
        .ok()
}

#[cfg(test)]
mod tests;
