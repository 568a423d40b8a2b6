//! What can go wrong with a store.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::Refusal;

/// Where in a store something stands.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// The file, table or URL.
    pub place: String,
    /// Line, counted from 1.
    pub line: Option<u64>,
    /// Column in characters, counted from 1.
    pub column: Option<u64>,
    /// Record, counted from 1, where there are no lines.
    pub record: Option<u64>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if let Some(record) = self.record {
            write!(f, ", record {record}")?;
        }
        Ok(())
    }
}

/// What went wrong, with what, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The location can't be understood.
    #[error("location `{location}`: {problem}")]
    Location {
        /// As given.
        location: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// Nothing is there.
    #[error("{place} does not exist")]
    Missing {
        /// The file or table.
        place: String,
    },
    /// A file was to be made in a folder that isn't there.
    #[error("the folder {} does not exist; make it first (mkdir -p)", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The data is broken.
    #[error("{position}: {problem}")]
    Data {
        /// Where.
        position: Position,
        /// What is wrong.
        problem: String,
    },
    /// Two records have one key.
    #[error("{position}: the key {key} is also that of {other}")]
    DuplicateKey {
        /// Where the second stands.
        position: Position,
        /// The key, readable.
        key: String,
        /// Where the first stands, as far as known.
        other: String,
    },
    /// Somebody else wrote the store meanwhile; read it again.
    #[error("{place} was changed by another program while it was being used")]
    Changed {
        /// The file or database.
        place: String,
    },
    /// A record can't be written.
    #[error("{place}: can't write the record with key {key}: {problem}")]
    Write {
        /// The file or table.
        place: String,
        /// The key, readable.
        key: String,
        /// What the store says.
        problem: String,
    },
    /// The store can't hold a value.
    #[error("{place}, field `{field}`: {refusal}")]
    Refused {
        /// The file or table.
        place: String,
        /// Which field.
        field: String,
        /// Why.
        refusal: Refusal,
    },
    /// The store can't do this at all.
    #[error("{place}: {problem}")]
    Unsupported {
        /// The file or table.
        place: String,
        /// What is not possible, and what is.
        problem: String,
    },
    /// The store is in use by another program; try again.
    #[error("{place} is locked by another program")]
    Locked {
        /// The database.
        place: String,
    },
    /// The operating system refused.
    #[error("can't {doing} {}", path.display())]
    Io {
        /// `read`, `write`, `rename` …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A database refused.
    #[error("{place}: {doing} failed")]
    Database {
        /// Which database or table.
        place: String,
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A server can't be reached, or the connection to it broke off; try again.
    ///
    /// Where it broke off while a commit was under way, the mark tells whether that happened.
    #[error("{place}: {doing} failed")]
    Unreachable {
        /// Which server.
        place: String,
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The content of a large value could not be had.
    #[error("the content {hash} can't be read")]
    Content {
        /// Its BLAKE3, in hexadecimal.
        hash: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The records to load could not be had.
    #[error("the records to load could not be read")]
    Records(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether it may speak of single records that were to be written, so that others may do.
    pub fn is_of_records(&self) -> bool {
        matches!(
            self,
            Error::Write { .. } | Error::Refused { .. } | Error::DuplicateKey { .. } | Error::Database { .. }
        )
    }

    /// Whether trying again later, with nothing else changed, may help.
    pub fn is_transient(&self) -> bool {
        match self {
            // A content comes from elsewhere, which may come back.
            Error::Changed { .. } | Error::Locked { .. } | Error::Unreachable { .. } | Error::Content { .. } => true,
            Error::Io { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                )
            }
            _ => false,
        }
    }
}
