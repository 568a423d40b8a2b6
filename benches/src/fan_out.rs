//! One source, many receivers: what a set costs the broker for each of them, beside plain NATS subscriptions to the same bytes at the
//! same pace.

use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use futures::StreamExt;

use crate::feed::Feed;
use crate::measure::{Process, Result, Running, quantile};
use crate::pipeline::Deltabus;
use crate::readers::{Crowd, Readers, Way};

/// How long all receivers may take for anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the broker is looked at while nothing is published, to tell what being there costs.
const IDLE: Duration = Duration::from_secs(3);

/// After something began or ended the broker is left alone for so long.
pub(crate) const CALM: Duration = Duration::from_millis(500);

/// Rows of the source.
const ROWS: u32 = 100;

/// Where plain messages go.
const PLAIN: &str = "plain";

/// A stream that republishes, as the log does.
const STREAM: &str = "reference";
const STORED: &str = "reference.stored";
const REPUBLISHED: &str = "reference.live";

/// Measures with each of these numbers of receivers: sets published one after the other while all follow, then while none does
/// and all come back.
pub(crate) fn fan_out(receivers: &[usize], sets: u32, together: usize) -> Result<()> {
    println!("{sets} sets of one edit each; receivers write CSV files, {together} in a process");
    println!(
        "broker, plain, republished: processor time of the broker for each set at each receiver, what it takes idle not counted"
    );
    println!(
        "{:>9} {:>11} {:>8} {:>10} {:>10} {:>11} {:>11} {:>15} {:>10} {:>12} {:>9} {:>11}",
        "receivers",
        "published/s",
        "all, s",
        "broker us",
        "plain us",
        "republ. us",
        "idle, %",
        "receiver us/set",
        "broker MiB",
        "MiB/receiver",
        "start, s",
        "catch-up, s"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    for count in receivers {
        runtime.block_on(measure(*count, sets, together))?;
    }
    Ok(())
}

async fn measure(count: usize, sets: u32, together: usize) -> Result<()> {
    let deltabus = Deltabus::new()?;
    write(&deltabus, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let client = deltabus.client().await?;
    let broker = deltabus.broker()?;
    let mut live = client.subscribe("deltabus.bench.live").await?;
    client.flush().await?;
    configure(&deltabus, count, together)?;
    let transmitter = Running(vec![start(&deltabus, "transmit bench csv:bench.csv?key=id -q")?]);
    let begin = Instant::now();
    let followers = follow(&deltabus, count, together)?;
    all_have(&deltabus, count, 0)?;
    let started = begin.elapsed().as_secs_f64();
    // The first edit waits for the transmitter to be up.
    publish(&deltabus, &mut live, 1..=1).await?;
    all_have(&deltabus, count, 1)?;
    tokio::time::sleep(CALM).await;
    let before = broker.cpu()?;
    let begin = Instant::now();
    tokio::time::sleep(IDLE).await;
    let idle = (broker.cpu()? - before) / begin.elapsed().as_secs_f64();

    let (broker_before, receivers_before) = (broker.cpu()?, followers.cpu()?);
    let begin = Instant::now();
    let bytes = publish(&deltabus, &mut live, 2..=sets + 1).await?;
    let published = begin.elapsed().as_secs_f64();
    all_have(&deltabus, count, sets + 1)?;
    let arrived = begin.elapsed().as_secs_f64();
    let delivered = f64::from(sets) * count as f64;
    let ours = (broker.cpu()? - broker_before - idle * arrived) / delivered * 1e6;
    let receiver = (followers.cpu()? - receivers_before) / delivered * 1e6;
    let memory = followers.memory_mib()? / count as f64;
    let broker_memory = broker.memory_mib()?;
    drop(followers);

    publish(&deltabus, &mut live, sets + 2..=2 * sets + 1).await?;
    drop(transmitter);
    let begin = Instant::now();
    let followers = follow(&deltabus, count, together)?;
    all_have(&deltabus, count, 2 * sets + 1)?;
    let caught_up = begin.elapsed().as_secs_f64();
    drop(followers);
    drop(live);

    let pace = Pace::Rate(f64::from(sets) / published);
    let crowd = Crowd { count, together, apart: false };
    let bytes = (bytes / u64::from(sets)) as usize;
    let [plain, republished] = references(&deltabus, &broker, crowd, sets, bytes, pace).await?;
    println!(
        "{count:>9} {:>11.0} {arrived:>8.2} {ours:>10.1} {:>10.1} {:>11.1} {:>11.2} {receiver:>15.0} {broker_memory:>10.0} {memory:>12.2} {started:>9.1} {caught_up:>11.2}",
        f64::from(sets) / published,
        plain.broker_micros,
        republished.broker_micros,
        idle * 100.0,
    );
    Ok(())
}

/// Measures what the bus alone does, with readers that keep nothing, beside plain subscriptions and a plain stream that republishes.
pub(crate) fn bus_fan_out(crowds: &[Crowd], sets: u32, bytes: usize, rate: u32) -> Result<()> {
    println!("{sets} sets; processor time for each set at each reader, idle not counted");
    println!(
        "{:<12} {:<16} {:>8} {:>11} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>8} {:>7}",
        "", "", "readers", "published/s", "ack ms", "p99", "all ms", "p99", "broker us", "reader us", "idle, %", "MiB"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    for crowd in crowds {
        runtime.block_on(measure_bus(*crowd, sets, bytes, rate))?;
    }
    Ok(())
}

async fn measure_bus(crowd: Crowd, sets: u32, bytes: usize, rate: u32) -> Result<()> {
    let count = crowd.count;
    let deltabus = Deltabus::new()?;
    write(&deltabus, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let broker = deltabus.broker()?;
    let paces = [
        ("one by one", Pace::Everywhere),
        ("as it can", Pace::Acknowledged),
        ("at a rate", Pace::Rate(f64::from(rate))),
    ];
    let mut feed = Feed::claim(&deltabus).await?;
    let line = |way: &str, pace: &str, taken: &Taken| {
        println!(
            "{way:<12} {pace:<16} {count:>8} {:>11.1} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>10.2} {:>10.2} {:>8.2} {:>7.0}",
            taken.rate,
            taken.acknowledged[0],
            taken.acknowledged[1],
            taken.everywhere[0],
            taken.everywhere[1],
            taken.broker_micros,
            taken.reader_micros,
            taken.idle * 100.0,
            taken.broker_mib,
        );
    };
    let readers = Readers::start(&deltabus.state(), Way::Log, crowd)?;
    // The first inserts a record, the others change it.
    let mut stored = 0;
    for _ in 0..2 {
        stored = feed.edit(bytes).await?;
    }
    readers.all_have(feed.revision())?;
    for (name, pace) in paces {
        let mut publisher = Publisher::Log { feed: &mut feed, bytes };
        let taken = take(&mut publisher, &readers, &broker, count, sets, pace).await?;
        line("deltabus", name, &taken);
    }
    drop(readers);
    for (name, pace) in paces {
        let [plain, republished] = references(&deltabus, &broker, crowd, sets, stored as usize, pace).await?;
        line("republished", name, &republished);
        line("plain", name, &plain);
    }
    Ok(())
}

/// When the next set or message goes out.
#[derive(Clone, Copy)]
enum Pace {
    /// When all have the former.
    Everywhere,
    /// When the former is acknowledged.
    Acknowledged,
    /// So often a second.
    Rate(f64),
}

/// Who publishes.
enum Publisher<'a> {
    Log { feed: &'a mut Feed, bytes: usize },
    Plain { client: async_nats::Client, payload: Bytes, sent: u64 },
    Stored { context: jetstream::Context, payload: Bytes, sent: u64 },
}

impl Publisher<'_> {
    async fn publish(&mut self) -> Result<u64> {
        match self {
            Publisher::Log { feed, bytes } => {
                feed.edit(*bytes).await?;
                feed.beat().await?;
                Ok(feed.revision())
            }
            Publisher::Plain { client, payload, sent } => {
                client.publish(PLAIN, payload.clone()).await?;
                client.flush().await?;
                *sent += 1;
                // A subscription counts from one when it is made.
                Ok(*sent + 1)
            }
            Publisher::Stored { context, payload, sent } => {
                context.publish(STORED, payload.clone()).await?.await?;
                *sent += 1;
                Ok(*sent + 1)
            }
        }
    }

    async fn idle(&mut self, time: Duration) -> Result<()> {
        match self {
            Publisher::Log { feed, .. } => feed.idle(time).await,
            _ => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }
}

/// What publishing took.
struct Taken {
    /// Published a second.
    rate: f64,
    /// Until it was acknowledged: half of all, 99 of a hundred; milliseconds.
    acknowledged: [f64; 2],
    /// Until all readers had it.
    everywhere: [f64; 2],
    /// For each at each reader.
    broker_micros: f64,
    reader_micros: f64,
    /// The part of a processor that the broker takes with nothing to do.
    idle: f64,
    broker_mib: f64,
}

async fn take(
    publisher: &mut Publisher<'_>,
    readers: &Readers,
    broker: &Process,
    count: usize,
    sets: u32,
    pace: Pace,
) -> Result<Taken> {
    publisher.idle(CALM).await?;
    let (before, readers_before) = (broker.cpu()?, readers.running.cpu()?);
    let begin = Instant::now();
    publisher.idle(IDLE).await?;
    let idle = (broker.cpu()? - before) / begin.elapsed().as_secs_f64();
    let readers_idle = (readers.running.cpu()? - readers_before) / begin.elapsed().as_secs_f64();

    let (before, readers_before) = (broker.cpu()?, readers.running.cpu()?);
    let (mut acknowledged, mut everywhere) = (Vec::new(), Vec::new());
    let mut last = 0;
    let begin = Instant::now();
    for sent in 0..sets {
        if let Pace::Rate(rate) = pace {
            let due = begin + Duration::from_secs_f64(f64::from(sent) / rate);
            tokio::time::sleep_until(due.into()).await;
        }
        let start = Instant::now();
        last = publisher.publish().await?;
        acknowledged.push(start.elapsed().as_secs_f64() * 1e3);
        // Looked at where that doesn't hold up the next one.
        let waits = match pace {
            Pace::Everywhere => true,
            Pace::Acknowledged => false,
            Pace::Rate(rate) => rate <= 50.0,
        };
        if waits {
            readers.all_have(last)?;
            everywhere.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let published = begin.elapsed().as_secs_f64();
    readers.all_have(last)?;
    let all = begin.elapsed().as_secs_f64();
    let delivered = f64::from(sets) * count as f64;
    let broker_micros = (broker.cpu()? - before - idle * all) / delivered * 1e6;
    let reader_micros = (readers.running.cpu()? - readers_before - readers_idle * all) / delivered * 1e6;
    acknowledged.sort_by(f64::total_cmp);
    everywhere.sort_by(f64::total_cmp);
    Ok(Taken {
        rate: f64::from(sets) / published,
        acknowledged: [quantile(&acknowledged, 0.5), quantile(&acknowledged, 0.99)],
        everywhere: [quantile(&everywhere, 0.5), quantile(&everywhere, 0.99)],
        broker_micros,
        reader_micros,
        idle,
        broker_mib: broker.memory_mib()?,
    })
}

/// The same number of messages of as many bytes to as many subscriptions at that pace: plain, and from a stream that republishes.
async fn references(
    deltabus: &Deltabus,
    broker: &Process,
    crowd: Crowd,
    messages: u32,
    bytes: usize,
    pace: Pace,
) -> Result<[Taken; 2]> {
    let client = deltabus.client().await?;
    let context = jetstream::new(client.clone());
    context.get_or_create_stream(republishing(STREAM, STORED, REPUBLISHED)).await?;
    let payload = Bytes::from(vec![b'x'; bytes]);
    let plain = {
        let readers = Readers::start(&deltabus.state(), Way::Subject(PLAIN), crowd)?;
        let mut publisher = Publisher::Plain { client, payload: payload.clone(), sent: 0 };
        take(&mut publisher, &readers, broker, crowd.count, messages, pace).await?
    };
    let readers = Readers::start(&deltabus.state(), Way::Subject(REPUBLISHED), crowd)?;
    let mut publisher = Publisher::Stored { context, payload, sent: 0 };
    let republished = take(&mut publisher, &readers, broker, crowd.count, messages, pace).await?;
    Ok([plain, republished])
}

/// A stream of one subject that republishes to another, as the log does.
pub(crate) fn republishing(name: &str, subject: &str, live: &str) -> stream::Config {
    let republish = stream::Republish { source: subject.into(), destination: live.into(), headers_only: false };
    stream::Config {
        name: name.into(),
        subjects: vec![subject.into()],
        republish: Some(republish),
        ..Default::default()
    }
}

/// The source with an edit in it.
pub(crate) fn write(deltabus: &Deltabus, edit: u32) -> Result<()> {
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
        loop {
            let next = tokio::time::timeout(PATIENCE, live.next()).await?;
            let next = next.ok_or("the subscription ended")?;
            // Heartbeats have no place in the stream.
            if next.headers.is_some_and(|headers| headers.get("Nats-Sequence").is_some()) {
                bytes += next.payload.len() as u64;
                break;
            }
        }
    }
    Ok(bytes)
}

/// Each destination in a folder of its own, as destinations of different machines would be.
pub(crate) fn configure(deltabus: &Deltabus, count: usize, together: usize) -> Result<()> {
    for (process, first) in (0..count).step_by(together).enumerate() {
        let mut text = format!("name = \"r{process}\"\n");
        for at in first..count.min(first + together) {
            fs::create_dir(deltabus.path(&format!("{at}")))?;
            let file = deltabus.path(&format!("{at}/copy.csv"));
            writeln!(text, "[[destination]]\nsource = \"bench\"\nlocation = \"csv:{}?key=id\"", file.display())?;
        }
        fs::write(deltabus.path(&format!("{process}.toml")), text)?;
    }
    Ok(())
}

pub(crate) fn follow(deltabus: &Deltabus, count: usize, together: usize) -> Result<Running> {
    let mut running = Running::default();
    for process in 0..count.div_ceil(together) {
        running.0.push(start(deltabus, &format!("receive --config {process}.toml -q"))?);
    }
    Ok(running)
}

pub(crate) fn start(deltabus: &Deltabus, line: &str) -> Result<Child> {
    Ok(deltabus.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Returns when every destination has an edit.
pub(crate) fn all_have(deltabus: &Deltabus, count: usize, edit: u32) -> Result<()> {
    let begin = Instant::now();
    let row = format!("\n{ROWS},Item {ROWS},{edit}\n");
    for at in 0..count {
        let path = deltabus.path(&format!("{at}/copy.csv"));
        while !fs::read_to_string(&path).is_ok_and(|text| text.contains(&row)) {
            if begin.elapsed() > PATIENCE {
                return Err(format!("edit {edit} did not arrive at {}", path.display()).into());
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    Ok(())
}
