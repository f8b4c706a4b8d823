//! What becomes of an order: two sagas move it, each step at most once.
//!
//! ```text
//!                place-order                                                cancel-order
//! Pending --place--> Placing --confirm--> Confirmed --complete--> Completed --hold--> Cancelling --close--> Cancelled
//!    +-----reject-------+--> Rejected
//! ```
//!
//! `Placing` and `Cancelling` are the marks of a saga at work (a semantic lock: Garcia-Molina and Salem, "Sagas", 1987): nobody else
//! begins something on such an order.

use serde::Serialize;

use super::OrderId;

/// What has become of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::EnumString, strum::IntoStaticStr)]
#[cfg_attr(test, derive(strum::EnumIter))]
pub enum Status {
    /// It is stored, and will be looked at.
    Pending,
    /// Goods and money are being seen to.
    Placing,
    /// There is no way back: it is going to be paid, and its goods to leave the house.
    Confirmed,
    /// There were not enough goods, or there was no money.
    Rejected,
    /// It is paid, and its goods have left the house.
    Completed,
    /// Money and goods are on their way back.
    Cancelling,
    /// It is as if it had never been.
    Cancelled,
}

/// A step of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
#[cfg_attr(test, derive(strum::EnumIter))]
pub enum Move {
    /// Its saga has begun.
    Place,
    /// Goods and money are there.
    Confirm,
    /// It came to nothing.
    Reject,
    /// All is done.
    Complete,
    /// Its cancellation has begun, and cannot be stopped.
    Hold,
    /// All is taken back.
    Close,
}

/// What to do about a move.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The order becomes this.
    Become(Status),
    /// Nothing: that is done already.
    Replay,
}

/// Why an order must not be moved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("order {order_id} is {}; for that it must be {}", name(*.status), .expected.iter().copied().map(name).collect::<Vec<_>>().join(" or "))]
pub struct WrongStatus {
    order_id: OrderId,
    status: Status,
    expected: &'static [Status],
}

impl Status {
    /// Whether a customer who waits can be told what became of it.
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Pending | Self::Placing | Self::Cancelling)
    }

    /// Decides about a step of a saga.
    pub fn decide(self, order_id: OrderId, wanted: Move) -> Result<Decision, WrongStatus> {
        let (expected, to): (&'static [Self], Self) = match wanted {
            Move::Place => (&[Self::Pending], Self::Placing),
            Move::Confirm => (&[Self::Placing], Self::Confirmed),
            // Its saga may turn round before it has placed anything.
            Move::Reject => (&[Self::Pending, Self::Placing], Self::Rejected),
            Move::Complete => (&[Self::Confirmed], Self::Completed),
            Move::Hold => (&[Self::Completed], Self::Cancelling),
            Move::Close => (&[Self::Cancelling], Self::Cancelled),
        };
        if expected.contains(&self) {
            Ok(Decision::Become(to))
        } else if self == to {
            Ok(Decision::Replay)
        } else {
            Err(WrongStatus {
                order_id,
                status: self,
                expected,
            })
        }
    }

    /// Decides whether a customer may have an order cancelled: whether that is still to be begun.
    pub fn decide_cancellation(self, order_id: OrderId) -> Result<bool, WrongStatus> {
        match self {
            Self::Completed => Ok(true),
            Self::Cancelling | Self::Cancelled => Ok(false),
            Self::Pending | Self::Placing | Self::Confirmed | Self::Rejected => Err(WrongStatus {
                order_id,
                status: self,
                expected: &[Self::Completed],
            }),
        }
    }
}

fn name(status: Status) -> &'static str {
    status.into()
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator as _;

    use super::*;

    fn id() -> OrderId {
        OrderId::try_from(7).unwrap()
    }

    /// Every pair of status and move: what it becomes, `=` for a replay, `-` for a refusal.
    #[test]
    fn every_move_of_every_status() {
        let shown = |status: Status, wanted| match status.decide(id(), wanted) {
            Ok(Decision::Become(to)) => <&str>::from(to).to_owned(),
            Ok(Decision::Replay) => "=".to_owned(),
            Err(_) => "-".to_owned(),
        };
        let table: Vec<String> = Status::iter()
            .map(|status| {
                let moves: Vec<String> = Move::iter().map(|wanted| shown(status, wanted)).collect();
                format!("{}: {}", <&str>::from(status), moves.join(" "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "Pending: Placing - Rejected - - -",
                "Placing: = Confirmed Rejected - - -",
                "Confirmed: - = - Completed - -",
                "Rejected: - - = - - -",
                "Completed: - - - = Cancelling -",
                "Cancelling: - - - - = Cancelled",
                "Cancelled: - - - - - =",
            ]
        );
    }

    #[test]
    fn only_what_is_completed_can_be_cancelled() {
        let shown = |status: Status| match status.decide_cancellation(id()) {
            Ok(true) => "begin",
            Ok(false) => "done",
            Err(_) => "no",
        };
        let table: Vec<_> = Status::iter().map(shown).collect();
        assert_eq!(table, ["no", "no", "no", "no", "begin", "done", "done"]);
        let refused = Status::Placing.decide_cancellation(id()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "order 7 is Placing; for that it must be Completed"
        );
    }
}
