//! From a change of the source file to its arrival in a destination on disk.

use std::cell::Cell;
use std::process::{Child, Stdio};
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
    let stage = Stage::set(&deltabus)?;
    let seconds = stage.play(changes)?;
    println!("from a change of the source file to the destination on disk, {changes} changes");
    print_line(&seconds);
    Ok(())
}

/// The same alone, and beside a receiver that takes ten seconds for each set and one that is frozen for good.
pub(crate) fn beside_slow_receivers(changes: u32) -> Result<()> {
    println!("from a change of the source file to one destination on disk, {changes} changes");
    let deltabus = Deltabus::new()?;
    let stage = Stage::set(&deltabus)?;
    let server = deltabus_test_servers::postgres::lease();
    let database = server.database();
    let slow = server.location(&database, "tables=bench");
    deltabus.run(&format!("receive bench {slow} --name slow --once -q"))?;
    deltabus.run("receive bench csv:frozen.csv?key=id --name frozen --once -q")?;
    server.run(&database, SLOW);
    for round in ["alone", "beside a slow and a frozen one", "alone", "beside a slow and a frozen one"] {
        let mut others = Others(Vec::new());
        if round != "alone" {
            others.0.push(start(&deltabus, &format!("receive bench {slow} --name slow"))?);
            others.0.push(start(&deltabus, "receive bench csv:frozen.csv?key=id --name frozen")?);
            std::thread::park_timeout(Duration::from_secs(2));
            let frozen = rustix::process::Pid::from_child(&others.0[1]);
            rustix::process::kill_process(frozen, rustix::process::Signal::STOP)?;
        }
        let seconds = stage.play(changes)?;
        print!("{round:<32}");
        print_line(&seconds);
    }
    Ok(())
}

/// Makes each statement that changes the table wait.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(10); RETURN NULL; END $$;
    CREATE TRIGGER wait AFTER INSERT OR UPDATE ON bench FOR EACH STATEMENT EXECUTE FUNCTION wait()";

fn print_line(seconds: &[f64]) {
    let at = |part: f64| seconds[((seconds.len() - 1) as f64 * part) as usize] * 1e3;
    println!("p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms", at(0.5), at(0.99), at(1.0));
}

fn start(deltabus: &Deltabus, line: &str) -> Result<Child> {
    Ok(deltabus.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Processes that end with this.
struct Others(Vec<Child>);

impl Drop for Others {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A source of 1,000 rows, a transmitter and a receiver.
struct Stage<'a> {
    deltabus: &'a Deltabus,
    _running: Others,
    edit: Cell<u32>,
}

impl Stage<'_> {
    fn set(deltabus: &Deltabus) -> Result<Stage<'_>> {
        let mut stage = Stage { deltabus, _running: Others(Vec::new()), edit: Cell::new(0) };
        stage.write(0)?;
        deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
        deltabus.run("receive bench sqlite:copy.db --name copy --once -q")?;
        for line in ["transmit bench csv:bench.csv?key=id", "receive bench sqlite:copy.db --name copy"] {
            stage._running.0.push(start(deltabus, line)?);
        }
        Ok(stage)
    }

    fn write(&self, edit: u32) -> Result<()> {
        let mut text = String::from("id,name,count\n");
        for id in 1..=1000u32 {
            text.push_str(&format!("{id},Item {id},{}\n", if id == 500 { edit } else { 0 }));
        }
        std::fs::write(self.deltabus.path("new.csv"), text)?;
        Ok(std::fs::rename(self.deltabus.path("new.csv"), self.deltabus.path("bench.csv"))?)
    }

    /// Makes so many edits, one after the other; how long each took, in seconds, the shortest first.
    fn play(&self, changes: u32) -> Result<Vec<f64>> {
        let database = rusqlite::Connection::open(self.deltabus.path("copy.db"))?;
        database.busy_timeout(Duration::from_secs(5))?;
        let mut query = database.prepare("SELECT count FROM bench WHERE id = '500'")?;
        let mut seconds = Vec::new();
        for round in 0..=changes {
            std::thread::park_timeout(PAUSE);
            self.edit.set(self.edit.get() + 1);
            let wanted = self.edit.get().to_string();
            let start = Instant::now();
            self.write(self.edit.get())?;
            loop {
                let found: String = query.query_row([], |row| row.get(0))?;
                if found == wanted {
                    break;
                }
                if start.elapsed() > PATIENCE {
                    return Err(format!("edit {wanted} did not arrive").into());
                }
                std::thread::park_timeout(Duration::from_micros(200));
            }
            // The first waits for the processes to be up.
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds)
    }
}
