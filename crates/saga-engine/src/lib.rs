//! The durable saga engine.
//!
//! ```text
//! start, verbs --> engine --> shard: runs in memory --batch of records--> store (PostgreSQL)
//!                               ^                                           |  committed
//!                               |  answers, timers                         v
//!                               +------------------ participants <-- effects
//! ```
//!
//! - **id**: a run, and the partition that it belongs to.
//! - **store**: what is durable, behind a trait; [`store::postgres`] has it in PostgreSQL.
//! - **definitions**: revisions, compiled.
//! - **shard**: the runs of some partitions: events are decided on in memory, appended in batches, and only then acted on.
//! - **admission**: how many runs there is room for.
//! - **turns**: which of those may begin that wait for others of their saga.
//! - **engine**: shards, which partitions are whose, and what others ask of them.
//! - **lanes**: how many calls are on their way at once, and whose turn it is.
//! - **participants**: how calls are made, behind a trait.
//! - **discreet**: what is kept of participants' words.
//! - **observe**: who hears what happens.
//!
//! **What it guarantees**: nothing is acknowledged, and nobody is called, before the record of it is committed. A partition has one
//! owner; what an earlier one appends is refused by the store. Whoever takes a partition over goes on by its log.

pub mod admission;
pub mod definitions;
mod discreet;
pub mod engine;
pub mod id;
mod lanes;
pub mod observe;
pub mod participants;
mod shard;
pub mod store;
mod turns;
