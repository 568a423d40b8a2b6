//! A process's interface to a store in memory, with all that can go wrong at it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use deltabus_interfaces::{
    Action, CollectionWrite, Content, Contents, Decoded, Error, Extent, Fingerprint, Interface, Mark, Notify, Position,
    RecordWrite, Refusal, Result, Scan, Staged, Stamp, Temporary, Watching,
};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, KindSet, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::fault::Fault;
use crate::life::Life;
use crate::plan::{Planted, ShelfKind};
use crate::shelf::{Shelf, Table, Tables, Writer};
use crate::users::Users;
use crate::world::lock;

/// Whether this process's store is where records come from or where they go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// One life's interface to a store.
pub(crate) struct ShelfInterface {
    pub(crate) shelf: Arc<Mutex<Shelf>>,
    pub(crate) life: Arc<Life>,
    pub(crate) users: Arc<Users>,
    pub(crate) side: Side,
}

impl ShelfInterface {
    fn place(&self) -> String {
        lock(&self.shelf).name.clone()
    }

    /// A user may write the store just now.
    fn amid(&self) {
        if self.life.strikes(Fault::UserAmid) {
            self.users.write_now(&self.shelf);
        }
    }

    fn may_be_locked(&self) -> Result<()> {
        match self.life.strikes(Fault::StoreLocked) {
            true => Err(Error::Locked { place: self.place() }),
            false => Ok(()),
        }
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> Error {
        Error::Io { doing, path: self.place().into(), source }
    }

    fn planted(&self, planted: Planted) -> bool {
        self.life.world.plan.planted == Some(planted)
    }
}

/// What a store of this kind keeps as it is.
pub(crate) fn native(absent: bool) -> KindSet {
    const KEPT: KindSet = KindSet::of(&[
        Kind::Null,
        Kind::Bool,
        Kind::Integer,
        Kind::Decimal,
        Kind::Float,
        Kind::Text,
        Kind::Bytes,
        Kind::Absent,
    ]);
    const WITHOUT_ABSENT: KindSet =
        KindSet::of(&[Kind::Null, Kind::Bool, Kind::Integer, Kind::Decimal, Kind::Float, Kind::Text, Kind::Bytes]);
    if absent { KEPT } else { WITHOUT_ABSENT }
}

impl Interface for ShelfInterface {
    fn stamp(&self) -> Result<Stamp> {
        if self.life.is_over() {
            self.life.die();
        }
        Ok(lock(&self.shelf).stamp())
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        let mut shelf = lock(&self.shelf);
        if !shelf.kind.notifies {
            return Ok(None);
        }
        let watcher = shelf.watch(notify);
        Ok(Some(Watching::new(Watcher { shelf: Arc::clone(&self.shelf), watcher })))
    }

    fn commits(&self) -> bool {
        lock(&self.shelf).kind.transactional
    }

    fn scan(&self, _: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        self.life.may_die(Fault::CrashBeforeStore);
        self.may_be_locked()?;
        let shelf = lock(&self.shelf);
        let Some(tables) = shelf.tables().cloned() else { return Err(Error::Missing { place: shelf.name.clone() }) };
        let named = |table: &Table| Collection { name: table.name.clone(), schema: table.schema.clone() };
        let collections = tables.iter().map(named).collect();
        Ok(Box::new(ShelfScan {
            interface: self,
            stamp: shelf.stamp(),
            isolated: shelf.kind.transactional,
            collections,
            tables,
            at: (0, 0),
        }))
    }

    fn verbatim(&self, _: &Field) -> KindSet {
        native(lock(&self.shelf).kind.absent)
    }

    fn project(&self, value: Value, _: &Field) -> Result<Value, Refusal> {
        Ok(deltabus_record::convert::project(value, native(lock(&self.shelf).kind.absent)))
    }

    fn field_for(&self, field: &Field) -> Field {
        field.clone()
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        mark: Option<&Mark>,
        _: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        self.life.may_die(Fault::CrashBeforeStore);
        self.may_be_locked()?;
        self.amid();
        let mut shelf = lock(&self.shelf);
        if shelf.stamp() != *expected {
            return Err(Error::Changed { place: shelf.name.clone() });
        }
        // Whoever writes a table knows it.
        shelf.orphans.retain(|orphan| !writes.iter().any(|write| write.collection.name == *orphan));
        let mut tables = shelf.tables().cloned().unwrap_or_default();
        let kind = shelf.kind;
        let place = shelf.name.clone();
        drop(shelf);
        let before = tables.clone();
        let half = self.side == Side::Source && self.planted(Planted::HalfWrite);
        for write in writes.iter_mut() {
            apply(&mut tables, write, kind, &place)?;
            if self.side == Side::Destination && self.planted(Planted::DoubleWrite) {
                double(&before, &mut tables);
            }
            if half {
                break;
            }
        }
        if self.side == Side::Destination
            && self.planted(Planted::SkippedWrite)
            && self.life.world.fresh().is_multiple_of(8)
        {
            tables = before;
        }
        // A store that is no database is a file: built beside it, and put in its place by a rename.
        let content = (!kind.transactional).then(|| Shelf::content(&tables));
        let temporary = match kind.transactional {
            true => None,
            false => Some(lock(&self.shelf).temporary().map_err(|error| self.failed("make a file for", error))?),
        };
        let (expected, mark) = (expected.clone(), mark.cloned());
        Ok(Box::new(ShelfStaged { interface: self, expected, tables, mark, content, temporary }))
    }

    fn mark(&self, owner: &str) -> Result<Option<Vec<u8>>> {
        self.may_be_locked()?;
        Ok(lock(&self.shelf).marks.get(owner).cloned())
    }

    fn transactional(&self) -> bool {
        lock(&self.shelf).kind.transactional
    }

    fn single_collection(&self) -> bool {
        lock(&self.shelf).kind.single
    }

    fn content(&self) -> Result<Option<Content>> {
        self.may_be_locked()?;
        Ok(lock(&self.shelf).tables().map(Shelf::content))
    }
}

struct Watcher {
    shelf: Arc<Mutex<Shelf>>,
    watcher: u64,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        lock(&self.shelf).unwatch(self.watcher);
    }
}

/// One view of a store.
struct ShelfScan<'a> {
    interface: &'a ShelfInterface,
    stamp: Stamp,
    /// What others write meanwhile isn't seen.
    isolated: bool,
    collections: Vec<Collection>,
    tables: Tables,
    /// The table, and the row after the current one.
    at: (usize, usize),
}

impl ShelfScan<'_> {
    fn row(&self) -> &[Value] {
        &self.tables[self.at.0].rows[self.at.1 - 1]
    }
}

impl Scan for ShelfScan<'_> {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, index: usize) -> u64 {
        xxh3_64(format!("{:?}", self.collections[index].schema).as_bytes())
    }

    fn bytes_total(&self) -> Option<u64> {
        None
    }

    fn bytes_read(&self) -> u64 {
        0
    }

    fn start(&mut self, index: usize, _: Extent) -> Result<()> {
        self.at = (index, 0);
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        if self.at.1 == self.tables[self.at.0].rows.len() {
            return Ok(None);
        }
        self.at.1 += 1;
        Ok(Some(Fingerprint(xxh3_64_with_seed(Row::of(self.row()).as_bytes(), 1))))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        for value in self.row() {
            row.push(value);
        }
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        Position { place: self.interface.place(), record: Some(self.at.1 as u64), ..Position::default() }
    }

    fn finish(&mut self) -> Result<()> {
        self.interface.amid();
        self.interface.life.may_die(Fault::CrashBeforeStore);
        if !self.isolated && lock(&self.interface.shelf).stamp() != self.stamp {
            return Err(Error::Changed { place: self.interface.place() });
        }
        Ok(())
    }
}

/// What a store is to become.
struct ShelfStaged<'a> {
    interface: &'a ShelfInterface,
    expected: Stamp,
    tables: Tables,
    mark: Option<Mark>,
    content: Option<Content>,
    /// The file that is to take the store's place.
    temporary: Option<PathBuf>,
}

impl Staged for ShelfStaged<'_> {
    fn content(&self) -> Option<Content> {
        self.content
    }

    fn temporary(&mut self) -> Option<Temporary> {
        self.temporary.clone().map(Temporary::at)
    }

    fn commit(self: Box<Self>) -> Result<Stamp> {
        let ShelfInterface { shelf, life, .. } = self.interface;
        life.may_die(Fault::CrashBetween);
        self.interface.amid();
        let stamp = {
            let mut shelf = lock(shelf);
            if shelf.stamp() != self.expected {
                return Err(Error::Changed { place: shelf.name.clone() });
            }
            life.note(|| format!("writes {}", difference(shelf.tables(), &self.tables)));
            if let Some(temporary) = &self.temporary {
                std::fs::remove_file(temporary).map_err(|error| self.interface.failed("rename", error))?;
            }
            shelf.replace(Some(self.tables), Writer::Interface, life.world.millis());
            if let Some(mark) = self.mark {
                shelf.marks.insert(mark.owner, mark.value);
            }
            shelf.stamp()
        };
        life.may_die(Fault::CrashAfterWrite);
        if life.strikes(Fault::WriteUnknown) {
            let source = "the connection broke off".into();
            return Err(Error::Unreachable { place: self.interface.place(), doing: "commit", source });
        }
        Ok(stamp)
    }
}

/// What one state has that another hasn't, in one line.
pub(crate) fn difference(before: Option<&Tables>, after: &Tables) -> String {
    let mut parts = Vec::new();
    let none = Tables::new();
    let before = before.unwrap_or(&none);
    for table in after {
        let old = before.iter().find(|old| old.name == table.name);
        let Some(old) = old else {
            parts.push(format!("+{}({} records)", table.name, table.rows.len()));
            continue;
        };
        if old.schema != table.schema {
            let names: Vec<_> = table.schema.fields.iter().map(|field| field.name.as_str()).collect();
            parts.push(format!("{} now has {}", table.name, names.join(",")));
        }
        let mut gone = old.rows.clone();
        let mut come = Vec::new();
        for row in &table.rows {
            match gone.iter().position(|old| old == row) {
                Some(at) => {
                    gone.remove(at);
                }
                None => come.push(row),
            }
        }
        parts.extend(gone.iter().map(|row| format!("{} -[{}]", table.name, crate::shelf::show_row(row))));
        parts.extend(come.iter().map(|row| format!("{} +[{}]", table.name, crate::shelf::show_row(row))));
    }
    let lost = before.iter().filter(|old| !after.iter().any(|table| table.name == old.name));
    parts.extend(lost.map(|old| format!("-{}", old.name)));
    if parts.is_empty() { "nothing new".into() } else { parts.join("; ") }
}

/// Does what is to be done to one collection.
fn apply(tables: &mut Tables, write: &mut CollectionWrite<'_>, kind: ShelfKind, place: &str) -> Result<()> {
    let wanted = write.collection;
    // What stands in a field that nobody has written.
    let nothing = if kind.absent { Value::Absent } else { Value::Null };
    let at = match kind.single {
        true => (!tables.is_empty()).then_some(0),
        false => tables.iter().position(|table| table.name == wanted.name),
    };
    if matches!(write.action, Action::Remove) {
        if let Some(at) = at {
            tables.remove(at);
        }
        return Ok(());
    }
    let at = at.unwrap_or_else(|| {
        let schema = Schema { fields: Vec::new(), key: KeySpec::WholeRow };
        tables.push(Table { name: wanted.name.clone(), schema, rows: Vec::new() });
        tables.len() - 1
    });
    let table = &mut tables[at];
    for (_, field) in wanted.schema.ordered() {
        if table.schema.slot(&field.name).is_none() {
            let ordinal = table.schema.fields.len() as u32;
            table.schema.fields.push(Field { ordinal, ..field.clone() });
        }
    }
    let dropped = |field: &Field| write.dropped.contains(&field.name);
    let kept: Vec<usize> = (0..table.schema.fields.len()).filter(|at| !dropped(&table.schema.fields[*at])).collect();
    if kept.len() < table.schema.fields.len() {
        for row in &mut table.rows {
            row.resize(table.schema.fields.len(), nothing.clone());
            *row = kept.iter().map(|at| row[*at].clone()).collect();
        }
        table.schema.fields = kept.iter().map(|at| table.schema.fields[*at].clone()).collect();
        for (ordinal, field) in table.schema.fields.iter_mut().enumerate() {
            field.ordinal = ordinal as u32;
        }
    }
    table.schema.key = match &wanted.schema.key {
        KeySpec::WholeRow => KeySpec::WholeRow,
        KeySpec::Fields(_) => {
            let slot = |name: &str| table.schema.slot(name).unwrap_or_default() as u32;
            KeySpec::Fields(wanted.schema.key_names().into_iter().map(slot).collect())
        }
    };
    let width = table.schema.fields.len();
    table.rows.iter_mut().for_each(|row| row.resize(width, nothing.clone()));
    // For each slot of what is written, where it goes.
    let places: Vec<Option<usize>> = wanted
        .schema
        .fields
        .iter()
        .map(|field| if field.dropped { None } else { table.schema.slot(&field.name) })
        .collect();
    let placed = |row: &[u8]| {
        let row = Row::from_trusted(row);
        let mut out = vec![nothing.clone(); width];
        for (slot, place) in places.iter().enumerate() {
            if let Some(place) = place {
                out[*place] = row.value(slot);
            }
        }
        out
    };
    match &mut write.action {
        Action::Load(records) => {
            if !table.rows.is_empty() {
                let problem = "records are to be loaded where some are already".into();
                return Err(Error::Unsupported { place: place.to_owned(), problem });
            }
            while records.advance().map_err(Error::Records)? {
                let row = placed(records.row());
                table.rows.push(row);
            }
        }
        Action::Write(writes) => {
            for write in *writes {
                match write {
                    RecordWrite::Put { row, changed, .. } => put(table, &places, placed(row.as_bytes()), changed),
                    RecordWrite::Remove { row, .. } => remove(table, &places, &placed(row.as_bytes())),
                }
            }
        }
        Action::Remove => {}
    }
    Ok(())
}

/// Where the record is that `row` stands for. Without a key only what is written counts, not what the store has beside it.
fn find(table: &Table, places: &[Option<usize>], row: &[Value]) -> Option<usize> {
    match &table.schema.key {
        KeySpec::Fields(_) => {
            let key = table.key(row);
            table.rows.iter().position(|there| table.key(there) == key)
        }
        KeySpec::WholeRow => {
            let equal = |there: &Vec<Value>| places.iter().flatten().all(|place| there[*place] == row[*place]);
            table.rows.iter().position(equal)
        }
    }
}

fn put(table: &mut Table, places: &[Option<usize>], row: Vec<Value>, changed: &[u32]) {
    match find(table, places, &row) {
        Some(at) if table.schema.key != KeySpec::WholeRow => {
            for place in changed.iter().filter_map(|slot| places.get(*slot as usize).copied().flatten()) {
                table.rows[at][place] = row[place].clone();
            }
        }
        _ => table.rows.push(row),
    }
}

fn remove(table: &mut Table, places: &[Option<usize>], row: &[Value]) {
    if let Some(at) = find(table, places, row) {
        table.rows.remove(at);
    }
}

/// The planted defect: new rows without a key come twice.
fn double(before: &Tables, tables: &mut Tables) {
    for table in tables.iter_mut().filter(|table| table.schema.key == KeySpec::WholeRow) {
        let old = before.iter().find(|old| old.name == table.name).map_or(0, |old| old.rows.len());
        if table.rows.len() == old + 1 {
            table.rows.extend(table.rows.last().cloned());
        }
    }
}
