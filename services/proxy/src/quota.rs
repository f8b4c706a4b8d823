//! Limits over all pods of the service: this pod's parts of them, leased from the quota authority.
//!
//! ```text
//! request -> its part of the limit (leases) -> decided here, by that part, as any other limit
//!                  |
//!                  asks: new, used up, ends soon, recalled --stream--> quota authority --> grants
//! ```
//!
//! No request waits for the authority as long as its part has room. The first of a counter that this pod has not seen waits, once and
//! for [`FIRST_ANSWER`] at most; in the first moments of a limit, when there may be no stream yet, until [`FIRST_STREAM`]. What is
//! leased follows what is used: a counter that runs dry asks for more at once, and who found it dry waits for the answer, as long
//! as the authority has more to give and answers; one that is at rest is given back.
//!
//! Guarantees and the protocol's core: [`trellis_rate::lease`].

mod leases;
mod load;
mod stream;

use std::time::Duration;

pub(crate) use self::{
    leases::{Leases, Part, begin},
    stream::follow,
};

/// How long the first request of a counter waits, and one that may be let in when its part has grown.
pub(crate) const FIRST_ANSWER: Duration = Duration::from_millis(100);
/// How long after a limit has begun to be shared they wait: to find the replica that grants and be let in takes two connections
/// and two looks at a token, and who limits a service that is well must not have it refuse what there is plenty of.
pub(crate) const FIRST_STREAM: Duration = Duration::from_secs(1);
