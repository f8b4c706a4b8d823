//! A run as it changes: read anew from the store every 200 ms while there is news, and up to every second while there is none, whichever
//! replica looks after it.
//!
//! Nothing is kept for a reader who is slow: they get the run as it is when they ask for more. It ends with the run; and for somebody
//! else to go on with when this replica leaves, or after an hour.

use std::time::{Duration, Instant};

use futures::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time;
use trellis_chassis::readiness::Readiness;
use trellis_saga_engine::engine::View;
use trellis_saga_engine::id::RunId;

use crate::error::Error;
use crate::runs::{LOOK, Runs};

/// Runs that are followed at once.
pub const MOST_FOLLOWED: usize = 512;
/// Longest pause between looks.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// Longest time that a run is followed at a stretch.
const STRETCH: Duration = Duration::from_secs(60 * 60);

/// A run that is followed.
pub struct Following {
    runs: Runs,
    readiness: Readiness,
    view: Option<View>,
    run: RunId,
    known: u64,
    pause: Duration,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Following {
    /// Begins with `view`, unless it has as many records as are known.
    pub fn new(
        runs: Runs,
        readiness: Readiness,
        view: View,
        known: u64,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            runs,
            readiness,
            run: view.stored.run,
            known: known.min(view.records.len() as u64),
            view: Some(view),
            pause: LOOK,
            until: Instant::now() + STRETCH,
            _place: place,
        }
    }

    /// How many records are known, of those that there are.
    pub const fn known(&self) -> u64 {
        self.known
    }

    /// Whether nothing will come any more.
    pub fn is_over(&self) -> bool {
        let view = self.view.as_ref();
        view.is_some_and(|view| view.state.end().is_some() && view.records.len() as u64 == self.known)
    }

    /// The run whenever it has changed.
    pub fn views(self) -> impl Stream<Item = Result<View, Error>> + Send + 'static {
        stream::unfold(Some(self), |following| async move {
            let mut following = following?;
            let next = following.next().await.transpose()?;
            let is_last = match &next {
                Ok(view) => view.state.end().is_some(),
                Err(_) => true,
            };
            Some((next, (!is_last).then_some(following)))
        })
    }

    async fn next(&mut self) -> Result<Option<View>, Error> {
        loop {
            let view = match self.view.take() {
                Some(view) => view,
                None => self.runs.view(self.run).await?,
            };
            let records = view.records.len() as u64;
            if records > self.known {
                (self.known, self.pause) = (records, LOOK);
                return Ok(Some(view));
            }
            if view.state.end().is_some() {
                return Ok(None);
            }
            if self.readiness.is_draining() {
                return Err(Error::Leaving);
            }
            if Instant::now() >= self.until {
                return Err(Error::Stretch);
            }
            time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_LOOK);
        }
    }
}
