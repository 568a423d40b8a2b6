//! What a destination refuses, with the process ending at any commit of its state.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deltabus_bus::memory::MemoryBroker;
use deltabus_bus::{Log, Position, ReversePlace, SnapshotWriter, Writer, encode_set};
use deltabus_interfaces::Location;
use deltabus_receiver::{Config, Error, OnError, Receiver, Round};
use deltabus_record::change::{Change, ChangeSet, CollectionChanges, Revision, Transaction};
use deltabus_record::diff;
use deltabus_record::digest::{Digest, RecordHasher};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use deltabus_state::probe::{Probe, Step};
use deltabus_state::{StateDirectory, read_letters};

fn people() -> Collection {
    let text = Some(Kind::Text);
    let fields = vec![Field::new("id", text, 0), Field::new("name", text, 1)];
    Collection { name: CollectionName::new("people"), schema: Schema { fields, key: KeySpec::Fields(vec![0]) } }
}

fn row(id: &str, name: &str) -> Row {
    Row::of(&[Value::text(id), Value::text(name)])
}

fn revision(number: u64, records: &[(&str, &str)]) -> Revision {
    let hasher = RecordHasher::new(&people().name);
    let mut digest = Digest::default();
    for (id, name) in records {
        digest.add(hasher.hash(Key::of(&[Value::text(*id)]).as_bytes(), row(id, name).as_bytes()));
    }
    Revision { number, digest }
}

/// The sets that lead from each state to the next.
fn sets(states: &[&[(&str, &str)]]) -> Vec<ChangeSet> {
    let find =
        |state: &[(&str, &str)], id: &str| state.iter().find(|(known, _)| *known == id).map(|(id, name)| row(id, name));
    let mut sets = Vec::new();
    for (at, pair) in states.windows(2).enumerate() {
        let mut ids: Vec<&str> = pair.iter().flat_map(|state| state.iter().map(|(id, _)| *id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let change = |id: &&str| -> Option<Change> {
            let (before, after) = (find(pair[0], id), find(pair[1], id));
            diff::change(Key::of(&[Value::text(*id)]), before.as_ref(), after.as_ref())
        };
        let changes = CollectionChanges { collection: people().name, changes: ids.iter().filter_map(change).collect() };
        sets.push(ChangeSet {
            base: revision(at as u64 + 1, pair[0]),
            next: revision(at as u64 + 2, pair[1]),
            time_millis: 1_000 + at as u64,
            transactions: vec![Transaction { schemas: Vec::new(), collections: vec![changes] }],
            replies: Vec::new(),
        });
    }
    sets
}

/// A log that begins with a state.
async fn log_of(state: &[(&str, &str)]) -> (Log, Writer) {
    let log = Log::new(Arc::new(MemoryBroker::new()), "people".parse().unwrap());
    log.prepare().await.unwrap();
    let (mut writer, _) = Writer::claim(&log, "t", Position::default()).await.unwrap();
    let first = revision(1, state);
    let position = Position { revision: first, ..writer.position() };
    let mut snapshot = SnapshotWriter::begin(&log, position, &[people()], 0).await.unwrap();
    for (id, name) in state {
        snapshot.push(0, Key::of(&[Value::text(*id)]).as_bytes(), row(id, name).as_bytes());
    }
    let manifest = snapshot.finish(Vec::new()).await.unwrap();
    writer.found(&manifest.id, first, 0).await.unwrap();
    (log, writer)
}

/// Fails the commit of this number, before or after it is durable; the process ends there.
struct EndsAt {
    commit: usize,
    step: Step,
    met: AtomicUsize,
}

impl Probe for EndsAt {
    fn at(&self, step: Step) -> io::Result<()> {
        if step == self.step && self.met.fetch_add(1, Ordering::Relaxed) == self.commit {
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }
}

async fn receive(log: &Log, location: &str, state: &StateDirectory) -> Result<Round, Error> {
    let mut config = Config::new(log.source().clone(), Location::parse(location).unwrap(), "a".parse().unwrap());
    config.on_error = OnError::DeadLetter;
    config.reverse = true;
    let interface = deltabus_interfaces::open(&config.location).unwrap();
    Receiver::with_interface(config, interface.into(), log.clone(), state)?.receive_once().await
}

/// Receives with an end at each commit in turn and once more, and holds what came of it each time.
async fn wherever_it_ends(
    location: &str,
    prepare: impl Fn(&Path),
    held: impl Fn(&Path) -> String,
    states: &[&[(&str, &str)]],
) {
    let mut ended = 0;
    for step in [Step::BeforeCommit, Step::AfterCommit] {
        for commit in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let (log, mut writer) = log_of(states[0]).await;
            let location = location.replace("{}", folder.path().to_str().unwrap());
            prepare(folder.path());
            let state = || StateDirectory::open(folder.path().join("state")).unwrap();
            let probe = Arc::new(EndsAt { commit, step, met: AtomicUsize::new(0) });
            let mut ends = false;
            for sets in [Vec::new(), sets(states)] {
                for set in sets {
                    writer.publish(&[(set.next, encode_set(&set))]).await.unwrap();
                }
                let first = receive(&log, &location, &state().probed(probe.clone())).await;
                ends |= first.is_err();
                let again = receive(&log, &location, &state()).await;
                assert!(again.is_ok(), "commit {commit}, {step:?}: {first:?}, then {again:?}");
            }
            let letters = read_letters(&state().receiver_folder(log.source(), &"a".parse().unwrap())).unwrap();
            let letters = String::from_utf8(letters).unwrap();
            let told = format!("commit {commit}, {step:?}\n{letters}");
            assert_eq!(held(folder.path()), "1 Anna, 2 Bob, 4 Dan", "{told}");
            assert_eq!(letters.matches("\"id\":\"a/").count(), 2, "{told}");
            assert!(letters.contains("Ω"), "{told}");
            // Nothing of it was taken for an edit that the source lacks.
            for reversed in log.reverse_sets(ReversePlace::default()).await.unwrap() {
                for edit in reversed.set.unwrap().edits.collections.iter().flat_map(|edits| &edits.changes) {
                    let name = edit.key().as_bytes() == Key::of(&[Value::text("2")]).as_bytes();
                    assert!(!name, "{told}{edit:?}");
                }
            }
            // Twice is once.
            assert_eq!(receive(&log, &location, &state()).await.unwrap().changes, 0, "{told}");
            if !ends {
                break;
            }
            ended += 1;
        }
    }
    assert!(ended > 10, "it ended {ended} times");
}

const STATES: [&[(&str, &str)]; 3] = [
    &[("1", "Ann"), ("2", "Bob"), ("3", "Cleo")],
    &[("1", "Ann"), ("2", "Bob Ω"), ("3", "Cleo")],
    &[("1", "Anna"), ("2", "Bob Ω Ω"), ("4", "Dan"), ("5", "Eve Ω")],
];

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_rows_is_what_it_takes() {
    let prepare = |folder: &Path| {
        let rules = "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT CHECK (name NOT LIKE '%Ω%'))";
        rusqlite::Connection::open(folder.join("people.db")).unwrap().execute_batch(rules).unwrap();
    };
    let held = |folder: &Path| {
        let database = rusqlite::Connection::open(folder.join("people.db")).unwrap();
        let sql = "SELECT group_concat(id || ' ' || name, ', ') FROM (SELECT * FROM people ORDER BY id)";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    wherever_it_ends("sqlite:{}/people.db", prepare, held, &STATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_no_place_for_a_value_is_what_it_takes() {
    let held = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("people.csv")).unwrap();
        let mut rows: Vec<String> = text.lines().skip(1).map(|line| line.replace(',', " ")).collect();
        rows.sort();
        rows.join(", ")
    };
    wherever_it_ends("csv:{}/people.csv?key=id&encoding=latin1", |_| {}, held, &STATES).await;
}
