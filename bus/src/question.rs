//! What a source's transmitter may be asked over the bus, and how its answers are read.

use bytes::Bytes;
use deltabus_record::change::ConflictId;
use deltabus_record::text::is_obeyed;

use crate::lease::HOLDER_BYTES_MAX;

/// What others may ask a transmitter over the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Who are you?
    Who,
    /// The same, by one who stands by under this name.
    StandBy(String),
    /// Let the held delete go.
    Confirm,
    /// Write a snapshot now.
    Snapshot,
    /// Decide a conflict or a refused edit.
    Decide(ConflictId, Decision),
}

impl Question {
    /// As it is asked.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Question::Who => Bytes::from_static(b"who"),
            Question::StandBy(name) => Bytes::from(format!("{STAND_BY}{name}")),
            Question::Confirm => Bytes::from_static(b"confirm"),
            Question::Snapshot => Bytes::from_static(b"snapshot"),
            Question::Decide(id, decision) => Bytes::from(format!("decide {id} {}", decision.name())),
        }
    }

    /// From [`Question::to_bytes`]; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Question> {
        let text = std::str::from_utf8(bytes).ok()?;
        if let Some(name) = text.strip_prefix(STAND_BY) {
            let is_name = (1..=HOLDER_BYTES_MAX).contains(&name.len()) && !name.chars().any(is_obeyed);
            return is_name.then(|| Question::StandBy(name.to_owned()));
        }
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["who"] => Some(Question::Who),
            ["confirm"] => Some(Question::Confirm),
            ["snapshot"] => Some(Question::Snapshot),
            ["decide", id, decision] => Some(Question::Decide(id.parse().ok()?, Decision::named(decision)?)),
            _ => None,
        }
    }
}

/// How the question begins that names who stands by.
const STAND_BY: &str = "standby ";

/// How answers begin that say why something could not be done.
pub const ANSWER_FAILED: &str = "error: ";

/// The answer of a transmitter that has a question in hand already: ask again.
pub const ANSWER_BUSY: &str = "busy";

/// How answers to a decision begin that leave something open.
pub const ANSWER_OPEN: &str = "still open: ";

/// What is decided about a conflict or a refused edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Of a conflict: the source's side stands.
    TakeSource,
    /// Of a conflict: the edit becomes a change of the source.
    TakeEdit,
    /// Of a refused edit: it is tried again.
    Retry,
    /// Of a refused edit: it is forgotten.
    Drop,
}

impl Decision {
    const ALL: [Decision; 4] = [Decision::TakeSource, Decision::TakeEdit, Decision::Retry, Decision::Drop];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Decision::TakeSource => "source",
            Decision::TakeEdit => "edit",
            Decision::Retry => "retry",
            Decision::Drop => "drop",
        }
    }

    /// From its name.
    pub fn named(name: &str) -> Option<Decision> {
        Decision::ALL.into_iter().find(|decision| decision.name() == name)
    }
}
