//! The publish step alone: staged sets handed to the bus, beside raw JetStream publishing of the same bytes. What compressing large sets took
//! when they were staged is told beside it.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use deltabus_bus::{EncodedSet, Writer, encode_set, pointer};
use deltabus_record::change::{Change, ChangeSet, CollectionChanges, Revision, Transaction};
use deltabus_record::digest::Digest;
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::CollectionName;
use deltabus_record::value::Value;

use crate::fan_out::republishing;
use crate::measure::{RUNS, Result};
use crate::pipeline::Deltabus;
use crate::rows;

/// The raw stream, and its subject.
const RAW: &str = "raw";

/// A stream that republishes, as the log does, and is written with compare-and-set; its subject.
const ALIKE: &str = "alike";

/// The server is done with what came before by then.
const PAUSE: Duration = Duration::from_millis(300);

/// What is published in one go.
struct Load {
    name: &'static str,
    /// How many bytes each set has, as staged.
    set_bytes: usize,
    /// How many sets wait at a time.
    waiting: usize,
    /// How often.
    times: usize,
}

const LOADS: [Load; 5] = [
    Load { name: "1 kB, one after the other", set_bytes: 1_000, waiting: 1, times: 1_000 },
    Load { name: "1 kB, 5,000 waiting", set_bytes: 1_000, waiting: 5_000, times: 4 },
    Load { name: "100 kB, one after the other", set_bytes: 100_000, waiting: 1, times: 200 },
    Load { name: "4 MB", set_bytes: 4_000_000, waiting: 1, times: 8 },
    Load { name: "64 MB", set_bytes: 64_000_000, waiting: 1, times: 1 },
];

/// What the sets hold.
#[derive(Clone, Copy)]
enum Content {
    /// Made-up rows.
    Rows,
    /// Bytes that no compression makes shorter.
    Noise,
}

/// Measures all loads.
pub(crate) fn publish_step() -> Result<()> {
    println!("seconds; ratio to raw publishing of the same messages, each acknowledged before the next");
    println!(
        "{:<8} {:<28} {:>9} {:>9} {:>9} {:>10} {:>10} {:>8} {:>12} {:>12} {:>12} {:>12}",
        "content",
        "sets",
        "plain kB",
        "stored kB",
        "messages",
        "deltabus s",
        "raw s",
        "ratio",
        "raw in a row",
        "raw alike s",
        "staging s",
        "plain raw s"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    for content in [Content::Rows, Content::Noise] {
        for load in &LOADS {
            runtime.block_on(measure(load, content))?;
        }
    }
    Ok(())
}

async fn measure(load: &Load, content: Content) -> Result<()> {
    // A server of its own, so that no run pays for the files of another.
    let deltabus = Deltabus::new()?;
    rows::write(&deltabus.path("bench.csv"), 100, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let log = deltabus.log().await?;
    let known = pointer(&log).await?.ok_or("nothing was published")?.position;
    let (mut writer, _) = Writer::claim(&log, "benchmark", known).await?;
    let jetstream = jetstream::new(deltabus.client().await?);
    let config = jetstream::stream::Config { name: RAW.into(), subjects: vec![RAW.into()], ..Default::default() };
    jetstream.create_stream(config).await?;
    jetstream.create_stream(republishing(ALIKE, ALIKE, "alike.live")).await?;
    let mut alike_last = 0;
    let log_stream = jetstream.get_stream("deltabus_bench").await?;

    let mut best: Option<[f64; 6]> = None;
    let (mut staged, mut stored, mut messages) = (0, 0, 0);
    for _ in 0..RUNS {
        let mut at = writer.position().revision;
        let (mut sets, mut plain, mut packing) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..load.times {
            let waiting = (0..load.waiting).map(|_| make(&mut at, load.set_bytes, content)).collect::<Vec<_>>();
            plain.extend(waiting.iter().map(|(_, set)| set.0.clone()));
            // As the transmitter stages them.
            let start = Instant::now();
            sets.push(waiting.into_iter().map(|(revision, set)| (revision, set.packed())).collect::<Vec<_>>());
            packing += start.elapsed().as_secs_f64();
        }
        staged = plain.iter().map(Bytes::len).sum();
        let first = writer.position().sequence + 1;
        let start = Instant::now();
        for group in &sets {
            writer.publish(group).await?;
        }
        let ours = start.elapsed().as_secs_f64();

        let mut same = Vec::new();
        for sequence in first..=writer.position().sequence {
            same.push(log_stream.direct_get(sequence).await?.payload);
        }
        stored = same.iter().map(Bytes::len).sum();
        messages = same.len();
        tokio::time::sleep(PAUSE).await;
        let start = Instant::now();
        for payload in &same {
            jetstream.publish(RAW, payload.clone()).await?.await?;
        }
        let raw = start.elapsed().as_secs_f64();
        tokio::time::sleep(PAUSE).await;
        let start = Instant::now();
        let mut acknowledged = Vec::new();
        for payload in &same {
            acknowledged.push(jetstream.publish(RAW, payload.clone()).await?.into_future());
        }
        for acknowledged in acknowledged {
            acknowledged.await?;
        }
        let in_a_row = start.elapsed().as_secs_f64();
        tokio::time::sleep(PAUSE).await;
        let start = Instant::now();
        for payload in &same {
            let message = PublishMessage::build().payload(payload.clone()).expected_last_sequence(alike_last);
            alike_last = jetstream.send_publish(ALIKE, message).await?.await?.sequence;
        }
        let alike = start.elapsed().as_secs_f64();
        // What a publisher does that doesn't pack and doesn't compress, in messages that the server takes.
        tokio::time::sleep(PAUSE).await;
        let start = Instant::now();
        for set in &plain {
            for piece in set.chunks(deltabus_bus::BUNDLE_BYTES) {
                jetstream.publish(RAW, set.slice_ref(piece)).await?.await?;
            }
        }
        let plain_raw = start.elapsed().as_secs_f64();
        let run = [ours, raw, in_a_row, alike, packing, plain_raw];
        best = Some(best.map_or(run, |best| std::array::from_fn(|i| best[i].min(run[i]))));
        tokio::time::sleep(PAUSE).await;
    }
    let [ours, raw, in_a_row, alike, packing, plain_raw] = best.ok_or("no run")?;
    let content = match content {
        Content::Rows => "rows",
        Content::Noise => "noise",
    };
    println!(
        "{content:<8} {:<28} {:>9} {:>9} {messages:>9} {ours:>10.4} {raw:>10.4} {:>8.2} {in_a_row:>12.4} {alike:>12.4} {packing:>12.4} {plain_raw:>12.4}",
        load.name,
        staged / 1000,
        stored / 1000,
        raw / ours,
    );
    Ok(())
}

/// The next set, of about so many bytes.
fn make(at: &mut Revision, bytes: usize, content: Content) -> (Revision, EncodedSet) {
    let base = *at;
    let next = Revision {
        number: base.number + 1,
        digest: Digest { records: base.digest.records + 1, sum: u128::from(rows::mix(base.number)) },
    };
    let mut changes = Vec::new();
    let mut length = 0;
    let mut seed = base.number << 24;
    while length < bytes.saturating_sub(100) {
        seed += 1;
        let (key, row) = match content {
            Content::Rows => {
                let mut line = String::new();
                rows::row(&mut line, seed, false);
                let values: Vec<_> = line.trim_end().split(',').map(|cell| Value::Text(cell.into())).collect();
                (Key::of(&values[..1]), Row::of(&values))
            }
            Content::Noise => {
                let noise = (0..16).flat_map(|i| rows::mix(seed << 4 | i).to_le_bytes()).collect();
                (Key::of(&[Value::Integer(seed as i64)]), Row::of(&[Value::Integer(seed as i64), Value::Bytes(noise)]))
            }
        };
        length += key.as_bytes().len() + row.as_bytes().len() + 8;
        changes.push(Change::Insert { key, row });
    }
    let collections = vec![CollectionChanges { collection: CollectionName::new("bench"), changes }];
    let transactions = vec![Transaction { schemas: Vec::new(), collections }];
    let set = ChangeSet { base, next, time_millis: base.number, transactions, replies: Vec::new() };
    *at = next;
    (next, encode_set(&set))
}
