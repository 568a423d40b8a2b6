//! What lost buses, old states and crashes in between leave of somebody's edits: each is what a seed found, by the smallest way
//! there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deltabus_bus::broker::{Broker, Stream};
use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{Event, LastReverse, Log, Position, Reader, SnapshotReader, SnapshotWriter, pointer};
use deltabus_interfaces::Location;
use deltabus_receiver::Receiver;
use deltabus_record::change::{ReverseId, ReverseSet, Revision, Transaction};
use deltabus_record::schema::{ReceiverName, SourceName};
use deltabus_state::StateDirectory;
use deltabus_state::probe::{Probe, Step};
use deltabus_transmitter::Transmitter;
use tokio_util::sync::CancellationToken;

/// Fails the commits of a state store after so many.
struct Dies {
    after: usize,
    commits: AtomicUsize,
}

impl Probe for Dies {
    fn at(&self, step: Step) -> std::io::Result<()> {
        if step != Step::BeforeCommit || self.commits.fetch_add(1, Ordering::Relaxed) < self.after {
            return Ok(());
        }
        Err(std::io::ErrorKind::Interrupted.into())
    }
}

/// Edits a file as its user does, once after each of two commits of a state store that follow each other.
struct Edits {
    after: usize,
    commits: AtomicUsize,
    file: PathBuf,
    edits: [[&'static str; 2]; 2],
}

impl Probe for Edits {
    fn at(&self, step: Step) -> std::io::Result<()> {
        if step != Step::AfterCommit {
            return Ok(());
        }
        let at = self.commits.fetch_add(1, Ordering::Relaxed).checked_sub(self.after);
        if let Some([before, after]) = at.and_then(|at| self.edits.get(at)) {
            fs::write(&self.file, fs::read_to_string(&self.file)?.replace(before, after))?;
        }
        Ok(())
    }
}

/// A source and a receiver `oslo`.
struct World {
    folder: tempfile::TempDir,
    broker: Arc<MemoryBroker>,
    source: SourceName,
    /// Where the source and the destination are, in the folder.
    places: [&'static str; 2],
    /// Whether edits go back.
    reverse: bool,
}

impl World {
    fn new(places: [&'static str; 2]) -> World {
        let source = SourceName::new("people").unwrap();
        World {
            folder: tempfile::tempdir().unwrap(),
            broker: Arc::new(MemoryBroker::new()),
            source,
            places,
            reverse: true,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn location(&self, place: &str) -> Location {
        let (kind, rest) = place.split_once(':').unwrap();
        Location::parse(&format!("{kind}:{}/{rest}", self.folder.path().display())).unwrap()
    }

    fn log(&self) -> Log {
        Log::new(self.broker.clone(), self.source.clone())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn transmitter(&self, state: &str) -> Transmitter {
        self.transmitter_in(&StateDirectory::open(self.path(state)).unwrap())
    }

    fn transmitter_in(&self, state: &StateDirectory) -> Transmitter {
        let mut config = deltabus_transmitter::Config::new(self.source.clone(), self.location(self.places[0]));
        config.max_delete = 1.0;
        Transmitter::open(config, self.broker.clone(), state).unwrap()
    }

    fn receiver_in(&self, state: &StateDirectory) -> Receiver {
        let name = ReceiverName::new("oslo").unwrap();
        let mut config = deltabus_receiver::Config::new(self.source.clone(), self.location(self.places[1]), name);
        config.reverse = self.reverse;
        Receiver::open(config, self.broker.clone(), state).unwrap()
    }

    fn receiver(&self) -> Receiver {
        self.receiver_in(&StateDirectory::open(self.path("oslo")).unwrap())
    }

    /// The log expires.
    async fn trim_changes(&self) {
        let extent = self.broker.extent(&self.source, Stream::Changes).await.unwrap().unwrap();
        self.broker.trim(&self.source, Stream::Changes, extent.last + 1);
    }

    /// A receiver that fails at a commit of its state.
    fn dying_receiver(&self, after: usize) -> Receiver {
        let probe = Arc::new(Dies { after, commits: AtomicUsize::new(0) });
        self.receiver_in(&StateDirectory::open(self.path("oslo")).unwrap().probed(probe))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

const CSV: [&str; 2] = ["csv:people.csv?key=id", "csv:copy.csv?key=id"];

/// The snapshot said that all up to the last one taken were answered.
#[tokio::test(flavor = "multi_thread")]
async fn edits_that_the_bus_lost_before_they_were_taken_survive_a_join() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n3,333\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    let mut receiver = world.receiver();
    receiver.receive_once().await.unwrap();
    for edited in ["id,phone\n1,119\n2,222\n3,333\n", "id,phone\n1,119\n2,229\n3,333\n"] {
        world.write("copy.csv", edited);
        assert_eq!(receiver.receive_once().await.unwrap().edits, 1);
    }
    world.broker.trim(&world.source, Stream::Reverse, 2);
    assert_eq!(transmitter.transmit_once().await.unwrap().reverse_sets, 1);
    transmitter.snapshot().await.unwrap();
    world.trim_changes().await;

    assert!(receiver.receive_once().await.unwrap().joined);
    assert_eq!(transmitter.transmit_once().await.unwrap().reverse_sets, 1);
    receiver.receive_once().await.unwrap();
    assert_eq!(world.read("people.csv"), "id,phone\n1,119\n2,229\n3,333\n");
    assert_eq!(world.read("copy.csv"), world.read("people.csv"));
}

/// The second delete was taken for one of a row that was gone already.
#[tokio::test(flavor = "multi_thread")]
async fn several_of_many_equal_rows_can_go_at_once() {
    let world = World::new(["csv:people.csv", "csv:copy.csv"]);
    world.write("people.csv", "name\nKari\nOla\nOla\nOla\nOla\nPer\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    let mut receiver = world.receiver();
    receiver.receive_once().await.unwrap();
    world.write("copy.csv", "name\nKari\nOla\nOla\nPer\n");
    assert_eq!(receiver.receive_once().await.unwrap().edits, 2);
    transmitter.transmit_once().await.unwrap();
    assert_eq!(world.read("people.csv"), "name\nKari\nOla\nOla\nPer\n");
    assert_eq!(receiver.receive_once().await.unwrap().changes, 0);
    assert_eq!(world.read("copy.csv"), "name\nKari\nOla\nOla\nPer\n");
}

/// The answer to the set that had the number before was taken for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_receiver_sends_under_numbers_that_were_not_answered() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n3,333\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    let mut receiver = world.receiver();
    receiver.receive_once().await.unwrap();
    drop(receiver);
    copy(&world.path("oslo"), &world.path("backup"));
    let mut receiver = world.receiver();
    world.write("copy.csv", "id,phone\n1,119\n2,222\n3,333\n");
    receiver.receive_once().await.unwrap();
    transmitter.transmit_once().await.unwrap();
    receiver.receive_once().await.unwrap();
    drop(receiver);

    world.broker.lose(&world.source);
    transmitter.transmit_once().await.unwrap_err();
    transmitter.transmit_once().await.unwrap();
    fs::remove_dir_all(world.path("oslo")).unwrap();
    fs::rename(world.path("backup"), world.path("oslo")).unwrap();
    world.write("copy.csv", "id,phone\n1,119\n2,229\n3,333\n");
    let mut receiver = world.receiver();
    receiver.receive_once().await.unwrap();
    transmitter.transmit_once().await.unwrap();
    receiver.receive_once().await.unwrap();
    assert_eq!(world.read("people.csv"), "id,phone\n1,119\n2,229\n3,333\n");
    assert_eq!(world.read("copy.csv"), world.read("people.csv"));
}

/// A database that says it is at revision 2 of a log that was lost was left alone until the new one would get there.
#[tokio::test(start_paused = true)]
async fn a_destination_of_a_lost_log_is_made_equal_whenever_the_receiver_ended() {
    for commits in 0..8 {
        let world = World::new([CSV[0], "sqlite:copy.db"]);
        world.write("people.csv", "id,phone\n1,111\n2,222\n");
        let mut transmitter = world.transmitter("tx");
        transmitter.transmit_once().await.unwrap();
        world.write("people.csv", "id,phone\n1,111\n2,229\n");
        transmitter.transmit_once().await.unwrap();
        world.receiver().receive_once().await.unwrap();
        drop(transmitter);
        world.broker.lose(&world.source);
        world.write("people.csv", "id,phone\n1,111\n2,222\n3,333\n");
        world.transmitter("another").transmit_once().await.unwrap();

        // Wherever this one ends, the next one finishes.
        let _ = world.dying_receiver(commits).receive_once().await;
        let (stop, database) = (CancellationToken::new(), world.path("copy.db"));
        let running = tokio::spawn(world.receiver().run(stop.clone(), |_, _, _| {}));
        let database = rusqlite::Connection::open(database).unwrap();
        let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let equal =
            || count("SELECT count(*) FROM people") == 3 && count("SELECT count(*) FROM people WHERE phone = 222") == 1;
        let waited = async {
            while !equal() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(600), waited).await;
        assert!(waited.is_ok(), "after {commits} commits");
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

/// Nothing was looked for where a part was gone.
#[tokio::test(flavor = "multi_thread")]
async fn edits_beside_a_table_that_is_gone_survive_a_join_whenever_the_receiver_ended() {
    for commits in 0..8 {
        let world = World::new([
            "json:all.json?shape=tables&key.people=id&key.pets=id",
            "json:copy.json?shape=tables&key.people=id&key.pets=id",
        ]);
        let all = |phone: u64, name: &str| {
            format!(
                r#"{{"people":[{{"id":1,"phone":{phone}}},{{"id":2,"phone":222}}],"pets":[{{"id":1,"name":"{name}"}}]}}"#
            )
        };
        world.write("all.json", &all(111, "Laika"));
        let mut transmitter = world.transmitter("tx");
        transmitter.transmit_once().await.unwrap();
        world.receiver().receive_once().await.unwrap();
        world.write("all.json", &all(111, "Strelka"));
        transmitter.transmit_once().await.unwrap();
        transmitter.snapshot().await.unwrap();
        world.trim_changes().await;

        let _ = world.dying_receiver(commits).receive_once().await;
        world.write("copy.json", r#"{"people":[{"id":1,"phone":119},{"id":2,"phone":222}]}"#);
        world.receiver().receive_once().await.unwrap();
        transmitter.transmit_once().await.unwrap();
        world.receiver().receive_once().await.unwrap();
        for name in ["all.json", "copy.json"] {
            let text = world.read(name);
            assert!(text.contains("119") && text.contains("Strelka"), "{name} after {commits} commits: {text}");
        }
    }
}

/// It went on with numbers that whoever joined by that snapshot had passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_older_than_a_snapshot_that_lost_its_log_is_rebuilt_from_it() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    drop(transmitter);
    // Another one was about to found the log anew, and the log lost that.
    let log = world.log();
    let known = pointer(&log).await.unwrap().unwrap();
    let Event::CaughtUp(end) = Reader::at(&log, known.position).next_stored().await.unwrap() else { panic!("no set") };
    let position = Position { revision: Revision { number: 5, ..end.revision }, ..end };
    let mut snapshot = SnapshotWriter::begin(&log, position, &known.collections, 0).await.unwrap();
    let mut reader = SnapshotReader::open(&log).await.unwrap();
    while let Some(mut records) = reader.next().await.unwrap() {
        while let Some((collection, key, row)) = records.advance().unwrap() {
            snapshot.push(collection, key, row);
        }
    }
    snapshot.finish(Vec::new()).await.unwrap();

    world.write("people.csv", "id,phone\n1,111\n2,229\n");
    let round = world.transmitter("tx").transmit_once().await.unwrap();
    assert_eq!(round.revision, 6);
    assert_eq!(world.receiver().receive_once().await.unwrap().revision, 6);
    assert_eq!(world.read("copy.csv"), world.read("people.csv"));
}

/// Rows that had the new field's value already came a second time.
#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_come_once_where_the_new_field_stands_already() {
    let mut world = World::new(["csv:people.csv", "sqlite:copy.db"]);
    world.reverse = false;
    world.write("people.csv", "name\nKari\nOla\nOla\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();
    let database = rusqlite::Connection::open(world.path("copy.db")).unwrap();
    database.execute_batch("ALTER TABLE people ADD COLUMN phone; UPDATE people SET phone = '1'").unwrap();
    world.write("people.csv", "name,phone\nKari,1\nOla,1\nOla,2\n");
    transmitter.transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();
    let mut rows = database.prepare("SELECT name || phone FROM people ORDER BY 1").unwrap();
    let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows, ["Kari1", "Ola1", "Ola2"]);
}

/// By chance the same set came to lie where the last one taken had been, and what lay before it was passed over.
#[tokio::test(flavor = "multi_thread")]
async fn edits_before_one_that_was_sent_again_are_taken() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n3,333\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    let mut receiver = world.receiver();
    receiver.receive_once().await.unwrap();
    world.write("copy.csv", "id,phone\n1,119\n2,222\n3,333\n");
    receiver.receive_once().await.unwrap();
    let id = ReverseId { receiver: ReceiverName::new("bergen").unwrap(), number: 1 };
    let of_another = ReverseSet {
        id,
        base: Revision::default(),
        time_millis: 0,
        edits: Transaction::default(),
        fields: Default::default(),
    };
    world.log().send_reverse(&of_another, LastReverse::default()).await.unwrap().unwrap();
    assert_eq!(transmitter.transmit_once().await.unwrap().reverse_sets, 2);
    receiver.receive_once().await.unwrap();

    world.broker.cut(&world.source, Stream::Reverse, 0);
    let extent = world.broker.extent(&world.source, Stream::Changes).await.unwrap().unwrap();
    world.broker.cut(&world.source, Stream::Changes, extent.last - 1);
    world.write("copy.csv", "id,phone\n1,119\n2,229\n3,333\n");
    let _ = receiver.receive_once().await;
    world.log().send_reverse(&of_another, LastReverse::default()).await.unwrap().unwrap();
    world.write("people.csv", "id,phone\n1,119\n2,222\n3,339\n");
    transmitter.transmit_once().await.unwrap_err();
    transmitter.transmit_once().await.unwrap();
    receiver.receive_once().await.unwrap();
    assert_eq!(world.read("people.csv"), "id,phone\n1,119\n2,229\n3,339\n");
    assert_eq!(world.read("copy.csv"), world.read("people.csv"));
}

/// It stood there as if it were the destination's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_goes_that_went_with_the_log() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone,note\n1,111,a\n2,222,b\n");
    world.transmitter("tx").transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();
    world.broker.lose(&world.source);
    world.write("people.csv", "id,phone\n1,111\n2,222\n");
    world.transmitter("another").transmit_once().await.unwrap();
    assert!(world.receiver().receive_once().await.unwrap().joined);
    assert_eq!(world.read("copy.csv"), world.read("people.csv"));
}

/// The snapshot's next number was used again, though others had been told another state by it.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_went_by_age_are_not_used_again() {
    for state in ["old", "none"] {
        let world = World::new(CSV);
        world.write("people.csv", "id,phone\n1,111\n2,222\n");
        world.transmitter("tx").transmit_once().await.unwrap();
        copy(&world.path("tx"), &world.path("old"));
        for phone in [223, 224] {
            world.write("people.csv", &format!("id,phone\n1,111\n2,{phone}\n"));
            world.transmitter("tx").transmit_once().await.unwrap();
        }
        assert_eq!(world.receiver().receive_once().await.unwrap().revision, 3);
        world.trim_changes().await;

        world.write("people.csv", "id,phone\n1,111\n2,229\n");
        world.transmitter(state).transmit_once().await.unwrap();
        let founded = pointer(&world.log()).await.unwrap().unwrap().position.revision.number;
        assert!(founded > 3, "{state}: number {founded}");
        assert!(world.receiver().receive_once().await.unwrap().joined);
        assert_eq!(world.read("copy.csv"), world.read("people.csv"));
    }
}

/// Edits were looked for, and then the destination was made equal to the new base as it stood by then.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_made_between_looking_for_edits_and_making_a_destination_equal_is_not_written_over() {
    for after in 0..4 {
        let world = World::new(CSV);
        world.write("people.csv", "id,phone\n1,111\n2,222\n3,333\n");
        let mut transmitter = world.transmitter("tx");
        transmitter.transmit_once().await.unwrap();
        world.receiver().receive_once().await.unwrap();
        world.write("people.csv", "id,phone\n1,111\n2,222\n3,334\n");
        transmitter.transmit_once().await.unwrap();
        transmitter.snapshot().await.unwrap();
        world.trim_changes().await;

        let (file, edits) = (world.path("copy.csv"), [["1,111", "1,119"], ["2,222", "2,229"]]);
        let probe = Arc::new(Edits { after, commits: AtomicUsize::new(0), file, edits });
        let state = StateDirectory::open(world.path("oslo")).unwrap().probed(probe.clone());
        let mut receiver = world.receiver_in(&state);
        assert!(receiver.receive_once().await.unwrap().joined);
        receiver.receive_once().await.unwrap();
        drop(receiver);
        let commits = probe.commits.load(Ordering::Relaxed);
        assert!(commits > after + 1, "only {commits} commits");
        transmitter.transmit_once().await.unwrap();
        world.receiver().receive_once().await.unwrap();
        assert_eq!(world.read("people.csv"), "id,phone\n1,119\n2,229\n3,334\n", "after commit {after}");
        assert_eq!(world.read("copy.csv"), world.read("people.csv"));
    }
}

/// The log was as long as before, and led on for whoever had read it, but for nobody who joined.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_stands_on_a_message_that_the_log_lost_is_replaced() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n");
    world.transmitter("tx").transmit_once().await.unwrap();
    copy(&world.path("tx"), &world.path("old"));
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    transmitter.snapshot().await.unwrap();
    drop(transmitter);
    // What went is the claim of the one who wrote the snapshot.
    let extent = world.broker.extent(&world.source, Stream::Changes).await.unwrap().unwrap();
    let snapshot = pointer(&world.log()).await.unwrap().unwrap();
    assert_eq!(snapshot.position.sequence, extent.last);
    world.broker.cut(&world.source, Stream::Changes, extent.last - 1);

    world.transmitter("old").transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();
    assert_eq!(world.read("copy.csv"), world.read("people.csv"));
}

/// Fails after the first commit that comes once a file holds this text.
struct DiesOnceWritten {
    file: PathBuf,
    text: &'static str,
}

impl Probe for DiesOnceWritten {
    fn at(&self, step: Step) -> std::io::Result<()> {
        let written = fs::read_to_string(&self.file).is_ok_and(|text| text.contains(self.text));
        match written && step == Step::AfterCommit {
            true => Err(std::io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

/// It had written the edit to the source, and ended before its set was published; another transmitter found that at the source, so that
/// the log came to the same state without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn edits_are_answered_where_another_transmitter_led_the_log_to_the_state_that_they_make() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n");
    world.transmitter("tx").transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();
    world.write("copy.csv", "id,phone\n1,111\n2,223\n");
    assert_eq!(world.receiver().receive_once().await.unwrap().edits, 1);
    let probe = Arc::new(DiesOnceWritten { file: world.path("people.csv"), text: "2,223" });
    let state = StateDirectory::open(world.path("tx")).unwrap().probed(probe);
    world.transmitter_in(&state).transmit_once().await.unwrap_err();
    assert_eq!(world.read("people.csv"), world.read("copy.csv"));

    world.broker.cut(&world.source, Stream::Reverse, 0);
    let round = world.transmitter("other").transmit_once().await.unwrap();
    assert_eq!((round.revision, round.changes), (2, 1));
    let mut transmitter = world.transmitter("tx");
    assert_eq!(transmitter.transmit_once().await.unwrap().revision, 2);
    world.receiver().receive_once().await.unwrap();
    assert_eq!(transmitter.transmit_once().await.unwrap().reverse_sets, 1);
    world.receiver().receive_once().await.unwrap();
    let status = deltabus_state::read_status(&world.path("oslo/receivers/people/oslo")).unwrap();
    let status = String::from_utf8(status).unwrap();
    assert!(status.contains("\"pending\":0"), "{status}");
}

/// The log was empty when the receiver came back: nothing there told which numbers of its own had been answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_receiver_sends_nothing_before_a_lost_log_is_founded_anew() {
    let world = World::new(CSV);
    world.write("people.csv", "id,phone\n1,111\n2,222\n");
    let mut transmitter = world.transmitter("tx");
    transmitter.transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();
    copy(&world.path("oslo"), &world.path("old"));
    world.write("copy.csv", "id,phone\n1,112\n2,222\n");
    world.receiver().receive_once().await.unwrap();
    transmitter.transmit_once().await.unwrap();
    world.receiver().receive_once().await.unwrap();

    world.broker.lose(&world.source);
    world.broker.prepare(&world.source).await.unwrap();
    fs::remove_dir_all(world.path("oslo")).unwrap();
    copy(&world.path("old"), &world.path("oslo"));
    world.write("copy.csv", "id,phone\n1,112\n2,223\n");
    world.receiver().receive_once().await.unwrap_err();
    drop(transmitter);
    let mut transmitter = world.transmitter("tx");
    for _ in 0..2 {
        transmitter.transmit_once().await.unwrap();
        world.receiver().receive_once().await.unwrap();
    }
    for file in ["people.csv", "copy.csv"] {
        assert_eq!(world.read(file), "id,phone\n1,112\n2,223\n");
    }
}
