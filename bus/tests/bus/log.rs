//! Writing a log and reading it.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Stream, Subject};
use deltabus_bus::{
    Accepted, BUNDLE_BYTES, BUNDLE_SETS, Delivered, Entry, Error, Event, Log, Position, Reader, Timeline, Writer,
    confirmed, decode_set, history, history_tail,
};
use deltabus_proto::v1;
use prost::Message;

use crate::brokers::{on_each_broker, prepared};
use crate::sets::{chain, encoded, revision, set_of};

on_each_broker!(
    what_is_published_is_read_in_order,
    a_follower_gets_each_set_as_it_comes,
    followers_catch_up_after_what_they_missed,
    waiting_sets_travel_together,
    sets_larger_than_a_message_travel_in_parts,
    an_interrupted_set_in_parts_is_as_if_it_were_not_there,
    a_reader_goes_on_in_the_middle_of_a_message,
    a_claim_fences_the_writer_before,
    a_claim_says_what_the_log_accepted,
    of_two_who_claim_at_once_one_is_fenced,
    a_founded_log_begins_with_its_snapshots_state,
    history_tells_foundations_and_sets,
    the_tail_of_a_history_is_its_end_and_says_whether_it_is_all,
    a_timeline_has_what_leads_to_the_logs_end,
    a_revision_is_confirmed_by_the_log_itself,
    a_message_of_a_newer_version_says_so,
    a_log_without_streams_names_its_source,
);

pub(crate) async fn claim(log: &Log, transmitter: &str, known: Position) -> (Writer, Accepted) {
    Writer::claim(log, transmitter, known).await.expect("a term can be claimed")
}

/// Everything that a reader at `position` finds stored.
pub(crate) async fn stored(log: &Log, position: Position) -> Vec<Delivered> {
    let mut reader = Reader::at(log, position);
    let mut found = Vec::new();
    loop {
        match reader.next_stored().await.expect("it can be read") {
            Event::Set(set) => found.push(*set),
            Event::CaughtUp(_) => return found,
            Event::Rejoin(reason) => panic!("{reason}"),
        }
    }
}

pub(crate) fn numbers(sets: &[Delivered]) -> Vec<u64> {
    sets.iter().map(|delivered| delivered.set.next.number).collect()
}

async fn what_is_published_is_read_in_order(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    assert!(!log.is_founded().await.expect("asked"));
    let (mut writer, accepted) = claim(&log, "t", Position::default()).await;
    assert!(matches!(accepted, Accepted::Nothing));
    for number in 1..=20 {
        writer.publish(&[encoded(1, number, 50)]).await.expect("it is published");
    }
    assert!(log.is_founded().await.expect("asked"));
    let found = stored(&log, Position::default()).await;
    assert_eq!(numbers(&found), (1..=20).collect::<Vec<_>>());
    for delivered in &found {
        assert_eq!(delivered.set, set_of(1, delivered.set.next.number, 50));
        assert_eq!(delivered.position.revision, delivered.set.next);
    }
    assert_eq!(found.last().expect("there are some").position, writer.position());
    // From each place on, exactly the rest follows.
    for delivered in &found {
        let rest = stored(&log, delivered.position).await;
        assert_eq!(numbers(&rest), (delivered.set.next.number + 1..=20).collect::<Vec<_>>());
    }
}

async fn a_follower_gets_each_set_as_it_comes(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    let mut reader = Reader::at(&log, Position::default());
    assert!(matches!(reader.next().await.expect("it goes on"), Event::CaughtUp(_)));
    for number in 1..=50 {
        writer.publish(&[encoded(1, number, 50)]).await.expect("it is published");
        let Event::Set(set) = reader.next().await.expect("it goes on") else { panic!("the set comes") };
        assert_eq!(set.set.next, revision(1, number));
        let Event::CaughtUp(position) = reader.next().await.expect("it goes on") else { panic!("the end is told") };
        assert_eq!(position, writer.position());
    }
}

async fn followers_catch_up_after_what_they_missed(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    let mut reader = Reader::at(&log, Position::default());
    assert!(matches!(reader.next().await.expect("it goes on"), Event::CaughtUp(_)));
    // More than waits for a slow follower.
    for number in 1..=1500 {
        writer.publish(&[encoded(1, number, 1)]).await.expect("it is published");
    }
    let mut reached = 0;
    while reached < 1500 {
        match reader.next().await.expect("it goes on") {
            Event::Set(set) => {
                reached += 1;
                assert_eq!(set.set.next.number, reached);
            }
            // As the transmitter does every few seconds.
            Event::CaughtUp(_) => writer.beat().await.expect("it is sent"),
            Event::Rejoin(reason) => panic!("{reason}"),
        }
    }
}

async fn waiting_sets_travel_together(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.publish(&chain(1, 0, 1000)).await.expect("they are published");
    assert_eq!(writer.position().sequence, 2, "a claim and one message");
    assert_eq!(numbers(&stored(&log, Position::default()).await), (1..=1000).collect::<Vec<_>>());
    // Full messages are not made larger.
    let large: Vec<_> = (1001..=1008).map(|number| encoded(1, number, 200_000)).collect();
    writer.publish(&large).await.expect("they are published");
    assert_eq!(writer.position().sequence, 2 + 4, "two sets of 200,000 bytes fit in each");
    writer.publish(&[]).await.expect("nothing is published");
    assert_eq!(writer.position().sequence, 6);
    // Nor do small ones hold more than a message may.
    let count = BUNDLE_SETS as u64 + 1;
    let small: Vec<_> = (1009..1009 + count).map(|number| encoded(1, number, 0)).collect();
    let bytes: usize = small.iter().map(|(_, set)| set.0.len()).sum();
    assert!(bytes < BUNDLE_BYTES, "{bytes} bytes are too many for one message anyway");
    writer.publish(&small).await.expect("they are published");
    assert_eq!(writer.position().sequence, 6 + 2);
}

async fn sets_larger_than_a_message_travel_in_parts(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    let mut reader = Reader::at(&log, Position::default());
    assert!(matches!(reader.next().await.expect("it goes on"), Event::CaughtUp(_)));
    let large = 3 * broker.payload_max();
    writer.publish(&[encoded(1, 1, 10), encoded(1, 2, large), encoded(1, 3, 10)]).await.expect("they are published");
    for number in 1..=3 {
        let Event::Set(set) = reader.next().await.expect("it goes on") else {
            let Event::Set(set) = reader.next().await.expect("it goes on") else { panic!("the set comes") };
            assert_eq!(set.set.next.number, number);
            continue;
        };
        assert_eq!(set.set.next.number, number);
    }
    let found = stored(&log, Position::default()).await;
    assert_eq!(found[1].set, set_of(1, 2, large));
    for delivered in &found {
        let rest = stored(&log, delivered.position).await;
        assert_eq!(numbers(&rest), (delivered.set.next.number + 1..=3).collect::<Vec<_>>());
    }
}

async fn an_interrupted_set_in_parts_is_as_if_it_were_not_there(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.publish(&chain(1, 0, 2)).await.expect("they are published");
    // A writer that died after two of its parts.
    for index in 0..2 {
        let part = v1::Part { index, count: 3, data: Bytes::from_static(b"the beginning of something") };
        append(&log, writer.term(), v1::envelope::Content::Part(part)).await;
    }
    let known = Position { sequence: 2, revision: revision(1, 2), check: None, ..writer.position() };
    let (mut second, accepted) = claim(&log, "u", known).await;
    assert!(matches!(accepted, Accepted::Sets { revision: reached, .. } if reached == revision(1, 2)));
    let large = 2 * broker.payload_max();
    second.publish(&[encoded(1, 3, large)]).await.expect("it is published");
    second.publish(&chain(1, 3, 5)).await.expect("they are published");
    assert_eq!(numbers(&stored(&log, Position::default()).await), [1, 2, 3, 4, 5]);
}

/// Stores a message past the writer, as nobody should.
pub(crate) async fn append(log: &Log, term: u64, content: v1::envelope::Content) {
    let payload = envelope(term, content);
    log.broker().append(log.source(), &Subject::changes(), payload, Expect::Any).await.expect("it is stored");
}

/// A message of the log.
pub(crate) fn envelope(term: u64, content: v1::envelope::Content) -> Bytes {
    v1::Envelope { version: 1, term, content: Some(content) }.encode_to_vec().into()
}

async fn a_reader_goes_on_in_the_middle_of_a_message(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.publish(&chain(1, 0, 3)).await.expect("they are published");
    writer.publish(&chain(1, 3, 6)).await.expect("they are published");
    for delivered in stored(&log, Position::default()).await {
        let rest = stored(&log, delivered.position).await;
        assert_eq!(numbers(&rest), (delivered.set.next.number + 1..=6).collect::<Vec<_>>());
    }
}

async fn a_claim_fences_the_writer_before(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut first, _) = claim(&log, "first", Position::default()).await;
    first.publish(&chain(1, 0, 2)).await.expect("they are published");
    let (mut second, _) = claim(&log, "second", first.position()).await;
    assert!(second.term() > first.term());
    for _ in 0..3 {
        match first.publish(&chain(1, 2, 3)).await {
            Err(Error::Fenced { by, .. }) => assert_eq!(by, "second"),
            other => panic!("{other:?}"),
        }
    }
    second.publish(&chain(1, 2, 4)).await.expect("they are published");
    assert!(matches!(first.publish(&chain(1, 2, 3)).await, Err(Error::Fenced { .. })));
    assert_eq!(numbers(&stored(&log, Position::default()).await), [1, 2, 3, 4]);
}

async fn a_claim_says_what_the_log_accepted(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut first, _) = claim(&log, "first", Position::default()).await;
    let begun = first.position();
    first.publish(&chain(1, 0, 2)).await.expect("they are published");
    first.publish(&chain(1, 2, 4)).await.expect("they are published");
    let (_, accepted) = claim(&log, "second", begun).await;
    let Accepted::Sets { revision: reached, sets } = accepted else { panic!("{accepted:?}") };
    assert_eq!(reached, revision(1, 4));
    assert_eq!(numbers(&sets), [1, 2, 3, 4]);
    // From another history it doesn't lead on.
    let elsewhere = Position { revision: revision(9, 2), ..begun };
    let (third, accepted) = claim(&log, "third", elsewhere).await;
    assert!(matches!(accepted, Accepted::Elsewhere { .. }), "{accepted:?}");
    assert!(third.term() > first.term() + 1);
}

async fn of_two_who_claim_at_once_one_is_fenced(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    for round in 0..5 {
        // A copied state folder: the same name, the same state.
        let claims = [claim(&log, "twin", Position::default()), claim(&log, "twin", Position::default())];
        let writers = futures::future::join_all(claims).await;
        assert_ne!(writers[0].0.term(), writers[1].0.term(), "round {round}");
        let mut fenced = 0;
        for (mut writer, accepted) in writers {
            let at = match accepted {
                Accepted::Nothing => 0,
                Accepted::Sets { revision, .. } => revision.number,
                Accepted::Elsewhere { reason } => panic!("{reason}"),
            };
            match writer.publish(&chain(1, at, at + 1)).await {
                Ok(_) => {}
                Err(Error::Fenced { .. }) => fenced += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(fenced, 1, "round {round}");
    }
    assert_eq!(numbers(&stored(&log, Position::default()).await), [1, 2, 3, 4, 5]);
}

async fn a_founded_log_begins_with_its_snapshots_state(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    let joined = Position { revision: revision(1, 7), ..writer.position() };
    writer.found("a-1-7-0", revision(1, 7), 1).await.expect("it is founded");
    assert_eq!(writer.position().revision, revision(1, 7));
    writer.publish(&chain(1, 7, 9)).await.expect("they are published");
    assert_eq!(numbers(&stored(&log, joined).await), [8, 9]);
    // Whoever was elsewhere joins by the snapshot.
    let mut reader = Reader::at(&log, Position::default());
    let Event::Rejoin(reason) = reader.next().await.expect("it goes on") else { panic!("it doesn't lead on") };
    assert_eq!(reason, deltabus_bus::Reason::Founded(revision(1, 7)));
}

async fn history_tells_foundations_and_sets(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.found("a-1-3-0", revision(1, 3), 77).await.expect("it is founded");
    writer.publish(&chain(1, 3, 5)).await.expect("they are published");
    let (mut writer, _) = claim(&log, "u", Position::default()).await;
    writer.found("b-2-5-0", revision(2, 5), 78).await.expect("it is founded");
    writer.publish(&chain(2, 5, 6)).await.expect("they are published");
    writer.publish(&[encoded(2, 7, 2 * broker.payload_max())]).await.expect("it is published");
    let mut told = Vec::new();
    let mut take = |entry| match entry {
        Entry::Foundation { revision, time_millis } => told.push(format!("founded {revision} {time_millis}")),
        Entry::Set(set) => told.push(format!("set {}", set.set.next)),
    };
    history(&log, &mut take).await.expect("it can be read");
    assert_eq!(told, ["founded 3 77", "set 4", "set 5", "founded 5 78", "set 6", "set 7"]);
}

async fn the_tail_of_a_history_is_its_end_and_says_whether_it_is_all(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.found("a-1-3-0", revision(1, 3), 77).await.expect("it is founded");
    for number in 4..20 {
        writer.publish(&chain(1, number - 1, number)).await.expect("it is published");
    }
    // One in parts, which a tail may begin amid.
    writer.publish(&[encoded(1, 20, 3 * broker.payload_max())]).await.expect("it is published");
    writer.publish(&chain(1, 20, 22)).await.expect("they are published");
    let tail = async |bytes: u64| {
        let mut told = Vec::new();
        let mut take = |entry| match entry {
            Entry::Foundation { revision, .. } => told.push(revision.number),
            Entry::Set(set) => told.push(set.set.next.number),
        };
        let all = history_tail(&log, bytes, &mut take).await.expect("it can be read");
        (told, all)
    };
    let whole: Vec<u64> = (3..=22).collect();
    assert_eq!(tail(u64::MAX).await, (whole.clone(), true));
    assert_eq!(tail(0).await, (vec![21, 22], false));
    let bytes = broker.extent(log.source(), Stream::Changes).await.expect("it is there").expect("it has some").bytes;
    let mut before = 0;
    for part in 0..=10 {
        let (told, all) = tail(bytes * part / 10).await;
        assert!(whole.ends_with(&told), "{told:?}");
        assert!(told.len() >= before && all == (part == 10), "{part}: {told:?}");
        before = told.len();
    }
    assert_eq!(before, whole.len());
}

async fn a_timeline_has_what_leads_to_the_logs_end(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let numbers = |timeline: &Timeline| timeline.steps().iter().map(|step| step.revision.number).collect::<Vec<_>>();
    assert_eq!(numbers(&Timeline::read(&log).await.expect("it can be read")), [] as [u64; 0]);
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.found("a-1-3-0", revision(1, 3), 77).await.expect("it is founded");
    writer.publish(&chain(1, 3, 6)).await.expect("they are published");
    let timeline = Timeline::read(&log).await.expect("it can be read");
    assert_eq!(numbers(&timeline), [3, 4, 5, 6]);
    assert_eq!(timeline.find(5).map(|step| step.revision), Some(revision(1, 5)));
    assert!(timeline.find(2).is_none() && timeline.find(7).is_none());
    // The set that leads to revision 5 is of this time.
    let time = set_of(1, 5, 20).time_millis;
    let as_of = |timeline: &Timeline, time| timeline.as_of(time).map(|step| step.revision.number);
    assert_eq!(as_of(&timeline, time), Some(5));
    assert_eq!(as_of(&timeline, time - 1), Some(4));
    assert_eq!(as_of(&timeline, u64::MAX), Some(6));
    assert_eq!(as_of(&timeline, 77), Some(3));
    assert_eq!(as_of(&timeline, 76), None);
    // Founded with the state reached it goes on; with another, what was before leads nowhere.
    let (mut writer, _) = claim(&log, "t", writer.position()).await;
    writer.found("b-2-6-0", revision(1, 6), 78).await.expect("it is founded");
    assert_eq!(numbers(&Timeline::read(&log).await.expect("it can be read")), [3, 4, 5, 6]);
    writer.found("a-2-5-0", revision(2, 5), 79).await.expect("it is founded");
    writer.publish(&chain(2, 5, 6)).await.expect("they are published");
    let timeline = Timeline::read(&log).await.expect("it can be read");
    assert_eq!(numbers(&timeline), [5, 6]);
    assert_eq!(timeline.find(6).map(|step| step.revision), Some(revision(2, 6)));
}

async fn a_revision_is_confirmed_by_the_log_itself(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let (mut writer, _) = claim(&log, "t", Position::default()).await;
    writer.found("a-1-3-0", revision(1, 3), 77).await.expect("it is founded");
    let founded = writer.position();
    // Together in one message, then in parts, then far away behind claims.
    writer.publish(&chain(1, 3, 6)).await.expect("they are published");
    writer.publish(&[encoded(1, 7, 2 * broker.payload_max())]).await.expect("it is published");
    let mut known = writer.position();
    for _ in 0..40 {
        known = claim(&log, "t", known).await.0.position();
    }
    let mut positions: Vec<Position> = stored(&log, founded).await.iter().map(|delivered| delivered.position).collect();
    assert_eq!(positions.len(), 4);
    positions.extend([founded, known]);
    for position in positions {
        assert_eq!(confirmed(&log, position).await.expect("it is asked"), Some(position.revision));
        // Whoever holds another state of that number is not confirmed.
        let other = Position { revision: revision(2, position.revision.number), ..position };
        assert_eq!(confirmed(&log, other).await.expect("it is asked"), Some(position.revision));
    }
    let unknown = Position { revision: revision(1, 9), ..known };
    assert_eq!(confirmed(&log, unknown).await.expect("it is asked"), None);
}

async fn a_message_of_a_newer_version_says_so(broker: Arc<dyn Broker>) {
    let log = prepared(&broker).await;
    let envelope = v1::Envelope { version: 2, term: 1, content: None };
    let payload = Bytes::from(envelope.encode_to_vec());
    broker.append(log.source(), &Subject::changes(), payload, Expect::Any).await.expect("it is stored");
    let failed = Reader::at(&log, Position::default()).next().await;
    assert!(matches!(failed, Err(Error::Newer { version: 2, .. })), "{failed:?}");
}

async fn a_log_without_streams_names_its_source(broker: Arc<dyn Broker>) {
    let log = Log::new(broker, crate::brokers::source("nobody"));
    assert!(!log.is_founded().await.expect("asked"));
    let failed = Reader::at(&log, Position::default()).next_stored().await;
    assert!(failed.is_err_and(|error| error.to_string().contains("`nobody`")));
    let failed = Writer::claim(&log, "t", Position::default()).await;
    assert!(failed.is_err_and(|error| error.to_string().contains("`nobody`")));
}

#[test]
fn a_set_decodes_as_it_was() {
    let set = set_of(1, 5, 1000);
    assert_eq!(decode_set(&encoded(1, 5, 1000).1.0).expect("it decodes"), set);
}
