//! Runs as JSON and as messages are the same. A field that is added to one of them does not compile without the other.

use super::{Call, Done, Page, Run, Why};
use crate::v1;

impl From<Page> for v1::ListResponse {
    fn from(page: Page) -> Self {
        let Page { runs, before } = page;
        Self {
            runs: runs.into_iter().map(v1::Run::from).collect(),
            before: before.unwrap_or_default(),
        }
    }
}

impl From<Run> for v1::Run {
    fn from(run: Run) -> Self {
        let Run {
            id,
            namespace,
            saga,
            revision,
            status,
            key,
            started_at,
            ended_at,
            records,
            steps,
            calls,
            causes,
            interventions,
        } = run;
        Self {
            id,
            namespace,
            saga,
            revision,
            status,
            key: key.unwrap_or_default(),
            started_at,
            ended_at: ended_at.unwrap_or_default(),
            records,
            steps,
            calls: calls.into_iter().map(v1::Call::from).collect(),
            causes: causes.into_iter().map(v1::Cause::from).collect(),
            interventions: interventions.into_iter().map(v1::Intervention::from).collect(),
        }
    }
}

impl From<Call> for v1::Call {
    fn from(call: Call) -> Self {
        let Call {
            step,
            index,
            op,
            attempts,
            state,
            began_at,
            took_ms,
            detail,
        } = call;
        Self {
            step,
            index,
            op,
            attempts,
            state,
            began_at,
            took_ms,
            detail: detail.unwrap_or_default(),
        }
    }
}

impl From<Why> for v1::Cause {
    fn from(why: Why) -> Self {
        let Why {
            at,
            what,
            step,
            op,
            attempts,
            detail,
        } = why;
        Self {
            at,
            what,
            step: step.unwrap_or_default(),
            op: op.unwrap_or_default(),
            attempts,
            detail,
        }
    }
}

impl From<Done> for v1::Intervention {
    fn from(done: Done) -> Self {
        let Done {
            at,
            verb,
            step,
            by,
            reason,
        } = done;
        Self {
            at,
            verb,
            step: step.unwrap_or_default(),
            by,
            reason,
        }
    }
}
