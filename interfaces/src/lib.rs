//! Interfaces: each reads and writes one kind of store and converts it from and to the universal format.
//!
//! An [`Interface`] is source and destination at once. Reading is a [`Scan`]: one consistent view, record by record, with a
//! cheap fingerprint for each record, so that a record that stands as it stood is neither decoded nor compared. Writing is
//! two steps: [`Interface::stage`] builds the new state beside the old (a temporary file, an open transaction), and
//! [`Staged::commit`] makes it the destination's in one atomic step.
//!
//! This crate knows nothing of buses, receivers or state stores. What a store can't hold as it is comes out of
//! [`Interface::project`] in the form in which it would be read back.

use std::time::Duration;

use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, CollectionName, Field};
use deltabus_record::value::{KindSet, Value};

pub mod contents;
mod databases;
mod error;
pub mod file;
mod folder;
mod formats;
pub mod found;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod in_place;
mod location;
mod tree;
pub mod wake;
pub mod watch;

pub use contents::{Contents, NoContents};
pub use error::{Error, Position};
pub use file::Temporary;
pub use in_place::in_place;
pub use location::{INTERFACES, Location, Options};
pub use watch::{Notify, Signal, Watching};

/// Opens the store at `location`; nothing is read yet.
///
/// Fails with [`Error::Location`] for options that the interface doesn't know.
pub fn open(location: &Location) -> Result<Box<dyn Interface>> {
    match location.interface.as_str() {
        "csv" | "tsv" => Ok(Box::new(formats::csv::Csv::open(location)?)),
        "icalendar" => Ok(Box::new(formats::icalendar::ICalendar::open(location)?)),
        "json" | "ndjson" => Ok(Box::new(formats::json::Json::open(location)?)),
        "postgres" => Ok(Box::new(databases::postgres::Postgres::open(location)?)),
        "vcard" => Ok(Box::new(formats::vcard::Vcard::open(location)?)),
        "sqlite" => Ok(Box::new(databases::sqlite::Sqlite::open(location)?)),
        "tree" => Ok(Box::new(tree::Tree::open(location)?)),
        other => Err(location.error(format!("there is no interface `{other}`; there are {}", INTERFACES.join(", ")))),
    }
}

/// One kind of store at one location, as source and destination at once.
///
/// Calls block; none is made from an async thread. One writer at a time.
pub trait Interface: Send + Sync {
    /// What is there now, cheaply: two equal stamps mean that nothing has changed in between (size, mtime and inode of
    /// a file; a database's data version).
    ///
    /// [`Stamp::MISSING`] where the store does not exist; an error where that can't be told.
    fn stamp(&self) -> Result<Stamp, Error>;

    /// Calls `notify`, from a thread of its own, when the store may have changed, until what this gives is dropped; `None`
    /// where only polling helps. Notifications are hints: there is always polling beside them.
    fn watch(&self, notify: Notify) -> Result<Option<Watching>>;

    /// How often to look beside notifications, unless somebody says otherwise: a look is one [`Interface::stamp`].
    fn poll(&self) -> Duration {
        wake::POLL
    }

    /// Whether a state that can be read is always one that somebody finished, as a database's commits are. Files may be
    /// half written: they are read when it is quiet.
    fn commits(&self) -> bool;

    /// Opens one consistent view of everything. [`Error::Missing`] where the store does not exist.
    ///
    /// `since` is the stamp of an earlier scan or commit, all of which is known: a store that can tell what was not
    /// written since then offers to leave that out ([`Scan::extent`]).
    fn scan(&self, since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>>;

    /// Gives the bytes behind each reference ([`Value::Large`]) that the last scan decoded.
    ///
    /// Only for stores that read long contents by reference; the others have nothing to give.
    fn contents(&self) -> &dyn Contents {
        &NoContents
    }

    /// The kinds that `field` of this store keeps as they are: reading back gives the very same value. For them
    /// [`Interface::project`] is not called, nor for texts without NUL where these are said to be kept
    /// ([`KindSet::and_plain_text`]).
    fn verbatim(&self, field: &Field) -> KindSet;

    /// The value that would be read back after `value` was written to `field`: itself, or its documented encoding.
    ///
    /// Projecting twice is projecting once. `Err` says why this store refuses the value.
    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal>;

    /// Whether a collection like the source's can be kept here at all; `Err` says what it would need. Stores of one fixed
    /// kind of record take no others.
    fn takes(&self, collection: &Collection) -> Result<(), Refusal> {
        let _ = collection;
        Ok(())
    }

    /// Fields that records have here whatever was written to them: no difference where the other side lacks them.
    fn own_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// The field in which this store, when it makes the collection itself, would keep the source's `field`.
    fn field_for(&self, field: &Field) -> Field;

    /// Builds the state that `writes` lead to, beside the one there. Nothing is visible before [`Staged::commit`];
    /// dropping the result leaves everything as it was. References among the values are read from `contents`; they occur
    /// only in fields that keep [`Kind::Large`](deltabus_record::value::Kind::Large) verbatim.
    ///
    /// Fails with [`Error::Changed`] if somebody else wrote the store after `expected`, as far as that touches what is to
    /// be written here.
    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>, Error>;

    /// The mark that the last commit of `owner` left. Only stores that commit data and mark in one transaction keep
    /// marks; for the others this is `None` and [`Staged::content`] takes its place.
    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>, Error>;

    /// Whether the store keeps marks (see [`Interface::mark`]).
    fn transactional(&self) -> bool;

    /// Whether the store holds a single collection, whatever its name (a CSV file), or several by name (a database).
    fn single_collection(&self) -> bool;

    /// BLAKE3 of what is there, for stores that are not [`Interface::transactional`]; `None` where nothing is there.
    fn content(&self) -> Result<Option<Content>, Error>;
}

/// Result of opening things that borrow the interface.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a store looked like, for comparing; opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stamp(pub Vec<u8>);

impl Stamp {
    /// The stamp of a store that does not exist.
    pub const MISSING: Stamp = Stamp(Vec::new());

    /// Whether the store does not exist.
    pub fn is_missing(&self) -> bool {
        self.0.is_empty()
    }
}

/// BLAKE3 of a store's whole content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(pub [u8; 32]);

/// Says how far a destination is; kept by the destination itself, in the transaction that brings the data there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose mark: `source/receiver`.
    pub owner: String,
    /// What it says; opaque.
    pub value: Vec<u8>,
}

/// Why a store can't hold a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// One sentence with the value's kind and what the store would need.
    pub reason: String,
}

/// One consistent view of a store, read record by record.
///
/// ```text
/// for i in 0..scan.collections().len() {
///     scan.start(i, scan.extent(i))?;
///     while let Some(fingerprint) = scan.next()? {
///         if unknown(fingerprint) { row.clear(); if scan.decode(&mut row)? == Decoded::Record { … } }
///     }
/// }
/// scan.finish()?;
/// ```
pub trait Scan: Send {
    /// The collections there, with schemas whose slots are in the order in which [`Scan::decode`] gives the values.
    fn collections(&self) -> &[Collection];

    /// The stamp of exactly what is read.
    fn stamp(&self) -> &Stamp;

    /// Names the layout of collection `index` (header, dialect, options): fingerprints mean the same only under the same
    /// layout.
    fn layout(&self, index: usize) -> u64;

    /// How many bytes there are to read, for progress; `None` where that can't be told cheaply.
    fn bytes_total(&self) -> Option<u64>;

    /// How many of them have been read.
    fn bytes_read(&self) -> u64;

    /// How much of collection `index` has to be read, seen from the stamp that [`Interface::scan`] was given.
    fn extent(&self, index: usize) -> Extent {
        let _ = index;
        Extent::Whole
    }

    /// Begins to read collection `index`: as much as [`Scan::extent`] offered, or [`Extent::Whole`]. Collections are read
    /// in order; one that was read in part may be read again as a whole.
    fn start(&mut self, index: usize, extent: Extent) -> Result<()>;

    /// Goes on to the next record and gives the fingerprint of its stored form (xxh3, 64 bits); `None` after the last.
    ///
    /// Equal fingerprints under equal layouts mean equal records. Structural damage is noticed here.
    fn next(&mut self) -> Result<Option<Fingerprint>>;

    /// Appends the current record's values to `row`, one for each field of the schema.
    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded>;

    /// What could not be read so far, while the rest could.
    fn unread(&self) -> &[Unread] {
        &[]
    }

    /// Where the current record stands, for messages.
    fn position(&self) -> Position;

    /// Confirms that all that was read belonged to one state; [`Error::Changed`] if the store was written meanwhile.
    fn finish(&mut self) -> Result<()>;
}

/// How much of a collection a scan gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every record.
    Whole,
    /// Every record that may have been written since the stamp; `kept` others stand as they stood then. A record known
    /// then that is neither given nor among those kept is gone: reading the whole tells which.
    Since {
        /// How many records stand as they stood.
        kept: u64,
    },
}

/// What became of a record that was to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decoded {
    /// Its values are in the row.
    Record,
    /// It can't be read, for a reason that [`Scan::unread`] has; the row means nothing.
    Unread,
}

/// A part of a store that could not be read, while the rest could: what was known of it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Where.
    pub position: Position,
    /// Why, for people.
    pub problem: String,
    /// Which records are not to be missed.
    pub hides: Hides,
}

/// Which records an [`Unread`] part hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hides {
    /// The record of this key.
    Record(Key),
    /// Every record whose key begins with this text.
    Below(String),
}

/// A 64-bit hash of a record as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

/// What is to be written to one collection.
///
/// Values are projected already ([`Interface::project`]); rows are in the slots of `collection`.
pub struct CollectionWrite<'a> {
    /// What the collection is to look like here. Missing collections and fields are made; what else the store has stays.
    pub collection: &'a Collection,
    /// Fields that the source no longer has and that are to go here too, where the store can drop a field.
    pub dropped: &'a [String],
    /// The records.
    pub action: Action<'a>,
}

/// What to do with a collection's records.
pub enum Action<'a> {
    /// The collection is missing or empty; all these records come in.
    Load(&'a mut dyn Records),
    /// Some records change, at most one write a key.
    Write(&'a [RecordWrite]),
    /// The collection goes, with all its records.
    Remove,
}

/// A stream of records to load.
pub trait Records: Send {
    /// Goes on to the next record; `false` after the last. An error ends the load and nothing is kept.
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>>;

    /// The current record's key.
    fn key(&self) -> &[u8];

    /// The current record's row, encoded.
    fn row(&self) -> &[u8];
}

/// What is to become of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordWrite {
    /// The record is there afterwards. If it is there already, only the slots in `changed` are written and all else that
    /// stands there stays; if not, the whole row comes in. With whole-row keys one more such row comes in.
    Put {
        /// Its key.
        key: Key,
        /// All its values.
        row: Row,
        /// The slots that differ from what was there.
        changed: Vec<u32>,
    },
    /// The record is not there afterwards. With whole-row keys one such row goes.
    Remove {
        /// Its key.
        key: Key,
        /// Its values, as far as known.
        row: Row,
    },
}

/// A state that is ready beside the old one.
pub trait Staged {
    /// BLAKE3 of the store after the commit, where it is not [`Interface::transactional`].
    fn content(&self) -> Option<Content>;

    /// Hands over the file that will take the store's place, for stores that are one file: it is where it is until the commit
    /// has happened, and is there no more from then on, whoever writes the store afterwards. So it tells after a crash
    /// whether there was a commit. It goes with what this gives.
    fn temporary(&mut self) -> Option<Temporary> {
        None
    }

    /// Makes it the store's state in one atomic and durable step; [`Error::Changed`] and nothing done if somebody else
    /// wrote in the meantime. Gives the stamp of the new state.
    fn commit(self: Box<Self>) -> Result<Stamp>;
}

/// What an interface calls a collection that has no name of its own: the file's stem.
pub fn stem(path: &std::path::Path) -> CollectionName {
    CollectionName::new(path.file_stem().map_or("records".into(), |stem| stem.to_string_lossy()).into_owned())
}
