//! Reading tables, row by row, in one read transaction.
//!
//! Rows come as `COPY … TO STDOUT (FORMAT binary)` sends them and are hashed as they come; only those that the scanning
//! thread wants are decoded.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use bytes::Bytes;
use deltabus_record::row::RowBuilder;
use deltabus_record::schema::Collection;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::connection::{Failure, Session, first};
use super::decode;
use super::runtime;
use super::stamp::{State, short};
use super::table::{Sort, Table};
use super::types::Form;
use super::{Postgres, place_of};
use crate::{Decoded, Error, Extent, Fingerprint, Position, Result, Scan, Stamp};

/// How many bytes of rows go to the scanning thread at a time: large enough that handing over costs nothing, small enough to
/// stay in a core's cache.
const BLOCK_BYTES: usize = 256 * 1024;

/// How many rows at most, however short they are.
const BLOCK_ROWS: usize = 16 * 1024;

/// How many blocks may wait, so that memory stays bounded and the server is never ahead by more.
const BLOCKS_WAITING: usize = 4;

/// Part of each layout: what a fingerprint is a hash of. Changes when the decoding of rows does.
const LAYOUT_VERSION: u64 = 1;

/// How often the list of tables is read again because one came or went while they were locked.
const LOOKS_MAX: usize = 8;

/// What begins each `COPY` in binary: signature, flags and the length of an extension that nobody uses.
const COPY_HEADER_BYTES: usize = 19;

/// Begins a transaction that sees one state and changes nothing.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// One consistent view of the tables.
pub(super) struct TableScan<'a> {
    postgres: &'a Postgres,
    session: Option<Session>,
    tables: Vec<Table>,
    collections: Vec<Collection>,
    layouts: Vec<u64>,
    forms: Vec<Vec<Form>>,
    stamp: Stamp,
    /// By collection, the condition of rows that may be new, and how many others there are.
    extents: Vec<Option<Kept>>,
    reader: Option<Reader>,
    /// Which collection is being read, and how many of its records were given.
    current: usize,
    records: u64,
    bytes_read: u64,
    block: Block,
    /// Which row of the block comes next, and where the one before it lies.
    next: usize,
    row: Range<usize>,
}

struct Kept {
    /// Rows of at most this age may be new.
    age_max: i32,
    /// How many are older.
    kept: u64,
}

/// The rows on their way.
struct Reader {
    messages: Receiver<Message>,
    room: Arc<Semaphore>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Whoever waits for room waits in vain.
        self.room.close();
    }
}

enum Message {
    Block(Block),
    End,
    Failed(Failure),
}

/// Rows as they came, one after another, each with its end and fingerprint.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    rows: Vec<(usize, Fingerprint)>,
}

/// A transaction in which all tables of the selection are there and stay as they are.
pub(super) struct View {
    pub(super) session: Session,
    pub(super) tables: Vec<Table>,
    pub(super) state: State,
}

impl View {
    /// Begins it. [`Error::Missing`] where there is no such database, or none of the tables.
    pub(super) fn begin(postgres: &Postgres, locked: Locked) -> Result<View> {
        let place = postgres.server.place();
        let missing = || Error::Missing { place: place.to_owned() };
        let failed = |failure: Failure| failure.into_error(place, "reading the list of tables");
        let session = postgres.server.begin("")?;
        for _ in 0..LOOKS_MAX {
            // A lock is taken before the snapshot: one that came later could find a table emptied under it.
            let first = match locked {
                Locked::Yes => Table::selected(&session, &postgres.selection).map_err(failed)?,
                Locked::No => Vec::new(),
            };
            let replayed = State::replayed(&session).map_err(failed)?;
            session.batch(BEGIN).map_err(failed)?;
            let kept = match lock(&session, &first) {
                Ok(()) => true,
                // Gone since.
                Err(failure) if failure.code() == Some(&SqlState::UNDEFINED_TABLE) => false,
                Err(failure) => return Err(failure.into_error(place, "locking the tables")),
            };
            if kept {
                let tables = Table::selected(&session, &postgres.selection).map_err(failed)?;
                let same = |(a, b): (&Table, &Table)| a.oid == b.oid && a.name == b.name;
                let all = first.len() == tables.len() && first.iter().zip(&tables).all(same);
                if all || locked == Locked::No {
                    if tables.is_empty() {
                        if session.batch("COMMIT").is_ok() {
                            postgres.server.keep(session);
                        }
                        return Err(missing());
                    }
                    let state = State::take(&session, replayed, &tables).map_err(failed)?;
                    return Ok(View { session, tables, state });
                }
            }
            session.batch("ROLLBACK").map_err(failed)?;
        }
        Err(Error::Changed { place: place.to_owned() })
    }
}

/// Whether a view's tables are kept from being altered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Locked {
    Yes,
    No,
}

/// Keeps tables from being altered, which an older snapshot would not see as it should.
fn lock(session: &Session, tables: &[Table]) -> Result<(), Failure> {
    let names: Vec<_> =
        tables.iter().filter(|table| matches!(table.sort, Sort::Table | Sort::Partitioned)).map(Table::from).collect();
    match names.is_empty() {
        true => Ok(()),
        false => session.batch(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))),
    }
}

impl<'a> TableScan<'a> {
    pub(super) fn begin(postgres: &'a Postgres, since: Option<&Stamp>) -> Result<TableScan<'a>> {
        let View { session, tables, state } = View::begin(postgres, Locked::Yes)?;
        let mut collections = Vec::with_capacity(tables.len());
        for table in &tables {
            if table.columns.is_empty() {
                return Err(Error::Unsupported {
                    place: place_of(postgres, &table.collection),
                    problem: "the table has no column; leave it out with `tables=`".into(),
                });
            }
            collections.push(table.collection(&postgres.selection, &postgres.location)?);
        }
        let since = since.and_then(State::of);
        let mut scan = TableScan {
            postgres,
            layouts: tables.iter().zip(&collections).map(|(table, collection)| layout(table, collection)).collect(),
            forms: tables
                .iter()
                .map(|table| table.columns.iter().map(|column| column.form.clone()).collect())
                .collect(),
            extents: Vec::new(),
            stamp: state.stamp(),
            session: Some(session),
            tables,
            collections,
            reader: None,
            current: 0,
            records: 0,
            bytes_read: 0,
            block: Block::default(),
            next: 0,
            row: 0..0,
        };
        if let Some(since) = since {
            scan.extents = scan.extents_since(&since, &state)?;
        }
        Ok(scan)
    }

    /// Counts what stands, table by table, where that can be told.
    fn extents_since(&self, since: &State, now: &State) -> Result<Vec<Option<Kept>>> {
        let Some(session) = &self.session else { return Ok(Vec::new()) };
        let Some(horizon) = since.horizon(now) else { return Ok(Vec::new()) };
        let mut extents = Vec::with_capacity(self.tables.len());
        for table in &self.tables {
            let failed = |failure: Failure| failure.into_error(self.place_of(&table.collection), "counting rows");
            if !table.dated || !since.tables.contains(&(table.oid, table.fingerprint)) {
                extents.push(None);
                continue;
            }
            let sql =
                format!("SELECT age('{}'::xid), pg_snapshot_xmax(pg_current_snapshot())::text::bigint", short(horizon));
            let rows = session.query(&sql, Vec::new()).map_err(failed)?;
            let age_max: i32 = first(&rows).map_err(failed)?;
            // The counter has not come half round since, and nothing is odd about it.
            if now.snapshot.xmax - horizon > i32::MAX as u64 / 2 || age_max < 0 {
                extents.push(None);
                continue;
            }
            let sql = format!("SELECT count(*) FROM {} WHERE age(xmin) > {age_max}", table.from());
            let kept: i64 = first(&session.query(&sql, Vec::new()).map_err(failed)?).map_err(failed)?;
            extents.push(Some(Kept { age_max, kept: kept as u64 }));
        }
        Ok(extents)
    }

    fn place_of(&self, table: &str) -> String {
        place_of(self.postgres, table)
    }

    fn message(&mut self) -> Result<Option<Block>> {
        let Some(reader) = &self.reader else { return Ok(None) };
        let failure = match reader.messages.recv() {
            Ok(Message::Block(block)) => {
                reader.room.add_permits(1);
                return Ok(Some(block));
            }
            Ok(Message::End) => {
                self.reader = None;
                return Ok(None);
            }
            Ok(Message::Failed(failure)) => failure,
            Err(_) => Failure::gone(),
        };
        self.reader = None;
        Err(failure.into_error(self.place_of(self.collections[self.current].name.as_str()), "reading"))
    }
}

fn layout(table: &Table, collection: &Collection) -> u64 {
    let mut hasher = Xxh3::with_seed(LAYOUT_VERSION);
    let mut put = |text: &str| {
        hasher.update(&text.len().to_le_bytes());
        hasher.update(text.as_bytes());
    };
    for column in &table.columns {
        put(&column.field.name);
        put(column.field.declared.as_deref().unwrap_or_default());
        put(if column.as_text { "text" } else { "binary" });
    }
    put("");
    collection.schema.key_names().into_iter().for_each(put);
    hasher.digest()
}

impl Scan for TableScan<'_> {
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

    fn extent(&self, index: usize) -> Extent {
        match self.extents.get(index) {
            Some(Some(Kept { kept, .. })) => Extent::Since { kept: *kept },
            _ => Extent::Whole,
        }
    }

    fn start(&mut self, index: usize, extent: Extent) -> Result<()> {
        // What is still on its way must pass before the server takes another question.
        while self.reader.is_some() {
            self.message()?;
        }
        self.block = Block::default();
        (self.current, self.records, self.next, self.row) = (index, 0, 0, 0..0);
        let Some(session) = &self.session else {
            return Err(Error::Unsupported {
                place: self.postgres.server.place().to_owned(),
                problem: "the scan has ended; begin another".into(),
            });
        };
        let table = &self.tables[index];
        // Few rows need no order, for which the server might go through all of an index.
        let rest = match (extent, self.extents.get(index)) {
            (Extent::Since { .. }, Some(Some(Kept { age_max, .. }))) => format!(" WHERE age(xmin) <= {age_max}"),
            _ => table.order(),
        };
        let sql =
            format!("COPY (SELECT {} FROM {}{rest}) TO STDOUT (FORMAT binary)", table.select_list(), table.from());
        let (sender, messages) = mpsc::channel();
        let room = Arc::new(Semaphore::new(BLOCKS_WAITING));
        let (client, free) = (session.client(), Arc::clone(&room));
        let started = runtime::spawn(async move {
            let last = match copy(&client, &sql, &sender, &free).await {
                Ok(()) => Message::End,
                Err(failure) => Message::Failed(failure),
            };
            // Whoever asked may have gone.
            let _ = sender.send(last);
        });
        if let Err(error) = started {
            return Err(Failure::Io(error).into_error(self.place_of(&table.collection), "reading"));
        }
        self.reader = Some(Reader { messages, room });
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        while self.next == self.block.rows.len() {
            match self.message()? {
                Some(block) => self.block = block,
                None => return Ok(None),
            }
            (self.next, self.row) = (0, 0..0);
        }
        let (end, fingerprint) = self.block.rows[self.next];
        self.next += 1;
        self.records += 1;
        self.row = self.row.end..end;
        self.bytes_read += self.row.len() as u64;
        Ok(Some(fingerprint))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        let forms = &self.forms[self.current];
        match decode::row(&self.block.bytes[self.row.clone()], forms, row) {
            Ok(()) => Ok(Decoded::Record),
            Err(field) => {
                let fields = &self.collections[self.current].schema.fields;
                Err(Error::Data {
                    position: self.position(),
                    problem: format!(
                        "field `{}` is not as its type is sent",
                        fields.get(field).map_or("?", |it| &it.name)
                    ),
                })
            }
        }
    }

    fn position(&self) -> Position {
        let place = match self.collections.get(self.current) {
            Some(collection) => self.place_of(collection.name.as_str()),
            None => self.postgres.server.place().to_owned(),
        };
        Position { place, record: Some(self.records), ..Position::default() }
    }

    fn finish(&mut self) -> Result<()> {
        // One transaction has read it all, so there is nothing to compare.
        if self.reader.is_none()
            && let Some(session) = self.session.take()
            && session.batch("COMMIT").is_ok()
        {
            self.postgres.server.keep(session);
        }
        self.session = None;
        Ok(())
    }
}

/// Sends all rows of `sql` in blocks, as there is room for them.
async fn copy(client: &Client, sql: &str, sender: &mpsc::Sender<Message>, room: &Semaphore) -> Result<(), Failure> {
    let mut rows = Box::pin(client.copy_out(sql).await?);
    let mut block = Block::default();
    let mut began = false;
    while let Some(bytes) = rows.next().await {
        let mut bytes: Bytes = bytes?;
        if !began {
            began = true;
            bytes = bytes.slice(COPY_HEADER_BYTES.min(bytes.len())..);
        }
        // The header may come with the first row or alone; the end is a row of -1 fields.
        if bytes.is_empty() || bytes[..] == [0xff, 0xff] {
            continue;
        }
        block.bytes.extend_from_slice(&bytes);
        block.rows.push((block.bytes.len(), Fingerprint(xxh3_64(&bytes))));
        if block.bytes.len() >= BLOCK_BYTES || block.rows.len() >= BLOCK_ROWS {
            let capacity = block.bytes.len();
            if !send(std::mem::take(&mut block), sender, room).await {
                return Ok(());
            }
            block.bytes.reserve(capacity);
        }
    }
    send(block, sender, room).await;
    Ok(())
}

/// Hands a block over; `false` where nobody listens any more.
async fn send(block: Block, sender: &mpsc::Sender<Message>, room: &Semaphore) -> bool {
    match room.acquire().await {
        Ok(permit) => permit.forget(),
        Err(_) => return false,
    }
    sender.send(Message::Block(block)).is_ok()
}
