//! Kubernetes Events: what `kubectl describe` shows of the misfortunes of Microservices and Sagas.
//!
//! Of a Microservice one Event when `Ready` turns to another reason that is a fault, none at rest and none for progress. A pass never
//! waits for them: they go through a bounded queue to one task, and are dropped and counted when it is full.

use std::{str::FromStr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time};
use trellis_api::{
    Microservice, MicroserviceStatus,
    condition::{ConditionType, Reason},
};

use crate::{error::chain, metrics::Metrics};

/// Most Events that wait.
const QUEUE: usize = 256;
/// Longest wait for the API server.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest text of an Event (the API server refuses more than 1024 bytes).
const LONGEST_NOTE: usize = 1000;

/// Where Events go.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<(ObjectReference, Event)>,
    metrics: Metrics,
}

/// The task that writes Events.
pub struct Writer {
    receiver: mpsc::Receiver<(ObjectReference, Event)>,
    recorder: Recorder,
}

impl Events {
    /// The two ends: where Events go, and what writes them in the name of `instance`.
    pub fn new(client: Client, instance: String, metrics: Metrics) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            controller: "trellis-operator".to_owned(),
            instance: Some(instance),
        };
        let recorder = Recorder::new(client, reporter);
        (Self { sender, metrics }, Writer { receiver, recorder })
    }

    /// Tells of a status that was just written, if it has bad news.
    pub fn status_changed(&self, cr: &Arc<Microservice>, status: &MicroserviceStatus) {
        let Some(event) = news(cr.status.as_ref(), status) else {
            return;
        };
        self.tell(cr.object_ref(&()), event);
    }

    /// Tells of something that somebody has to see to. The reason is of an enum.
    pub fn warn(&self, about: ObjectReference, reason: &str, message: &str) {
        self.tell(about, warning(reason, message));
    }

    fn tell(&self, about: ObjectReference, event: Event) {
        if self.sender.try_send((about, event)).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

impl Writer {
    /// Writes Events until nobody sends any more.
    pub async fn run(mut self) {
        while let Some((about, event)) = self.receiver.recv().await {
            let written = self.recorder.publish(&event, &about);
            match time::timeout(REQUEST, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = chain(&error), "failed to write an event"),
                Err(_) => tracing::debug!("failed to write an event: no answer in time"),
            }
        }
    }
}

/// The Event that a change of status is worth.
fn news(before: Option<&MicroserviceStatus>, after: &MicroserviceStatus) -> Option<Event> {
    let (reason, message) = ready(after)?;
    let fault = Reason::from_str(reason).is_ok_and(is_fault);
    let was = before.and_then(ready).map(|(reason, _)| reason);
    (fault && was != Some(reason)).then(|| warning(reason, message))
}

fn warning(reason: &str, message: &str) -> Event {
    Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(shorten(message)),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

fn ready(status: &MicroserviceStatus) -> Option<(&str, &str)> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == ConditionType::Ready.as_ref())
        .map(|condition| (&*condition.reason, &*condition.message))
}

const fn is_fault(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Available
            | Reason::ScaledToZero
            | Reason::Pending
            | Reason::Progressing
            | Reason::Reconciled
            | Reason::NotApplicable
    )
}

fn shorten(message: &str) -> String {
    if message.len() <= LONGEST_NOTE {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(LONGEST_NOTE);
    format!("{}...", &message[..end])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(reason: Reason) -> MicroserviceStatus {
        serde_json::from_value(json!({"conditions": [{
            "type": "Ready", "status": "False", "reason": reason.as_ref(), "message": "why",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}))
        .unwrap()
    }

    #[test]
    fn a_new_fault_is_told_once() {
        let failing = status(Reason::ImagePullFailed);
        let event = news(Some(&status(Reason::Progressing)), &failing).unwrap();
        assert_eq!(event.reason, "ImagePullFailed");
        assert!(news(Some(&failing), &failing).is_none());
        assert!(news(Some(&failing), &status(Reason::Progressing)).is_none());
        assert!(news(None, &status(Reason::Available)).is_none());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let note = shorten(&"ä".repeat(900));
        assert!(note.len() <= LONGEST_NOTE + 3 && note.ends_with("ä..."));
    }
}
