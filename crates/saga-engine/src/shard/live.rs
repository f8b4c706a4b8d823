//! A run in memory.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;
use trellis_saga_core::{
    data,
    event::{CallId, Event, Op, Outcome, Time},
    log::{self, Record},
    run::{State, Status},
};

use crate::{
    admission::Place,
    definitions::Compiled,
    id::RunId,
    store::{NewRecord, Standing},
};

/// A run in memory.
pub(super) struct Live {
    pub(super) compiled: Arc<Compiled>,
    pub(super) state: State,
    /// Number of the next record.
    pub(super) sequence: u32,
    pub(super) id: Arc<str>,
    pub(super) started_at: Arc<str>,
    pub(super) status: Status,
    pub(super) is_queued: bool,
    pub(super) place: Place,
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

impl Live {
    pub(super) fn new(
        run: RunId,
        compiled: Arc<Compiled>,
        state: State,
        sequence: u32,
        mut place: Place,
    ) -> Self {
        place.wait(state.is_queued());
        let started_at = i64::try_from(state.started_at().0).ok();
        let started_at = started_at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        Self {
            id: run.to_string().into(),
            started_at: started_at.unwrap_or_default().to_string().into(),
            status: state.status(),
            is_queued: state.is_queued(),
            place,
            compiled,
            state,
            sequence,
            waiters: Vec::new(),
        }
    }

    pub(super) fn about(&self) -> data::Run<'_> {
        data::Run {
            id: &self.id,
            revision: &self.compiled.revision,
            started_at: &self.started_at,
        }
    }

    /// Keeps account of what an event that was taken in has changed.
    pub(super) fn keep(&mut self, event: &Event) {
        match event {
            Event::Answered {
                call: CallId { op: Op::Action, .. },
                outcome: Outcome::Done(Some(output)),
                ..
            } => self.place.keep(self.place.bytes() + output.0.len()),
            Event::Operator { .. } => self.place.keep(self.state.bytes()),
            _ => {}
        }
        self.place.wait(self.state.is_queued());
    }

    pub(super) fn standing(&self) -> Standing {
        let retention = &self.compiled.program.definition.retention;
        let end = self.state.end();
        let kept = end.map(|end| {
            if end.is_completed {
                retention.completed.0
            } else {
                retention.compensated.0
            }
        });
        let now = self.state.now();
        Standing {
            status: self.state.status(),
            is_queued: self.state.is_queued(),
            ended_at: end.map(|_| now),
            purge_at: kept.map(|kept| Time(now.0.saturating_add(kept))),
        }
    }

    pub(super) fn record(&mut self, run: RunId, at: Time, event: Event, is_of_start: bool) -> NewRecord {
        let sequence = self.sequence;
        self.sequence += 1;
        let record = Record {
            sequence: sequence.into(),
            at,
            event,
        };
        let mut bytes = Vec::new();
        log::append(&record, &mut bytes);
        NewRecord {
            run,
            sequence,
            is_of_start,
            bytes,
        }
    }
}
