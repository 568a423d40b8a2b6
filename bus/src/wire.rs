//! Change sets and everything else of the log as bytes, and back. Nothing outside this crate knows these bytes.

use bytes::Bytes;
use deltabus_proto::v1;
use deltabus_record::change::{
    Change, ChangeSet, CollectionChanges, Conflict, ConflictId, FieldChange, Outcome, Reply, ReverseId, ReverseSet,
    Revision, SchemaChange, Transaction, Verdict, Winner,
};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowReader};
use deltabus_record::schema::{
    Collection, CollectionName, FIELDS_MAX, Field, KeySpec, NAME_BYTES_MAX, ReceiverName, Schema,
};
use deltabus_record::value::{Kind, Value};
use prost::Message;

use crate::Error;
use crate::encode::{ChangesEncoder, field_bytes, put_bytes, put_message};

/// The protocol's version; raised when older readers would misunderstand.
pub(crate) const VERSION: u32 = 1;

/// What a compressed message may grow to. A bundle holds about [`crate::BUNDLE_BYTES`] unless one set is larger; this bounds
/// what a hostile message can make a reader allocate.
pub(crate) const DECOMPRESSED_MAX: u64 = 1024 * 1024 * 1024;

/// Up to this length a message may be however much longer than its compressed form: parts of snapshots, chunks and usual
/// bundles are no longer.
pub(crate) const DECOMPRESSED_FREE: u64 = 1024 * 1024;

/// Beyond [`DECOMPRESSED_FREE`] a message is at most so many times longer than its compressed form, so that it takes as
/// many bytes to fill a reader's memory as it takes to store them. What would be longer is sent as it is; records hardly
/// ever are.
const DECOMPRESSED_TIMES_MAX: u64 = 64;

/// A message has on average at least so many bytes for each change, verdict, field and whatever else it lists; the shortest
/// change of all has seven. Each takes some hundred bytes once it is decoded, whether there is anything in it or not.
const ELEMENT_BYTES_MIN: usize = 6;

/// So many elements are never too many.
const ELEMENTS_FREE: usize = 1024;

/// The latest term: they are kept as signed numbers, and there is always one after it.
pub(crate) const TERM_MAX: u64 = i64::MAX as u64 - 1;

/// The highest number of a revision or reverse set: there are always many after it.
const NUMBER_MAX: u64 = 1 << 62;

/// So many edits in one reverse set at most, ten times what receivers send: each takes some hundred bytes once it is decoded.
pub(crate) const REVERSE_EDITS_MAX: usize = 20_000;

/// zstd's level: the default, a good deal faster than the link for little less than the best ratio.
const ZSTD_LEVEL: i32 = 3;

/// The level for change sets of [`LARGE_SET_BYTES`] and more: three times as fast, for a tenth or a fifth more bytes. The default would take
/// several times as long as a server nearby takes to store them.
const ZSTD_LEVEL_LARGE: i32 = 1;

/// See [`ZSTD_LEVEL_LARGE`].
const LARGE_SET_BYTES: usize = 256 * 1024;

/// Change sets from this length on are compressed when they are staged, each by itself; shorter ones when they are sent, as many of them
/// together as wait.
const PACK_MIN: usize = 16 * 1024;

/// Leads a packed set; no message begins with it.
const PACKED: u8 = 0;

/// Shorter payloads aren't worth the attempt.
const COMPRESS_MIN: usize = 128;

type Result<T> = std::result::Result<T, Error>;

/// A change set as it lies in the outbox and travels: encoded once, when it is staged, and [`EncodedSet::packed`] there.
///
/// Its bytes are those of `deltabus.v1.ChangeSet`; or [`PACKED`], the length of a `deltabus.v1.ChangeSets` that holds this set alone (64 bits,
/// little-endian), and that message as a zstd frame. Frames one behind the other are what several sets are together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedSet(pub Bytes);

/// What an [`EncodedSet`] is.
enum Form<'a> {
    Plain(&'a Bytes),
    /// `length`: of the message in the frame.
    Packed {
        length: u64,
        frame: &'a [u8],
    },
}

impl EncodedSet {
    /// Compresses a large set that was just encoded, where that makes it shorter.
    pub fn packed(self) -> EncodedSet {
        let EncodedSet(plain) = self;
        if plain.len() < PACK_MIN {
            return EncodedSet(plain);
        }
        let mut head = Vec::new();
        put_message(&mut head, 1, plain.len());
        let length = (head.len() + plain.len()) as u64;
        let level = if plain.len() < LARGE_SET_BYTES { ZSTD_LEVEL } else { ZSTD_LEVEL_LARGE };
        let mut packed = vec![PACKED];
        packed.extend_from_slice(&length.to_le_bytes());
        let before = packed.len();
        let packed = frame(packed, &[&head, &plain], length, level);
        let packed = packed.filter(|packed| is_worth_it(packed.len() - before, length));
        EncodedSet(packed.map_or(plain, Bytes::from))
    }

    fn form(&self) -> Result<Form<'_>> {
        match self.0.split_first() {
            Some((&PACKED, rest)) => {
                let (length, frame) = rest.split_first_chunk::<8>().ok_or_else(|| wire("a change set", "cut off"))?;
                Ok(Form::Packed { length: u64::from_le_bytes(*length), frame })
            }
            _ => Ok(Form::Plain(&self.0)),
        }
    }

    /// How many bytes it is in a bundle before compression, about.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        match self.form() {
            Ok(Form::Packed { length, .. }) => length,
            _ => self.0.len() as u64,
        }
    }

    /// The set; every value in it is checked.
    pub fn decode(&self) -> Result<ChangeSet> {
        match self.form()? {
            Form::Plain(plain) => decode_set(plain),
            Form::Packed { length, frame } => {
                let sets = v1::ChangeSets::decode(Bytes::from(unpack(frame, length)?));
                match sets.map_err(|error| wire("a change set", error))?.sets.as_slice() {
                    [set] => decode_set(set),
                    sets => Err(wire("a change set", format!("it is {} sets", sets.len()))),
                }
            }
        }
    }
}

/// Encodes a set.
pub fn encode_set(set: &ChangeSet) -> EncodedSet {
    // One message whose fields come in the order of their numbers, whoever writes them.
    let head = v1::ChangeSet {
        base: Some(revision_out(&set.base)),
        next: Some(digest_out(&set.next.digest)),
        time_millis: set.time_millis,
        ..v1::ChangeSet::default()
    };
    let replies = v1::ChangeSet { replies: set.replies.iter().map(reply_out).collect(), ..v1::ChangeSet::default() };
    let mut out = head.encode_to_vec();
    let mut encoder = ChangesEncoder::default();
    for transaction in &set.transactions {
        let schemas = transaction.schemas.iter().map(schema_change_out).collect();
        let mut inside = v1::Transaction { schemas, collections: Vec::new() }.encode_to_vec();
        for changes in &transaction.collections {
            encoder.put(&mut inside, 2, changes);
        }
        put_message(&mut out, 4, inside.len());
        out.extend_from_slice(&inside);
    }
    out.extend_from_slice(&replies.encode_to_vec());
    EncodedSet(out.into())
}

/// Decodes a set as it is in a bundle, a `deltabus.v1.ChangeSet`; every value in it is checked.
pub fn decode_set(bytes: &[u8]) -> Result<ChangeSet> {
    check_elements("a change set", bytes, CHANGE_SET)?;
    let message = v1::ChangeSet::decode(bytes).map_err(|error| wire("a change set", error))?;
    let base = revision_in(message.base.as_ref());
    check_number("a change set", base.number)?;
    Ok(ChangeSet {
        base,
        next: Revision { number: base.number.saturating_add(1), digest: digest_in(message.next.as_ref()) },
        time_millis: message.time_millis,
        transactions: message.transactions.into_iter().map(transaction_in).collect::<Result<_>>()?,
        replies: message.replies.into_iter().map(reply_in).collect::<Result<_>>()?,
    })
}

/// Encodes a reverse set; its receiver is in the subject.
pub fn encode_reverse(set: &ReverseSet) -> Bytes {
    let message = v1::ReverseSet {
        version: VERSION,
        number: set.id.number,
        base: Some(revision_out(&set.base)),
        time_millis: set.time_millis,
        edits: set.edits.collections.iter().map(collection_out).collect(),
        fields: set.fields.iter().map(field_names_out).collect(),
    };
    compress_framed(&message.encode_to_vec())
}

/// Decodes a reverse set of `receiver`.
pub fn decode_reverse(receiver: &ReceiverName, bytes: &[u8]) -> Result<ReverseSet> {
    let plain = decompress_framed("a reverse set", bytes, DECOMPRESSED_MAX)?;
    check_elements_most("a reverse set", &plain, REVERSE_SET, REVERSE_EDITS_MAX)?;
    let message = v1::ReverseSet::decode(plain.as_slice()).map_err(|error| wire("a reverse set", error))?;
    check_version("a reverse set", message.version)?;
    check_number("a reverse set", message.number)?;
    Ok(ReverseSet {
        id: ReverseId { receiver: receiver.clone(), number: message.number },
        base: revision_in(message.base.as_ref()),
        time_millis: message.time_millis,
        edits: Transaction {
            schemas: Vec::new(),
            collections: message.edits.into_iter().map(collection_in).collect::<Result<_>>()?,
        },
        fields: message.fields.into_iter().map(field_names_in).collect::<Result<_>>()?,
    })
}

fn field_names_out((collection, names): (&CollectionName, &Vec<String>)) -> v1::FieldNames {
    let names: Vec<_> = names.iter().map(|name| Value::text(name.as_str())).collect();
    let names = Bytes::copy_from_slice(Row::of(&names).as_bytes());
    v1::FieldNames { collection: collection.to_string(), names }
}

fn field_names_in(fields: v1::FieldNames) -> Result<(CollectionName, Vec<String>)> {
    let row = row_in(&fields.names)?;
    if row.beyond(FIELDS_MAX).is_some() {
        return Err(wire("names of fields", format!("there are more than {FIELDS_MAX}")));
    }
    let name = |value| match value {
        Value::Text(name) if name.len() <= NAME_BYTES_MAX => Ok(name),
        _ => Err(wire("names of fields", "one is no name")),
    };
    let names = row.values().into_iter().map(name).collect::<Result<_>>()?;
    Ok((CollectionName::new(fields.collection), names))
}

/// Packs encoded sets into a bundle, compressed where that is smaller.
pub(crate) fn bundle<'a>(sets: impl IntoIterator<Item = &'a EncodedSet>) -> Result<v1::Bundle> {
    let forms = sets.into_iter().map(EncodedSet::form).collect::<Result<Vec<_>>>()?;
    let length = forms.iter().map(Form::bundled_bytes).sum();
    if length > DECOMPRESSED_MAX {
        return Err(Error::SetTooLarge { bytes: length, bytes_max: DECOMPRESSED_MAX });
    }
    // A large one that is not packed was tried when it was staged.
    let worth_trying = forms.iter().all(|form| !matches!(form, Form::Plain(plain) if plain.len() >= PACK_MIN));
    if worth_trying && let Some(packed) = bundle_packed(&forms, length) {
        return Ok(v1::Bundle { compression: v1::Compression::Zstd.into(), length, sets: packed.into() });
    }
    let mut plain = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    for form in &forms {
        match form {
            Form::Plain(set) => put_bytes(&mut plain, 1, set),
            Form::Packed { length, frame } => plain.append(&mut unpack(frame, *length)?),
        }
    }
    Ok(v1::Bundle { compression: v1::Compression::None.into(), length, sets: plain.into() })
}

impl Form<'_> {
    /// How long it is in a `deltabus.v1.ChangeSets`.
    fn bundled_bytes(&self) -> u64 {
        match self {
            Form::Plain(plain) => field_bytes(plain) as u64,
            Form::Packed { length, .. } => *length,
        }
    }
}

/// The frames of all of these, of `length` bytes together, where that is shorter and not too much so.
fn bundle_packed(forms: &[Form<'_>], length: u64) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    let mut plain = Vec::new();
    for (i, form) in forms.iter().enumerate() {
        match form {
            Form::Plain(set) => {
                put_bytes(&mut plain, 1, set);
                // One frame for as many as come together.
                if !matches!(forms.get(i + 1), Some(Form::Plain(_))) {
                    packed = frame(packed, &[&plain], plain.len() as u64, ZSTD_LEVEL)?;
                    plain.clear();
                }
            }
            Form::Packed { frame, .. } => packed.extend_from_slice(frame),
        }
    }
    (length >= COMPRESS_MIN as u64 && is_worth_it(packed.len(), length)).then_some(packed)
}

/// The encoded sets of a bundle.
pub(crate) fn unbundle(bundle: &v1::Bundle) -> Result<Vec<Bytes>> {
    let plain = match bundle.compression() {
        v1::Compression::None => bundle.sets.clone(),
        v1::Compression::Zstd => unpack(&bundle.sets, bundle.length)?.into(),
    };
    check_elements("a change set", &plain, CHANGE_SETS)?;
    let sets = v1::ChangeSets::decode(plain).map_err(|error| wire("a change set", error))?;
    Ok(sets.sets)
}

/// Decodes a message of the log.
pub(crate) fn envelope(payload: &Bytes) -> Result<v1::Envelope> {
    let envelope = v1::Envelope::decode(payload.clone()).map_err(|error| wire("a message of the log", error))?;
    check_version("a message of the log", envelope.version)?;
    if envelope.term > TERM_MAX {
        return Err(wire("a message of the log", format!("{} is no term", envelope.term)));
    }
    Ok(envelope)
}

pub(crate) fn check_number(what: &'static str, number: u64) -> Result<()> {
    match number {
        ..=NUMBER_MAX => Ok(()),
        _ => Err(wire(what, format!("{number} is no number"))),
    }
}

pub(crate) fn check_version(what: &'static str, version: u32) -> Result<()> {
    match version {
        0 => Err(Error::Wire { what, problem: "it has no version".into() }),
        VERSION => Ok(()),
        version => Err(Error::Newer { what, version }),
    }
}

pub(crate) fn wire(what: &'static str, problem: impl std::fmt::Display) -> Error {
    Error::Wire { what, problem: problem.to_string() }
}

/// zstd, where the result is smaller.
pub(crate) fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    if plain.len() < COMPRESS_MIN {
        return None;
    }
    let packed = zstd::bulk::compress(plain, ZSTD_LEVEL).ok()?;
    is_worth_it(packed.len(), plain.len() as u64).then_some(packed)
}

/// Appends to `out` a zstd frame of `pieces`, which are `length` bytes together.
fn frame(out: Vec<u8>, pieces: &[&[u8]], length: u64, level: i32) -> Option<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(out, level).ok()?;
    encoder.set_pledged_src_size(Some(length)).ok()?;
    pieces.iter().try_for_each(|piece| std::io::Write::write_all(&mut encoder, piece)).ok()?;
    encoder.finish().ok()
}

/// Whether `length` bytes are sent as `packed`: that is shorter, and not by more than readers believe.
fn is_worth_it(packed: usize, length: u64) -> bool {
    (packed as u64) < length && length <= decompressed_max(packed)
}

/// How long something of `packed` bytes may be once it is decompressed.
fn decompressed_max(packed: usize) -> u64 {
    DECOMPRESSED_FREE.max(DECOMPRESSED_TIMES_MAX * packed as u64)
}

/// What a frame of a set holds.
fn unpack(frame: &[u8], length: u64) -> Result<Vec<u8>> {
    decompress("a change set", frame, length, DECOMPRESSED_MAX)
}

/// Undoes [`compress`]; nothing longer than `length_max` comes of it.
pub(crate) fn decompress(what: &'static str, packed: &[u8], length: u64, length_max: u64) -> Result<Vec<u8>> {
    let length_max = length_max.min(decompressed_max(packed.len()));
    if length > length_max {
        return Err(wire(what, format!("{length} bytes decompressed are more than the limit of {length_max}")));
    }
    // The capacity is the claim of whoever sent it: grow with what really comes.
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|error| wire(what, error))?;
    let read = std::io::Read::read_to_end(&mut std::io::Read::take(decoder, length + 1), &mut plain);
    read.map_err(|error| wire(what, error))?;
    if plain.len() as u64 == length { Ok(plain) } else { Err(wire(what, "its length is not what it says")) }
}

/// One byte that says how, then the bytes; compressed ones are led by their length.
pub(crate) fn compress_framed(plain: &[u8]) -> Bytes {
    let mut framed = Vec::new();
    match compress(plain) {
        Some(packed) => {
            framed.push(1);
            framed.extend_from_slice(&(plain.len() as u64).to_le_bytes());
            framed.extend_from_slice(&packed);
        }
        None => {
            framed.push(0);
            framed.extend_from_slice(plain);
        }
    }
    framed.into()
}

/// Undoes [`compress_framed`]; nothing longer than `length_max` comes of it.
pub(crate) fn decompress_framed(what: &'static str, framed: &[u8], length_max: u64) -> Result<Vec<u8>> {
    match framed.split_first() {
        Some((0, plain)) if plain.len() as u64 > length_max => {
            Err(wire(what, format!("{} bytes are more than the limit of {length_max}", plain.len())))
        }
        Some((0, plain)) => Ok(plain.to_vec()),
        Some((1, rest)) => {
            let Some((length, packed)) = rest.split_first_chunk::<8>() else { return Err(wire(what, "cut off")) };
            decompress(what, packed, u64::from_le_bytes(*length), length_max)
        }
        Some((other, _)) => Err(wire(what, format!("unknown frame {other}"))),
        None => Err(wire(what, "empty")),
    }
}

/// Which fields of a message list something, and what the things listed list themselves.
pub(crate) struct Listed(&'static [(u64, &'static Listed)]);

const PLAIN: &Listed = &Listed(&[]);
const COLLECTION: &Listed = &Listed(&[(2, PLAIN)]);
const SCHEMA_CHANGE: &Listed = &Listed(&[(1, COLLECTION), (2, COLLECTION)]);
const COLLECTION_CHANGES: &Listed = &Listed(&[(2, PLAIN)]);
const TRANSACTION: &Listed = &Listed(&[(1, SCHEMA_CHANGE), (2, COLLECTION_CHANGES)]);
const REPLY: &Listed = &Listed(&[(3, PLAIN), (4, PLAIN)]);
const CHANGE_SET: &Listed = &Listed(&[(4, TRANSACTION), (5, REPLY)]);
const CHANGE_SETS: &Listed = &Listed(&[(1, PLAIN)]);
const REVERSE_SET: &Listed = &Listed(&[(5, COLLECTION_CHANGES), (6, PLAIN)]);
pub(crate) const MANIFEST: &Listed = &Listed(&[(6, COLLECTION), (10, PLAIN)]);
pub(crate) const CHUNK_LIST: &Listed = &Listed(&[(2, PLAIN), (3, PLAIN)]);

/// Fails for a message that lists more than its bytes can be worth; to be asked before it is decoded.
pub(crate) fn check_elements(what: &'static str, bytes: &[u8], listed: &'static Listed) -> Result<()> {
    check_elements_most(what, bytes, listed, usize::MAX)
}

/// The same, and for one that lists more than `most`.
fn check_elements_most(what: &'static str, bytes: &[u8], listed: &'static Listed, most: usize) -> Result<()> {
    let elements_max = ELEMENTS_FREE.max(bytes.len() / ELEMENT_BYTES_MIN).min(most);
    let mut elements = 0;
    let mut messages = vec![(bytes, listed)];
    while let Some((mut rest, Listed(fields))) = messages.pop() {
        // What isn't well formed ends here, and is the decoder's to refuse.
        while let Some((field, inside)) = next_field(&mut rest) {
            let Some((_, listed)) = fields.iter().find(|(number, _)| *number == field) else { continue };
            elements += 1;
            if elements > elements_max {
                return Err(wire(what, format!("it lists more than {elements_max} things in {} bytes", bytes.len())));
            }
            if !listed.0.is_empty() {
                messages.push((inside, listed));
            }
        }
    }
    Ok(())
}

/// The number of a message's next field, and what is in it where that has a length
/// (<https://protobuf.dev/programming-guides/encoding>).
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = take_varint(rest)?;
    let length = match key & 7 {
        0 => {
            take_varint(rest)?;
            0
        }
        1 => 8,
        2 => usize::try_from(take_varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (inside, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((key >> 3, inside))
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(crate) fn revision_out(revision: &Revision) -> v1::Revision {
    v1::Revision { number: revision.number, digest: Some(digest_out(&revision.digest)) }
}

pub(crate) fn revision_in(revision: Option<&v1::Revision>) -> Revision {
    revision.map_or_else(Revision::default, |revision| Revision {
        number: revision.number,
        digest: digest_in(revision.digest.as_ref()),
    })
}

fn digest_out(digest: &Digest) -> v1::Digest {
    v1::Digest { records: digest.records, sum: digest.sum.to_be_bytes().to_vec().into() }
}

fn digest_in(digest: Option<&v1::Digest>) -> Digest {
    digest.map_or_else(Digest::default, |digest| Digest {
        records: digest.records,
        // A sum of another length equals no real one: the set is then not accepted anywhere.
        sum: digest.sum.as_ref().try_into().map_or(u128::MAX, u128::from_be_bytes),
    })
}

fn schema_change_out(schema: &SchemaChange) -> v1::SchemaChange {
    v1::SchemaChange {
        before: schema.before.as_ref().map(collection_schema_out),
        after: schema.after.as_ref().map(collection_schema_out),
    }
}

fn transaction_in(transaction: v1::Transaction) -> Result<Transaction> {
    let schema = |schema: v1::SchemaChange| {
        Ok(SchemaChange {
            before: schema.before.map(collection_schema_in).transpose()?,
            after: schema.after.map(collection_schema_in).transpose()?,
        })
    };
    Ok(Transaction {
        schemas: transaction.schemas.into_iter().map(schema).collect::<Result<_>>()?,
        collections: transaction.collections.into_iter().map(collection_in).collect::<Result<_>>()?,
    })
}

pub(crate) fn collection_schema_out(collection: &Collection) -> v1::Collection {
    let field = |field: &Field| v1::Field {
        name: field.name.clone(),
        kind: field.kind.map_or_else(String::new, |kind| kind.name().to_owned()),
        declared: field.declared.clone().unwrap_or_default(),
        ordinal: field.ordinal,
        dropped: field.dropped,
    };
    v1::Collection {
        name: collection.name.as_str().to_owned(),
        fields: collection.schema.fields.iter().map(field).collect(),
        key: match &collection.schema.key {
            KeySpec::Fields(slots) => slots.clone(),
            KeySpec::WholeRow => Vec::new(),
        },
    }
}

pub(crate) fn collection_schema_in(collection: v1::Collection) -> Result<Collection> {
    let field = |field: v1::Field| Field {
        name: field.name,
        // A kind that this version doesn't know is any kind.
        kind: Kind::from_name(&field.kind),
        declared: Some(field.declared).filter(|declared| !declared.is_empty()),
        ordinal: field.ordinal,
        dropped: field.dropped,
    };
    let key = if collection.key.is_empty() { KeySpec::WholeRow } else { KeySpec::Fields(collection.key) };
    let fields = collection.fields.into_iter().map(field).collect();
    let collection = Collection { name: CollectionName::new(collection.name), schema: Schema { fields, key } };
    collection.check().map_err(|error| wire("a collection", error))?;
    Ok(collection)
}

fn collection_out(changes: &CollectionChanges) -> v1::CollectionChanges {
    v1::CollectionChanges {
        collection: changes.collection.as_str().to_owned(),
        changes: changes.changes.iter().map(change_out).collect(),
    }
}

fn collection_in(changes: v1::CollectionChanges) -> Result<CollectionChanges> {
    Ok(CollectionChanges {
        collection: CollectionName::new(changes.collection),
        changes: changes.changes.into_iter().map(change_in).collect::<Result<_>>()?,
    })
}

fn change_out(change: &Change) -> v1::Change {
    let whole = |key: &Key, row: &Row| v1::Whole {
        key: Bytes::copy_from_slice(key.as_bytes()),
        row: Bytes::copy_from_slice(row.as_bytes()),
    };
    let kind = match change {
        Change::Insert { key, row } => v1::change::Kind::Insert(whole(key, row)),
        Change::Delete { key, row } => v1::change::Kind::Delete(whole(key, row)),
        Change::Update { key, fields } => {
            let row = |value: fn(&FieldChange) -> &Value| {
                let values: Vec<_> = fields.iter().map(value).cloned().collect();
                Bytes::copy_from_slice(Row::of(&values).as_bytes())
            };
            v1::change::Kind::Update(v1::Update {
                key: Bytes::copy_from_slice(key.as_bytes()),
                slots: fields.iter().map(|field| field.slot).collect(),
                before: row(|field| &field.before),
                after: row(|field| &field.after),
            })
        }
    };
    v1::Change { kind: Some(kind) }
}

fn change_in(change: v1::Change) -> Result<Change> {
    let key = |bytes: &Bytes| Key::from_trusted(bytes.to_vec());
    match change.kind {
        Some(v1::change::Kind::Insert(whole)) => Ok(Change::Insert { key: key(&whole.key), row: row_in(&whole.row)? }),
        Some(v1::change::Kind::Delete(whole)) => Ok(Change::Delete { key: key(&whole.key), row: row_in(&whole.row)? }),
        Some(v1::change::Kind::Update(update)) => {
            // Whoever applies a change makes room for all slots below.
            if let Some(slot) = update.slots.iter().find(|slot| **slot as usize >= FIELDS_MAX) {
                return Err(wire("a change", format!("it names the field {slot} of at most {FIELDS_MAX}")));
            }
            let before = row_in(&update.before)?;
            let after = row_in(&update.after)?;
            let mut before = RowReader::new(before.as_bytes()).map(|field| field.value());
            let mut after = RowReader::new(after.as_bytes()).map(|field| field.value());
            let fields = update.slots.iter().map(|&slot| FieldChange {
                slot,
                before: before.next().unwrap_or(Value::Absent),
                after: after.next().unwrap_or(Value::Absent),
            });
            let fields = fields.collect();
            if before.next().is_some() || after.next().is_some() {
                return Err(wire("a change", "it has more values than fields"));
            }
            Ok(Change::Update { key: key(&update.key), fields })
        }
        None => Err(wire("a change", "it is of an unknown kind")),
    }
}

fn row_in(bytes: &Bytes) -> Result<Row> {
    Row::from_bytes(bytes).map_err(|error| wire("a record", error))
}

fn reply_out(reply: &Reply) -> v1::Reply {
    let resolves = |id: &ConflictId| v1::ConflictId { revision: id.revision, index: id.index };
    v1::Reply {
        receiver: reply.reverse.receiver.as_str().to_owned(),
        number: reply.reverse.number,
        verdicts: reply.verdicts.iter().map(verdict_out).collect(),
        resolves: reply.resolves.iter().map(resolves).collect(),
        time_millis: reply.time_millis,
    }
}

fn reply_in(reply: v1::Reply) -> Result<Reply> {
    let receiver = ReceiverName::new(&reply.receiver).map_err(|error| wire("a reply", error))?;
    check_number("a reply", reply.number)?;
    let resolves = reply.resolves.into_iter().map(|id| ConflictId { revision: id.revision, index: id.index });
    Ok(Reply {
        reverse: ReverseId { receiver, number: reply.number },
        time_millis: reply.time_millis,
        verdicts: reply.verdicts.into_iter().map(verdict_in).collect::<Result<_>>()?,
        resolves: resolves.collect(),
    })
}

fn verdict_out(verdict: &Verdict) -> v1::Verdict {
    let value = |value: &Value| Bytes::copy_from_slice(Row::of(std::slice::from_ref(value)).as_bytes());
    let outcome = match &verdict.outcome {
        Outcome::Accepted => v1::verdict::Outcome::Accepted(v1::Accepted {}),
        Outcome::Already => v1::verdict::Outcome::Already(v1::Already {}),
        Outcome::Refused { reason } => v1::verdict::Outcome::Refused(v1::Refused { reason: reason.clone() }),
        Outcome::Conflict(conflict) => v1::verdict::Outcome::Conflict(v1::Conflict {
            slot: conflict.slot.map_or(0, |slot| slot + 1),
            base: value(&conflict.base),
            source: value(&conflict.source),
            edit: value(&conflict.edit),
            source_deleted: conflict.source_deleted,
            edit_deletes: conflict.edit_deletes,
            edit_wins: conflict.winner == Winner::Edit,
            open: conflict.open,
        }),
    };
    v1::Verdict {
        collection: verdict.collection.as_str().to_owned(),
        edit: Some(change_out(&verdict.edit)),
        outcome: Some(outcome),
    }
}

fn verdict_in(verdict: v1::Verdict) -> Result<Verdict> {
    let value = |bytes: &Bytes| Ok::<_, Error>(row_in(bytes)?.value(0));
    let outcome = match verdict.outcome {
        Some(v1::verdict::Outcome::Accepted(_)) => Outcome::Accepted,
        Some(v1::verdict::Outcome::Already(_)) => Outcome::Already,
        Some(v1::verdict::Outcome::Refused(refused)) => Outcome::Refused { reason: refused.reason },
        Some(v1::verdict::Outcome::Conflict(conflict)) => Outcome::Conflict(Box::new(Conflict {
            slot: conflict.slot.checked_sub(1),
            base: value(&conflict.base)?,
            source: value(&conflict.source)?,
            edit: value(&conflict.edit)?,
            source_deleted: conflict.source_deleted,
            edit_deletes: conflict.edit_deletes,
            winner: if conflict.edit_wins { Winner::Edit } else { Winner::Source },
            open: conflict.open,
        })),
        None => return Err(wire("a verdict", "it has no outcome")),
    };
    Ok(Verdict {
        collection: CollectionName::new(verdict.collection),
        edit: change_in(verdict.edit.unwrap_or_default())?,
        outcome,
    })
}
