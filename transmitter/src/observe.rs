//! Looking at the source: scan, and find the difference to the previous state.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use deltabus_bus::large_of;
use deltabus_interfaces::found::{self, Found};
use deltabus_interfaces::{Extent, Interface, Scan, Stamp, Unread};
use deltabus_record::change::{Change, CollectionChanges, SchemaChange, Transaction};
use deltabus_record::diff::{self, Difference, Identity, Refreshed};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::large::{ByReference, references, refers_to_large};
use deltabus_record::row::{FieldRef, Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, KeySpec, Schema};
use deltabus_state::{Batch, ScanIndex, ScanIndexWriter, Store, View};

use crate::Error;
use crate::contents::Uploads;

/// What was found at the source.
pub(crate) struct Observation {
    /// The stamp of what was read.
    pub(crate) stamp: Stamp,
    /// What changed since the previous state; empty when nothing did.
    pub(crate) transaction: Transaction,
    /// The same, record by record.
    pub(crate) differences: Vec<(CollectionName, Vec<Difference>)>,
    /// By collection: how many records would go, of how many.
    pub(crate) losses: Vec<(CollectionName, u64, u64)>,
    /// Records there, by collection.
    pub(crate) scanned: Vec<(CollectionName, u64)>,
    /// The scan indexes written, to be named in the state once the difference is committed.
    pub(crate) index: Digest,
    /// What they don't say right, because it was read without them.
    pub(crate) stale: Stale,
    /// What could not be read, while the rest could.
    pub(crate) unread: Vec<Unread>,
}

/// Records whose stored form was written since the scan index was made; their fingerprints there say nothing any more.
///
/// Keys are without occurrence, as in the index.
pub(crate) type Stale = HashMap<CollectionName, HashSet<Vec<u8>>>;

/// Where the scan indexes are and which of them count.
pub(crate) struct Indexes<'a> {
    pub(crate) folder: &'a Path,
    /// What the valid indexes are named by; `None`: there are none.
    pub(crate) valid: Option<Digest>,
    pub(crate) stale: &'a Stale,
    /// What the indexes written now are named by.
    pub(crate) next: Digest,
}

/// The previous state, as far as a scan may build on it.
pub(crate) struct Previous<'a> {
    pub(crate) view: &'a View,
    /// The source's stamp when it was last equal to that.
    pub(crate) stamp: Option<&'a Stamp>,
    /// How many records each collection has, where that is known.
    pub(crate) counts: &'a HashMap<CollectionName, u64>,
}

impl Previous<'_> {
    fn count(&self, collection: &CollectionName) -> Result<u64, Error> {
        match self.counts.get(collection) {
            Some(count) => Ok(*count),
            // Counting goes through all records: only where there is something to weigh.
            None => Ok(self.view.count(collection)?),
        }
    }
}

/// Scans the source and compares it with the previous state.
pub(crate) fn observe(
    interface: &dyn Interface,
    previous: &Previous<'_>,
    indexes: &Indexes<'_>,
    uploads: &Uploads<'_>,
) -> Result<Observation, Error> {
    let view = previous.view;
    let mut scan = interface.scan(previous.stamp)?;
    let found: Vec<Collection> = scan.collections().to_vec();
    let known = view.collections();
    let mut transaction = Transaction::default();
    let mut all = Vec::new();
    let mut losses = Vec::new();
    let mut scanned = Vec::new();
    let mut collections = Vec::new();
    let mut stale = Stale::new();

    for (i, found) in found.iter().enumerate() {
        let before = known_collection(interface, known, &found.name);
        let after = evolved(before, found)?;
        let mut reading = Reading { scan: &mut *scan, at: i, found, after: &after, previous, indexes, uploads };
        let partly = if before == Some(&after) { reading.since()? } else { None };
        let mut differences = match partly {
            Some(outcome) => {
                scanned.push((after.name.clone(), outcome.records));
                let changed = outcome.differences.iter().map(|difference| difference.key.as_bytes().to_vec());
                let before = indexes.stale.get(&after.name).into_iter().flatten().cloned();
                stale.insert(after.name.clone(), changed.chain(before).collect());
                outcome.differences
            }
            None => {
                let outcome = reading.whole(before.is_some())?;
                scanned.push((after.name.clone(), outcome.records));
                outcome.differences
            }
        };
        found::spare(&mut differences, scan.unread());
        if before != Some(&after) {
            transaction.schemas.push(SchemaChange { before: before.cloned(), after: Some(after.clone()) });
        }
        let deletes = differences.iter().filter(|difference| difference.after.is_none()).count() as u64;
        if deletes > 0 {
            losses.push((after.name.clone(), deletes, previous.count(&after.name)?));
        }
        let mut changes = Vec::with_capacity(differences.len());
        differences.retain(|difference| {
            let change = difference.to_change();
            let differs = change.is_some();
            changes.extend(change);
            differs
        });
        if !changes.is_empty() {
            transaction.collections.push(CollectionChanges { collection: after.name.clone(), changes });
            all.push((after.name.clone(), differences));
        }
        collections.push(after);
    }
    scan.finish()?;

    for gone in known.iter().filter(|known| !collections.iter().any(|now| now.name == known.name)) {
        let (mut changes, mut differences) = (Vec::new(), Vec::new());
        for record in view.records(&gone.name)? {
            let (key, row) = record?;
            let (key, row) = (Key::from_trusted(&*key), Row::from_trusted(&*row));
            changes.push(Change::Delete { key: key.clone(), row: row.clone() });
            differences.push(Difference { key, before: Some(row), after: None });
        }
        losses.push((gone.name.clone(), changes.len() as u64, changes.len() as u64));
        transaction.schemas.push(SchemaChange { before: Some(gone.clone()), after: None });
        transaction.collections.push(CollectionChanges { collection: gone.name.clone(), changes });
        all.push((gone.name.clone(), differences));
    }
    // A set that refers to a content is staged only when the bus has that.
    uploads.flush()?;
    let (stamp, unread) = (scan.stamp().clone(), scan.unread().to_vec());
    Ok(Observation { stamp, transaction, differences: all, losses, scanned, index: indexes.next, stale, unread })
}

/// The known collection that `name` is: of that name, or the only one there is where a store holds just one.
fn known_collection<'a>(
    interface: &dyn Interface,
    known: &'a [Collection],
    name: &CollectionName,
) -> Option<&'a Collection> {
    match known {
        [only] if interface.single_collection() => Some(only),
        _ => known.iter().find(|known| known.name == *name),
    }
}

/// What the collection looks like now, in the slots that the state and the log use.
fn evolved(before: Option<&Collection>, found: &Collection) -> Result<Collection, Error> {
    let Some(before) = before else { return Ok(found.clone()) };
    if before.schema.key_names() != found.schema.key_names() {
        return Err(Error::KeyChanged {
            collection: before.name.clone(),
            before: before.schema.key_names().join(", "),
            now: found.schema.key_names().join(", "),
        });
    }
    Ok(Collection { name: before.name.clone(), schema: before.schema.evolve(&found.schema) })
}

/// One collection that is being read.
struct Reading<'a, 'b> {
    scan: &'a mut dyn Scan,
    at: usize,
    found: &'a Collection,
    after: &'a Collection,
    previous: &'a Previous<'b>,
    indexes: &'a Indexes<'b>,
    uploads: &'a Uploads<'b>,
}

impl Reading<'_, '_> {
    /// Compares what may have been written since the previous state, where the store offers that and it is enough.
    fn since(&mut self) -> Result<Option<diff::Outcome>, Error> {
        let extent @ Extent::Since { kept } = self.scan.extent(self.at) else { return Ok(None) };
        if identity(self.after) == Identity::WholeRow {
            return Ok(None);
        }
        let (name, view) = (&self.after.name, self.previous.view);
        self.scan.start(self.at, extent)?;
        let layout = self.scan.layout(self.at);
        let translate = translator(&self.found.schema, &self.after.schema, self.uploads, view, name);
        let mut records = Found::new(&mut *self.scan, translate);
        let count = self.previous.count(name)?;
        let outcome: Result<Option<diff::Outcome>, diff::DiffError<Error>> =
            diff::since(&mut records, &view.known(name), kept, count);
        let outcome = outcome?;
        if let (Some(_), Some(valid)) = (&outcome, self.indexes.valid) {
            ScanIndex::rename(self.indexes.folder, name, layout, valid, self.indexes.next)?;
        }
        Ok(outcome)
    }

    /// Compares everything.
    fn whole(&mut self, known: bool) -> Result<diff::Outcome, Error> {
        let (after, indexes, view) = (self.after, self.indexes, self.previous.view);
        self.scan.start(self.at, Extent::Whole)?;
        let layout = self.scan.layout(self.at);
        let translate = translator(&self.found.schema, &after.schema, self.uploads, view, &after.name);
        let mut records = Found::new(&mut *self.scan, translate);
        let mut writer = ScanIndexWriter::create(indexes.folder, &after.name, layout)?;
        let index = indexes.valid.filter(|_| known);
        let index = index.and_then(|valid| ScanIndex::open(indexes.folder, &after.name, layout, valid));
        let outcome: Result<diff::Outcome, diff::DiffError<Error>> = match index {
            Some(index) => {
                let (known, identity) = (view.known(&after.name), identity(after));
                let mut index = Refreshed::new(index, indexes.stale.get(&after.name), &known, identity)?;
                diff::with_index(&mut records, &mut index, &known, &mut writer, identity)
            }
            None => diff::without_index(&mut records, &view.known(&after.name), &mut writer, identity(after)),
        };
        let outcome = outcome?;
        writer.finish(indexes.next)?;
        Ok(outcome)
    }
}

/// Whether equal rows are counted.
pub(crate) fn identity(collection: &Collection) -> Identity {
    match collection.schema.key {
        KeySpec::WholeRow => Identity::WholeRow,
        KeySpec::Fields(_) => Identity::Key,
    }
}

/// Brings found rows into the slots of `after`, takes large values out and makes the key.
pub(crate) fn translator<'a>(
    found: &Schema,
    after: &'a Schema,
    uploads: &'a Uploads<'a>,
    view: &'a View,
    collection: &'a CollectionName,
) -> Box<deltabus_interfaces::found::Translate<'a>> {
    let slots = after.slots_in(found);
    let in_place =
        slots.iter().enumerate().all(|(slot, found)| *found == Some(slot)) && slots.len() == found.fields.len();
    let by_reference = ByReference::of(after);
    let mut permuted = RowBuilder::default();
    let mut small = RowBuilder::default();
    let mut known = Vec::new();
    Box::new(move |row, key, out| {
        let mut row = row;
        if !in_place {
            let fields: Vec<FieldRef<'_>> = RowReader::new(row).collect();
            permuted.clear();
            for slot in &slots {
                permuted.push_encoded(slot.and_then(|slot| fields.get(slot).copied()).unwrap_or(FieldRef::ABSENT));
            }
            row = permuted.as_bytes();
        }
        after.key_content_into(row, key);
        let (refers, leaves) = (refers_to_large(row), by_reference.leaves(row));
        if refers || leaves {
            known.clear();
            // A failing store shows itself when the records are compared.
            let _ = view.get(collection, key, &mut known);
        }
        if refers {
            for large in references(row).filter(|large| !uploads.has(large, references(&known))) {
                uploads.keep_found(&large)?;
            }
        }
        if leaves {
            small.clear();
            by_reference.externalize(row, &mut small, &mut |bytes, text| {
                let large = large_of(bytes, text);
                match uploads.has(&large, references(&known)) {
                    true => Ok(large),
                    false => uploads.keep(bytes, text),
                }
            })?;
            row = small.as_bytes();
        }
        out.extend_from_slice(row);
        Ok(())
    })
}

/// Takes in a source of which nothing is known yet: all records go into the store, unseen until `batch` is committed.
pub(crate) fn first_load(
    interface: &dyn Interface,
    view: &View,
    store: &Store,
    indexes: &Indexes<'_>,
    uploads: &Uploads<'_>,
    batch: &mut Batch,
) -> Result<FirstLoad, Error> {
    let mut scan = interface.scan(None)?;
    let mut digest = Digest::default();
    let mut scanned = Vec::new();
    let collections = scan.collections().to_vec();
    for (i, collection) in collections.iter().enumerate() {
        scan.start(i, Extent::Whole)?;
        let mut writer = ScanIndexWriter::create(indexes.folder, &collection.name, scan.layout(i))?;
        let translate = translator(&collection.schema, &collection.schema, uploads, view, &collection.name);
        let mut records = Found::new(&mut *scan, translate);
        let hasher = RecordHasher::new(&collection.name);
        let mut load = store.load(collection)?;
        let mut take = |key: &[u8], row: &[u8]| {
            digest.add(hasher.hash(key, row));
            load.put(key, row)
        };
        let outcome: Result<diff::Outcome, diff::DiffError<Error>> =
            diff::first(&mut records, &mut writer, identity(collection), &mut take);
        scanned.push((collection.name.clone(), outcome?.records));
        writer.finish(indexes.next)?;
        load.finish(batch)?;
    }
    scan.finish()?;
    uploads.flush()?;
    Ok(FirstLoad { stamp: scan.stamp().clone(), digest, scanned, unread: scan.unread().to_vec() })
}

/// What a first load took in.
pub(crate) struct FirstLoad {
    /// The stamp of what was read.
    pub(crate) stamp: Stamp,
    /// The digest of all records.
    pub(crate) digest: Digest,
    /// How many there are, by collection.
    pub(crate) scanned: Vec<(CollectionName, u64)>,
    /// What could not be read, while the rest could.
    pub(crate) unread: Vec<Unread>,
}
