//! The list of conditions, carried from pass to pass.

use std::time::Duration;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use trellis_api::condition::{ConditionType, Reason, status};

/// Longest text taken over from others into a message.
const FOREIGN_TEXT_MAX: usize = 512;

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    status: &'static str,
    reason: Reason,
    message: String,
}

impl Verdict {
    /// Whether a condition says this already, in status and reason.
    pub(super) fn is_said_by(&self, condition: &Condition) -> bool {
        condition.status == self.status && condition.reason == self.reason.as_ref()
    }

    /// `True`.
    pub(super) fn good(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: status::TRUE,
            reason,
            message: message.into(),
        }
    }

    /// `False`.
    pub(super) fn bad(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: status::FALSE,
            ..Self::good(reason, message)
        }
    }

    /// `Unknown`.
    pub(super) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status: status::UNKNOWN,
            ..Self::good(reason, message)
        }
    }
}

/// The conditions of a status that is being made.
#[derive(Debug)]
pub(super) struct Conditions<'a> {
    previous: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    list: Vec<(ConditionType, Condition)>,
}

impl<'a> Conditions<'a> {
    pub(super) const fn new(previous: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self {
            previous,
            generation,
            now,
            list: Vec::new(),
        }
    }

    /// Sets a condition; the time of its last transition is kept unless its status flips.
    pub(super) fn set(&mut self, type_: ConditionType, verdict: Verdict) {
        let last_transition_time = self
            .previous(type_)
            .filter(|previous| previous.status == verdict.status)
            .map_or(Time(self.now), |previous| previous.last_transition_time.clone());
        self.push(
            type_,
            Condition {
                type_: type_.as_ref().to_owned(),
                status: verdict.status.to_owned(),
                reason: verdict.reason.as_ref().to_owned(),
                message: verdict.message,
                observed_generation: self.generation,
                last_transition_time,
            },
        );
    }

    /// Sets a condition that answers another question than before: even if its status is the same, it is so from now on.
    pub(super) fn set_anew(&mut self, type_: ConditionType, verdict: Verdict) {
        self.set(type_, verdict);
        let now = Time(self.now);
        if let Some((_, condition)) = self.list.last_mut() {
            condition.last_transition_time = now;
        }
    }

    /// Leaves a condition as it was; sets it only if it was never there.
    pub(super) fn keep_or(&mut self, type_: ConditionType, verdict: Verdict) {
        match self.previous(type_).cloned() {
            Some(previous) => self.push(type_, previous),
            None => self.set(type_, verdict),
        }
    }

    /// Leaves a condition as it was, if it was there.
    pub(super) fn keep(&mut self, type_: ConditionType) {
        if let Some(previous) = self.previous(type_).cloned() {
            self.push(type_, previous);
        }
    }

    /// Says again what a condition said, now of this generation too.
    pub(super) fn repeat(&mut self, previous: &Condition, type_: ConditionType) {
        let mut condition = previous.clone();
        condition.observed_generation = self.generation;
        self.push(type_, condition);
    }

    /// For how long a condition has had its status.
    pub(super) fn age(&self, condition: &Condition) -> Duration {
        let age = self.now.duration_since(condition.last_transition_time.0);
        // In the future only if the clocks differ; then it is new.
        Duration::try_from(age).unwrap_or_default()
    }

    /// Type and message of the first of `types` that is `False`.
    pub(super) fn first_failing(&self, types: &[ConditionType]) -> Option<String> {
        types.iter().find_map(|type_| {
            let (_, condition) = self.list.iter().find(|(listed, _)| listed == type_)?;
            (condition.status == status::FALSE).then(|| format!("{type_} is False: {}", condition.message))
        })
    }

    /// The list, in the order of [`ConditionType`].
    pub(super) fn into_list(mut self) -> Vec<Condition> {
        self.list.sort_by_key(|(type_, _)| *type_);
        self.list.into_iter().map(|(_, condition)| condition).collect()
    }

    fn push(&mut self, type_: ConditionType, condition: Condition) {
        self.list.retain(|(listed, _)| *listed != type_);
        self.list.push((type_, condition));
    }

    /// The condition as it was.
    pub(super) fn previous(&self, type_: ConditionType) -> Option<&'a Condition> {
        self.previous
            .iter()
            .find(|condition| condition.type_ == type_.as_ref())
    }
}

/// A text of somebody else on one line, of bounded length.
pub(super) fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= FOREIGN_TEXT_MAX {
        line
    } else {
        line.chars().take(FOREIGN_TEXT_MAX).chain(['…']).collect()
    }
}
