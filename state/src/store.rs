//! The store of one owner: one folder, one process.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, ReceiverName, SourceName};
use deltabus_record::value::Value;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use crate::Error;
use crate::batch::Batch;
use crate::directory::create_private;
use crate::load::Load;
use crate::probe::{Probe, Step};
use crate::requests::REQUESTS;
use crate::view::View;

/// The layout of a state folder; another number is another layout.
const FORMAT: &str = "deltabus state 1";

/// Blocks of records kept in memory. Point reads are of changed records only, so a small cache serves.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Records waiting in memory to be written out, for each collection. Larger ones make bulk loads only a little faster.
const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;

/// The journal may grow to this before records are written out whatever their number.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// The longest key that the engine takes; it asserts that.
pub(crate) const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// The key, if the engine takes it.
pub(crate) fn checked<K: AsRef<[u8]>>(key: K) -> Result<K, Error> {
    match key.as_ref().len() {
        0..=KEY_BYTES_MAX => Ok(key),
        bytes => Err(Error::KeyTooLong { bytes }),
    }
}

/// Whose state a folder holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The transmitter of a source.
    Transmitter {
        /// The source.
        source: SourceName,
    },
    /// A receiver of a source.
    Receiver {
        /// The source.
        source: SourceName,
        /// The receiver.
        receiver: ReceiverName,
    },
}

impl Owner {
    fn marker(&self) -> String {
        match self {
            Owner::Transmitter { source } => format!("{FORMAT}\ntransmitter of {source}\n"),
            Owner::Receiver { source, receiver } => format!("{FORMAT}\nreceiver {receiver} of {source}\n"),
        }
    }
}

/// The records, the outbox and the memory of one transmitter or receiver.
///
/// Cloning is cheap. The folder is locked as long as a clone lives.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) database: Database,
    /// Collections by name, counters and the owner's own entries.
    pub(crate) meta: Keyspace,
    pub(crate) overlay: Keyspace,
    pub(crate) outbox: Keyspace,
    pub(crate) catalogue: RwLock<Catalogue>,
    pub(crate) probe: Option<Arc<dyn Probe>>,
    _lock: File,
}

/// The collections and where their records lie.
#[derive(Clone, Default)]
pub(crate) struct Catalogue {
    pub(crate) entries: Vec<Entry>,
    /// Collections that were put aside.
    pub(crate) aside: Vec<Entry>,
    pub(crate) next_id: u32,
}

/// One collection and its records.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    pub(crate) collection: Collection,
    pub(crate) records: Keyspace,
}

impl Catalogue {
    pub(crate) fn entry(&self, name: &CollectionName) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.collection.name == *name)
    }
}

/// An entry that only carries the engine's sequence number on.
const SEQUENCE: &str = "\0sequence";

/// More sequence numbers than making or removing one keyspace takes.
const SEQUENCE_STEPS: usize = 8;

/// Meta entries of the store itself begin with this; the owner's don't.
pub(crate) const COLLECTION_PREFIX: &str = "\0collection/";

/// The same for collections that were put aside.
pub(crate) const ASIDE_PREFIX: &str = "\0aside/";

impl Store {
    /// Opens the folder `dir` of `owner`; a missing or empty folder becomes a new store.
    ///
    /// Fails with [`Error::Busy`] if another process, or this one, has it open.
    pub fn open(dir: &Path, owner: &Owner) -> Result<Store, Error> {
        Store::open_probed(dir, owner, None)
    }

    pub(crate) fn open_probed(dir: &Path, owner: &Owner, probe: Option<Arc<dyn Probe>>) -> Result<Store, Error> {
        create_private(dir)?;
        let mut lock = lock(dir)?;
        check_marker(dir, owner)?;
        sign(&mut lock, dir)?;
        let damaged = |source: fjall::Error| match source {
            fjall::Error::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
                Error::Io { doing: "open", path: dir.to_owned(), source }
            }
            source => Error::Damaged { dir: dir.to_owned(), source: source.into() },
        };
        let database = Database::builder(dir.join(RECORDS_FOLDER))
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .manual_journal_persist(true)
            .worker_threads(1)
            .open()
            .map_err(damaged)?;
        let meta = database.keyspace("meta", small_keyspace).map_err(damaged)?;
        let overlay = database.keyspace("overlay", small_keyspace).map_err(damaged)?;
        let outbox = database.keyspace("outbox", small_keyspace).map_err(damaged)?;
        let catalogue = read_catalogue(dir, &database, &meta).map_err(|error| match error {
            Error::Store { dir, source, .. } => Error::Damaged { dir, source: source.into() },
            error => error,
        })?;
        let inner = Inner {
            dir: dir.to_owned(),
            database,
            meta,
            overlay,
            outbox,
            catalogue: RwLock::new(catalogue),
            probe,
            _lock: lock,
        };
        inner.carry_sequence(SEQUENCE_STEPS)?;
        inner.remove_orphans()?;
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// A consistent view of all that is committed.
    pub fn view(&self) -> View {
        // The lock is held while the snapshot is taken, so that catalogue and records are of one commit.
        let catalogue = self.inner.catalogue.read().expect("no holder of this lock panics");
        View::new(self.inner.database.snapshot(), catalogue.clone(), Arc::clone(&self.inner))
    }

    /// Begins a transaction.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.inner))
    }

    /// Begins to load the records of a collection anew; see [`Load`].
    pub fn load(&self, collection: &Collection) -> Result<Load, Error> {
        Load::begin(Arc::clone(&self.inner), collection)
    }

    /// Replaces the status file, which other processes can read while this one has the store.
    pub fn write_status(&self, status: &[u8]) -> Result<(), Error> {
        self.write_beside(STATUS_FILE, status)
    }

    /// Replaces the list of dead letters, which other processes can read as well.
    pub fn write_letters(&self, letters: &[u8]) -> Result<(), Error> {
        self.write_beside(LETTERS_FILE, letters)
    }

    fn write_beside(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.inner.dir.join(name);
        let temporary = self.inner.dir.join(format!(".{name}.new"));
        fs::write(&temporary, content).and_then(|()| fs::rename(&temporary, &path)).map_err(|source| Error::Io {
            doing: "write",
            path,
            source,
        })
    }
}

/// Where the owner says how it is, for other processes.
const STATUS_FILE: &str = "status.json";

/// Where the owner lists changes that were refused.
const LETTERS_FILE: &str = "dead-letters.json";

/// What the owner of a folder last said about itself; `None` if nothing.
pub fn read_status(dir: &Path) -> Option<Vec<u8>> {
    fs::read(dir.join(STATUS_FILE)).ok()
}

/// What the owner of a folder last listed as dead letters; `None` if nothing.
pub fn read_letters(dir: &Path) -> Option<Vec<u8>> {
    fs::read(dir.join(LETTERS_FILE)).ok()
}

/// Whether some process has the folder open.
pub fn is_busy(dir: &Path) -> bool {
    dir.join(LOCK_FILE).is_file() && matches!(lock(dir), Err(Error::Busy { .. }))
}

impl Inner {
    pub(crate) fn error(&self, doing: &'static str) -> impl Fn(fjall::Error) -> Error + '_ {
        move |source| Error::Store { doing, dir: self.dir.clone(), source }
    }

    /// Makes the keyspace for a collection's records.
    pub(crate) fn new_records(&self) -> Result<(u32, Keyspace), Error> {
        let mut catalogue = self.catalogue.write().expect("no holder of this lock panics");
        let id = catalogue.next_id;
        catalogue.next_id += 1;
        let records = self.database.keyspace(&records_name(id), records_keyspace).map_err(self.error("extend"))?;
        self.carry_sequence(1)?;
        Ok((id, records))
    }

    /// Removes records that nobody needs. What stays behind is removed at the next start.
    pub(crate) fn remove_records(&self, records: Keyspace) -> Result<(), Error> {
        self.database.delete_keyspace(records).map_err(self.error("shrink"))?;
        self.carry_sequence(1)
    }

    /// Makes durable how far the engine's sequence numbers are, by so many writes.
    ///
    /// What keyspaces there are is kept in a tree whose numbers the engine (fjall 3.1) doesn't recover when it is opened: one
    /// made then may count as older than the removal of another in whose place it comes, and is gone the next time. So
    /// every such change is followed by a write to a tree whose numbers are recovered; at the start they are carried past a
    /// change that was cut off before that.
    fn carry_sequence(&self, steps: usize) -> Result<(), Error> {
        for step in 1..=steps {
            let durability = (step == steps).then_some(PersistMode::SyncAll);
            let mut batch = self.database.batch().durability(durability);
            batch.insert(&self.meta, SEQUENCE, []);
            batch.commit().map_err(self.error("commit"))?;
        }
        Ok(())
    }

    /// Removes records of loads that were never finished, and of collections replaced or gone.
    fn remove_orphans(&self) -> Result<(), Error> {
        for name in self.database.list_keyspace_names() {
            let Some(id) = name.strip_prefix("records-").and_then(|id| id.parse::<u32>().ok()) else { continue };
            let known = {
                let mut catalogue = self.catalogue.write().expect("no holder of this lock panics");
                catalogue.next_id = catalogue.next_id.max(id.saturating_add(1));
                catalogue.entries.iter().chain(&catalogue.aside).any(|entry| entry.id == id)
            };
            if !known {
                let orphan = self.database.keyspace(&name, records_keyspace).map_err(self.error("shrink"))?;
                self.remove_records(orphan)?;
            }
        }
        Ok(())
    }

    pub(crate) fn probe(&self, step: Step) -> Result<(), Error> {
        match &self.probe {
            Some(probe) => probe.at(step).map_err(|error| self.error("commit")(error.into())),
            None => Ok(()),
        }
    }

    pub(crate) fn persist(&self) -> Result<(), Error> {
        self.database.persist(PersistMode::SyncAll).map_err(self.error("sync"))
    }
}

pub(crate) fn records_name(id: u32) -> String {
    format!("records-{id}")
}

fn small_keyspace() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

fn records_keyspace() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

/// The value of a collection's meta entry.
pub(crate) fn entry_bytes(id: u32, collection: &Collection) -> Vec<u8> {
    Row::of(&[Value::Integer(id.into()), Value::Bytes(collection.to_bytes())]).as_bytes().to_vec()
}

fn read_catalogue(dir: &Path, database: &Database, meta: &Keyspace) -> Result<Catalogue, Error> {
    let store = |source| Error::Store { doing: "read", dir: dir.to_owned(), source };
    let damaged = |problem: &str| Error::Damaged { dir: dir.to_owned(), source: problem.to_owned().into() };
    let mut catalogue = Catalogue::default();
    let snapshot = database.snapshot();
    let of = |prefix, aside: bool| snapshot.prefix(meta, prefix).map(move |guard| (guard, aside));
    for (guard, aside) in of(COLLECTION_PREFIX, false).chain(of(ASIDE_PREFIX, true)) {
        let (_, value) = guard.into_inner().map_err(store)?;
        let row = Row::from_bytes(&value).map_err(|error| damaged(&error.to_string()))?;
        let values = row.values();
        let [Value::Integer(id), Value::Bytes(bytes)] = values.as_slice() else {
            return Err(damaged("an entry of the catalogue has another shape"));
        };
        let id = u32::try_from(*id).map_err(|_| damaged("an entry of the catalogue has no number"))?;
        let collection = Collection::from_bytes(bytes).map_err(|error| damaged(&error.to_string()))?;
        if !database.keyspace_exists(&records_name(id)) {
            return Err(damaged("the records of a collection are missing"));
        }
        let records = database.keyspace(&records_name(id), records_keyspace).map_err(store)?;
        catalogue.next_id = catalogue.next_id.max(id + 1);
        let entries = if aside { &mut catalogue.aside } else { &mut catalogue.entries };
        entries.push(Entry { id, collection, records });
    }
    catalogue.entries.sort_by(|a, b| a.collection.name.cmp(&b.collection.name));
    catalogue.aside.sort_by(|a, b| a.collection.name.cmp(&b.collection.name));
    Ok(catalogue)
}

pub(crate) const LOCK_FILE: &str = "lock";
pub(crate) const OWNER_FILE: &str = "owner";
pub(crate) const RECORDS_FOLDER: &str = "records";

/// The file that is locked for a folder.
pub(crate) fn open_lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK_FILE);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    file.map_err(|source| Error::Io { doing: "lock", path, source })
}

/// Locks a folder for as long as the result lives; [`Error::Busy`] if somebody else has.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let failed = |source| Error::Io { doing: "lock", path: dir.join(LOCK_FILE), source };
    let mut file = open_lock(dir)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(Error::Busy { dir: dir.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(error) => return Err(failed(error.into())),
    }
    Ok(file)
}

/// Writes who holds the lock, for whoever meets it.
fn sign(lock: &mut File, dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { doing: "write", path: dir.join(LOCK_FILE), source };
    lock.set_len(0).map_err(failed)?;
    lock.rewind().map_err(failed)?;
    writeln!(lock, "{}", std::process::id()).map_err(failed)
}

fn check_marker(dir: &Path, owner: &Owner) -> Result<(), Error> {
    let path = dir.join(OWNER_FILE);
    let foreign = |problem: String| Error::Foreign { dir: dir.to_owned(), problem };
    match fs::read_to_string(&path) {
        Ok(found) if found == owner.marker() => Ok(()),
        Ok(found) => match found.strip_prefix(FORMAT) {
            Some(other) => Err(foreign(format!("holds the state of the {}", other.trim()))),
            None => Err(foreign("holds the state of another version of deltabus".into())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let strangers = fs::read_dir(dir)
                .map_err(|source| Error::Io { doing: "read", path: dir.to_owned(), source })?
                .flatten()
                .any(|entry| !OWN_FILES.iter().any(|own| entry.file_name() == **own));
            if strangers {
                return Err(foreign("holds files that are not deltabus's".into()));
            }
            fs::write(&path, owner.marker()).map_err(|source| Error::Io { doing: "write", path, source })
        }
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(foreign("holds files that are not deltabus's".into()))
        }
        Err(source) => Err(Error::Io { doing: "read", path, source }),
    }
}

/// Files that may stand in a folder before its store is made.
const OWN_FILES: &[&str] = &[LOCK_FILE, STATUS_FILE, LETTERS_FILE, REQUESTS, "location", "confirm"];
