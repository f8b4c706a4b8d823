//! Whose turn it is: of a saga with `concurrency` no more runs are under way than that, over all replicas.
//!
//! ```text
//! start --queued--> store: waits --Store::admit--> store: its turn --Admitted--> it begins
//!                                  ^ one at a time for each saga: counts those under way, takes the oldest that wait
//! ```
//!
//! **What it guarantees.** The store counts and admits in one transaction that no other of the saga runs beside, and a run counts from
//! then to its end: there are never more than the number that the admitting replica knows. The oldest begins first, whichever replica
//! has it; if it is nobody's at the moment, its place stays free until somebody takes it over. Runs that are stuck have not ended, and
//! count. With a smaller number those that have begun go on.
//!
//! **What it costs.** A saga with `concurrency` has two transactions more before a run begins. Whoever has runs that wait looks every
//! [`LOOK`], and whenever one of the saga ends here.

use std::{sync::Arc, time::Duration};

use tokio::time;
use trellis_saga_core::event::Event;

use crate::{
    definitions::Compiled,
    engine::{Engine, warn},
    shard::Message,
    store::{Claim, Error, Store},
};

/// Between looks of a replica that has runs that wait: one may have ended elsewhere.
const LOOK: Duration = Duration::from_millis(200);
/// Until the store is asked again that could not be.
const AGAIN: Duration = Duration::from_secs(1);

impl<S: Store> Engine<S> {
    /// Lets runs begin whose turn has come.
    pub(crate) async fn turns(&self) {
        loop {
            if self.room.waiting().is_empty() {
                self.room.turns.notified().await;
            } else {
                // Either is a reason to look.
                let _ = time::timeout(LOOK, self.room.turns.notified()).await;
            }
            for waiting in self.room.waiting() {
                if let Err(error) = self.take_turns(&waiting).await {
                    warn(&error, "failed to ask whose turn it is");
                    time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn take_turns(&self, waiting: &Arc<Compiled>) -> Result<(), Error> {
        let (namespace, saga) = (waiting.namespace(), waiting.saga());
        // Of a saga that is gone the rest goes on as it was meant.
        let current = self.definitions.current(namespace, saga);
        let most = current.as_ref().unwrap_or(waiting).program.definition.concurrency;
        let owned = self.owned.0.lock().clone();
        let claims: Vec<Claim> = owned
            .into_iter()
            .map(|(partition, epoch)| Claim { partition, epoch })
            .collect();
        for run in self.store.admit(namespace, saga, most, &claims).await? {
            self.tell(run.partition(), Message::Happened(run, Event::Admitted));
        }
        Ok(())
    }
}
