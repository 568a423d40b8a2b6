//! What lies on the bus and shouldn't: a receiver passes over it, or waits and says why; its destination is left alone.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Subject};
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{EncodedSet, Error as BusError, Log, Position, SnapshotWriter, Writer, encode_set};
use deltabus_interfaces::Location;
use deltabus_receiver::{Config, Error, Receiver};
use deltabus_record::change::{Change, ChangeSet, CollectionChanges, Revision, Transaction};
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use deltabus_state::StateDirectory;

/// A source of records `1`, `2` … on a memory bus, written without a transmitter, and one receiver.
struct World {
    folder: tempfile::TempDir,
    log: Log,
    writer: Writer,
    reached: Revision,
}

impl World {
    async fn new() -> World {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let log = Log::new(broker, "people".parse().unwrap());
        log.prepare().await.unwrap();
        let (writer, _) = Writer::claim(&log, "t", Position::default()).await.unwrap();
        let mut world = World { folder: tempfile::tempdir().unwrap(), log, writer, reached: Revision::default() };
        world.snapshot(0).await;
        world
    }

    async fn snapshot(&mut self, time_millis: u64) {
        let position = Position { revision: self.reached, ..self.writer.position() };
        let mut snapshot = SnapshotWriter::begin(&self.log, position, &[people()], time_millis).await.unwrap();
        for number in 1..=self.reached.number {
            let (key, row) = record(number);
            snapshot.push(0, key.as_bytes(), row.as_bytes());
        }
        snapshot.finish(Vec::new()).await.unwrap();
    }

    /// The set with the next record.
    fn next(&self) -> (Revision, EncodedSet, Revision) {
        let (key, row) = record(self.reached.number + 1);
        let mut digest = self.reached.digest;
        digest.add(RecordHasher::new(&people().name).hash(key.as_bytes(), row.as_bytes()));
        let next = Revision { number: self.reached.number + 1, digest };
        (next, set(self.reached, next, key, row), self.reached)
    }

    async fn publish(&mut self) {
        let (next, set, _) = self.next();
        self.writer.publish(&[(next, set)]).await.unwrap();
        self.reached = next;
    }

    async fn put(&self, subject: &Subject, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        self.log.broker().append(self.log.source(), subject, payload, Expect::Any).await.unwrap();
    }

    async fn claim(&mut self) {
        self.writer = Writer::claim(&self.log, "t", self.writer.position()).await.unwrap().0;
        self.writer.go_on_from(self.reached);
    }

    async fn receive(&self) -> Result<u64, Error> {
        let state = StateDirectory::open(self.folder.path().join("state")).unwrap();
        let location = format!("csv:{}?key=id", self.folder.path().join("people.csv").display());
        let config = Config::new(self.log.source().clone(), Location::parse(&location).unwrap(), "a".parse().unwrap());
        let interface = deltabus_interfaces::open(&config.location).unwrap();
        let mut receiver = Receiver::with_interface(config, interface.into(), self.log.clone(), &state).unwrap();
        receiver.receive_once().await.map(|round| round.revision)
    }

    fn destination(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("people.csv")).ok()
    }
}

fn people() -> Collection {
    let fields = vec![Field::new("id", Some(Kind::Integer), 0)];
    Collection { name: CollectionName::new("people"), schema: Schema { fields, key: KeySpec::Fields(vec![0]) } }
}

fn record(number: u64) -> (Key, Row) {
    let values = [Value::Integer(number as i64)];
    (Key::of(&values), Row::of(&values))
}

fn set(base: Revision, next: Revision, key: Key, row: Row) -> EncodedSet {
    let changes = CollectionChanges { collection: people().name, changes: vec![Change::Insert { key, row }] };
    let transactions = vec![Transaction { schemas: Vec::new(), collections: vec![changes] }];
    encode_set(&ChangeSet { base, next, time_millis: 0, transactions, replies: Vec::new() })
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_log_is_passed_over() {
    let mut world = World::new().await;
    for number in 1..4 {
        world.publish().await;
        for garbage in [&b""[..], b"\xff\xff\xff\xff", b"{}", &[0xff; 500]] {
            world.put(&Subject::changes(), garbage).await;
        }
        assert_eq!(world.receive().await.unwrap(), number);
        world.claim().await;
    }
    assert_eq!(world.destination().unwrap(), "id\n1\n2\n3\n");
}

/// The digest of the state is in every set: a set of somebody who doesn't know the source can't have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_leads_elsewhere_than_it_says_reaches_no_destination() {
    let mut world = World::new().await;
    world.publish().await;
    assert_eq!(world.receive().await.unwrap(), 1);
    let (next, _, base) = world.next();
    let (key, row) = record(666);
    let forged = set(base, next, key, row);
    world.writer.publish(&[(next, forged)]).await.unwrap();
    let waits = world.receive().await.unwrap_err();
    assert!(matches!(waits, Error::Behind { .. }) && waits.is_passing(), "{waits}");
    assert_eq!(world.destination().unwrap(), "id\n1\n");
    // What the source's own transmitter does about it: another claim, a snapshot, a foundation.
    world.claim().await;
    world.reached.number = next.number + 1;
    let (key, row) = record(1);
    let digest = Digest { records: 1, sum: world.reached.digest.sum };
    assert_eq!(digest, world.reached.digest);
    let position = Position { revision: world.reached, ..world.writer.position() };
    let mut snapshot = SnapshotWriter::begin(&world.log, position, &[people()], 1).await.unwrap();
    snapshot.push(0, key.as_bytes(), row.as_bytes());
    let manifest = snapshot.finish(Vec::new()).await.unwrap();
    world.writer.found(&manifest.id, world.reached, 1).await.unwrap();
    assert_eq!(world.receive().await.unwrap(), world.reached.number);
    assert_eq!(world.destination().unwrap(), "id\n1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_makes_no_destination_and_the_next_one_does() {
    let mut world = World::new().await;
    world.publish().await;
    world.publish().await;
    world.snapshot(1).await;
    let part = Subject::snapshot("b.0");
    let whole = world.log.broker().last(world.log.source(), &part).await.unwrap().expect("it is there").payload;
    let mut damaged = whole.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    for damaged in [&damaged[..], b"", b"garbage"] {
        world.put(&part, damaged).await;
        let waits = world.receive().await.unwrap_err();
        assert!(
            matches!(waits, Error::Bus(BusError::SnapshotDamaged { part: 0, .. })) && waits.is_passing(),
            "{waits}"
        );
        assert_eq!(world.destination(), None);
    }
    world.put(&Subject::snapshot("pointer"), b"\xff\xffgarbage").await;
    assert!(world.receive().await.unwrap_err().is_passing());
    world.snapshot(2).await;
    assert_eq!(world.receive().await.unwrap(), 2);
    assert_eq!(world.destination().unwrap(), "id\n1\n2\n");
}
