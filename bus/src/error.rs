//! What can go wrong on the log.

use deltabus_record::change::Revision;
use deltabus_record::schema::SourceName;

use crate::broker::{AppendError, BrokerError};

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Storing a message.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A message that can't be understood.
    #[error("{what} on the bus can't be understood: {problem}")]
    Wire {
        /// What kind of message.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A message of a later version of the protocol.
    #[error("{what} on the bus was made by a newer deltabus (protocol {version}); update this one")]
    Newer {
        /// What kind of message.
        what: &'static str,
        /// Its version.
        version: u32,
    },
    /// Another transmitter has taken over.
    #[error("another transmitter ({by}) has taken over `{source_name}`")]
    Fenced {
        /// The source.
        source_name: SourceName,
        /// Who.
        by: String,
    },
    /// Somebody wrote to the log who has not claimed it.
    #[error(
        "somebody wrote to the log of `{source_name}` who is not its transmitter; it is claimed anew. See who may publish to \
         deltabus.{source_name}.changes"
    )]
    Disturbed {
        /// The source.
        source_name: SourceName,
    },
    /// The log doesn't have what it acknowledged.
    #[error("the log of `{source_name}` lost its end: it has message {last}, but {wanted} was acknowledged")]
    LogLost {
        /// The source.
        source_name: SourceName,
        /// The last sequence it has.
        last: u64,
        /// The last sequence it acknowledged.
        wanted: u64,
    },
    /// A change set that no reader would take.
    #[error("a change set of {bytes} bytes is more than the limit of {bytes_max}; change the source in smaller steps")]
    SetTooLarge {
        /// How large it is, encoded.
        bytes: u64,
        /// How large it may be.
        bytes_max: u64,
    },
    /// There is no snapshot.
    #[error("there is no snapshot of `{0}` yet")]
    NoSnapshot(SourceName),
    /// A snapshot is not whole: it was overwritten while it was read, or the broker lost a part.
    #[error("part {part} of the snapshot at revision {revision} is missing; start over")]
    SnapshotGone {
        /// Which snapshot.
        revision: Revision,
        /// Which part.
        part: u32,
    },
    /// A part of a snapshot is not what was written.
    #[error(
        "part {part} of the snapshot at revision {revision} is damaged: {problem}; `deltabus snapshot` writes another"
    )]
    SnapshotDamaged {
        /// Which snapshot.
        revision: Revision,
        /// Which part.
        part: u32,
        /// What is wrong.
        problem: String,
    },
    /// A large value is not whole.
    #[error("a large value ({hash}) is missing from the bus")]
    ChunkMissing {
        /// Its BLAKE3, hexadecimal.
        hash: String,
    },
    /// A large value can't be read where it is to be taken from.
    #[error("the content {hash} can't be read")]
    Content {
        /// Its BLAKE3, hexadecimal.
        hash: String,
        /// Why.
        source: std::io::Error,
    },
    /// A large value was changed while it was taken.
    #[error("the content {hash} was changed while it was being read")]
    ContentChanged {
        /// Its BLAKE3, hexadecimal.
        hash: String,
    },
    /// The local bus.
    #[error("the local bus: {0}")]
    Local(String),
}

impl Error {
    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Broker(error) | Error::Append(AppendError::Broker(error)) => error.is_transient(),
            Error::Append(AppendError::Unknown)
            | Error::SnapshotGone { .. }
            | Error::SnapshotDamaged { .. }
            | Error::ContentChanged { .. } => true,
            _ => false,
        }
    }
}

/// Whether an error comes from a content that the bus doesn't have.
pub fn misses_content(error: &(dyn std::error::Error + 'static)) -> bool {
    if matches!(error.downcast_ref(), Some(Error::ChunkMissing { .. })) {
        return true;
    }
    // What is inside an error of input and output is not its source: that is the inner one's.
    let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let inside = inside.is_some_and(|inside| misses_content(inside));
    inside || error.source().is_some_and(misses_content)
}

/// An error with all its causes in one line; what an error says of its cause already isn't said twice.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
