//! Who is active: taken by one, renewed, lost, run out, given back.

use std::sync::Arc;
use std::time::Duration;

use deltabus_bus::Log;
use deltabus_bus::broker::{Broker, Expect, Subject};
use deltabus_bus::lease::{self, Kept, Lease, Watch};
use deltabus_bus::memory::{Availability, Fault, MemoryBroker};

use crate::brokers::{on_each_broker, prepared, source};

on_each_broker!(
    of_many_who_take_it_one_gets_it,
    a_holder_keeps_it_until_another_takes_it,
    it_runs_out_for_whoever_sees_it_unchanged,
    given_back_it_is_there_for_the_next,
    a_record_of_garbage_is_none,
);

async fn taken(log: &Log, holder: &str) -> Lease {
    let found = lease::find(log).await.unwrap();
    Lease::take(log, holder, &found).await.unwrap().expect("nobody else takes it")
}

async fn of_many_who_take_it_one_gets_it(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let found = lease::find(&log).await.unwrap();
    assert_eq!(found.holder(), None);
    let holders: Vec<String> = (0..8).map(|number| format!("transmitter-{number}")).collect();
    let takes = holders.iter().map(|holder| Lease::take(&log, holder, &found));
    let taken: Vec<bool> = futures::future::join_all(takes).await.into_iter().map(|it| it.unwrap().is_some()).collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{taken:?}");
    let winner = holders.iter().zip(&taken).find(|(_, taken)| **taken).map(|(holder, _)| holder.as_str());
    assert_eq!(lease::find(&log).await.unwrap().holder(), winner);
}

async fn a_holder_keeps_it_until_another_takes_it(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let mut first = taken(&log, "one").await;
    let until = first.good_until();
    for _ in 0..3 {
        assert_eq!(first.renew(7).await.unwrap(), Kept::Still);
    }
    assert!(first.good_until() > until);
    assert_eq!(lease::find(&log).await.unwrap().record.map(|record| record.term), Some(7));
    let mut second = taken(&log, "two").await;
    assert_eq!(first.renew(7).await.unwrap(), Kept::Lost { by: "two".into() });
    assert_eq!(second.renew(8).await.unwrap(), Kept::Still);
    // Under the same name it is another's all the same.
    let _third = taken(&log, "two").await;
    assert_eq!(second.renew(8).await.unwrap(), Kept::Lost { by: "two".into() });
}

async fn it_runs_out_for_whoever_sees_it_unchanged(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let mut watch = Watch::new(&log);
    watch.look().await.unwrap();
    assert!(watch.holder().is_none() && !watch.has_run_out(), "there is none that could run out");
    let mut held = taken(&log, "one").await;
    let mut renewals = 3;
    loop {
        watch.look().await.unwrap();
        if renewals > 0 && watch.unchanged() > lease::RENEW {
            assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
            renewals -= 1;
            watch.look().await.unwrap();
            assert!(watch.unchanged() < lease::RENEW, "a renewal begins the count anew");
        }
        match watch.has_run_out() {
            true => break,
            false => assert_eq!(watch.holder(), Some("one")),
        }
        tokio::time::sleep(lease::RENEW / 20).await;
    }
    assert_eq!((renewals, watch.holder()), (0, None));
    assert!(tokio::time::Instant::now() > held.good_until(), "the holder knew before");
    let next = Lease::take(&log, "two", watch.found()).await.unwrap();
    assert!(next.is_some());
    assert_eq!(held.renew(1).await.unwrap(), Kept::Lost { by: "two".into() });
}

async fn given_back_it_is_there_for_the_next(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let held = taken(&log, "one").await;
    held.release().await.unwrap();
    let found = lease::find(&log).await.unwrap();
    assert_eq!(found.holder(), None);
    assert_eq!(found.record.as_ref().map(|record| (record.holder.as_str(), record.released)), Some(("one", true)));
    let mut next = Lease::take(&log, "two", &found).await.unwrap().expect("nobody holds it");
    assert_eq!(next.renew(1).await.unwrap(), Kept::Still);
    // Given back by one who lost it before, it stays with the other.
    let late = taken(&log, "three").await;
    next.release().await.unwrap();
    assert_eq!(lease::find(&log).await.unwrap().holder(), Some("three"));
    drop(late);
}

async fn a_record_of_garbage_is_none(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let subject = Subject::snapshot("lease");
    for garbage in [&b""[..], b"\xff\xff\xff", &[0x12; 4096], b"\x08\x63"] {
        let garbage = bytes::Bytes::copy_from_slice(garbage);
        broker.append(log.source(), &subject, garbage, Expect::Any).await.unwrap();
        assert!(lease::find(&log).await.unwrap().record.is_none());
    }
    let mut held = taken(&log, "one").await;
    broker.append(log.source(), &subject, bytes::Bytes::from_static(b"\xff"), Expect::Any).await.unwrap();
    assert_eq!(held.renew(1).await.unwrap(), Kept::Still, "nobody is named who has it");
    assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
    assert_eq!(lease::find(&log).await.unwrap().holder(), Some("one"));
}

/// What became of a record is never guessed at.
#[tokio::test]
async fn lost_answers_make_nobody_lose_it() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    for fault in [Fault::LoseAck, Fault::LoseAppend] {
        broker.script(fault);
        let mut held = taken(&log, "one").await;
        broker.script(fault);
        assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
        assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
        assert_eq!(lease::find(&log).await.unwrap().holder(), Some("one"));
    }
}

/// Where the bus is away, nobody can renew: that speaks against no holder.
#[tokio::test(start_paused = true)]
async fn while_the_bus_is_away_nothing_runs_out() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let mut held = taken(&log, "one").await;
    let mut watch = Watch::new(&log);
    watch.look().await.unwrap();
    broker.set_available(Availability::Down);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(watch.look().await.is_err());
    assert!(held.renew(1).await.is_err());
    broker.set_available(Availability::Up);
    watch.look().await.unwrap();
    assert_eq!(watch.holder(), Some("one"));
    assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
    // A bus that lost everything has no record, and no other holder either.
    broker.lose(&source("people"));
    log.prepare().await.unwrap();
    assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
    assert_eq!(held.renew(1).await.unwrap(), Kept::Still);
    assert_eq!(lease::find(&log).await.unwrap().holder(), Some("one"));
}
