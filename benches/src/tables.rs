//! Whole tables: differences, re-scans and first loads.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::measure::{Case, Result, alternating, alternative, best, deltabus, in_turn, installed, line};
use crate::rows::{self, Arrangement, Table};

fn location(path: &Path) -> String {
    format!("csv:{}?key=id", path.display())
}

/// What of a thousand rows changes.
const CHANGED: [u64; 4] = [0, 1, 10, 500];

/// Files of which some rows changed, which are ordered otherwise or lack a part; and a file that is looked at again.
pub(crate) fn diff(rows: u64, columns: usize, runs: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (a, b) = (folder.path().join("a.csv"), folder.path().join("b.csv"));
    let before = Table::new(rows, columns);
    before.write(&a)?;
    println!("two CSV files, {rows} rows of {columns} columns, {} MB", std::fs::metadata(&a)?.len() / 1_000_000);
    println!("{:<44} {:>22} {:>21} {:>13}", "", "wall time", "processor time", "memory");
    for changed in CHANGED {
        println!("\n{} % changed", changed as f64 / 10.0);
        Table { changed, ..before }.write(&b)?;
        let mut cases = diff_cases(&a, &b)?;
        // A comparison by lines, which takes its time for rows that stand elsewhere.
        cases.push(Case::new("git diff --no-index", &[0, 1], || {
            let mut command = Command::new("git");
            command.args(["diff", "--no-index"]).args([&a, &b]);
            Ok(command)
        }));
        in_turn(cases, runs)?;
    }
    for (arrangement, what) in [
        (Arrangement::Moved, "a tenth moved from the beginning to the end"),
        (Arrangement::Cut, "a tenth missing in the middle"),
        (Arrangement::Shuffled, "in another order"),
    ] {
        println!("\n{what}, 1 % changed");
        Table { arrangement, changed: 10, ..before }.write(&b)?;
        in_turn(diff_cases(&a, &b)?, runs)?;
    }
    std::fs::remove_file(&b)?;
    scan(&a, folder.path(), rows)
}

/// All that compare two files by their rows.
fn diff_cases<'a>(a: &'a Path, b: &'a Path) -> Result<Vec<Case<'a>>> {
    let program = deltabus()?;
    let ours = |stat: bool| {
        let program = program.clone();
        move || {
            let mut command = Command::new(&program);
            command.arg("diff").args(stat.then_some("--stat")).args([&location(a), &location(b)]);
            Ok(command)
        }
    };
    let mut cases = vec![
        Case::new("deltabus diff --stat", &[0, 1], ours(true)),
        Case::new("deltabus diff", &[0, 1], ours(false)),
        Case::new("both parsed by the csv crate", &[0], || alternative("csv-parse", &[a, b])),
        Case::new("csv-diff crate", &[0], || alternative("csv-diff", &[a, b])),
    ];
    for qsv in ["qsv", "qsvlite"] {
        if installed(qsv) {
            cases.push(Case::new(format!("{qsv} diff"), &[0], move || {
                let mut command = Command::new(qsv);
                command.arg("diff").args([a, b]);
                Ok(command)
            }));
        }
    }
    match duckdb_python() {
        Some(python) => cases.push(Case::new("DuckDB, EXCEPT both ways", &[0], move || {
            let table = |path: &Path| format!("SELECT * FROM read_csv('{}', all_varchar = true)", path.display());
            let except = |a: &Path, b: &Path| format!("SELECT count(*) FROM ({} EXCEPT {})", table(a), table(b));
            let script = format!(
                "import duckdb; print(duckdb.sql(\"{}\").fetchall(), duckdb.sql(\"{}\").fetchall())",
                except(a, b),
                except(b, a)
            );
            let mut command = Command::new(&python);
            command.arg("-c").arg(script);
            Ok(command)
        })),
        None => {
            println!("DuckDB is not installed here: `pip install duckdb`, or name a Python that has it with PYTHON")
        }
    }
    Ok(cases)
}

/// A Python that has DuckDB.
fn duckdb_python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import duckdb"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

/// A source that is looked at again.
fn scan(a: &Path, folder: &Path, rows: u64) -> Result<()> {
    println!("\na source that is scanned again, {rows} rows, nothing changed");
    let program = deltabus()?;
    let state = folder.join("state");
    transmit(&program, a, &state)?;
    let again = || {
        // Another modification time: the stamp says that the file may have changed, so it is read.
        std::fs::File::options().append(true).open(a)?.set_modified(std::time::SystemTime::now())?;
        let mut command = Command::new(&program);
        command.args(["transmit", "bench", &location(a), "--once", "-q"]).env("DELTABUS_STATE", &state);
        Ok(command)
    };
    alternating(vec![
        Case::new("csv crate, parsing alone", &[0], || alternative("csv-parse", &[a])),
        Case::new("deltabus transmit --once, whole process", &[0], again),
    ])?;
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
