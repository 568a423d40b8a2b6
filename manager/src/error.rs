//! What can go wrong with a manager, at either end.

use std::io;
use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("can't {doing} {}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A secret that others may read.
    #[error("{} may be read by others than its owner: `chmod 600` it, and think about who has read it", path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
    },
    /// A key that is none, or that signs nothing.
    #[error("a key can't be used: {0}")]
    Key(String),
    /// What somebody wrote into a configuration or an identity.
    #[error("{0}")]
    Config(String),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] deltabus_bus::Error),
    /// The managers' own records on the bus.
    #[error("the managers' records on the bus can't be {doing}: {problem}")]
    Records {
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        problem: String,
    },
    /// The manager refuses.
    #[error("the manager refused: {0}")]
    Refused(String),
    /// The manager can't be reached, by none of its addresses.
    #[error("the manager at {url} can't be reached: {problem}")]
    Unavailable {
        /// Where it should be.
        url: String,
        /// What happened.
        problem: String,
    },
}

impl Error {
    pub(crate) fn certificate(error: deltabus_certificates::Error) -> Error {
        Error::Config(deltabus_bus::causes(&error))
    }

    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unavailable { .. } => true,
            Error::Bus(error) => error.is_transient(),
            _ => false,
        }
    }
}
