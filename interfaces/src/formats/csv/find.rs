//! Finds the rows that are to be changed, by their keys.

use std::collections::HashMap;
use std::ops::Range;

use deltabus_record::row::{Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::text;
use deltabus_record::value::{Kind, Value};

use super::cell;
use super::settings::Markers;
use super::table::{Column, Table};
use crate::{Error, RecordWrite, Result};

/// The records to be written, by what is compared with the rows of the file: the key, or the whole content.
pub(super) struct Wanted<'w> {
    writes: &'w [RecordWrite],
    collection: &'w Collection,
    by_key: HashMap<Vec<u8>, Entry>,
    /// The key of the current row, and what it is made from.
    key: Vec<u8>,
    row: RowBuilder,
    cells: Vec<Range<usize>>,
}

enum Entry {
    /// The index of the one write for this key, and the line where the record was found, 0 while it wasn't.
    Keyed { index: usize, line: u64 },
    /// So many rows of this content go.
    Counted { gone: usize },
}

/// What becomes of a row.
pub(super) enum Target<'w> {
    /// Nothing.
    None,
    /// It goes.
    Gone,
    /// These slots get what the encoded row says.
    Changed { row: &'w [u8], slots: &'w [u32] },
}

/// Which cells of a row make up what is compared.
pub(super) struct Finder {
    /// For each slot of the collection that counts the cell and its kind; `None` where there is nothing to compare.
    parts: Vec<Option<(usize, Kind)>>,
    /// How many of a row's cells are looked at.
    cells: usize,
    /// A key column that the file lacks.
    missing: Option<String>,
}

impl<'w> Wanted<'w> {
    pub(super) fn new(writes: &'w [RecordWrite], collection: &'w Collection) -> Wanted<'w> {
        let mut by_key = HashMap::with_capacity(writes.len());
        for (index, write) in writes.iter().enumerate() {
            match (&collection.schema.key, write) {
                (KeySpec::Fields(_), RecordWrite::Put { key, .. } | RecordWrite::Remove { key, .. }) => {
                    by_key.insert(key.as_bytes().to_vec(), Entry::Keyed { index, line: 0 });
                }
                (KeySpec::WholeRow, RecordWrite::Remove { row, .. }) => {
                    let entry = by_key.entry(content(row, collection)).or_insert(Entry::Counted { gone: 0 });
                    if let Entry::Counted { gone } = entry {
                        *gone += 1;
                    }
                }
                (KeySpec::WholeRow, RecordWrite::Put { .. }) => {}
            }
        }
        Wanted { writes, collection, by_key, key: Vec::new(), row: RowBuilder::default(), cells: Vec::new() }
    }

    pub(super) fn finder(&self, columns: &[Column]) -> Finder {
        let schema = &self.collection.schema;
        let part = |slot: usize| {
            let field = schema.fields.get(slot).filter(|field| !field.dropped)?;
            let index = columns.iter().position(|column| column.name == field.name)?;
            Some((index, columns[index].kind))
        };
        let mut parts: Vec<_> = (0..schema.fields.len()).map(part).collect();
        let mut missing = None;
        if let KeySpec::Fields(slots) = &schema.key {
            for (slot, part) in parts.iter_mut().enumerate() {
                let in_key = slots.contains(&(slot as u32));
                if in_key && part.is_none() {
                    missing = Some(schema.fields[slot].name.clone());
                }
                *part = part.filter(|_| in_key);
            }
        }
        let cells = parts.iter().flatten().map(|(index, _)| index + 1).max().unwrap_or(0);
        Finder { parts, cells, missing }
    }

    /// What becomes of the current row of `table`.
    pub(super) fn target(&mut self, finder: &Finder, table: &Table, markers: &Markers) -> Result<Target<'w>> {
        if self.by_key.is_empty() {
            return Ok(Target::None);
        }
        if let Some(name) = &finder.missing {
            let place = table.rows.position().place;
            let problem = format!("there is no column `{name}`, by which records are found");
            return Err(Error::Unsupported { place, problem });
        }
        self.read_key(finder, table, markers)?;
        let (index, line) = match self.by_key.get_mut(&self.key) {
            None => return Ok(Target::None),
            Some(Entry::Counted { gone: 0 }) => return Ok(Target::None),
            Some(Entry::Counted { gone }) => {
                *gone -= 1;
                return Ok(Target::Gone);
            }
            Some(Entry::Keyed { index, line }) => (*index, line),
        };
        let write = &self.writes[index];
        let position = table.rows.position();
        if *line > 0 {
            let (RecordWrite::Put { row, .. } | RecordWrite::Remove { row, .. }) = write;
            let (key, other) = (readable_key(row, self.collection), format!("line {line}"));
            return Err(Error::DuplicateKey { position, key, other });
        }
        *line = position.line.unwrap_or(1);
        match write {
            RecordWrite::Put { row, changed, .. } => Ok(Target::Changed { row: row.as_bytes(), slots: changed }),
            RecordWrite::Remove { .. } => Ok(Target::Gone),
        }
    }

    /// The rows that were not found and are to come in, in the order of the writes.
    pub(super) fn new_rows(&self) -> impl Iterator<Item = &'w Row> {
        self.writes.iter().filter_map(|write| match write {
            RecordWrite::Remove { .. } => None,
            RecordWrite::Put { key, row, .. } => match self.by_key.get(key.as_bytes()) {
                Some(Entry::Keyed { line, .. }) if *line > 0 => None,
                _ => Some(row),
            },
        })
    }

    /// Brings what is compared of the current row into `self.key`.
    fn read_key(&mut self, finder: &Finder, table: &Table, markers: &Markers) -> Result<()> {
        let bytes = table.rows.row();
        self.cells.clear();
        self.cells.extend(table.rows.cells().take(finder.cells));
        self.row.clear();
        for part in &finder.parts {
            let Some((index, kind)) = *part else {
                self.row.push(&Value::Absent);
                continue;
            };
            let Some(range) = self.cells.get(index) else {
                return Err(table.ragged(self.cells.len()));
            };
            let Ok(text) = std::str::from_utf8(&bytes[range.clone()]) else {
                // The same error as a scan would give, with its place.
                table.text()?;
                return Err(table.rows.error_at(range.start, "not UTF-8"));
            };
            let read = cell::read(text, kind, markers, &mut self.row);
            read.map_err(|problem| table.rows.error_at(range.start, problem))?;
        }
        self.key.clear();
        match self.collection.schema.key {
            KeySpec::Fields(_) => self.collection.schema.key_into(self.row.as_bytes(), 0, &mut self.key),
            KeySpec::WholeRow => self.key.extend_from_slice(self.row.as_bytes()),
        }
        Ok(())
    }
}

/// The part of a row that is compared where whole rows are the key: all fields that are not dropped.
fn content(row: &Row, collection: &Collection) -> Vec<u8> {
    let mut builder = RowBuilder::default();
    for (field, value) in collection.schema.fields.iter().zip(RowReader::new(row.as_bytes())) {
        if field.dropped { builder.push(&Value::Absent) } else { builder.push_encoded(value) }
    }
    builder.as_bytes().to_vec()
}

fn readable_key(row: &Row, collection: &Collection) -> String {
    let KeySpec::Fields(slots) = &collection.schema.key else { return String::new() };
    let parts: Vec<_> = slots.iter().map(|&slot| text::display(&row.value(slot as usize))).collect();
    parts.join(", ")
}
