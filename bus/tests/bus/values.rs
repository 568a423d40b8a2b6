//! Large values.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Stream, Subject};
use deltabus_bus::memory::{Fault, MemoryBroker};
use deltabus_bus::{Error, large_of};
use deltabus_record::value::Value;

use crate::brokers::{on_each_broker, prepared};
use crate::sets::noise;

on_each_broker!(
    what_is_put_is_got,
    what_is_there_is_not_sent_again,
    what_is_missing_is_named,
    a_reference_that_lies_is_refused,
);

async fn stored(broker: &Arc<dyn Broker>) -> u64 {
    let extent = broker.extent(&crate::brokers::source("people"), Stream::Snapshot).await.expect("asked");
    extent.expect("it is there").last
}

async fn what_is_put_is_got(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for bytes in [0, 1, 1000, 100_000, 3_000_000] {
        let content = noise(bytes as u64, bytes);
        let large = log.put_large(&content, false).await.expect("it is stored");
        assert_eq!(large, large_of(&content, false));
        assert_eq!(log.get_large(&large).await.expect("it is there"), Value::Bytes(content));
    }
    let text = "Grüße ".repeat(50_000);
    let large = log.put_large(text.as_bytes(), true).await.expect("it is stored");
    assert_eq!(log.get_large(&large).await.expect("it is there"), Value::Text(text));
}

async fn what_is_there_is_not_sent_again(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let mut content = noise(1, 2_000_000);
    log.put_large(&content, false).await.expect("it is stored");
    let before = stored(&broker).await;
    log.put_large(&content, false).await.expect("it is stored");
    assert_eq!(stored(&broker).await, before);
    // Something put in moves everything behind it; only the chunks around it are new.
    content.splice(1_000_000..1_000_000, noise(2, 500));
    let large = log.put_large(&content, false).await.expect("it is stored");
    let new = stored(&broker).await - before;
    assert!((2..=6).contains(&new), "{new} of {before} messages are new");
    assert_eq!(log.get_large(&large).await.expect("it is there"), Value::Bytes(content));
}

async fn what_is_missing_is_named(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let large = large_of(b"never put", false);
    let missing = log.get_large(&large).await;
    let hash: String = large.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(matches!(missing, Err(Error::ChunkMissing { hash: named }) if named == hash));
}

async fn a_reference_that_lies_is_refused(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let large = log.put_large(&noise(1, 100_000), false).await.expect("it is stored");
    for length in [0, 99_999, 100_001, u64::MAX] {
        let mut lying = large.clone();
        lying.length = length;
        assert!(matches!(log.get_large(&lying).await, Err(Error::Wire { .. })), "{length}");
    }
    let mut text = large.clone();
    text.text = true;
    assert!(matches!(log.get_large(&text).await, Err(Error::Wire { .. })), "it is no text");
}

#[tokio::test]
async fn lost_acknowledgements_and_damaged_chunks() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let content = noise(1, 300_000);
    for fault in [Fault::LoseAck, Fault::LoseAppend, Fault::LoseAck] {
        broker.script(fault);
    }
    let large = log.put_large(&content, false).await.expect("it is stored");
    assert_eq!(log.get_large(&large).await.expect("it is there"), Value::Bytes(content));
    // The first message is a chunk; its name is its content's hash.
    let chunk = broker.read(log.source(), Stream::Snapshot, 1, 1).await.expect("asked").remove(0);
    let subject = Subject { stream: Stream::Snapshot, tail: chunk.tail };
    let whole = chunk.payload;
    for at in (0..whole.len()).step_by(999).chain([0, 1, 8]) {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 1;
        broker.append(log.source(), &subject, Bytes::from(damaged), Expect::Any).await.expect("it is stored");
        assert!(log.get_large(&large).await.is_err(), "damaged at {at}");
    }
}
