//! What is in stock, and what a reservation may do to it. Pure: no I/O, no clock.
//!
//! ```text
//! reserve --> Reserved --time--> Expired      what is expired counts as free
//!                 |                 |
//!                 +-- give back ----+--> GivenBack
//!                 +-- commit -------+--> Committed: has left the house; if expired, only if there is enough
//!                                            +-- return --> Returned: is here again
//! ```
//!
//! Each request is idempotent by the reservation's id. Only one that was given back is not reserved again by
//! the same request: that request is late.

mod name;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use trellis_chassis::problem::FieldError;

pub use name::{NameError, ReservationId, Sku};

/// Where the shop keeps its stock; there is only one house yet.
const WAREHOUSE: &str = "north";
const MAX_LINES: usize = 100;
const MAX_QUANTITY: i64 = 1_000_000;
const MAX_ON_HAND: i64 = 1_000_000_000_000;

/// What there is of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stock {
    sku: Sku,
    on_hand: i64,
    reserved: i64,
    available: i64,
}

/// Some of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Of which thing.
    pub sku: Sku,
    /// How many, from 1.
    pub quantity: i32,
}

/// A reservation that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Chosen by the client.
    pub id: ReservationId,
    /// At least one, each of another thing.
    pub lines: Vec<Line>,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reservation {
    id: ReservationId,
    warehouse: &'static str,
    status: Status,
    lines: Vec<Line>,
    expires_at: Timestamp,
}

/// What a client is told who has reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    id: ReservationId,
    warehouse: &'static str,
    expires_at: Timestamp,
}

/// What has become of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::EnumString, strum::IntoStaticStr)]
pub enum Status {
    /// It holds what it has reserved.
    Reserved,
    /// Its time is over: what it had reserved counts as free.
    Expired,
    /// It holds nothing any more.
    GivenBack,
    /// What it had reserved has left the house.
    Committed,
    /// What had left the house is here again.
    Returned,
}

/// The body of `PUT /items/{sku}`, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetStock {
    on_hand: i64,
}

/// The body of `POST /reservations`, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    id: String,
    lines: Vec<ReserveLine>,
}

/// A line of the body, not validated yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReserveLine {
    sku: String,
    quantity: i64,
}

/// What to do about a request for a reservation that is stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// What it asks for.
    Change,
    /// Nothing: that is done already.
    Replay,
}

/// Why the stock must not be changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Some things are not kept.
    #[error("nothing is kept under some sku")]
    Unknown(Vec<FieldError>),
    /// Not enough is available.
    #[error(
        "{available} of {sku} are available, and {quantity} are asked for; ask for less, or set more on hand"
    )]
    Short {
        /// Of which thing.
        sku: Sku,
        /// How many are asked for.
        quantity: i32,
        /// How many are available.
        available: i64,
    },
    /// Less than what is promised to somebody.
    #[error("{reserved} of {sku} are reserved; set at least that, or give back reservations first")]
    BelowReserved {
        /// Of which thing.
        sku: Sku,
        /// How many.
        reserved: i64,
    },
    /// The id belongs to a reservation of other lines.
    #[error("reservation {0} exists with other lines; get it, or choose another id")]
    Taken(ReservationId),
    /// It holds nothing any more.
    #[error("reservation {0} was given back; reserve under another id")]
    GivenBack(ReservationId),
    /// Its things are not here any more.
    #[error("reservation {0} was committed, and its things have left the house; return it instead")]
    Committed(ReservationId),
    /// Its things never left the house.
    #[error("reservation {0} was not committed; give it back instead")]
    NotCommitted(ReservationId),
    /// Its things left the house and are here again.
    #[error("reservation {0} was returned; reserve under another id")]
    Returned(ReservationId),
}

/// How many are on hand, or what is wrong with the body.
pub fn validate_stock(body: &SetStock) -> Result<i64, Vec<FieldError>> {
    if (0..=MAX_ON_HAND).contains(&body.on_hand) {
        Ok(body.on_hand)
    } else {
        let message = format!("must be from 0 to {MAX_ON_HAND}");
        Err(vec![FieldError::new("on_hand", message)])
    }
}

/// Turns the body into a reservation, or into every fault that it has.
pub fn validate(body: Reserve) -> Result<Wanted, Vec<FieldError>> {
    let mut faults = Vec::new();
    let id = noted(body.id.parse::<ReservationId>(), "id", &mut faults);
    if !(1..=MAX_LINES).contains(&body.lines.len()) {
        let message = format!("must have 1 to {MAX_LINES} items");
        faults.push(FieldError::new("lines", message));
    }
    let mut lines = Vec::<Line>::new();
    for (index, line) in body.lines.into_iter().enumerate() {
        let Some(line) = validate_line(index, &line, &mut faults) else {
            continue;
        };
        if lines.iter().any(|other| other.sku == line.sku) {
            let field = format!("lines[{index}].sku");
            faults.push(FieldError::new(
                field,
                "is in a line before; add up their quantities",
            ));
        }
        lines.push(line);
    }
    match id {
        Some(id) if faults.is_empty() => Ok(Wanted { id, lines }),
        _ => Err(faults),
    }
}

/// Decides whether so many may be on hand.
pub fn decide_stock(on_hand: i64, stock: &Stock) -> Result<(), Refusal> {
    if on_hand < stock.reserved {
        return Err(Refusal::BelowReserved {
            sku: stock.sku.clone(),
            reserved: stock.reserved,
        });
    }
    Ok(())
}

/// Decides whether the lines may be taken from the stocks.
pub fn decide_lines(lines: &[Line], stocks: &[Stock]) -> Result<(), Refusal> {
    let (mut unknown, mut short) = (Vec::new(), None);
    for (index, line) in lines.iter().enumerate() {
        match stocks.iter().find(|stock| stock.sku == line.sku) {
            None => {
                let message = format!("nothing is kept under {}; PUT /items/{{sku}} first", line.sku);
                unknown.push(FieldError::new(format!("lines[{index}].sku"), message));
            }
            Some(stock) if stock.available < i64::from(line.quantity) => {
                short = short.or(Some((line, stock.available)));
            }
            Some(_) => {}
        }
    }
    match short {
        _ if !unknown.is_empty() => Err(Refusal::Unknown(unknown)),
        None => Ok(()),
        Some((line, available)) => Err(Refusal::Short {
            sku: line.sku.clone(),
            quantity: line.quantity,
            available,
        }),
    }
}

/// Decides about a request to reserve under an id that is there already.
pub fn decide_again(wanted: &Wanted, stored: Reservation) -> Result<Receipt, Refusal> {
    if stored.lines != wanted.lines {
        Err(Refusal::Taken(stored.id))
    } else if stored.status == Status::GivenBack {
        Err(Refusal::GivenBack(stored.id))
    } else {
        Ok(Receipt::new(stored.id, stored.expires_at))
    }
}

impl Stock {
    /// What there is of `sku`.
    pub fn new(sku: Sku, on_hand: i64, reserved: i64) -> Self {
        Self {
            sku,
            on_hand,
            reserved,
            available: on_hand - reserved,
        }
    }

    /// Of which thing.
    pub fn sku(&self) -> &Sku {
        &self.sku
    }
}

impl Reservation {
    /// A reservation that was stored.
    pub fn new(id: ReservationId, status: Status, lines: Vec<Line>, expires_at: Timestamp) -> Self {
        Self {
            id,
            warehouse: WAREHOUSE,
            status,
            lines,
            expires_at,
        }
    }

    /// Its name.
    pub fn id(&self) -> &ReservationId {
        &self.id
    }

    /// Of what it is.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Decides about giving it back.
    pub fn give_back(&self) -> Result<Decision, Refusal> {
        match self.status {
            Status::Reserved | Status::Expired => Ok(Decision::Change),
            // There is nothing to give back, as the caller wants it.
            Status::GivenBack | Status::Returned => Ok(Decision::Replay),
            Status::Committed => Err(Refusal::Committed(self.id.clone())),
        }
    }

    /// Decides about committing it; whether there is enough is another question.
    pub fn commit(&self) -> Result<Decision, Refusal> {
        match self.status {
            Status::Reserved | Status::Expired => Ok(Decision::Change),
            Status::Committed => Ok(Decision::Replay),
            Status::GivenBack => Err(Refusal::GivenBack(self.id.clone())),
            Status::Returned => Err(Refusal::Returned(self.id.clone())),
        }
    }

    /// Decides about returning it.
    pub fn take_back(&self) -> Result<Decision, Refusal> {
        match self.status {
            Status::Committed => Ok(Decision::Change),
            Status::Returned => Ok(Decision::Replay),
            Status::Reserved | Status::Expired | Status::GivenBack => {
                Err(Refusal::NotCommitted(self.id.clone()))
            }
        }
    }

    /// As it is when that has become of it.
    pub fn after(self, status: Status) -> Self {
        Self { status, ..self }
    }
}

impl Receipt {
    /// For a reservation that holds until `expires_at`.
    pub fn new(id: ReservationId, expires_at: Timestamp) -> Self {
        Self {
            id,
            warehouse: WAREHOUSE,
            expires_at,
        }
    }
}

fn validate_line(index: usize, line: &ReserveLine, faults: &mut Vec<FieldError>) -> Option<Line> {
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
