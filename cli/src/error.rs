//! How commands fail, and how they end.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// How a command ended that had no trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; nothing to report.
    Done,
    /// A difference, a conflict or something held back, where the command asks about that.
    Differs,
    /// A part could not be done; it was said which.
    Trouble,
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Exit::Done => 0,
            Exit::Differs => 1,
            Exit::Trouble => 2,
        })
    }
}

/// What went wrong: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Interface(#[from] deltabus_interfaces::Error),
    #[error(transparent)]
    State(#[from] deltabus_state::Error),
    #[error(transparent)]
    Bus(#[from] deltabus_bus::Error),
    #[error(transparent)]
    Certificates(#[from] deltabus_certificates::Error),
    #[error(transparent)]
    Transmitter(#[from] deltabus_transmitter::Error),
    #[error(transparent)]
    Receiver(#[from] deltabus_receiver::Error),
    #[error(transparent)]
    Manager(#[from] deltabus_manager::Error),
    #[error(transparent)]
    Mapping(#[from] deltabus_record::mapping::MappingError),
    #[error("{place}: the key {key} occurs twice{}", other.as_ref().map(|other| format!(", also in {other}")).unwrap_or_default())]
    DuplicateKey { place: String, key: String, other: Option<String> },
    #[error("can't {doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("standard output can't be written")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Trouble(String),
}

impl Error {
    /// Whether whoever read the output has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error with its causes, in one line.
    pub(crate) fn in_one_line(&self) -> String {
        crate::commands::one_line(self)
    }
}
