//! Bulk loading: records come in at full speed, unseen until a batch takes them over.

use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

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

/// Records that come in the order of their keys need no gathering: they are handed on in pieces of this size, few enough that
/// handing on costs nothing, and all become one run.
const PIECE_BYTES: usize = 2 * 1024 * 1024;

/// Runs that wait for the thread that writes them: it sorts and packs one while the next is being gathered.
const RUNS_WAITING: usize = 1;

/// Records on their way into a collection. Dropped unfinished, they are gone.
pub struct Load {
    inner: Arc<Inner>,
    id: u32,
    collection: Collection,
    records: Option<Keyspace>,
    run: Run,
    /// The greatest key of the runs before; `None` while there is none.
    last: Option<Vec<u8>>,
    /// There from the first full run on, so that a small load needs no thread.
    writer: Option<Writer>,
}

/// Records in memory, waiting to be sorted.
#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// The records with the least and the greatest key.
    range: Option<(Entry, Entry)>,
    /// Whether some key is not greater than the one before.
    unsorted: bool,
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

    fn least(&self) -> Option<&[u8]> {
        self.range.as_ref().map(|(least, _)| self.key(least))
    }

    fn greatest(&self) -> Option<&[u8]> {
        self.range.as_ref().map(|(_, greatest)| self.key(greatest))
    }

    fn put(&mut self, key: &[u8], row: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(row);
        let [start, row, end] = [start, start + key.len(), self.bytes.len()].map(|at| at as u32);
        let entry = Entry { start, row, end };
        self.range = Some(match self.range {
            None => (entry, entry),
            Some((least, greatest)) if key > self.key(&greatest) => (least, entry),
            Some((least, greatest)) => {
                self.unsorted = true;
                (if key < self.key(&least) { entry } else { least }, greatest)
            }
        });
        self.entries.push(entry);
    }

    /// Stable: of equal keys the last one put is the last.
    fn sort(&mut self) {
        if self.unsorted {
            let bytes = &self.bytes;
            let key = |entry: &Entry| &bytes[entry.start as usize..entry.row as usize];
            self.entries.sort_by(|a, b| key(a).cmp(key(b)));
        }
    }
}

/// The thread that writes runs.
struct Writer {
    runs: SyncSender<Run>,
    thread: JoinHandle<fjall::Result<()>>,
}

impl Writer {
    fn start(records: Keyspace) -> std::io::Result<Writer> {
        let (runs, waiting) = mpsc::sync_channel(RUNS_WAITING);
        let thread = thread::Builder::new().name("load".into()).spawn(move || write_runs(&records, waiting))?;
        Ok(Writer { runs, thread })
    }

    fn finish(self) -> fjall::Result<()> {
        drop(self.runs);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes runs; those that follow on each other by their keys become one, with nothing to be merged later.
fn write_runs(records: &Keyspace, runs: impl IntoIterator<Item = Run>) -> fjall::Result<()> {
    let mut runs = runs.into_iter().filter(|run| !run.entries.is_empty());
    let Some(mut run) = runs.next() else { return Ok(()) };
    let mut out = records.start_ingestion()?;
    loop {
        run.sort();
        let mut next = run.entries.iter().peekable();
        while let Some(entry) = next.next() {
            if run.unsorted && next.peek().is_some_and(|later| run.key(later) == run.key(entry)) {
                continue;
            }
            out.write(run.key(entry), &run.bytes[entry.row as usize..entry.end as usize])?;
        }
        let Some(next) = runs.next() else { return out.finish() };
        if next.least() <= run.greatest() {
            out.finish()?;
            out = records.start_ingestion()?;
        }
        run = next;
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
        let (records, run) = (Some(records), Run::default());
        Ok(Load { inner, id, collection: collection.clone(), records, run, last: None, writer: None })
    }

    /// Adds a record, in any order, quickest in that of the keys; of two with one key the later stays.
    ///
    /// [`Error::Key`] for a key that can't be kept.
    pub fn put(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        if !is_keepable(key) {
            return Err(Error::Key { collection: self.collection.name.clone(), bytes: key.len() });
        }
        let bytes = self.run.bytes.len() + key.len() + row.len();
        if bytes > PIECE_BYTES && !self.run.entries.is_empty() && (bytes > RUN_BYTES || self.follows_on()) {
            self.write_run()?;
        }
        self.run.put(key, row);
        Ok(())
    }

    /// Lets the commit of `batch` replace the collection, or make it, with these records.
    pub fn finish(mut self, batch: &mut Batch) -> Result<(), Error> {
        let run = std::mem::take(&mut self.run);
        let Some(records) = self.records.clone() else { return Ok(()) };
        let written = match self.writer.take() {
            Some(writer) => {
                // Where it takes no more, its end says why.
                let _ = writer.runs.send(run);
                writer.finish()
            }
            None => write_runs(&records, [run]),
        };
        written.map_err(self.inner.error("load"))?;
        // Durable before the commit that names them.
        self.inner.persist()?;
        if let Some(records) = self.records.take() {
            batch.replace(Loaded { id: self.id, collection: self.collection.clone(), records });
        }
        Ok(())
    }

    /// Whether all records came in the order of their keys since the last run, and after that.
    fn follows_on(&self) -> bool {
        !self.run.unsorted && self.run.least() > self.last.as_deref()
    }

    /// Hands the run on to the thread that writes it.
    fn write_run(&mut self) -> Result<(), Error> {
        let Some(records) = &self.records else { return Ok(()) };
        let run = std::mem::take(&mut self.run);
        self.last = self.last.take().max(run.greatest().map(<[u8]>::to_vec));
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::start(records.clone()).map_err(|source| Error::Io {
                doing: "start a thread for",
                path: self.inner.dir.clone(),
                source,
            })?,
        };
        match writer.runs.send(run) {
            Ok(()) => {
                self.writer = Some(writer);
                Ok(())
            }
            Err(_) => {
                let failure = writer.finish().expect_err("it ends before it is told to only where it fails");
                Err(self.inner.error("load")(failure))
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // Nobody needs what it wrote, nor why it could not.
            let _ = writer.finish();
        }
        if let Some(records) = self.records.take() {
            // What stays behind here is removed at the next start.
            let _ = self.inner.remove_records(records);
        }
    }
}
