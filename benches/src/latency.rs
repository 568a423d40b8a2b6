//! From a change of the source file to its arrival in a destination on disk.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::measure::Result;
use crate::pipeline::Deltabus;

/// How long one change may take before the run counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two changes, so that each is on its own.
const PAUSE: Duration = Duration::from_millis(30);

/// Measures `changes` single edits of a 1,000-row CSV on their way into SQLite.
pub(crate) fn latency(changes: u32) -> Result<()> {
    let deltabus = Deltabus::new()?;
    let write = |edit: u32| -> Result<()> {
        let mut text = String::from("id,name,count\n");
        for id in 1..=1000u32 {
            text.push_str(&format!("{id},Item {id},{}\n", if id == 500 { edit } else { 0 }));
        }
        std::fs::write(deltabus.path("new.csv"), text)?;
        Ok(std::fs::rename(deltabus.path("new.csv"), deltabus.path("bench.csv"))?)
    };
    write(0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    deltabus.run("receive bench sqlite:copy.db --name copy --once -q")?;
    let quiet = |line: &str| deltabus.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut transmitter = quiet("transmit bench csv:bench.csv?key=id")?;
    let mut receiver = quiet("receive bench sqlite:copy.db --name copy")?;
    let database = rusqlite::Connection::open(deltabus.path("copy.db"))?;
    database.busy_timeout(Duration::from_secs(5))?;
    let mut query = database.prepare("SELECT count FROM bench WHERE id = '500'")?;

    let mut seconds = Vec::new();
    for edit in 1..=changes + 1 {
        std::thread::park_timeout(PAUSE);
        let wanted = edit.to_string();
        let start = Instant::now();
        write(edit)?;
        loop {
            let found: String = query.query_row([], |row| row.get(0))?;
            if found == wanted {
                break;
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("edit {edit} did not arrive").into());
            }
            std::thread::park_timeout(Duration::from_micros(200));
        }
        // The first waits for both processes to be up.
        if edit > 1 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    transmitter.kill()?;
    receiver.kill()?;
    transmitter.wait()?;
    receiver.wait()?;
    seconds.sort_by(f64::total_cmp);
    let at = |part: f64| seconds[((seconds.len() - 1) as f64 * part) as usize] * 1e3;
    println!("from a change of the source file to the destination on disk, {changes} changes");
    println!("p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(0.5), at(0.99), at(1.0));
    Ok(())
}
