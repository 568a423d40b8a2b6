//! What all stores that are one file share: stamps, consistent reading, and replacement in one atomic step.
//!
//! A file is never written in place. Its next content is built in a temporary file beside it ([`Replacement`]), synced, and
//! renamed over it ([`Replaced`]), so that a reader sees the old file or the new one and nothing between.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use crate::{Content, Error, Result, Staged, Stamp};

/// How much is read at once: large enough that system calls cost nothing, small enough to stay in a core's cache.
pub const BLOCK_BYTES: usize = 512 * 1024;

/// How many symbolic links are followed from one to the next; Linux gives up at the same number.
const LINKS_MAX: usize = 40;

/// A temporary file that nobody holds is left alone for this long: its maker may be about to lock it.
const STALE_AFTER: Duration = Duration::from_secs(60);

/// How many bytes of a file's name go into that of its temporary file, so that a long name stays within the system's 255.
const NAME_BYTES_MAX: usize = 200;

/// A store that is a single file, there or not.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    /// Whether temporary files of crashed runs have been looked for.
    swept: AtomicBool,
}

impl FileStore {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> FileStore {
        FileStore { path: path.into(), swept: AtomicBool::new(false) }
    }

    /// The path, as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path for messages.
    pub fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Size, modification time in nanoseconds, inode and device; [`Stamp::MISSING`] where there is no file.
    ///
    /// Two writes in place of one size within one tick of the kernel's clock (4 ms at most) look alike; who must see the
    /// second waits until the file is [`settled`].
    pub fn stamp(&self) -> Result<Stamp> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(stamp_of(&metadata)),
            Err(error) if is_missing(&error) => Ok(Stamp::MISSING),
            Err(error) => Err(self.error("examine", error)),
        }
    }

    /// What announces a change: the path, and the file that it leads to where it is a symbolic link.
    ///
    /// Editors and this crate replace files rather than write them, so a watcher does well to watch the folders.
    pub fn watch(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.path.clone()];
        paths.extend(resolve(&self.path).ok().filter(|target| *target != self.path));
        paths
    }

    /// Whether nobody wrote the file for the time `quiet`; see [`settled`].
    pub fn settled(&self, quiet: Duration) -> Result<bool> {
        settled(&[&self.path], quiet)
    }

    /// Opens the file for reading; [`Error::Missing`] where there is none.
    pub fn open(&self) -> Result<Reading> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Err(Error::Missing { place: self.place() }),
            Err(error) => return Err(self.error("open", error)),
        };
        let metadata = file.metadata().map_err(|error| self.error("examine", error))?;
        if !metadata.is_file() {
            return Err(Error::Unsupported {
                place: self.place(),
                problem: "not a regular file; name a file, not a folder, pipe or device".into(),
            });
        }
        Ok(Reading { file, path: self.path.clone(), stamp: stamp_of(&metadata), length: metadata.len() })
    }

    /// BLAKE3 of the file; `None` where there is none.
    pub fn content(&self) -> Result<Option<Content>> {
        let mut reading = match self.open() {
            Ok(reading) => reading,
            Err(Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            match reading.file.read(&mut block) {
                Ok(0) => break,
                Ok(length) => {
                    hasher.update(&block[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("read", error)),
            }
        }
        Ok(Some(Content(hasher.finalize().into())))
    }

    /// Begins the file's next content in a temporary file beside it.
    ///
    /// Fails with [`Error::Changed`] if the file is no longer at `expected`. Mode and owner of the file there are kept; a
    /// new file gets those that the system gives any new file. A symbolic link stays, its target is replaced.
    pub fn replace(&self, expected: &Stamp) -> Result<Replacement> {
        self.expect(expected)?;
        let target = resolve(&self.path)?;
        let folder = folder_of(&target);
        if !self.swept.swap(true, Ordering::Relaxed) {
            sweep(&folder, &target);
        }
        let temporary = self.temporary(&target, &folder)?;
        Ok(Replacement {
            path: self.path.clone(),
            target,
            temporary: Some(temporary),
            expected: expected.clone(),
            hasher: blake3::Hasher::new(),
            buffer: Vec::with_capacity(BLOCK_BYTES),
        })
    }

    /// Stages the file's removal.
    pub fn remove(&self, expected: &Stamp) -> Result<Removed> {
        self.expect(expected)?;
        Ok(Removed { path: self.path.clone(), expected: expected.clone() })
    }

    /// Stages nothing at all: the commit only checks that the file is still at `expected`.
    pub fn keep(&self, expected: &Stamp) -> Result<Kept> {
        self.expect(expected)?;
        let content = self.content()?;
        Ok(Kept { path: self.path.clone(), expected: expected.clone(), content })
    }

    /// Fails with [`Error::Changed`] if the file is no longer at `expected`.
    pub fn expect(&self, expected: &Stamp) -> Result<()> {
        if self.stamp()? == *expected { Ok(()) } else { Err(Error::Changed { place: self.place() }) }
    }

    /// An operating system's error about this file.
    pub fn error(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io { doing, path: self.path.clone(), source }
    }

    fn temporary(&self, target: &Path, folder: &Path) -> Result<NamedTempFile> {
        let old = match fs::metadata(target) {
            Ok(metadata) => Some(metadata),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(self.error("examine", error)),
        };
        // A file that is not there yet gets what the umask leaves of 0666; one that is there is private until it has the
        // mode of the old.
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        if !folder.is_dir() && matches!(folder.try_exists(), Ok(false)) {
            return Err(Error::NoFolder { folder: folder.to_owned() });
        }
        let temporary = tempfile::Builder::new()
            .prefix(&temporary_prefix(target))
            .suffix(TEMPORARY_SUFFIX)
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)
            .map_err(|source| Error::Io { doing: "make a file in", path: folder.to_owned(), source })?;
        // The lock tells a temporary file in use from one that a crashed run left; it goes with the process. Where the file
        // system has no locks, stale files stay.
        let _ = temporary.as_file().try_lock();
        if let Some(old) = old {
            keep_owner_and_mode(temporary.as_file(), &old)
                .map_err(|error| self.error("keep owner and mode of", error))?;
        }
        Ok(temporary)
    }
}

/// Whether none of the files at `paths` was written within the time `quiet`; folders and missing files count as settled.
///
/// A file whose modification time lies in the future (copied from a machine with another clock) counts as settled too: to
/// wait for it could take for ever.
pub fn settled(paths: &[impl AsRef<Path>], quiet: Duration) -> Result<bool> {
    let now = SystemTime::now();
    for path in paths {
        let path = path.as_ref();
        let error = |source| Error::Io { doing: "examine", path: path.to_owned(), source };
        let modified = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata.modified().map_err(error)?,
            Ok(_) => continue,
            Err(source) if is_missing(&source) => continue,
            Err(source) => return Err(error(source)),
        };
        if now.duration_since(modified).is_ok_and(|age| age < quiet) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A file opened for reading, with the stamp that it had then.
#[derive(Debug)]
pub struct Reading {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    length: u64,
}

impl Reading {
    /// The stamp when the file was opened.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The length in bytes when the file was opened.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads all of it from where reading stands.
    pub fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.length).unwrap_or(0).saturating_add(1));
        match self.file.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(Error::Io { doing: "read", path: self.path.clone(), source }),
        }
    }

    /// Goes back to the first byte.
    pub fn rewind(&mut self) -> Result<()> {
        self.file.rewind().map_err(|source| Error::Io { doing: "read", path: self.path.clone(), source })
    }

    /// A second handle on the same open file, sharing its place of reading.
    pub fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|source| Error::Io { doing: "open", path: self.path.clone(), source })
    }

    /// Confirms that what was read is what the path still names, unwritten; else [`Error::Changed`].
    pub fn check(&self) -> Result<()> {
        let error = |source| Error::Io { doing: "examine", path: self.path.clone(), source };
        let here = stamp_of(&self.file.metadata().map_err(error)?);
        let there = match fs::metadata(&self.path) {
            Ok(metadata) => stamp_of(&metadata),
            Err(source) if is_missing(&source) => Stamp::MISSING,
            Err(source) => return Err(error(source)),
        };
        if here == self.stamp && there == self.stamp {
            Ok(())
        } else {
            Err(Error::Changed { place: self.path.display().to_string() })
        }
    }
}

/// A stream read in blocks, of which a parser takes as much as it understands.
///
/// The bytes not yet taken are always in one piece. The buffer grows only while a single piece doesn't fit, twofold each
/// time, so that parsing that piece again after each growth costs no more than twice its length.
#[derive(Debug)]
pub struct Blocks<R> {
    reader: R,
    buffer: Vec<u8>,
    /// What the buffer grows to once its first bytes were not all.
    block: usize,
    start: usize,
    end: usize,
    ended: bool,
    taken: u64,
}

/// The first block of a stream: most small files end in it, and each of thousands of receivers reads its own.
const FIRST_BLOCK_BYTES: usize = 8 * 1024;

impl<R: Read> Blocks<R> {
    /// Reads `reader` in blocks of [`BLOCK_BYTES`].
    pub fn new(reader: R) -> Blocks<R> {
        Blocks::with_block(reader, BLOCK_BYTES)
    }

    /// Reads `reader` in blocks of `bytes`, at least one.
    pub fn with_block(reader: R, bytes: usize) -> Blocks<R> {
        let block = bytes.max(1);
        let buffer = vec![0; block.min(FIRST_BLOCK_BYTES)];
        Blocks { reader, buffer, block, start: 0, end: 0, ended: false, taken: 0 }
    }

    /// The bytes that are there and not yet taken.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes the first `length` of the bytes not yet taken.
    #[inline]
    pub fn take(&mut self, length: usize) {
        self.start += length;
        self.taken += length as u64;
        debug_assert!(self.start <= self.end);
    }

    /// How many bytes were taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether the stream has ended: all bytes that there will be are there.
    #[inline]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Brings more bytes behind those not yet taken, whose place in memory changes; `false` at the end of the stream.
    pub fn fill(&mut self) -> io::Result<bool> {
        let is_first = self.taken == 0 && self.end == 0;
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if !is_first && self.buffer.len() < self.block {
            self.buffer.resize(self.block, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let before = self.end;
        while self.end < self.buffer.len() && !self.ended {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(length) => self.end += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.end > before)
    }
}

/// A file's next content, being written beside it; dropping it leaves everything as it was.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    target: PathBuf,
    temporary: Option<NamedTempFile>,
    expected: Stamp,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Replacement {
    /// Where it is being built, for content that somebody else writes there; nothing may be written here as well.
    pub(crate) fn temporary_path(&self) -> &Path {
        self.temporary.as_ref().expect("a replacement is written before it is sealed").path()
    }

    /// Ends the content and brings it to the disk.
    pub fn seal(mut self) -> Result<Replaced> {
        self.flush_buffer().map_err(|source| self.error("write", source))?;
        let temporary = self.temporary.take().expect("a replacement is sealed once");
        temporary.as_file().sync_all().map_err(|source| self.error("sync", source))?;
        Ok(Replaced {
            path: std::mem::take(&mut self.path),
            target: std::mem::take(&mut self.target),
            temporary,
            expected: self.expected.clone(),
            content: Content(self.hasher.finalize().into()),
        })
    }

    /// An operating system's error about the file that is to be replaced.
    pub fn error(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io { doing, path: self.path.clone(), source }
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        let temporary = self.temporary.as_mut().expect("a replacement is written before it is sealed");
        temporary.as_file_mut().write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BLOCK_BYTES { self.flush_buffer() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_buffer()
    }
}

/// A file's next content, complete and on the disk beside it.
#[derive(Debug)]
pub struct Replaced {
    path: PathBuf,
    target: PathBuf,
    temporary: NamedTempFile,
    expected: Stamp,
    content: Content,
}

impl Staged for Replaced {
    fn content(&self) -> Option<Content> {
        Some(self.content)
    }

    fn temporary(&mut self) -> Option<Temporary> {
        let path = self.temporary.path();
        // Seen from another working directory it would be somewhere else.
        let path = std::path::absolute(path).ok()?;
        self.temporary.disable_cleanup(true);
        Some(Temporary::at(path))
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        let store = FileStore::new(self.path);
        // Another program that writes between this check and the rename is overwritten; the system offers no rename on
        // condition, so the two stand as close as can be.
        store.expect(&self.expected)?;
        let file = self.temporary.persist(&self.target).map_err(|error| store.error("replace", error.error))?;
        sync_folder(&self.target)?;
        let metadata = file.metadata().map_err(|error| store.error("examine", error))?;
        Ok(stamp_of(&metadata))
    }
}

/// A file that is to take another's place by a rename; removed when this is dropped before that.
///
/// It outlives a panic: whoever panics has not written down that nothing came of it.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// The file at `path`, which is the same seen from anywhere.
    pub fn at(path: PathBuf) -> Temporary {
        Temporary(path)
    }

    /// Where it is, seen from anywhere.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // After the rename there is none.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// A file that is to go.
#[derive(Debug)]
pub struct Removed {
    path: PathBuf,
    expected: Stamp,
}

impl Staged for Removed {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        let store = FileStore::new(self.path);
        store.expect(&self.expected)?;
        let target = resolve(store.path())?;
        match fs::remove_file(&target) {
            Ok(()) => sync_folder(&target)?,
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(store.error("remove", error)),
        }
        Ok(Stamp::MISSING)
    }
}

/// A file that stays as it is.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    expected: Stamp,
    content: Option<Content>,
}

impl Staged for Kept {
    fn content(&self) -> Option<Content> {
        self.content
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        FileStore::new(self.path).expect(&self.expected)?;
        Ok(self.expected)
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn stamp_of(metadata: &Metadata) -> Stamp {
    let mut bytes = Vec::with_capacity(40);
    bytes.extend_from_slice(&metadata.len().to_le_bytes());
    bytes.extend_from_slice(&metadata.mtime().to_le_bytes());
    bytes.extend_from_slice(&metadata.mtime_nsec().to_le_bytes());
    bytes.extend_from_slice(&metadata.ino().to_le_bytes());
    bytes.extend_from_slice(&metadata.dev().to_le_bytes());
    Stamp(bytes)
}

/// The file that `path` means after all symbolic links, whether or not it is there.
fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            Ok(link) => path = folder_of(&path).join(link),
            // Not a link, or not there.
            Err(_) => return Ok(path),
        }
    }
    let source = io::Error::other("too many symbolic links, one leading to the next");
    Err(Error::Io { doing: "follow", path, source })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

const TEMPORARY_SUFFIX: &str = ".tmp";

fn temporary_prefix(target: &Path) -> OsString {
    let name = target.file_name().unwrap_or_default().as_bytes();
    let mut prefix = OsString::from(".");
    prefix.push(OsStr::from_bytes(&name[..name.len().min(NAME_BYTES_MAX)]));
    prefix.push(".deltabus-");
    prefix
}

/// Removes temporary files that crashed runs left for `target`. What can't be removed stays: it is in nobody's way.
fn sweep(folder: &Path, target: &Path) {
    let prefix = temporary_prefix(target);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.as_bytes().starts_with(prefix.as_bytes()) && name.as_bytes().ends_with(b".tmp");
        if ours && is_stale(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_stale(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let old = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let old = old.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age >= STALE_AFTER);
    old && file.try_lock().is_ok()
}

fn keep_owner_and_mode(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        let owner = rustix::fs::Uid::from_raw(old.uid());
        let group = rustix::fs::Gid::from_raw(old.gid());
        rustix::fs::fchown(file, Some(owner), Some(group))?;
    }
    // After the owner, since a change of owner takes the set-user-id bits away.
    file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))
}

/// Makes a rename or removal durable.
fn sync_folder(target: &Path) -> Result<()> {
    let folder = folder_of(target);
    let synced = File::open(&folder).and_then(|handle| handle.sync_all());
    synced.map_err(|source| Error::Io { doing: "sync", path: folder, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(store: &FileStore, bytes: &[u8]) -> Replaced {
        let mut next = store.replace(&store.stamp().unwrap()).unwrap();
        next.write_all(bytes).unwrap();
        next.seal().unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_replacement_is_seen_only_after_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("a.csv"));
        assert!(store.stamp().unwrap().is_missing());
        let staged = write(&store, b"one");
        assert!(store.stamp().unwrap().is_missing());
        let content = staged.content();
        let stamp = Box::new(staged).commit().unwrap();
        assert_eq!(stamp, store.stamp().unwrap());
        assert_eq!(content, store.content().unwrap());
        assert_eq!(fs::read(store.path()).unwrap(), b"one");
        drop(write(&store, b"two"));
        assert_eq!(stamp, store.stamp().unwrap());
        assert_eq!(names(folder.path()), ["a.csv"]);
    }

    /// Its absence would say that the file was replaced.
    #[test]
    fn a_temporary_file_outlives_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("a.csv"));
        let mut staged = write(&store, b"one");
        let temporary = staged.temporary().unwrap();
        let path = temporary.path().to_owned();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _temporary = temporary;
            std::panic::resume_unwind(Box::new("the end"));
        }));
        assert!(panicked.is_err() && path.exists());
        drop(Temporary::at(path.clone()));
        assert!(!path.exists());
    }

    #[test]
    fn a_file_written_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("a.csv"));
        let staged = write(&store, b"ours");
        fs::write(store.path(), b"theirs").unwrap();
        assert!(matches!(Box::new(staged).commit(), Err(Error::Changed { .. })));
        assert_eq!(fs::read(store.path()).unwrap(), b"theirs");
        assert!(matches!(store.replace(&Stamp::MISSING), Err(Error::Changed { .. })));
        let removal = store.remove(&store.stamp().unwrap()).unwrap();
        fs::write(store.path(), b"theirs again").unwrap();
        assert!(matches!(Box::new(removal).commit(), Err(Error::Changed { .. })));
    }

    #[test]
    fn the_mode_of_the_old_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("a.csv"));
        fs::write(store.path(), b"old").unwrap();
        fs::set_permissions(store.path(), Permissions::from_mode(0o640)).unwrap();
        Box::new(write(&store, b"new")).commit().unwrap();
        assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced_or_made() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        let target = folder.path().join("real/a.csv");
        let store = FileStore::new(folder.path().join("link.csv"));
        std::os::unix::fs::symlink("real/a.csv", store.path()).unwrap();
        for content in [b"first", b"other"] {
            Box::new(write(&store, content)).commit().unwrap();
            assert!(fs::symlink_metadata(store.path()).unwrap().is_symlink());
            assert_eq!(fs::read(&target).unwrap(), content);
        }
        let removal = store.remove(&store.stamp().unwrap()).unwrap();
        assert!(Box::new(removal).commit().unwrap().is_missing());
        assert!(!target.exists());
        assert_eq!(store.watch(), [store.path().to_owned(), target]);
        std::os::unix::fs::symlink("loop", folder.path().join("loop")).unwrap();
        assert!(resolve(&folder.path().join("loop")).is_err());
    }

    #[test]
    fn files_of_crashed_runs_are_removed_and_those_in_use_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let staged = write(&FileStore::new(&path), b"in use");
        let in_use = names(folder.path()).remove(0);
        let stale = ".a.csv.deltabus-crashed.tmp";
        let other = ".b.csv.deltabus-crashed.tmp";
        for name in [stale, other, in_use.as_str()] {
            let file = File::options().append(true).create(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - 2 * STALE_AFTER).unwrap();
        }
        drop(write(&FileStore::new(&path), b"next"));
        let mut expected = [in_use, other.to_owned()];
        expected.sort();
        assert_eq!(names(folder.path()), expected);
        drop(staged);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("a.csv"));
        assert!(matches!(store.open(), Err(Error::Missing { .. })));
        fs::write(store.path(), b"one").unwrap();
        let mut reading = store.open().unwrap();
        assert_eq!(reading.read_all().unwrap(), b"one");
        reading.check().unwrap();
        fs::write(store.path(), b"longer").unwrap();
        assert!(matches!(reading.check(), Err(Error::Changed { .. })));
        let reading = store.open().unwrap();
        Box::new(write(&store, b"renamed over")).commit().unwrap();
        assert!(matches!(reading.check(), Err(Error::Changed { .. })));
        assert!(matches!(FileStore::new(folder.path()).open(), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_file_is_settled_when_it_was_not_written_lately() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("a.csv"));
        let hour = Duration::from_secs(3600);
        assert!(store.settled(hour).unwrap());
        fs::write(store.path(), b"one").unwrap();
        assert!(!store.settled(hour).unwrap());
        for modified in [SystemTime::now() - 2 * hour, SystemTime::now() + 2 * hour] {
            File::options().write(true).open(store.path()).unwrap().set_modified(modified).unwrap();
            assert!(store.settled(hour).unwrap());
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path().join("none/a.csv"));
        let error = store.replace(&Stamp::MISSING).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }

    #[test]
    fn blocks_give_every_byte_once() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 7).map(|i| (i % 251) as u8).collect();
        let mut blocks = Blocks::new(&bytes[..]);
        let mut out = Vec::new();
        let mut wanted = 1;
        loop {
            while blocks.unread().len() < wanted && blocks.fill().unwrap() {}
            let length = blocks.unread().len().min(wanted);
            if length == 0 {
                break;
            }
            out.extend_from_slice(&blocks.unread()[..length]);
            blocks.take(length);
            wanted = wanted * 3 % 1_000_003;
        }
        assert!(out == bytes && blocks.ended() && blocks.taken() == bytes.len() as u64);
    }
}
