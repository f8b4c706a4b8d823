//! The form of a body. Numbers of fields are never used again.

use std::sync::Arc;

use crate::{
    definition::RetryCondition,
    event::{CallId, Decision, Event, Op, Outcome, Payload, Time, Timer, Verb},
};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    at: u64,
    #[prost(oneof = "Kind", tags = "3, 4, 5, 6, 7, 8, 9, 10")]
    event: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "3")]
    Started(Started),
    #[prost(message, tag = "4")]
    Decided(Decided),
    #[prost(message, tag = "5")]
    Answered(Answered),
    #[prost(message, tag = "6")]
    TryTimer(TryTimer),
    #[prost(message, tag = "7")]
    Deadline(Deadline),
    #[prost(message, tag = "8")]
    Operator(Operator),
    #[prost(message, tag = "9")]
    Queued(Started),
    #[prost(bool, tag = "10")]
    Admitted(bool),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Started {
    #[prost(string, optional, tag = "1")]
    input: Option<String>,
    #[prost(fixed64, tag = "2")]
    seed: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Decided {
    #[prost(uint32, tag = "1")]
    step: u32,
    #[prost(uint32, tag = "6")]
    incarnation: u32,
    #[prost(oneof = "DecisionKind", tags = "2, 3, 4, 5")]
    decision: Option<DecisionKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum DecisionKind {
    #[prost(bool, tag = "2")]
    Skip(bool),
    #[prost(bool, tag = "3")]
    Once(bool),
    #[prost(uint32, tag = "4")]
    Items(u32),
    #[prost(string, tag = "5")]
    Failed(String),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    #[prost(uint32, tag = "1")]
    step: u32,
    #[prost(uint32, tag = "2")]
    item: u32,
    #[prost(bool, tag = "3")]
    is_compensation: bool,
    #[prost(uint32, tag = "4")]
    incarnation: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Answered {
    #[prost(message, optional, tag = "1")]
    call: Option<Call>,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(oneof = "OutcomeKind", tags = "3, 4, 5, 6")]
    outcome: Option<OutcomeKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OutcomeKind {
    #[prost(message, tag = "3")]
    Done(Done),
    #[prost(message, tag = "4")]
    Pending(Pending),
    #[prost(string, tag = "5")]
    Failed(String),
    #[prost(message, tag = "6")]
    Retry(Retry),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {
    #[prost(string, optional, tag = "1")]
    output: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Pending {
    #[prost(string, tag = "1")]
    location: String,
    #[prost(uint64, optional, tag = "2")]
    after: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Retry {
    /// 1 unreachable, 2 timeout, 3 throttled, 4 server error.
    #[prost(uint32, tag = "1")]
    condition: u32,
    #[prost(uint64, optional, tag = "2")]
    after: Option<u64>,
    #[prost(string, tag = "3")]
    detail: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TryTimer {
    #[prost(message, optional, tag = "1")]
    call: Option<Call>,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Deadline {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Operator {
    #[prost(string, tag = "1")]
    by: String,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(oneof = "VerbKind", tags = "3, 4, 5, 6, 7")]
    verb: Option<VerbKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum VerbKind {
    #[prost(bool, tag = "3")]
    Retry(bool),
    #[prost(uint32, tag = "4")]
    RetryFrom(u32),
    #[prost(message, tag = "5")]
    Skip(Skip),
    #[prost(bool, tag = "6")]
    ForceComplete(bool),
    #[prost(bool, tag = "7")]
    Cancel(bool),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Skip {
    #[prost(message, optional, tag = "1")]
    call: Option<Call>,
    #[prost(string, optional, tag = "2")]
    output: Option<String>,
}

fn text(payload: &Payload) -> String {
    payload.0.as_ref().to_owned()
}

fn payload(text: String) -> Payload {
    Payload(text.into())
}

impl From<CallId> for Call {
    fn from(id: CallId) -> Self {
        Self {
            step: id.step,
            item: id.item,
            is_compensation: id.op == Op::Compensation,
            incarnation: id.incarnation,
        }
    }
}

impl From<Call> for CallId {
    fn from(call: Call) -> Self {
        Self {
            step: call.step,
            item: call.item,
            op: if call.is_compensation {
                Op::Compensation
            } else {
                Op::Action
            },
            incarnation: call.incarnation,
        }
    }
}

impl From<&super::Record> for Record {
    fn from(record: &super::Record) -> Self {
        let event = match &record.event {
            Event::Started { input, seed } => Kind::Started(Started {
                input: input.as_ref().map(text),
                seed: *seed,
            }),
            Event::Queued { input, seed } => Kind::Queued(Started {
                input: input.as_ref().map(text),
                seed: *seed,
            }),
            Event::Admitted => Kind::Admitted(true),
            Event::Decided {
                step,
                incarnation,
                decision,
            } => Kind::Decided(Decided {
                step: *step,
                incarnation: *incarnation,
                decision: Some(match decision {
                    Decision::Skip => DecisionKind::Skip(true),
                    Decision::Once => DecisionKind::Once(true),
                    Decision::Items(count) => DecisionKind::Items(*count),
                    Decision::Failed(detail) => DecisionKind::Failed(detail.as_ref().to_owned()),
                }),
            }),
            Event::Answered {
                call,
                attempt,
                outcome,
            } => Kind::Answered(Answered {
                call: Some((*call).into()),
                attempt: *attempt,
                outcome: Some(outcome.into()),
            }),
            Event::TimerFired(Timer::Deadline) => Kind::Deadline(Deadline {}),
            Event::TimerFired(Timer::Try { call, attempt }) => Kind::TryTimer(TryTimer {
                call: Some((*call).into()),
                attempt: *attempt,
            }),
            Event::Operator { verb, by, reason } => Kind::Operator(Operator {
                by: by.as_ref().to_owned(),
                reason: reason.as_ref().to_owned(),
                verb: Some(match verb {
                    Verb::Retry => VerbKind::Retry(true),
                    Verb::RetryFrom { step } => VerbKind::RetryFrom(*step),
                    Verb::Skip { call, output } => VerbKind::Skip(Skip {
                        call: Some((*call).into()),
                        output: output.as_ref().map(text),
                    }),
                    Verb::ForceComplete => VerbKind::ForceComplete(true),
                    Verb::Cancel => VerbKind::Cancel(true),
                }),
            }),
        };
        Self {
            sequence: record.sequence,
            at: record.at.0,
            event: Some(event),
        }
    }
}

impl From<&Outcome> for OutcomeKind {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(output) => Self::Done(Done {
                output: output.as_ref().map(text),
            }),
            Outcome::Pending { location, after } => Self::Pending(Pending {
                location: location.as_ref().to_owned(),
                after: *after,
            }),
            Outcome::Failed(detail) => Self::Failed(detail.as_ref().to_owned()),
            Outcome::Retry {
                condition,
                after,
                detail,
            } => Self::Retry(Retry {
                condition: match condition {
                    RetryCondition::Unreachable => 1,
                    RetryCondition::Timeout => 2,
                    RetryCondition::Throttled => 3,
                    RetryCondition::ServerError => 4,
                },
                after: *after,
                detail: detail.as_ref().to_owned(),
            }),
        }
    }
}

impl Record {
    /// None: something in it is of a later release.
    pub fn read(self) -> Option<super::Record> {
        let event = match self.event? {
            Kind::Started(Started { input, seed }) => Event::Started {
                input: input.map(payload),
                seed,
            },
            Kind::Queued(Started { input, seed }) => Event::Queued {
                input: input.map(payload),
                seed,
            },
            Kind::Admitted(_) => Event::Admitted,
            Kind::Decided(Decided {
                step,
                incarnation,
                decision,
            }) => Event::Decided {
                step,
                incarnation,
                decision: match decision? {
                    DecisionKind::Skip(_) => Decision::Skip,
                    DecisionKind::Once(_) => Decision::Once,
                    DecisionKind::Items(count) => Decision::Items(count),
                    DecisionKind::Failed(detail) => Decision::Failed(detail.into()),
                },
            },
            Kind::Answered(Answered {
                call,
                attempt,
                outcome,
            }) => Event::Answered {
                call: call?.into(),
                attempt,
                outcome: outcome?.read()?,
            },
            Kind::TryTimer(TryTimer { call, attempt }) => Event::TimerFired(Timer::Try {
                call: call?.into(),
                attempt,
            }),
            Kind::Deadline(Deadline {}) => Event::TimerFired(Timer::Deadline),
            Kind::Operator(Operator { by, reason, verb }) => Event::Operator {
                by: by.into(),
                reason: reason.into(),
                verb: match verb? {
                    VerbKind::Retry(_) => Verb::Retry,
                    VerbKind::RetryFrom(step) => Verb::RetryFrom { step },
                    VerbKind::Skip(Skip { call, output }) => Verb::Skip {
                        call: call?.into(),
                        output: output.map(payload),
                    },
                    VerbKind::ForceComplete(_) => Verb::ForceComplete,
                    VerbKind::Cancel(_) => Verb::Cancel,
                },
            },
        };
        Some(super::Record {
            sequence: self.sequence,
            at: Time(self.at),
            event,
        })
    }
}

impl OutcomeKind {
    fn read(self) -> Option<Outcome> {
        Some(match self {
            Self::Done(Done { output }) => Outcome::Done(output.map(payload)),
            Self::Pending(Pending { location, after }) => Outcome::Pending {
                location: Arc::from(location),
                after,
            },
            Self::Failed(detail) => Outcome::Failed(detail.into()),
            Self::Retry(Retry {
                condition,
                after,
                detail,
            }) => Outcome::Retry {
                condition: match condition {
                    1 => RetryCondition::Unreachable,
                    2 => RetryCondition::Timeout,
                    3 => RetryCondition::Throttled,
                    4 => RetryCondition::ServerError,
                    _ => return None,
                },
                after,
                detail: detail.into(),
            },
        })
    }
}
