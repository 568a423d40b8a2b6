//! Writing one table's records.

use std::collections::HashMap;

use deltabus_record::row::{FieldRef, Row, RowBuilder, RowReader};
use deltabus_record::schema::{Field, KeySpec, Schema};
use deltabus_record::text;
use deltabus_record::value::{Kind, Value};
use rusqlite::{ErrorCode, Statement, ffi};

use super::binding::bind;
use super::connection::{Connection, database_error};
use super::read::{self, Unreadable};
use super::table::{Table, quote};
use crate::{Error, Position, RecordWrite, Records, Refusal, Result};

/// How many prepared updates, one for each set of fields that change together, are kept.
const UPDATES_KEPT: usize = 64;

/// What a unique field may hold while its value and another's change places; the first that the table takes.
const PLACEHOLDERS: [&str; 4] = ["NULL", "random()", "'~' || hex(randomblob(16))", "randomblob(16)"];

/// One table to write to.
pub(super) struct Target<'a> {
    connection: &'a Connection,
    table: &'a Table,
    schema: &'a Schema,
    place: String,
    /// The slots that are written, each with its column.
    columns: Vec<(usize, String)>,
}

/// What became of one record.
enum Outcome {
    Done,
    /// Another record has a value that must be unique.
    Taken(rusqlite::Error),
}

/// The statements for keyed records.
struct Keyed<'a> {
    target: &'a Target<'a>,
    key: Vec<usize>,
    insert: Statement<'a>,
    delete: Statement<'a>,
    exists: Statement<'a>,
    /// By the slots they set.
    updates: HashMap<Vec<usize>, Statement<'a>>,
}

impl<'a> Target<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        table: &'a Table,
        schema: &'a Schema,
        place: String,
    ) -> Result<Target<'a>> {
        let columns = schema.ordered().into_iter().filter_map(|(slot, field)| {
            let column = table.column(&field.name)?;
            Some((slot, quote(&table.columns[column].name)))
        });
        let mut columns: Vec<_> = columns.collect();
        columns.sort_unstable();
        Ok(Target { connection, table, schema, place, columns })
    }

    /// Inserts all `records`.
    pub(super) fn load(&self, records: &mut dyn Records) -> Result<()> {
        let mut insert = self.insert()?;
        while records.advance().map_err(Error::Records)? {
            let row = records.row();
            self.bind_row(&mut insert, row)?;
            insert.raw_execute().map_err(|error| self.refused(row, error))?;
        }
        Ok(())
    }

    /// Writes single records: removals first, so that what they held is free.
    pub(super) fn write(&self, writes: &[RecordWrite]) -> Result<()> {
        match &self.schema.key {
            KeySpec::Fields(key) => self.write_keyed(key, writes),
            KeySpec::WholeRow => self.write_whole_rows(writes),
        }
    }

    fn write_keyed(&self, key: &[u32], writes: &[RecordWrite]) -> Result<()> {
        let mut keyed = Keyed::new(self, key)?;
        for write in writes {
            if let RecordWrite::Remove { row, .. } = write {
                keyed.remove(row)?;
            }
        }
        let mut taken = Vec::new();
        for write in writes {
            if let RecordWrite::Put { row, changed, .. } = write
                && let Outcome::Taken(_) = keyed.put(row, changed)?
            {
                taken.push((row, changed));
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        // Values that must be unique change places: first all of them let go of theirs.
        let unique = self.unique_slots()?;
        for (row, changed) in &taken {
            keyed.let_go(row, changed, &unique)?;
        }
        for (row, changed) in taken {
            if let Outcome::Taken(error) = keyed.put(row, changed)? {
                return Err(self.refused(row.as_bytes(), error));
            }
        }
        Ok(())
    }

    /// The slots whose values must be unique, alone or together with others.
    fn unique_slots(&self) -> Result<Vec<usize>> {
        let failed = |error| self.failed("reading the table's indexes", error);
        let mut statement = self
            .connection
            .prepare(
                "SELECT info.name FROM pragma_index_list(?1) list, pragma_index_xinfo(list.name) info
                 WHERE list.\"unique\" AND info.key
                 UNION ALL SELECT name FROM pragma_table_info(?1) WHERE pk",
            )
            .map_err(failed)?;
        let mut rows = statement.query([&self.table.name]).map_err(failed)?;
        let mut slots = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            match row.get::<_, Option<String>>(0).map_err(failed)? {
                Some(name) => {
                    let quoted = quote(&name);
                    slots.extend(self.columns.iter().filter(|(_, column)| *column == quoted).map(|(slot, _)| *slot));
                }
                // An expression may be made of any of them.
                None => slots.extend(self.columns.iter().map(|(slot, _)| *slot)),
            }
        }
        slots.sort_unstable();
        slots.dedup();
        Ok(slots)
    }

    /// Removes and inserts rows that have no key but themselves.
    fn write_whole_rows(&self, writes: &[RecordWrite]) -> Result<()> {
        let mut gone: HashMap<Row, u64> = HashMap::new();
        for write in writes {
            if let RecordWrite::Remove { row, .. } = write {
                *gone.entry(self.as_read(row)).or_default() += 1;
            }
        }
        if !gone.is_empty() {
            self.remove_whole_rows(gone)?;
        }
        let mut insert = self.insert()?;
        for write in writes {
            if let RecordWrite::Put { row, .. } = write {
                self.bind_row(&mut insert, row.as_bytes())?;
                self.expect_one(insert.raw_execute(), row)?;
            }
        }
        Ok(())
    }

    /// The row as this table's columns would be read.
    fn as_read(&self, row: &Row) -> Row {
        let fields: Vec<_> = RowReader::new(row.as_bytes()).collect();
        let mut read = RowBuilder::default();
        for (slot, _) in &self.columns {
            match fields.get(*slot).copied().filter(|field| field.kind() != Kind::Absent) {
                Some(field) => read.push_encoded(field),
                None => read.push(&Value::Null),
            }
        }
        read.row()
    }

    /// Removes one row of the table for each count of `gone`, in one pass: there is no index to find them by.
    fn remove_whole_rows(&self, mut gone: HashMap<Row, u64>) -> Result<()> {
        let failed = |error| self.failed("reading", error);
        let Some(rowid) = self.table.rowid else {
            return Err(Error::Unsupported {
                place: self.place.clone(),
                problem: "rows without a key can't be told apart here: the table has no rowid".into(),
            });
        };
        let names: Vec<_> = self.columns.iter().map(|(_, column)| column.as_str()).collect();
        let table = quote(&self.table.name);
        let sql = format!("SELECT {}, {rowid} FROM main.{table} ORDER BY {rowid}", names.join(", "));
        let mut found = Vec::new();
        {
            let fields: Vec<&Field> = self.columns.iter().map(|(slot, _)| &self.schema.fields[*slot]).collect();
            let fields: Vec<Field> = fields.into_iter().cloned().collect();
            let mut statement = self.connection.prepare(&sql).map_err(failed)?;
            let mut rows = statement.raw_query();
            let mut encoded = RowBuilder::default();
            while let Some(row) = rows.next().map_err(failed)? {
                encoded.clear();
                match read::encode(row, &fields, &mut encoded) {
                    Ok(()) => {}
                    // Not one of ours.
                    Err(Unreadable::NotUtf8(_)) => continue,
                    Err(Unreadable::Database(error)) => return Err(failed(error)),
                }
                if let Some(count) = gone.get_mut(&encoded.row()).filter(|count| **count > 0) {
                    *count -= 1;
                    found.push(row.get::<_, i64>(fields.len()).map_err(failed)?);
                }
            }
        }
        let sql = format!("DELETE FROM main.{table} WHERE {rowid} = ?");
        let mut delete = self.connection.prepare(&sql).map_err(failed)?;
        for rowid in found {
            delete.execute([rowid]).map_err(|error| self.failed("deleting a row", error))?;
        }
        Ok(())
    }

    fn insert(&self) -> Result<Statement<'a>> {
        let names: Vec<_> = self.columns.iter().map(|(_, column)| column.as_str()).collect();
        let values = vec!["?"; names.len()];
        // Whatever the table says of conflicts, none is to be passed over in silence.
        self.prepare(&format!(
            "INSERT OR ABORT INTO main.{} ({}) VALUES ({})",
            quote(&self.table.name),
            names.join(", "),
            values.join(", ")
        ))
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'a>> {
        self.connection.prepare(sql).map_err(|error| self.failed("preparing to write", error))
    }

    /// Binds all columns, from the first parameter on.
    fn bind_row(&self, statement: &mut Statement<'_>, row: &[u8]) -> Result<()> {
        let mut fields = RowReader::new(row).enumerate();
        let mut given = fields.next();
        for (index, (slot, _)) in self.columns.iter().enumerate() {
            while given.is_some_and(|(at, _)| at < *slot) {
                given = fields.next();
            }
            let field = given.filter(|(at, _)| at == slot).map_or(FieldRef::ABSENT, |(_, field)| field);
            self.bind(statement, index + 1, *slot, field)?;
        }
        Ok(())
    }

    fn bind(&self, statement: &mut Statement<'_>, index: usize, slot: usize, field: FieldRef<'_>) -> Result<()> {
        match bind(statement, index, field) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Refused {
                place: self.place.clone(),
                field: self.schema.fields[slot].name.clone(),
                refusal: Refusal {
                    reason: format!("SQLite has no {}; it must be projected first", field.kind().name()),
                },
            }),
            Err(error) => Err(self.failed("binding a value", error)),
        }
    }

    /// What a statement that must change exactly one row has to say.
    fn expect_one(&self, result: Result<usize, rusqlite::Error>, row: &Row) -> Result<()> {
        match result {
            Ok(1) => Ok(()),
            Ok(0) => Err(self.unwritten(row, "nothing was written; does a trigger prevent it?")),
            Ok(_) => Err(self.unwritten(row, "several rows have this key")),
            Err(error) => Err(self.refused(row.as_bytes(), error)),
        }
    }

    fn unwritten(&self, row: &Row, problem: &str) -> Error {
        Error::Write { place: self.place.clone(), key: self.key_text(row.as_bytes()), problem: problem.into() }
    }

    /// What SQLite's refusal of a row means.
    fn refused(&self, row: &[u8], error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
                Error::Write { place: self.place.clone(), key: self.key_text(row), problem: error.to_string() }
            }
            _ => self.failed("writing a record", error),
        }
    }

    /// The key for people; the row's values where there is none.
    fn key_text(&self, row: &[u8]) -> String {
        let fields: Vec<_> = RowReader::new(row).collect();
        let value = |slot: usize| fields.get(slot).map_or(Value::Absent, |field| field.value());
        let values: Vec<_> = match &self.schema.key {
            KeySpec::Fields(slots) => slots.iter().map(|&slot| text::display(&value(slot as usize))).collect(),
            KeySpec::WholeRow => self.columns.iter().map(|(slot, _)| text::display(&value(*slot))).collect(),
        };
        values.join(", ")
    }

    pub(super) fn failed(&self, doing: &'static str, error: rusqlite::Error) -> Error {
        database_error(self.place.clone(), doing, error)
    }
}

impl<'a> Keyed<'a> {
    fn new(target: &'a Target<'a>, key: &[u32]) -> Result<Keyed<'a>> {
        let table = quote(&target.table.name);
        let key: Vec<usize> = key.iter().map(|&slot| slot as usize).collect();
        if let Some(slot) = key.iter().find(|slot| !target.columns.iter().any(|(known, _)| known == *slot)) {
            let name = target.schema.fields.get(*slot).map_or("?", |field| field.name.as_str());
            return Err(Error::Data {
                position: Position { place: target.place.clone(), ..Position::default() },
                problem: format!("the key's field `{name}` has no column"),
            });
        }
        let condition = target.condition(&key, 1);
        Ok(Keyed {
            insert: target.insert()?,
            delete: target.prepare(&format!("DELETE FROM main.{table} WHERE {condition}"))?,
            exists: target.prepare(&format!("SELECT 1 FROM main.{table} WHERE {condition}"))?,
            updates: HashMap::new(),
            target,
            key,
        })
    }

    fn remove(&mut self, row: &Row) -> Result<()> {
        let target = self.target;
        target.bind_slots(&mut self.delete, 1, &self.key, row)?;
        match self.delete.raw_execute() {
            Ok(0 | 1) => Ok(()),
            several => target.expect_one(several, row),
        }
    }

    /// Updates the record, or inserts it where there is none.
    fn put(&mut self, row: &Row, changed: &[u32]) -> Result<Outcome> {
        let target = self.target;
        let slots = self.settable(changed);
        let there = if slots.is_empty() {
            target.bind_slots(&mut self.exists, 1, &self.key, row)?;
            let there = self.exists.raw_query().next().map(|row| row.is_some());
            there.map_err(|error| target.failed("reading", error))?
        } else {
            match self.update(&slots, row)? {
                Ok(0) => false,
                Err(error) if is_taken(&error) => return Ok(Outcome::Taken(error)),
                result => {
                    target.expect_one(result, row)?;
                    true
                }
            }
        };
        if there {
            return Ok(Outcome::Done);
        }
        target.bind_row(&mut self.insert, row.as_bytes())?;
        match self.insert.raw_execute() {
            Err(error) if is_taken(&error) => Ok(Outcome::Taken(error)),
            result => target.expect_one(result, row).map(|()| Outcome::Done),
        }
    }

    /// The changed slots that have a column and aren't part of the key, which stands.
    fn settable(&self, changed: &[u32]) -> Vec<usize> {
        let known = |slot: &usize| self.target.columns.iter().any(|(known, _)| known == slot);
        changed.iter().map(|&slot| slot as usize).filter(|slot| known(slot) && !self.key.contains(slot)).collect()
    }

    fn update(&mut self, slots: &[usize], row: &Row) -> Result<Result<usize, rusqlite::Error>> {
        let target = self.target;
        if !self.updates.contains_key(slots) {
            if self.updates.len() >= UPDATES_KEPT {
                self.updates.clear();
            }
            let sets: Vec<_> = slots.iter().map(|slot| format!("{} = ?", target.column(*slot))).collect();
            let sql = format!(
                "UPDATE OR ABORT main.{} SET {} WHERE {}",
                quote(&target.table.name),
                sets.join(", "),
                target.condition(&self.key, slots.len() + 1)
            );
            self.updates.insert(slots.to_vec(), target.prepare(&sql)?);
        }
        let statement = self.updates.get_mut(slots).expect("it was just put there");
        target.bind_slots(statement, 1, slots, row)?;
        target.bind_slots(statement, slots.len() + 1, &self.key, row)?;
        Ok(statement.raw_execute())
    }

    /// Puts something else in the place of the record's unique values that are to change.
    fn let_go(&mut self, row: &Row, changed: &[u32], unique: &[usize]) -> Result<()> {
        let target = self.target;
        let mut slots = self.settable(changed);
        slots.retain(|slot| unique.contains(slot));
        if slots.is_empty() {
            return Ok(());
        }
        let mut refusal = None;
        for placeholder in PLACEHOLDERS {
            let sets: Vec<_> = slots.iter().map(|slot| format!("{} = {placeholder}", target.column(*slot))).collect();
            let mut statement = target.prepare(&format!(
                "UPDATE OR ABORT main.{} SET {} WHERE {}",
                quote(&target.table.name),
                sets.join(", "),
                target.condition(&self.key, 1)
            ))?;
            target.bind_slots(&mut statement, 1, &self.key, row)?;
            match statement.raw_execute() {
                Ok(_) => return Ok(()),
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    refusal = Some(error)
                }
                Err(error) => return Err(target.refused(row.as_bytes(), error)),
            }
        }
        match refusal {
            Some(error) => Err(target.refused(row.as_bytes(), error)),
            None => Ok(()),
        }
    }
}

impl Target<'_> {
    fn column(&self, slot: usize) -> &str {
        self.columns.iter().find(|(known, _)| *known == slot).map_or("NULL", |(_, column)| column)
    }

    /// The condition for a record's key, its parameters counted from `first`.
    ///
    /// The column's own comparison finds the row by its index; the bytewise one then tells apart what an index of its own
    /// collation takes for equal.
    fn condition(&self, key: &[usize], first: usize) -> String {
        let part = |(at, slot): (usize, &usize)| {
            let (column, parameter) = (self.column(*slot), first + at);
            format!("{column} IS ?{parameter} AND {column} COLLATE BINARY IS ?{parameter}")
        };
        key.iter().enumerate().map(part).collect::<Vec<_>>().join(" AND ")
    }

    fn bind_slots(&self, statement: &mut Statement<'_>, first: usize, slots: &[usize], row: &Row) -> Result<()> {
        let fields: Vec<_> = RowReader::new(row.as_bytes()).collect();
        for (at, slot) in slots.iter().enumerate() {
            self.bind(statement, first + at, *slot, fields.get(*slot).copied().unwrap_or(FieldRef::ABSENT))?;
        }
        Ok(())
    }
}

fn is_taken(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        matches!(
            error.extended_code,
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID
        )
    })
}
