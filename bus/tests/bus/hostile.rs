//! What somebody puts on the log, among snapshots or reverse sets who may, and shouldn't: it is passed over, and all else goes on.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Stream, Subject};
use deltabus_bus::{
    Accepted, Entry, Error, Event, Log, Position, Reader, SnapshotReader, SnapshotWriter, Writer, history,
};
use deltabus_proto::v1;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema, SourceName};
use deltabus_record::value::{Kind, Value};
use prost::Message;

use crate::brokers::{on_each_broker, prepared};
use crate::log::envelope;
use crate::sets::{chain, encoded, noise, revision};

on_each_broker!(
    garbage_on_the_log_stops_no_reader_and_no_writer,
    a_claim_once_more_replaces_nobody,
    sets_of_a_term_that_nobody_claimed_fence_nobody,
    a_newer_version_counts_only_where_nothing_known_follows,
    a_damaged_snapshot_says_which_part_and_another_heals_it,
    a_snapshot_of_another_source_leads_nowhere,
);

/// Messages as somebody could make them who can publish to the log, of the term that is current.
fn garbage(term: u64) -> Vec<Bytes> {
    let bundle = |compression: v1::Compression, length, sets: Vec<u8>| {
        let bundle = v1::Bundle { compression: compression.into(), length, sets: sets.into() };
        envelope(term, v1::envelope::Content::Bundle(bundle))
    };
    let good = encoded(9, 1, 20).1.0;
    let sets = |sets: Vec<Bytes>| v1::ChangeSets { sets }.encode_to_vec();
    let cut = sets(vec![good.clone(), good.slice(..good.len() / 2)]);
    let part = |index, count| {
        let part = v1::Part { index, count, data: Bytes::from(noise(7, 100)) };
        envelope(term, v1::envelope::Content::Part(part))
    };
    let bomb = zstd::bulk::compress(&vec![0; 30_000_000], 3).expect("it can be compressed");
    vec![
        Bytes::new(),
        Bytes::from(noise(1, 300)),
        Bytes::from_static(b"{}"),
        v1::Envelope { version: 1, term, content: None }.encode_to_vec().into(),
        v1::Envelope { version: 0, term: u64::MAX, content: None }.encode_to_vec().into(),
        bundle(v1::Compression::None, 5, noise(2, 200)),
        bundle(v1::Compression::Zstd, 30_000_000, bomb),
        bundle(v1::Compression::None, cut.len() as u64, cut),
        part(1, 2),
        part(0, 1),
        part(0, u32::MAX),
    ]
}

async fn put(log: &Log, subject: &Subject, payload: Bytes) {
    log.broker().append(log.source(), subject, payload, Expect::Any).await.expect("it is stored");
}

/// The numbers of all sets from the beginning to the end as it stands.
async fn numbers(log: &Log) -> Vec<u64> {
    let mut reader = Reader::at(log, Position::default());
    let mut found = Vec::new();
    loop {
        match reader.next_stored().await.expect("it can be read") {
            Event::Set(set) => found.push(set.set.next.number),
            Event::CaughtUp(_) => return found,
            Event::Rejoin(reason) => panic!("{reason}"),
        }
    }
}

async fn garbage_on_the_log_stops_no_reader_and_no_writer(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = Writer::claim(&log, "t", Position::default()).await.expect("claimed");
    writer.publish(&chain(1, 0, 1)).await.expect("published");
    // One that follows live meets it too.
    let mut live = Reader::at(&log, Position::default());
    let Event::Set(_) = live.next().await.expect("read") else { panic!("a set is there") };
    let Event::CaughtUp(_) = live.next().await.expect("read") else { panic!("it is the end") };
    for (at, message) in garbage(writer.term()).into_iter().enumerate() {
        let number = at as u64 + 2;
        put(&log, &Subject::changes(), message).await;
        assert_eq!(numbers(&log).await, (1..number).collect::<Vec<_>>(), "message {at}");
        // The writer is told, and that it is not replaced; it claims again and goes on with what it has.
        let next = chain(1, number - 1, number);
        let told = writer.publish(&next).await;
        assert!(matches!(told, Err(Error::Disturbed { .. })), "message {at}: {told:?}");
        assert!(matches!(writer.confirm().await, Err(Error::Disturbed { .. })));
        let (again, accepted) = Writer::claim(&log, "t", writer.position()).await.expect("claimed");
        assert!(
            matches!(accepted, Accepted::Sets { revision: at, .. } if at == revision(1, number - 1)),
            "{accepted:?}"
        );
        writer = again;
        writer.publish(&next).await.expect("published");
        loop {
            match live.next().await.expect("read") {
                Event::Set(set) => break assert_eq!(set.set.next.number, number),
                Event::CaughtUp(_) => {}
                Event::Rejoin(reason) => panic!("{reason}"),
            }
        }
    }
    let mut told = Vec::new();
    let mut take = |entry| match entry {
        Entry::Set(set) => told.push(set.set.next.number),
        Entry::Foundation { .. } => panic!("there is none"),
    };
    history(&log, &mut take).await.expect("the history can be read");
    assert_eq!(told, numbers(&log).await);
}

async fn a_claim_once_more_replaces_nobody(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (writer, _) = Writer::claim(&log, "t", Position::default()).await.expect("claimed");
    let claim = broker.last(log.source(), &Subject::changes()).await.expect("asked").expect("it is there").payload;
    put(&log, &Subject::changes(), claim).await;
    assert!(matches!(writer.confirm().await, Err(Error::Disturbed { .. })));
    let (_next, _) = Writer::claim(&log, "another", writer.position()).await.expect("claimed");
    assert!(matches!(writer.confirm().await, Err(Error::Fenced { by, .. }) if by == "another"));
}

async fn sets_of_a_term_that_nobody_claimed_fence_nobody(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = Writer::claim(&log, "t", Position::default()).await.expect("claimed");
    writer.publish(&chain(1, 0, 1)).await.expect("published");
    let sets = v1::ChangeSets { sets: vec![encoded(1, 2, 20).1.0] }.encode_to_vec();
    let (length, compression) = (sets.len() as u64, v1::Compression::None.into());
    let bundle = v1::Bundle { compression, length, sets: sets.into() };
    put(&log, &Subject::changes(), envelope(writer.term() + 5, v1::envelope::Content::Bundle(bundle))).await;
    assert!(matches!(writer.confirm().await, Err(Error::Disturbed { .. })));
    // The next claim is above it: nobody can take it for a set of that term.
    let (next, _) = Writer::claim(&log, "t", writer.position()).await.expect("claimed");
    assert!(next.term() > writer.term() + 5);
    assert!(matches!(writer.confirm().await, Err(Error::Fenced { by, .. }) if by == "t"));
}

async fn a_newer_version_counts_only_where_nothing_known_follows(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = Writer::claim(&log, "t", Position::default()).await.expect("claimed");
    writer.publish(&chain(1, 0, 1)).await.expect("published");
    let newer = v1::Envelope { version: 2, term: writer.term(), content: None }.encode_to_vec();
    put(&log, &Subject::changes(), newer.into()).await;
    let mut reader = Reader::at(&log, Position::default());
    assert!(matches!(reader.next_stored().await, Ok(Event::Set(_))));
    assert!(matches!(reader.next_stored().await, Err(Error::Newer { version: 2, .. })));
    let sets = v1::ChangeSets { sets: vec![encoded(1, 2, 20).1.0] }.encode_to_vec();
    let (length, compression) = (sets.len() as u64, v1::Compression::None.into());
    let bundle = v1::Bundle { compression, length, sets: sets.into() };
    put(&log, &Subject::changes(), envelope(writer.term(), v1::envelope::Content::Bundle(bundle))).await;
    assert_eq!(numbers(&log).await, [1, 2]);
}

fn people() -> Collection {
    let fields = vec![Field::new("id", Some(Kind::Integer), 0), Field::new("note", Some(Kind::Bytes), 1)];
    Collection { name: CollectionName::new("people"), schema: Schema { fields, key: KeySpec::Fields(vec![0]) } }
}

/// Writes a snapshot of so many records; each part holds one.
async fn snapshot(log: &Log, position: Position, records: u64, time_millis: u64) {
    let mut writer = SnapshotWriter::begin(log, position, &[people()], time_millis).await.expect("begun");
    for number in 0..records {
        let id = Value::Integer(number as i64);
        let row = Row::of(&[id.clone(), Value::Bytes(noise(number, 1000))]);
        writer.push(0, Key::of(&[id]).as_bytes(), row.as_bytes());
        writer.flush().await.expect("sent");
    }
    writer.finish(Vec::new()).await.expect("finished");
}

/// How many records the newest snapshot has.
async fn records(log: &Log) -> Result<u64, Error> {
    let mut reader = SnapshotReader::open(log).await?;
    let mut found = 0;
    while let Some(mut records) = reader.next().await? {
        while records.advance()?.is_some() {
            found += 1;
        }
    }
    Ok(found)
}

async fn a_damaged_snapshot_says_which_part_and_another_heals_it(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (writer, _) = Writer::claim(&log, "t", Position::default()).await.expect("claimed");
    snapshot(&log, writer.position(), 4, 1).await;
    let second = Subject::snapshot("a.2");
    let whole = broker.last(log.source(), &second).await.expect("asked").expect("it is there").payload;
    let mut part = v1::SnapshotPart::decode(whole.clone()).expect("a part");
    part.check ^= 1;
    let mut cut = whole.to_vec();
    cut.truncate(whole.len() / 2);
    for damaged in [part.encode_to_vec(), cut, noise(3, 500), Vec::new()] {
        put(&log, &second, damaged.into()).await;
        let refused = records(&log).await;
        match refused {
            Err(error @ Error::SnapshotDamaged { part: 2, .. }) => assert!(error.is_transient()),
            other => panic!("{other:?}"),
        }
    }
    snapshot(&log, writer.position(), 5, 2).await;
    assert_eq!(records(&log).await.expect("another is whole"), 5);
    // So is the one after a pointer of garbage.
    put(&log, &Subject::snapshot("pointer"), Bytes::from(noise(4, 100))).await;
    assert!(records(&log).await.is_err());
    snapshot(&log, writer.position(), 6, 3).await;
    assert_eq!(records(&log).await.expect("it is the newest"), 6);
}

async fn a_snapshot_of_another_source_leads_nowhere(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let other = Log::new(broker.clone(), SourceName::new("others").expect("a good name"));
    other.prepare().await.expect("made");
    for (log, history) in [(&log, 1), (&other, 2)] {
        let (mut writer, _) = Writer::claim(log, "t", Position::default()).await.expect("claimed");
        writer.publish(&chain(history, 0, 3)).await.expect("published");
        snapshot(log, writer.position(), 3, 1).await;
        writer.publish(&chain(history, 3, 5)).await.expect("published");
    }
    for stored in broker.read(other.source(), Stream::Snapshot, 1, 1 << 20).await.expect("read") {
        let tail = stored.tail.strip_prefix("snapshot.").expect("a snapshot").to_owned();
        put(&log, &Subject::snapshot(&tail), stored.payload).await;
    }
    let reader = SnapshotReader::open(&log).await.expect("it looks like one");
    let event = Reader::at(&log, reader.manifest().position).next_stored().await.expect("read");
    assert!(matches!(event, Event::Rejoin(_)), "{event:?}");
}
