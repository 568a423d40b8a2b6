//! Two transmitters of one source: one is active, the other takes its place when it dies, freezes, is cut off or stops. Writers
//! go on all the time; nothing is lost, nothing comes twice. Run with --nocapture to see how long it took.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deltabus_tests::proxy::Proxy;
use deltabus_tests::{Running, World};

/// How a transmitter says in its log that it is active, that it isn't any more, and that it stands by.
const ACTIVE: &str = "the log is claimed";
const REPLACED: &str = "no longer active";
const STANDS_BY: &str = "standing by: another transmitter is active";

/// Pause of a writer between two edits.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a writer waits for a database that somebody else writes.
const BUSY: Duration = Duration::from_secs(30);

/// A writer's records: more begin anew with the first.
const RECORDS: u64 = 50;

/// Two transmitters, and how they are started.
struct Two<'a> {
    world: &'a World,
    lines: [String; 2],
    running: [Option<Running>; 2],
}

impl<'a> Two<'a> {
    /// Starts one that becomes active, then one that stands by.
    fn start(world: &'a World, lines: [String; 2]) -> Two<'a> {
        let mut two = Two { world, lines, running: [None, None] };
        two.running[0] = Some(world.start(&two.lines[0]));
        two.wait(0, ACTIVE, 0);
        two.running[1] = Some(world.start(&two.lines[1]));
        two.wait(1, STANDS_BY, 0);
        two
    }

    fn of(&self, which: usize) -> &Running {
        self.running[which].as_ref().expect("it is running")
    }

    /// How often one has said something.
    fn said(&self, which: usize, what: &str) -> usize {
        self.of(which).log().matches(what).count()
    }

    /// Waits until one has said something more often than `before`.
    fn wait(&self, which: usize, what: &str, before: usize) {
        self.world.wait(&format!("`{}` says: {what}", self.lines[which]), || self.said(which, what) > before);
    }

    /// Lets something befall the active one, and waits until the other has taken over.
    fn fails(&mut self, which: usize, how: &str, fault: impl FnOnce(&mut Two<'a>)) {
        let (other, start) = (1 - which, Instant::now());
        let before = self.said(other, ACTIVE);
        fault(self);
        self.wait(other, ACTIVE, before);
        println!("{how}: taken over after {} ms", start.elapsed().as_millis());
    }
}

/// Writes a table all the time, each record its own.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<String, String>>,
}

impl Writer {
    fn start(name: &'static str, database: PathBuf) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut left = BTreeMap::new();
            let connection = rusqlite::Connection::open(database).unwrap();
            connection.busy_timeout(BUSY).unwrap();
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (id, note) = (format!("{name}-{}", number % RECORDS), format!("{name} {number}"));
                let sql = "INSERT INTO people VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET note = ?2";
                connection.execute(sql, [&id, &note]).unwrap();
                left.insert(id, note);
                std::thread::park_timeout(PAUSE);
            }
            left
        });
        Writer { stop, thread }
    }

    /// How its records were left.
    fn stop(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer ends well")
    }
}

fn table(world: &World, database: &str) -> BTreeMap<String, String> {
    let connection = rusqlite::Connection::open(world.path(database)).unwrap();
    connection.busy_timeout(BUSY).unwrap();
    let mut statement = connection.prepare("SELECT id, note FROM people").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// All revisions of the log stand there once, in order.
fn revisions_are_whole(world: &World, bus: &str) {
    let log = world.run(&format!("log people --json --bus {bus}")).exits(0).stdout();
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].as_u64().unwrap();
    let mut numbers: Vec<u64> = log.lines().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "a revision is missing or stands twice");
    println!("{} revisions, each once", numbers.len());
}

fn bus_of(world: &World) -> String {
    world.run("bus start").exits(0);
    world.bus_url()
}

/// A database at both ends that is written there while it is received or transmitted.
fn database(world: &World, name: &str) {
    world.sql(name, "PRAGMA journal_mode = WAL; CREATE TABLE people (id text PRIMARY KEY, note text)");
}

#[test]
fn whoever_stands_by_takes_over_from_one_that_is_killed_frozen_or_stopped() {
    let world = World::new();
    let bus = bus_of(&world);
    database(&world, "source.db");
    let source = "sqlite:source.db?tables=people";
    let line = |which: &str| format!("transmit people {source} --standby --poll 1s --state state-{which} --bus {bus}");
    let mut two = Two::start(&world, [line("a"), line("b")]);
    let _receivers = [
        world.start(&format!("receive people sqlite:there.db --name there --reverse --poll 1s --bus {bus}")),
        world.start(&format!("receive people csv:copy.csv?key=id --name copy --bus {bus}")),
    ];
    world.wait_equal(source, "sqlite:there.db");
    let writers = [Writer::start("here", world.path("source.db")), Writer::start("there", world.path("there.db"))];

    two.fails(0, "killed with signal 9", |two| two.running[0].take().expect("it is running").kill());
    // Whoever comes back stands by; its state, which may be ahead of the log, follows the log.
    two.running[0] = Some(world.start(&two.lines[0]));
    two.wait(0, STANDS_BY, 0);

    two.fails(1, "frozen", |two| two.of(1).freeze());
    two.of(1).thaw();
    two.wait(1, REPLACED, 0);
    two.wait(1, STANDS_BY, 1);

    let status = world.run(&format!("status --state state-a --bus {bus}")).exits(0).stdout();
    assert!(status.contains("is active"), "{status}");
    let status = world.run(&format!("status --state state-b --bus {bus}")).exits(0).stdout();
    assert!(status.contains("standing by"), "{status}");

    two.fails(0, "stopped", |two| assert!(two.running[0].take().expect("it is running").stop().success()));

    let left: Vec<_> = writers.into_iter().map(Writer::stop).collect();
    let all: BTreeMap<String, String> = left.into_iter().flatten().collect();
    world.wait("every edit is at the source", || table(&world, "source.db") == all);
    world.wait_equal(source, "sqlite:there.db");
    world.wait_equal(source, "csv:copy.csv?key=id");
    revisions_are_whole(&world, &bus);
}

#[test]
fn an_active_one_that_does_not_stand_by_is_replaced_and_says_so() {
    let world = World::new();
    let bus = bus_of(&world);
    world.write("people.csv", "id,note\nfirst,first\n");
    let source = "csv:people.csv?key=id";
    let line = |more: &str| format!("transmit people {source} --poll 1s --bus {bus} {more}");
    let mut two = Two::start(&world, [line("--state state-a"), line("--state state-b --standby")]);
    let _receivers = [
        world.start(&format!("receive people sqlite:there.db --name there --reverse --poll 1s --bus {bus}")),
        world.start(&format!("receive people csv:copy.csv?key=id --name copy --bus {bus}")),
    ];
    world.wait_equal(source, "sqlite:there.db");
    // The source gets its edits from there: the active one is frozen while it writes them.
    let writer = Writer::start("there", world.path("there.db"));
    two.fails(0, "frozen", |two| two.of(0).freeze());
    two.of(0).thaw();
    let mut replaced = two.running[0].take().expect("it is running");
    world.wait("the one that was frozen ends", || replaced.has_ended());
    assert!(replaced.log().contains("has taken over `people`"), "{}", replaced.log());
    // A third without the flag is told who is active, as ever.
    let third = world.run(&line("--state state-c")).exits(2);
    assert!(third.stderr().contains("is being transmitted already by"), "{}", third.text());

    let mut all = writer.stop();
    all.insert("first".into(), "first".into());
    world.wait_equal(source, "sqlite:there.db");
    assert_eq!(table(&world, "there.db"), all, "no edit is undone");
    world.wait("every edit is at the source", || world.read("people.csv").lines().count() == all.len() + 1);
    world.wait_equal(source, "csv:copy.csv?key=id");
    revisions_are_whole(&world, &bus);
}

#[test]
fn one_that_is_cut_off_is_replaced_and_stands_by_when_it_is_back() {
    let world = World::new();
    let bus = bus_of(&world);
    let proxy = Proxy::before(&bus);
    database(&world, "source.db");
    let source = "sqlite:source.db?tables=people";
    let line = |which: &str, bus: &str| {
        format!("transmit people {source} --standby --poll 1s --state state-{which} --bus {bus}")
    };
    let mut two = Two::start(&world, [line("a", proxy.url()), line("b", &bus)]);
    let _receiver = world.start(&format!("receive people csv:copy.csv?key=id --name copy --bus {bus}"));
    let writer = Writer::start("here", world.path("source.db"));
    two.fails(0, "cut off", |_| {
        proxy.close(true);
        proxy.cut();
    });
    proxy.close(false);
    two.wait(0, STANDS_BY, 0);
    two.fails(1, "killed with signal 9", |two| two.running[1].take().expect("it is running").kill());
    // What it sends gets lost, though the connection stands: nobody has to notice that but whoever stands by.
    two.running[1] = Some(world.start(&two.lines[1]));
    two.wait(1, STANDS_BY, 0);
    two.fails(0, "unheard", |_| proxy.deafen(true));
    proxy.deafen(false);
    proxy.cut();
    two.wait(0, STANDS_BY, 1);
    let all = writer.stop();
    world.wait_equal(source, "csv:copy.csv?key=id");
    assert_eq!(table(&world, "source.db"), all);
    revisions_are_whole(&world, &bus);
}
