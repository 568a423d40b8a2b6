//! What can go wrong while receiving.

use deltabus_bus::broker::BrokerError;
use deltabus_interfaces::Refusal;
use deltabus_record::diff::DiffError;
use deltabus_record::mapping::MappingError;
use deltabus_record::schema::{CollectionName, SourceName};
use deltabus_state::{ApplyError, IndexDamaged};

use crate::filter::FilterError;

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The destination.
    #[error(transparent)]
    Interface(#[from] deltabus_interfaces::Error),
    /// The state store.
    #[error(transparent)]
    State(#[from] deltabus_state::Error),
    /// The log.
    #[error(transparent)]
    Bus(#[from] deltabus_bus::Error),
    /// Renamed and omitted fields.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The predicate over rows.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The scan index can't be used.
    #[error(transparent)]
    Index(#[from] IndexDamaged),
    /// A set of the log doesn't fit the base.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Two records of the destination have one key.
    #[error("{place}: the key {key} occurs twice{}", other.as_ref().map(|other| format!(", also in {other}")).unwrap_or_default())]
    DuplicateKey {
        /// The destination and the record in it.
        place: String,
        /// The key.
        key: String,
        /// The other record.
        other: Option<String>,
    },
    /// The destination can't hold a value.
    #[error("`{collection}`, field `{field}`: {refusal}")]
    Refused {
        /// The collection.
        collection: CollectionName,
        /// The field.
        field: String,
        /// Why.
        refusal: Refusal,
    },
    /// Several collections for a store of one.
    #[error(
        "{place} holds one collection, but `{source_name}` has {}; receive it into a store of several (sqlite:…)",
        collections.join(", ")
    )]
    OneCollection {
        /// The destination.
        place: String,
        /// The source.
        source_name: SourceName,
        /// Its collections.
        collections: Vec<String>,
    },
    /// Joining would wipe what is there.
    #[error(
        "{place} holds {deletes} of {records} records that `{source_name}` doesn't have; they would be deleted. Move it away, or \
         make it equal once with `deltabus copy`"
    )]
    WouldWipe {
        /// The destination.
        place: String,
        /// The source.
        source_name: SourceName,
        /// How many records would go.
        deletes: u64,
        /// How many there are.
        records: u64,
    },
    /// Too many records were deleted at the destination to send that back.
    #[error(
        "{place} lost {deletes} of {records} records; that is not sent back to `{source_name}`. Put them back, or delete the \
         file to have it made anew"
    )]
    MassDelete {
        /// The destination.
        place: String,
        /// The source.
        source_name: SourceName,
        /// How many records are gone.
        deletes: u64,
        /// How many there were.
        records: u64,
    },
    /// What the snapshot and the log say doesn't agree with the digest.
    #[error(
        "the records of `{source_name}` don't have the digest of revision {revision}; the snapshot is loaded again"
    )]
    Digest {
        /// The source.
        source_name: SourceName,
        /// The revision.
        revision: u64,
    },
    /// The log has lost what comes after the snapshot.
    #[error(
        "the log of `{source_name}` doesn't lead on from its snapshot at revision {revision}: {reason}; waiting for a newer one"
    )]
    Behind {
        /// The source.
        source_name: SourceName,
        /// The snapshot's revision.
        revision: u64,
        /// What the log says.
        reason: String,
    },
    /// Snapshot and log don't lead to a revision.
    #[error(
        "snapshot and log of `{source_name}` don't lead to revision {revision} any more; `deltabus log {source_name}` lists what \
         is retained"
    )]
    Unreachable {
        /// The source.
        source_name: SourceName,
        /// The revision's number.
        revision: u64,
    },
    /// The destination refuses more than single changes.
    #[error("the destination refuses more than {} changes, the last because: {reason}", crate::dead::DEAD_LETTERS_MAX)]
    TooManyDeadLetters {
        /// What it said last.
        reason: String,
    },
    /// A running receiver would have to stand still for too long to plan.
    #[error(
        "{records} records are more than the {most} that are planned while a receiver runs; stop it, and `deltabus plan` can"
    )]
    TooManyToPlan {
        /// How many it has.
        records: u64,
        /// How many it may have.
        most: u64,
    },
    /// The copy of the source can't tell what was edited.
    #[error(
        "the copy of `{source_name}` that was received isn't what the log says, so that edits made at {place} can't be told from \
         damage; discard them, or move the receiver's state away"
    )]
    Unproven {
        /// The destination.
        place: String,
        /// The source.
        source_name: SourceName,
    },
    /// Something in the state store has another shape than it must have.
    #[error("the state's entry `{0}` can't be understood; move the receiver's state away, it joins again")]
    Ledger(&'static str),
}

impl Error {
    /// Whether the bus lacks the content of a large value.
    pub(crate) fn is_missing_content(&self) -> bool {
        deltabus_bus::misses_content(self)
    }

    /// Whether the receiver can go on and try again: when the destination changes, the bus comes back, or some time passes.
    pub fn is_passing(&self) -> bool {
        match self {
            // A source that isn't published yet may be any moment.
            Error::Bus(
                deltabus_bus::Error::NoSnapshot(_) | deltabus_bus::Error::Broker(BrokerError::NoSource { .. }),
            ) => true,
            // What can't be understood may be followed, or replaced, by what can.
            Error::Bus(deltabus_bus::Error::Wire { .. } | deltabus_bus::Error::Newer { .. }) => true,
            Error::Bus(error) => error.is_transient(),
            Error::State(_) | Error::Ledger(_) | Error::Mapping(_) | Error::OneCollection { .. } => false,
            Error::Filter(error) => matches!(error, FilterError::Evaluate(_)),
            _ => true,
        }
    }
}

impl Error {
    /// Whether nobody has to do anything for it to pass.
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Error::Bus(_) => self.is_passing(),
            Error::Interface(error) => error.is_transient(),
            _ => false,
        }
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
