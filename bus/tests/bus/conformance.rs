//! What a broker promises, the same for all of them.

use std::sync::Arc;

use bytes::Bytes;
use deltabus_bus::broker::{AppendError, Broker, BrokerError, Expect, Follow, Hint, Stored, Stream, Subject};
use deltabus_record::schema::ReceiverName;

use crate::brokers::{on_each_broker, source};
use crate::sets::noise;

on_each_broker!(
    sources_are_there_once_prepared,
    preparing_again_keeps_what_is_there,
    streams_count_on_their_own,
    reading_gives_everything_in_order,
    a_read_gives_at_least_one_message_and_about_as_many_bytes_as_asked,
    reading_past_the_end_gives_nothing,
    the_expected_last_message_is_a_fence,
    of_many_who_expect_the_same_one_is_stored,
    a_subject_is_written_once_where_it_must_be_new,
    a_subject_is_replaced_only_by_who_knows_it,
    snapshots_keep_the_last_message_of_each_subject,
    the_last_message_of_a_subject_is_found,
    the_messages_of_one_subject_come_in_order_and_no_others,
    a_source_that_is_not_there_is_named,
    what_is_too_large_is_refused_and_the_largest_is_not,
    followers_get_what_is_stored_and_beats,
    followers_get_nothing_that_is_refused,
    followers_of_edits_are_woken,
    questions_are_answered,
    nobody_answers_where_there_is_no_transmitter,
    contents_are_stored_together_and_found_by_name,
    contents_that_are_there_are_no_conflict,
    no_content_is_too_large,
);

async fn put(broker: &Arc<dyn Broker>, name: &str, subject: &Subject, text: &str) -> u64 {
    let payload = Bytes::from(text.to_owned());
    broker.append(&source(name), subject, payload, Expect::Any).await.expect("it is stored")
}

async fn all(broker: &Arc<dyn Broker>, name: &str, stream: Stream) -> Vec<Stored> {
    let mut found: Vec<Stored> = Vec::new();
    loop {
        let from = found.last().map_or(1, |last| last.sequence + 1);
        let batch = broker.read(&source(name), stream, from, 64 * 1024).await.expect("it can be read");
        if batch.is_empty() {
            return found;
        }
        found.extend(batch);
    }
}

fn texts(found: &[Stored]) -> Vec<String> {
    found.iter().map(|stored| String::from_utf8_lossy(&stored.payload).into_owned()).collect()
}

async fn sources_are_there_once_prepared(broker: Arc<dyn Broker>) {
    assert_eq!(broker.sources().await.expect("sources are listed"), []);
    assert_eq!(broker.extent(&source("b"), Stream::Changes).await.expect("asked"), None);
    for name in ["b", "a", "c_reverse"] {
        broker.prepare(&source(name)).await.expect("streams can be made");
    }
    let wanted = ["a", "b", "c_reverse"].map(source);
    assert_eq!(broker.sources().await.expect("sources are listed"), wanted);
    for stream in Stream::ALL {
        let extent = broker.extent(&source("b"), stream).await.expect("asked").expect("it is there");
        assert_eq!((extent.first, extent.last, extent.bytes), (1, 0, 0), "{stream:?}");
    }
}

async fn preparing_again_keeps_what_is_there(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    put(&broker, "a", &Subject::changes(), "one").await;
    broker.prepare(&source("a")).await.expect("streams can be made");
    assert_eq!(texts(&all(&broker, "a", Stream::Changes).await), ["one"]);
    let extent = broker.extent(&source("a"), Stream::Changes).await.expect("asked").expect("it is there");
    assert_eq!((extent.first, extent.last), (1, 1));
    assert!(extent.bytes >= 3);
}

async fn streams_count_on_their_own(broker: Arc<dyn Broker>) {
    for name in ["a", "b"] {
        broker.prepare(&source(name)).await.expect("streams can be made");
    }
    let receiver = ReceiverName::new("oslo").expect("a good name");
    for sequence in 1..=3 {
        for subject in [Subject::changes(), Subject::snapshot("a.1"), Subject::reverse(&receiver)] {
            for name in ["a", "b"] {
                assert_eq!(put(&broker, name, &subject, "x").await, sequence);
            }
        }
    }
}

async fn reading_gives_everything_in_order(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    let mut wanted = Vec::new();
    for i in 1..=600 {
        let text = format!("{i} {}", "x".repeat(i * 7 % 400));
        put(&broker, "a", &Subject::changes(), &text).await;
        wanted.push(text);
    }
    let found = all(&broker, "a", Stream::Changes).await;
    assert_eq!(texts(&found), wanted);
    assert!(found.iter().zip(1..).all(|(stored, sequence)| stored.sequence == sequence && stored.tail == "changes"));
    let from_the_middle = broker.read(&source("a"), Stream::Changes, 300, 1).await.expect("it can be read");
    assert_eq!(from_the_middle[0], found[299]);
    // Before the beginning is from the beginning.
    let from_zero = broker.read(&source("a"), Stream::Changes, 0, 1).await.expect("it can be read");
    assert_eq!(from_zero[0], found[0]);
}

async fn a_read_gives_at_least_one_message_and_about_as_many_bytes_as_asked(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    for seed in 1..=20 {
        let payload = Bytes::from(noise(seed, 100_000));
        broker.append(&source("a"), &Subject::changes(), payload, Expect::Any).await.expect("it is stored");
    }
    for bytes_max in [1, 100_000, 1_000_000] {
        let batch = broker.read(&source("a"), Stream::Changes, 1, bytes_max).await.expect("it can be read");
        let bytes: usize = batch.iter().map(|stored| stored.payload.len()).sum();
        assert!(!batch.is_empty() && bytes <= bytes_max + 100_000, "{bytes} bytes for {bytes_max}");
    }
}

async fn reading_past_the_end_gives_nothing(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    for from in [0, 1, 5] {
        assert_eq!(broker.read(&source("a"), Stream::Changes, from, 1000).await.expect("it can be read"), []);
    }
    put(&broker, "a", &Subject::changes(), "one").await;
    for from in [2, 3, 1000] {
        assert_eq!(broker.read(&source("a"), Stream::Changes, from, 1000).await.expect("it can be read"), []);
    }
}

async fn the_expected_last_message_is_a_fence(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let put = |text: &'static str, last: u64| {
        let (broker, a) = (broker.clone(), a.clone());
        async move { broker.append(&a, &Subject::changes(), text.into(), Expect::Last(last)).await }
    };
    assert_eq!(put("one", 0).await.expect("it is stored"), 1);
    assert!(matches!(put("again", 0).await, Err(AppendError::Conflict)));
    assert!(matches!(put("too far", 2).await, Err(AppendError::Conflict)));
    assert_eq!(put("two", 1).await.expect("it is stored"), 2);
    assert_eq!(texts(&all(&broker, "a", Stream::Changes).await), ["one", "two"]);
}

async fn of_many_who_expect_the_same_one_is_stored(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    for round in 0..5 {
        let tries = (0..8).map(|i| {
            let (broker, a) = (broker.clone(), a.clone());
            async move {
                let payload = Bytes::from(format!("{round} {i}"));
                broker.append(&a, &Subject::changes(), payload, Expect::Last(round)).await
            }
        });
        let outcomes = futures::future::join_all(tries).await;
        let stored: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        assert_eq!(stored, [&(round + 1)]);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(AppendError::Conflict))));
    }
}

async fn a_subject_is_written_once_where_it_must_be_new(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let (first, second) = (Subject::snapshot("chunk.1"), Subject::snapshot("chunk.2"));
    broker.append(&a, &first, "x".into(), Expect::New).await.expect("it is stored");
    assert!(matches!(broker.append(&a, &first, "y".into(), Expect::New).await, Err(AppendError::Conflict)));
    broker.append(&a, &second, "z".into(), Expect::New).await.expect("it is stored");
    assert_eq!(texts(&all(&broker, "a", Stream::Snapshot).await), ["x", "z"]);
}

async fn a_subject_is_replaced_only_by_who_knows_it(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let pointer = Subject::snapshot("pointer");
    let first = broker.append(&a, &pointer, "1".into(), Expect::SubjectLast(0)).await.expect("it is stored");
    put(&broker, "a", &Subject::snapshot("a.0"), "part").await;
    let second = broker.append(&a, &pointer, "2".into(), Expect::SubjectLast(first)).await.expect("it is stored");
    for old in [0, first, second + 1] {
        let refused = broker.append(&a, &pointer, "3".into(), Expect::SubjectLast(old)).await;
        assert!(matches!(refused, Err(AppendError::Conflict)), "{old}");
    }
    assert_eq!(broker.last(&a, &pointer).await.expect("asked").expect("it is there").payload, "2");
}

async fn snapshots_keep_the_last_message_of_each_subject(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    for text in ["1", "2", "3"] {
        for tail in ["a.0", "a.1"] {
            put(&broker, "a", &Subject::snapshot(tail), &format!("{tail} {text}")).await;
        }
    }
    assert_eq!(texts(&all(&broker, "a", Stream::Snapshot).await), ["a.0 3", "a.1 3"]);
    // The log keeps them all.
    for text in ["1", "2", "3"] {
        put(&broker, "a", &Subject::changes(), text).await;
    }
    assert_eq!(texts(&all(&broker, "a", Stream::Changes).await), ["1", "2", "3"]);
}

async fn the_last_message_of_a_subject_is_found(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let (oslo, rome) = (ReceiverName::new("oslo").expect("good"), ReceiverName::new("rome").expect("good"));
    assert_eq!(broker.last(&a, &Subject::reverse(&oslo)).await.expect("asked"), None);
    assert!(!broker.holds(&a, &Subject::reverse(&oslo)).await.expect("asked"));
    put(&broker, "a", &Subject::reverse(&oslo), "o1").await;
    put(&broker, "a", &Subject::reverse(&oslo), "o2").await;
    assert_eq!(broker.last(&a, &Subject::reverse(&rome)).await.expect("asked"), None);
    put(&broker, "a", &Subject::reverse(&rome), "r1").await;
    let last = broker.last(&a, &Subject::reverse(&oslo)).await.expect("asked").expect("it is there");
    assert_eq!((last.sequence, last.tail.as_str(), &last.payload[..]), (2, "reverse.oslo", &b"o2"[..]));
    assert!(broker.holds(&a, &Subject::reverse(&oslo)).await.expect("asked"));
}

async fn the_messages_of_one_subject_come_in_order_and_no_others(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let (oslo, rome) = (ReceiverName::new("oslo").expect("good"), ReceiverName::new("rome").expect("good"));
    let read = async |receiver: &ReceiverName, from, bytes_max| {
        broker.read_subject(&a, &Subject::reverse(receiver), from, bytes_max).await.expect("it can be read")
    };
    assert_eq!(read(&oslo, 1, 1000).await, []);
    for text in ["o1", "o2", "o3"] {
        put(&broker, "a", &Subject::reverse(&oslo), text).await;
        put(&broker, "a", &Subject::reverse(&rome), "r").await;
    }
    let found = read(&oslo, 1, 10_000).await;
    assert_eq!(texts(&found), ["o1", "o2", "o3"]);
    assert_eq!(found.iter().map(|stored| stored.sequence).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(texts(&read(&oslo, 2, 10_000).await), ["o2", "o3"]);
    assert_eq!(texts(&read(&oslo, 6, 10_000).await), [""; 0]);
    // However little is asked for, it goes on.
    let mut all = Vec::new();
    let mut from = 1;
    loop {
        let found = read(&oslo, from, 1).await;
        let Some(last) = found.last() else { break };
        from = last.sequence + 1;
        all.extend(texts(&found));
    }
    assert_eq!(all, ["o1", "o2", "o3"]);
}

async fn a_source_that_is_not_there_is_named(broker: Arc<dyn Broker>) {
    let read = broker.read(&source("nobody"), Stream::Changes, 1, 1000).await;
    assert!(matches!(read, Err(BrokerError::NoSource { source_name }) if source_name == source("nobody")));
    let last = broker.last(&source("nobody"), &Subject::changes()).await;
    assert!(matches!(last, Err(BrokerError::NoSource { .. })));
    let stored = broker.append(&source("nobody"), &Subject::changes(), "x".into(), Expect::Any).await;
    assert!(matches!(stored, Err(AppendError::Broker(_))));
}

async fn what_is_too_large_is_refused_and_the_largest_is_not(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let largest = Bytes::from(noise(7, broker.payload_max()));
    let larger = Bytes::from(noise(7, broker.payload_max() + 4096));
    let refused = broker.append(&a, &Subject::changes(), larger.clone(), Expect::Last(0)).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { bytes }) if bytes == larger.len()));
    broker.append(&a, &Subject::changes(), largest.clone(), Expect::Last(0)).await.expect("it is stored");
    let found = broker.read(&a, Stream::Changes, 1, 1).await.expect("it can be read");
    assert_eq!(found[0].payload, largest);
}

async fn followers_get_what_is_stored_and_beats(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    broker.prepare(&source("b")).await.expect("streams can be made");
    put(&broker, "a", &Subject::changes(), "before").await;
    let mut live = broker.follow(&a, Follow::Changes).await.expect("it can be followed");
    put(&broker, "b", &Subject::changes(), "of another source").await;
    put(&broker, "a", &Subject::snapshot("a.0"), "of another stream").await;
    put(&broker, "a", &Subject::changes(), "two").await;
    broker.beat(&a, "beat".into()).await.expect("it is sent");
    put(&broker, "a", &Subject::changes(), "three").await;
    let mut stored = Vec::new();
    let mut beats = 0;
    // Beats and stored messages may overtake each other.
    while stored.len() < 2 || beats < 1 {
        match live.next().await.expect("it goes on") {
            Hint::Stored(message) => stored.push(message),
            Hint::Beat(beat) => {
                assert_eq!(beat, "beat");
                beats += 1;
            }
        }
    }
    assert_eq!(texts(&stored), ["two", "three"]);
    assert_eq!(stored, all(&broker, "a", Stream::Changes).await[1..]);
}

async fn followers_get_nothing_that_is_refused(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let mut live = broker.follow(&a, Follow::Changes).await.expect("it can be followed");
    for expect in [Expect::Last(5), Expect::Last(0), Expect::Last(0), Expect::Last(1)] {
        let _ = broker.append(&a, &Subject::changes(), format!("{expect:?}").into(), expect).await;
    }
    for wanted in ["Last(0)", "Last(1)"] {
        let Some(Hint::Stored(stored)) = live.next().await else { panic!("a stored message comes") };
        assert_eq!(stored.payload, wanted);
    }
}

async fn followers_of_edits_are_woken(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let mut live = broker.follow(&a, Follow::Reverse).await.expect("it can be followed");
    put(&broker, "a", &Subject::changes(), "a set").await;
    put(&broker, "a", &Subject::reverse(&ReceiverName::new("oslo").expect("a good name")), "an edit").await;
    match live.next().await.expect("it goes on") {
        Hint::Stored(stored) => assert_eq!(stored.payload, "an edit"),
        Hint::Beat(payload) => assert_eq!(payload, "an edit"),
    }
}

async fn questions_are_answered(broker: Arc<dyn Broker>) {
    let a = source("a");
    broker.prepare(&a).await.expect("streams can be made");
    let mut questions = broker.questions(&a).await.expect("questions can be taken");
    let transmitter = async {
        for _ in 0..3 {
            let question = questions.next().await.expect("it goes on");
            let answer = [question.payload(), &b" yes"[..]].concat();
            question.answer(answer.into()).await;
        }
    };
    let asker = async {
        for question in ["one?", "two?", "three?"] {
            let answer = broker.ask(&a, question.into()).await.expect("asked");
            assert_eq!(answer, Some(Bytes::from(format!("{question} yes"))));
        }
    };
    tokio::join!(transmitter, asker);
}

async fn nobody_answers_where_there_is_no_transmitter(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    assert_eq!(broker.ask(&source("a"), "anybody?".into()).await.expect("asked"), None);
    let questions = broker.questions(&source("a")).await.expect("questions can be taken");
    drop(questions);
    assert_eq!(broker.ask(&source("a"), "still there?".into()).await.expect("asked"), None);
}

fn contents(from: u64, to: u64) -> Vec<(Subject, Bytes)> {
    let content = |at: u64| (Subject::snapshot(&format!("chunk.{at}")), Bytes::from(noise(at, 100)));
    (from..to).map(content).collect()
}

async fn contents_are_stored_together_and_found_by_name(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    assert_eq!(broker.tails(&source("a"), Stream::Snapshot, "snapshot").await.expect("asked"), [""; 0]);
    put(&broker, "a", &Subject::snapshot("other"), "x").await;
    put(&broker, "a", &Subject::snapshot("chunks.1"), "x").await;
    // More than a server takes in one batch.
    broker.append_contents(&source("a"), contents(0, 2_500)).await.expect("they are stored");
    broker.append_contents(&source("a"), Vec::new()).await.expect("nothing is to be done");
    let mut tails = broker.tails(&source("a"), Stream::Snapshot, "snapshot.chunk").await.expect("asked");
    tails.sort();
    let mut wanted: Vec<_> = contents(0, 2_500).into_iter().map(|(subject, _)| subject.tail).collect();
    wanted.sort();
    assert_eq!(tails, wanted);
    let asked: Vec<_> = (2_400..2_510).chain(5..10).map(|at| Subject::snapshot(&format!("chunk.{at}"))).collect();
    let mut found = broker.last_of(&source("a"), &asked).await.expect("asked");
    found.sort_by_key(|stored| stored.sequence);
    let mut expected = contents(5, 10);
    expected.extend(contents(2_400, 2_500));
    let found: Vec<_> = found
        .into_iter()
        .map(|stored| (Subject { stream: Stream::Snapshot, tail: stored.tail }, stored.payload))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(broker.last_of(&source("a"), &[]).await.expect("asked"), []);
}

async fn contents_that_are_there_are_no_conflict(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    broker.append_contents(&source("a"), contents(0, 5)).await.expect("they are stored");
    broker.append_contents(&source("a"), contents(3, 8)).await.expect("they are stored");
    assert_eq!(broker.tails(&source("a"), Stream::Snapshot, "snapshot.chunk").await.expect("asked").len(), 8);
    let (subject, content) = contents(4, 5).remove(0);
    let last = broker.last(&source("a"), &subject).await.expect("asked").expect("it is there");
    assert_eq!(last.payload, content);
}

async fn no_content_is_too_large(broker: Arc<dyn Broker>) {
    broker.prepare(&source("a")).await.expect("streams can be made");
    let too_large = Bytes::from(vec![0; 2 * 1024 * 1024]);
    let stored = broker.append_contents(&source("a"), vec![(Subject::snapshot("chunk.a"), too_large)]).await;
    assert!(matches!(stored, Err(AppendError::TooLarge { .. })), "{stored:?}");
}
