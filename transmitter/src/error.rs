//! What can go wrong while transmitting.

use deltabus_record::change::ConflictId;
use deltabus_record::diff::DiffError;
use deltabus_record::schema::{CollectionName, SourceName};
use deltabus_state::{ApplyError, IndexDamaged};

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source.
    #[error(transparent)]
    Interface(#[from] deltabus_interfaces::Error),
    /// The state store.
    #[error(transparent)]
    State(#[from] deltabus_state::Error),
    /// The log.
    #[error(transparent)]
    Bus(#[from] deltabus_bus::Error),
    /// Two records of the source have one key.
    #[error("{place}: the key {key} occurs twice{}", other.as_ref().map(|other| format!(", also in {other}")).unwrap_or_default())]
    DuplicateKey {
        /// The source and the record in it.
        place: String,
        /// The key.
        key: String,
        /// The other record.
        other: Option<String>,
    },
    /// The scan index can't be used.
    #[error(transparent)]
    Index(#[from] IndexDamaged),
    /// A set of the log doesn't fit the state.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A set of the log leads to another state than it says.
    #[error(
        "the set of the log that leads to revision {revision} of `{source_name}` leads to another state than it says"
    )]
    Digest {
        /// The source.
        source_name: SourceName,
        /// The revision.
        revision: u64,
    },
    /// The key of a collection was changed.
    #[error(
        "the key of `{collection}` was {}, and is now {}; publish it under another source name",
        named(before),
        named(now)
    )]
    KeyChanged {
        /// The collection.
        collection: CollectionName,
        /// The key's fields before, empty for the whole row.
        before: String,
        /// The key's fields now.
        now: String,
    },
    /// Another transmitter of this source is at work.
    #[error("`{source_name}` is being transmitted already by {by}; stop that one first")]
    Active {
        /// The source.
        source_name: SourceName,
        /// Who says so.
        by: String,
    },
    /// Something in the state store has another shape than it must have.
    #[error("the state's entry `{0}` can't be understood; move the state directory away, it is rebuilt from the log")]
    Ledger(&'static str),
    /// There is nothing of that name to decide.
    #[error(
        "the log of `{source_name}` has no conflict and no refused edit {id}, or no longer; `deltabus conflicts {source_name}` and \
         `deltabus dead-letters {source_name}` list what it has"
    )]
    NoCase {
        /// The source.
        source_name: SourceName,
        /// What was asked for.
        id: ConflictId,
    },
    /// It is decided about otherwise.
    #[error("{id} is {}", if *refused {
        format!("an edit that was refused: `deltabus dead-letters {source_name} retry {id}`, or `drop`")
    } else {
        format!("a conflict: `deltabus conflicts {source_name} resolve {id} --take source`, or `edit`")
    })]
    OtherCase {
        /// The source.
        source_name: SourceName,
        /// What was asked for.
        id: ConflictId,
        /// It is a refused edit; else a conflict.
        refused: bool,
    },
    /// The source is not what the decision was about.
    #[error(
        "conflict {id} stays open: the source has changed again since, {what} is {now} now. Change the source itself, or let it \
         stand by `deltabus conflicts {source_name} resolve {id} --take source`"
    )]
    MovedOn {
        /// The source.
        source_name: SourceName,
        /// The conflict.
        id: ConflictId,
        /// The field, or the record.
        what: String,
        /// What it is now.
        now: String,
    },
    /// Nothing can be written to a source of which a delete is held back.
    #[error(
        "`{source_name}`: held back: {held}; `deltabus confirm {source_name}` lets it go, putting the source right forgets it"
    )]
    Held {
        /// The source.
        source_name: SourceName,
        /// What is held.
        held: String,
    },
    /// Nothing is held.
    #[error("no delete of `{0}` is held back: there is nothing to confirm")]
    NothingHeld(SourceName),
}

fn named(key: &str) -> String {
    if key.is_empty() { "the whole row".into() } else { format!("`{key}`") }
}

impl Error {
    /// Whether the transmitter can go on and try again: when the source changes, the bus comes back, or some time passes.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Interface(_) | Error::DuplicateKey { .. } | Error::Index(_) => true,
            // What can't be understood may be replaced by what can.
            Error::Bus(deltabus_bus::Error::Wire { .. }) => true,
            Error::Bus(error) => error.is_transient() || lost(error),
            Error::Digest { .. } | Error::State(_) | Error::Apply(_) | Error::KeyChanged { .. } => false,
            Error::NoCase { .. } | Error::OtherCase { .. } | Error::MovedOn { .. } | Error::Held { .. } => true,
            Error::Active { .. } | Error::Ledger(_) | Error::NothingHeld(_) => false,
        }
    }
}

impl Error {
    /// Whether another transmitter is the active one now.
    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self, Error::Active { .. } | Error::Bus(deltabus_bus::Error::Fenced { .. }))
    }

    /// Whether the log is not what it was: it has to be claimed again.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Error::Bus(error) => lost(error),
            Error::Interface(deltabus_interfaces::Error::Records(error)) => {
                error.downcast_ref::<deltabus_bus::Error>().is_some_and(lost)
            }
            _ => false,
        }
    }

    /// Whether it may pass by itself, with nothing changed at the source.
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Error::Bus(_) => true,
            Error::Interface(error) => error.is_transient() || matches!(error, deltabus_interfaces::Error::Records(_)),
            _ => false,
        }
    }
}

/// The broker lost the log, or its end, or somebody else wrote there.
fn lost(error: &deltabus_bus::Error) -> bool {
    use deltabus_bus::Error as BusError;
    use deltabus_bus::broker::{AppendError, BrokerError};
    let no_source = |error: &BrokerError| matches!(error, BrokerError::NoSource { .. });
    match error {
        BusError::LogLost { .. } | BusError::Disturbed { .. } => true,
        BusError::Broker(error) | BusError::Append(AppendError::Broker(error)) => no_source(error),
        _ => false,
    }
}

impl From<DiffError<Error>> for Error {
    fn from(error: DiffError<Error>) -> Error {
        match error {
            DiffError::Store(error) => error,
            DiffError::DuplicateKey { key, place, other } => Error::DuplicateKey { place, key, other },
        }
    }
}
