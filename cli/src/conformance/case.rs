//! The cases: what is sent in which order, and what was seen of it.

use serde::Serialize;

use super::{
    answer::{Answer, Reading},
    state::State,
};

/// What a participant is put through. Each has a run of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    Action,
    DuplicateAction,
    LaterAttempt,
    EarlierAttempt,
    ConcurrentActions,
    Compensation,
    DuplicateCompensation,
    ConcurrentCompensations,
    NullCompensation,
    HangingAction,
    LateAction,
    IncarnationAfterNull,
    IncarnationAfterCompensation,
    PartialHeaders,
}

/// The way of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Forward.
    Action,
    /// Back.
    Compensation,
}

/// A call, sent once or as several copies at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Play {
    /// The way.
    pub op: Op,
    /// How often an operator had the step done anew.
    pub incarnation: u32,
    /// Number of the try.
    pub attempt: u32,
    /// Of the engine's replica.
    pub epoch: u64,
    /// Whether several copies come at once.
    pub many: bool,
    /// Whether most of the engine's headers are missing.
    pub partial: bool,
}

/// What came of a [`Play`].
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// One for each copy.
    pub answers: Vec<Answer>,
    /// The state after them; none if none is looked at.
    pub state: Option<State>,
}

/// What was seen in a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The case.
    pub case: Case,
    /// Id of its run.
    pub run: String,
    /// The state before anything was sent.
    pub before: Option<State>,
    /// For each play of the script what came of it; fewer if the time was over.
    pub played: Vec<Played>,
}

const ACTION: Play = Play {
    op: Op::Action,
    incarnation: 0,
    attempt: 1,
    epoch: 1,
    many: false,
    partial: false,
};
const COMPENSATION: Play = Play {
    op: Op::Compensation,
    ..ACTION
};

impl Case {
    /// All, in the order in which they are played.
    pub const ALL: [Self; 14] = [
        Self::Action,
        Self::DuplicateAction,
        Self::LaterAttempt,
        Self::EarlierAttempt,
        Self::ConcurrentActions,
        Self::Compensation,
        Self::DuplicateCompensation,
        Self::ConcurrentCompensations,
        Self::NullCompensation,
        Self::HangingAction,
        Self::LateAction,
        Self::IncarnationAfterNull,
        Self::IncarnationAfterCompensation,
        Self::PartialHeaders,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::DuplicateAction => "duplicate action",
            Self::LaterAttempt => "action again, later attempt and epoch",
            Self::EarlierAttempt => "action again, earlier attempt and epoch",
            Self::ConcurrentActions => "copies of the action at once",
            Self::Compensation => "compensation",
            Self::DuplicateCompensation => "duplicate compensation",
            Self::ConcurrentCompensations => "copies of the compensation at once",
            Self::NullCompensation => "null compensation",
            Self::HangingAction => "hanging action",
            Self::LateAction => "late copy of a compensated action",
            Self::IncarnationAfterNull => "new incarnation, nothing done before",
            Self::IncarnationAfterCompensation => "new incarnation of a compensated action",
            Self::PartialHeaders => "some of the engine's headers missing",
        }
    }

    /// What is sent, one after another.
    pub fn script(self) -> Vec<Play> {
        let anew = |play: Play| Play {
            incarnation: 1,
            ..play
        };
        let later = Play {
            attempt: 2,
            epoch: 2,
            ..ACTION
        };
        let many = |play: Play| Play { many: true, ..play };
        let partial = Play {
            partial: true,
            ..ACTION
        };
        match self {
            Self::Action => vec![ACTION],
            Self::DuplicateAction => vec![ACTION, ACTION],
            Self::LaterAttempt => vec![ACTION, later],
            Self::EarlierAttempt => vec![later, ACTION],
            Self::ConcurrentActions => vec![many(ACTION)],
            Self::Compensation => vec![ACTION, COMPENSATION],
            Self::DuplicateCompensation => vec![ACTION, COMPENSATION, COMPENSATION],
            Self::ConcurrentCompensations => vec![ACTION, many(COMPENSATION)],
            Self::NullCompensation => vec![COMPENSATION],
            Self::HangingAction => vec![COMPENSATION, ACTION],
            Self::LateAction => vec![ACTION, COMPENSATION, ACTION],
            Self::IncarnationAfterNull => vec![COMPENSATION, anew(ACTION), anew(COMPENSATION)],
            Self::IncarnationAfterCompensation => {
                vec![ACTION, COMPENSATION, anew(ACTION), anew(COMPENSATION)]
            }
            Self::PartialHeaders => vec![partial, partial],
        }
    }

    /// Whether it can be played without a compensation.
    pub fn is_of_actions_alone(self) -> bool {
        self.script().iter().all(|play| play.op == Op::Action)
    }
}

impl Op {
    /// As the engine writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Compensation => "compensation",
        }
    }
}

impl Observation {
    /// The states in their order; none if none is looked at.
    pub fn states(&self) -> Option<Vec<&State>> {
        let before = self.before.iter();
        let states: Vec<_> = before
            .chain(self.played.iter().filter_map(|played| played.state.as_ref()))
            .collect();
        (states.len() == self.played.len() + 1).then_some(states)
    }

    /// The call that sends back what the case has left behind, if it has: the last thing that was done of an incarnation is an
    /// action. Nothing is sent back on suspicion: a participant that takes back twice would then have too much.
    pub fn leftovers(&self) -> Vec<Play> {
        let sent: Vec<_> = self.case.script().into_iter().zip(&self.played).collect();
        let states = self.states();
        let mut left = Vec::new();
        for incarnation in [0, 1] {
            let of = |(_, (play, _)): &(usize, &(Play, &Played))| play.incarnation == incarnation;
            let Some((place, (play, played))) = sent.iter().enumerate().rfind(of) else {
                continue;
            };
            let is_done = played
                .answers
                .iter()
                .any(|answer| answer.reading != Reading::Refused);
            let was_taken_back = sent[..place]
                .iter()
                .any(|(other, _)| other.op == Op::Compensation && other.incarnation == incarnation);
            let has_effect = match &states {
                Some(states) => states[0] != states[place + 1],
                None => !was_taken_back,
            };
            if play.op == Op::Action && is_done && has_effect {
                left.push(Play {
                    op: Op::Compensation,
                    many: false,
                    ..*play
                });
            }
        }
        left
    }
}
