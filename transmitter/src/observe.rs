//! Looking at the source: scan, and find the difference to the previous state.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use deltabus_interfaces::found::Found;
use deltabus_interfaces::{Error as InterfaceError, Extent, Interface, Scan, Stamp};
use deltabus_record::change::{Change, CollectionChanges, SchemaChange, Transaction};
use deltabus_record::diff::{self, Identity, Index};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::large::{externalize, has_large};
use deltabus_record::row::{FieldRef, Row, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, KeySpec, Schema};
use deltabus_record::value::{Large, Value};
use deltabus_state::{Batch, IndexDamaged, ScanIndex, ScanIndexWriter, Store, View};

use crate::Error;

/// Takes a large value out of a record while it is scanned.
pub(crate) type KeepLarge<'a> = dyn Fn(&[u8], bool) -> Result<Large, InterfaceError> + Sync + 'a;

/// What was found at the source.
pub(crate) struct Observation {
    /// The stamp of what was read.
    pub(crate) stamp: Stamp,
    /// What changed since the previous state; empty when nothing did.
    pub(crate) transaction: Transaction,
    /// By collection: how many records would go, of how many.
    pub(crate) losses: Vec<(CollectionName, u64, u64)>,
    /// Records read, by collection.
    pub(crate) scanned: Vec<(CollectionName, u64)>,
    /// The scan indexes written, to be named in the state once the difference is committed.
    pub(crate) index: Digest,
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

/// Scans the source and compares it with `view`.
pub(crate) fn observe(
    interface: &dyn Interface,
    view: &View,
    indexes: &Indexes<'_>,
    keep: &KeepLarge<'_>,
) -> Result<Observation, Error> {
    let mut scan = interface.scan(None)?;
    let found: Vec<Collection> = scan.collections().to_vec();
    let known = view.collections();
    let mut transaction = Transaction::default();
    let mut losses = Vec::new();
    let mut scanned = Vec::new();
    let mut collections = Vec::new();

    for (i, found) in found.iter().enumerate() {
        let before = known_collection(interface, known, &found.name);
        let after = evolved(before, found)?;
        scan.start(i, Extent::Whole)?;
        let layout = scan.layout(i);
        let outcome = difference(&mut *scan, layout, found, &after, before.is_some(), view, indexes, keep)?;
        scanned.push((after.name.clone(), outcome.records));
        if before != Some(&after) {
            transaction.schemas.push(SchemaChange { before: before.cloned(), after: Some(after.clone()) });
        }
        let deletes = outcome.differences.iter().filter(|difference| difference.after.is_none()).count() as u64;
        if deletes > 0 {
            // Counting goes through all records: only where there is something to weigh.
            losses.push((after.name.clone(), deletes, view.count(&after.name)?));
        }
        let changes: Vec<_> = outcome.differences.into_iter().filter_map(diff::Difference::into_change).collect();
        if !changes.is_empty() {
            transaction.collections.push(CollectionChanges { collection: after.name.clone(), changes });
        }
        collections.push(after);
    }
    scan.finish()?;

    for gone in known.iter().filter(|known| !collections.iter().any(|now| now.name == known.name)) {
        let mut changes = Vec::new();
        for record in view.records(&gone.name)? {
            let (key, row) = record?;
            changes.push(Change::Delete { key: Key::from_trusted(&*key), row: Row::from_trusted(&*row) });
        }
        losses.push((gone.name.clone(), changes.len() as u64, changes.len() as u64));
        transaction.schemas.push(SchemaChange { before: Some(gone.clone()), after: None });
        transaction.collections.push(CollectionChanges { collection: gone.name.clone(), changes });
    }
    Ok(Observation { stamp: scan.stamp().clone(), transaction, losses, scanned, index: indexes.next })
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

#[expect(clippy::too_many_arguments, reason = "one call, all of it the context of one collection")]
fn difference(
    scan: &mut dyn Scan,
    layout: u64,
    found: &Collection,
    after: &Collection,
    known: bool,
    view: &View,
    indexes: &Indexes<'_>,
    keep: &KeepLarge<'_>,
) -> Result<diff::Outcome, Error> {
    let translate = translator(&found.schema, &after.schema, keep, view, &after.name);
    let mut records = Found::new(scan, translate);
    let mut writer = ScanIndexWriter::create(indexes.folder, &after.name, layout)?;
    let index = indexes.valid.filter(|_| known);
    let index = index.and_then(|valid| ScanIndex::open(indexes.folder, &after.name, layout, valid));
    let outcome: Result<diff::Outcome, diff::DiffError<Error>> = match index {
        Some(index) => {
            let mut index = Masked { index, collection: &after.name, stale: indexes.stale };
            diff::with_index(&mut records, &mut index, &view.known(&after.name), &mut writer, identity(after))
        }
        None => diff::without_index(&mut records, &view.known(&after.name), &mut writer, identity(after)),
    };
    let outcome = outcome?;
    writer.finish(indexes.next)?;
    Ok(outcome)
}

/// Whether equal rows are counted.
pub(crate) fn identity(collection: &Collection) -> Identity {
    match collection.schema.key {
        KeySpec::WholeRow => Identity::WholeRow,
        KeySpec::Fields(_) => Identity::Key,
    }
}

/// An index in which the entries of some records count as unknown.
struct Masked<'a> {
    index: ScanIndex,
    collection: &'a CollectionName,
    stale: &'a Stale,
}

impl Index for Masked<'_> {
    type Error = IndexDamaged;

    fn next(&mut self) -> Result<Option<u64>, IndexDamaged> {
        let fingerprint = self.index.advance()?;
        if self.stale.is_empty() {
            return Ok(fingerprint);
        }
        let stale = self.stale.get(self.collection).is_some_and(|keys| keys.contains(self.index.key()));
        // Another fingerprint than any stored form of this record had.
        Ok(fingerprint.map(|fingerprint| if stale { !fingerprint } else { fingerprint }))
    }

    fn key(&self) -> &[u8] {
        self.index.key()
    }
}

/// Brings found rows into the slots of `after`, takes large values out and makes the key.
pub(crate) fn translator<'a>(
    found: &Schema,
    after: &'a Schema,
    keep: &'a KeepLarge<'a>,
    view: &'a View,
    collection: &'a CollectionName,
) -> Box<deltabus_interfaces::found::Translate<'a>> {
    let slots = after.slots_in(found);
    let in_place =
        slots.iter().enumerate().all(|(slot, found)| *found == Some(slot)) && slots.len() == found.fields.len();
    let mut permuted = RowBuilder::default();
    let mut small = RowBuilder::default();
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
        if has_large(row) {
            let mut known = Vec::new();
            // A failing store shows itself when the records are compared.
            let _ = view.get(collection, key, &mut known);
            small.clear();
            externalize(row, &mut small, &mut |bytes, text| keep_if_new(&known, bytes, text, keep))?;
            row = small.as_bytes();
        }
        out.extend_from_slice(row);
        Ok(())
    })
}

fn keep_if_new(known: &[u8], bytes: &[u8], text: bool, keep: &KeepLarge<'_>) -> Result<Large, InterfaceError> {
    let hash = *blake3::hash(bytes).as_bytes();
    let large = Large { hash, length: bytes.len() as u64, text };
    let reference = Row::of(&[Value::Large(Box::new(large.clone()))]);
    if RowReader::new(known).any(|field| field.as_bytes() == reference.as_bytes()) {
        return Ok(large);
    }
    keep(bytes, text)
}

/// Takes in a source of which nothing is known yet: all records go into the store, unseen until `batch` is committed.
/// Gives the stamp of what was read, the digest of all records and how many there are by collection.
pub(crate) fn first_load(
    interface: &dyn Interface,
    view: &View,
    store: &Store,
    folder: &Path,
    index: Digest,
    keep: &KeepLarge<'_>,
    batch: &mut Batch,
) -> Result<(Stamp, Digest, Vec<(CollectionName, u64)>), Error> {
    let mut scan = interface.scan(None)?;
    let mut digest = Digest::default();
    let mut scanned = Vec::new();
    let collections = scan.collections().to_vec();
    for (i, collection) in collections.iter().enumerate() {
        scan.start(i, Extent::Whole)?;
        let mut writer = ScanIndexWriter::create(folder, &collection.name, scan.layout(i))?;
        let translate = translator(&collection.schema, &collection.schema, keep, view, &collection.name);
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
        writer.finish(index)?;
        load.finish(batch)?;
    }
    scan.finish()?;
    Ok((scan.stamp().clone(), digest, scanned))
}
