//! What services tell each other without waiting for an answer.
//!
//! ```text
//! handler: one transaction { its rows + Outbox::put(message) } -> wake
//!                                    |
//! dispatcher: claim what is due -> deliver -> taken: delete; not taken: put off, longer each time
//! ```
//!
//! **Guarantees.** A message is delivered if and only if the transaction that put it was committed; at least once, whatever is killed
//! and whoever is away meanwhile. Whoever takes messages tells repeats by [`Message::id`].
//!
//! **Not guaranteed.** An order of messages: who needs one puts the second when the first has come to something.
//!
//! **Caveats.** Nothing is given up: what is refused stays, is tried again once a minute, and shows as `outbox_oldest_seconds`.

mod message;
#[cfg(feature = "outbox")]
mod outbox;
#[cfg(feature = "outbox")]
mod saga;
mod schedule;

pub use message::{Message, MessageError};
#[cfg(feature = "outbox")]
pub use outbox::{Deliver, Dispatcher, Failure, Outbox, SCHEMA};
#[cfg(feature = "outbox")]
pub use saga::{SagaEngine, SagaStart, Settings as SagaSettings};
pub use schedule::pause;
