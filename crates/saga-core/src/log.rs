//! Records: events as they are stored, for ever.
//!
//! ```text
//! record = version (1 byte) | length (4, LE) | CRC-32 of the rest (4, LE) | body: Protocol Buffers
//! body   = sequence number, time, event
//! ```
//!
//! **Reading.** A log that ends in the middle of a record was torn by a crash: what is before counts, and the rest was never acknowledged.
//! A record that is wrong with others behind it is no torn one but damage, and is refused, so that nothing that was acknowledged is
//! passed over in silence. Sequence numbers show a record that is missing or there twice.
//!
//! **Growing.** A body may get further fields and further sorts of events; their numbers are never used again. An older release passes over
//! fields that it does not know, and refuses events that it does not know ([`Error::Unknown`]). What may not be passed over gets a version
//! of its own. `tests/golden/log` has records of every release, which must decode for ever.

mod wire;

use prost::Message as _;

use crate::event::{Event, Time};

/// Version of the form.
pub const VERSION: u8 = 1;
/// Bytes before a body.
const HEAD: usize = 9;
/// Longest body: a payload and what is around it.
const MOST_BODY: usize = 16 * 1024 * 1024;

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 0.
    pub sequence: u64,
    /// When it was decided on.
    pub at: Time,
    /// The event.
    pub event: Event,
}

/// Why a log cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not those that were written.
    #[error("failed to read the log: the record at byte {0} is damaged")]
    Damaged(usize),
    /// A later release wrote it.
    #[error("failed to read the log: the record at byte {0} is of a later release")]
    Unknown(usize),
    /// A record is missing, or there twice.
    #[error("failed to read the log: record {expected} is missing at byte {at}")]
    Missing {
        /// Where it should be.
        at: usize,
        /// Its number.
        expected: u64,
    },
}

/// What a log has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Its records.
    pub records: Vec<Record>,
    /// Bytes of them. What is behind was torn by a crash and is to be cut off.
    pub length: usize,
}

/// Appends a record.
pub fn append(record: &Record, log: &mut Vec<u8>) {
    let body = wire::Record::from(record).encode_to_vec();
    log.push(VERSION);
    // A body is no longer than `MOST_BODY`, which the sizes of payloads see to.
    log.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    log.extend(checksum(VERSION, &body).to_le_bytes());
    log.extend(body);
}

/// The record at the beginning of some bytes, and how many it takes; None: they end before it does.
///
/// # Errors
/// It is damaged, or of a later release.
pub fn read_one(bytes: &[u8]) -> Result<Option<(Record, usize)>, Error> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        return Ok(None);
    };
    let [version, l0, l1, l2, l3, c0, c1, c2, c3] = *head else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > MOST_BODY {
        return Err(Error::Damaged(0));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    if checksum(version, body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(Error::Damaged(0));
    }
    if version != VERSION {
        return Err(Error::Unknown(0));
    }
    let body = wire::Record::decode(body).map_err(|_| Error::Damaged(0))?;
    let record = body.read().ok_or(Error::Unknown(0))?;
    Ok(Some((record, HEAD + length)))
}

/// The records of a log.
///
/// # Errors
/// It is damaged before its end, or of a later release.
pub fn read(log: &[u8]) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    while contents.length < log.len() {
        let at = contents.length;
        match read_one(&log[at..]) {
            Ok(Some((record, length))) => {
                let expected = contents.records.len() as u64;
                if record.sequence != expected {
                    return Err(Error::Missing { at, expected });
                }
                contents.records.push(record);
                contents.length += length;
            }
            Err(Error::Unknown(_)) => return Err(Error::Unknown(at)),
            // The last record may have been written in part, but one with others behind it was written whole: then its length is wrong.
            Ok(None) | Err(_) if is_last(&log[at..]) => break,
            Ok(None) | Err(_) => return Err(Error::Damaged(at)),
        }
    }
    Ok(contents)
}

/// Whether no whole record is behind the first.
fn is_last(bytes: &[u8]) -> bool {
    (1..bytes.len()).all(|at| !matches!(read_one(&bytes[at..]), Ok(Some(_)) | Err(Error::Unknown(_))))
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}
