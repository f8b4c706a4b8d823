//! A simulator: engines, their store, the network and participants in one thread, with everything that can go wrong.
//!
//! ```text
//! outbox --start--> engine --append, sync--> store        crashes: unsynced tail lost, last record torn
//!                     |  ^                                 another engine takes over; the former goes on for a while
//!                     v  |  lost, late, twice, in any order
//!                   network <--> participants (barrier)    errors before and after the effect, refusals, slow work
//! clocks jump; operators retry, skip, cancel and force
//! ```
//!
//! One seed is one history. After a while the faults stop, and what is left is judged by [`oracles`]: the invariants of sagas, each by
//! the records that are stored and the effects that participants have seen, not by what the engine thinks.
//!
//! **What it does not show**: HTTP, payloads, and engines that run in parallel on real processors. Those belong to the engine's own tests,
//! which also put its real store here, as a [`store::Disk`].

mod engine;
pub mod exhaustive;
pub mod generate;
mod message;
pub mod oracles;
pub mod participants;
pub mod rehearsal;
pub mod sample;
pub mod store;
mod world;

pub use self::world::World;
use crate::definition::Definition;
use crate::random::Random;

/// How often what goes wrong, in a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// A message is lost.
    pub lost: u64,
    /// A message comes twice.
    pub twice: u64,
    /// A message is late: seconds, not milliseconds.
    pub late: u64,
    /// A participant errs, before or after the effect, or is slow.
    pub mishap: u64,
    /// A call is refused for good.
    pub refused: u64,
    /// An engine crashes, with each message that it gets.
    pub crash: u64,
    /// Another engine takes over while the first goes on.
    pub takeover: u64,
    /// A clock jumps.
    pub jump: u64,
    /// Somebody intervenes in a run, with each record of it.
    pub operator: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost: 0,
        twice: 0,
        late: 0,
        mishap: 0,
        refused: 0,
        crash: 0,
        takeover: 0,
        jump: 0,
        operator: 0,
    };
    /// Everything does.
    pub const ALL: Self = Self {
        lost: 40,
        twice: 60,
        late: 50,
        mishap: 150,
        refused: 60,
        crash: 12,
        takeover: 8,
        jump: 10,
        operator: 10,
    };
}

/// How often what went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were lost.
    pub lost: u64,
    /// Messages that came twice.
    pub twice: u64,
    /// Tries with a mishap.
    pub mishaps: u64,
    /// Engines that crashed.
    pub crashes: u64,
    /// Records that a crash tore.
    pub torn: u64,
    /// Engines that took over from one that went on.
    pub takeovers: u64,
    /// Writes of earlier owners that the store refused.
    pub fenced: u64,
    /// Clocks that jumped.
    pub jumps: u64,
    /// Interventions.
    pub operators: u64,
    /// Runs by how they ended: completed, compensated, stuck.
    pub ends: [u64; 3],
    /// Records of all runs.
    pub records: u64,
    /// Starts that came again.
    pub starts_again: u64,
}

/// What is broken, in which history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// What.
    pub what: String,
    /// The history of the run that it is about.
    pub history: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}: {}\n{}", self.seed, self.what, self.history)
    }
}

/// Runs a history of a definition made up by the seed.
///
/// # Errors
/// An invariant is broken.
pub fn run(seed: u64, faults: Faults) -> Result<Counts, Violation> {
    let mut random = Random::new(seed);
    let definitions: Vec<Definition> = (0..2).map(|_| generate::definition(&mut random, 6)).collect();
    run_of(seed, faults, definitions)
}

/// Runs a history of a definition and its later revisions.
///
/// # Errors
/// An invariant is broken.
pub fn run_of(seed: u64, faults: Faults, definitions: Vec<Definition>) -> Result<Counts, Violation> {
    let mut world = World::new(seed, faults, definitions);
    world.play();
    oracles::judge(&mut world);
    world.verdict()
}
