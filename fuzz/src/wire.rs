//! What comes over the bus: sets, reverse sets, the log, snapshots, contents, questions.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Subject, Word};
use deltabus_bus::contents::Fetch;
use deltabus_bus::lease::{Lease, Watch};
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::standing::{self, Answers, Calls};
use deltabus_bus::{
    EncodedSet, Event, Log, Position, Reader, SnapshotReader, Writer, decode_reverse, decode_set, encode_reverse,
    encode_set, history, large_of, pointer,
};
use deltabus_proto::v1;
use deltabus_record::change::{Change, ChangeSet, Transaction};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{CollectionName, ReceiverName, SourceName};
use deltabus_record::value::Large;
use deltabus_record::{apply, key};
use deltabus_state::{Owner, Store, Working};
use deltabus_transmitter::Question;
use prost::Message;

use crate::input::Input;

/// Messages that one input may put on a log.
const MESSAGES_MAX: usize = 64;

/// Events that a reader may give for each message; more would be a loop.
const EVENTS_EACH_MAX: usize = 100_000;

/// The version of the protocol in all messages.
pub(crate) const VERSION: u32 = 1;

/// Bytes that claim to be a change set.
pub(crate) fn set(bytes: &[u8]) {
    let set = match EncodedSet(Bytes::copy_from_slice(bytes)).decode() {
        Ok(set) => set,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let again = decode_set(&encode_set(&set).0).expect("what was decoded can be encoded");
    assert_eq!(again, set, "a set is read back");
    let again = encode_set(&set).packed().decode().expect("what was encoded can be packed");
    assert_eq!(again, set, "a packed set is read back");
    take_in(&set);
}

/// Applies a set of whoever knows how to make one: to records in memory, and to a store that isn't told.
fn take_in(set: &ChangeSet) {
    let mut records: BTreeMap<(CollectionName, Key), Row> = BTreeMap::new();
    for transaction in &set.transactions {
        for changes in &transaction.collections {
            for change in &changes.changes {
                let _ = key::display(change.key().as_bytes());
                let at = (changes.collection.clone(), change.key().clone());
                let before = records.get(&at);
                let after = match apply::apply(change, before) {
                    Ok(after) => {
                        let back = apply::apply(&change.clone().invert(), after.as_ref());
                        assert_eq!(back.as_ref().map(Option::as_ref), Ok(before), "what is undone is as it was");
                        after
                    }
                    Err(_) => apply::force(change, before, None),
                };
                match after {
                    Some(row) => drop(records.insert(at, row)),
                    None => drop(records.remove(&at)),
                }
            }
        }
        let _ = (transaction.len(), transaction.is_empty());
    }
    STORE.with(|store| {
        let (_, store) = store.get_or_init(empty_store);
        let view = store.view();
        let mut working = Working::new(&view, Digest::default());
        let mut whole = true;
        for transaction in &set.transactions {
            whole &= working.apply(transaction).is_ok();
        }
        if whole {
            for transaction in set.transactions.iter().rev() {
                let undone = working.apply(&restored(transaction.clone().invert()));
                assert!(undone.is_ok(), "what was applied can be undone: {undone:?}");
            }
            assert_eq!(working.digest(), Digest::default(), "what is undone is as it was");
        }
        let mut batch = store.batch();
        let _ = working.write(&mut batch);
    });
}

/// Without the schema changes: a set may say anything of what there was before it.
fn restored(transaction: Transaction) -> Transaction {
    Transaction { schemas: Vec::new(), ..transaction }
}

thread_local! {
    static STORE: OnceCell<(tempfile::TempDir, Store)> = const { OnceCell::new() };
    static RUNTIME: OnceCell<tokio::runtime::Runtime> = const { OnceCell::new() };
}

fn empty_store() -> (tempfile::TempDir, Store) {
    let folder = crate::stores::scratch();
    let owner = Owner::Transmitter { source: source() };
    let store = Store::open(&folder.path().join("state"), &owner).expect("an empty folder becomes a store");
    (folder, store)
}

fn source() -> SourceName {
    SourceName::new("people").expect("a name")
}

pub(crate) fn receiver() -> ReceiverName {
    ReceiverName::new("oslo").expect("a name")
}

/// Runs what is awaited.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| {
        let new = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.get_or_init(new).block_on(future)
    })
}

/// Bytes that claim to be a reverse set.
pub(crate) fn reverse(bytes: &[u8]) {
    let Ok(set) = decode_reverse(&receiver(), bytes) else { return };
    let again = decode_reverse(&receiver(), &encode_reverse(&set)).expect("what was decoded can be encoded");
    assert_eq!(again, set, "a reverse set is read back");
    for changes in &set.edits.collections {
        for change in &changes.changes {
            let _ = apply::force(change, None, None);
            if let Change::Insert { row, .. } = change {
                assert!(Row::from_bytes(row.as_bytes()).is_ok());
            }
        }
    }
}

async fn new_log() -> (Log, Arc<MemoryBroker>) {
    let broker = Arc::new(MemoryBroker::new());
    let log = Log::new(Arc::<MemoryBroker>::clone(&broker), source());
    log.prepare().await.expect("memory");
    (log, broker)
}

async fn put(broker: &MemoryBroker, subject: &Subject, payload: impl Into<Bytes>) {
    // Larger than a broker takes: it is not there.
    let _ = broker.append(&source(), subject, payload.into(), Expect::Any).await;
}

/// Messages of a log. The first byte of each says what it is made into, so that terms and frames needn't be guessed.
pub(crate) fn log(bytes: &[u8]) {
    wait(async {
        let (log, broker) = new_log().await;
        let mut term = 1;
        for piece in Input::new(bytes).pieces(MESSAGES_MAX) {
            put(&broker, &Subject::changes(), message_of(piece, &mut term)).await;
        }
        let mut reader = Reader::at(&log, Position::default());
        let mut position = reader.position();
        for event in 0.. {
            assert!(event < EVENTS_EACH_MAX * MESSAGES_MAX, "a log ends");
            match reader.next_stored().await {
                Ok(Event::Set(delivered)) => {
                    assert_eq!(delivered.set.base, position.revision, "sets lead on from each other");
                    position = Position { revision: delivered.set.next, ..delivered.position };
                    let again = decode_set(&encode_set(&delivered.set).0).expect("what was decoded can be encoded");
                    assert_eq!(again, delivered.set);
                }
                Ok(Event::CaughtUp(_) | Event::Rejoin(_)) => break,
                Err(error) => {
                    let _ = error.to_string();
                    break;
                }
            }
        }
        let _ = history(&log, &mut drop).await;
        let _ = Writer::claim(&log, "transmitter", position).await;
    });
}

/// A message of the log from a byte that says what it is, and the rest.
fn message_of(piece: &[u8], term: &mut u64) -> Vec<u8> {
    use v1::envelope::Content;
    let mut input = Input::new(piece);
    let kind = input.byte();
    let content = match kind % 8 {
        0 => return input.rest().to_vec(),
        1 => {
            *term += u64::from(input.byte() % 3);
            Content::Claim(v1::Claim { transmitter: String::from_utf8_lossy(input.rest()).into_owned(), nonce: 7 })
        }
        2 => Content::Foundation(v1::Foundation::decode(input.rest()).unwrap_or_default()),
        3 => Content::Bundle(bundle(&[input.rest()], v1::Compression::None)),
        4 => Content::Bundle(bundle(&input.pieces(MESSAGES_MAX), v1::Compression::Zstd)),
        5 => {
            // A part of a bundle of one set, cut where the input says.
            let (index, count) = (u32::from(input.byte()), u32::from(input.byte()));
            Content::Part(v1::Part { index, count, data: input.rest().to_vec().into() })
        }
        6 => {
            // A bomb: the same again and again.
            let times = usize::from(input.byte()) * 256;
            let sets = vec![input.rest(); times.min(1 << 20) / (input.rest().len() + 1)];
            Content::Bundle(bundle(&sets, v1::Compression::Zstd))
        }
        _ => {
            let length = u64::from(input.byte()) << (input.byte() % 64);
            let sets = Bytes::copy_from_slice(input.rest());
            Content::Bundle(v1::Bundle { compression: v1::Compression::Zstd.into(), length, sets })
        }
    };
    v1::Envelope { version: VERSION, term: *term, content: Some(content) }.encode_to_vec()
}

fn bundle(sets: &[&[u8]], compression: v1::Compression) -> v1::Bundle {
    let sets = v1::ChangeSets { sets: sets.iter().map(|set| Bytes::copy_from_slice(set)).collect() }.encode_to_vec();
    let length = sets.len() as u64;
    let sets = match compression {
        v1::Compression::None => sets,
        v1::Compression::Zstd => zstd::bulk::compress(&sets, 1).expect("memory"),
    };
    v1::Bundle { compression: compression.into(), length, sets: sets.into() }
}

/// A manifest and the parts of its snapshot; checksums and lengths are made to fit.
pub(crate) fn snapshot(bytes: &[u8]) {
    wait(async {
        let (log, broker) = new_log().await;
        let pieces = Input::new(bytes).pieces(MESSAGES_MAX);
        let Some((manifest, parts)) = pieces.split_first() else { return };
        put(&broker, &Subject::snapshot("pointer"), manifest.to_vec()).await;
        let Ok(decoded) = v1::Manifest::decode(*manifest) else {
            assert!(pointer(&log).await.is_err());
            return;
        };
        let slot = decoded.id.chars().next().unwrap_or('a');
        for (number, part) in parts.iter().enumerate() {
            let mut input = Input::new(part);
            let kind = input.byte();
            let payload = match kind & 3 {
                0 => input.rest().to_vec(),
                kind => {
                    // A part of the same again and again, where the input says so.
                    let times = if kind == 3 { 1 + usize::from(input.byte()) * 16 } else { 1 };
                    let plain = input.rest().repeat(times);
                    v1::SnapshotPart {
                        version: VERSION,
                        length: plain.len() as u64,
                        records: zstd::bulk::compress(&plain, 1).expect("memory").into(),
                        check: xxhash_rust::xxh3::xxh3_64(&plain),
                        snapshot: decoded.id.clone(),
                        continued: kind == 2,
                    }
                    .encode_to_vec()
                }
            };
            put(&broker, &Subject::snapshot(&format!("{slot}.{number}")), payload).await;
        }
        let Ok(mut reader) = SnapshotReader::open(&log).await else { return };
        let manifest = reader.manifest().clone();
        while let Ok(Some(mut records)) = reader.next().await {
            while let Ok(Some((collection, key, row))) = records.advance() {
                let collection = &manifest.collections[collection];
                let _ = key::display(key);
                if let Ok(row) = Row::from_bytes(row) {
                    let _ = collection.schema.key_of(row.as_bytes(), 0);
                }
            }
        }
    });
}

/// A list of chunks, and chunks; hashes are made to fit where the input says so.
pub(crate) fn contents(bytes: &[u8]) {
    wait(async {
        let (log, broker) = new_log().await;
        let mut input = Input::new(bytes);
        let kind = input.byte();
        let pieces = input.pieces(MESSAGES_MAX);
        let Some((list, chunks)) = pieces.split_first() else { return };
        let hex = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut hashes = Vec::new();
        let mut whole = Vec::new();
        for chunk in chunks {
            let plain = match chunk.split_first() {
                Some((0, plain)) => plain,
                _ => chunk,
            };
            let hash = *blake3::hash(plain).as_bytes();
            whole.extend_from_slice(plain);
            hashes.push(hash);
            put(&broker, &Subject::snapshot(&format!("chunk.{}", hex(&hash))), chunk.to_vec()).await;
        }
        let mut large = large_of(&whole, false);
        // Long enough for a list.
        if kind & 1 == 0 {
            large = Large { length: large.length.max(u64::from(kind) << 16).max(1 << 17), ..large };
        }
        let list = match kind & 6 {
            0 => list.to_vec(),
            2 => list_of(&hashes, &[]),
            4 => list_of(&[], &hashes),
            _ => list_of(&hashes.repeat(usize::from(kind)), &[]),
        };
        put(&broker, &Subject::snapshot(&format!("value.{}", hex(&large.hash))), list).await;
        let Ok(mut fetch) = Fetch::begin(&log, &large, None).await else { return };
        let mut got = Vec::new();
        loop {
            match fetch.next().await {
                Ok(Some(chunk)) => got.extend_from_slice(&chunk),
                Ok(None) => {
                    break assert_eq!(large_of(&got, false), large, "what is read to its end is the very content");
                }
                Err(error) => break drop(error.to_string()),
            }
        }
    });
}

fn list_of(chunks: &[[u8; 32]], parts: &[[u8; 32]]) -> Vec<u8> {
    let all = |hashes: &[[u8; 32]]| hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
    v1::ChunkList { version: VERSION, chunks: all(chunks), parts: all(parts) }.encode_to_vec()
}

/// A question to a transmitter, a beat of one, the record of who is active, and what tells who is there.
pub(crate) fn control(bytes: &[u8]) {
    if let Some(question) = Question::from_bytes(bytes) {
        assert_eq!(question.to_bytes(), bytes);
    }
    wait(async {
        let (log, broker) = new_log().await;
        let mut reader = Reader::at(&log, Position::default());
        // To the end, so that it listens.
        let _ = reader.next().await;
        let _ = broker.beat(&source(), Bytes::copy_from_slice(bytes)).await;
        let _ = reader.next_stored().await;
        let beat = tokio::select! {
            biased;
            event = reader.next() => Some(event),
            () = std::future::ready(()) => None,
        };
        assert!(!matches!(beat, Some(Ok(Event::Set(_)))), "a beat brings no records");
        put(&broker, &Subject::snapshot("lease"), bytes.to_vec()).await;
        let mut watch = Watch::new(&log);
        let _ = watch.look().await;
        let _ = (watch.holder(), watch.has_run_out());
        let taken = Lease::take(&log, "another", watch.found()).await;
        assert!(matches!(taken, Ok(Some(_))), "whatever is there can be taken over");
        put(&broker, &Subject::snapshot("term"), bytes.to_vec()).await;
        // Whoever knows a place that the log doesn't have.
        let claimed = Writer::claim(&log, "another", Position { sequence: 99, ..Position::default() }).await;
        assert!(claimed.is_ok(), "whatever is there can be claimed");

        put(&broker, &Subject::snapshot("receivers"), bytes.to_vec()).await;
        let kept = standing::kept(&log).await.expect("what can't be read is an empty roll");
        assert!(kept.roll.iter().count() <= standing::RECEIVERS_MAX);
        standing::keep(&log, &kept.roll, &kept).await.expect("whatever is there can be replaced");
        let again = standing::kept(&log).await.expect("it was just kept");
        assert_eq!(again.roll, kept.roll);
        let mut calls = Calls::listen(&log).await.expect("it can be listened to");
        let mut answers = Answers::listen(&log).await.expect("it can be listened to");
        for word in [Word::Call, Word::Standing] {
            let _ = broker.say(&source(), word, Bytes::copy_from_slice(bytes)).await;
        }
        tokio::select! {
            biased;
            spread = calls.next() => assert!(spread.is_some_and(|spread| spread <= standing::SPREAD_MAX)),
            () = std::future::ready(()) => {}
        }
        tokio::select! {
            biased;
            said = answers.next() => assert!(said.is_some_and(|said| said.problem.len() <= standing::PROBLEM_BYTES_MAX)),
            () = std::future::ready(()) => {}
        }
    });
}
