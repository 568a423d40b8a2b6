//! Many files of one folder changed in one crash-safe step.
//!
//! New contents are built in the folder `.deltabus` inside the folder itself, so on its file system. [`Staging`] collects what
//! is to happen; [`Staging::seal`] brings it all to the disk with a journal of the steps; [`Sealed::commit`] renames the journal
//! to its committed name, the one atomic point, and does the steps. A process that dies before that point has changed
//! nothing; one that dies after it leaves a journal, which whoever comes next finishes ([`Folder::recover`]) before looking
//! at anything.
//!
//! ```text
//! folder.recover()?;
//! let mut staging = folder.stage()?;
//! let mut file = staging.new_file()?;
//! file.write_all(b"BEGIN:VCARD…")?;
//! staging.put(&path, file, before.as_ref(), Attributes::default())?;   // `before`: what Folder::seen gave, None: nothing there
//! staging.remove(&other, &seen)?;
//! staging.mark(mark)?;
//! let outcome = staging.seal()?.commit()?;                              // outcome.left: what somebody changed meanwhile
//! ```
//!
//! `.deltabus` holds:
//!
//! | | |
//! |---|---|
//! | `lock` | locked (`flock`) by who stages or finishes a commit |
//! | `work/` | what is being built: numbered entries, and `journal` before its commit |
//! | `journal` | a committed journal that is not finished |
//! | `marks` | the marks ([`crate::Mark`]), rows of owner and value, changed by the same journal |
//!
//! A step acts only on an entry that is still what it was when the commit was staged. What somebody changed in between is left as
//! it is and reported. A folder that doesn't exist is built beside its place and renamed there.

mod beneath;
mod commit;
mod journal;
mod new_file;
mod path;
mod staging;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use deltabus_record::row::Row;
use deltabus_record::value::Value;
use rustix::fs::FlockOperation;

pub(crate) use beneath::{Beneath, EntryKind, Moment, Seen, is_missing, seen_at};
pub(crate) use commit::{Left, Sealed};
pub(crate) use journal::Attributes;
pub(crate) use new_file::NewFile;
pub(crate) use path::{EntryPath, is_own};
pub(crate) use staging::Staging;

use crate::{Error, Mark, Result};

/// The folder's own folder.
pub(crate) const WORK: &str = ".deltabus";

/// A lock that was just given back may be held for a moment longer: by a program that this process is starting at that moment,
/// which has a copy of all that is open until it runs.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

const LOCK_FILE: &str = "lock";
const STAGE_FOLDER: &str = "work";
const JOURNAL_FILE: &str = "journal";
const MARKS_FILE: &str = "marks";

/// A folder whose entries change together.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Where a commit is to be cut off, for tests of what is found afterwards.
    #[cfg(test)]
    pub(crate) faults: std::sync::Arc<faults::Faults>,
}

impl Folder {
    /// The folder at `path`, there or not.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Folder {
        Folder {
            path: path.into(),
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        }
    }

    /// The same folder while it is built elsewhere.
    fn at(&self, path: &Path) -> Folder {
        let mut folder = self.clone();
        folder.path = path.to_owned();
        folder
    }

    /// Its path, as given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path for messages.
    pub(crate) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// An operating system's error about an entry, or the folder itself.
    pub(crate) fn error(&self, doing: &'static str, entry: Option<&EntryPath>, source: io::Error) -> Error {
        let path = match entry {
            Some(entry) => self.path.join(os_path(entry)),
            None => self.path.clone(),
        };
        Error::Io { doing, path, source }
    }

    /// Opens it for looking at entries; [`Error::Missing`] where there is none.
    pub(crate) fn open(&self) -> Result<Beneath> {
        match Beneath::open(&self.path) {
            Ok(beneath) => Ok(beneath),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing { place: self.place() }),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(Error::Unsupported { place: self.place(), problem: "not a folder; name a folder".into() })
            }
            Err(error) => Err(self.error("open", None, error)),
        }
    }

    /// Finishes a commit that was cut off. To be called before anything is looked at; costs a system call where there is
    /// nothing to finish, and never makes or changes anything then.
    ///
    /// Gives what could not be done because somebody changed it. [`Error::Locked`] while another process is committing.
    pub(crate) fn recover(&self) -> Result<Vec<Left>> {
        if !self.has_journal()? {
            return Ok(Vec::new());
        }
        let lock = self.lock()?;
        let outcome = self.finish(&lock)?;
        for left in &outcome.left {
            tracing::warn!(place = %self.place(), entry = %left.path, error = %left.problem, "an entry is left as it is");
        }
        Ok(outcome.left)
    }

    /// Begins to change the folder, which is made where missing (not its parent). What crashed processes left is cleared away.
    ///
    /// [`Error::Locked`] while a change is being staged or committed, in this process or another.
    pub(crate) fn stage(&self) -> Result<Staging> {
        Staging::begin(self)
    }

    /// The mark that the last commit of `owner` left.
    pub(crate) fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        let marks = self.marks()?;
        Ok(marks.into_iter().find(|mark| mark.owner == owner).map(|mark| mark.value))
    }

    fn marks(&self) -> Result<Vec<Mark>> {
        let path = self.path.join(WORK).join(MARKS_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            Err(source) => return Err(Error::Io { doing: "read", path, source }),
        };
        let damaged = || Error::Unsupported {
            place: path.display().to_string(),
            problem: "not a file of marks; it was damaged or written by another version. Remove it to compare all anew"
                .into(),
        };
        let list = Row::from_bytes(&bytes).map_err(|_| damaged())?;
        let mark = |value: Value| match value {
            Value::List(parts) => match <[Value; 2]>::try_from(parts) {
                Ok([Value::Text(owner), Value::Bytes(value)]) => Some(Mark { owner, value }),
                _ => None,
            },
            _ => None,
        };
        list.values().into_iter().map(|value| mark(value).ok_or_else(damaged)).collect()
    }

    /// A place where a crash would make a difference.
    fn fault(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.pass()?;
        Ok(())
    }

    /// Whether a test cut the commit off.
    fn is_cut_off(&self) -> bool {
        #[cfg(test)]
        return self.faults.is_cut_off();
        #[cfg(not(test))]
        false
    }

    /// Whether a commit was cut off.
    fn has_journal(&self) -> Result<bool> {
        match fs::symlink_metadata(self.journal_path()) {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(self.error("examine", None, error)),
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.path.join(WORK).join(JOURNAL_FILE)
    }

    /// Takes the lock; the work folder is made where missing.
    fn lock(&self) -> Result<File> {
        let work = self.path.join(WORK);
        let failed = |doing, path: &Path, source| Error::Io { doing, path: path.to_owned(), source };
        match fs::DirBuilder::new().mode(0o700).create(&work) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &work, error)),
        }
        let kind = fs::symlink_metadata(&work).map_err(|error| failed("examine", &work, error))?;
        if !kind.is_dir() {
            return Err(Error::Unsupported {
                place: work.display().to_string(),
                problem: "this is where deltabus keeps its own files, and it is no folder; move it away".into(),
            });
        }
        let path = work.join(LOCK_FILE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| failed("open", &path, error))?;
        let end = Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => std::thread::park_timeout(LOCK_PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked { place: self.place() }),
                Err(error) => return Err(failed("lock", &path, error.into())),
            }
        }
    }
}

fn os_path(entry: &EntryPath) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(entry.as_bytes()))
}

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod tests;
