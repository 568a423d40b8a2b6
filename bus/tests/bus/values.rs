//! Large values.

use std::io::{Cursor, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Stream, Subject};
use deltabus_bus::contents::{Fetch, Sender};
use deltabus_bus::memory::{Fault, MemoryBroker};
use deltabus_bus::{Contents, Error, Log, large_of};
use deltabus_record::value::Large;

use crate::brokers::{on_each_broker, prepared};
use crate::sets::noise;

on_each_broker!(
    what_is_kept_is_fetched,
    what_is_there_is_not_sent_again,
    an_edit_in_a_long_value_costs_a_few_messages,
    many_small_values_go_together,
    what_is_missing_is_named,
    a_reference_that_lies_is_refused,
    a_value_that_changes_meanwhile_is_refused,
    what_a_similar_file_has_is_not_fetched,
);

async fn stored(broker: &Arc<dyn Broker>) -> u64 {
    let extent = broker.extent(&crate::brokers::source("people"), Stream::Snapshot).await.expect("asked");
    extent.expect("it is there").last
}

async fn keep(log: &Log, content: &[u8]) -> Large {
    let large = large_of(content, false);
    let mut sender = Sender::new(log.clone());
    sender.keep(&large, || Ok(content)).await.expect("it is sent");
    sender.flush().await.expect("it is stored");
    large
}

async fn fetch(log: &Log, large: &Large) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let mut fetch = Fetch::begin(log, large, None).await?;
    while let Some(chunk) = fetch.next().await? {
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

async fn what_is_kept_is_fetched(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for bytes in [0, 1, 1000, 65_536, 65_537, 100_000, 3_000_000] {
        let content = noise(bytes as u64, bytes);
        let large = keep(&log, &content).await;
        assert_eq!(fetch(&log, &large).await.expect("it is there"), content, "{bytes}");
    }
}

async fn what_is_there_is_not_sent_again(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for bytes in [1000, 2_000_000] {
        let content = noise(1, bytes);
        let large = keep(&log, &content).await;
        let before = stored(&broker).await;
        keep(&log, &content).await;
        assert_eq!(stored(&broker).await, before);
        // Nor is it read again.
        let mut sender = Sender::new(log.clone());
        let unread = || -> std::io::Result<&[u8]> { panic!("it is there already") };
        sender.keep(&large, unread).await.expect("it is there");
    }
}

async fn an_edit_in_a_long_value_costs_a_few_messages(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    // Long enough for a list in parts.
    let mut content = noise(1, 40_000_000);
    keep(&log, &content).await;
    let before = stored(&broker).await;
    // Something put in moves everything behind it; only the chunks around it are new, and their part of the list.
    content.splice(10_000_000..10_000_000, noise(2, 500));
    let large = keep(&log, &content).await;
    let new = stored(&broker).await - before;
    assert!((3..=9).contains(&new), "{new} of {before} messages are new");
    assert_eq!(fetch(&log, &large).await.expect("it is there"), content);
}

async fn many_small_values_go_together(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let mut sender = Sender::new(log.clone());
    let contents: Vec<_> = (0..2_500).map(|seed| noise(seed, 500 + seed as usize % 3_000)).collect();
    let mut larges = Vec::new();
    for content in &contents {
        let large = large_of(content, false);
        sender.keep(&large, || Ok(content.as_slice())).await.expect("it is sent");
        larges.push(large);
    }
    sender.flush().await.expect("they are stored");
    assert_eq!(stored(&broker).await, contents.len() as u64);
    // A sender that knows nothing of the first finds them all, without asking after each.
    let mut again = Sender::new(log.clone());
    for (large, content) in larges.iter().zip(&contents) {
        again.keep(large, || Ok(content.as_slice())).await.expect("it is there");
    }
    again.flush().await.expect("nothing is to be stored");
    assert_eq!(stored(&broker).await, contents.len() as u64);
    let runtime = tokio::runtime::Handle::current();
    let read = move || {
        let fetched = Contents::new(log, runtime);
        fetched.announce(larges.clone());
        for (large, content) in larges.iter().zip(&contents) {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut fetched.read(large, None).expect("it is there"), &mut bytes)
                .expect("whole");
            assert_eq!(bytes, *content);
        }
        // What was not announced is fetched all the same.
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut fetched.read(&larges[3], None).expect("it is there"), &mut bytes)
            .expect("whole");
        assert_eq!(bytes, contents[3]);
    };
    tokio::task::spawn_blocking(read).await.expect("all are read");
}

async fn what_is_missing_is_named(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for content in [b"never put".to_vec(), noise(1, 100_000)] {
        let large = large_of(&content, false);
        let missing = fetch(&log, &large).await;
        let hash: String = large.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(matches!(missing, Err(Error::ChunkMissing { hash: named }) if named == hash));
    }
}

async fn a_reference_that_lies_is_refused(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let large = keep(&log, &noise(1, 100_000)).await;
    for length in [99_999, 100_001, u64::MAX] {
        let lying = Large { length, ..large.clone() };
        assert!(matches!(fetch(&log, &lying).await, Err(Error::Wire { .. })), "{length}");
    }
    let small = keep(&log, &noise(1, 1000)).await;
    for length in [0, 999, 1001] {
        let lying = Large { length, ..small.clone() };
        let fetched = fetch(&log, &lying).await;
        // Of nothing there is nothing to compare.
        assert!(length == 0 || matches!(fetched, Err(Error::Wire { .. })), "{length}");
    }
}

async fn a_value_that_changes_meanwhile_is_refused(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for bytes in [1000, 1_000_000] {
        let large = large_of(&noise(1, bytes), false);
        for other in [noise(2, bytes), noise(1, bytes - 1), noise(1, bytes + 1)] {
            let mut sender = Sender::new(log.clone());
            let kept = sender.keep(&large, || Ok(Cursor::new(other))).await;
            assert!(matches!(kept, Err(Error::ContentChanged { .. })));
            assert!(fetch(&log, &large).await.is_err(), "nothing stands for it");
        }
    }
}

async fn what_a_similar_file_has_is_not_fetched(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let mut content = noise(1, 2_000_000);
    let mut old = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    old.write_all(&content).expect("it can be written");
    content.splice(1_000_000..1_000_000, noise(2, 500));
    let large = keep(&log, &content).await;
    // Whatever the file has in common is not needed any more.
    let tails = broker.tails(log.source(), Stream::Snapshot, "snapshot.chunk").await.expect("asked");
    let mut needed = Vec::new();
    for tail in &tails {
        let subject = Subject { stream: Stream::Snapshot, tail: tail.clone() };
        let chunk = broker.last(log.source(), &subject).await.expect("asked").expect("it is there");
        broker.append(log.source(), &subject, Bytes::from_static(b"\xffdamaged"), Expect::Any).await.expect("stored");
        let mut fetch = Fetch::begin(&log, &large, Some(old.path())).await.expect("the list is there");
        let mut whole = true;
        loop {
            match fetch.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        if !whole {
            needed.push(tail);
        }
        broker.append(log.source(), &subject, chunk.payload, Expect::Any).await.expect("stored");
    }
    assert!((1..=3).contains(&needed.len()), "{} of {} chunks are fetched", needed.len(), tails.len());
}

#[tokio::test]
async fn lost_acknowledgements_and_damaged_chunks() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let content = noise(1, 300_000);
    for fault in [Fault::LoseAck, Fault::LoseAppend, Fault::LoseAck] {
        broker.script(fault);
    }
    let large = keep(&log, &content).await;
    assert_eq!(fetch(&log, &large).await.expect("it is there"), content);
    // The first message is a chunk; its name is its content's hash.
    let chunk = broker.read(log.source(), Stream::Snapshot, 1, 1).await.expect("asked").remove(0);
    let subject = Subject { stream: Stream::Snapshot, tail: chunk.tail };
    let whole = chunk.payload;
    for at in (0..whole.len()).step_by(999).chain([0, 1, 8]) {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 1;
        broker.append(log.source(), &subject, Bytes::from(damaged), Expect::Any).await.expect("it is stored");
        assert!(fetch(&log, &large).await.is_err(), "damaged at {at}");
    }
}

#[tokio::test]
async fn what_could_not_be_stored_is_sent_again() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let content = noise(1, 1000);
    let large = large_of(&content, false);
    let runtime = tokio::runtime::Handle::current();
    let again = broker.clone();
    let keep = move || {
        let contents = Contents::new(log.clone(), runtime);
        broker.script(Fault::Refuse);
        contents.keep(&content, false).expect("it is sent");
        assert!(contents.flush().is_err());
        contents.keep(&content, false).expect("it is sent");
        contents.flush().expect("it is stored");
        log
    };
    let log = tokio::task::spawn_blocking(keep).await.expect("it is stored in the end");
    assert_eq!(fetch(&log, &large).await.expect("it is there").len(), 1000);
    assert_eq!(again.tails(log.source(), Stream::Snapshot, "snapshot").await.expect("asked").len(), 1);
}

#[test]
fn what_was_not_stored_is_sent_again() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let broker = MemoryBroker::new();
    let log = runtime.block_on(prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)));
    let contents = Contents::new(log, runtime.handle().clone());
    let content = noise(7, 100_000);
    // Its chunks are refused while it is taken in; before its list is stored, they have to be.
    broker.script(Fault::Refuse);
    assert!(contents.keep(&content, false).is_err());
    let large = contents.keep(&content, false).expect("it is sent");
    contents.flush().expect("it is stored");
    let mut read = Vec::new();
    contents.read(&large, None).expect("it is there").read_to_end(&mut read).expect("it can be read");
    assert!(read == content);
}
