//! What participants do wrong, and what mends it.

use serde::Serialize;

/// A fault of a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bug {
    /// The first action is not done, so nothing can be told.
    ActionNotDone,
    /// An action is answered as done, and nothing is.
    ActionWithoutEffect,
    /// Not idempotent: a duplicate takes effect again.
    DuplicateEffect,
    /// A duplicate gets another answer.
    DuplicateAnswer,
    /// Check and effect of an action are not atomic.
    ConcurrentActions,
    /// What tells calls apart has the attempt or the epoch in it.
    AttemptInKey,
    /// A compensation is refused for good.
    CompensationRefused,
    /// A compensation is answered as done, and the effect stays.
    NotCompensated,
    /// A compensation takes back something else than was done.
    CompensationIncomplete,
    /// The second compensation is refused for good.
    DuplicateCompensationRefused,
    /// A duplicate of a compensation takes back again.
    DuplicateCompensation,
    /// Check and effect of a compensation are not atomic.
    ConcurrentCompensations,
    /// No null compensation: it is refused if there is nothing to take back.
    NullCompensationRefused,
    /// A null compensation takes away what was never given.
    NullCompensationEffect,
    /// Hanging: an action that comes after its compensation is done.
    HangingAction,
    /// An action that comes after its compensation is not refused for good.
    HangingActionNotFinal,
    /// A late copy does again what was taken back.
    LateAction,
    /// What tells calls apart lacks the incarnation.
    IncarnationIgnored,
    /// Requests with some of the headers are done, as often as they come.
    UnguardedHeaders,
}

impl Bug {
    /// What mends it.
    pub const fn fix(self) -> &'static str {
        match self {
            Self::ActionNotDone => {
                "name a request that the participant takes: body, headers, a resource of which there is enough"
            }
            Self::ActionWithoutEffect => {
                "do the work before the answer, or with 202 and Location; or name a --state that shows it"
            }
            Self::DuplicateEffect => {
                "let the handler do its work in Barrier::run (crates/saga-participant), in the transaction of the effect"
            }
            Self::DuplicateAnswer => {
                "store status and body with the effect and give them again, as Barrier::run (crates/saga-participant) does"
            }
            Self::ConcurrentActions | Self::ConcurrentCompensations => {
                "insert the key and take effect in one transaction: a copy then waits for the first and gets its answer, as with Barrier::run (crates/saga-participant); or answer 425 or 503 meanwhile, never 409"
            }
            Self::AttemptInKey => {
                "tell calls apart by run, step, index, op and incarnation alone, or by Idempotency-Key, as Branch and Barrier (crates/saga-participant) do"
            }
            Self::CompensationRefused => {
                "let it succeed whatever has become of the action: what cannot be taken back belongs behind the pivot"
            }
            Self::NotCompensated => "take the effect back in the transaction in which the answer is stored",
            Self::CompensationIncomplete => {
                "take back what the action did, no less and no more; if only a record of it stays, such as a status, say --keeps-record"
            }
            Self::DuplicateCompensationRefused | Self::DuplicateCompensation => {
                "let the compensation do its work in Barrier::run (crates/saga-participant): a duplicate gets the stored answer"
            }
            Self::NullCompensationRefused | Self::NullCompensationEffect => {
                "answer 2xx without touching anything and remember it, as Barrier::run (crates/saga-participant) does"
            }
            Self::HangingAction | Self::HangingActionNotFinal => {
                "remember compensations that came first and refuse their actions with 409, as Barrier::run (crates/saga-participant) does"
            }
            Self::LateAction => {
                "keep the record of the action when it is taken back, and answer from it, as Barrier::run (crates/saga-participant) does"
            }
            Self::IncarnationIgnored => {
                "put trellis-saga-incarnation into what tells calls apart, as Branch and Barrier (crates/saga-participant) do"
            }
            Self::UnguardedHeaders => {
                "refuse requests that have some trellis-saga-* headers but not all, with 400, as the extractor Branch (crates/saga-participant) does"
            }
        }
    }
}
