//! PostgreSQL to PostgreSQL, beside its own ways.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deltabus_test_servers::postgres::Server;

use crate::measure::{Measured, RUNS, Result, best, line};
use crate::pipeline::Deltabus;

/// What logical replication needs, and as much memory as a small server has. Data is synced as it would be in use.
pub(crate) const SETTINGS: &str = "-c wal_level=logical -c max_wal_senders=10 -c max_replication_slots=10 \
     -c max_logical_replication_workers=10 -c max_worker_processes=16 -c shared_buffers=256MB -c max_wal_size=4GB \
     -c fsync=on -c synchronous_commit=on -c full_page_writes=on -c autovacuum=on";

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often the lag is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

pub(crate) const TABLE: &str = "CREATE TABLE bench (id bigint PRIMARY KEY, name text, email text, amount numeric(12, 2), seen timestamptz, \
     vip boolean, note text)";

/// Makes the table with `rows` rows.
pub(crate) fn fill(server: &Server, database: &str, rows: u64) {
    server.run(database, TABLE);
    server.run(
        database,
        &format!(
            "INSERT INTO bench SELECT id, 'Person ' || id % 100000, 'person' || id || '@example.org',
                (id::bigint * 7919 % 1000000) / 100.0, timestamptz '2026-01-01' + id * interval '1 second', id % 3 = 0,
                'seen ' || id % 977 || ' times' FROM generate_series(1, {rows}) id"
        ),
    );
    server.run(database, "VACUUM ANALYZE bench");
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return Err(format!("waited in vain until {what}").into());
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(start.elapsed())
}

/// `COPY TO | COPY FROM`, from one server to the other.
pub(crate) fn pipe(publisher: &Server, source: &str, subscriber: &Server, target: &str) -> Command {
    let psql = |server: &Server, database: &str, sql: &str| {
        format!("psql -X -q -U postgres -h {} -d {database} -c \"{sql}\"", server.socket().display())
    };
    let out = psql(publisher, source, "COPY bench TO STDOUT (FORMAT binary)");
    let into = psql(subscriber, target, "COPY bench FROM STDIN (FORMAT binary)");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{out} | {into}"));
    command
}

/// The first load of a table.
pub(crate) fn load(rows: u64) -> Result<()> {
    let (publisher, subscriber) = (Server::with(SETTINGS), Server::with(SETTINGS));
    let source = publisher.database();
    fill(&publisher, &source, rows);
    println!("first load of {rows} rows, PostgreSQL to PostgreSQL");
    let copy = best(&[0], || {
        let target = subscriber.database();
        subscriber.run(&target, TABLE);
        Ok(pipe(&publisher, &source, &subscriber, &target))
    })?;
    line("COPY TO | COPY FROM, binary, into a key", copy, copy);
    publisher.run(&source, "CREATE PUBLICATION bench FOR TABLE bench");
    let mut fastest = f64::MAX;
    for _ in 0..RUNS {
        let target = subscriber.database();
        subscriber.run(&target, TABLE);
        let start = Instant::now();
        subscribe(&publisher, &source, &subscriber, &target);
        wait("the first sync is done", || synced(&subscriber, &target))?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        subscriber.run(&target, &format!("DROP SUBSCRIPTION {target}"));
    }
    line(
        "logical replication, initial sync",
        Measured { seconds: fastest, cpu_seconds: f64::NAN, peak_mib: 0.0 },
        copy,
    );
    let world = Deltabus::new()?;
    let from = publisher.location(&source, "tables=bench");
    let copied = best(&[0], || {
        let target = subscriber.database();
        Ok(world.command(&format!("copy {from} {} -q", subscriber.location(&target, "tables=bench"))))
    })?;
    line("deltabus copy", copied, copy);
    let mut round = 0;
    let transmitted = best(&[0], || {
        round += 1;
        world.run("bus start -q")?;
        Ok(world.command(&format!("transmit bench{round} {from} --once -q")))
    })?;
    line("deltabus transmit --once (source to bus)", transmitted, copy);
    let received = best(&[0], || {
        let target = subscriber.database();
        let to = subscriber.location(&target, "tables=bench");
        Ok(world.command(&format!("receive bench{round} {to} --once -q")))
    })?;
    line("deltabus receive --once (bus to base and table)", received, copy);
    let looked = best(&[0], || Ok(world.command(&format!("transmit bench{round} {from} --once -q"))))?;
    line("deltabus transmit --once, nothing new", looked, copy);
    Ok(())
}

fn subscribe(publisher: &Server, source: &str, subscriber: &Server, target: &str) {
    let sql = format!(
        "CREATE SUBSCRIPTION {target} CONNECTION 'host={} user=postgres dbname={source}' PUBLICATION bench",
        publisher.socket().display()
    );
    subscriber.run(target, &sql);
}

fn synced(subscriber: &Server, target: &str) -> bool {
    let sql = "SELECT count(*) FILTER (WHERE srsubstate = 'r') = count(*) AND count(*) > 0 FROM pg_subscription_rel";
    subscriber.run(target, sql) == "t"
}

/// Updates of single rows, as many as go or at a rate.
pub(crate) fn updates(rows: u64, seconds: u32, rate: u32) -> Result<()> {
    let rate_text = if rate == 0 { "as fast as they go".into() } else { format!("at {rate} a second") };
    println!("updates of a table of {rows} rows for {seconds} s, {rate_text}");
    println!("{:<38} {:>10} {:>12} {:>12} {:>12}", "", "tx/s", "lag p50", "lag most", "equal after");
    for subscribers in [1, 4] {
        for way in [Way::Native, Way::Deltabus] {
            run_updates(way, subscribers, rows, seconds, rate)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Native,
    Deltabus,
}

/// Programs that end with this.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // They are ours; one that has ended is no trouble.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run_updates(way: Way, subscribers: usize, rows: u64, seconds: u32, rate: u32) -> Result<()> {
    let (publisher, subscriber) = (Server::with(SETTINGS), Server::with(SETTINGS));
    let source = publisher.database();
    fill(&publisher, &source, rows);
    let targets: Vec<String> = (0..subscribers).map(|_| subscriber.database()).collect();
    let world = Deltabus::new()?;
    let mut running = Running(Vec::new());
    let from = publisher.location(&source, "tables=bench");
    match way {
        Way::Native => {
            publisher.run(&source, "CREATE PUBLICATION bench FOR TABLE bench");
            for target in &targets {
                subscriber.run(target, TABLE);
                subscribe(&publisher, &source, &subscriber, target);
                wait("the first sync is done", || synced(&subscriber, target))?;
            }
        }
        Way::Deltabus => {
            world.run(&format!("transmit bench {from} --once -q"))?;
            let quiet = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            for target in &targets {
                let to = subscriber.location(target, "tables=bench");
                world.run(&format!("receive bench {to} --name {} --once -q", target.replace('_', "-")))?;
                let line = format!("receive bench {to} --name {} -q", target.replace('_', "-"));
                running.0.push(quiet(world.command(&line))?);
            }
            running.0.push(quiet(world.command(&format!("transmit bench {from} -q")))?);
        }
    }
    // A row that says when it was written, for the lag.
    publisher.run(&source, "UPDATE bench SET seen = clock_timestamp() WHERE id = 1");
    let fresh = "SELECT clock_timestamp() - seen < interval '1 hour' FROM bench WHERE id = 1";
    wait("the first update is there", || targets.iter().all(|target| subscriber.run(target, fresh) == "t"))?;
    let script = world.path("updates.sql");
    std::fs::write(
        &script,
        format!("\\set id random(2, {rows})\nUPDATE bench SET amount = amount + 1, note = 'again' WHERE id = :id;\n"),
    )?;
    let mut pgbench = Command::new("pgbench");
    pgbench.args(["-n", "-c", "4", "-U", "postgres", "-T", &seconds.to_string(), "-h"]).arg(publisher.socket());
    if rate > 0 {
        pgbench.args(["-R", &rate.to_string()]);
    }
    let pgbench = pgbench.arg("-f").arg(&script).arg(&source).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let start = Instant::now();
    let mut lags: Vec<f64> = Vec::new();
    while start.elapsed().as_secs() < u64::from(seconds) {
        publisher.run(&source, "UPDATE bench SET seen = clock_timestamp() WHERE id = 1");
        std::thread::park_timeout(SAMPLE);
        for target in &targets {
            let lag =
                subscriber.run(target, "SELECT extract(epoch FROM clock_timestamp() - seen) FROM bench WHERE id = 1");
            lags.push(lag.parse().unwrap_or(f64::NAN));
        }
    }
    let output = pgbench.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap_or("?");
    let tps = tps.split_whitespace().next().and_then(|tps| tps.parse().ok()).unwrap_or(f64::NAN);
    let sum = "SELECT sum(hashtext(bench::text)::bigint) FROM bench";
    let wanted = publisher.run(&source, sum);
    let behind = wait("all are equal", || targets.iter().all(|target| subscriber.run(target, sum) == wanted))?;
    lags.sort_by(f64::total_cmp);
    let name = match way {
        Way::Native => format!("logical replication, {subscribers} subscribed"),
        Way::Deltabus => format!("deltabus, {subscribers} receiving"),
    };
    println!(
        "{name:<38} {tps:>10.0} {:>10.2} s {:>10.2} s {:>10.2} s",
        lags[lags.len() / 2],
        lags.last().copied().unwrap_or(f64::NAN),
        behind.as_secs_f64()
    );
    if way == Way::Native {
        for target in &targets {
            subscriber.run(target, &format!("DROP SUBSCRIPTION {target}"));
        }
    }
    Ok(())
}
