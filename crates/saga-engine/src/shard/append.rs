//! What is to be stored, and what becomes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::oneshot;
use trellis_saga_core::event::Effect;

use super::{Shard, StartError, VerbError};
use crate::{
    id::{Partition, RunId},
    participants::Participants,
    store::{Append, Appended, Claim, Error, NewRecord, Standing, Start, Store},
};

/// What is to be appended, and what is to be done then.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) starts: Vec<Start>,
    pub(super) records: Vec<NewRecord>,
    pub(super) changes: BTreeMap<RunId, Standing>,
    pub(super) effects: Vec<(RunId, Effect)>,
    pub(super) started: Vec<(RunId, oneshot::Sender<Result<RunId, StartError>>)>,
    pub(super) intervened: Vec<(RunId, oneshot::Sender<Result<(), VerbError>>)>,
}

/// An append that is under way.
pub(super) struct UnderWay {
    pub(super) answer: BoxFuture<'static, Result<Appended, Error>>,
    /// By what right.
    pub(super) claims: Vec<Claim>,
    pub(super) batch: Batch,
}

impl<S: Store, P: Participants> Shard<S, P> {
    /// Begins to append what there is.
    pub(super) fn append(&mut self) -> Option<UnderWay> {
        if self.batch.records.is_empty() {
            return None;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let partitions: BTreeSet<Partition> = batch
            .records
            .iter()
            .map(|record| record.run.partition())
            .collect();
        let claims = partitions.iter().filter_map(|&partition| {
            let epoch = *self.epochs.get(&partition)?;
            Some(Claim { partition, epoch })
        });
        let claims: Vec<Claim> = claims.collect();
        let append = Append {
            claims: claims.clone(),
            starts: std::mem::take(&mut batch.starts),
            records: std::mem::take(&mut batch.records),
            changes: std::mem::take(&mut batch.changes).into_iter().collect(),
        };
        let (store, observer) = (Arc::clone(&self.store), Arc::clone(&self.observer));
        let answer = async move {
            let (records, begin) = (append.records.len(), Instant::now());
            let answer = store.append(append).await;
            observer.appended(records, begin.elapsed(), answer.is_ok());
            answer
        };
        Some(UnderWay {
            answer: answer.boxed(),
            claims,
            batch,
        })
    }

    pub(super) fn answered(&mut self, answer: Result<Appended, Error>, claims: &[Claim], batch: Batch) {
        // What was given up and claimed anew meanwhile was read after this was stored, or was not.
        let is_current = |claim: &&Claim| self.epochs.get(&claim.partition) == Some(&claim.epoch);
        let current: Vec<Partition> = claims
            .iter()
            .filter(is_current)
            .map(|claim| claim.partition)
            .collect();
        let Appended { lost, taken } = match answer {
            Ok(appended) => appended,
            Err(error) => {
                let error = Arc::new(error);
                let shown: &dyn std::error::Error = &*error;
                tracing::warn!(error = shown, "failed to append; the runs are read anew");
                for (_, reply) in batch.started {
                    // Who asked may have gone.
                    let _ = reply.send(Err(StartError::Unknown(Arc::clone(&error))));
                }
                for (_, reply) in batch.intervened {
                    let _ = reply.send(Err(VerbError::Unknown(Arc::clone(&error))));
                }
                self.drop_partitions(&current, Some(&error));
                return;
            }
        };
        if !lost.is_empty() {
            tracing::warn!(partitions = lost.len(), "another replica has claimed partitions");
            let lost: Vec<_> = lost
                .iter()
                .copied()
                .filter(|lost| current.contains(lost))
                .collect();
            self.drop_partitions(&lost, None);
        }
        for run in &taken {
            self.drop_run(*run);
        }
        for (run, reply) in batch.started {
            let outcome = if taken.contains(&run) {
                Err(StartError::Taken)
            } else if lost.contains(&run.partition()) {
                Err(StartError::NotOwned)
            } else {
                if let Some(live) = self.runs.get(&run) {
                    self.observer.started(&live.compiled, run);
                    if live.is_queued {
                        self.room.turns.notify_one();
                    }
                }
                Ok(run)
            };
            let _ = reply.send(outcome);
        }
        for (run, reply) in batch.intervened {
            let is_lost = lost.contains(&run.partition());
            let _ = reply.send(if is_lost { Err(VerbError::NotHere) } else { Ok(()) });
        }
        for (run, effect) in batch.effects {
            if !lost.contains(&run.partition()) && current.contains(&run.partition()) {
                self.perform(run, effect);
            }
        }
    }

    /// Forgets a run that never began.
    fn drop_run(&mut self, dropped: RunId) {
        if let Some(live) = self.runs.remove(&dropped) {
            self.forget_deadline(dropped, &live);
        }
        self.decided.retain(|(run, _)| *run != dropped);
        let batch = &mut self.batch;
        batch.records.retain(|record| record.run != dropped);
        batch.changes.remove(&dropped);
        batch.effects.retain(|(run, _)| *run != dropped);
    }

    /// Forgets everything of some partitions: from now on they are somebody else's, or have to be claimed anew.
    pub(super) fn drop_partitions(&mut self, partitions: &[Partition], error: Option<&Arc<Error>>) {
        let is_dropped = |run: &RunId| partitions.contains(&run.partition());
        for partition in partitions {
            self.epochs.remove(partition);
            self.owned.0.lock().remove(partition);
        }
        self.runs.retain(|run, _| !is_dropped(run));
        self.timers.retain(|(_, run, _)| !is_dropped(run));
        self.decided.retain(|(run, _)| !is_dropped(run));
        let batch = &mut self.batch;
        batch.starts.retain(|start| !is_dropped(&start.run));
        batch.records.retain(|record| !is_dropped(&record.run));
        batch.changes.retain(|run, _| !is_dropped(run));
        batch.effects.retain(|(run, _)| !is_dropped(run));
        for (run, reply) in std::mem::take(&mut batch.started) {
            if is_dropped(&run) {
                let _ = reply.send(Err(match error {
                    Some(error) => StartError::Unknown(Arc::clone(error)),
                    None => StartError::NotOwned,
                }));
            } else {
                batch.started.push((run, reply));
            }
        }
        for (run, reply) in std::mem::take(&mut batch.intervened) {
            if is_dropped(&run) {
                let _ = reply.send(Err(VerbError::NotHere));
            } else {
                batch.intervened.push((run, reply));
            }
        }
    }
}
