//! Reading tables, row by row, in one read transaction.
//!
//! A thread of its own steps through SQLite's rows and encodes them, block by block, while whoever scans compares.

use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use deltabus_record::row::{RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, Field};
use deltabus_record::value::Value;
use rusqlite::types::ValueRef;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Selection;
use super::connection::{Connection, Database, database_error};
use super::table::Table;
use crate::{Decoded, Error, Extent, Fingerprint, Location, Position, Result, Scan, Stamp};

/// How many bytes of encoded rows go to the scanning thread at a time: large enough that handing over costs nothing, small
/// enough to stay in a core's cache.
const BLOCK_BYTES: usize = 256 * 1024;

/// How many rows at most, however short they are.
const BLOCK_ROWS: usize = 16 * 1024;

/// How many blocks may wait, so that neither thread waits for the other's every hiccup and memory stays bounded.
const BLOCKS_WAITING: usize = 2;

/// Part of each layout: what a fingerprint is a hash of. Changes when the encoding of rows read does.
const LAYOUT_VERSION: u64 = 1;

/// One consistent view of the tables.
pub(super) struct TableScan {
    database: Database,
    collections: Vec<Collection>,
    layouts: Vec<u64>,
    stamp: Stamp,
    reader: Option<Reader>,
    /// Which collection is being read, and how many of its records were given.
    current: usize,
    records: u64,
    bytes_read: u64,
    block: Block,
    /// Which row of the block comes next, and where the one before it lies.
    next: usize,
    row: Range<usize>,
    ended: bool,
}

/// The thread that reads.
struct Reader {
    wanted: mpsc::Sender<usize>,
    messages: Receiver<Message>,
    thread: JoinHandle<()>,
}

enum Message {
    Block(Block),
    End,
    Failed(Error),
}

/// Rows, encoded one after another, each with its end and fingerprint.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    rows: Vec<(usize, Fingerprint)>,
}

impl TableScan {
    pub(super) fn begin(database: &Database, selection: &Selection, location: &Location) -> Result<TableScan> {
        let connection = database.open_for_reading()?;
        // Before the transaction: what is read is this state or a later one, so no commit goes unnoticed.
        let stamp = database.stamp()?;
        let read = || -> Result<Vec<Table>, rusqlite::Error> {
            connection.execute_batch("BEGIN")?;
            Table::selected(&connection, selection)
        };
        let tables = read().map_err(|error| database_error(database.place(), "reading the list of tables", error))?;
        let mut collections = Vec::with_capacity(tables.len());
        for table in &tables {
            let schema = table.schema(selection.key(&table.name)).map_err(|missing| {
                let columns: Vec<_> = table.columns.iter().map(|column| format!("`{}`", column.name)).collect();
                location.error(format!(
                    "table `{}` has no column `{missing}` to be its key; it has {}",
                    table.name,
                    columns.join(", ")
                ))
            })?;
            collections.push(Collection { name: CollectionName::new(table.name.as_str()), schema });
        }
        let layouts = collections.iter().map(layout).collect();
        let reader = Reader::start(database.clone(), connection, tables, collections.clone())?;
        Ok(TableScan {
            database: database.clone(),
            collections,
            layouts,
            stamp,
            reader: Some(reader),
            current: 0,
            records: 0,
            bytes_read: 0,
            block: Block::default(),
            next: 0,
            row: 0..0,
            ended: true,
        })
    }

    /// Returns when the read transaction has ended, so that a write can follow.
    fn stop(&mut self) {
        if let Some(Reader { wanted, messages, thread }) = self.reader.take() {
            // Without its channels the thread ends after the block in hand.
            drop(wanted);
            drop(messages);
            // What it had to say it has said.
            let _ = thread.join();
        }
    }

    fn message(&self) -> Result<Message> {
        let reader = self.reader.as_ref().and_then(|reader| reader.messages.recv().ok());
        reader.ok_or_else(|| Error::Unsupported {
            place: self.database.place(),
            problem: "the scan has ended; begin another".into(),
        })
    }
}

fn layout(collection: &Collection) -> u64 {
    let mut hasher = Xxh3::with_seed(LAYOUT_VERSION);
    let mut put = |text: &str| {
        hasher.update(&text.len().to_le_bytes());
        hasher.update(text.as_bytes());
    };
    collection.schema.fields.iter().for_each(|field| put(&field.name));
    put("");
    collection.schema.key_names().into_iter().for_each(put);
    hasher.digest()
}

impl Scan for TableScan {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, index: usize) -> u64 {
        self.layouts[index]
    }

    fn bytes_total(&self) -> Option<u64> {
        None
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn start(&mut self, index: usize, _extent: Extent) -> Result<()> {
        while !self.ended {
            match self.message()? {
                Message::Block(_) => {}
                Message::End => self.ended = true,
                Message::Failed(error) => return Err(error),
            }
        }
        self.block = Block::default();
        (self.current, self.records, self.next, self.row, self.ended) = (index, 0, 0, 0..0, false);
        // A reader that is gone is noticed where its message is missed.
        let _ = self.reader.as_ref().map(|reader| reader.wanted.send(index));
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        while self.next == self.block.rows.len() {
            if self.ended {
                return Ok(None);
            }
            (self.next, self.row) = (0, 0..0);
            self.block = Block::default();
            match self.message()? {
                Message::Block(block) => self.block = block,
                Message::End => self.ended = true,
                Message::Failed(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        let (end, fingerprint) = self.block.rows[self.next];
        self.next += 1;
        self.records += 1;
        self.row = self.row.end..end;
        self.bytes_read += self.row.len() as u64;
        Ok(Some(fingerprint))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        RowReader::new(&self.block.bytes[self.row.clone()]).for_each(|field| row.push_encoded(field));
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        let place = match self.collections.get(self.current) {
            Some(collection) => self.database.table_place(collection.name.as_str()),
            None => self.database.place(),
        };
        Position { place, record: Some(self.records), ..Position::default() }
    }

    fn finish(&mut self) -> Result<()> {
        // One transaction has read it all, so there is nothing to compare.
        self.stop();
        Ok(())
    }
}

impl Reader {
    fn start(
        database: Database,
        connection: Connection,
        tables: Vec<Table>,
        collections: Vec<Collection>,
    ) -> Result<Reader> {
        let (wanted, requests) = mpsc::channel();
        let (sender, messages) = mpsc::sync_channel(BLOCKS_WAITING);
        let path = database.path.clone();
        let read = move || {
            for index in requests {
                let collection: &Collection = &collections[index];
                let place = || database.table_place(collection.name.as_str());
                let last = match read_table(&connection, &tables[index], collection, &place, &sender) {
                    Ok(true) => Message::End,
                    Ok(false) => return,
                    Err(error) => Message::Failed(error),
                };
                if sender.send(last).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("sqlite-scan".into())
            .spawn(read)
            .map_err(|source| Error::Io { doing: "start a thread to read", path, source })?;
        Ok(Reader { wanted, messages, thread })
    }
}

impl Drop for TableScan {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends all rows of `table`; `false` where nobody listens any more.
fn read_table(
    connection: &Connection,
    table: &Table,
    collection: &Collection,
    place: &dyn Fn() -> String,
    sender: &SyncSender<Message>,
) -> Result<bool> {
    let failed = |error| database_error(place(), "reading", error);
    let mut statement = connection.prepare(&table.select(&collection.schema)).map_err(failed)?;
    let mut rows = statement.raw_query();
    let mut block = Block::default();
    let mut encoded = RowBuilder::default();
    let mut record = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        record += 1;
        encoded.clear();
        if let Err(error) = encode(row, &collection.schema.fields, &mut encoded) {
            let rowid = table.rowid.and_then(|_| row.get::<_, i64>(collection.schema.fields.len()).ok());
            let rowid = rowid.map_or(String::new(), |rowid| format!("rowid {rowid}, "));
            return Err(match error {
                Unreadable::NotUtf8(column) => Error::Data {
                    position: Position { place: place(), record: Some(record), ..Position::default() },
                    problem: format!("{rowid}column `{column}`: the text is not UTF-8"),
                },
                Unreadable::Database(error) => failed(error),
            });
        }
        block.bytes.extend_from_slice(encoded.as_bytes());
        block.rows.push((block.bytes.len(), Fingerprint(xxh3_64(encoded.as_bytes()))));
        if block.bytes.len() >= BLOCK_BYTES || block.rows.len() >= BLOCK_ROWS {
            let full = std::mem::take(&mut block);
            block.bytes.reserve(full.bytes.len());
            if sender.send(Message::Block(full)).is_err() {
                return Ok(false);
            }
        }
    }
    Ok(sender.send(Message::Block(block)).is_ok())
}

/// Why a row can't be read.
pub(super) enum Unreadable {
    /// Text of this column.
    NotUtf8(String),
    /// What SQLite says.
    Database(rusqlite::Error),
}

/// Appends the first columns of `row`, those of `fields`.
pub(super) fn encode(row: &rusqlite::Row<'_>, fields: &[Field], out: &mut RowBuilder) -> Result<(), Unreadable> {
    for (column, field) in fields.iter().enumerate() {
        match row.get_ref(column).map_err(Unreadable::Database)? {
            ValueRef::Integer(integer) => out.push_integer(integer),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => out.push_text(text),
                Err(_) => return Err(Unreadable::NotUtf8(field.name.clone())),
            },
            ValueRef::Null => out.push(&Value::Null),
            ValueRef::Real(real) => out.push(&Value::Float(real)),
            ValueRef::Blob(bytes) => out.push(&Value::Bytes(bytes.to_vec())),
        }
    }
    Ok(())
}
