//! Logs that lost their beginning or their end.

use std::sync::Arc;

use deltabus_bus::broker::{Broker, Expect, Stream, Subject};
use deltabus_bus::memory::{Availability, Fault, MemoryBroker};
use deltabus_bus::{
    Accepted, Clock, Entry, Error, Event, Log, Position, Reader, Reason, SnapshotWriter, SystemClock, Timeline, Writer,
    history,
};
use deltabus_proto::v1;
use prost::Message;

use crate::brokers::{ends, prepared};
use crate::log::{append, claim, numbers, stored};
use crate::sets::{chain, encoded, revision};

/// A log with a claim and sets 1 to `sets`, a message each.
async fn log_of(sets: u64) -> (MemoryBroker, Log, Writer) {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    for number in 1..=sets {
        writer.publish(&[encoded(1, number, 20)]).await.expect("it is published");
    }
    (broker, log, writer)
}

async fn rejoin(log: &Log, position: Position) -> Reason {
    let mut reader = Reader::at(log, position);
    loop {
        match reader.next_stored().await.expect("it can be read") {
            Event::Set(_) => {}
            Event::CaughtUp(position) => panic!("it leads to {position:?}"),
            Event::Rejoin(reason) => return reason,
        }
    }
}

#[tokio::test]
async fn who_was_away_for_too_long_rejoins() {
    let (broker, log, _) = log_of(9).await;
    let all = stored(&log, Position::default()).await;
    broker.trim(log.source(), Stream::Changes, 6);
    assert_eq!(rejoin(&log, all[2].position).await, Reason::Trimmed { wanted: 5, first: 6 });
    // The one who needs the first that is there goes on.
    assert_eq!(numbers(&stored(&log, all[3].position).await), [5, 6, 7, 8, 9]);
    assert_eq!(numbers(&stored(&log, all[8].position).await), [] as [u64; 0]);
}

#[tokio::test]
async fn an_empty_log_that_lost_all_by_age_is_still_the_same_log() {
    let (broker, log, mut writer) = log_of(3).await;
    let all = stored(&log, Position::default()).await;
    broker.trim(log.source(), Stream::Changes, 100);
    assert!(stored(&log, all[2].position).await.is_empty());
    assert!(matches!(rejoin(&log, all[1].position).await, Reason::Trimmed { .. }));
    writer.publish(&chain(1, 3, 4)).await.expect("it is published");
    assert_eq!(numbers(&stored(&log, all[2].position).await), [4]);
    let (_, accepted) = claim(&log, "u", all[2].position).await;
    assert!(matches!(accepted, Accepted::Sets { revision: reached, .. } if reached == revision(1, 4)));
}

#[tokio::test]
async fn a_timeline_of_a_log_that_lost_its_beginning_begins_with_what_its_first_set_starts_from() {
    let (broker, log, _) = log_of(9).await;
    broker.trim(log.source(), Stream::Changes, 6);
    let timeline = Timeline::read(&log).await.expect("it can be read");
    let steps = timeline.steps();
    let numbers: Vec<u64> = steps.iter().map(|step| step.revision.number).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9]);
    // Since when the first of them was the source's state, nobody knows any more.
    assert_eq!(steps[0].time_millis, None);
    assert!(timeline.as_of(steps[1].time_millis.expect("it has one") - 1).is_none());
}

#[tokio::test]
async fn a_timeline_of_a_log_that_lost_all_by_age_has_the_snapshots_revision() {
    let (broker, log, writer) = log_of(3).await;
    let snapshot = SnapshotWriter::begin(&log, writer.position(), &[], 88).await.expect("it begins");
    snapshot.finish(Vec::new()).await.expect("it is written");
    broker.trim(log.source(), Stream::Changes, 100);
    let timeline = Timeline::read(&log).await.expect("it can be read");
    let steps: Vec<_> = timeline.steps().iter().map(|step| (step.revision, step.time_millis)).collect();
    assert_eq!(steps, [(revision(1, 3), Some(88))]);
}

#[tokio::test]
async fn a_writer_notices_that_the_log_lost_its_end() {
    let (broker, log, mut writer) = log_of(9).await;
    broker.cut(log.source(), Stream::Changes, 7);
    match writer.publish(&chain(1, 9, 10)).await {
        Err(Error::LogLost { last, wanted, .. }) => assert_eq!((last, wanted), (7, 10)),
        other => panic!("{other:?}"),
    }
    let (_, accepted) = claim(&log, "t", writer.position()).await;
    assert!(matches!(accepted, Accepted::Elsewhere { .. }), "{accepted:?}");
}

/// A clock that is an hour ahead.
struct Ahead;

impl Clock for Ahead {
    fn now_millis(&self) -> u64 {
        SystemClock.now_millis() + 3_600_000
    }

    fn fresh(&self) -> u64 {
        SystemClock.fresh()
    }
}

/// Readers that met the former claims ignored how the log was founded anew.
#[tokio::test]
async fn a_claim_is_above_those_that_went_by_age_whatever_the_clocks_say() {
    let (broker, log, _) = log_of(3).await;
    let reached = stored(&log, Position::default()).await[2].position;
    broker.trim(log.source(), Stream::Changes, 100);
    let ahead = Log::with_clock(Arc::clone(log.broker()), log.source().clone(), Arc::new(Ahead));
    let (first, accepted) = claim(&ahead, "t", Position::default()).await;
    assert!(matches!(accepted, Accepted::Elsewhere { .. }), "{accepted:?}");
    // Who knows all claims takes the next term.
    let (second, _) = claim(&log, "t", first.position()).await;
    assert_eq!(second.term(), first.term() + 1);
    let mut reader = Reader::at(&log, reached);
    assert!(matches!(reader.next_stored().await.expect("it can be read"), Event::CaughtUp(_)));
    broker.trim(log.source(), Stream::Changes, 100);
    let (mut third, _) = claim(&log, "u", Position::default()).await;
    assert!(third.term() > second.term(), "{} and {}", third.term(), second.term());
    third.found("b", revision(2, 9), 0).await.expect("it is founded");
    assert_eq!(rejoin(&log, reader.position()).await, Reason::Founded(revision(2, 9)));
}

/// Its last message was replaced by a claim, which went by age before anybody who knew the former saw it.
#[tokio::test]
async fn a_claim_is_above_one_that_took_the_place_of_the_last_message_known() {
    let (broker, log, writer) = log_of(3).await;
    let known = writer.position();
    broker.cut(log.source(), Stream::Changes, known.sequence - 1);
    let (other, accepted) = claim(&log, "u", known).await;
    assert!(matches!(accepted, Accepted::Elsewhere { .. }), "{accepted:?}");
    assert_eq!(other.position().sequence, known.sequence);
    broker.trim(log.source(), Stream::Changes, 100);
    let (again, accepted) = claim(&log, "t", known).await;
    assert!(matches!(accepted, Accepted::Elsewhere { .. }), "{accepted:?}");
    assert!(again.term() > other.term(), "{} and {}", again.term(), other.term());
}

#[tokio::test]
async fn a_kept_term_of_garbage_or_without_one_above_it_is_none() {
    let (_, log, writer) = log_of(3).await;
    let nowhere = Position { sequence: 99, ..writer.position() };
    let last = v1::Term { version: 1, term: i64::MAX as u64 - 1 }.encode_to_vec();
    for kept in [vec![0xff; 300], Vec::new(), last] {
        let subject = Subject::snapshot("term");
        log.broker().append(log.source(), &subject, kept.into(), Expect::Any).await.expect("it is stored");
        let (next, accepted) = claim(&log, "u", nowhere).await;
        assert!(matches!(accepted, Accepted::Elsewhere { .. }), "{accepted:?}");
        assert!(next.term() > writer.term() && next.term() < i64::MAX as u64 / 2, "{}", next.term());
    }
}

/// The same where the log's founder had the clock.
#[tokio::test]
async fn a_claim_is_above_the_one_of_the_snapshot() {
    let broker = MemoryBroker::new();
    let log = prepared(&(Arc::new(broker.clone()) as Arc<dyn Broker>)).await;
    let ahead = Log::with_clock(Arc::clone(log.broker()), log.source().clone(), Arc::new(Ahead));
    let (first, _) = claim(&ahead, "t", Position::default()).await;
    let snapshot = SnapshotWriter::begin(&ahead, first.position(), &[], 88).await.expect("it begins");
    snapshot.finish(Vec::new()).await.expect("it is written");
    broker.trim(log.source(), Stream::Changes, 100);
    let (second, _) = claim(&log, "u", Position::default()).await;
    assert!(second.term() > first.term(), "{} and {}", second.term(), first.term());
}

#[tokio::test]
async fn readers_notice_that_the_log_lost_its_end() {
    let (broker, log, writer) = log_of(9).await;
    let all = stored(&log, Position::default()).await;
    broker.cut(log.source(), Stream::Changes, 7);
    assert_eq!(rejoin(&log, all[8].position).await, Reason::Regressed { wanted: 10, last: 7 });
    // The log goes on, up to where the reader is, and beyond.
    let (mut second, _) = claim(&log, "t", writer.position()).await;
    assert_eq!(second.position().sequence, 8);
    second.found("b", revision(2, 9), 0).await.expect("it is founded");
    second.publish(&chain(2, 9, 10)).await.expect("it is published");
    assert_eq!(rejoin(&log, all[8].position).await, Reason::Replaced { sequence: 10 });
    second.publish(&chain(2, 10, 12)).await.expect("it is published");
    assert_eq!(rejoin(&log, all[8].position).await, Reason::Replaced { sequence: 10 });
    // Who had read less takes it as it is.
    assert_eq!(rejoin(&log, all[4].position).await, Reason::Founded(revision(2, 9)));
}

/// Terms tell nothing where clocks differ, or where one writer goes on.
#[tokio::test]
async fn readers_notice_that_another_message_stands_where_they_are() {
    let (broker, log, writer) = log_of(3).await;
    let all = stored(&log, Position::default()).await;
    broker.cut(log.source(), Stream::Changes, 3);
    for term in [writer.term(), 1] {
        broker.cut(log.source(), Stream::Changes, 3);
        append(&log, term, v1::envelope::Content::Part(v1::Part::default())).await;
        assert_eq!(rejoin(&log, all[2].position).await, Reason::Replaced { sequence: 4 });
    }
}

#[tokio::test]
async fn followers_notice_that_the_log_lost_its_end() {
    ends(async {
        let (broker, log, writer) = log_of(9).await;
        let mut reader = Reader::at(&log, stored(&log, Position::default()).await[8].position);
        assert!(matches!(reader.next().await.expect("it goes on"), Event::CaughtUp(_)));
        broker.cut(log.source(), Stream::Changes, 8);
        let (mut second, _) = claim(&log, "t", writer.position()).await;
        second.found("b", revision(2, 9), 0).await.expect("it is founded");
        // The log is as long as it was; a beat alone tells it apart.
        assert_eq!(second.position().sequence, 10);
        second.beat().await.expect("it is sent");
        let event = reader.next().await.expect("it goes on");
        assert!(matches!(event, Event::Rejoin(Reason::Replaced { sequence: 10 })), "{event:?}");
    })
    .await;
}

#[tokio::test]
async fn the_beats_of_one_who_was_replaced_disturb_nobody() {
    ends(async {
        let (_, log, mut first) = log_of(3).await;
        let (mut second, _) = claim(&log, "second", first.position()).await;
        let mut reader = Reader::at(&log, Position::default());
        while !matches!(reader.next().await.expect("it goes on"), Event::CaughtUp(_)) {}
        for number in 4..=6 {
            first.beat().await.expect("it is sent");
            assert!(first.publish(&chain(1, 3, 4)).await.is_err());
            second.publish(&chain(1, number - 1, number)).await.expect("it is published");
            let Event::Set(set) = reader.next().await.expect("it goes on") else { panic!("the set comes") };
            assert_eq!(set.set.next.number, number);
            assert!(matches!(reader.next().await.expect("it goes on"), Event::CaughtUp(_)));
        }
    })
    .await;
}

#[tokio::test]
async fn a_set_that_starts_from_another_state_is_noticed() {
    let (_, log, mut writer) = log_of(3).await;
    writer.publish(&chain(2, 3, 4)).await.expect("it is published");
    let reason = rejoin(&log, Position::default()).await;
    assert_eq!(reason, Reason::Diverged { reached: revision(1, 3), base: revision(2, 3) });
    let (_, log, mut writer) = log_of(3).await;
    writer.publish(&chain(1, 5, 6)).await.expect("it is published");
    let reason = rejoin(&log, Position::default()).await;
    assert_eq!(reason, Reason::Diverged { reached: revision(1, 3), base: revision(1, 5) });
}

#[tokio::test]
async fn history_begins_where_the_log_does() {
    let (broker, log, _) = log_of(9).await;
    for first in 1..=10 {
        broker.trim(log.source(), Stream::Changes, first);
        let mut told = Vec::new();
        let mut take = |entry| match entry {
            Entry::Foundation { .. } => panic!("it was never founded"),
            Entry::Set(set) => told.push(set.set.next.number),
        };
        history(&log, &mut take).await.expect("it can be read");
        assert_eq!(told, (first.max(2) - 1..=9).collect::<Vec<_>>(), "from {first}");
    }
}

#[tokio::test]
async fn a_lost_acknowledgement_is_found_out() {
    let (broker, log, mut writer) = log_of(1).await;
    for number in 2..=9 {
        broker.script(if number % 2 == 0 { Fault::LoseAck } else { Fault::LoseAppend });
        writer.publish(&[encoded(1, number, 20)]).await.expect("it is published");
    }
    assert_eq!(writer.position().sequence, 10);
    assert_eq!(numbers(&stored(&log, Position::default()).await), (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_claim_whose_acknowledgement_is_lost_is_found_out() {
    let (broker, log, first) = log_of(1).await;
    broker.script(Fault::LoseAck);
    let (second, _) = claim(&log, "second", first.position()).await;
    broker.script(Fault::LoseAppend);
    let (third, _) = claim(&log, "third", first.position()).await;
    assert_eq!((second.term(), third.term()), (first.term() + 1, first.term() + 2));
    assert_eq!(third.position().sequence, 4);
}

#[tokio::test]
async fn refused_and_unreachable_are_errors_and_it_goes_on_afterwards() {
    let (broker, log, mut writer) = log_of(1).await;
    broker.script(Fault::Refuse);
    let refused = writer.publish(&chain(1, 1, 2)).await.expect_err("it is refused");
    assert!(!refused.is_transient());
    broker.set_available(Availability::Down);
    let unreachable = writer.publish(&chain(1, 1, 2)).await.expect_err("it can't be reached");
    assert!(unreachable.is_transient());
    assert!(Reader::at(&log, Position::default()).next_stored().await.is_err_and(|error| error.is_transient()));
    broker.set_available(Availability::Up);
    writer.publish(&chain(1, 1, 2)).await.expect("it is published");
    assert_eq!(numbers(&stored(&log, Position::default()).await), [1, 2]);
}

#[tokio::test]
async fn a_source_that_was_lost_altogether_is_named() {
    let (broker, log, mut writer) = log_of(3).await;
    broker.lose(log.source());
    assert!(writer.publish(&chain(1, 3, 4)).await.is_err());
    log.prepare().await.expect("streams can be made");
    let (again, accepted) = claim(&log, "t", writer.position()).await;
    assert!(matches!(accepted, Accepted::Nothing));
    assert!(again.term() > writer.term(), "a term is never used again");
}
