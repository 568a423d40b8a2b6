//! Sending contents.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};

use bytes::Bytes;
use deltabus_record::value::Large;
use fastcdc::v2020::StreamCDC;
use futures::future::BoxFuture;

use super::{CHUNK, WHOLE_MAX, ahead_of_time, chunk_subject, hash_in, list, value_subject};
use crate::broker::{AppendError, Stream, Subject};
use crate::log::Log;
use crate::{Error, wire};

/// Contents go out together up to this many messages or bytes: as many as a broker takes at once, and few enough that two
/// such batches don't weigh.
const BATCH_MESSAGES: usize = 1_000;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Batches on their way while the next is made.
const BATCHES_UNDERWAY: usize = 2;

/// How often a batch is sent again when nobody answered.
const ATTEMPTS: u32 = 5;

/// So many contents are asked after one by one; who sends more asks which there are at all.
const ASKED_SINGLY: u32 = 16;

/// Sends contents that the log lacks, many together. Dropping it leaves what is under way to its fate.
pub struct Sender {
    log: Log,
    /// Chunks and values known to be there, or on their way.
    there: HashSet<[u8; 32]>,
    knowledge: Knowledge,
    batch: Vec<(Subject, Bytes)>,
    batch_bytes: usize,
    underway: VecDeque<Underway>,
}

/// A batch on its way; `None`: it is not known what became of it.
type Underway = BoxFuture<'static, Option<Result<(), AppendError>>>;

/// What is known of the contents that aren't in [`Sender::there`].
enum Knowledge {
    /// Nothing; so many were asked after.
    Asked(u32),
    /// They aren't there.
    All,
}

impl Sender {
    /// A sender to `log`; nothing is asked of it yet.
    pub fn new(log: Log) -> Sender {
        Sender {
            log,
            there: HashSet::new(),
            knowledge: Knowledge::Asked(0),
            batch: Vec::new(),
            batch_bytes: 0,
            underway: VecDeque::new(),
        }
    }

    /// Sends the value that `open` reads, as far as the log lacks it; it may still be under way when this returns.
    ///
    /// Fails with [`Error::ContentChanged`] if it isn't what `large` says.
    pub async fn keep<R: Read>(&mut self, large: &Large, open: impl FnOnce() -> io::Result<R>) -> Result<(), Error> {
        if large.length == 0 {
            return Ok(());
        }
        let unreadable = |source| Error::Content { hash: super::hex(&large.hash), source };
        let changed = || Error::ContentChanged { hash: super::hex(&large.hash) };
        if large.length <= WHOLE_MAX {
            if self.is_there(&large.hash, &chunk_subject(&large.hash)).await? {
                return Ok(());
            }
            let mut whole = Vec::with_capacity(large.length as usize);
            let reader = open().map_err(unreadable)?;
            reader.take(large.length + 1).read_to_end(&mut whole).map_err(unreadable)?;
            if whole.len() as u64 != large.length || *blake3::hash(&whole).as_bytes() != large.hash {
                return Err(changed());
            }
            self.there.insert(large.hash);
            return self.push(chunk_subject(&large.hash), wire::compress_framed(&whole)).await;
        }
        // A value's list says that its chunks are there too: it is stored last.
        let list = value_subject(&large.hash);
        if self.is_there(&value_mark(&large.hash), &list).await? {
            return Ok(());
        }
        let mut whole = blake3::Hasher::new();
        let mut length = 0;
        let mut chunks = Vec::new();
        for chunk in StreamCDC::new(open().map_err(unreadable)?, CHUNK.0, CHUNK.1, CHUNK.2) {
            let data = chunk.map_err(|error| unreadable(error.into()))?.data;
            whole.update(&data);
            length += data.len() as u64;
            if length > large.length {
                return Err(changed());
            }
            let hash = *blake3::hash(&data).as_bytes();
            self.push_chunk(hash, &data).await?;
            chunks.push(hash);
        }
        if length != large.length || *whole.finalize().as_bytes() != large.hash {
            return Err(changed());
        }
        let encoded = list::encode(&chunks);
        for (hash, part) in encoded.parts {
            self.push_chunk(hash, &part).await?;
        }
        self.flush().await?;
        self.there.insert(value_mark(&large.hash));
        self.push(list, encoded.list).await
    }

    /// Whether the log lacks a value, though it may have had it. If so, all that is kept from then on is looked for anew.
    pub async fn misses(&mut self, large: &Large) -> Result<bool, Error> {
        let subject = match large.length {
            0 => return Ok(false),
            1..=WHOLE_MAX => chunk_subject(&large.hash),
            _ => value_subject(&large.hash),
        };
        self.flush().await?;
        if self.log.broker.holds(&self.log.source, &subject).await? {
            return Ok(false);
        }
        self.there.clear();
        self.knowledge = Knowledge::Asked(0);
        Ok(true)
    }

    /// Returns when all that was kept is stored.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.send().await?;
        while let Some(batch) = self.underway.pop_front() {
            done(batch).await?;
        }
        Ok(())
    }

    async fn push_chunk(&mut self, hash: [u8; 32], data: &[u8]) -> Result<(), Error> {
        if self.is_there(&hash, &chunk_subject(&hash)).await? {
            return Ok(());
        }
        self.there.insert(hash);
        self.push(chunk_subject(&hash), wire::compress_framed(data)).await
    }

    async fn push(&mut self, subject: Subject, payload: Bytes) -> Result<(), Error> {
        self.batch_bytes += payload.len();
        self.batch.push((subject, payload));
        if self.batch.len() >= BATCH_MESSAGES || self.batch_bytes >= BATCH_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what waits, once there is room under way.
    async fn send(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        while self.underway.len() >= BATCHES_UNDERWAY
            && let Some(batch) = self.underway.pop_front()
        {
            done(batch).await?;
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let (broker, source) = (self.log.broker.clone(), self.log.source.clone());
        self.underway.push_back(ahead_of_time(async move {
            let mut attempt = 1;
            loop {
                match broker.append_contents(&source, batch.clone()).await {
                    Err(AppendError::Unknown) if attempt < ATTEMPTS => attempt += 1,
                    result => return result,
                }
            }
        }));
        Ok(())
    }

    /// Whether the log has what `mark` stands for, which lies on `subject`.
    async fn is_there(&mut self, mark: &[u8; 32], subject: &Subject) -> Result<bool, Error> {
        if self.there.contains(mark) {
            return Ok(true);
        }
        match self.knowledge {
            Knowledge::All => Ok(false),
            Knowledge::Asked(times) if times < ASKED_SINGLY => {
                let extent = match times {
                    0 => self.log.broker.extent(&self.log.source, Stream::Snapshot).await?,
                    _ => None,
                };
                if extent.is_some_and(|extent| extent.last == 0) {
                    self.knowledge = Knowledge::All;
                    return Ok(false);
                }
                self.knowledge = Knowledge::Asked(times + 1);
                let there = self.log.broker.holds(&self.log.source, subject).await?;
                if there {
                    self.there.insert(*mark);
                }
                Ok(there)
            }
            Knowledge::Asked(_) => {
                let (broker, source) = (&self.log.broker, &self.log.source);
                let chunks = broker.tails(source, Stream::Snapshot, "snapshot.chunk").await?;
                self.there.extend(chunks.iter().filter_map(|tail| hash_in(tail)));
                let values = broker.tails(source, Stream::Snapshot, "snapshot.value").await?;
                self.there.extend(values.iter().filter_map(|tail| hash_in(tail)).map(|hash| value_mark(&hash)));
                self.knowledge = Knowledge::All;
                Ok(self.there.contains(mark))
            }
        }
    }
}

/// Stands for a value's list, where its hash alone stands for a chunk.
fn value_mark(hash: &[u8; 32]) -> [u8; 32] {
    hash.map(|byte| !byte)
}

async fn done(batch: Underway) -> Result<(), Error> {
    Ok(batch.await.unwrap_or(Err(AppendError::Unknown))?)
}
