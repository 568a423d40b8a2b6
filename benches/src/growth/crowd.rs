//! Many receivers of one source, and many sources.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use super::world::{Gathered, World};
use super::{Effort, Point};
use crate::fan_out::{CALM, all_have, configure, follow, start, write};
use crate::join::settle;
use crate::measure::{Result, Running};
use crate::rows::Table;

/// Sets while receivers follow, one each second: who is there is told by the clock, so that each number of receivers gets the same time.
const SETS: u32 = 10;
const PACE: Duration = Duration::from_secs(1);

/// Rows of each source, and how many of a thousand the small set changes.
const SOURCE_ROWS: u64 = 5_000;
const SOURCE_CHANGED: u64 = 20;

/// How many receivers there are with a process each. A process that watches files takes an instance of inotify, of which Linux gives a user
/// 128 unless told otherwise; the transmitter needs one, without which it looks every two seconds.
const APART: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 96, 120];

/// How many there are in one process.
const IN_ONE_PROCESS: [u64; 9] = [1, 4, 16, 32, 64, 96, 128, 192, 256];

const SOURCES: [u64; 8] = [1, 2, 4, 8, 16, 32, 48, 64];

/// Those up to the most at this scale, two at least.
fn counts(effort: Effort, full: &[u64]) -> Vec<u64> {
    let most = full.last().map_or(0, |most| effort.scaled(*most)).max(2);
    full.iter().copied().filter(|count| *count <= most).collect()
}

/// Receivers with a process each, then all in one.
pub(super) fn receivers(effort: Effort) -> Result<Vec<Point>> {
    let mut points = Gathered::default();
    for (together, full) in [(Together::Apart, &APART), (Together::InOneProcess, &IN_ONE_PROCESS)] {
        for count in counts(effort, full) {
            follow_sets(&mut points, count, together)?;
        }
    }
    Ok(points.0)
}

#[derive(Clone, Copy)]
enum Together {
    Apart,
    InOneProcess,
}

/// So many receivers that come to a source and then follow it.
fn follow_sets(points: &mut Gathered, count: u64, together: Together) -> Result<()> {
    let receivers = count as usize;
    let (in_a_process, who) = match together {
        Together::Apart => (1, "receivers, a process each"),
        Together::InOneProcess => (receivers, "receivers, all in one process"),
    };
    let world = World::new()?;
    let deltabus = &world.deltabus;
    write(deltabus, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    configure(deltabus, receivers, in_a_process)?;
    settle()?;

    let watch = Watch::begin(&world, &Running::default())?;
    let begin = Instant::now();
    let running = follow(deltabus, receivers, in_a_process)?;
    all_have(deltabus, receivers, 0)?;
    points.add(Point { stage: "first load".into(), ..watch.end(&world, &running, who, count, begin.elapsed())? });

    let transmitter = Running(vec![start(deltabus, "transmit bench csv:bench.csv?key=id -q")?]);
    // The first edit waits for the transmitter to be up.
    write(deltabus, 1)?;
    all_have(deltabus, receivers, 1)?;
    std::thread::sleep(CALM);
    let (transmitting, watch) = (Watch::begin(&world, &transmitter)?, Watch::begin(&world, &running)?);
    let begin = Instant::now();
    let mut under_way = Duration::ZERO;
    for edit in 0..SETS {
        std::thread::sleep((PACE * edit).saturating_sub(begin.elapsed()));
        let written = Instant::now();
        write(deltabus, edit + 2)?;
        all_have(deltabus, receivers, edit + 2)?;
        under_way += written.elapsed();
    }
    std::thread::sleep((PACE * SETS).saturating_sub(begin.elapsed()));
    let stage = format!("{SETS} sets");
    let followed = watch.end(&world, &running, who, count, under_way)?;
    let transmitted = transmitting.end(&world, &transmitter, "transmitter", count, under_way)?;
    points.add(Point { stage: stage.clone(), ..followed });
    if let Together::Apart = together {
        // What the receivers' line tells already.
        points.add(Point { stage, seconds: None, wire_bytes: None, broker_cpu_seconds: None, ..transmitted });
    }
    Ok(())
}

/// Sources, all in one process on either side.
pub(super) fn sources(effort: Effort) -> Result<Vec<Point>> {
    let mut points = Gathered::default();
    for count in counts(effort, &SOURCES) {
        for _ in 0..effort.runs {
            let world = World::new()?;
            name_sources(&world, count)?;
            for (name, changed) in [("first load", 0), ("100 changes each", SOURCE_CHANGED)] {
                for source in 0..count {
                    let file = world.deltabus.path(&format!("s{source}.csv"));
                    Table { changed, ..Table::new(SOURCE_ROWS, 8) }.write(&file)?;
                }
                let transmit = "transmit --config transmitter.toml --once -q";
                points.add(world.step(name, "transmitter", count, transmit)?);
                let receive = "receive --config receiver.toml --once -q";
                points.add(world.step(name, "receiver", count, receive)?);
            }
        }
    }
    Ok(points.0)
}

/// Writes the files that name them, each destination in a folder of its own.
fn name_sources(world: &World, count: u64) -> Result<()> {
    let (mut transmitter, mut receiver) = (String::new(), String::from("name = \"copy\"\n"));
    for source in 0..count {
        let from = world.deltabus.path(&format!("s{source}.csv"));
        writeln!(transmitter, "[[source]]\nname = \"s{source}\"\nlocation = \"csv:{}?key=id\"", from.display())?;
        let folder = world.deltabus.path(&format!("copy{source}"));
        fs::create_dir(&folder)?;
        let to = folder.join("copy.csv");
        writeln!(receiver, "[[destination]]\nsource = \"s{source}\"\nlocation = \"csv:{}?key=id\"", to.display())?;
    }
    fs::write(world.deltabus.path("transmitter.toml"), transmitter)?;
    Ok(fs::write(world.deltabus.path("receiver.toml"), receiver)?)
}

/// Figures of processes that go on, and of the broker, at one moment.
struct Watch {
    cpu_seconds: f64,
    wire_bytes: f64,
    broker_cpu_seconds: f64,
}

impl Watch {
    fn begin(world: &World, running: &Running) -> Result<Watch> {
        let wire_bytes = world.wire_bytes()?;
        Ok(Watch { cpu_seconds: running.cpu()?, wire_bytes, broker_cpu_seconds: world.broker.cpu()? })
    }

    /// What they took since, of a stage that has no name yet.
    fn end(self, world: &World, running: &Running, who: &str, at: u64, time: Duration) -> Result<Point> {
        let broker_cpu_seconds = world.broker.cpu()? - self.broker_cpu_seconds;
        Ok(Point {
            stage: String::new(),
            who: who.into(),
            at,
            seconds: Some(time.as_secs_f64()),
            cpu_seconds: Some(running.cpu()? - self.cpu_seconds),
            peak_mib: Some(running.peak_mib()?),
            wire_bytes: Some(world.wire_bytes()? - self.wire_bytes),
            broker_cpu_seconds: Some(broker_cpu_seconds),
        })
    }
}
