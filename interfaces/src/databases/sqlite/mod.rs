//! SQLite databases: `sqlite:app.db?tables=orders,items`.
//!
//! | option | |
//! |---|---|
//! | `tables=a,b` | the tables; else all but SQLite's own, `_deltabus` and those that virtual tables keep their data in. Views and virtual tables can be read where they are named here |
//! | `key.TABLE=a,b` | the key of one table; else its primary key, else the whole row |
//! | `key=a,b` | the same where one table is named |
//! | `busy_timeout=5000` | how many milliseconds to wait for a lock that another program holds |
//!
//! Where one table is named, it stands for a source's single collection, whatever that is called.
//!
//! Reading takes one read transaction on a read-only connection and never writes to the database (to read one in WAL mode,
//! SQLite must make `-wal` and `-shm` files beside it; a journal that a crash left is rolled back first). A table's
//! fields are its columns in declared order, but for generated columns, which SQLite computes itself wherever the table is.
//! [`types`] has what each value becomes.
//!
//! Writing takes one transaction from [`Interface::stage`] to the commit, with foreign keys checked at its end; the mark lies
//! in the table `_deltabus`. A database that isn't there yet is built beside its place and renamed. A record is updated by its
//! key and inserted where there is none, so a table whose key has no index is slow to write.

mod binding;
mod connection;
mod read;
mod records;
mod table;
mod types;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use deltabus_record::schema::Field;
use deltabus_record::value::{KindSet, Value};
use rusqlite::OptionalExtension;

use self::connection::{Database, database_error};
use crate::file::FileStore;
use crate::{
    CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Refusal, Result, Scan, Staged, Stamp,
    Watching,
};

/// How long to wait for another program's lock, in milliseconds: longer than any sensible transaction, short enough for a
/// person to wait.
const BUSY_TIMEOUT_MS: u64 = 5_000;

/// Where marks are kept.
const MARK_TABLE: &str = "_deltabus";

const OPTIONS: &[&str] = &["tables", "key", "key.TABLE", "busy_timeout"];

/// A SQLite database as source and destination; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Sqlite {
    location: Location,
    database: Database,
    /// Makes new databases.
    store: FileStore,
    selection: Selection,
}

/// Which tables, with which keys.
#[derive(Clone, Debug)]
struct Selection {
    /// As named; empty for all.
    tables: Vec<String>,
    /// Columns by table, as named.
    keys: BTreeMap<String, Vec<String>>,
}

impl Selection {
    /// The one table, where one is named.
    fn single(&self) -> Option<&str> {
        match self.tables.as_slice() {
            [table] => Some(table),
            _ => None,
        }
    }

    fn key(&self, table: &str) -> Option<&[String]> {
        let exact = self.keys.get(table);
        let named = || self.keys.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)).map(|(_, key)| key);
        exact.or_else(named).map(Vec::as_slice)
    }
}

impl Sqlite {
    /// The database at `location`; nothing is read yet.
    pub(crate) fn open(location: &Location) -> Result<Sqlite> {
        let mut options = location.options.clone();
        let list = |option: &str, value: &str| -> Result<Vec<String>> {
            let names: Vec<_> = value.split(',').map(|name| name.trim().to_owned()).collect();
            match names.iter().any(String::is_empty) {
                true => Err(location.error(format!("option `{option}` has an empty name in `{value}`"))),
                false => Ok(names),
            }
        };
        let tables = options.take("tables").map_or(Ok(Vec::new()), |value| list("tables", &value))?;
        if let Some(own) = tables.iter().find(|table| is_own(table)) {
            return Err(location.error(format!("`{own}` is no table of the data")));
        }
        let mut keys = BTreeMap::new();
        for (table, value) in options.take_prefixed("key.") {
            let option = format!("key.{table}");
            if !tables.is_empty() && !tables.iter().any(|named| named.eq_ignore_ascii_case(&table)) {
                return Err(location.error(format!("option `{option}`: `tables` doesn't name `{table}`")));
            }
            keys.insert(table, list(&option, &value)?);
        }
        if let Some(value) = options.take("key") {
            let [table] = tables.as_slice() else {
                return Err(location.error("option `key` is for one table, named by `tables`; else say `key.TABLE=…`"));
            };
            if keys.insert(table.clone(), list("key", &value)?).is_some() {
                return Err(location.error(format!("`key` and `key.{table}` are the same option")));
            }
        }
        let busy_timeout = match options.take("busy_timeout") {
            // SQLite counts milliseconds in 31 bits.
            Some(value) => value.parse::<u64>().ok().filter(|ms| *ms <= i32::MAX as u64).ok_or_else(|| {
                location.error(format!("option `busy_timeout`: `{value}` is no number of milliseconds"))
            })?,
            None => BUSY_TIMEOUT_MS,
        };
        options.finish(location, OPTIONS)?;
        let database = Database::new(&location.path, Duration::from_millis(busy_timeout));
        Ok(Sqlite {
            store: FileStore::new(&location.path),
            database,
            selection: Selection { tables, keys },
            location: location.clone(),
        })
    }
}

/// Whether the table is SQLite's or ours, not the data's.
fn is_own(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    table.starts_with("sqlite_") || table == MARK_TABLE
}

impl Interface for Sqlite {
    fn stamp(&self) -> Result<Stamp> {
        self.database.stamp()
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        let [wal, ..] = self.database.companions();
        Ok(Some(Watching::files(&[self.database.path.clone(), wal], notify)?))
    }

    fn commits(&self) -> bool {
        true
    }

    fn scan(&self, _since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        Ok(Box::new(read::TableScan::begin(&self.database, &self.selection, &self.location)?))
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        types::verbatim(field)
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        types::project(value, field)
    }

    fn field_for(&self, field: &Field) -> Field {
        types::field_for(field)
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        _contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        write::stage(self, writes, expected, mark)
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        let connection = match self.database.open_for_reading() {
            Ok(connection) => connection,
            Err(Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mark = || -> Result<Option<Vec<u8>>, rusqlite::Error> {
            let there = connection
                .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?")?
                .exists([MARK_TABLE])?;
            if !there {
                return Ok(None);
            }
            let sql = format!("SELECT value FROM {MARK_TABLE} WHERE owner = ?");
            connection.query_row(&sql, [owner], |row| row.get(0)).optional()
        };
        mark().map_err(|error| database_error(self.database.place(), "reading the mark", error))
    }

    fn transactional(&self) -> bool {
        true
    }

    fn single_collection(&self) -> bool {
        self.selection.single().is_some()
    }

    fn content(&self) -> Result<Option<Content>> {
        Ok(None)
    }
}
