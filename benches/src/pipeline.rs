//! What goes over the bus: bytes and speed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use deltabus_bus::jetstream::JetStream;
use deltabus_bus::local::LocalBus;

use crate::measure::{Case, Process, Result, alternating, deltabus};
use crate::rows;

/// The program in a state directory of its own.
pub(crate) struct Deltabus {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Deltabus {
    /// With nothing in it.
    pub(crate) fn new() -> Result<Deltabus> {
        Ok(Deltabus { program: deltabus()?, folder: tempfile::tempdir()? })
    }

    /// A path beside the state directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command line; words are split at spaces.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .env("DELTABUS_STATE", self.path("state"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command line; what it printed.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output()?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            Err(format!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
        }
    }

    /// Its state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A client of the broker.
    pub(crate) async fn client(&self) -> Result<async_nats::Client> {
        client_at(&self.state()).await
    }

    /// The log of `bench`, by a connection of its own.
    pub(crate) async fn log(&self) -> Result<deltabus_bus::Log> {
        log_at(&self.state()).await
    }

    /// The broker's process.
    pub(crate) fn broker(&self) -> Result<Process> {
        let running = LocalBus::new(self.state().join("bus")).status().ok_or("the bus is not running")?;
        Ok(Process(u32::try_from(running.pid)?))
    }

    /// The bytes of each set in the log, oldest first, as published.
    pub(crate) fn set_bytes(&self) -> Result<Vec<u64>> {
        let log = self.run("log bench --json")?;
        let mut sets = Vec::new();
        for line in log.lines() {
            let entry: serde_json::Value = serde_json::from_str(line)?;
            sets.push((entry["revision"].as_u64().unwrap_or(0), entry["bytes"].as_u64().unwrap_or(0)));
        }
        sets.sort_unstable();
        Ok(sets.into_iter().map(|(_, bytes)| bytes).collect())
    }
}

impl Drop for Deltabus {
    fn drop(&mut self) {
        // Best effort: the bus may never have been started.
        let _ = self.command("bus stop").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A client of the local bus in a state directory.
pub(crate) async fn client_at(state: &Path) -> Result<async_nats::Client> {
    let running = LocalBus::new(state.join("bus")).status().ok_or("the bus is not running")?;
    let secret = std::fs::read_to_string(state.join("bus/secret"))?;
    let options = async_nats::ConnectOptions::with_user_and_password("local".into(), secret.trim().into());
    Ok(options.connect(&running.url).await?)
}

/// The log of `bench` on the local bus in a state directory.
pub(crate) async fn log_at(state: &Path) -> Result<deltabus_bus::Log> {
    let running = LocalBus::new(state.join("bus")).status().ok_or("the bus is not running")?;
    let broker = JetStream::connect(&running.url, &running.access()).await?;
    Ok(deltabus_bus::Log::new(Arc::new(broker), "bench".parse()?))
}

/// Publishing a large set beside publishing the same bytes to a raw JetStream stream on the same server, and beside the bytes
/// that the same changes are as JSON events.
pub(crate) fn publish(count: u64) -> Result<()> {
    let deltabus = Deltabus::new()?;
    let source = deltabus.path("bench.csv");
    let versions = [deltabus.path("before.csv"), deltabus.path("after.csv")];
    rows::write(&versions[0], count, 0)?;
    rows::write(&versions[1], count, 1000)?;
    std::fs::copy(&versions[0], &source)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    println!("publishing {count} changed rows");
    println!("{:<44} {:>22} {:>21} {:>13}", "", "wall time", "processor time", "memory");
    let unchanged = Case::new("deltabus transmit --once, nothing changed", &[0], || {
        std::fs::File::options().append(true).open(&source)?.set_modified(std::time::SystemTime::now())?;
        Ok(deltabus.command("transmit bench csv:bench.csv?key=id --once -q"))
    });
    // From the one version to the other, and back.
    let mut turn = 0;
    let changed = Case::new("deltabus transmit --once, all rows changed", &[0], || {
        turn += 1;
        std::fs::copy(&versions[turn % 2], &source)?;
        Ok(deltabus.command("transmit bench csv:bench.csv?key=id --once -q"))
    });
    alternating(vec![unchanged, changed])?;
    let sets = deltabus.set_bytes()?;
    let bytes = *sets.get(1).ok_or("nothing was published")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let raw = runtime.block_on(raw_publish(&deltabus, bytes))?;
    println!(
        "{:<44} {raw:>9.3} s  {:.0} MB/s",
        "raw JetStream, the same bytes, 256 KiB each",
        bytes as f64 / raw / 1e6
    );
    let events = json_events(&versions)?;
    let packed = zstd::encode_all(events.as_slice(), 3)?.len() as u64;
    println!("\nbytes for {count} updates of two fields each");
    for (name, size) in [
        ("deltabus, in the log", bytes),
        ("JSON events, before and after", events.len() as u64),
        ("the same, zstd -3 over all", packed),
    ] {
        let each = size as f64 / count as f64;
        println!("{name:<44} {size:>12} B {each:>9.1} a row {:>7.2} x", size as f64 / bytes as f64);
    }
    Ok(())
}

/// The same changes as Debezium writes them, payload only: all fields before and after, and where they come from.
fn json_events([before, after]: &[PathBuf; 2]) -> Result<Vec<u8>> {
    let mut events = Vec::new();
    let (mut before, mut after) = (csv::Reader::from_path(before)?, csv::Reader::from_path(after)?);
    let names = before.headers()?.clone();
    for (before, after) in before.records().zip(after.records()) {
        let row = |record: &csv::StringRecord| -> serde_json::Value {
            names
                .iter()
                .zip(record)
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let event = serde_json::json!({
            "before": row(&before?),
            "after": row(&after?),
            "source": { "version": "3.0.0.Final", "connector": "postgresql", "name": "bench", "ts_ms": 1_790_000_000_000_u64,
                "snapshot": "false", "db": "bench", "schema": "public", "table": "bench", "txId": 1, "lsn": 1 },
            "op": "u",
            "ts_ms": 1_790_000_000_000_u64,
        });
        serde_json::to_writer(&mut events, &event)?;
        events.push(b'\n');
    }
    Ok(events)
}

/// Publishes `bytes` in messages of 256 KiB, each acknowledged before the next; seconds.
async fn raw_publish(deltabus: &Deltabus, bytes: u64) -> Result<f64> {
    const MESSAGE: u64 = 256 * 1024;
    let client = deltabus.client().await?;
    let jetstream = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "raw".into(),
        subjects: vec!["raw".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await?;
    let mut random = Vec::with_capacity(MESSAGE as usize);
    for i in 0..MESSAGE / 8 {
        random.extend_from_slice(&rows::mix(i).to_le_bytes());
    }
    let payload = Bytes::from(random);
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let length = left.min(MESSAGE);
        jetstream.publish("raw", payload.slice(..length as usize)).await?.await?;
        left -= length;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Plays versions of a file and prints what each cost on the bus beside `diff | zstd`.
pub(crate) fn versions(files: &[PathBuf], key: &str) -> Result<()> {
    let deltabus = Deltabus::new()?;
    println!(
        "{:<12} {:>12} {:>16} {:>16} {:>8}",
        "version", "file bytes", "published bytes", "diff | zstd -3", "ratio"
    );
    let mut previous: Option<&Path> = None;
    for file in files {
        std::fs::copy(file, deltabus.path("bench.csv"))?;
        deltabus.run(&format!("transmit bench csv:bench.csv?key={key} --once -q"))?;
        let size = std::fs::metadata(file)?.len();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let published = deltabus.set_bytes()?;
        if let Some(previous) = previous {
            let alternative = diff_zstd(previous, file)?;
            let published = *published.last().ok_or("nothing was published")?;
            let ratio = published as f64 / alternative as f64;
            println!("{name:<12} {size:>12} {published:>16} {alternative:>16} {ratio:>8.2}");
        } else {
            println!("{name:<12} {size:>12} {:>16}", "(snapshot)");
        }
        previous = Some(file);
    }
    Ok(())
}

fn diff_zstd(before: &Path, after: &Path) -> Result<u64> {
    let output = Command::new("diff").arg(before).arg(after).output()?;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
    encoder.write_all(&output.stdout)?;
    Ok(encoder.finish()?.len() as u64)
}
