//! The log of one source: positions, terms and writing.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use deltabus_proto::v1;
use deltabus_record::change::Revision;
use deltabus_record::schema::SourceName;
use futures::poll;
use metrics::histogram;
use prost::Message;
use tokio::time::{Instant, sleep};
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::broker::{AppendError, Broker, BrokerError, Expect, Stream, Subject};
use crate::clock::{Clock, SystemClock};
use crate::metrics as figures;
use crate::reader::{Event, Reader};
use crate::terms;
use crate::wire::{self, EncodedSet};

/// Sets that wait are packed together up to about this many bytes before compression. Throughput grows with the size of
/// messages up to here; larger ones only delay.
pub const BUNDLE_BYTES: usize = 512 * 1024;

/// A message of the log has no more sets than this, so that whoever finds messages gone knows which numbers they can't have
/// had. Sets are seldom so small that it matters.
pub const BUNDLE_SETS: usize = 4096;

/// Room for the envelope around a part.
const ENVELOPE_BYTES: usize = 256;

/// How long an unknown acknowledgement is asked after before the log counts as out of reach: longer than a cluster is
/// without a leader after one was killed.
const RESOLVE: Duration = Duration::from_secs(15);

/// Pause between two attempts to reach the broker.
const RETRY: Duration = Duration::from_millis(200);

/// The log of a source on a broker.
#[derive(Clone)]
pub struct Log {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) source: SourceName,
    clock: Arc<dyn Clock>,
}

/// A place in the log: all before it has been taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Position {
    /// The latest term claimed up to here.
    pub term: u64,
    /// The stream sequence of the last message that is done with.
    pub sequence: u64,
    /// The revision reached.
    pub revision: Revision,
    /// The hash (xxh3, 64 bits) of the message at `sequence`, as far as known: a log that lost its end, or all, may have
    /// another one there by now.
    pub check: Option<u64>,
}

/// What the log had accepted when a term was claimed.
#[derive(Debug)]
pub enum Accepted {
    /// Nothing: it is new, or was lost altogether.
    Nothing,
    /// Everything up to this revision; these sets came after the place that the claimant knew.
    Sets {
        /// The revision reached.
        revision: Revision,
        /// The sets.
        sets: Vec<crate::reader::Delivered>,
    },
    /// It doesn't lead on from the place that the claimant knew.
    Elsewhere {
        /// Why.
        reason: String,
    },
}

impl Log {
    /// The log of `source`; nothing is asked of the broker yet.
    pub fn new(broker: Arc<dyn Broker>, source: SourceName) -> Log {
        Log::with_clock(broker, source, Arc::new(SystemClock))
    }

    /// The same for an owner who has another clock than the system's.
    pub fn with_clock(broker: Arc<dyn Broker>, source: SourceName, clock: Arc<dyn Clock>) -> Log {
        Log { broker, source, clock }
    }

    /// The source.
    pub fn source(&self) -> &SourceName {
        &self.source
    }

    /// The broker.
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The owner's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Makes the source's streams where they are missing.
    pub async fn prepare(&self) -> Result<(), Error> {
        Ok(self.broker.prepare(&self.source).await?)
    }

    /// The number of the revision that the log's last message leads to; `None` where that message doesn't tell. A hint: whether
    /// readers accept the message is not looked into.
    pub async fn end(&self) -> Result<Option<u64>, Error> {
        let Some(last) = self.broker.last(&self.source, &Subject::changes()).await? else { return Ok(None) };
        Ok(match wire::envelope(&last.payload)?.content {
            Some(v1::envelope::Content::Foundation(foundation)) => {
                Some(wire::revision_in(foundation.revision.as_ref()).number)
            }
            Some(v1::envelope::Content::Bundle(bundle)) => {
                let last = wire::unbundle(&bundle)?.pop();
                last.map(|set| wire::decode_set(&set)).transpose()?.map(|set| set.next.number)
            }
            _ => None,
        })
    }

    /// Whether a reader can go on from `position`: the log goes that far, has what comes next, and has there, where it is still
    /// kept, the message that was read.
    pub async fn leads_on_from(&self, position: &Position) -> Result<bool, Error> {
        let extent = self.broker.extent(&self.source, Stream::Changes).await?.unwrap_or_default();
        if position.sequence + 1 < extent.first || position.sequence > extent.last {
            return Ok(false);
        }
        let Some(check) = position.check else { return Ok(true) };
        let there = self.broker.read(&self.source, Stream::Changes, position.sequence, 1).await?;
        let there = there.first().filter(|first| first.sequence == position.sequence);
        Ok(there.is_none_or(|there| xxh3_64(&there.payload) == check))
    }

    /// Whether anything was ever published.
    pub async fn is_founded(&self) -> Result<bool, Error> {
        let extent = self.broker.extent(&self.source, Stream::Changes).await?;
        Ok(extent.is_some_and(|extent| extent.last > 0))
    }
}

/// The one who writes a log for as long as its term is the latest.
pub struct Writer {
    log: Log,
    term: u64,
    sequence: u64,
    check: Option<u64>,
    revision: Revision,
}

impl Writer {
    /// Opens a new term by a claim written after all that the log has.
    ///
    /// `known` is the place that the claimant's own state is at; the log is read from there to the claim. The second result
    /// says what it had accepted by then.
    pub async fn claim(log: &Log, transmitter: &str, known: Position) -> Result<(Writer, Accepted), Error> {
        let mut term = known.term;
        let mut at = known;
        let mut sets = Vec::new();
        let mut elsewhere = None;
        loop {
            let extent = log.broker.extent(&log.source, Stream::Changes).await?;
            let extent = extent.ok_or_else(|| BrokerError::NoSource { source_name: log.source.clone() })?;
            if extent.last == 0 {
                at = Position::default();
            } else if elsewhere.is_none() {
                let mut reader = Reader::at(log, at);
                loop {
                    match reader.next_stored().await? {
                        Event::Set(set) => sets.push(*set),
                        Event::CaughtUp(_) => break,
                        Event::Rejoin(reason) => {
                            elsewhere = Some(reason.to_string());
                            break;
                        }
                    }
                }
                at = reader.position();
            }
            term = term.max(at.term);
            // Where nothing is left of the log, its end may be another claim than the one that is known.
            let is_unseen = elsewhere.is_none() && extent.last > 0 && extent.first > at.sequence;
            if is_unseen && terms::kept(log).await? > term {
                elsewhere = Some("somebody claimed it since, and all of it went by age".to_owned());
            }
            if elsewhere.is_some() {
                // The whole log is read for the latest term: ours must be above it.
                term = term.max(latest_term(log, extent.first).await?);
            }
            // The nonce differs from claim to claim, so that two who claim the same term at the same moment under the same
            // name (a copied state folder) never take the other's claim for their own.
            let claim = v1::Claim { transmitter: transmitter.into(), nonce: log.clock.fresh() };
            let next = match extent.last == 0 || elsewhere.is_some() {
                // What was lost may have had later terms than those that are seen.
                true => terms::above_all(log, term).await?,
                false => term + 1,
            };
            let claim = envelope(next, v1::envelope::Content::Claim(claim));
            let last = if elsewhere.is_some() { extent.last } else { at.sequence };
            let mut writer =
                Writer { log: log.clone(), term: next, sequence: last, check: at.check, revision: at.revision };
            match writer.append(claim).await {
                Ok(()) => {
                    let accepted = match elsewhere {
                        Some(reason) => Accepted::Elsewhere { reason },
                        None if at.revision.number == 0 && extent.last == 0 => Accepted::Nothing,
                        None => Accepted::Sets { revision: at.revision, sets },
                    };
                    return Ok((writer, accepted));
                }
                // Somebody wrote in between: read on.
                Err(Error::Fenced { .. } | Error::Disturbed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Where the log is after the last acknowledged message.
    pub fn position(&self) -> Position {
        Position { term: self.term, sequence: self.sequence, revision: self.revision, check: self.check }
    }

    /// Goes on from `revision`, which the log was found to lead to.
    pub fn go_on_from(&mut self, revision: Revision) {
        self.revision = revision;
    }

    /// Publishes sets, which lead on from each other and from the last one published, and waits until the log has them. Large ones should
    /// be [`EncodedSet::packed`]: they are sent as they are.
    ///
    /// One message is in flight at a time and each names the one before it, so that nothing is stored once another term
    /// has been claimed. Returns the bytes stored. After an error it may be called again with the same sets.
    pub async fn publish(&mut self, sets: &[(Revision, EncodedSet)]) -> Result<u64, Error> {
        let mut stored = 0;
        let (mut now, mut rest) = sets.split_at(together(sets));
        let mut bundle = pack(now)?;
        while let Some((revision, _)) = now.last() {
            let (next, later) = rest.split_at(together(rest));
            let piece_max = self.log.broker.payload_max().saturating_sub(ENVELOPE_BYTES).max(1);
            let packed;
            if bundle.encoded_len() <= piece_max {
                stored += bundle.encoded_len() as u64;
                let message = envelope(self.term, v1::envelope::Content::Bundle(bundle));
                packed = self.append_beside(message, || pack(next)).await?;
            } else {
                let whole = Bytes::from(bundle.encode_to_vec());
                stored += whole.len() as u64;
                let size = piece_max.min(BUNDLE_BYTES);
                let total = whole.len().div_ceil(size);
                for index in 0..total {
                    let data = whole.slice(index * size..whole.len().min((index + 1) * size));
                    let part = v1::Part { index: index as u32, count: total as u32, data };
                    self.append(envelope(self.term, v1::envelope::Content::Part(part))).await?;
                }
                packed = pack(next);
            }
            self.revision = *revision;
            bundle = packed?;
            (now, rest) = (next, later);
        }
        Ok(stored)
    }

    /// Lets the log begin, or begin anew, with the state of a snapshot.
    pub async fn found(&mut self, snapshot: &str, revision: Revision, time_millis: u64) -> Result<(), Error> {
        let foundation =
            v1::Foundation { revision: Some(wire::revision_out(&revision)), snapshot: snapshot.into(), time_millis };
        self.append(envelope(self.term, v1::envelope::Content::Foundation(foundation))).await?;
        self.revision = revision;
        Ok(())
    }

    /// Fails with [`Error::Fenced`] if somebody has claimed the log after us, with [`Error::Disturbed`] if something was written
    /// by somebody who has not: to be asked before anything is done elsewhere that only
    /// the latest term may do. [`Error::LogLost`] if the log has less than it acknowledged.
    pub async fn confirm(&self) -> Result<(), Error> {
        match self.log.broker.last(&self.log.source, &Subject::changes()).await? {
            Some(last) if last.sequence > self.sequence => Err(self.fenced().await),
            Some(last) if last.sequence < self.sequence => {
                let source_name = self.log.source.clone();
                Err(Error::LogLost { source_name, last: last.sequence, wanted: self.sequence })
            }
            // A trimmed log may have no message left.
            _ => Ok(()),
        }
    }

    /// Tells all followers how far the log is.
    pub async fn beat(&self) -> Result<(), Error> {
        let beat = v1::Heartbeat {
            term: self.term,
            revision: Some(wire::revision_out(&self.revision)),
            sequence: self.sequence,
        };
        Ok(self.log.broker.beat(&self.log.source, beat.encode_to_vec().into()).await?)
    }

    /// Stores one message after the last. What became of it is never guessed at.
    async fn append(&mut self, message: v1::Envelope) -> Result<(), Error> {
        let payload = Bytes::from(message.encode_to_vec());
        histogram!(figures::MESSAGE_BYTES, "source" => self.log.source.to_string()).record(payload.len() as f64);
        let subject = Subject::changes();
        let end = Instant::now() + RESOLVE;
        let mut pause = Duration::ZERO;
        loop {
            let expect = Expect::Last(self.sequence);
            let failed = match self.log.broker.append(&self.log.source, &subject, payload.clone(), expect).await {
                Ok(sequence) => {
                    (self.sequence, self.check) = (sequence, Some(xxh3_64(&payload)));
                    return Ok(());
                }
                Err(error @ (AppendError::Conflict | AppendError::Unknown)) => error,
                Err(error) => return Err(error.into()),
            };
            match self.log.broker.last(&self.log.source, &subject).await {
                Ok(last) => {
                    let (sequence, last) = last.map_or((0, Bytes::new()), |last| (last.sequence, last.payload));
                    if sequence == self.sequence + 1 && last == payload {
                        (self.sequence, self.check) = (sequence, Some(xxh3_64(&payload)));
                        return Ok(());
                    }
                    if sequence > self.sequence {
                        return Err(self.fenced().await);
                    }
                    // A trimmed log keeps its last sequence but may have no message left.
                    let extent = self.log.broker.extent(&self.log.source, Stream::Changes).await?;
                    let there = extent.map_or(0, |extent| extent.last);
                    if there < self.sequence {
                        let source_name = self.log.source.clone();
                        return Err(Error::LogLost { source_name, last: there, wanted: self.sequence });
                    }
                }
                Err(error) if error.is_transient() && Instant::now() < end => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= end {
                return Err(failed.into());
            }
            // At once the first time: the time-out that led here was pause enough.
            sleep(pause).await;
            pause = RETRY;
        }
    }

    /// The same, with something to do while the message is on its way, whatever becomes of it.
    async fn append_beside<T>(&mut self, message: v1::Envelope, beside: impl FnOnce() -> T) -> Result<T, Error> {
        let mut appending = pin!(self.append(message));
        // The first step hands it to the connection, which has a task of its own.
        let appended = poll!(&mut appending);
        let done = beside();
        match appended {
            Poll::Ready(appended) => appended?,
            Poll::Pending => appending.await?,
        }
        Ok(done)
    }

    /// Who wrote after us, and by what right.
    async fn fenced(&self) -> Error {
        let source_name = self.log.source.clone();
        let mut from = self.sequence + 1;
        let mut by = None;
        // Whether all that came after us is still there, claims too.
        let mut whole = true;
        loop {
            let batch = match self.log.broker.read(&self.log.source, Stream::Changes, from, BUNDLE_BYTES).await {
                Ok(batch) => batch,
                Err(error) => return error.into(),
            };
            let Some(last) = batch.last() else { break };
            whole &= batch[0].sequence == from;
            from = last.sequence + 1;
            for envelope in batch.iter().filter_map(|stored| wire::envelope(&stored.payload).ok()) {
                match envelope.content {
                    // One of our own term is our own once more: whoever claims after us has read ours.
                    Some(v1::envelope::Content::Claim(claim)) if envelope.term > self.term => {
                        by = Some(claim.transmitter);
                    }
                    _ if envelope.term > self.term && !whole => by = by.or_else(|| Some("unknown".into())),
                    _ => {}
                }
            }
        }
        match by {
            Some(by) => Error::Fenced { source_name, by },
            None => Error::Disturbed { source_name },
        }
    }
}

/// How many of the first sets go into one message.
fn together(sets: &[(Revision, EncodedSet)]) -> usize {
    let mut bytes = 0;
    let fits = sets.iter().take(BUNDLE_SETS).take_while(|(_, set)| {
        bytes += set.unpacked_bytes();
        bytes <= BUNDLE_BYTES as u64
    });
    fits.count().max(sets.len().min(1))
}

fn pack(sets: &[(Revision, EncodedSet)]) -> Result<v1::Bundle, Error> {
    wire::bundle(sets.iter().map(|(_, set)| set))
}

fn envelope(term: u64, content: v1::envelope::Content) -> v1::Envelope {
    v1::Envelope { version: wire::VERSION, term, content: Some(content) }
}

/// The latest term claimed in the log from `first` on.
async fn latest_term(log: &Log, first: u64) -> Result<u64, Error> {
    let mut term = 0;
    let mut from = first;
    loop {
        let batch = log.broker.read(&log.source, Stream::Changes, from, crate::reader::READ_BYTES).await?;
        let Some(last) = batch.last() else { return Ok(term) };
        from = last.sequence + 1;
        for stored in &batch {
            // Messages that can't be read carry no term that readers would follow.
            if let Ok(envelope) = wire::envelope(&stored.payload) {
                term = term.max(envelope.term);
            }
        }
    }
}
