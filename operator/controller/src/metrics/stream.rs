//! The configuration stream.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The configuration stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Proxies that hold a stream to this replica.
    pub connected: Gauge,
    /// Replicas that report to this one.
    pub reports: Gauge,
    /// What proxies said to documents.
    answers: Family<AnswerLabels, Counter>,
    /// What was sent.
    sent: Family<SentLabels, Counter>,
    /// Subscriptions that were refused.
    refused: Family<RefusedLabels, Counter>,
}

/// What a proxy said to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Answer {
    /// It is in use.
    Ack,
    /// It was refused.
    Nack,
}

/// What was sent to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Sent {
    /// A document.
    Document,
    /// The endpoints of a cluster.
    Endpoints,
}

/// Why a subscription was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// No token, or one that the API server does not know.
    Unauthenticated,
    /// The token is another Microservice's or another pod's.
    Denied,
    /// No greeting, or not in time.
    NoHello,
    /// Too many streams.
    Full,
    /// A report to a replica that does not lead.
    NotLeading,
    /// The API server could not be asked.
    Unavailable,
}

/// Labels of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    /// Accepted or refused.
    pub result: &'static str,
}

/// Labels of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SentLabels {
    /// What the message has.
    pub message: &'static str,
}

/// Labels of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    /// Why.
    pub reason: &'static str,
}

impl Stream {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let prefix = registry.sub_registry_with_prefix("trellis_stream");
        prefix.register(
            "connected",
            "Proxies that hold a stream to this replica",
            metrics.connected.clone(),
        );
        prefix.register(
            "reports",
            "Replicas that report to this one what their proxies said",
            metrics.reports.clone(),
        );
        prefix.register(
            "answers",
            "Answers of proxies to documents",
            metrics.answers.clone(),
        );
        prefix.register("sent", "Messages sent to proxies", metrics.sent.clone());
        prefix.register("refused", "Subscriptions refused", metrics.refused.clone());
        metrics
    }

    /// Counts an answer to a document.
    pub fn answered(&self, result: Answer) {
        self.answers
            .get_or_create(&AnswerLabels {
                result: result.into(),
            })
            .inc();
    }

    /// Counts a message.
    pub fn sent(&self, message: Sent) {
        self.sent
            .get_or_create(&SentLabels {
                message: message.into(),
            })
            .inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Refusal) {
        self.refused
            .get_or_create(&RefusedLabels {
                reason: reason.into(),
            })
            .inc();
    }
}
