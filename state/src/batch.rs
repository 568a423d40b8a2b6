//! Writing: everything of a batch becomes true in one durable step, or nothing.

use std::sync::Arc;

use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName};
use deltabus_record::value::Value;
use fjall::{Keyspace, OwnedWriteBatch as WriteBatch, PersistMode};

use crate::Error;
use crate::load::Loaded;
use crate::probe::Step;
use crate::store::{ASIDE_PREFIX, COLLECTION_PREFIX, Catalogue, Entry, Inner, checked, entry_bytes};
use crate::view::{is_keepable, overlay_key};

/// A transaction of the store. Dropping it changes nothing.
pub struct Batch {
    inner: Arc<Inner>,
    writes: WriteBatch,
    /// The catalogue as it will be; `None` while it stays as it is.
    catalogue: Option<Catalogue>,
    /// Records that nobody needs once this is committed.
    replaced: Vec<Keyspace>,
}

impl Batch {
    pub(crate) fn new(inner: Arc<Inner>) -> Batch {
        let writes = inner.database.batch().durability(Some(PersistMode::SyncAll));
        Batch { inner, writes, catalogue: None, replaced: Vec::new() }
    }

    /// Puts a record; [`Error::Key`] for a key that can't be kept.
    pub fn put(&mut self, collection: &CollectionName, key: &[u8], row: &[u8]) -> Result<(), Error> {
        if !is_keepable(key) {
            return Err(Error::Key { collection: collection.clone(), bytes: key.len() });
        }
        let records = self.records(collection)?;
        self.writes.insert(&records, key, row);
        Ok(())
    }

    /// Removes a record.
    pub fn remove(&mut self, collection: &CollectionName, key: &[u8]) -> Result<(), Error> {
        let records = self.records(collection)?;
        if is_keepable(key) {
            self.writes.remove(&records, key);
        }
        Ok(())
    }

    /// Makes a collection, or changes its schema; its records stay.
    pub fn set_collection(&mut self, collection: &Collection) -> Result<(), Error> {
        check(collection)?;
        let known = self.current(|catalogue| catalogue.entry(&collection.name).cloned());
        let (id, records) = match known {
            Some(entry) => (entry.id, entry.records),
            None => self.inner.new_records()?,
        };
        checked(format!("{COLLECTION_PREFIX}{}", collection.name))?;
        self.bind(Entry { id, collection: collection.clone(), records });
        Ok(())
    }

    /// Removes a collection with all its records.
    pub fn remove_collection(&mut self, name: &CollectionName) -> Result<(), Error> {
        let catalogue = self.changing();
        if let Some(at) = catalogue.entries.iter().position(|entry| entry.collection.name == *name) {
            let gone = catalogue.entries.remove(at);
            self.replaced.push(gone.records);
            let meta = self.inner.meta.clone();
            self.writes.remove(&meta, format!("{COLLECTION_PREFIX}{name}").into_bytes());
        }
        Ok(())
    }

    /// Puts all collections aside, as they are: they are no longer among the others, and those that were aside before go.
    pub fn put_aside(&mut self) {
        self.drop_aside();
        let entries = std::mem::take(&mut self.changing().entries);
        for Entry { id, collection, .. } in &entries {
            let name = &collection.name;
            self.writes.remove(&self.inner.meta.clone(), format!("{COLLECTION_PREFIX}{name}").into_bytes());
            let bytes = entry_bytes(*id, collection);
            self.writes.insert(&self.inner.meta.clone(), format!("{ASIDE_PREFIX}{name}").into_bytes(), bytes);
        }
        self.changing().aside = entries;
    }

    /// Puts a record into a collection that was put aside, or removes it: `None`.
    pub fn set_aside(&mut self, collection: &CollectionName, key: &[u8], row: Option<&[u8]>) -> Result<(), Error> {
        let of = |catalogue: &Catalogue| {
            let entry = catalogue.aside.iter().find(|entry| entry.collection.name == *collection);
            entry.map(|entry| entry.records.clone())
        };
        let records = self.current(of).ok_or_else(|| Error::NoCollection(collection.clone()))?;
        match row {
            Some(_) if !is_keepable(key) => {
                return Err(Error::Key { collection: collection.clone(), bytes: key.len() });
            }
            Some(row) => self.writes.insert(&records, key, row),
            None if is_keepable(key) => self.writes.remove(&records, key),
            None => {}
        }
        Ok(())
    }

    /// Removes the collections that were put aside.
    pub fn drop_aside(&mut self) {
        for Entry { collection, records, .. } in std::mem::take(&mut self.changing().aside) {
            self.writes.remove(&self.inner.meta.clone(), format!("{ASIDE_PREFIX}{}", collection.name).into_bytes());
            self.replaced.push(records);
        }
    }

    /// Replaces a collection, or makes it, with what was loaded.
    pub(crate) fn replace(&mut self, loaded: Loaded) {
        let name = &loaded.collection.name;
        if let Some(old) = self.current(|catalogue| catalogue.entry(name).map(|entry| entry.records.clone())) {
            self.replaced.push(old);
        }
        self.bind(Entry { id: loaded.id, collection: loaded.collection, records: loaded.records });
    }

    /// Puts bytes on top of a record; they don't touch it.
    pub fn overlay_put(&mut self, collection: &CollectionName, key: &[u8], value: &[u8]) {
        let overlay = self.inner.overlay.clone();
        self.writes.insert(&overlay, overlay_key(collection, key), value);
    }

    /// The same at a place that [`View::overlays`](crate::View::overlays) gave.
    pub(crate) fn overlay_put_at(&mut self, place: Vec<u8>, value: &[u8]) {
        let overlay = self.inner.overlay.clone();
        self.writes.insert(&overlay, place, value);
    }

    /// Removes what was put on top of a record.
    pub fn overlay_remove(&mut self, collection: &CollectionName, key: &[u8]) {
        let overlay = self.inner.overlay.clone();
        self.writes.remove(&overlay, overlay_key(collection, key));
    }

    /// Puts an entry into the outbox.
    pub fn outbox_put(&mut self, number: u64, entry: &[u8]) {
        let outbox = self.inner.outbox.clone();
        self.writes.insert(&outbox, number.to_be_bytes(), entry);
    }

    /// Removes an entry from the outbox.
    pub fn outbox_remove(&mut self, number: u64) {
        let outbox = self.inner.outbox.clone();
        self.writes.remove(&outbox, number.to_be_bytes());
    }

    /// Remembers something under a name.
    pub fn meta_put(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        debug_assert!(!name.starts_with('\0'), "names beginning with NUL are the store's own");
        let meta = self.inner.meta.clone();
        self.writes.insert(&meta, checked(name)?, value);
        Ok(())
    }

    /// Remembers values under a name.
    pub fn meta_put_values(&mut self, name: &str, values: &[Value]) -> Result<(), Error> {
        self.meta_put(name, Row::of(values).as_bytes())
    }

    /// Forgets it.
    pub fn meta_remove(&mut self, name: &str) -> Result<(), Error> {
        let meta = self.inner.meta.clone();
        self.writes.remove(&meta, checked(name)?);
        Ok(())
    }

    /// Makes all of it true, durably.
    pub fn commit(self) -> Result<(), Error> {
        self.inner.probe(Step::BeforeCommit)?;
        // Views are taken under the same lock: none sees the records of one commit and the catalogue of another.
        let mut catalogue = self.inner.catalogue.write().expect("no holder of this lock panics");
        self.writes.commit().map_err(self.inner.error("commit"))?;
        if let Some(mut changed) = self.catalogue {
            changed.next_id = changed.next_id.max(catalogue.next_id);
            *catalogue = changed;
        }
        drop(catalogue);
        self.inner.probe(Step::AfterCommit)?;
        for records in self.replaced {
            // What stays behind here is removed at the next start.
            if let Err(error) = self.inner.remove_records(records) {
                tracing::debug!(%error, "replaced records could not be removed yet");
            }
        }
        Ok(())
    }

    fn bind(&mut self, entry: Entry) {
        let meta = self.inner.meta.clone();
        let name = format!("{COLLECTION_PREFIX}{}", entry.collection.name);
        self.writes.insert(&meta, name.into_bytes(), entry_bytes(entry.id, &entry.collection));
        let catalogue = self.changing();
        catalogue.entries.retain(|other| other.collection.name != entry.collection.name);
        catalogue.entries.push(entry);
        catalogue.entries.sort_by(|a, b| a.collection.name.cmp(&b.collection.name));
    }

    fn records(&self, name: &CollectionName) -> Result<Keyspace, Error> {
        self.current(|catalogue| catalogue.entry(name).map(|entry| entry.records.clone()))
            .ok_or_else(|| Error::NoCollection(name.clone()))
    }

    fn current<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        match &self.catalogue {
            Some(catalogue) => look(catalogue),
            None => look(&self.inner.catalogue.read().expect("no holder of this lock panics")),
        }
    }

    fn changing(&mut self) -> &mut Catalogue {
        let inner = &self.inner;
        self.catalogue.get_or_insert_with(|| inner.catalogue.read().expect("no holder of this lock panics").clone())
    }
}

/// What could not be read back is not stored.
pub(crate) fn check(collection: &Collection) -> Result<(), Error> {
    collection.check().map_err(|source| Error::Schema { name: collection.name.clone(), source })
}
