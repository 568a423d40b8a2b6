//! Connections to a database file, and its stamp.

use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::{ErrorCode, OpenFlags};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use crate::{Error, Position, Result, Stamp};

/// How coarse a file system's clock may be. A write-ahead-log database says nothing but its modification time once the log
/// is gone, so a stamp taken this soon after it could miss the next commit; Linux ticks every 1 to 10 ms.
const CLOCK_COARSENESS: Duration = Duration::from_millis(20);

/// Length of a write-ahead log's header; a shorter log holds nothing.
const WAL_HEADER_BYTES: u64 = 32;

/// The extended result codes of a reader that may not make the files that it needs beside the database.
const READONLY_RECOVERY: i32 = 264;
const READONLY_ROLLBACK: i32 = 776;
const READONLY_CANTINIT: i32 = 1288;
const READONLY_DIRECTORY: i32 = 1544;

/// The database file of one location.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    busy_timeout: Duration,
    /// The stamp that our own last commit left, where the clock can't be mistaken for that of another.
    own: Arc<Mutex<Option<Stamp>>>,
}

/// An open connection.
///
/// While one is open, this process closes no other descriptor of a database file: POSIX drops all of a process's locks on
/// a file when any of its descriptors for that file is closed (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
pub(super) struct Connection {
    // Dropped before the lease.
    inner: rusqlite::Connection,
    _lease: Lease,
}

impl Deref for Connection {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &rusqlite::Connection {
        &self.inner
    }
}

impl Database {
    pub(super) fn new(path: &Path, busy_timeout: Duration) -> Database {
        Database { path: path.to_owned(), busy_timeout, own: Arc::default() }
    }

    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn table_place(&self, table: &str) -> String {
        format!("{}, table `{table}`", self.path.display())
    }

    /// Opens for reading only; [`Error::Missing`] where there is no file.
    pub(super) fn open_for_reading(&self) -> Result<Connection> {
        let read = |flags| -> Result<Connection, rusqlite::Error> {
            let connection = self.open(flags)?;
            // The first read recovers what a crash left, where need be.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(connection)
        };
        self.check_there()?;
        match read(OpenFlags::SQLITE_OPEN_READ_ONLY) {
            Ok(connection) => Ok(connection),
            // A journal that a crash left is rolled back by whoever comes next, which takes a connection that may write.
            Err(error) if matches!(extended_code(&error), READONLY_ROLLBACK | READONLY_RECOVERY) => {
                read(OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|error| self.open_error(error))
            }
            Err(error) => Err(self.open_error(error)),
        }
    }

    /// Opens the existing file for writing, with foreign keys checked.
    pub(super) fn open_for_writing(&self) -> Result<Connection> {
        self.check_there()?;
        let open = || -> Result<Connection, rusqlite::Error> {
            let connection = self.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.execute_batch("PRAGMA foreign_keys = ON")?;
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(connection)
        };
        let connection = open().map_err(|error| self.open_error(error))?;
        // SQLite falls back to reading where it may not write.
        match connection.is_readonly("main") {
            Ok(false) => Ok(connection),
            Ok(true) => Err(Error::Io {
                doing: "write",
                path: self.path.clone(),
                source: io::ErrorKind::PermissionDenied.into(),
            }),
            Err(error) => Err(self.open_error(error)),
        }
    }

    /// Opens the new, empty file at `path`, which nobody else knows yet: no journal, no waiting for the disk. Whoever made
    /// the file syncs it.
    pub(super) fn open_new(path: &Path) -> Result<Connection> {
        let database = Database::new(path, Duration::ZERO);
        let open = || -> Result<Connection, rusqlite::Error> {
            let connection = database.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
                 PRAGMA foreign_keys = ON",
            )?;
            Ok(connection)
        };
        open().map_err(|error| database.open_error(error))
    }

    fn open(&self, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
        let lease = Lease::take();
        // An absolute path is never taken for a URI or `:memory:`.
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let inner = rusqlite::Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        inner.busy_timeout(self.busy_timeout)?;
        Ok(Connection { inner, _lease: lease })
    }

    fn check_there(&self) -> Result<()> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() => Ok(()),
            Ok(_) => Err(Error::Unsupported { place: self.place(), problem: "not a file".into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing { place: self.place() }),
            Err(source) => Err(Error::Io { doing: "examine", path: self.path.clone(), source }),
        }
    }

    fn open_error(&self, error: rusqlite::Error) -> Error {
        let refused = matches!(extended_code(&error), READONLY_CANTINIT | READONLY_DIRECTORY | READONLY_RECOVERY);
        let no_wal_index = error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
            && header(&self.path).ok().flatten().is_some_and(|header| is_wal(&header));
        if refused || no_wal_index {
            return Error::Unsupported {
                place: self.place(),
                problem:
                    "the database is in WAL mode and the files `-wal` and `-shm` beside it can't be made or written; \
                          allow writing in its folder, or set `PRAGMA journal_mode = DELETE`"
                        .into(),
            };
        }
        database_error(self.place(), "opening", error)
    }

    /// What the database looks like now.
    ///
    /// A commit always changes it: with a rollback journal the change counter in the file's header goes up, with a
    /// write-ahead log the log's index holds the checksum over all committed frames. So it can be taken at any moment,
    /// locked or not; taken before a read transaction begins, it is never newer than what that reads.
    pub(super) fn stamp(&self) -> Result<Stamp> {
        let (mut stamp, doubtful) = self.look()?;
        if doubtful && !self.is_own(&stamp) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            stamp.0.extend_from_slice(&now.as_nanos().to_le_bytes());
        }
        Ok(stamp)
    }

    /// The stamp, and whether another commit might leave the same: the log is gone and the clock has hardly moved since.
    fn look(&self) -> Result<(Stamp, bool)> {
        let io_error = |source| Error::Io { doing: "examine", path: self.path.clone(), source };
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Stamp::MISSING, false)),
            Err(error) => return Err(io_error(error)),
        };
        let mut bytes = vec![1];
        put_metadata(&mut bytes, &metadata);
        let Some(header) = header(&self.path).map_err(io_error)? else {
            return Ok((Stamp(bytes), false));
        };
        // The file change counter (https://www.sqlite.org/fileformat2.html, 1.3.9).
        bytes.extend_from_slice(&header[24..28]);
        let target = fs::canonicalize(&self.path).map_err(io_error)?;
        let wal = wal_state(&target).map_err(io_error)?;
        let doubtful = wal.is_none() && is_wal(&header) && is_recent(&metadata);
        bytes.extend_from_slice(&wal.unwrap_or_default());
        Ok((Stamp(bytes), doubtful))
    }

    /// The stamp just after a commit of `connection`, whose log is empty if nobody else uses it.
    ///
    /// Says nothing of what others may have committed since.
    pub(super) fn stamp_of_commit(&self, connection: &rusqlite::Connection) -> Result<Stamp> {
        if !empty_log(connection) {
            return self.stamp();
        }
        // A time between the clock's ticks: whoever writes next leaves another one, however soon that is. Only the file's
        // owner may set it; without it, the next look at the database may find it changed when it isn't.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = Timespec { tv_sec: now.as_secs() as i64, tv_nsec: now.subsec_nanos().into() };
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: keep, last_modification: time };
        if utimensat(CWD, &self.path, &times, AtFlags::empty()).is_ok() {
            // What the stamp is without the doubt that a time so recent brings.
            *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.look()?.0);
        }
        self.stamp()
    }

    fn is_own(&self, stamp: &Stamp) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(stamp)
    }

    /// The files beside the database that belong to it.
    pub(super) fn companions(&self) -> [PathBuf; 3] {
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        [with_suffix(&target, "-wal"), with_suffix(&target, "-journal"), with_suffix(&target, "-shm")]
    }
}

/// Moves the write-ahead log into the database, as the last connection does on closing, so that closing changes nothing any
/// more; whether there was one and nobody else was using it.
fn empty_log(connection: &rusqlite::Connection) -> bool {
    let checkpoint = || -> Result<bool, rusqlite::Error> {
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        if mode != "wal" {
            return Ok(false);
        }
        connection.busy_timeout(Duration::ZERO)?;
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        Ok(busy == 0)
    };
    checkpoint().unwrap_or(false)
}

/// A stamp that equals no other: what is there now can't be told from what somebody else just wrote.
pub(super) fn unknown_stamp() -> Stamp {
    Stamp(vec![0])
}

/// What `error` means; `place` is the database or the table.
pub(super) fn database_error(place: String, doing: &'static str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked { place },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::Data {
            position: Position { place, ..Position::default() },
            problem: format!("not a sound SQLite database: {error}"),
        },
        _ => Error::Database { place, doing, source: Box::new(error) },
    }
}

fn extended_code(error: &rusqlite::Error) -> i32 {
    error.sqlite_error().map_or(0, |error| error.extended_code)
}

fn put_metadata(out: &mut Vec<u8>, metadata: &Metadata) {
    out.extend_from_slice(&metadata.dev().to_le_bytes());
    out.extend_from_slice(&metadata.ino().to_le_bytes());
    out.extend_from_slice(&metadata.len().to_le_bytes());
    out.extend_from_slice(&metadata.mtime().to_le_bytes());
    out.extend_from_slice(&metadata.mtime_nsec().to_le_bytes());
}

fn is_recent(metadata: &Metadata) -> bool {
    let Ok(modified) = metadata.modified() else { return true };
    match SystemTime::now().duration_since(modified) {
        Ok(age) => age < CLOCK_COARSENESS,
        Err(ahead) => ahead.duration() < CLOCK_COARSENESS,
    }
}

/// Whether the header says that readers must look for a write-ahead log.
fn is_wal(header: &[u8; 32]) -> bool {
    header[19] == 2
}

/// The first bytes of the database; `None` where there are fewer.
fn header(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut header = [0; 32];
    Ok(Descriptors::lock().read(path, &mut header)?.then_some(header))
}

/// What readers would see of the write-ahead log of the database at `target`; `None` where the log holds nothing.
fn wal_state(target: &Path) -> io::Result<Option<Vec<u8>>> {
    let wal = with_suffix(target, "-wal");
    let metadata = match fs::metadata(&wal) {
        Ok(metadata) if metadata.len() >= WAL_HEADER_BYTES => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // The WAL index header (https://www.sqlite.org/walformat.html, 2.1): byte 12 says that it is set up, 16 to 40 are the
    // last committed frame, the database's size, the checksum of all frames and the salts.
    let mut index = [0; 48];
    let mut state = vec![2];
    if Descriptors::lock().read(&with_suffix(target, "-shm"), &mut index)? && index[12] == 1 {
        state.extend_from_slice(&metadata.ino().to_le_bytes());
        state.extend_from_slice(&index[16..40]);
        return Ok(Some(state));
    }
    // Nobody has it open: the log lies there as a crash left it.
    let mut head = [0; WAL_HEADER_BYTES as usize];
    let read = Descriptors::lock().read(&wal, &mut head)?;
    state.push(u8::from(read));
    put_metadata(&mut state, &metadata);
    state.extend_from_slice(&head);
    Ok(Some(state))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Descriptors of database files that are not SQLite's own, and how many connections are open.
struct Descriptors {
    connections: usize,
    /// Kept until no connection is open.
    parked: Vec<Parked>,
}

struct Parked {
    device: u64,
    inode: u64,
    file: File,
}

static DESCRIPTORS: Mutex<Descriptors> = Mutex::new(Descriptors { connections: 0, parked: Vec::new() });

impl Descriptors {
    fn lock() -> MutexGuard<'static, Descriptors> {
        DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `out` from the file's start; `false` where the file is missing or shorter.
    fn read(&mut self, path: &Path, out: &mut [u8]) -> io::Result<bool> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let parked = self.parked.iter().find(|it| it.device == metadata.dev() && it.inode == metadata.ino());
        if let Some(parked) = parked {
            return fill(&parked.file, out);
        }
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let result = fill(&file, out);
        if self.connections > 0 {
            // The path may name another file by now than it did above.
            let (device, inode) = file.metadata().map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()));
            self.parked.push(Parked { device, inode, file });
        }
        result
    }
}

fn fill(file: &File, out: &mut [u8]) -> io::Result<bool> {
    match file.read_exact_at(out, 0) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Counts a connection while it lives.
struct Lease;

impl Lease {
    fn take() -> Lease {
        Descriptors::lock().connections += 1;
        Lease
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut descriptors = Descriptors::lock();
        descriptors.connections -= 1;
        if descriptors.connections == 0 {
            descriptors.parked.clear();
        }
    }
}
