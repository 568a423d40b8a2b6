//! Joining by snapshot, on a memory bus.

use std::sync::Arc;

use deltabus_bus::broker::Stream;
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{Log, Position, SnapshotWriter, Writer, encode_set};
use deltabus_interfaces::Location;
use deltabus_receiver::{Config, Error, Receiver};
use deltabus_record::change::{ChangeSet, Revision};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
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
