//! Looking at the source: scan, and find the difference to the previous state.

use std::collections::HashSet;
use std::path::Path;

use deltabus_interfaces::found::Found;
use deltabus_interfaces::{Error as InterfaceError, Interface, Scan, Stamp};
use deltabus_record::change::{CollectionChanges, SchemaChange, Transaction};
use deltabus_record::diff::{self, Index};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::large::{externalize, has_large};
use deltabus_record::row::{FieldRef, RowBuilder, RowReader};
use deltabus_record::schema::{Collection, CollectionName, KeySpec, Schema};
use deltabus_record::value::Large;
use deltabus_state::{ScanIndex, ScanIndexWriter, View};

use crate::Error;

/// Takes a large value out of a record while it is scanned.
pub(crate) type KeepLarge<'a> = dyn Fn(&[u8], bool) -> Result<Large, InterfaceError> + Sync + 'a;

/// What was found at the source.
pub(crate) struct Observation {
    /// The stamp of what was read.
    pub(crate) stamp: Stamp,
    /// What changed since the previous state; empty when nothing did.
    pub(crate) transaction: Transaction,
    /// The collections as they are now.
    pub(crate) collections: Vec<Collection>,
    /// By collection: how many records would go, of how many.
    pub(crate) losses: Vec<(CollectionName, u64, u64)>,
    /// Records read, by collection.
    pub(crate) scanned: Vec<(CollectionName, u64)>,
    /// The scan indexes written, to be named in the state once the difference is committed.
    pub(crate) index: Digest,
}

/// Records whose stored form was written since the scan index was made; their fingerprints there say nothing any more.
pub(crate) type Stale = HashSet<(CollectionName, Key)>;

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
    let mut scan = interface.scan()?;
    let found: Vec<Collection> = scan.collections().to_vec();
    let known = view.collections();
    let mut transaction = Transaction::default();
    let mut losses = Vec::new();
    let mut scanned = Vec::new();
    let mut collections = Vec::new();

    for (i, found) in found.iter().enumerate() {
        let before = known_collection(interface, known, &found.name);
        let after = evolved(before, found)?;
        scan.start(i)?;
        let layout = scan.layout(i);
        let outcome = difference(&mut *scan, layout, found, &after, before.is_some(), view, indexes, keep)?;
        scanned.push((after.name.clone(), outcome.records));
        if before != Some(&after) {
            transaction.schemas.push(SchemaChange { before: before.cloned(), after: Some(after.clone()) });
        }
        let deletes = outcome.differences.iter().filter(|difference| difference.after.is_none()).count() as u64;
        losses.push((after.name.clone(), deletes, view.count(&after.name)?));
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
            changes.push(deltabus_record::change::Change::Delete { key: Key::from_trusted(key), row: row_of(&row) });
        }
        losses.push((gone.name.clone(), changes.len() as u64, changes.len() as u64));
        transaction.schemas.push(SchemaChange { before: Some(gone.clone()), after: None });
        transaction.collections.push(CollectionChanges { collection: gone.name.clone(), changes });
    }
    Ok(Observation { stamp: scan.stamp().clone(), transaction, collections, losses, scanned, index: indexes.next })
}
