//! Records that another thread makes while the destination takes those before.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use deltabus_interfaces::Records;

use crate::Error;
use crate::expected::ExpectedRecords;

/// So many records are made by the thread that writes them: where that is all, another isn't worth its start.
const ALONE: u64 = 10_000;

/// Records are handed over in batches of about this many bytes: enough that handing over costs nothing, and few enough to
/// stay in the processor's cache.
const BATCH_BYTES: usize = 128 * 1024;

/// Batches that wait: the one side may be quicker for a while, and memory stays bounded.
const BATCHES_WAITING: usize = 4;

/// Some records, one after the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each record's key and row end.
    ends: Vec<(usize, usize)>,
}

/// The expected records, from some thousands on made by a thread of `scope`.
pub(crate) struct Beside<'scope, 'env, 'r> {
    scope: &'scope Scope<'scope, 'env>,
    made: u64,
    source: Source<'scope, 'r>,
}

enum Source<'scope, 'r> {
    /// By the thread that asks.
    Here(&'scope mut ExpectedRecords<'r>),
    /// By another.
    There { batches: Receiver<Result<Batch, Error>>, batch: Batch, at: usize },
    /// There was an error.
    Ended,
}

impl<'scope, 'env, 'r: 'scope> Beside<'scope, 'env, 'r> {
    pub(crate) fn new(scope: &'scope Scope<'scope, 'env>, records: &'scope mut ExpectedRecords<'r>) -> Self {
        Beside { scope, made: 0, source: Source::Here(records) }
    }

    fn next(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if let Source::Here(records) = &mut self.source {
            if self.made < ALONE {
                self.made += 1;
                return Ok(records.next()?);
            }
            let Source::Here(records) = std::mem::replace(&mut self.source, Source::Ended) else { return Ok(false) };
            let (sender, batches) = sync_channel(BATCHES_WAITING);
            Builder::new().name("records".into()).spawn_scoped(self.scope, move || make(records, &sender))?;
            self.source = Source::There { batches, batch: Batch::default(), at: 0 };
        }
        let Source::There { batches, batch, at } = &mut self.source else { return Ok(false) };
        *at += 1;
        if *at < batch.ends.len() {
            return Ok(true);
        }
        // It ends without a word where there is no more.
        match batches.recv() {
            Ok(next) => {
                (*batch, *at) = (next?, 0);
                Ok(true)
            }
            Err(_) => {
                self.source = Source::Ended;
                Ok(false)
            }
        }
    }

    /// The current record.
    fn current(&self) -> (&[u8], &[u8]) {
        match &self.source {
            Source::Here(records) => (records.key(), records.row()),
            Source::There { batch, at, .. } => {
                let start = at.checked_sub(1).map_or(0, |before| batch.ends[before].1);
                let (key, row) = batch.ends[*at];
                (&batch.bytes[start..key], &batch.bytes[key..row])
            }
            Source::Ended => Default::default(),
        }
    }
}

impl<'r> Records for Beside<'_, '_, 'r> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        self.next()
    }

    fn key(&self) -> &[u8] {
        self.current().0
    }

    fn row(&self) -> &[u8] {
        self.current().1
    }
}

/// Makes all records that are left; ends early where nobody takes them any more.
fn make(records: &mut ExpectedRecords<'_>, batches: &SyncSender<Result<Batch, Error>>) {
    let mut batch = Batch::default();
    loop {
        match records.next() {
            Ok(true) => {
                batch.bytes.extend_from_slice(records.key());
                let key = batch.bytes.len();
                batch.bytes.extend_from_slice(records.row());
                batch.ends.push((key, batch.bytes.len()));
                if batch.bytes.len() < BATCH_BYTES {
                    continue;
                }
            }
            Ok(false) => {
                if !batch.ends.is_empty() {
                    // Nobody may want it, where it was ended.
                    let _ = batches.send(Ok(batch));
                }
                return;
            }
            Err(error) => {
                let _ = batches.send(Err(error));
                return;
            }
        }
        let next =
            Batch { bytes: Vec::with_capacity(batch.bytes.capacity()), ends: Vec::with_capacity(batch.ends.len()) };
        if batches.send(Ok(std::mem::replace(&mut batch, next))).is_err() {
            return;
        }
    }
}
