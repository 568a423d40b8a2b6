//! A receiver that joins under full load: what the others notice of it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::feed::Feed;
use crate::measure::{Process, Result, Running, quantile};
use crate::pipeline::Deltabus;
use crate::readers::{Crowd, Readers, Way};
use crate::rows;

/// How long the others are looked at before and after.
const WHILE: Duration = Duration::from_secs(5);

/// Readers in a process.
const TOGETHER: usize = 64;

/// How large the text is that each set changes, in bytes.
const BYTES: usize = 200;

/// Publishes to `count` readers all the time, the next set once the former is everywhere, or `rate` a second; meanwhile a
/// receiver joins a source of `rows` rows, and, to compare, a process runs that does nothing but compute.
pub(crate) fn joining(row_count: u64, count: usize, rate: u32) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(measure(row_count, count, rate))
}

async fn measure(row_count: u64, count: usize, rate: u32) -> Result<()> {
    let deltabus = Deltabus::new()?;
    rows::write(&deltabus.path("bench.csv"), row_count, 0)?;
    deltabus.run("transmit bench csv:bench.csv?key=id --once -q")?;
    let broker = deltabus.broker()?;
    let mut feed = Feed::claim(&deltabus).await?;
    feed.edit(BYTES).await?;
    let readers = Readers::start(&deltabus.state(), Way::Log, Crowd { count, together: TOGETHER, apart: true })?;
    let stop = Arc::new(AtomicBool::new(false));
    let delays: Arc<Mutex<Vec<(Instant, f64)>>> = Arc::default();
    let publishing = {
        let (stop, delays) = (Arc::clone(&stop), Arc::clone(&delays));
        tokio::spawn(async move {
            let begin = Instant::now();
            let mut sent = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                if rate > 0 {
                    let due = begin + Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
                    tokio::time::sleep_until(due.into()).await;
                }
                let start = Instant::now();
                let failed = |error: Box<dyn std::error::Error>| error.to_string();
                feed.edit(BYTES).await.map_err(failed)?;
                feed.beat().await.map_err(failed)?;
                readers.all_have(feed.revision()).map_err(failed)?;
                let delay = start.elapsed().as_secs_f64() * 1e3;
                delays.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), delay));
                sent += 1;
            }
            Ok::<_, String>(())
        })
    };
    println!(
        "{row_count} rows, {count} readers, {}",
        match rate {
            0 => "the next set once the former is everywhere".to_owned(),
            rate => format!("{rate} sets a second"),
        }
    );
    println!(
        "{:<34} {:>8} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9}",
        "", "seconds", "sets/s", "p50 ms", "p99 ms", "most ms", "its cores", "broker"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let print = |name: &str, begin: Instant, cores: f64, broker_cores: f64| {
        let seconds = begin.elapsed().as_secs_f64();
        let all = delays.lock().unwrap_or_else(PoisonError::into_inner);
        let mut here: Vec<f64> = all.iter().filter(|(at, _)| *at >= begin).map(|(_, delay)| *delay).collect();
        here.sort_by(f64::total_cmp);
        println!(
            "{name:<34} {seconds:>8.2} {:>9.1} {:>9.2} {:>9.2} {:>9.2} {cores:>11.2} {broker_cores:>9.2}",
            here.len() as f64 / seconds,
            quantile(&here, 0.5),
            quantile(&here, 0.99),
            quantile(&here, 1.0),
        );
    };
    let calm = async |name: &str| -> Result<()> {
        let (begin, before) = (Instant::now(), broker.cpu()?);
        tokio::time::sleep(WHILE).await;
        print(name, begin, 0.0, (broker.cpu()? - before) / begin.elapsed().as_secs_f64());
        Ok(())
    };
    let beside = async |name: &str, mut command: Command, at_most: Duration| -> Result<()> {
        let (begin, before) = (Instant::now(), broker.cpu()?);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut running = Running(vec![child]);
        let mut cpu = 0.0;
        while running.0[0].try_wait()?.is_none() && begin.elapsed() < at_most {
            cpu = Process(running.0[0].id()).cpu().unwrap_or(cpu).max(cpu);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        print(name, begin, cpu / seconds, (broker.cpu()? - before) / seconds);
        Ok(())
    };
    calm("before").await?;
    for (name, location) in [("CSV", "csv:joined.csv?key=id"), ("SQLite", "sqlite:joined.db")] {
        let line = format!("receive bench {location} --name joiner-{} --once -q", name.to_lowercase());
        beside(&format!("one joins, into {name}"), deltabus.command(&line), Duration::from_secs(120)).await?;
        calm("after").await?;
    }
    let mut computing = Command::new(std::env::current_exe()?);
    computing.args(["alternative", "compute"]);
    beside("beside a process that computes", computing, WHILE).await?;
    calm("after").await?;
    stop.store(true, Ordering::Relaxed);
    publishing.await??;
    Ok(())
}
