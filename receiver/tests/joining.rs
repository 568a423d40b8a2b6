//! Joining by snapshot, on a memory bus.

use std::path::Path;
use std::sync::Arc;

use deltabus_bus::broker::Stream;
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{Log, Position, SnapshotWriter, Writer, encode_set};
use deltabus_interfaces::Location;
use deltabus_receiver::{Config, Error, Receiver};
use deltabus_record::change::{ChangeSet, Revision};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::Value;
use deltabus_state::StateDirectory;

fn people() -> Collection {
    let fields = vec![Field::new("id", None, 0)];
    Collection { name: CollectionName::new("people"), schema: Schema { fields, key: KeySpec::Fields(vec![0]) } }
}

/// A set that changes nothing.
fn set(base: u64) -> ChangeSet {
    let revision = |number| Revision { number, ..Revision::default() };
    let (base, next) = (revision(base), revision(base + 1));
    ChangeSet { base, next, time_millis: 0, transactions: Vec::new(), replies: Vec::new() }
}

/// It joined again and again without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_which_the_log_leads_nowhere_is_an_error() {
    let broker = MemoryBroker::new();
    let log = Log::new(Arc::new(broker.clone()), "people".parse().unwrap());
    log.prepare().await.unwrap();
    let (mut writer, _) = Writer::claim(&log, "t", Position::default()).await.unwrap();
    let snapshot = SnapshotWriter::begin(&log, writer.position(), &[people()], 0).await.unwrap();
    snapshot.finish(Vec::new()).await.unwrap();
    for base in 0..3 {
        writer.publish(&[(set(base).next, encode_set(&set(base)))]).await.unwrap();
    }
    broker.trim(log.source(), Stream::Changes, 4);

    let folder = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(folder.path().join("state")).unwrap();
    let location = format!("csv:{}?key=id", folder.path().join("people.csv").display());
    let config = Config::new(log.source().clone(), Location::parse(&location).unwrap(), "a".parse().unwrap());
    let interface = deltabus_interfaces::open(&config.location).unwrap();
    let mut receiver = Receiver::with_interface(config, interface.into(), log, &state).unwrap();
    let failed = receiver.receive_once().await.unwrap_err();
    assert!(matches!(failed, Error::Behind { revision: 0, .. }), "{failed}");
    assert!(failed.is_passing());
}

/// More than is taken in and written by one thread alone.
const MANY: u32 = 40_000;

/// A log whose snapshot has many records, and says that they add up to `digest`, or to what they do.
async fn many(digest: Option<Digest>) -> Log {
    let log = Log::new(Arc::new(MemoryBroker::new()), "people".parse().unwrap());
    log.prepare().await.unwrap();
    let (writer, _) = Writer::claim(&log, "t", Position::default()).await.unwrap();
    let people = people();
    let hasher = RecordHasher::new(&people.name);
    let mut sum = Digest::default();
    let records: Vec<_> = (0..MANY)
        .map(|id| {
            let row = Row::of(&[Value::text(format!("{id:0100}"))]);
            (people.schema.key_of(row.as_bytes(), 0), row)
        })
        .collect();
    for (key, row) in &records {
        sum.add(hasher.hash(key.as_bytes(), row.as_bytes()));
    }
    let revision = Revision { number: 1, digest: digest.unwrap_or(sum) };
    let position = Position { revision, ..writer.position() };
    let mut snapshot = SnapshotWriter::begin(&log, position, &[people], 0).await.unwrap();
    for (key, row) in &records {
        if snapshot.push(0, key.as_bytes(), row.as_bytes()) {
            snapshot.flush().await.unwrap();
        }
    }
    let manifest = snapshot.finish(Vec::new()).await.unwrap();
    assert!(manifest.parts > 4);
    log
}

async fn join(log: &Log, folder: &Path, location: &str) -> Result<deltabus_receiver::Round, Error> {
    let state = StateDirectory::open(folder.join("state")).unwrap();
    let config = Config::new(log.source().clone(), Location::parse(location).unwrap(), "a".parse().unwrap());
    let interface = deltabus_interfaces::open(&config.location).unwrap();
    let mut receiver = Receiver::with_interface(config, interface.into(), log.clone(), &state).unwrap();
    receiver.receive_once().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_records_of_a_large_snapshot_arrive() {
    let log = many(None).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.csv");
    let round = join(&log, folder.path(), &format!("csv:{}?key=id", file.display())).await.unwrap();
    assert!(round.joined);
    assert_eq!(round.changes, u64::from(MANY));
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<&str> = text.lines().skip(1).collect();
    lines.sort_unstable();
    let wanted: Vec<String> = (0..MANY).map(|id| format!("{id:0100}")).collect();
    assert!(lines == wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_snapshot_that_is_not_what_it_says_reaches_no_destination() {
    let log = many(Some(Digest { records: MANY.into(), sum: 7 })).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.csv");
    let failed = join(&log, folder.path(), &format!("csv:{}?key=id", file.display())).await.unwrap_err();
    assert!(matches!(failed, Error::Digest { revision: 1, .. }), "{failed}");
    assert!(!file.exists());
}
