//! Reverse sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use deltabus_bus::broker::{AppendError, Broker, Expect, Follow, Stream, Subject};
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{Error, LastReverse, Log, ReversePlace};
use deltabus_record::change::{Change, CollectionChanges, FieldChange, ReverseId, ReverseSet, Transaction};
use deltabus_record::key::Key;
use deltabus_record::schema::{CollectionName, ReceiverName};
use deltabus_record::value::Value;

use crate::brokers::{on_each_broker, prepared};
use crate::sets::{noise, revision};

on_each_broker!(
    edits_arrive_in_order,
    edits_are_read_on_from_a_place,
    the_transmitter_is_woken,
    what_cannot_be_understood_stands_between_the_others,
    edits_that_are_too_large_say_so,
    two_senders_under_one_name_notice_each_other,
);

fn receiver(name: &str) -> ReceiverName {
    ReceiverName::new(name).expect("a good name")
}

fn edits(name: &str, number: u64, bytes: usize) -> ReverseSet {
    let field = FieldChange { slot: 2, before: Value::Null, after: Value::Bytes(noise(number, bytes)) };
    let change = Change::Update { key: Key::of(&[Value::Integer(7)]), fields: vec![field] };
    let collection = CollectionName::new("people");
    ReverseSet {
        id: ReverseId { receiver: receiver(name), number },
        base: revision(1, 5),
        time_millis: 1_700_000_000_000,
        edits: Transaction {
            schemas: Vec::new(),
            collections: vec![CollectionChanges { collection, changes: vec![change] }],
        },
        fields: BTreeMap::new(),
    }
}

/// Sends a set behind whatever is there.
async fn send(log: &Log, set: &ReverseSet) -> Result<(), Error> {
    let last = log.last_reverse(&set.id.receiver).await?;
    log.send_reverse(set, last).await.map(|sent| assert!(sent.is_some(), "nobody else sends"))
}

async fn last_number(log: &Log, name: &str) -> u64 {
    log.last_reverse(&receiver(name)).await.expect("asked").number
}

async fn waiting(log: &Log, after: u64) -> Vec<(u64, Option<ReverseSet>)> {
    let found = log.reverse_sets(ReversePlace { sequence: after, check: None }).await.expect("they can be read");
    found.into_iter().map(|reversed| (reversed.place.sequence, reversed.set.ok())).collect()
}

async fn edits_arrive_in_order(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    assert_eq!(waiting(&log, 0).await, []);
    assert_eq!(last_number(&log, "oslo").await, 0);
    let sent = [edits("oslo", 1, 10), edits("rome", 1, 10_000), edits("oslo", 2, 0), edits("oslo", 2, 0)];
    for set in &sent {
        send(&log, set).await.expect("it is sent");
    }
    let wanted: Vec<_> = (1..).zip(sent.iter().cloned().map(Some)).collect();
    assert_eq!(waiting(&log, 0).await, wanted);
    assert_eq!(last_number(&log, "oslo").await, 2);
    assert_eq!(last_number(&log, "rome").await, 1);
}

async fn edits_are_read_on_from_a_place(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for number in 1..=300 {
        send(&log, &edits("oslo", number, 40_000)).await.expect("it is sent");
    }
    let mut after = 0;
    loop {
        let found = waiting(&log, after).await;
        let Some((last, _)) = found.last() else { break };
        for (i, (sequence, set)) in found.iter().enumerate() {
            assert_eq!(*sequence, after + i as u64 + 1);
            assert_eq!(*set, Some(edits("oslo", *sequence, 40_000)));
        }
        after = *last;
    }
    assert_eq!(after, 300);
}

async fn the_transmitter_is_woken(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let mut live = broker.follow(log.source(), Follow::Reverse).await.expect("it can be followed");
    send(&log, &edits("oslo", 1, 10)).await.expect("it is sent");
    assert!(live.next().await.is_some());
    assert_eq!(waiting(&log, 0).await.len(), 1);
}

async fn what_cannot_be_understood_stands_between_the_others(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    send(&log, &edits("oslo", 1, 10)).await.expect("it is sent");
    for junk in [&b""[..], b"junk", &[1, 255, 255, 255, 255, 255, 255, 255, 255, 1], &[0, 8, 9]] {
        let payload = bytes::Bytes::from_static(junk);
        broker.append(log.source(), &Subject::reverse(&receiver("rome")), payload, Expect::Any).await.expect("stored");
    }
    assert_eq!(last_number(&log, "rome").await, 0);
    send(&log, &edits("oslo", 2, 10)).await.expect("it is sent");
    let found = log.reverse_sets(ReversePlace::default()).await.expect("they can be read");
    let outcomes: Vec<_> = found.iter().map(|reversed| reversed.set.is_ok()).collect();
    assert_eq!(outcomes, [true, false, false, false, false, true]);
    let newer = found[4].set.as_ref().expect_err("of a later version");
    assert!(matches!(newer, Error::Newer { version: 9, .. }), "{newer}");
}

async fn edits_that_are_too_large_say_so(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let refused = send(&log, &edits("oslo", 1, broker.payload_max() + 1000)).await;
    assert!(matches!(refused, Err(Error::Append(AppendError::TooLarge { .. }))), "{refused:?}");
}

async fn two_senders_under_one_name_notice_each_other(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let seen = log.last_reverse(&receiver("oslo")).await.expect("asked");
    assert_eq!(seen, LastReverse::default());
    send(&log, &edits("rome", 1, 10)).await.expect("it is sent");
    let first = log.send_reverse(&edits("oslo", 1, 10), seen).await.expect("it is sent").expect("nobody else sends");
    assert_eq!(first, LastReverse { sequence: 2, number: 1 });
    let other = edits("oslo", 1, 20);
    assert_eq!(log.send_reverse(&other, seen).await.expect("it is answered"), None);
    assert_eq!(waiting(&log, 0).await.len(), 2);
    let asked = [&edits("oslo", 1, 10), &other, &edits("rome", 1, 10)];
    assert_eq!(log.stored_reverse(&asked).await.expect("they can be read"), [true, false, true]);
}

#[tokio::test]
async fn what_the_bus_lost_and_got_again_is_taken_again() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let places = async |after| {
        let found = log.reverse_sets(after).await.expect("they can be read");
        found.into_iter().map(|reversed| reversed.place).collect::<Vec<_>>()
    };
    for number in 1..=3 {
        send(&log, &edits("oslo", number, 10)).await.expect("it is sent");
    }
    let all = places(ReversePlace::default()).await;
    assert_eq!(places(all[2]).await, []);
    // The end is lost: all come again, also when others lie there by now.
    broker.cut(log.source(), Stream::Reverse, 1);
    assert_eq!(places(all[2]).await, all[..1]);
    for number in 4..=6 {
        send(&log, &edits("oslo", number, 10)).await.expect("it is sent");
    }
    assert_eq!(places(all[2]).await.len(), 4);
    // The beginning is lost by age: that changes nothing.
    let now = places(ReversePlace::default()).await;
    broker.trim(log.source(), Stream::Reverse, 3);
    assert_eq!(places(now[1]).await, now[2..]);
    broker.trim(log.source(), Stream::Reverse, 9);
    assert_eq!(places(now[3]).await, []);
    // The source is lost and made again.
    broker.lose(log.source());
    log.prepare().await.expect("it can be prepared");
    send(&log, &edits("oslo", 7, 10)).await.expect("it is sent");
    assert_eq!(places(now[3]).await.len(), 1);
}
