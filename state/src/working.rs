//! A state with changes on top that are not yet committed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use deltabus_record::apply::{self, Mismatch};
use deltabus_record::change::{Change, SchemaChange, Transaction};
use deltabus_record::diff::Difference;
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName};

use crate::{Batch, Error, View};

/// The records of a [`View`] with changes applied in memory, the digest kept up to date.
///
/// Sets are applied here first, several if need be; [`Working::write`] then puts the result into a batch, so that all of
/// it becomes true in one commit. Memory: the changed records, before and after.
pub struct Working<'a> {
    view: &'a View,
    collections: Vec<Collection>,
    /// Each touched record by collection: as the view has it, and as it is now.
    records: BTreeMap<CollectionName, BTreeMap<Key, Touched>>,
    digest: Digest,
}

/// A record that was touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// As the view has it.
    pub before: Option<Row>,
    /// As it is now.
    pub after: Option<Row>,
}

/// Why a set can't be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store failed.
    #[error(transparent)]
    State(#[from] Error),
    /// The records are not those that the set was made on.
    #[error("the change set doesn't fit the records held: collection `{collection}`")]
    Mismatch {
        /// Where.
        collection: CollectionName,
        /// What differs.
        source: Mismatch,
    },
    /// A set speaks of a collection that doesn't exist.
    #[error("the change set doesn't fit the records held: there is no collection `{0}`")]
    NoCollection(CollectionName),
}

impl<'a> Working<'a> {
    /// Begins with what `view` holds, whose digest is `digest`.
    pub fn new(view: &'a View, digest: Digest) -> Working<'a> {
        Working { view, collections: view.collections().to_vec(), records: BTreeMap::new(), digest }
    }

    /// The digest of the records as they are now.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The collections as they are now.
    pub fn collections(&self) -> &[Collection] {
        &self.collections
    }

    /// The collection of that name, as it is now.
    pub fn collection(&self, name: &CollectionName) -> Option<&Collection> {
        self.collections.iter().find(|collection| collection.name == *name)
    }

    /// A record as it is now.
    pub fn get(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, Error> {
        match self.records.get(collection).and_then(|records| records.get(key)) {
            Some(touched) => Ok(touched.after.clone()),
            None => self.stored(collection, key),
        }
    }

    /// A record as the view has it, whatever became of it since.
    pub fn before(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, Error> {
        self.stored(collection, key)
    }

    fn stored(&self, collection: &CollectionName, key: &Key) -> Result<Option<Row>, Error> {
        let mut row = Vec::new();
        Ok(self.view.get(collection, key.as_bytes(), &mut row)?.then(|| Row::from_trusted(row)))
    }

    /// Sets a record.
    pub fn set(&mut self, collection: &CollectionName, key: &Key, after: Option<Row>) -> Result<(), Error> {
        let hasher = RecordHasher::new(collection);
        self.change(collection, &hasher, key, |_| Ok::<_, Error>(after))
    }

    /// Applies one change; its before-values must be those held.
    pub fn apply_change(&mut self, collection: &CollectionName, change: &Change) -> Result<(), ApplyError> {
        self.apply_hashed(collection, &RecordHasher::new(collection), change)
    }

    fn apply_hashed(
        &mut self,
        collection: &CollectionName,
        hasher: &RecordHasher,
        change: &Change,
    ) -> Result<(), ApplyError> {
        self.change(collection, hasher, change.key(), |now| {
            apply::apply(change, now).map_err(|source| ApplyError::Mismatch { collection: collection.clone(), source })
        })
    }

    /// Replaces a record by what `after` makes of it; looked up once.
    fn change<E: From<Error>>(
        &mut self,
        collection: &CollectionName,
        hasher: &RecordHasher,
        key: &Key,
        after: impl FnOnce(Option<&Row>) -> Result<Option<Row>, E>,
    ) -> Result<(), E> {
        let touched = match self.records.entry(collection.clone()).or_default().entry(key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut row = Vec::new();
                let there = self.view.get(collection, key.as_bytes(), &mut row)?;
                let stored = there.then(|| Row::from_trusted(row));
                entry.insert(Touched { after: stored.clone(), before: stored })
            }
        };
        let next = after(touched.after.as_ref())?;
        if let Some(row) = &touched.after {
            self.digest.remove(hasher.hash(key.as_bytes(), row.as_bytes()));
        }
        if let Some(row) = &next {
            self.digest.add(hasher.hash(key.as_bytes(), row.as_bytes()));
        }
        touched.after = next;
        Ok(())
    }

    /// Applies a transaction: schemas first, then records.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), ApplyError> {
        // What is undone may have values in fields that are already gone.
        let before: Vec<_> = self.collections.iter().map(|it| (it.name.clone(), it.schema.fields.len())).collect();
        for schema in transaction.schemas.iter().filter(|schema| schema.after.is_some()) {
            self.apply_schema(schema.before.as_ref(), schema.after.as_ref());
        }
        for changes in &transaction.collections {
            let Some(collection) = self.collection(&changes.collection) else {
                return Err(ApplyError::NoCollection(changes.collection.clone()));
            };
            let was = before.iter().find(|(name, _)| *name == changes.collection).map_or(0, |(_, fields)| *fields);
            let fields = collection.schema.fields.len().max(was);
            let hasher = RecordHasher::new(&changes.collection);
            for change in &changes.changes {
                apply::check_slots(change, fields)
                    .map_err(|source| ApplyError::Mismatch { collection: changes.collection.clone(), source })?;
                self.apply_hashed(&changes.collection, &hasher, change)?;
            }
        }
        // A collection goes after its records.
        for schema in transaction.schemas.iter().filter(|schema| schema.after.is_none()) {
            self.apply_schema(schema.before.as_ref(), None);
        }
        Ok(())
    }

    /// Takes in what a comparison with the view found: the schemas, and the records that differ, each once. Nothing was
    /// touched before, so that no record has to be looked up.
    pub fn take_in(&mut self, schemas: &[SchemaChange], records: Vec<(CollectionName, Vec<Difference>)>) {
        debug_assert!(self.records.is_empty());
        for schema in schemas {
            self.apply_schema(schema.before.as_ref(), schema.after.as_ref());
        }
        for (collection, differences) in records {
            let hasher = RecordHasher::new(&collection);
            let count = differences.len();
            let digest = &mut self.digest;
            let touched = differences.into_iter().map(|Difference { key, before, after }| {
                if let Some(row) = &before {
                    digest.remove(hasher.hash(key.as_bytes(), row.as_bytes()));
                }
                if let Some(row) = &after {
                    digest.add(hasher.hash(key.as_bytes(), row.as_bytes()));
                }
                (key, Touched { before, after })
            });
            let touched: BTreeMap<Key, Touched> = touched.collect();
            assert_eq!(touched.len(), count, "a comparison gives each record once");
            self.records.insert(collection, touched);
        }
    }

    /// Makes, alters or removes a collection.
    pub fn apply_schema(&mut self, before: Option<&Collection>, after: Option<&Collection>) {
        let gone = before.filter(|before| after.is_none_or(|after| after.name != before.name));
        if let Some(gone) = gone {
            self.collections.retain(|collection| collection.name != gone.name);
        }
        if let Some(after) = after {
            match self.collections.iter_mut().find(|collection| collection.name == after.name) {
                Some(collection) => *collection = after.clone(),
                None => self.collections.push(after.clone()),
            }
        }
    }

    /// The records touched, by collection and key; some may be as they were.
    pub fn touched(&self) -> impl Iterator<Item = (&CollectionName, &Key, &Touched)> {
        self.records
            .iter()
            .flat_map(|(collection, records)| records.iter().map(move |(key, touched)| (collection, key, touched)))
    }

    /// Puts all of it into `batch`.
    pub fn write(&self, batch: &mut Batch) -> Result<(), Error> {
        for collection in &self.collections {
            if !self.view.collections().contains(collection) {
                batch.set_collection(collection)?;
            }
        }
        for (collection, key, touched) in self.touched() {
            if touched.before == touched.after {
                continue;
            }
            match &touched.after {
                Some(row) => batch.put(collection, key.as_bytes(), row.as_bytes())?,
                None => batch.remove(collection, key.as_bytes())?,
            }
        }
        for collection in self.view.collections() {
            if !self.collections.iter().any(|now| now.name == collection.name) {
                batch.remove_collection(&collection.name)?;
            }
        }
        Ok(())
    }
}
