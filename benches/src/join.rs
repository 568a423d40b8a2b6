//! Joining by snapshot and tail, beside the store's own bulk load of the same rows.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use deltabus_test_servers::postgres::Server;

use crate::measure::{Case, Result, in_turn};
use crate::pipeline::Deltabus;
use crate::postgres;
use crate::rows::{self, Table};

/// What of a thousand rows changes after the snapshot: what a receiver finds in the log when it has loaded it.
const TAIL: u64 = 1;

/// A kind of destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
    Sqlite,
    Postgres,
}

/// Joins of `rows` rows, each of `runs` times.
pub(crate) fn join(rows: u64, runs: usize, to: &[To]) -> Result<()> {
    for to in to {
        match to {
            To::Sqlite => sqlite(rows, runs)?,
            To::Postgres => postgres(rows, runs)?,
        }
    }
    Ok(())
}

/// The table as deltabus makes it, so that both sides write the same.
pub(crate) fn sqlite_table() -> String {
    let columns: Vec<_> = rows::HEADER.split(',').map(|name| format!("\"{name}\" TEXT")).collect();
    format!("CREATE TABLE bench ({}, PRIMARY KEY (id));", columns.join(", ").replacen("TEXT", "TEXT NOT NULL", 1))
}

/// `sqlite3 .import` of a CSV file into a new table.
pub(crate) fn import(database: &Path, csv: &Path) -> Command {
    let mut command = Command::new("sqlite3");
    command.arg(database).arg(sqlite_table()).arg(format!(".import --csv --skip 1 {} bench", csv.display()));
    command
}

/// Lets what was written before reach the disk, so that nobody pays for it.
pub(crate) fn settle() -> Result<()> {
    Command::new("sync").status()?;
    Ok(())
}

fn sqlite(rows: u64, runs: usize) -> Result<()> {
    let world = Deltabus::new()?;
    let source = world.path("bench.csv");
    rows::write(&source, rows, 0)?;
    world.run("transmit bench csv:bench.csv?key=id --once -q")?;
    Table { changed: TAIL, ..Table::new(rows, 8) }.write(&source)?;
    world.run("transmit bench csv:bench.csv?key=id --once -q")?;
    println!(
        "{rows} rows into SQLite, {} MB as CSV; one in a thousand changed after the snapshot",
        megabytes(&source)?
    );
    let (imported, joined) = (world.path("import.db"), world.path("joined.db"));
    let mut round = 0;
    in_turn(
        vec![
            Case::new("sqlite3 .import", &[0], || {
                let _ = fs::remove_file(&imported);
                settle()?;
                Ok(import(&imported, &source))
            }),
            Case::new("deltabus receive --once (snapshot and tail)", &[0], || {
                round += 1;
                let _ = fs::remove_file(&joined);
                settle()?;
                Ok(world.command(&format!("receive bench sqlite:joined.db --name r{round} --once -q")))
            }),
        ],
        runs,
    )?;
    let sum = |path: &Path| -> Result<i64> {
        let sql = "SELECT sum(length(id) * length(amount) * unicode(note) + length(note)) FROM bench";
        Ok(rusqlite::Connection::open(path)?.query_row(sql, [], |row| row.get(0))?)
    };
    if sum(&imported)? == sum(&joined)? { Ok(()) } else { Err("the two are not equal".into()) }
}

fn postgres(rows: u64, runs: usize) -> Result<()> {
    let (publisher, subscriber) = (Server::with(postgres::SETTINGS), Server::with(postgres::SETTINGS));
    let source = publisher.database();
    postgres::fill(&publisher, &source, rows);
    let world = Deltabus::new()?;
    let from = publisher.location(&source, "tables=bench");
    world.run(&format!("transmit bench {from} --once -q"))?;
    publisher.run(&source, &format!("UPDATE bench SET note = 'again' WHERE id % {} = 0", 1000 / TAIL));
    world.run(&format!("transmit bench {from} --once -q"))?;
    let dump = world.path("bench.copy");
    let copied =
        psql(&publisher, &source, &format!("\\copy bench TO '{}' (FORMAT binary)", dump.display())).status()?;
    if !copied.success() {
        return Err("the rows could not be copied out".into());
    }
    println!(
        "\n{rows} rows into PostgreSQL, {} MB as binary COPY; one in a thousand changed after the snapshot",
        megabytes(&dump)?
    );
    let (imported, joined) = (subscriber.fresh_name(), subscriber.fresh_name());
    let anew = |name: &str| -> Result<()> {
        subscriber.run("postgres", &format!("DROP DATABASE IF EXISTS {name}"));
        subscriber.run("postgres", &format!("CREATE DATABASE {name}"));
        subscriber.run("postgres", "CHECKPOINT");
        settle()
    };
    let mut round = 0;
    in_turn(
        vec![
            Case::new("COPY FROM, binary, into a table with its key", &[0], || {
                anew(&imported)?;
                subscriber.run(&imported, postgres::TABLE);
                Ok(psql(&subscriber, &imported, &format!("\\copy bench FROM '{}' (FORMAT binary)", dump.display())))
            }),
            Case::new("COPY TO | COPY FROM, from the source", &[0], || {
                anew(&imported)?;
                subscriber.run(&imported, postgres::TABLE);
                Ok(postgres::pipe(&publisher, &source, &subscriber, &imported))
            }),
            Case::new("deltabus receive --once (snapshot and tail)", &[0], || {
                round += 1;
                anew(&joined)?;
                let to = subscriber.location(&joined, "tables=bench");
                Ok(world.command(&format!("receive bench {to} --name r{round} --once -q")))
            }),
        ],
        runs,
    )?;
    let sum = |database: &str| subscriber.run(database, "SELECT sum(hashtext(bench::text)::bigint) FROM bench");
    if sum(&imported) == sum(&joined) { Ok(()) } else { Err("the two are not equal".into()) }
}

/// `psql` with one command.
pub(crate) fn psql(server: &Server, database: &str, command: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"]);
    psql.arg(server.socket()).args(["-c", command]);
    psql
}

fn megabytes(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.len() / 1_000_000)
}
