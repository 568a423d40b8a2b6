//! What peers send that may send, and shouldn't: refused or bounded, and nobody else waits for it. On a memory bus.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deltabus_bus::broker::{Broker, Expect, Subject};
use deltabus_bus::lease;
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{
    Clock, Delivered, Entry, Error as BusError, Event, LastReverse, Log, Position, Reader, SystemClock, encode_reverse,
    encode_set, history, pointer,
};
use deltabus_interfaces::Location;
use deltabus_proto::v1;
use deltabus_record::change::{
    Change, ChangeSet, CollectionChanges, ConflictPolicy, FieldChange, ReverseId, ReverseSet, Revision, Transaction,
};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::schema::{CollectionName, ReceiverName};
use deltabus_record::value::Value;
use deltabus_state::StateDirectory;
use deltabus_transmitter::{Config, Error, Round, Transmitter};
use prost::Message;
use tokio_util::sync::CancellationToken;

/// Records of the source; all but two of them are edited by the flood of one receiver, several shares of a round.
const RECORDS: u64 = 450;

/// A source file, its transmitter's state, a bus.
struct World {
    folder: tempfile::TempDir,
    log: Log,
    policy: ConflictPolicy,
}

impl World {
    fn new(policy: ConflictPolicy) -> World {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let log = Log::new(broker, "people".parse().unwrap());
        let world = World { folder: tempfile::tempdir().unwrap(), log, policy };
        let rows: String = (1..=RECORDS).map(|id| format!("{id},first\n")).collect();
        world.write(&format!("id,note\n{rows}"));
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("people.csv")
    }

    fn write(&self, content: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn change(&self, id: u64, note: &str) {
        let content = std::fs::read_to_string(self.path()).unwrap();
        let begins = format!("{id},");
        let line = |line: &str| if line.starts_with(&begins) { format!("{id},{note}\n") } else { format!("{line}\n") };
        self.write(&content.lines().map(line).collect::<String>());
    }

    fn note(&self, id: u64) -> String {
        let content = std::fs::read_to_string(self.path()).unwrap();
        let begins = format!("{id},");
        content.lines().find_map(|line| line.strip_prefix(&begins)).expect("it is there").to_owned()
    }

    fn transmitter(&self) -> Transmitter {
        let state = StateDirectory::open(self.folder.path().join("state")).unwrap();
        let location = Location::parse(&format!("csv:{}?key=id", self.path().display())).unwrap();
        let mut config = Config::new(self.log.source().clone(), location);
        config.conflicts = self.policy;
        let interface = deltabus_interfaces::open(&config.location).unwrap();
        Transmitter::with_interface(config, interface.into(), self.log.clone(), &state).unwrap()
    }

    async fn put(&self, subject: &Subject, payload: Bytes) {
        self.log.broker().append(self.log.source(), subject, payload, Expect::Any).await.unwrap();
    }

    async fn send(&self, receiver: &str, number: u64, time_millis: u64, edits: Vec<Change>) {
        let set = ReverseSet {
            id: ReverseId { receiver: name(receiver), number },
            base: Revision::default(),
            time_millis,
            edits: transaction(edits),
            fields: BTreeMap::new(),
        };
        let last = self.log.last_reverse(&set.id.receiver).await.unwrap();
        let last = LastReverse { sequence: last.sequence, number };
        assert!(self.log.send_reverse(&set, last).await.unwrap().is_some());
    }

    /// All sets of the log.
    async fn sets(&self) -> Vec<Delivered> {
        let mut sets = Vec::new();
        let mut take = |entry| {
            if let Entry::Set(set) = entry {
                sets.push(*set);
            }
        };
        history(&self.log, &mut take).await.unwrap();
        sets
    }

    /// Where whoever joins now gets to.
    async fn end(&self) -> Position {
        let manifest = pointer(&self.log).await.unwrap().expect("there is a snapshot");
        let mut reader = Reader::at(&self.log, manifest.position);
        loop {
            match reader.next_stored().await.unwrap() {
                Event::Set(_) => {}
                Event::CaughtUp(position) => return position,
                Event::Rejoin(reason) => panic!("{reason}"),
            }
        }
    }

    /// Stores a set as the current writer would.
    async fn forge(&self, term: u64, set: &ChangeSet) {
        let sets = v1::ChangeSets { sets: vec![encode_set(set).0] }.encode_to_vec();
        let (length, compression) = (sets.len() as u64, v1::Compression::None.into());
        let bundle = v1::envelope::Content::Bundle(v1::Bundle { compression, length, sets: sets.into() });
        let envelope = v1::Envelope { version: 1, term, content: Some(bundle) };
        self.put(&Subject::changes(), envelope.encode_to_vec().into()).await;
    }
}

fn name(receiver: &str) -> ReceiverName {
    receiver.parse().unwrap()
}

fn transaction(changes: Vec<Change>) -> Transaction {
    let collections = vec![CollectionChanges { collection: CollectionName::new("people"), changes }];
    Transaction { schemas: Vec::new(), collections }
}

fn edit(id: u64, before: &str, after: &str) -> Change {
    let field = FieldChange { slot: 1, before: Value::text(before), after: Value::text(after) };
    Change::Update { key: Key::of(&[Value::text(id.to_string())]), fields: vec![field] }
}

fn now() -> u64 {
    SystemClock.now_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_among_reverse_sets_keeps_no_edit_waiting() {
    let world = World::new(ConflictPolicy::Source);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    for garbage in [&b""[..], b"\x00", b"\x01\xff", &[0xff; 1000], b"\x00{\"edits\": []}"] {
        world.put(&Subject::reverse(&name("oslo")), Bytes::copy_from_slice(garbage)).await;
    }
    // A number after which there is none, and more edits than anybody sends.
    world.send("oslo", u64::MAX, now(), vec![edit(1, "first", "of oslo")]).await;
    world.send("oslo", 1, now(), (0..30_000).map(|_| edit(1, "first", "of oslo")).collect()).await;
    world.send("bergen", 1, now(), vec![edit(2, "first", "of bergen")]).await;
    let round = transmitter.transmit_once().await.unwrap();
    assert_eq!((round.reverse_sets, world.note(1).as_str(), world.note(2).as_str()), (1, "first", "of bergen"));
    // Who sent it isn't shut out.
    world.send("oslo", 2, now(), vec![edit(1, "first", "of oslo")]).await;
    transmitter.transmit_once().await.unwrap();
    assert_eq!(world.note(1), "of oslo");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_is_never_taken_again_and_numbers_may_jump() {
    let world = World::new(ConflictPolicy::Receiver);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    world.send("oslo", 1, now(), vec![edit(1, "first", "one")]).await;
    world.send("oslo", 7, now(), vec![edit(1, "one", "seven")]).await;
    world.send("oslo", 7, now(), vec![edit(1, "seven", "again")]).await;
    world.send("oslo", 3, now(), vec![edit(1, "seven", "three")]).await;
    world.send("oslo", 0, now(), vec![edit(1, "seven", "zero")]).await;
    let round = transmitter.transmit_once().await.unwrap();
    assert_eq!((round.reverse_sets, world.note(1).as_str()), (2, "seven"));
    // Nor by another that takes over with what the log says only.
    drop(transmitter);
    std::fs::remove_dir_all(world.folder.path().join("state")).unwrap();
    let round = world.transmitter().transmit_once().await.unwrap();
    assert_eq!((round.reverse_sets, world.note(1).as_str()), (0, "seven"));
}

/// A date far ahead won every conflict.
#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_cannot_be_wins_nothing() {
    let world = World::new(ConflictPolicy::Latest);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    world.change(1, "changed");
    world.change(2, "changed");
    transmitter.transmit_once().await.unwrap();
    world.send("oslo", 1, now() + 3 * 3_600_000, vec![edit(1, "first", "of oslo")]).await;
    world.send("oslo", 2, u64::MAX, vec![edit(1, "first", "of oslo"), edit(3, "first", "of oslo")]).await;
    // Clocks differ a little.
    world.send("bergen", 1, now() + 60_000, vec![edit(2, "first", "of bergen")]).await;
    let round = transmitter.transmit_once().await.unwrap();
    assert_eq!(round.conflicts, 3);
    assert_eq!(world.note(1), "changed", "the source stands where there is a conflict");
    assert_eq!(world.note(2), "of bergen");
    assert_eq!(world.note(3), "of oslo", "where there is none the edit is as good as any");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_keeps_neither_others_edits_nor_the_source_waiting() {
    let world = World::new(ConflictPolicy::Source);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    let flood = RECORDS - 2;
    for number in 1..=flood {
        world.send("oslo", number, now(), vec![edit(number, "first", "of oslo")]).await;
    }
    world.send("bergen", 1, now(), vec![edit(RECORDS, "first", "of bergen")]).await;
    let stop = CancellationToken::new();
    let mut rounds = 0;
    let after = |_: &_, result: &Result<Round, Error>| {
        let round = result.as_ref().unwrap();
        rounds += 1;
        if rounds == 1 {
            // Somebody changes the source while the flood is being taken.
            assert!(round.more);
            world.change(RECORDS - 1, "of the source");
        } else if !round.more {
            stop.cancel();
        }
    };
    transmitter.run(stop.clone(), after).await.unwrap();
    for number in 1..=flood {
        assert_eq!(world.note(number), "of oslo", "all of it is taken in the end");
    }
    let sets = world.sets().await;
    let last = |is: &dyn Fn(&ChangeSet) -> bool| sets.iter().rposition(|set| is(&set.set)).expect("it is there");
    let answers = |set: &ChangeSet, receiver: &str| set.replies.iter().any(|it| it.reverse.receiver == name(receiver));
    let oslo = last(&|set| answers(set, "oslo"));
    assert!(last(&|set| answers(set, "bergen")) < oslo, "bergen waits for no flood of oslo");
    assert!(last(&|set| set.replies.is_empty()) < oslo, "nor does the source");
    let replies = sets.iter().flat_map(|set| &set.set.replies);
    let numbers = replies.filter(|reply| reply.reverse.receiver == name("oslo")).map(|reply| reply.reverse.number);
    assert_eq!(numbers.collect::<Vec<_>>(), (1..=flood).collect::<Vec<_>>(), "each once, in order");
}

/// Whoever holds the broker puts a set there that claims another state than it leads to: nobody can go on from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_set_that_leads_nowhere_is_answered_by_a_new_foundation() {
    let world = World::new(ConflictPolicy::Latest);
    let mut transmitter = world.transmitter();
    for (at, forged) in
        [vec![edit(1, "first", "forged")], vec![edit(1, "other", "forged")], vec![]].into_iter().enumerate()
    {
        transmitter.transmit_once().await.unwrap();
        let end = world.end().await;
        let next = Revision { number: end.revision.number + 1, digest: Digest { records: 99, sum: 99 } };
        let (base, transactions) = (end.revision, vec![transaction(forged)]);
        world.forge(end.term, &ChangeSet { base, next, time_millis: u64::MAX, transactions, replies: vec![] }).await;
        world.change(2, &format!("after {at}"));
        let told = transmitter.transmit_once().await.unwrap_err();
        assert!(matches!(told, Error::Bus(BusError::Disturbed { .. })) && told.is_passing(), "{told}");
        transmitter.transmit_once().await.unwrap();
        assert_eq!((world.note(1).as_str(), world.note(2)), ("first", format!("after {at}")), "the source stands");
        assert!(world.end().await.revision.number > end.revision.number, "whoever joins now gets to the end");
    }
}

/// A set that is right in itself can't be told from the transmitter's own; the source is what counts all the same, and no
/// date in it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_set_that_fits_is_taken_back_by_the_next_scan() {
    let world = World::new(ConflictPolicy::Latest);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    let end = world.end().await;
    let (base, next) = (end.revision, Revision { number: end.revision.number + 1, ..end.revision });
    world
        .forge(end.term, &ChangeSet { base, next, time_millis: u64::MAX, transactions: vec![], replies: vec![] })
        .await;
    world.change(1, "changed");
    assert!(transmitter.transmit_once().await.is_err());
    transmitter.transmit_once().await.unwrap();
    let end = world.end().await;
    assert_eq!(end.revision.number, next.number + 1);
    let last = world.sets().await.pop().expect("a set");
    assert!(last.set.time_millis < now() + 2 * 3_600_000, "{}", last.set.time_millis);
}

/// Nobody can tell a forged claim from another transmitter's; one that stands by comes back when nobody answers for it.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_stands_by_takes_the_log_back_from_a_claim_of_nobody() {
    let world = World::new(ConflictPolicy::Source);
    let state = StateDirectory::open(world.folder.path().join("state")).unwrap();
    let location = Location::parse(&format!("csv:{}?key=id", world.path().display())).unwrap();
    let mut config = Config::new(world.log.source().clone(), location);
    (config.standby, config.poll) = (true, Some(Duration::from_millis(100)));
    let transmitter = Transmitter::open(config, world.log.broker().clone(), &state).unwrap();
    let (sender, mut rounds) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let after = move |_: &_, result: &Result<Round, Error>| {
        let _ = sender.send(result.as_ref().map_or(0, |round| round.revision));
    };
    let running = tokio::spawn(transmitter.run(stop.clone(), after));
    for revision in 1..=3 {
        if revision > 1 {
            let claim = v1::Claim { transmitter: "nobody".into(), nonce: 1 };
            let term = world.end().await.term + 5;
            let envelope = v1::Envelope { version: 1, term, content: Some(v1::envelope::Content::Claim(claim)) };
            world.put(&Subject::changes(), envelope.encode_to_vec().into()).await;
            world.change(1, &format!("note {revision}"));
        }
        while rounds.recv().await.expect("it goes on") < revision {}
        assert_eq!(world.end().await.revision.number, revision);
    }
    stop.cancel();
    running.await.unwrap().unwrap();
    // It ended in an orderly way: whoever stands by needs not wait.
    assert_eq!(lease::find(&world.log).await.unwrap().holder(), None);
}

/// A set of another source, or of this one at another time, leads on from nothing that was reached. The transmitter notices
/// also when it has nothing to publish.
#[tokio::test(start_paused = true)]
async fn a_set_of_elsewhere_is_noticed_by_a_transmitter_at_rest() {
    let world = World::new(ConflictPolicy::Source);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    let end = world.end().await;
    let base = Revision { number: end.revision.number + 5, digest: Digest { records: 7, sum: 7 } };
    let next = Revision { number: base.number + 1, ..base };
    world.forge(end.term, &ChangeSet { base, next, time_millis: 0, transactions: vec![], replies: vec![] }).await;
    transmitter.transmit_once().await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let told = transmitter.transmit_once().await.unwrap_err();
    assert!(matches!(told, Error::Bus(BusError::Disturbed { .. })), "{told}");
    transmitter.transmit_once().await.unwrap();
    assert!(world.end().await.revision.number > end.revision.number);
}

/// Whoever may send under any name may send under many.
#[tokio::test(flavor = "multi_thread")]
async fn names_without_end_are_not_remembered_without_end() {
    let world = World::new(ConflictPolicy::Source);
    let mut transmitter = world.transmitter();
    transmitter.transmit_once().await.unwrap();
    world.send("oslo", 1, now(), vec![edit(1, "first", "of oslo")]).await;
    transmitter.transmit_once().await.unwrap();
    let id = ReverseId { receiver: name("many"), number: 1 };
    let edits = transaction(vec![edit(2, "first", "of many")]);
    let set = encode_reverse(&ReverseSet {
        id,
        base: Revision::default(),
        time_millis: now(),
        edits,
        fields: BTreeMap::new(),
    });
    for number in 0..6_000 {
        world.put(&Subject::reverse(&name(&format!("many-{number}"))), set.clone()).await;
    }
    transmitter.transmit_once().await.unwrap();
    let answered = world.sets().await.iter().map(|set| set.set.replies.len()).sum::<usize>();
    assert!((4_096..6_000).contains(&answered), "{answered}");
    // Whoever is known is heard as ever.
    world.send("oslo", 2, now(), vec![edit(3, "first", "of oslo")]).await;
    transmitter.transmit_once().await.unwrap();
    assert_eq!((world.note(1).as_str(), world.note(3).as_str()), ("of oslo", "of oslo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_of_garbage_is_replaced() {
    let world = World::new(ConflictPolicy::Source);
    world.transmitter().transmit_once().await.unwrap();
    world.put(&Subject::snapshot("pointer"), Bytes::from_static(b"\xff\xff garbage")).await;
    assert!(pointer(&world.log).await.is_err());
    let round = world.transmitter().transmit_once().await.unwrap();
    assert!(round.snapshot);
    assert_eq!(world.end().await.revision.number, 1);
}
