//! Whole tables: differences, re-scans and first loads.

use std::path::Path;
use std::process::Command;

use crate::measure::{Result, alternative, best, deltabus, installed, line};
use crate::rows;

fn location(path: &Path) -> String {
    format!("csv:{}?key=id", path.display())
}

/// Two files with 1 % of the rows changed; and a file that is looked at again.
pub(crate) fn diff(rows: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (a, b) = (folder.path().join("a.csv"), folder.path().join("b.csv"));
    rows::write(&a, rows, 0)?;
    rows::write(&b, rows, 10)?;
    let program = deltabus()?;
    println!("diff of two CSV files, {rows} rows, 1 % changed, {} MB each", std::fs::metadata(&a)?.len() / 1_000_000);
    let ours = best(&[1], || {
        let mut command = Command::new(&program);
        command.args(["diff", "--stat", &location(&a), &location(&b)]);
        Ok(command)
    })?;
    line("deltabus diff --stat", ours, ours);
    let full = best(&[1], || {
        let mut command = Command::new(&program);
        command.args(["diff", &location(&a), &location(&b)]);
        Ok(command)
    })?;
    line("deltabus diff", full, ours);
    line("csv-diff crate", best(&[0], || alternative("csv-diff", &[&a, &b]))?, ours);
    for qsv in ["qsv", "qsvlite"] {
        if installed(qsv) {
            let measured = best(&[0], || {
                let mut command = Command::new(qsv);
                command.arg("diff").args([&a, &b]);
                Ok(command)
            })?;
            line(&format!("{qsv} diff"), measured, ours);
        }
    }

    println!("\na source that is scanned again, {rows} rows, nothing changed");
    let parse = best(&[0], || alternative("csv-parse", &[&a]))?;
    line("csv crate, parsing alone", parse, parse);
    let state = folder.path().join("state");
    transmit(&program, &a, &state)?;
    let again = best(&[0], || {
        // Another modification time: the stamp says that the file may have changed, so it is read.
        std::fs::File::options().append(true).open(&a)?.set_modified(std::time::SystemTime::now())?;
        let mut command = Command::new(&program);
        command.args(["transmit", "bench", &location(&a), "--once", "-q"]).env("DELTABUS_STATE", &state);
        Ok(command)
    })?;
    line("deltabus transmit --once, whole process", again, parse);
    let bus = Command::new(&program).args(["bus", "stop"]).env("DELTABUS_STATE", &state).status()?;
    if bus.success() { Ok(()) } else { Err("the bus could not be stopped".into()) }
}

fn transmit(program: &Path, file: &Path, state: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["transmit", "bench", &location(file), "--once", "-q"]).env("DELTABUS_STATE", state);
    if command.status()?.success() { Ok(()) } else { Err("transmit failed".into()) }
}

/// A table's first way into SQLite.
pub(crate) fn load(rows: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("bench.csv");
    rows::write(&source, rows, 0)?;
    let program = deltabus()?;
    println!("first load of {rows} rows into SQLite, {} MB", std::fs::metadata(&source)?.len() / 1_000_000);
    let database = folder.path().join("import.db");
    let import = best(&[0], || {
        let _ = std::fs::remove_file(&database);
        let mut command = Command::new("sqlite3");
        let columns = rows::HEADER.replace(',', " TEXT, ");
        command
            .arg(&database)
            .arg(format!("CREATE TABLE bench({} TEXT, PRIMARY KEY(id)) WITHOUT ROWID;", columns))
            .arg(format!(".import --csv --skip 1 {} bench", source.display()));
        Ok(command)
    })?;
    line("sqlite3 .import", import, import);
    let copy = best(&[0], || {
        let copy = folder.path().join("copy.db");
        let _ = std::fs::remove_file(&copy);
        let mut command = Command::new(&program);
        command.args(["copy", &location(&source), &format!("sqlite:{}", copy.display()), "-q"]);
        Ok(command)
    })?;
    line("deltabus copy", copy, import);
    let state = folder.path().join("state");
    let stop = || Command::new(&program).args(["bus", "stop", "-q"]).env("DELTABUS_STATE", &state).status();
    let first = best(&[0], || {
        // Only the transmitter's own state goes; the bus is founded anew.
        let _ = stop();
        let _ = std::fs::remove_dir_all(&state);
        Command::new(&program).args(["bus", "start", "-q"]).env("DELTABUS_STATE", &state).status()?;
        let mut command = Command::new(&program);
        command.args(["transmit", "bench", &location(&source), "--once", "-q"]).env("DELTABUS_STATE", &state);
        Ok(command)
    })?;
    line("deltabus transmit --once (source to bus)", first, import);
    let mut round = 0;
    let receive = best(&[0], || {
        round += 1;
        let mut command = Command::new(&program);
        let destination = folder.path().join(format!("received-{round}.db"));
        command
            .args(["receive", "bench", &format!("sqlite:{}", destination.display()), "--once", "-q"])
            .env("DELTABUS_STATE", &state);
        Ok(command)
    })?;
    line("deltabus receive --once (bus to SQLite)", receive, import);
    stop()?;
    Ok(())
}
