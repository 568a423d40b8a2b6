//! Writing tables in one transaction.

use std::path::Path;
use std::time::Duration;

use deltabus_record::schema::{Collection, KeySpec, Schema};
use rusqlite::ffi;

use super::connection::{Connection, Database, database_error, unknown_stamp};
use super::records::Target;
use super::table::{Sort, Table, quote};
use super::types;
use super::{MARK_TABLE, Sqlite, is_own};
use crate::file::Replacement;
use crate::{Action, CollectionWrite, Content, Error, Mark, Result, Staged, Stamp};

/// Page cache for loading, in KiB: a sorted index of some million keys stays in memory.
const LOAD_CACHE_KIB: u32 = 64 * 1024;

/// Opens a transaction, checks that the database is at `expected` and writes everything; the commit is the caller's.
pub(super) fn stage<'a>(
    sqlite: &'a Sqlite,
    writes: &mut [CollectionWrite<'_>],
    expected: &Stamp,
    mark: Option<&Mark>,
) -> Result<Box<dyn Staged + 'a>> {
    let database = &sqlite.database;
    let changed = || Error::Changed { place: database.place() };
    if expected.is_missing() {
        if !database.stamp()?.is_missing() {
            return Err(changed());
        }
        check_nothing_left(database)?;
        let replacement = sqlite.store.replace(expected)?;
        let connection = Database::open_new(replacement.temporary_path())?;
        let begun = connection.execute_batch("BEGIN");
        begun.map_err(|error| database_error(database.place(), "beginning to write", error))?;
        write_all(sqlite, &connection, writes, mark)?;
        return Ok(Box::new(Built { database, connection, replacement }));
    }
    let connection = match database.open_for_writing() {
        Err(Error::Missing { .. }) => return Err(changed()),
        connection => connection?,
    };
    let begun = connection.execute_batch("BEGIN IMMEDIATE; PRAGMA defer_foreign_keys = ON");
    begun.map_err(|error| database_error(database.place(), "beginning to write", error))?;
    // Nobody else can commit from here on.
    if database.stamp()? != *expected {
        return Err(changed());
    }
    let commits_elsewhere = data_version(&connection, database)?;
    write_all(sqlite, &connection, writes, mark)?;
    Ok(Box::new(Transaction { database, connection, commits_elsewhere }))
}

fn write_all(
    sqlite: &Sqlite,
    connection: &Connection,
    writes: &mut [CollectionWrite<'_>],
    mark: Option<&Mark>,
) -> Result<()> {
    for write in writes {
        write_collection(sqlite, connection, write)?;
    }
    match mark {
        Some(mark) => write_mark(connection, mark)
            .map_err(|error| database_error(sqlite.database.table_place(MARK_TABLE), "writing the mark", error)),
        None => Ok(()),
    }
}

fn write_collection(sqlite: &Sqlite, connection: &Connection, write: &mut CollectionWrite<'_>) -> Result<()> {
    let name = sqlite.selection.single().unwrap_or(write.collection.name.as_str());
    let place = sqlite.database.table_place(name);
    let failed = |doing| {
        let place = place.clone();
        move |error| database_error(place, doing, error)
    };
    if is_own(name) {
        return Err(Error::Unsupported { place, problem: "no collection can have this name in SQLite".into() });
    }
    let found = Table::named(connection, name).map_err(failed("reading the table's columns"))?;
    if let Some(table) = found.as_ref().filter(|table| table.sort != Sort::Table) {
        let what = if table.sort == Sort::View { "a view" } else { "a virtual table" };
        return Err(Error::Unsupported { place, problem: format!("this is {what}, which can only be read") });
    }
    if let Action::Remove = write.action {
        return match found {
            Some(table) => connection
                .execute_batch(&format!("DROP TABLE main.{}", quote(&table.name)))
                .map_err(failed("dropping the table")),
            None => Ok(()),
        };
    }
    match &found {
        None => create(connection, name, write.collection, &place)?,
        Some(table) => {
            add_columns(connection, table, write.collection, &place)?;
            drop_columns(connection, table, write.dropped, &place)?;
        }
    }
    let table = Table::named(connection, name).map_err(failed("reading the table's columns"))?;
    let table = table.ok_or_else(|| Error::Unsupported {
        place: place.clone(),
        problem: "SQLite keeps no table of this name".into(),
    })?;
    let target = Target::new(connection, &table, &write.collection.schema, place)?;
    match &mut write.action {
        Action::Load(records) => {
            let cache = format!("PRAGMA cache_size = -{LOAD_CACHE_KIB}");
            connection.execute_batch(&cache).map_err(|error| target.failed("setting the cache", error))?;
            target.load(*records)
        }
        Action::Write(writes) => target.write(writes),
        Action::Remove => Ok(()),
    }
}

fn create(connection: &Connection, name: &str, collection: &Collection, place: &str) -> Result<()> {
    let schema = &collection.schema;
    check_names(schema, place)?;
    let key: &[u32] = match &schema.key {
        KeySpec::Fields(slots) => slots,
        KeySpec::WholeRow => &[],
    };
    let mut parts = Vec::new();
    let mut key_is_rowid = false;
    for (slot, field) in schema.ordered() {
        let declared = types::field_for(field).declared.unwrap_or_default();
        let mut part = format!("{} {declared}", quote(&field.name));
        if key.contains(&(slot as u32)) {
            if key.len() == 1 && declared.eq_ignore_ascii_case("INTEGER") {
                part.push_str(" PRIMARY KEY");
                key_is_rowid = true;
            } else {
                part.push_str(" NOT NULL");
            }
        }
        parts.push(part);
    }
    if parts.is_empty() {
        return Err(Error::Unsupported {
            place: place.to_owned(),
            problem: "SQLite has no tables without a column".into(),
        });
    }
    if !key.is_empty() && !key_is_rowid {
        let names: Vec<_> = schema.key_names().into_iter().map(quote).collect();
        parts.push(format!("PRIMARY KEY ({})", names.join(", ")));
    }
    let sql = format!("CREATE TABLE main.{} ({})", quote(name), parts.join(", "));
    connection.execute_batch(&sql).map_err(|error| database_error(place.to_owned(), "making the table", error))
}

fn add_columns(connection: &Connection, table: &Table, collection: &Collection, place: &str) -> Result<()> {
    check_names(&collection.schema, place)?;
    for (_, field) in collection.schema.ordered() {
        if table.column(&field.name).is_some() {
            continue;
        }
        if table.computed.iter().any(|name| name.eq_ignore_ascii_case(&field.name)) {
            return Err(Error::Unsupported {
                place: place.to_owned(),
                problem: format!("column `{}` is generated and can't be written; omit the field", field.name),
            });
        }
        let field = types::field_for(field);
        let declared = match table.strict {
            true => types::strict_type(&field),
            false => field.declared.as_deref().unwrap_or_default(),
        };
        let sql = format!("ALTER TABLE main.{} ADD COLUMN {} {declared}", quote(&table.name), quote(&field.name));
        connection.execute_batch(&sql).map_err(|error| database_error(place.to_owned(), "adding a column", error))?;
    }
    Ok(())
}

/// Drops columns; one that an index, a constraint or a view holds on to is emptied instead.
fn drop_columns(connection: &Connection, table: &Table, dropped: &[String], place: &str) -> Result<()> {
    for name in dropped {
        let Some(column) = table.column(name) else { continue };
        let column = quote(&table.columns[column].name);
        let table = quote(&table.name);
        let drop = format!("ALTER TABLE main.{table} DROP COLUMN {column}");
        let refused = match connection.execute_batch(&drop) {
            Ok(()) => continue,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => error,
            Err(error) => return Err(database_error(place.to_owned(), "dropping a column", error)),
        };
        connection.execute_batch(&format!("UPDATE main.{table} SET {column} = NULL")).map_err(|_| {
            Error::Unsupported {
                place: place.to_owned(),
                problem: format!("column `{name}` can neither be dropped nor emptied: {refused}"),
            }
        })?;
    }
    Ok(())
}

/// Names that SQLite takes for one are not two columns.
fn check_names(schema: &Schema, place: &str) -> Result<()> {
    let fields = schema.ordered();
    for (at, (_, field)) in fields.iter().enumerate() {
        let unsupported = |problem| Err(Error::Unsupported { place: place.to_owned(), problem });
        if field.name.contains('\0') {
            return unsupported(format!("SQLite can't have a column named `{}`", field.name.escape_debug()));
        }
        if let Some((_, other)) = fields[..at].iter().find(|(_, other)| other.name.eq_ignore_ascii_case(&field.name)) {
            return unsupported(format!("`{}` and `{}` are one column to SQLite; rename one", other.name, field.name));
        }
    }
    Ok(())
}

fn write_mark(connection: &Connection, mark: &Mark) -> Result<(), rusqlite::Error> {
    connection
        .execute_batch(&format!("CREATE TABLE IF NOT EXISTS main.{MARK_TABLE} (owner TEXT PRIMARY KEY, value BLOB)"))?;
    let sql = format!("INSERT OR REPLACE INTO main.{MARK_TABLE} (owner, value) VALUES (?, ?)");
    connection.execute(&sql, (&mark.owner, &mark.value)).map(drop)
}

/// A journal or log without its database would be taken for that of the new one.
fn check_nothing_left(database: &Database) -> Result<()> {
    let [wal, journal, _] = database.companions();
    match [wal, journal].iter().find(|path| path.exists()) {
        Some(path) => Err(Error::Unsupported {
            place: database.place(),
            problem: format!("there is no database but its {} is still there; move it away", file_name(path)),
        }),
        None => Ok(()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| format!("`{}`", name.to_string_lossy()))
}

/// Changes when another connection has committed.
fn data_version(connection: &Connection, database: &Database) -> Result<i64> {
    connection
        .query_row("PRAGMA data_version", [], |row| row.get(0))
        .map_err(|error| database_error(database.place(), "reading its version", error))
}

/// A new database, built beside its place.
struct Built<'a> {
    database: &'a Database,
    // Closed before the file goes.
    connection: Connection,
    replacement: Replacement,
}

impl Staged for Built<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        let Built { database, connection, replacement } = *self;
        let done = connection.execute_batch("COMMIT");
        done.map_err(|error| database_error(database.place(), "committing", error))?;
        drop(connection);
        // Somebody else may write it as soon as it has its name, so the stamp is taken before.
        let stamp = Database::new(replacement.temporary_path(), Duration::ZERO).stamp()?;
        Box::new(replacement.seal()?).commit()?;
        Ok(stamp)
    }
}

/// An open transaction; dropping it rolls it back.
struct Transaction<'a> {
    database: &'a Database,
    connection: Connection,
    commits_elsewhere: i64,
}

impl Staged for Transaction<'_> {
    fn content(&self) -> Option<Content> {
        None
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        let Transaction { database, connection, commits_elsewhere } = *self;
        if let Err(error) = connection.execute_batch("COMMIT") {
            return Err(match foreign_key_error(&connection, database, &error) {
                Some(error) => error,
                None => database_error(database.place(), "committing", error),
            });
        }
        // Committed: from here on nothing may fail the commit, only make its stamp unknown.
        let stamp = database.stamp_of_commit(&connection).unwrap_or_else(|_| unknown_stamp());
        match data_version(&connection, database) {
            Ok(version) if version == commits_elsewhere => Ok(stamp),
            _ => Ok(unknown_stamp()),
        }
    }
}

/// Which row of which table refers to one that isn't there, if that is why the commit failed.
fn foreign_key_error(connection: &Connection, database: &Database, error: &rusqlite::Error) -> Option<Error> {
    if error.sqlite_error()?.extended_code != ffi::SQLITE_CONSTRAINT_FOREIGNKEY {
        return None;
    }
    let (table, rowid, parent) = connection
        .query_row("PRAGMA foreign_key_check", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, String>(2)?))
        })
        .ok()?;
    Some(Error::Write {
        place: database.table_place(&table),
        key: rowid.map_or_else(|| "of a row".into(), |rowid| format!("of rowid {rowid}")),
        problem: format!("it refers to a row of `{parent}` that isn't there (foreign key)"),
    })
}
