//! What can go wrong with a state directory.

use std::io;
use std::path::PathBuf;

/// What went wrong, where, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the folder.
    #[error("{} is in use by {}; two processes can't share it: end that one first", dir.display(), holder(*pid))]
    Busy {
        /// The folder.
        dir: PathBuf,
        /// The process, as far as known.
        pid: Option<u32>,
    },
    /// The folder isn't ours, or belongs to another source or receiver.
    #[error("{} {problem}; use another state directory or move this one away", dir.display())]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// What was found there.
        problem: String,
    },
    /// What is stored can't be read back.
    #[error("the state in {} is damaged; move it away and start again, it is rebuilt from the log", dir.display())]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What the store says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store failed (disk full, for one).
    #[error("can't {doing} the state in {}", dir.display())]
    Store {
        /// `read`, `commit` …
        doing: &'static str,
        /// The folder.
        dir: PathBuf,
        /// What it says.
        source: fjall::Error,
    },
    /// The operating system refused.
    #[error("can't {doing} {}", path.display())]
    Io {
        /// `create`, `read` …
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A name that is longer than the store takes.
    #[error("a key of {bytes} bytes is more than the limit of {}", crate::store::KEY_BYTES_MAX)]
    KeyTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// A collection that could not be read back.
    #[error("the collection `{name}` can't be kept")]
    Schema {
        /// Which.
        name: deltabus_record::schema::CollectionName,
        /// Why.
        source: deltabus_record::schema::SchemaError,
    },
    /// A record whose key can't be kept.
    #[error(
        "a record of `{collection}` has a key of {bytes} bytes, and the most is {}: {}",
        deltabus_record::key::RECORD_KEY_BYTES_MAX,
        if *bytes == 0 { "it has none" } else { "name shorter fields as its key" }
    )]
    Key {
        /// Where.
        collection: deltabus_record::schema::CollectionName,
        /// How long it is.
        bytes: usize,
    },
    /// A record for a collection that was never set.
    #[error("the state has no collection `{0}`")]
    NoCollection(deltabus_record::schema::CollectionName),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another process".into(), |pid| format!("process {pid}"))
}
