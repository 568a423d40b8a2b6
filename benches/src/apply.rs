//! Applying sets at the destination: large ones beside the store's own bulk loader or a plain rewrite of the file, waiting
//! small ones beside a loop of upserts written by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use deltabus_test_servers::postgres::Server;
use futures::StreamExt;

use crate::join::{import, psql, settle};
use crate::measure::{Case, RUNS, Result, alternative, in_turn};
use crate::pipeline::Deltabus;
use crate::postgres;
use crate::rows::{self, Table};

/// How many sets wait for a receiver, and what each changes.
const WAITING: [u32; 5] = [1000, 100, 10, 1, 0];
const SET_ROWS: u32 = 10;

/// Rows of the table that the small sets change.
const SMALL_ROWS: u32 = 20_000;

/// What of a thousand rows the middle-sized set changes.
const CHANGED: u64 = 10;

/// How long one set may take to be published.
const PATIENCE: Duration = Duration::from_secs(30);

const FILES: [&str; 3] = ["csv", "json", "ndjson"];

/// All of it, for sets of up to `rows` rows.
pub(crate) fn apply(rows: u64) -> Result<()> {
    large(rows)?;
    waiting()
}

/// The text table of the made-up rows, as deltabus makes it.
fn postgres_table() -> String {
    let columns: Vec<_> = rows::HEADER.split(',').map(|name| format!("{name} text")).collect();
    format!("CREATE TABLE bench ({}, PRIMARY KEY (id))", columns.join(", ").replacen("text", "text NOT NULL", 1))
}

/// Where a destination lies.
fn location(world: &Deltabus, server: &Server, kind: &str, round: usize) -> String {
    match kind {
        "postgres" => server.location(&format!("copy_{round}"), "tables=bench"),
        "sqlite" => format!("sqlite:{}", world.path(&format!("copy{round}.db")).display()),
        kind => format!("{kind}:{}?key=id", world.path(&format!("copy{round}.{kind}")).display()),
    }
}

/// One set that brings all rows but one, then one that changes a part of them.
fn large(rows: u64) -> Result<()> {
    let world = Deltabus::new()?;
    let server = Server::with(postgres::SETTINGS);
    let (one, all, changed) = (world.path("one.csv"), world.path("all.csv"), world.path("changed.csv"));
    rows::write(&one, 1, 0)?;
    rows::write(&all, rows, 0)?;
    Table { changed: CHANGED, ..Table::new(rows, 8) }.write(&changed)?;
    let delta = world.path("delta.csv");
    only_changed(&all, &changed, &delta)?;
    let publish = |version: &Path| -> Result<()> {
        fs::copy(version, world.path("bench.csv"))?;
        world.run("transmit bench csv:bench.csv?key=id --once -q").map(drop)
    };
    let receive = |kind: &str, round: usize| {
        world.command(&format!(
            "receive bench {} --name {kind}-{round} --once -q",
            location(&world, &server, kind, round)
        ))
    };
    let kinds = ["sqlite", "postgres"].into_iter().chain(FILES);
    publish(&one)?;
    for round in 1..=RUNS {
        server.run("postgres", &format!("CREATE DATABASE copy_{round}"));
        for kind in kinds.clone() {
            succeed(&mut receive(kind, round))?;
        }
    }
    publish(&all)?;
    println!("one set that brings {rows} rows, {} MB as CSV", fs::metadata(&all)?.len() / 1_000_000);
    for kind in kinds.clone() {
        let mut round = 0;
        let target = world.path(&format!("loaded.{kind}"));
        let loader = Case::new(
            match kind {
                "sqlite" => "sqlite3 .import".to_owned(),
                "postgres" => "COPY FROM".to_owned(),
                kind => format!("plain writing, {kind}"),
            },
            &[0],
            || {
                let _ = fs::remove_file(&target);
                let command = match kind {
                    "sqlite" => import(&target, &all),
                    "postgres" => {
                        server.run("postgres", "DROP DATABASE IF EXISTS loaded");
                        server.run("postgres", "CREATE DATABASE loaded");
                        server.run("loaded", &postgres_table());
                        psql(&server, "loaded", &format!("\\copy bench FROM '{}' (FORMAT csv, HEADER)", all.display()))
                    }
                    kind => alternative(&format!("write-{kind}"), &[&all, &target])?,
                };
                settle()?;
                Ok(command)
            },
        );
        let ours = Case::new(format!("deltabus receive --once, {kind}"), &[0], || {
            round += 1;
            settle()?;
            Ok(receive(kind, round))
        });
        in_turn(vec![loader, ours], RUNS)?;
    }
    publish(&changed)?;
    println!("\none set that changes {} % of these rows", CHANGED as f64 / 10.0);
    for kind in kinds {
        let mut round = 0;
        let target = world.path(&format!("loaded.{kind}"));
        let loop_of_upserts = Case::new(
            match kind {
                "sqlite" | "postgres" => format!("upserts by hand, {kind}"),
                kind => format!("plain rewriting, {kind}"),
            },
            &[0],
            || {
                let command = match kind {
                    "sqlite" => alternative("upsert-sqlite", &[&target, &delta])?,
                    "postgres" => alternative("upsert-postgres", &[server.socket(), Path::new("loaded"), &delta])?,
                    kind => alternative(&format!("rewrite-{kind}"), &[&target, &delta])?,
                };
                settle()?;
                Ok(command)
            },
        );
        let ours = Case::new(format!("deltabus receive --once, {kind}"), &[0], || {
            round += 1;
            settle()?;
            Ok(receive(kind, round))
        });
        in_turn(vec![loop_of_upserts, ours], RUNS)?;
    }
    Ok(())
}

/// Writes the rows of `after` that differ from those of `before`, behind the number of the set that they belong to.
fn only_changed(before: &Path, after: &Path, delta: &Path) -> Result<()> {
    let (mut before, mut after) = (csv::Reader::from_path(before)?, csv::Reader::from_path(after)?);
    let mut out = csv::Writer::from_path(delta)?;
    out.write_record(std::iter::once(&b"edit"[..]).chain(after.byte_headers()?))?;
    for (before, after) in before.byte_records().zip(after.byte_records()) {
        let after = after?;
        if before? != after {
            out.write_record(std::iter::once(&b"1"[..]).chain(&after))?;
        }
    }
    Ok(out.flush()?)
}

/// Small sets that wait while nobody receives.
fn waiting() -> Result<()> {
    let world = Deltabus::new()?;
    let server = Server::with(postgres::SETTINGS);
    let mut source = Source::new(&world)?;
    world.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let kinds = ["sqlite", "postgres"];
    let numbered = |waiting: u32, run: usize| waiting as usize * RUNS + run;
    let receive = |kind: &str, waiting: u32, run: usize| {
        let round = numbered(waiting, run);
        world.command(&format!(
            "receive bench {} --name {kind}-{round} --once -q",
            location(&world, &server, kind, round)
        ))
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let mut live = runtime.block_on(async {
        let client = world.client().await?;
        let live = client.subscribe("deltabus.bench.live").await?;
        client.flush().await?;
        Ok::<_, Box<dyn std::error::Error>>(live)
    })?;
    let mut transmitter = world.command("transmit bench csv:bench.csv?key=id -q");
    let mut transmitter = transmitter.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let made = (|| -> Result<Vec<PathBuf>> {
        let most = WAITING[0];
        let mut deltas = Vec::new();
        let mut made = 0;
        // The first edit waits for the transmitter to be up.
        for waiting in WAITING {
            while most - made > waiting {
                source.edit()?;
                runtime.block_on(async { tokio::time::timeout(PATIENCE, live.next()).await })?;
                made += 1;
            }
            for run in 0..RUNS {
                let round = numbered(waiting, run);
                server.run("postgres", &format!("CREATE DATABASE copy_{round}"));
                for kind in kinds {
                    succeed(&mut receive(kind, waiting, run))?;
                }
            }
            deltas.push(world.path(&format!("delta{waiting}.csv")));
        }
        Ok(deltas)
    })();
    // It is ours; one that has ended is no trouble.
    let _ = transmitter.kill();
    let _ = transmitter.wait();
    let deltas = made?;
    println!("\nwaiting sets of {SET_ROWS} changes each, a table of {SMALL_ROWS} rows");
    for kind in kinds {
        for (waiting, delta) in WAITING.into_iter().zip(&deltas).rev() {
            source.write_last(waiting, delta)?;
            let (mut by_hand, mut ours) = (0, 0);
            let before = commits(&world, &server, kind, numbered(waiting, 0))?;
            in_turn(
                vec![
                    Case::new(format!("{waiting} sets, upserts by hand, {kind}"), &[0], || {
                        by_hand += 1;
                        let round = numbered(waiting, by_hand - 1);
                        let command = match kind {
                            "sqlite" => {
                                let target = world.path("by-hand.db");
                                fs::copy(world.path(&format!("copy{round}.db")), &target)?;
                                alternative("upsert-sqlite", &[&target, delta])?
                            }
                            _ => {
                                server.run("postgres", "DROP DATABASE IF EXISTS by_hand");
                                server.run("postgres", &format!("CREATE DATABASE by_hand TEMPLATE copy_{round}"));
                                alternative("upsert-postgres", &[server.socket(), Path::new("by_hand"), delta])?
                            }
                        };
                        settle()?;
                        Ok(command)
                    }),
                    Case::new(format!("{waiting} sets, deltabus receive --once, {kind}"), &[0], || {
                        ours += 1;
                        settle()?;
                        Ok(receive(kind, waiting, ours - 1))
                    }),
                ],
                RUNS,
            )?;
            let commits = commits(&world, &server, kind, numbered(waiting, 0))? - before;
            println!("{:<44} {commits} transactions at the destination", "");
            check(&world, &server, kind, numbered(waiting, 0))?;
        }
    }
    Ok(())
}

/// How many transactions have written the table: SQLite's change counter; PostgreSQL's rows name theirs, each of which wrote
/// rows that no later one wrote.
fn commits(world: &Deltabus, server: &Server, kind: &str, round: usize) -> Result<i64> {
    match kind {
        "sqlite" => {
            let header = fs::read(world.path(&format!("copy{round}.db")))?;
            let counter: [u8; 4] = header.get(24..28).ok_or("there is no header")?.try_into()?;
            Ok(u32::from_be_bytes(counter).into())
        }
        _ => {
            let count = server.run(&format!("copy_{round}"), "SELECT count(DISTINCT xmin::text) FROM bench");
            Ok(count.parse()?)
        }
    }
}

/// Fails unless a destination holds what the source does.
fn check(world: &Deltabus, server: &Server, kind: &str, round: usize) -> Result<()> {
    let line = format!("diff csv:bench.csv?key=id {} --stat", location(world, server, kind, round));
    succeed(&mut world.command(&line))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A CSV file that is edited again and again.
struct Source<'a> {
    world: &'a Deltabus,
    rows: Vec<String>,
    /// The rows of each edit.
    edits: Vec<Vec<usize>>,
}

impl Source<'_> {
    fn new(world: &Deltabus) -> Result<Source<'_>> {
        let mut rows = Vec::new();
        for id in 1..=SMALL_ROWS {
            let mut line = String::new();
            rows::row(&mut line, id.into(), false);
            rows.push(line);
        }
        let source = Source { world, rows, edits: Vec::new() };
        source.write()?;
        Ok(source)
    }

    /// Changes some rows that no edit has changed yet.
    fn edit(&mut self) -> Result<()> {
        let number = self.edits.len();
        // A stride that has no divisor in common with the number of rows.
        let place = |at: u32| (number * SET_ROWS as usize + at as usize) * 7_919 % self.rows.len();
        let places: Vec<usize> = (0..SET_ROWS).map(place).collect();
        for place in &places {
            let line = &mut self.rows[*place];
            line.truncate(line.len() - 2);
            line.push_str(&format!(", set {number}\"\n"));
        }
        self.edits.push(places);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = format!("{}\n{}", rows::HEADER, self.rows.concat());
        fs::write(self.world.path("new.csv"), text)?;
        Ok(fs::rename(self.world.path("new.csv"), self.world.path("bench.csv"))?)
    }

    /// Writes the rows of the last `count` edits, each behind its edit's number.
    fn write_last(&self, count: u32, path: &Path) -> Result<()> {
        let first = self.edits.len() - count as usize;
        let line = |(number, place): (usize, &usize)| format!("{number},{}", self.rows[*place]);
        let edits = self.edits.iter().enumerate().skip(first);
        let lines = edits.flat_map(|(number, places)| places.iter().map(move |place| (number, place))).map(line);
        Ok(fs::write(path, format!("edit,{}\n{}", rows::HEADER, lines.collect::<String>()))?)
    }
}
