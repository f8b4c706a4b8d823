//! Histories of the simulator over the real store: the same invariants, judged by what PostgreSQL has, with the engine killed at every
//! append.

use std::{collections::BTreeMap, sync::Arc};

use tokio::runtime::Runtime;
use trellis_saga_core::{
    event::Time,
    log,
    random::Random,
    run::Status,
    simulation::{
        Counts, Faults, World, generate, oracles,
        store::{self as simulated, Disk, Fenced, Write},
    },
};
use trellis_saga_engine::{
    id::{Partition, RunId},
    store::{Append, Claim, Key, NewRecord, RevisionId, Standing, Start, Store as _, postgres::Postgres},
};

use crate::common;

/// A partition of the real store, as the simulator wants one.
struct Real {
    runtime: Arc<Runtime>,
    store: Arc<Postgres>,
    partition: Partition,
    /// Tells histories of the same partition apart.
    history: u64,
    /// A revision that is there; the simulator has its own.
    revision: RevisionId,
    /// Which of its definitions a run is made of.
    revisions: BTreeMap<u64, usize>,
    /// Whoever claims.
    owners: u128,
}

impl Real {
    fn run(&self, run: u64) -> RunId {
        RunId::new(self.history, u128::from(run) << 6, self.partition)
    }

    fn append(&self, epoch: u64, writes: &[Write]) -> Append {
        let mut append = Append {
            claims: vec![Claim {
                partition: self.partition,
                epoch,
            }],
            ..Append::default()
        };
        let begins: Vec<u64> = writes
            .iter()
            .filter(|write| write.key.is_some())
            .map(|write| write.run)
            .collect();
        for write in writes {
            let run = self.run(write.run);
            if let Some((key, input)) = write.key {
                append.starts.push(Start {
                    run,
                    revision: self.revision,
                    key: Some(Key {
                        text: key.to_string(),
                        digest: u128::from(self.history) << 64 | u128::from(key),
                    }),
                    input_digest: input.into(),
                    started_at: Time(0),
                    standing: Standing {
                        status: Status::Running,
                        is_queued: false,
                        ended_at: None,
                        purge_at: None,
                    },
                });
            }
            let mut bytes = Vec::new();
            log::append(&write.record, &mut bytes);
            append.records.push(NewRecord {
                run,
                sequence: write.record.sequence.try_into().unwrap(),
                is_of_start: begins.contains(&write.run),
                bytes,
            });
        }
        append
    }
}

impl Disk for Real {
    fn sync(&mut self, epoch: u64, writes: &[Write]) -> Result<(), Fenced> {
        let appended = self
            .runtime
            .block_on(self.store.append(self.append(epoch, writes)))
            .unwrap();
        assert_eq!(appended.taken, [], "the simulator knows its keys");
        for write in writes.iter().filter(|write| write.key.is_some()) {
            self.revisions.insert(write.run, write.revision);
        }
        if appended.lost.is_empty() {
            Ok(())
        } else {
            Err(Fenced)
        }
    }

    fn claim(&mut self) -> u64 {
        self.owners += 1;
        let claims = self
            .runtime
            .block_on(self.store.claim(self.owners, &[self.partition]))
            .unwrap();
        claims[0].epoch
    }

    fn read(&mut self, run: u64) -> Option<simulated::Stored> {
        let stored = self.runtime.block_on(self.store.run(self.run(run))).unwrap()?;
        Some(simulated::Stored {
            log: stored.log,
            revision: self.revisions[&run],
            epochs: stored.epochs,
        })
    }
}

/// A database, and histories on it.
struct Stage {
    runtime: Arc<Runtime>,
    store: Arc<Postgres>,
    revision: RevisionId,
    histories: u64,
    _database: trellis_testkit::postgres::TestDatabase,
}

impl Stage {
    fn new() -> Self {
        let runtime = Arc::new(Runtime::new().unwrap());
        let (database, store, revision) = runtime.block_on(async {
            let (database, options) = common::database().await;
            let store = Arc::new(Postgres::new(&options));
            let revision = store.put_revision(&common::revision("order", 2)).await.unwrap();
            (database, store, revision)
        });
        Self {
            runtime,
            store,
            revision,
            histories: 0,
            _database: database,
        }
    }

    /// Plays a history; how many appends it had, and what else was counted.
    fn play(&mut self, seed: u64, faults: Faults, kill: Option<(u64, bool)>) -> (u64, Counts) {
        self.histories += 1;
        let disk = Real {
            runtime: Arc::clone(&self.runtime),
            store: Arc::clone(&self.store),
            partition: Partition((self.histories % 64) as u16),
            history: self.histories,
            revision: self.revision,
            revisions: BTreeMap::new(),
            owners: 0,
        };
        let store = simulated::Store {
            disk: Some(Box::new(disk)),
            ..simulated::Store::default()
        };
        let mut random = Random::new(seed);
        let definitions = (0..2).map(|_| generate::definition(&mut random, 6)).collect();
        let mut world = World::on(store, seed, faults, definitions);
        if let Some((append, is_stored)) = kill {
            world.kill_at(append, is_stored);
        }
        world.play();
        oracles::judge(&mut world);
        let counts = world
            .verdict()
            .unwrap_or_else(|violation| panic!("kill at {kill:?}: {violation}"));
        (world.appends(), counts)
    }
}

#[test]
fn histories_over_postgresql_keep_every_invariant() {
    let mut stage = Stage::new();
    let (mut appends, mut fenced, mut crashes) = (0, 0, 0);
    for seed in 0..200 {
        let (of_history, counts) = stage.play(seed, Faults::ALL, None);
        appends += of_history;
        fenced += counts.fenced;
        crashes += counts.crashes;
    }
    println!("200 histories: {appends} appends, {fenced} by earlier owners, {crashes} crashes");
    assert!(fenced > 0 && crashes > 0, "what is to be survived has happened");
}

#[test]
fn an_engine_that_is_killed_at_any_append_loses_nothing_and_does_nothing_twice() {
    let mut stage = Stage::new();
    let mut kills = 0;
    for seed in 0..10 {
        let (appends, _) = stage.play(seed, Faults::NONE, None);
        for append in 1..=appends {
            for is_stored in [false, true] {
                let (_, counts) = stage.play(seed, Faults::NONE, Some((append, is_stored)));
                kills += counts.crashes;
            }
        }
    }
    println!("{kills} kills");
    assert!(kills > 100);
}
