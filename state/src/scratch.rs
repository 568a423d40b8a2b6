//! Scratch folders: for states that are looked at once, and private copies of a receiver's.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use deltabus_record::schema::{ReceiverName, SourceName};
use rustix::fs::FlockOperation;

use crate::directory::create_private;
use crate::store::{LOCK_FILE, OWNER_FILE, RECORDS_FOLDER, lock, open_lock};
use crate::{Error, StateDirectory};

/// Under the state directory, so that copies can share their files with the original.
const SCRATCH: &str = "scratch";

/// Where the store keeps its sorted runs of records: written once, then only read or removed.
const IMMUTABLE: &str = "tables";

/// A state directory of its own that goes when this is dropped.
pub struct Scratch {
    directory: StateDirectory,
    _lock: File,
}

impl Scratch {
    /// The directory.
    pub fn directory(&self) -> &StateDirectory {
        &self.directory
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind here is removed when the next scratch folder is made.
        let _ = fs::remove_dir_all(self.directory.path());
    }
}

impl StateDirectory {
    /// Makes an empty state directory that lives as long as the result; what killed processes left of theirs goes.
    pub fn scratch(&self) -> Result<Scratch, Error> {
        let root = self.path().join(SCRATCH);
        create_private(&root)?;
        // Held until the new folder has a lock of its own, so that nobody takes it for one that was left.
        let all = open_lock(&root)?;
        rustix::fs::flock(&all, FlockOperation::LockExclusive).map_err(|source| Error::Io {
            doing: "lock",
            path: root.clone(),
            source: source.into(),
        })?;
        remove_left(&root);
        let path = root.join(format!("{:016x}", RandomState::new().build_hasher().finish()));
        let directory = StateDirectory::open(&path)?;
        Ok(Scratch { _lock: lock(&path)?, directory })
    }

    /// Copies the state of a receiver that isn't running to the same place in another directory; `false` where it has none.
    /// The original stays as it is, to the byte.
    ///
    /// Fails with [`Error::Busy`] while the receiver runs.
    pub fn copy_receiver(
        &self,
        source: &SourceName,
        receiver: &ReceiverName,
        to: &StateDirectory,
    ) -> Result<bool, Error> {
        let from = self.receiver_folder(source, receiver);
        // Looked for first: taking the lock would make the file.
        if !from.join(OWNER_FILE).is_file() || !from.join(LOCK_FILE).is_file() {
            return Ok(false);
        }
        let _held = lock(&from)?;
        let to = to.receiver_folder(source, receiver);
        create_private(&to)?;
        copy_file(&from.join(OWNER_FILE), &to.join(OWNER_FILE))?;
        if from.join(RECORDS_FOLDER).is_dir() {
            copy_folder(&from.join(RECORDS_FOLDER), &to.join(RECORDS_FOLDER))?;
        }
        Ok(true)
    }
}

/// Removes scratch folders that nobody holds.
fn remove_left(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.path().is_dir() && lock(&entry.path()).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Error> {
    create_private(to)?;
    let failed = |source| Error::Io { doing: "read", path: from.to_owned(), source };
    let immutable = from.file_name().is_some_and(|name| name == IMMUTABLE);
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else if !immutable || fs::hard_link(&from, &to).is_err() {
            copy_file(&from, &to)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(drop).map_err(|source| Error::Io { doing: "copy", path: from.to_owned(), source })
}
