//! From a change of the source file to its arrival in destinations on disk.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::measure::{Result, Running, quantile};
use crate::pipeline::Deltabus;

/// How long one change may take before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two changes, so that each is on its own.
const PAUSE: Duration = Duration::from_millis(30);

/// How often the destinations are looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Rows of the source.
const ROWS: u32 = 1_000;

/// The destinations, of one process.
const MIXED: [&str; 8] = [
    "csv:a.csv?key=id",
    "csv:b.csv?key=id",
    "tsv:c.tsv?key=id",
    "json:d.json?key=id",
    "json:e.json?key=id",
    "ndjson:f.ndjson?key=id",
    "sqlite:g.db",
    "sqlite:h.db",
];

/// What happens beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// Another source is transmitted on the same bus, as quick as it goes.
    Load,
}

/// Measures `changes` single edits of a CSV on their way into eight destinations, and where their time goes.
pub(crate) fn latency(changes: u32, beside: Beside) -> Result<()> {
    let deltabus = Deltabus::new()?;
    let stage = Stage::set(&deltabus, &MIXED)?;
    let load = (beside == Beside::Load).then(|| Load::begin(&deltabus)).transpose()?;
    // The first ones find caches cold.
    stage.play(changes.min(20))?;
    let played = stage.play(changes)?;
    let lines = stage.lines();
    print!("from a change of the source file to {} destinations on disk, {changes} changes", MIXED.len());
    match &load {
        None => println!(", nothing else"),
        Some(load) => println!(", beside a source of which {:.0} sets a second are published", load.rate()),
    }
    drop(load);
    let mut names = vec!["in all of them".to_owned()];
    let mut columns = vec![played.iter().map(|played| (played.arrived - played.start) * 1e3).collect::<Vec<_>>()];
    let mut part = |name: &str, of: &dyn Fn(&Played, &HashMap<String, f64>) -> Option<f64>| {
        let millis = played.iter().filter_map(|played| of(played, lines.get(&played.revision)?).map(|time| time * 1e3));
        names.push(name.to_owned());
        columns.push(millis.collect());
    };
    part("… until noticed and scanned", &|played, at| Some(at.get("changed")? - played.start));
    part("… until staged durably", &|_, at| Some(at.get("staged")? - at.get("changed")?));
    part("… until published", &|_, at| Some(at.get("published")? - at.get("staged")?));
    part("… until the first destination has it", &|_, at| Some(at.get("first")? - at.get("published")?));
    part("… until the last has it", &|_, at| Some(at.get("last")? - at.get("first")?));
    part("… until this program saw it", &|played, at| Some(played.arrived - at.get("last")?));
    println!("{:<42} {:>8} {:>8} {:>8} {:>8}  ms", "", "p50", "p99", "p99.9", "most");
    for (name, mut millis) in names.into_iter().zip(columns) {
        millis.sort_by(f64::total_cmp);
        let at = |part| quantile(&millis, part);
        println!("{name:<42} {:>8.2} {:>8.2} {:>8.2} {:>8.2}", at(0.5), at(0.99), at(0.999), at(1.0));
    }
    Ok(())
}

/// The way to one destination alone, and beside a receiver that takes ten seconds for each set and one that is frozen for good.
pub(crate) fn beside_slow_receivers(changes: u32) -> Result<()> {
    println!("from a change of the source file to one destination on disk, {changes} changes");
    let deltabus = Deltabus::new()?;
    let stage = Stage::set(&deltabus, &["sqlite:copy.db"])?;
    let server = deltabus_test_servers::postgres::lease();
    let database = server.database();
    let slow = server.location(&database, "tables=bench");
    deltabus.run(&format!("receive bench {slow} --name slow --once -q"))?;
    deltabus.run("receive bench csv:frozen.csv?key=id --name frozen --once -q")?;
    server.run(&database, SLOW);
    for round in ["alone", "beside a slow and a frozen one", "alone", "beside a slow and a frozen one"] {
        let mut others = Running::default();
        if round != "alone" {
            others.0.push(start(&deltabus, &format!("receive bench {slow} --name slow"))?);
            others.0.push(start(&deltabus, "receive bench csv:frozen.csv?key=id --name frozen")?);
            std::thread::park_timeout(Duration::from_secs(2));
            let frozen = rustix::process::Pid::from_child(&others.0[1]);
            rustix::process::kill_process(frozen, rustix::process::Signal::STOP)?;
        }
        let mut millis: Vec<f64> =
            stage.play(changes)?.iter().map(|played| (played.arrived - played.start) * 1e3).collect();
        millis.sort_by(f64::total_cmp);
        let at = |part| quantile(&millis, part);
        println!("{round:<32}p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(0.5), at(0.99), at(1.0));
    }
    Ok(())
}

/// Makes each statement that changes the table wait.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(10); RETURN NULL; END $$;
    CREATE TRIGGER wait AFTER INSERT OR UPDATE ON bench FOR EACH STATEMENT EXECUTE FUNCTION wait()";

fn start(deltabus: &Deltabus, line: &str) -> Result<Child> {
    Ok(deltabus.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Seconds of the day, as log lines tell them.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64() % 86_400.0)
}

/// The seconds of the day in a log line's time: `2026-01-31T12:34:56.123456Z`.
fn seconds_in(time: &str) -> Option<f64> {
    let (_, clock) = time.trim_end_matches('Z').split_once('T')?;
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().ok());
    Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
}

/// When what happened to each revision, in seconds of the day.
type Lines = HashMap<u64, HashMap<String, f64>>;

/// A source, a transmitter and a receiver process.
struct Stage<'a> {
    deltabus: &'a Deltabus,
    destinations: Vec<Destination>,
    _running: Running,
    lines: Arc<Mutex<Lines>>,
    edit: Cell<u32>,
}

/// One change on its way.
struct Played {
    revision: u64,
    /// When the source file was in place, in seconds of the day.
    start: f64,
    /// When all destinations were seen to have it.
    arrived: f64,
}

enum Destination {
    File(PathBuf),
    Database(rusqlite::Connection),
}

impl Destination {
    fn has(&self, wanted: &str, seen: &mut u64) -> Result<bool> {
        match self {
            // Another file stands there after each change.
            Destination::File(path) => {
                let inode = std::fs::metadata(path)?.ino();
                Ok(std::mem::replace(seen, inode) != inode && std::fs::read_to_string(path)?.contains(wanted))
            }
            Destination::Database(database) => {
                let mut query = database.prepare_cached("SELECT count FROM bench WHERE id = '500'")?;
                Ok(query.query_row([], |row| row.get::<_, String>(0))? == wanted)
            }
        }
    }
}

impl Stage<'_> {
    fn set<'a>(deltabus: &'a Deltabus, locations: &[&str]) -> Result<Stage<'a>> {
        write(deltabus, "bench", "start")?;
        deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
        let mut text = String::from("name = \"copy\"\n");
        for location in locations {
            writeln!(text, "[[destination]]\nsource = \"bench\"\nlocation = \"{location}\"")?;
        }
        std::fs::write(deltabus.path("copies.toml"), text)?;
        deltabus.run("receive --config copies.toml --once -q")?;
        let lines: Arc<Mutex<Lines>> = Arc::default();
        let mut running = Running::default();
        for line in ["transmit bench csv:bench.csv?key=id", "receive --config copies.toml"] {
            let mut command = deltabus.command(&format!("{line} --log-format json"));
            command.env("DELTABUS_LOG", "deltabus_transmitter=debug,deltabus_receiver=debug");
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            let errors = child.stderr.take().ok_or("it has no standard error")?;
            let lines = Arc::clone(&lines);
            std::thread::spawn(move || read_lines(BufReader::new(errors), &lines));
            running.0.push(child);
        }
        let destinations = locations.iter().map(|location| {
            let (kind, file) = location.split_once(':').ok_or("a location has a kind")?;
            let path = deltabus.path(file.split('?').next().unwrap_or(file));
            if kind != "sqlite" {
                return Ok(Destination::File(path));
            }
            let database = rusqlite::Connection::open(path)?;
            database.busy_timeout(Duration::from_secs(5))?;
            Ok(Destination::Database(database))
        });
        let destinations = destinations.collect::<Result<_>>()?;
        let stage = Stage { deltabus, destinations, _running: running, lines, edit: Cell::new(0) };
        // The first waits for the processes to be up.
        stage.play(1)?;
        Ok(stage)
    }

    /// Makes so many edits, one after the other.
    fn play(&self, changes: u32) -> Result<Vec<Played>> {
        let mut all = Vec::new();
        let mut seen = vec![0; self.destinations.len()];
        for _ in 0..changes {
            std::thread::park_timeout(PAUSE);
            self.edit.set(self.edit.get() + 1);
            let wanted = format!("edit-{}-", self.edit.get());
            write(self.deltabus, "bench", &wanted)?;
            let (begin, start) = (Instant::now(), now());
            let mut lacking: Vec<usize> = (0..self.destinations.len()).collect();
            while !lacking.is_empty() {
                let mut left = Vec::new();
                for at in lacking {
                    if !self.destinations[at].has(&wanted, &mut seen[at])? {
                        left.push(at);
                    }
                }
                lacking = left;
                if begin.elapsed() > PATIENCE {
                    return Err(format!("edit {wanted} did not arrive").into());
                }
                if !lacking.is_empty() {
                    std::thread::park_timeout(LOOK);
                }
            }
            // The log begins with the first revision.
            all.push(Played { revision: u64::from(self.edit.get()) + 1, start, arrived: now() });
        }
        Ok(all)
    }

    fn lines(&self) -> Lines {
        // What was just done is told in a moment.
        std::thread::park_timeout(Duration::from_millis(200));
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Takes down what the processes say they did.
fn read_lines(lines: impl BufRead, into: &Mutex<Lines>) {
    let mut changed = None;
    for line in lines.lines().map_while(|line| line.ok()) {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        let Some(time) = line["timestamp"].as_str().and_then(seconds_in) else { continue };
        let fields = &line["fields"];
        let message = fields["message"].as_str().unwrap_or_default();
        if message == "the source has changed" {
            changed = Some(time);
        }
        let Some(revision) = fields["revision"].as_u64() else { continue };
        let mut all = into.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.entry(revision).or_default();
        match message {
            "a set is staged" => {
                at.extend(changed.take().map(|changed| ("changed".to_owned(), changed)));
                at.insert("staged".into(), time);
            }
            "a set is published" => {
                at.insert("published".into(), time);
            }
            "a set is applied" => {
                at.entry("first".into()).and_modify(|first| *first = first.min(time)).or_insert(time);
                at.entry("last".into()).and_modify(|last| *last = last.max(time)).or_insert(time);
            }
            _ => {}
        }
    }
}

/// A source file with an edit in it.
fn write(deltabus: &Deltabus, name: &str, edit: &str) -> Result<()> {
    let mut text = String::from("id,name,count\n");
    for id in 1..=ROWS {
        writeln!(text, "{id},Item {id},{}", if id == 500 { edit } else { "0" })?;
    }
    let new = deltabus.path(&format!("{name}.new"));
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, deltabus.path(&format!("{name}.csv")))?)
}

/// Another source on the same bus, of which the next set is made as soon as the former is published.
struct Load {
    stop: Arc<AtomicBool>,
    sets: Arc<Mutex<u64>>,
    begin: Instant,
    _running: Running,
}

impl Load {
    fn begin(deltabus: &Deltabus) -> Result<Load> {
        write(deltabus, "load", "start")?;
        deltabus.run("transmit load csv:load.csv?key=id --once -q")?;
        let running = Running(vec![start(deltabus, "transmit load csv:load.csv?key=id -q")?]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(deltabus.client())?;
        let new = deltabus.path("load.new");
        let file = deltabus.path("load.csv");
        let (stop, sets) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sets));
        std::thread::spawn(move || {
            runtime.block_on(async {
                use futures::StreamExt;
                let Ok(mut live) = client.subscribe("deltabus.load.live").await else { return };
                let _ = client.flush().await;
                for edit in 0_u64.. {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut text = String::from("id,name,count\n");
                    for id in 1..=ROWS {
                        let _ = writeln!(text, "{id},Item {id},{edit}");
                    }
                    let _ = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file));
                    // A heartbeat now and then lets one more out, which does no harm.
                    let _ = tokio::time::timeout(PATIENCE, live.next()).await;
                    *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                }
            });
        });
        Ok(Load { stop, sets, begin: Instant::now(), _running: running })
    }

    /// Sets a second so far.
    fn rate(&self) -> f64 {
        *self.sets.lock().unwrap_or_else(PoisonError::into_inner) as f64 / self.begin.elapsed().as_secs_f64()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
