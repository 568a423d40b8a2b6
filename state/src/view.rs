//! Reading: a consistent view of one commit.

use std::sync::Arc;

use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::RECORD_KEY_BYTES_MAX;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_record::value::Value;
use fjall::{Readable, Snapshot};

use crate::Error;
use crate::store::{Catalogue, Entry, Inner, KEY_BYTES_MAX, checked};

/// A record as the store has it: key and row.
pub type Stored = (fjall::Slice, fjall::Slice);

/// All that was committed when the view was taken, whatever is written since.
pub struct View {
    snapshot: Snapshot,
    catalogue: Catalogue,
    collections: Vec<Collection>,
    inner: Arc<Inner>,
}

impl View {
    pub(crate) fn new(snapshot: Snapshot, catalogue: Catalogue, inner: Arc<Inner>) -> View {
        let collections = catalogue.entries.iter().map(|entry| entry.collection.clone()).collect();
        View { snapshot, catalogue, collections, inner }
    }

    /// The collections, by name.
    pub fn collections(&self) -> &[Collection] {
        &self.collections
    }

    /// The collections that were put aside with [`Batch::put_aside`](crate::Batch::put_aside), as a view of their own.
    pub fn aside(&self) -> View {
        let aside = Catalogue { entries: self.catalogue.aside.clone(), ..Catalogue::default() };
        View::new(self.snapshot.clone(), aside, Arc::clone(&self.inner))
    }

    /// The collection of that name.
    pub fn collection(&self, name: &CollectionName) -> Option<&Collection> {
        self.catalogue.entry(name).map(|entry| &entry.collection)
    }

    /// Appends the row of a record to `row`; `false` if there is no such record.
    pub fn get(&self, collection: &CollectionName, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Error> {
        let Some(entry) = self.catalogue.entry(collection).filter(|_| is_keepable(key)) else { return Ok(false) };
        match self.snapshot.get(&entry.records, key).map_err(self.inner.error("read"))? {
            Some(stored) => {
                row.extend_from_slice(&stored);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// All records of a collection in the order of their keys.
    pub fn records(
        &self,
        collection: &CollectionName,
    ) -> Result<impl Iterator<Item = Result<Stored, Error>> + Send + use<>, Error> {
        let entry = self.entry(collection)?;
        let inner = Arc::clone(&self.inner);
        Ok(self.snapshot.iter(&entry.records).map(move |guard| guard.into_inner().map_err(inner.error("read"))))
    }

    /// How many records a collection has; counted one by one. 0 for a collection that doesn't exist.
    pub fn count(&self, collection: &CollectionName) -> Result<u64, Error> {
        let Some(entry) = self.catalogue.entry(collection) else { return Ok(0) };
        let mut count = 0;
        for guard in self.snapshot.iter(&entry.records) {
            guard.key().map_err(self.inner.error("read"))?;
            count += 1;
        }
        Ok(count)
    }

    /// The digest of all records, made anew: every one is read.
    pub fn digest(&self) -> Result<Digest, Error> {
        let mut digest = Digest::default();
        for collection in self.collections() {
            let hasher = RecordHasher::new(&collection.name);
            for record in self.records(&collection.name)? {
                let (key, row) = record?;
                digest.add(hasher.hash(&key, &row));
            }
        }
        Ok(digest)
    }

    /// What the owner put on top of a record with [`crate::Batch::overlay_put`].
    pub fn overlay(&self, collection: &CollectionName, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let stored = self.snapshot.get(&self.inner.overlay, overlay_key(collection, key));
        Ok(stored.map_err(self.inner.error("read"))?.map(|value| value.to_vec()))
    }

    /// Everything that was put on top of records, by the place where it lies.
    pub(crate) fn overlays(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Error>> + '_ {
        self.snapshot.iter(&self.inner.overlay).map(|guard| {
            let (place, value) = guard.into_inner().map_err(self.inner.error("read"))?;
            Ok((place.to_vec(), value.to_vec()))
        })
    }

    /// The outbox's entries from `first` on, in order.
    pub fn outbox(&self, first: u64) -> impl Iterator<Item = Result<(u64, Vec<u8>), Error>> + '_ {
        let range = self.snapshot.range::<[u8; 8], _>(&self.inner.outbox, first.to_be_bytes()..);
        range.map(|guard| {
            let (key, value) = guard.into_inner().map_err(self.inner.error("read"))?;
            let number = key.as_ref().try_into().map(u64::from_be_bytes).unwrap_or_default();
            Ok((number, value.to_vec()))
        })
    }

    /// An entry that the owner made with [`crate::Batch::meta_put`].
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Ok(name) = checked(name) else { return Ok(None) };
        let stored = self.snapshot.get(&self.inner.meta, name).map_err(self.inner.error("read"))?;
        Ok(stored.map(|value| value.to_vec()))
    }

    /// An entry that the owner made with [`crate::Batch::meta_put_values`]; empty for one that isn't a row of values.
    pub fn meta_values(&self, name: &str) -> Result<Option<Vec<Value>>, Error> {
        let values = |bytes: Vec<u8>| Row::from_bytes(&bytes).map(|row| row.values()).unwrap_or_default();
        Ok(self.meta(name)?.map(values))
    }

    /// The owner's entries whose names begin with `prefix`, by name.
    pub fn meta_prefix(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut entries = Vec::new();
        for guard in self.snapshot.prefix(&self.inner.meta, prefix) {
            let (name, value) = guard.into_inner().map_err(self.inner.error("read"))?;
            if let Ok(name) = String::from_utf8(name.to_vec()) {
                entries.push((name, value.to_vec()));
            }
        }
        Ok(entries)
    }

    fn entry(&self, collection: &CollectionName) -> Result<&Entry, Error> {
        self.catalogue.entry(collection).ok_or_else(|| Error::NoCollection(collection.clone()))
    }
}

/// Whether there can be a record of this key: the embedded store panics at others, even if they are only asked after.
pub(crate) fn is_keepable(key: &[u8]) -> bool {
    (1..=RECORD_KEY_BYTES_MAX).contains(&key.len())
}

/// Where an overlay entry lies: the collection's name, its length first, then the key; their hash (xxh3, 128 bits) behind an
/// impossible length where that is too long.
pub(crate) fn overlay_key(collection: &CollectionName, key: &[u8]) -> Vec<u8> {
    let name = collection.as_str().as_bytes();
    let mut out = Vec::with_capacity(4 + name.len() + key.len());
    out.extend_from_slice(&(name.len() as u32).to_be_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(key);
    if out.len() > KEY_BYTES_MAX {
        let hash = xxhash_rust::xxh3::xxh3_128(&out);
        out = [u32::MAX.to_be_bytes().as_slice(), &hash.to_be_bytes()].concat();
    }
    out
}

/// The records of one collection, for [`deltabus_record::diff`].
pub struct KnownRecords<'a> {
    view: &'a View,
    collection: &'a CollectionName,
}

impl View {
    /// The records of a collection as the known side of a comparison; none where it doesn't exist.
    pub fn known<'a>(&'a self, collection: &'a CollectionName) -> KnownRecords<'a> {
        KnownRecords { view: self, collection }
    }
}

impl deltabus_record::diff::Known for KnownRecords<'_> {
    type Error = Error;

    fn get(&self, key: &[u8], row: &mut Vec<u8>) -> Result<bool, Error> {
        self.view.get(self.collection, key, row)
    }

    fn get_many(
        &self,
        keys: &[&[u8]],
        take: &mut dyn FnMut(usize, Option<&[u8]>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut records = match self.view.collection(self.collection) {
            Some(_) => Some(self.view.records(self.collection)?),
            None => None,
        };
        let mut next = || records.as_mut().and_then(Iterator::next).transpose();
        let mut record = next()?;
        for (at, key) in keys.iter().enumerate() {
            while record.as_ref().is_some_and(|(stored, _)| **stored < **key) {
                record = next()?;
            }
            let row = record.as_ref().filter(|(stored, _)| **stored == **key).map(|(_, row)| &**row);
            take(at, row)?;
        }
        Ok(())
    }

    fn keys(&self, take: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        if self.view.collection(self.collection).is_none() {
            return Ok(());
        }
        for record in self.view.records(self.collection)? {
            take(&record?.0)?;
        }
        Ok(())
    }
}
