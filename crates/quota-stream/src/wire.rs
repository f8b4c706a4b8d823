//! Between messages and the core.

use std::num::NonZeroU32;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use trellis_rate::lease::{Epoch, Grant, GrantId, Incarnation, OnLoss, Pod, Request, Sequence, Terms};

use crate::v1;

/// Digest of the values of a key.
pub type KeyDigest = [u8; 16];

/// How long leases are. An authority that was killed has a successor well before they end, so nobody is limited to their fallback.
pub const LENGTH: Duration = Duration::from_secs(30);

/// What a message has that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A number that must not be 0.
    #[error("{0} must not be 0")]
    Zero(&'static str),
    /// A key that is none.
    #[error("a key has 16 bytes, or none")]
    Key,
}

/// The pod of a UID.
pub fn pod(uid: &str) -> Pod {
    let digest = Sha256::digest(uid.as_bytes());
    Pod(u64::from_be_bytes(std::array::from_fn(|place| digest[place])))
}

/// The digest of a key's values, in this order. Two pods have the same for the same values, and nobody finds others with it.
pub fn key<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> KeyDigest {
    let mut hash = Sha256::new();
    for value in values {
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value);
    }
    let digest = hash.finalize();
    std::array::from_fn(|place| digest[place])
}

/// A key of a message; None if the limit has no counters.
///
/// # Errors
/// It has another length.
pub fn key_of(bytes: &[u8]) -> Result<Option<KeyDigest>, Fault> {
    match bytes.len() {
        0 => Ok(None),
        _ => bytes.try_into().map(Some).map_err(|_| Fault::Key),
    }
}

/// A key for a message.
pub fn bytes(key: Option<KeyDigest>) -> Vec<u8> {
    key.map(Vec::from).unwrap_or_default()
}

/// The terms of a limit.
///
/// # Errors
/// A number is 0 that must not be.
pub fn terms(limit: &v1::Limit) -> Result<Terms, Fault> {
    Ok(Terms {
        limit: NonZeroU32::new(limit.whole).ok_or(Fault::Zero("whole"))?,
        window: Duration::from_millis(limit.window),
        length: LENGTH,
        replicas: NonZeroU32::new(limit.replicas).ok_or(Fault::Zero("replicas"))?,
        on_loss: match limit.on_loss() {
            v1::OnLoss::Share | v1::OnLoss::Unspecified => OnLoss::Share,
            v1::OnLoss::Open => OnLoss::Open,
            v1::OnLoss::Closed => OnLoss::Closed,
        },
    })
}

/// For a message.
pub const fn on_loss(on_loss: OnLoss) -> v1::OnLoss {
    match on_loss {
        OnLoss::Share => v1::OnLoss::Share,
        OnLoss::Open => v1::OnLoss::Open,
        OnLoss::Closed => v1::OnLoss::Closed,
    }
}

/// A request for a message.
pub fn ask(limit: u32, key: Option<KeyDigest>, request: &Request) -> v1::Ask {
    let held = request.held.unwrap_or_default();
    v1::Ask {
        limit,
        key: bytes(key),
        sequence: request.sequence.0,
        held_epoch: held.epoch.0,
        held_sequence: held.sequence.0,
        whole: request.whole.get(),
        allowance: request.allowance,
        fallback: request.fallback,
        used: request.used,
        demand: request.demand,
    }
}

/// The request of a message, from a process that has run for so long and was welcomed to this epoch.
///
/// # Errors
/// A number is 0 that must not be.
pub fn request(
    ask: &v1::Ask,
    pod: Pod,
    incarnation: Incarnation,
    epoch: Epoch,
    age: Duration,
) -> Result<Request, Fault> {
    let held = GrantId {
        epoch: Epoch(ask.held_epoch),
        sequence: Sequence(ask.held_sequence),
    };
    if ask.sequence == 0 {
        return Err(Fault::Zero("sequence"));
    }
    Ok(Request {
        pod,
        incarnation,
        sequence: Sequence(ask.sequence),
        epoch,
        age,
        held: (held != GrantId::default()).then_some(held),
        whole: NonZeroU32::new(ask.whole).ok_or(Fault::Zero("whole"))?,
        allowance: ask.allowance,
        fallback: ask.fallback,
        used: ask.used,
        demand: ask.demand,
    })
}

/// A grant for a message.
pub fn grant(limit: u32, key: Option<KeyDigest>, grant: &Grant) -> v1::Grant {
    v1::Grant {
        limit,
        key: bytes(key),
        sequence: grant.id.sequence.0,
        whole: grant.whole.get(),
        amount: grant.amount,
        fallback: grant.fallback,
        length: u64::try_from(grant.length.as_millis()).unwrap_or(u64::MAX),
        renewal: grant.is_renewal,
    }
}

/// The grant of a message to a process, by the authority of this epoch.
///
/// # Errors
/// A number is 0 that must not be.
pub fn granted(
    message: &v1::Grant,
    pod: Pod,
    incarnation: Incarnation,
    epoch: Epoch,
) -> Result<Grant, Fault> {
    Ok(Grant {
        pod,
        incarnation,
        id: GrantId {
            epoch,
            sequence: Sequence(message.sequence),
        },
        whole: NonZeroU32::new(message.whole).ok_or(Fault::Zero("whole"))?,
        amount: message.amount,
        fallback: message.fallback,
        length: Duration::from_millis(message.length),
        is_renewal: message.renewal,
    })
}

#[cfg(test)]
mod tests {
    use trellis_rate::{Usage, lease::Client};

    use super::*;
    use crate::clock;

    #[test]
    fn where_one_value_of_a_key_ends_and_the_next_begins_matters() {
        let of = |values: &[&str]| key(values.iter().map(|value| value.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert_eq!(key_of(&[]), Ok(None));
        assert_eq!(key_of(&[7; 16]), Ok(Some([7; 16])));
        assert_eq!(key_of(&[7; 15]), Err(Fault::Key));
    }

    #[test]
    fn a_request_and_a_grant_come_out_as_they_went_in() {
        let (pod, incarnation, epoch) = (pod("6f1c"), Incarnation(3), Epoch(5));
        let mut client = Client::new(pod, incarnation, OnLoss::Share, clock::now());
        client.see(epoch);
        let whole = NonZeroU32::new(100).unwrap();
        let sent = client.request(Usage::Passed(0), 20, whole, LENGTH, clock::now());
        let message = ask(1, None, &sent);
        assert_eq!(request(&message, pod, incarnation, epoch, sent.age), Ok(sent));

        let given = Grant {
            pod,
            incarnation,
            id: GrantId {
                epoch,
                sequence: sent.sequence,
            },
            whole,
            amount: 20,
            fallback: 10,
            length: LENGTH,
            is_renewal: false,
        };
        let message = grant(1, None, &given);
        assert_eq!(granted(&message, pod, incarnation, epoch), Ok(given));
    }

    #[test]
    fn zeros_that_make_no_sense_are_refused() {
        let limit = v1::Limit {
            whole: 0,
            replicas: 1,
            ..v1::Limit::default()
        };
        assert_eq!(terms(&limit), Err(Fault::Zero("whole")));
    }
}
