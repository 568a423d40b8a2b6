//! Bulk loading: records come in at full speed, unseen until a batch takes them over.

use std::sync::Arc;

use deltabus_record::schema::Collection;
use fjall::Keyspace;

use crate::Error;
use crate::batch::Batch;
use crate::batch::check;
use crate::store::Inner;
use crate::view::is_keepable;

/// Records are gathered up to this many bytes, sorted, and written out as a run of their own, past the journal. More
/// memory makes fewer runs to be merged later, and little difference to the time.
const RUN_BYTES: usize = 24 * 1024 * 1024;

/// Records on their way into a collection. Dropped unfinished, they are gone.
pub struct Load {
    inner: Arc<Inner>,
    id: u32,
    collection: Collection,
    records: Option<Keyspace>,
    run: Run,
}

/// Records in memory, waiting to be sorted.
#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Where a record lies in its run: the key, then the row.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    row: u32,
    end: u32,
}

impl Run {
    fn key(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start as usize..entry.row as usize]
    }
}

/// Records that are complete and durable, for [`Load::finish`].
pub(crate) struct Loaded {
    pub(crate) id: u32,
    pub(crate) collection: Collection,
    pub(crate) records: Keyspace,
}

impl Load {
    pub(crate) fn begin(inner: Arc<Inner>, collection: &Collection) -> Result<Load, Error> {
        check(collection)?;
        let (id, records) = inner.new_records()?;
        Ok(Load { inner, id, collection: collection.clone(), records: Some(records), run: Run::default() })
    }

    /// Adds a record, in any order; of two with one key the later stays.
    ///
    /// [`Error::Key`] for a key that can't be kept.
    pub fn put(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        if !is_keepable(key) {
            return Err(Error::Key { collection: self.collection.name.clone(), bytes: key.len() });
        }
        if !self.run.entries.is_empty() && self.run.bytes.len() + key.len() + row.len() > RUN_BYTES {
            self.write_run()?;
        }
        let start = self.run.bytes.len();
        self.run.bytes.extend_from_slice(key);
        self.run.bytes.extend_from_slice(row);
        let [start, row, end] = [start, start + key.len(), self.run.bytes.len()].map(|at| at as u32);
        self.run.entries.push(Entry { start, row, end });
        Ok(())
    }

    /// Lets the commit of `batch` replace the collection, or make it, with these records.
    pub fn finish(mut self, batch: &mut Batch) -> Result<(), Error> {
        self.write_run()?;
        // Durable before the commit that names them.
        self.inner.persist()?;
        if let Some(records) = self.records.take() {
            batch.replace(Loaded { id: self.id, collection: self.collection.clone(), records });
        }
        Ok(())
    }

    fn write_run(&mut self) -> Result<(), Error> {
        let Some(records) = &self.records else { return Ok(()) };
        let mut entries = std::mem::take(&mut self.run.entries);
        if entries.is_empty() {
            return Ok(());
        }
        let run = &self.run;
        // Stable: of equal keys the last one put is the last.
        entries.sort_by(|a, b| run.key(a).cmp(run.key(b)));
        let mut out = records.start_ingestion().map_err(self.inner.error("load"))?;
        let mut next = entries.iter().peekable();
        while let Some(entry) = next.next() {
            if next.peek().is_some_and(|later| run.key(later) == run.key(entry)) {
                continue;
            }
            let row = &run.bytes[entry.row as usize..entry.end as usize];
            out.write(run.key(entry), row).map_err(self.inner.error("load"))?;
        }
        out.finish().map_err(self.inner.error("load"))?;
        entries.clear();
        self.run.entries = entries;
        self.run.bytes.clear();
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(records) = self.records.take() {
            // What stays behind here is removed at the next start.
            let _ = self.inner.remove_records(records);
        }
    }
}
