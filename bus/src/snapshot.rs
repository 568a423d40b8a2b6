//! Snapshots: all records at one revision, in parts, with a pointer to the newest.
//!
//! The parts of successive snapshots alternate between two slots of subjects, so that a new one overwrites the one before
//! the last, and the pointer moves only when all parts are there: an interrupted snapshot leaves the old one whole, and
//! nobody needs the right to delete. Whoever still reads the overwritten one notices by the name in each part. A transmitter
//! that was replaced while it wrote one notices by the log's term, and can't move the pointer. Each part names the message
//! that it takes the place of, so that one which arrives late, when its writer has given up, takes no other's.

use bytes::Bytes;
use deltabus_proto::v1;
use deltabus_record::change::{ReverseCursor, Revision};
use deltabus_record::row;
use deltabus_record::schema::{Collection, ReceiverName};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use metrics::counter;
use prost::Message;

use crate::Error;
use crate::broker::{AppendError, Expect, Stored, Subject};
use crate::log::{Log, Position};
use crate::{metrics as figures, wire};

/// Records are packed into parts of about this many bytes before compression; compressed they are well below the
/// payload limit. A record larger than that goes on in the next parts.
const PART_BYTES: usize = 512 * 1024;

/// A part's records are never longer than this, whatever the broker takes in one message, so that readers can bound what
/// they decompress.
const PIECE_BYTES_MAX: usize = wire::DECOMPRESSED_FREE as usize;

/// The largest record that a reader puts together again, so that a hostile snapshot can't fill the memory.
const RECORD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// After so many parts (32 MiB) the writer looks whether it was replaced: its parts would overwrite its successor's.
const PARTS_PER_LOOK: u32 = 64;

/// zstd's fastest level: a first load waits for it.
const ZSTD_LEVEL: i32 = 1;

/// Parts on their way at the same time, either way.
const IN_FLIGHT: usize = 8;

/// How often a part is sent again when its acknowledgement is lost.
const ATTEMPTS: u32 = 5;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its name.
    pub id: String,
    /// The state, and where the log goes on.
    pub position: Position,
    /// The collections; their records come in this order.
    pub collections: Vec<Collection>,
    /// How many parts there are.
    pub parts: u32,
    /// Bytes of all parts as stored.
    pub bytes: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub time_millis: u64,
    /// Which reverse sets were taken from each receiver.
    pub cursors: Vec<(ReceiverName, ReverseCursor)>,
}

/// Writes a snapshot.
pub struct SnapshotWriter {
    log: Log,
    slot: char,
    /// Sequence of the pointer that this snapshot replaces; 0: none.
    before: u64,
    manifest: Manifest,
    part: Vec<u8>,
    uploads: FuturesOrdered<BoxFuture<'static, Result<(), Error>>>,
}

impl SnapshotWriter {
    /// Begins a snapshot of the state at `position`.
    pub async fn begin(
        log: &Log,
        position: Position,
        collections: &[Collection],
        time_millis: u64,
    ) -> Result<SnapshotWriter, Error> {
        let before = stored_pointer(log).await?;
        let slot = match &before {
            // One that can't be read (of a later version) is replaced all the same, with its parts left alone.
            Some(before) if manifest_of(before).is_ok_and(|before| before.id.starts_with('b')) => 'a',
            Some(_) => 'b',
            None => 'a',
        };
        // Terms and revisions alone could repeat after a loss; the time doesn't.
        let id = format!("{slot}-{}-{}-{time_millis}", position.term, position.revision.number);
        let manifest = Manifest {
            id,
            position,
            collections: collections.to_vec(),
            parts: 0,
            bytes: 0,
            time_millis,
            cursors: Vec::new(),
        };
        Ok(SnapshotWriter {
            log: log.clone(),
            slot,
            before: before.map_or(0, |before| before.sequence),
            manifest,
            part: Vec::with_capacity(PART_BYTES + 4096),
            uploads: FuturesOrdered::new(),
        })
    }

    /// Adds a record of the collection at `collection` in the list; collections in order, records in any.
    ///
    /// `true`: a part is full; call [`SnapshotWriter::flush`] before adding more.
    pub fn push(&mut self, collection: usize, key: &[u8], row: &[u8]) -> bool {
        put_unsigned(&mut self.part, collection as u64);
        put_unsigned(&mut self.part, key.len() as u64);
        put_unsigned(&mut self.part, row.len() as u64);
        self.part.extend_from_slice(key);
        self.part.extend_from_slice(row);
        self.part.len() >= PART_BYTES
    }

    /// Sends what was added; waits only where too much is on its way already. [`Error::Fenced`]: another transmitter has
    /// taken over.
    pub async fn flush(&mut self) -> Result<(), Error> {
        if self.part.is_empty() {
            return Ok(());
        }
        let plain = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES + 4096));
        // Room for the envelope, and for what grows when it is compressed.
        let pieces = plain.chunks((self.log.broker.payload_max() / 4 * 3).clamp(1, PIECE_BYTES_MAX));
        let count = pieces.len();
        for (i, piece) in pieces.enumerate() {
            self.send(piece, i + 1 < count).await?;
        }
        Ok(())
    }

    async fn send(&mut self, plain: &[u8], continued: bool) -> Result<(), Error> {
        while self.uploads.len() >= IN_FLIGHT {
            if let Some(uploaded) = self.uploads.next().await {
                uploaded?;
            }
        }
        if self.manifest.parts.is_multiple_of(PARTS_PER_LOOK) {
            check_term(&self.log, self.manifest.position.term).await?;
        }
        let packed = zstd::bulk::compress(plain, ZSTD_LEVEL).map_err(|error| wire::wire("a snapshot", error))?;
        let part = v1::SnapshotPart {
            version: wire::VERSION,
            length: plain.len() as u64,
            records: packed.into(),
            check: xxhash_rust::xxh3::xxh3_64(plain),
            snapshot: self.manifest.id.clone(),
            continued,
        };
        let payload = Bytes::from(part.encode_to_vec());
        self.manifest.bytes += payload.len() as u64;
        let (log, term) = (self.log.clone(), self.manifest.position.term);
        let subject = part_subject(self.slot, self.manifest.parts);
        self.manifest.parts += 1;
        self.uploads.push_back(Box::pin(upload(log, term, subject, payload)));
        Ok(())
    }

    /// Completes the snapshot: from now on it is the newest. [`Error::Fenced`]: another one has become the newest
    /// meanwhile.
    pub async fn finish(mut self, cursors: Vec<(ReceiverName, ReverseCursor)>) -> Result<Manifest, Error> {
        self.flush().await?;
        while let Some(uploaded) = self.uploads.next().await {
            uploaded?;
        }
        check_term(&self.log, self.manifest.position.term).await?;
        self.manifest.cursors = cursors;
        let payload = Bytes::from(manifest_out(&self.manifest).encode_to_vec());
        let log = self.log.clone();
        let expect = Expect::SubjectLast(self.before);
        let mut attempt = 0;
        loop {
            let failed = match log.broker.append(&log.source, &pointer_subject(), payload.clone(), expect).await {
                Ok(_) => return Ok(self.manifest),
                Err(error @ (AppendError::Conflict | AppendError::Unknown)) => error,
                Err(error) => return Err(error.into()),
            };
            // Whether it was stored before its acknowledgement was lost is never guessed at.
            match stored_pointer(&log).await? {
                Some(there) if there.payload == payload => return Ok(self.manifest),
                Some(there) if there.sequence != self.before => {
                    let by = "unknown".into();
                    return Err(Error::Fenced { source_name: self.log.source.clone(), by });
                }
                _ if attempt < ATTEMPTS => attempt += 1,
                _ => return Err(failed.into()),
            }
        }
    }
}

/// Reads the newest snapshot.
pub struct SnapshotReader {
    log: Log,
    manifest: Manifest,
    next: u32,
    fetches: FuturesOrdered<BoxFuture<'static, Result<Fetched, Error>>>,
    /// The beginning of records that go on in the next part.
    begun: Vec<u8>,
}

/// One part, checked and decompressed.
struct Fetched {
    plain: Vec<u8>,
    continued: bool,
}

/// Some records of a snapshot.
pub struct Records {
    plain: Vec<u8>,
    at: usize,
    /// How many fields each collection has.
    fields: Vec<usize>,
}

/// One record of a snapshot: its collection's place in the manifest, key and row.
pub type Record<'a> = (usize, &'a [u8], &'a [u8]);

impl SnapshotReader {
    /// Opens the newest snapshot; [`Error::NoSnapshot`] if there is none.
    pub async fn open(log: &Log) -> Result<SnapshotReader, Error> {
        let manifest = pointer(log).await?.ok_or_else(|| Error::NoSnapshot(log.source.clone()))?;
        Ok(SnapshotReader { log: log.clone(), manifest, next: 0, fetches: FuturesOrdered::new(), begun: Vec::new() })
    }

    /// What it is of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next records; `None` after the last. The next parts are fetched meanwhile.
    ///
    /// [`Error::SnapshotGone`]: a newer snapshot has taken its place; open that one and start over.
    pub async fn next(&mut self) -> Result<Option<Records>, Error> {
        loop {
            while self.next < self.manifest.parts && self.fetches.len() < IN_FLIGHT {
                let (id, revision) = (self.manifest.id.clone(), self.manifest.position.revision);
                self.fetches.push_back(Box::pin(fetch(self.log.clone(), id, revision, self.next)));
                self.next += 1;
            }
            let Some(fetched) = self.fetches.next().await else {
                return if self.begun.is_empty() { Ok(None) } else { Err(cut_off()) };
            };
            let Fetched { plain, continued } = fetched?;
            let plain = if self.begun.is_empty() {
                plain
            } else if self.begun.len() + plain.len() > RECORD_BYTES_MAX {
                let problem = format!("a record is larger than the limit of {RECORD_BYTES_MAX} bytes");
                return Err(wire::wire("a snapshot", problem));
            } else {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(&plain);
                whole
            };
            if continued {
                self.begun = plain;
            } else {
                let fields = self.manifest.collections.iter().map(|it| it.schema.fields.len()).collect();
                return Ok(Some(Records { plain, at: 0, fields }));
            }
        }
    }
}

impl Records {
    /// The next record, whose row is one of its collection; `None` after the last.
    pub fn advance(&mut self) -> Result<Option<Record<'_>>, Error> {
        if self.at == self.plain.len() {
            return Ok(None);
        }
        let mut at = self.at;
        let mut number = || take_unsigned(&self.plain, &mut at).ok_or_else(cut_off);
        let (collection, key, row) = (number()? as usize, number()? as usize, number()? as usize);
        let end = at.checked_add(key).and_then(|end| end.checked_add(row)).filter(|end| *end <= self.plain.len());
        let end = end.ok_or_else(cut_off)?;
        let Some(fields) = self.fields.get(collection) else {
            return Err(wire::wire("a snapshot", "a record of an unknown collection"));
        };
        self.at = end;
        let (key, row) = self.plain[at..end].split_at(key);
        row::check(row).map_err(|error| wire::wire("a snapshot", error))?;
        if row::beyond(row, *fields).is_some() {
            return Err(wire::wire("a snapshot", "a record of more values than its collection has fields"));
        }
        Ok(Some((collection, key, row)))
    }
}

fn cut_off() -> Error {
    wire::wire("a snapshot", "a part is cut off")
}

/// What the pointer points to.
pub async fn pointer(log: &Log) -> Result<Option<Manifest>, Error> {
    stored_pointer(log).await?.as_ref().map(manifest_of).transpose()
}

fn pointer_subject() -> Subject {
    Subject::snapshot("pointer")
}

async fn stored_pointer(log: &Log) -> Result<Option<Stored>, Error> {
    Ok(log.broker.last(&log.source, &pointer_subject()).await?)
}

fn manifest_of(stored: &Stored) -> Result<Manifest, Error> {
    wire::check_elements("a snapshot's manifest", &stored.payload, wire::MANIFEST)?;
    let manifest = v1::Manifest::decode(stored.payload.clone());
    let manifest = manifest.map_err(|error| wire::wire("a snapshot's manifest", error))?;
    wire::check_version("a snapshot's manifest", manifest.version)?;
    manifest_in(manifest)
}

/// Fails once the log has a later term than `term`.
async fn check_term(log: &Log, term: u64) -> Result<(), Error> {
    let last = log.broker.last(&log.source, &Subject::changes()).await?;
    let Some(Ok(last)) = last.map(|last| wire::envelope(&last.payload)) else { return Ok(()) };
    if last.term <= term {
        return Ok(());
    }
    let by = match last.content {
        Some(v1::envelope::Content::Claim(claim)) => claim.transmitter,
        _ => "unknown".into(),
    };
    Err(Error::Fenced { source_name: log.source.clone(), by })
}

/// Stores a part in the place of the one that is there, and of no other.
async fn upload(log: Log, term: u64, subject: Subject, payload: Bytes) -> Result<(), Error> {
    let mut attempt = 0;
    loop {
        let there = log.broker.last(&log.source, &subject).await?;
        let before = there.as_ref().map_or(0, |there| there.sequence);
        match there.map(|there| there.payload) {
            // Whether it was stored before its acknowledgement was lost is never guessed at.
            Some(there) if there == payload => return Ok(()),
            Some(there) if term_of(&there).is_some_and(|later| later > term) => {
                check_term(&log, term).await?;
                return Err(Error::Fenced { source_name: log.source.clone(), by: "unknown".into() });
            }
            _ => {}
        }
        match log.broker.append(&log.source, &subject, payload.clone(), Expect::SubjectLast(before)).await {
            Ok(_) => return Ok(()),
            Err(AppendError::Conflict | AppendError::Unknown) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The term in which a part was written; `None` where that can't be told.
fn term_of(part: &Bytes) -> Option<u64> {
    let part = v1::SnapshotPart::decode(part.clone()).ok()?;
    part.snapshot.split('-').nth(1)?.parse().ok()
}

async fn fetch(log: Log, id: String, revision: Revision, part: u32) -> Result<Fetched, Error> {
    let gone = || Error::SnapshotGone { revision, part };
    let slot = id.chars().next().ok_or_else(gone)?;
    let stored = log.broker.last(&log.source, &part_subject(slot, part)).await?.ok_or_else(gone)?;
    let message = v1::SnapshotPart::decode(stored.payload).map_err(|error| wire::wire("a snapshot", error));
    let opened = message.and_then(|message| {
        wire::check_version("a snapshot", message.version)?;
        if message.snapshot != id {
            return Err(gone());
        }
        let plain = wire::decompress("a snapshot", &message.records, message.length, PIECE_BYTES_MAX as u64)?;
        if xxhash_rust::xxh3::xxh3_64(&plain) != message.check {
            return Err(wire::wire("a snapshot", "a part's checksum is wrong"));
        }
        Ok(Fetched { plain, continued: message.continued })
    });
    opened.map_err(|error| match error {
        Error::Wire { problem, .. } => {
            counter!(figures::REFUSED, "source" => log.source.to_string(), "what" => figures::SNAPSHOT).increment(1);
            Error::SnapshotDamaged { revision, part, problem }
        }
        error => error,
    })
}

fn part_subject(slot: char, part: u32) -> Subject {
    Subject::snapshot(&format!("{slot}.{part}"))
}

fn manifest_out(manifest: &Manifest) -> v1::Manifest {
    v1::Manifest {
        version: wire::VERSION,
        id: manifest.id.clone(),
        term: manifest.position.term,
        revision: Some(wire::revision_out(&manifest.position.revision)),
        sequence: manifest.position.sequence,
        check: manifest.position.check,
        collections: manifest.collections.iter().map(wire::collection_schema_out).collect(),
        parts: manifest.parts,
        bytes: manifest.bytes,
        time_millis: manifest.time_millis,
        cursors: manifest.cursors.iter().map(cursor_out).collect(),
    }
}

fn cursor_out((receiver, cursor): &(ReceiverName, ReverseCursor)) -> v1::ReverseCursor {
    v1::ReverseCursor {
        receiver: receiver.as_str().to_owned(),
        number: cursor.last(),
        passed_over: cursor.passed_over().iter().flat_map(|(first, last)| [*first, *last]).collect(),
    }
}

fn cursor_in(cursor: v1::ReverseCursor) -> Result<(ReceiverName, ReverseCursor), Error> {
    let what = "a snapshot's manifest";
    let receiver = ReceiverName::new(&cursor.receiver).map_err(|error| wire::wire(what, error))?;
    wire::check_number(what, cursor.number)?;
    let ranges: Vec<(u64, u64)> = cursor.passed_over.chunks_exact(2).map(|range| (range[0], range[1])).collect();
    let known = ReverseCursor::new(cursor.number, ranges).filter(|_| cursor.passed_over.len().is_multiple_of(2));
    let known = known.ok_or_else(|| wire::wire(what, format!("what was taken of {receiver} makes no sense")))?;
    Ok((receiver, known))
}

fn manifest_in(manifest: v1::Manifest) -> Result<Manifest, Error> {
    let revision = wire::revision_in(manifest.revision.as_ref());
    for number in [manifest.term, manifest.sequence, revision.number] {
        wire::check_number("a snapshot's manifest", number)?;
    }
    Ok(Manifest {
        id: manifest.id,
        position: Position { term: manifest.term, sequence: manifest.sequence, check: manifest.check, revision },
        collections: manifest.collections.into_iter().map(wire::collection_schema_in).collect::<Result<_, Error>>()?,
        parts: manifest.parts,
        bytes: manifest.bytes,
        time_millis: manifest.time_millis,
        cursors: manifest.cursors.into_iter().map(cursor_in).collect::<Result<_, Error>>()?,
    })
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_unsigned(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
