//! A store in memory: tables of records, with users and interfaces at it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::{fs, io};

use deltabus_interfaces::{Content, Notify, Signal, Stamp};
use deltabus_record::row::Row;
use deltabus_record::schema::{CollectionName, KeySpec, Schema};
use deltabus_record::text;
use deltabus_record::value::Value;

use crate::plan::ShelfKind;

/// A store's content and what happened to it.
pub(crate) struct Shelf {
    pub(crate) name: String,
    pub(crate) kind: ShelfKind,
    /// What stands there; `None`: the store doesn't exist.
    tables: Option<Tables>,
    version: u64,
    /// By owner.
    pub(crate) marks: BTreeMap<String, Vec<u8>>,
    watchers: BTreeMap<u64, Notify>,
    next_watcher: u64,
    /// Every text that ever stood there.
    ever: BTreeSet<String>,
    /// When a key was last gone, in milliseconds, by table and key.
    gone: BTreeMap<(String, String), u64>,
    /// How often an interface put a text in the place of another, by text and record: its table and key.
    pub(crate) arrivals: BTreeMap<(String, String, String), u32>,
    /// Tables that stood there when the receiver lost what it knew of them, so that it can't tell them from somebody's own.
    pub(crate) orphans: BTreeSet<CollectionName>,
    /// Where files are made that are to take the store's place.
    folder: PathBuf,
    /// How many were made.
    temporaries: u64,
}

/// All tables, by their order in the store.
pub(crate) type Tables = Vec<Table>;

/// A table: no field of it is dropped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) name: CollectionName,
    pub(crate) schema: Schema,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    User,
    Interface,
}

impl Table {
    /// A row's key, readable.
    pub(crate) fn key(&self, row: &[Value]) -> String {
        match &self.schema.key {
            KeySpec::Fields(slots) => {
                let parts = slots.iter().map(|slot| text::display(row.get(*slot as usize).unwrap_or(&Value::Absent)));
                parts.collect::<Vec<_>>().join(",")
            }
            KeySpec::WholeRow => show_row(row),
        }
    }

    /// The records by field name, sorted: what a table holds, whatever its order and layout.
    pub(crate) fn named(&self) -> Vec<BTreeMap<String, String>> {
        let named = |row: &Vec<Value>| {
            let fields = self.schema.fields.iter().zip(row);
            let there = fields.filter(|(_, value)| **value != Value::Absent);
            there.map(|(field, value)| (field.name.clone(), exactly(value))).collect()
        };
        let mut rows: Vec<BTreeMap<String, String>> = self.rows.iter().map(named).collect();
        rows.sort();
        rows
    }
}

impl Shelf {
    /// `folder`: a folder of its own.
    pub(crate) fn new(name: &str, kind: ShelfKind, tables: Option<Tables>, folder: PathBuf) -> Shelf {
        let mut shelf = Shelf {
            name: name.to_owned(),
            kind,
            tables: None,
            version: 1,
            marks: BTreeMap::new(),
            watchers: BTreeMap::new(),
            next_watcher: 0,
            ever: BTreeSet::new(),
            gone: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            orphans: BTreeSet::new(),
            folder,
            temporaries: 0,
        };
        shelf.replace(tables, Writer::User, 0);
        shelf
    }

    /// What stands there.
    pub(crate) fn tables(&self) -> Option<&Tables> {
        self.tables.as_ref()
    }

    /// Whoever writes it has lost what it knew of the tables there.
    pub(crate) fn orphan(&mut self) {
        self.orphans.extend(self.tables.iter().flatten().map(|table| table.name.clone()));
    }

    /// What it looks like.
    pub(crate) fn stamp(&self) -> Stamp {
        match &self.tables {
            Some(_) => Stamp(self.version.to_be_bytes().to_vec()),
            None => Stamp::MISSING,
        }
    }

    /// Replaces what stands there, and tells who watches. `None`: the store goes.
    pub(crate) fn replace(&mut self, tables: Option<Tables>, writer: Writer, now_millis: u64) {
        let before = std::mem::replace(&mut self.tables, tables);
        self.version += 1;
        self.remember(before.as_deref().unwrap_or_default(), writer, now_millis);
        if self.tables.is_none() {
            self.marks.clear();
        }
        for notify in self.watchers.values() {
            notify(Signal::Written);
        }
    }

    fn remember(&mut self, before: &[Table], writer: Writer, now_millis: u64) {
        let after = self.tables.as_deref().unwrap_or_default();
        for table in after {
            let old = before.iter().find(|old| old.name == table.name);
            if old == Some(table) {
                continue;
            }
            for row in &table.rows {
                self.ever.extend(row.iter().filter_map(plain_text));
                let KeySpec::Fields(_) = table.schema.key else { continue };
                let key = table.key(row);
                let Some((old, was)) =
                    old.and_then(|old| Some((old, old.rows.iter().find(|was| old.key(was) == key)?)))
                else {
                    continue;
                };
                if writer == Writer::Interface {
                    for (field, value) in table.schema.fields.iter().zip(row) {
                        let was = old.schema.slot(&field.name).and_then(|slot| was.get(slot));
                        if let Some(text) = plain_text(value).filter(|_| was != Some(value)) {
                            let place = (text, table.name.to_string(), key.clone());
                            *self.arrivals.entry(place).or_default() += 1;
                        }
                    }
                }
            }
        }
        for old in before {
            let now = after.iter().find(|table| table.name == old.name);
            for row in &old.rows {
                let key = old.key(row);
                if !now.is_some_and(|now| now.rows.iter().any(|row| now.key(row) == key)) {
                    self.gone.insert((old.name.to_string(), key), now_millis);
                }
            }
        }
    }

    /// Whether a text ever stood there.
    pub(crate) fn ever_had(&self, text: &str) -> bool {
        self.ever.contains(text)
    }

    /// Whether a record is not there, or was not at some time since.
    pub(crate) fn lacked_since(&self, table: &str, key: &str, millis: u64) -> bool {
        let gone = self.gone.get(&(table.to_owned(), key.to_owned())).is_some_and(|gone| *gone >= millis);
        let tables = self.tables.iter().flatten().filter(|there| there.name.as_str() == table);
        gone || !tables.flat_map(|table| table.rows.iter().map(|row| table.key(row))).any(|there| there == key)
    }

    /// All texts that stand there now.
    pub(crate) fn texts(&self) -> BTreeSet<String> {
        let tables = self.tables.iter().flatten();
        tables.flat_map(|table| table.rows.iter().flatten().filter_map(plain_text)).collect()
    }

    /// BLAKE3 over what stands there.
    pub(crate) fn content(tables: &Tables) -> Content {
        let mut hasher = blake3::Hasher::new();
        for table in tables {
            hasher.update(format!("{:?}", (&table.name, &table.schema)).as_bytes());
            for row in &table.rows {
                let row = Row::of(row);
                hasher.update(&(row.as_bytes().len() as u64).to_le_bytes());
                hasher.update(row.as_bytes());
            }
        }
        Content(*hasher.finalize().as_bytes())
    }

    /// Makes the file that is to take the store's place. Only whether it is there counts, so it is empty.
    pub(crate) fn temporary(&mut self) -> io::Result<PathBuf> {
        self.temporaries += 1;
        let path = self.folder.join(format!("{}.{}.tmp", self.name, self.temporaries));
        fs::create_dir_all(&self.folder)?;
        fs::write(&path, "")?;
        Ok(path)
    }

    pub(crate) fn watch(&mut self, notify: Notify) -> u64 {
        self.next_watcher += 1;
        self.watchers.insert(self.next_watcher, notify);
        self.next_watcher
    }

    pub(crate) fn unwatch(&mut self, watcher: u64) {
        self.watchers.remove(&watcher);
    }
}

/// A value's text, if it is text.
pub(crate) fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// A row in one line.
pub(crate) fn show_row(row: &[Value]) -> String {
    let mut out = String::new();
    for (i, value) in row.iter().enumerate() {
        let _ = write!(out, "{}{}", if i > 0 { " | " } else { "" }, show(value));
    }
    out
}

/// A value in a few characters.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Absent => "-".into(),
        Value::Null => "null".into(),
        value => text::display(value).chars().take(24).collect(),
    }
}

/// A value as text that no other has.
fn exactly(value: &Value) -> String {
    match value {
        Value::Text(text) if text.len() > 100 => {
            format!("text of {} bytes, {:032x}", text.len(), xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
        }
        value => text::display(value),
    }
}
