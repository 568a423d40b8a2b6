//! Bulk loading: records come in at full speed, unseen until a batch takes them over.

use std::sync::Arc;

use deltabus_record::schema::Collection;
use fjall::{Keyspace, OwnedWriteBatch as WriteBatch};

use crate::Error;
use crate::batch::Batch;
use crate::store::Inner;

/// Records written together while loading.
const GROUP: usize = 1_000;

/// Records on their way into a collection. Dropped unfinished, they are gone.
pub struct Load {
    inner: Arc<Inner>,
    id: u32,
    collection: Collection,
    records: Option<Keyspace>,
    group: WriteBatch,
    waiting: usize,
}

/// Records that are complete and durable, for [`Load::finish`].
pub(crate) struct Loaded {
    pub(crate) id: u32,
    pub(crate) collection: Collection,
    pub(crate) records: Keyspace,
}

impl Load {
    pub(crate) fn begin(inner: Arc<Inner>, collection: &Collection) -> Result<Load, Error> {
        let (id, records) = inner.new_records()?;
        let group = inner.database.batch();
        Ok(Load { inner, id, collection: collection.clone(), records: Some(records), group, waiting: 0 })
    }

    /// Adds a record, in any order; of two with one key the later stays.
    pub fn put(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        let Some(records) = &self.records else { return Ok(()) };
        self.group.insert(records, key, row);
        self.waiting += 1;
        if self.waiting == GROUP {
            self.flush()?;
        }
        Ok(())
    }

    /// Lets the commit of `batch` replace the collection, or make it, with these records.
    pub fn finish(mut self, batch: &mut Batch) -> Result<(), Error> {
        self.flush()?;
        // Durable before the commit that names them.
        self.inner.persist()?;
        if let Some(records) = self.records.take() {
            batch.replace(Loaded { id: self.id, collection: self.collection.clone(), records });
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let group = std::mem::replace(&mut self.group, self.inner.database.batch());
        self.waiting = 0;
        group.commit().map_err(self.inner.error("load"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(records) = self.records.take() {
            // What stays behind here is removed at the next start.
            let _ = self.inner.database.delete_keyspace(records);
        }
    }
}
