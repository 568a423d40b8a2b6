//! Snapshots.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Stream, Subject};
use deltabus_bus::memory::{Availability, Fault, MemoryBroker};
use deltabus_bus::{Error, Log, Manifest, Position, SnapshotReader, SnapshotWriter, pointer};
use deltabus_record::change::ReverseCursor;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, ReceiverName, Schema};
use deltabus_record::value::{Kind, Value};

use crate::brokers::{on_each_broker, prepared};
use crate::log::claim;
use crate::sets::{noise, revision};

on_each_broker!(
    a_snapshot_reads_as_it_was_written,
    an_empty_state_has_a_snapshot_too,
    a_record_larger_than_a_message_is_put_together_again,
    there_is_none_before_the_first,
    an_interrupted_snapshot_leaves_the_one_before,
    whoever_reads_an_overwritten_one_is_told_to_start_over,
    one_who_was_replaced_cannot_finish,
    of_two_at_once_one_finishes,
);

type Record = (usize, Vec<u8>, Vec<u8>);

fn collections() -> Vec<Collection> {
    let mut dropped = Field::new("age", Some(Kind::Integer), 1);
    dropped.dropped = true;
    let fields = vec![Field::new("id", Some(Kind::Text), 0), dropped, Field::new("any", None, 1)];
    let keyed = Schema { fields: fields.clone(), key: KeySpec::Fields(vec![0]) };
    let whole = Schema { fields, key: KeySpec::WholeRow };
    vec![
        Collection { name: CollectionName::new("people"), schema: keyed },
        Collection { name: CollectionName::new("Ü, with spaces"), schema: whole },
    ]
}

fn records(count: usize, bytes: usize) -> Vec<Record> {
    (0..count)
        .map(|i| (i * 2 / count.max(1), format!("key {i}").into_bytes(), row(i as u64, (i * 31) % (bytes + 1))))
        .collect()
}

/// A row of some bytes.
fn row(seed: u64, bytes: usize) -> Vec<u8> {
    Row::of(&[Value::Bytes(noise(seed, bytes))]).as_bytes().to_vec()
}

fn position(number: u64) -> Position {
    Position { term: 1, revision: revision(1, number), ..Position::default() }
}

async fn begin(log: &Log, position: Position) -> SnapshotWriter {
    SnapshotWriter::begin(log, position, &collections(), position.revision.number).await.expect("it can begin")
}

async fn fill(writer: &mut SnapshotWriter, records: &[Record]) {
    for (collection, key, row) in records {
        if writer.push(*collection, key, row) {
            writer.flush().await.expect("it is sent");
        }
    }
}

async fn write(log: &Log, position: Position, records: &[Record]) -> Manifest {
    let mut writer = begin(log, position).await;
    fill(&mut writer, records).await;
    writer.finish(Vec::new()).await.expect("it is complete")
}

async fn read(log: &Log) -> Result<(Manifest, Vec<Record>), Error> {
    let mut reader = SnapshotReader::open(log).await?;
    let manifest = reader.manifest().clone();
    Ok((manifest, rest(&mut reader).await?))
}

async fn rest(reader: &mut SnapshotReader) -> Result<Vec<Record>, Error> {
    let mut found = Vec::new();
    while let Some(mut records) = reader.next().await? {
        while let Some((collection, key, row)) = records.advance()? {
            found.push((collection, key.to_vec(), row.to_vec()));
        }
    }
    Ok(found)
}

async fn a_snapshot_reads_as_it_was_written(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let records = records(4000, 2000);
    let mut writer = begin(&log, position(7)).await;
    fill(&mut writer, &records).await;
    let cursor = ReverseCursor::new(9, vec![(3, 3), (5, 7)]).expect("it makes sense");
    let cursors = vec![(ReceiverName::new("oslo").expect("a good name"), cursor)];
    let written = writer.finish(cursors.clone()).await.expect("it is complete");
    assert!(written.parts > 4, "{} parts", written.parts);
    let (manifest, found) = read(&log).await.expect("it can be read");
    assert_eq!(manifest, written);
    assert_eq!((manifest.position, manifest.cursors), (position(7), cursors));
    assert_eq!(manifest.collections, collections());
    assert!(found == records);
    assert_eq!(pointer(&log).await.expect("asked"), Some(written));
}

async fn an_empty_state_has_a_snapshot_too(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let written = write(&log, position(1), &[]).await;
    assert_eq!((written.parts, written.bytes), (0, 0));
    assert_eq!(read(&log).await.expect("it can be read"), (written, Vec::new()));
}

async fn a_record_larger_than_a_message_is_put_together_again(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let large = |seed, bytes| (0, format!("{seed}").into_bytes(), row(seed, bytes));
    let max = broker.payload_max();
    let records = [large(1, 10), large(2, 3 * max), large(3, max), large(4, 10), large(5, 2 * max)];
    write(&log, position(1), &records).await;
    let (_, found) = read(&log).await.expect("it can be read");
    assert!(found == records);
}

async fn there_is_none_before_the_first(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    assert_eq!(pointer(&log).await.expect("asked"), None);
    assert!(matches!(read(&log).await, Err(Error::NoSnapshot(source)) if source == *log.source()));
}

async fn an_interrupted_snapshot_leaves_the_one_before(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (old, new) = (records(3000, 1000), records(5000, 1000));
    for number in 1..=4 {
        let written = write(&log, position(number), &old).await;
        // Twice, so that whatever one leaves behind is met by the next.
        for _ in 0..2 {
            let mut interrupted = begin(&log, position(number + 1)).await;
            fill(&mut interrupted, &new).await;
            drop(interrupted);
        }
        assert!(read(&log).await.expect("it can be read") == (written, old.clone()), "{number}");
    }
}

async fn whoever_reads_an_overwritten_one_is_told_to_start_over(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    // More parts than are fetched ahead.
    let (old, new) = (records(12_000, 1000), records(11_000, 1000));
    write(&log, position(1), &old).await;
    let mut reader = SnapshotReader::open(&log).await.expect("it is there");
    assert!(reader.next().await.expect("it can be read").is_some());
    write(&log, position(2), &new).await;
    // The first is still whole.
    write(&log, position(3), &new).await;
    match rest(&mut reader).await {
        Err(error @ Error::SnapshotGone { .. }) => assert!(error.is_transient()),
        other => panic!("{:?}", other.map(|found| found.len())),
    }
    assert!(read(&log).await.expect("it can be read").1 == new);
}

async fn one_who_was_replaced_cannot_finish(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (first, _) = claim(&log, "first", Position::default()).await;
    let written = write(&log, Position { revision: revision(1, 1), ..first.position() }, &records(10, 10)).await;
    let mut late = begin(&log, Position { revision: revision(1, 2), ..first.position() }).await;
    fill(&mut late, &records(100, 10)).await;
    claim(&log, "second", first.position()).await;
    match late.finish(Vec::new()).await {
        Err(Error::Fenced { by, .. }) => assert_eq!(by, "second"),
        other => panic!("{other:?}"),
    }
    assert_eq!(read(&log).await.expect("it can be read"), (written, records(10, 10)));
}

async fn of_two_at_once_one_finishes(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let first = begin(&log, position(1)).await;
    let second = begin(&log, position(2)).await;
    let second = second.finish(Vec::new()).await.expect("it is complete");
    assert!(matches!(first.finish(Vec::new()).await, Err(Error::Fenced { .. })));
    assert_eq!(pointer(&log).await.expect("asked"), Some(second));
}

#[tokio::test]
async fn a_row_that_is_none_or_has_more_values_than_fields_is_refused() {
    for row in [b"\x7f".to_vec(), Row::of(&vec![Value::Null; 4]).as_bytes().to_vec()] {
        let (_, log) = on_memory().await;
        write(&log, position(1), &[(0, b"key".to_vec(), row)]).await;
        assert!(matches!(read(&log).await, Err(Error::Wire { what: "a snapshot", .. })));
    }
}

async fn on_memory() -> (MemoryBroker, Log) {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    (broker, log)
}

#[tokio::test]
async fn lost_acknowledgements_are_found_out() {
    let (broker, log) = on_memory().await;
    let records = records(3000, 1000);
    for number in 1..=6 {
        for fault in [Fault::LoseAck, Fault::LoseAppend, Fault::LoseAck] {
            broker.script(fault);
        }
        let written = write(&log, position(number), &records).await;
        broker.script(if number % 2 == 0 { Fault::LoseAck } else { Fault::LoseAppend });
        assert!(read(&log).await.expect("it can be read") == (written, records.clone()));
        // The pointer itself.
        let writer = begin(&log, position(number)).await;
        let written = writer.finish(Vec::new()).await.expect("it is complete");
        assert_eq!(pointer(&log).await.expect("asked"), Some(written));
    }
}

/// Nobody could join by it until the next one.
#[tokio::test]
async fn a_part_that_arrives_late_takes_no_place_in_a_finished_snapshot() {
    for earlier in [0, 2] {
        let (broker, log) = on_memory().await;
        for number in 1..=earlier {
            write(&log, position(number), &records(10, 10)).await;
        }
        // The writer gives up, and the next one takes the same places.
        broker.script(Fault::LateAppend);
        broker.script(Fault::Refuse);
        let mut given_up = begin(&log, position(earlier + 1)).await;
        fill(&mut given_up, &records(20, 10)).await;
        assert!(given_up.finish(Vec::new()).await.is_err());
        let written = write(&log, position(earlier + 2), &records(30, 10)).await;
        broker.arrive();
        assert_eq!(read(&log).await.expect("it can be read"), (written, records(30, 10)), "after {earlier}");
    }
}

/// Its term says so, though it looks at the log only now and then.
#[tokio::test]
async fn a_part_of_a_later_term_is_not_overwritten() {
    let (_, log) = on_memory().await;
    let mut replaced = begin(&log, position(1)).await;
    fill(&mut replaced, &records(20, 10)).await;
    let written = write(&log, Position { term: 2, ..position(2) }, &records(30, 10)).await;
    assert!(matches!(replaced.finish(Vec::new()).await, Err(Error::Fenced { .. })));
    assert_eq!(read(&log).await.expect("it can be read"), (written, records(30, 10)));
}

#[tokio::test]
async fn a_snapshot_that_could_not_be_sent_is_an_error() {
    let (broker, log) = on_memory().await;
    let mut writer = begin(&log, position(1)).await;
    fill(&mut writer, &records(100, 1000)).await;
    broker.set_available(Availability::Down);
    assert!(writer.finish(Vec::new()).await.is_err_and(|error| error.is_transient()));
    broker.set_available(Availability::Up);
    assert!(matches!(read(&log).await, Err(Error::NoSnapshot(_))));
}

#[tokio::test]
async fn damaged_parts_are_never_taken() {
    let (broker, log) = on_memory().await;
    let records = records(500, 400);
    let manifest = write(&log, position(1), &records).await;
    let part = Subject::snapshot("a.0");
    let whole = broker.last(log.source(), &part).await.expect("asked").expect("it is there").payload;
    assert_eq!(manifest.parts, 1);
    for at in (0..whole.len()).step_by(97).chain([0, 1, 2, whole.len() - 1]) {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 0x10;
        for payload in [damaged, whole[..at].to_vec()] {
            broker.append(log.source(), &part, Bytes::from(payload), Expect::Any).await.expect("it is stored");
            if let Ok((_, found)) = read(&log).await {
                assert!(found == records, "damaged at {at}");
            }
        }
    }
    broker.cut(log.source(), Stream::Snapshot, 2);
    assert!(matches!(read(&log).await, Err(Error::SnapshotGone { part: 0, .. })));
}
