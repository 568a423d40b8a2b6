//! One source, many receivers: what a set costs the broker for each of them, beside a plain NATS subscription to the same bytes.

use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;

use crate::measure::Result;
use crate::pipeline::Deltabus;

/// Receivers in one process, and subscriptions on one connection of the alternative.
const TOGETHER: usize = 64;

/// How long all receivers may take for anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// Messages that the alternative delivers at least.
const PLAIN_DELIVERED: usize = 200_000;

/// Rows of the source.
const ROWS: u32 = 100;

/// Measures with each of these numbers of receivers: sets published one after the other while all follow, then while none does
/// and all come back.
pub(crate) fn fan_out(receivers: &[usize], sets: u32) -> Result<()> {
    println!("{sets} sets of one edit each; receivers write CSV files, {TOGETHER} in a process");
    println!(
        "{:>9} {:>11} {:>9} {:>15} {:>15} {:>7} {:>15} {:>10} {:>12} {:>12}",
        "receivers",
        "published/s",
        "all, s",
        "broker us/set",
        "plain us/set",
        "ratio",
        "receiver us/set",
        "broker MiB",
        "MiB/receiver",
        "catch-up, s"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    for count in receivers {
        runtime.block_on(measure(*count, sets))?;
    }
    Ok(())
}

async fn measure(count: usize, sets: u32) -> Result<()> {
    let deltabus = Deltabus::new()?;
    write(&deltabus, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let client = deltabus.client().await?;
    let broker = broker(&deltabus)?;
    let mut live = client.subscribe("deltabus.bench.live").await?;
    client.flush().await?;
    configure(&deltabus, count)?;
    let transmitter = Running(vec![start(&deltabus, "transmit bench csv:bench.csv?key=id -q")?]);
    let followers = follow(&deltabus, count)?;
    all_have(&deltabus, count, 0)?;
    // The first edit waits for the transmitter to be up.
    publish(&deltabus, &mut live, 1..=1).await?;
    all_have(&deltabus, count, 1)?;

    let (broker_before, receivers_before) = (broker.cpu()?, followers.cpu()?);
    let begin = Instant::now();
    let bytes = publish(&deltabus, &mut live, 2..=sets + 1).await?;
    let published = begin.elapsed().as_secs_f64();
    all_have(&deltabus, count, sets + 1)?;
    let arrived = begin.elapsed().as_secs_f64();
    let delivered = f64::from(sets) * count as f64;
    let ours = (broker.cpu()? - broker_before) / delivered * 1e6;
    let receiver = (followers.cpu()? - receivers_before) / delivered * 1e6;
    let memory = followers.memory_mib()? / count as f64;
    let broker_memory = broker.memory_mib()?;
    drop(followers);

    publish(&deltabus, &mut live, sets + 2..=2 * sets + 1).await?;
    drop(transmitter);
    let begin = Instant::now();
    let followers = follow(&deltabus, count)?;
    all_have(&deltabus, count, 2 * sets + 1)?;
    let caught_up = begin.elapsed().as_secs_f64();
    drop(followers);

    // So many that the kernel's ticks tell them.
    let messages = u32::try_from(PLAIN_DELIVERED / count)?.max(sets);
    let plain = plain(&deltabus, &broker, count, messages, (bytes / u64::from(sets)) as usize).await?;
    let plain = plain / (f64::from(messages) * count as f64) * 1e6;
    println!(
        "{count:>9} {:>11.0} {arrived:>9.2} {ours:>15.1} {plain:>15.1} {:>7.2} {receiver:>15.0} {broker_memory:>10.0} {memory:>12.1} {caught_up:>12.2}",
        f64::from(sets) / published,
        ours / plain,
    );
    Ok(())
}

/// The source with an edit in it.
fn write(deltabus: &Deltabus, edit: u32) -> Result<()> {
    let mut text = String::from("id,name,count\n");
    for id in 1..=ROWS {
        writeln!(text, "{id},Item {id},{}", if id == ROWS { edit } else { 0 })?;
    }
    fs::write(deltabus.path("new.csv"), text)?;
    Ok(fs::rename(deltabus.path("new.csv"), deltabus.path("bench.csv"))?)
}

/// Makes edits, each once the former is on its way; how many bytes went out.
async fn publish(
    deltabus: &Deltabus,
    live: &mut async_nats::Subscriber,
    edits: std::ops::RangeInclusive<u32>,
) -> Result<u64> {
    let mut bytes = 0;
    for edit in edits {
        write(deltabus, edit)?;
        let next = tokio::time::timeout(PATIENCE, live.next()).await?;
        bytes += next.ok_or("the subscription ended")?.payload.len() as u64;
    }
    Ok(bytes)
}

fn configure(deltabus: &Deltabus, count: usize) -> Result<()> {
    for (process, first) in (0..count).step_by(TOGETHER).enumerate() {
        let mut text = format!("name = \"r{process}\"\n");
        for at in first..count.min(first + TOGETHER) {
            let file = deltabus.path(&format!("copy{at}.csv"));
            writeln!(text, "[[destination]]\nsource = \"bench\"\nlocation = \"csv:{}?key=id\"", file.display())?;
        }
        fs::write(deltabus.path(&format!("{process}.toml")), text)?;
    }
    Ok(())
}

fn follow(deltabus: &Deltabus, count: usize) -> Result<Running> {
    let mut running = Running(Vec::new());
    for process in 0..count.div_ceil(TOGETHER) {
        running.0.push(start(deltabus, &format!("receive --config {process}.toml -q"))?);
    }
    Ok(running)
}

fn start(deltabus: &Deltabus, line: &str) -> Result<Child> {
    Ok(deltabus.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Returns when every destination has an edit.
fn all_have(deltabus: &Deltabus, count: usize, edit: u32) -> Result<()> {
    let begin = Instant::now();
    let row = format!("\n{ROWS},Item {ROWS},{edit}\n");
    for at in 0..count {
        let path = deltabus.path(&format!("copy{at}.csv"));
        while !fs::read_to_string(&path).is_ok_and(|text| text.contains(&row)) {
            if begin.elapsed() > PATIENCE {
                return Err(format!("edit {edit} did not arrive at {}", path.display()).into());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// The broker's processor time for as many messages of as many bytes to as many subscriptions, in seconds.
async fn plain(deltabus: &Deltabus, broker: &Process, count: usize, messages: u32, bytes: usize) -> Result<f64> {
    let mut clients = Vec::new();
    let mut waiting = Vec::new();
    for at in 0..count {
        if at % TOGETHER == 0 {
            clients.push(deltabus.client().await?);
        }
        let mut subscription = clients[at / TOGETHER].subscribe("plain").await?;
        waiting.push(tokio::spawn(async move {
            for _ in 0..messages {
                if subscription.next().await.is_none() {
                    return false;
                }
            }
            true
        }));
    }
    for client in &clients {
        client.flush().await?;
    }
    let publisher = deltabus.client().await?;
    let payload = Bytes::from(vec![b'x'; bytes]);
    let before = broker.cpu()?;
    for _ in 0..messages {
        publisher.publish("plain", payload.clone()).await?;
        publisher.flush().await?;
    }
    for waiting in waiting {
        if !tokio::time::timeout(PATIENCE, waiting).await?? {
            return Err("a subscription ended".into());
        }
    }
    Ok(broker.cpu()? - before)
}

fn broker(deltabus: &Deltabus) -> Result<Process> {
    let status: serde_json::Value = serde_json::from_str(&deltabus.run("bus status --json")?)?;
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    Ok(Process(pid.ok_or("the bus is not running")?))
}

/// A process, by its id.
struct Process(u32);

impl Process {
    /// Processor time so far, in seconds.
    fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // What comes after the name, which is in brackets.
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("it has no name")?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        Ok((ticks(11) + ticks(12)) as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory.
    fn memory_mib(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

/// Processes that end with this.
struct Running(Vec<Child>);

impl Running {
    fn cpu(&self) -> Result<f64> {
        self.0.iter().map(|child| Process(child.id()).cpu()).sum()
    }

    fn memory_mib(&self) -> Result<f64> {
        self.0.iter().map(|child| Process(child.id()).memory_mib()).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
