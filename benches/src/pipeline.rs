//! What goes over the bus: bytes and speed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;

use crate::measure::{Result, deltabus};
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

    /// A client of the broker.
    pub(crate) async fn client(&self) -> Result<async_nats::Client> {
        let status: serde_json::Value = serde_json::from_str(&self.run("bus status --json")?)?;
        let url = status["url"].as_str().ok_or("the bus is not running")?;
        let secret = std::fs::read_to_string(self.path("state/bus/secret"))?;
        let options = async_nats::ConnectOptions::with_user_and_password("local".into(), secret.trim().into());
        Ok(options.connect(url).await?)
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

/// Publishing a large set beside publishing the same bytes to a raw JetStream stream on the same server.
pub(crate) fn publish(count: u64) -> Result<()> {
    let deltabus = Deltabus::new()?;
    let source = deltabus.path("bench.csv");
    rows::write(&source, count, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    rows::write(&source, count, 1000)?;
    let start = Instant::now();
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let whole = start.elapsed().as_secs_f64();
    let bytes: u64 = deltabus.set_bytes()?.into_iter().skip(1).sum();
    let runtime = tokio::runtime::Runtime::new()?;
    let raw = runtime.block_on(raw_publish(&deltabus, bytes))?;
    println!("publishing {count} changed rows: {bytes} bytes in the log");
    println!("{:<44} {whole:>9.3} s", "deltabus transmit --once: scan, stage, publish");
    println!("{:<44} {raw:>9.3} s", "raw JetStream, the same bytes, 256 KiB each");
    println!("{:<44} {:>9.1} MB/s", "raw JetStream", bytes as f64 / raw / 1e6);
    Ok(())
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
