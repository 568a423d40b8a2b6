//! Processes killed, frozen and started again at random, the broker too, while both ends are edited all the time; then
//! all are equal, and every edit is where it belongs.
//!
//! `DELTABUS_CHAOS_SECONDS` says how long (a short time otherwise), `DELTABUS_CHAOS_SEED` which sequence of faults; the
//! seed is printed. Processes run as they like, so a seed repeats the faults, not every interleaving.

mod editors;
mod faults;

use std::time::{Duration, Instant};

use deltabus_test_servers::postgres::lease;
use deltabus_tests::World;

use editors::{Editor, Files, Tables};
use faults::{Faults, Random};

/// How long faults are made, unless somebody says otherwise.
const SECONDS: u64 = 25;

/// How long a source may take to be equal everywhere once nobody disturbs any more.
const SETTLE: Duration = Duration::from_secs(120);

/// Each source begins with this many records.
const RECORDS: u32 = 200;

/// One source and its receivers, as locations.
struct Replicated {
    source: &'static str,
    from: String,
    to: Vec<String>,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn whatever_is_killed_all_become_equal_and_no_edit_is_lost() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = number("DELTABUS_CHAOS_SEED", now.into());
    let seconds = number("DELTABUS_CHAOS_SECONDS", SECONDS);
    println!("chaos for {seconds} s, seed {seed}");

    let world = World::new();
    let (server, folder) = (lease(), world.path(""));
    let (goods, copy) = (server.database(), server.database());
    let file = |name: &str| folder.join(name);
    Tables::postgres(&server, &goods).fill(RECORDS);
    Tables::sqlite(file("stock.db")).fill(RECORDS);
    Files::csv(file("people.csv")).fill(RECORDS);
    let all = [
        Replicated {
            source: "goods",
            from: server.location(&goods, "tables=records"),
            to: vec![
                "sqlite:goods.db?tables=records".into(),
                "json:goods.json?key=id".into(),
                "csv:goods.csv?key=id".into(),
            ],
        },
        Replicated {
            source: "stock",
            from: "sqlite:stock.db?tables=records".into(),
            to: vec![server.location(&copy, "tables=records"), "ndjson:stock.ndjson?key=id".into()],
        },
        Replicated {
            source: "people",
            from: "csv:people.csv?key=id".into(),
            to: vec!["sqlite:people.db?tables=records".into(), "csv:people2.csv?key=id".into()],
        },
    ];
    let mut lines = Vec::new();
    for replicated in &all {
        let Replicated { source, from, to } = replicated;
        lines.push(format!("transmit {source} {from} --poll 1s"));
        for (at, to) in to.iter().enumerate() {
            lines.push(format!("receive {source} {to} --name r{at} --reverse"));
        }
        world.run(&format!("transmit {source} {from} --once")).exits(0);
    }
    for line in lines.iter().filter(|line| line.starts_with("receive")) {
        world.run(&format!("{line} --once")).exits(0);
    }

    // Editors of databases work all the time; each has records of its own, so that the last thing it did must stand.
    let tables = vec![
        Editor::start("goods-source", Tables::postgres(&server, &goods), seed ^ 1),
        Editor::start("goods-r0", Tables::sqlite(file("goods.db")), seed ^ 2),
        Editor::start("stock-source", Tables::sqlite(file("stock.db")), seed ^ 3),
        Editor::start("stock-r0", Tables::postgres(&server, &copy), seed ^ 4),
        Editor::start("people-r0", Tables::sqlite(file("people.db")), seed ^ 5),
    ];
    // Files are edited while the process that writes them is down: a program that writes back what it read long ago would
    // undo what came in between, and that would be right.
    let files = vec![
        (
            lines.iter().position(|line| line.contains("goods.json")).unwrap(),
            "goods-r1",
            Files::json(file("goods.json")),
        ),
        (lines.iter().position(|line| line.contains("goods.csv")).unwrap(), "goods-r2", Files::csv(file("goods.csv"))),
        (
            lines.iter().position(|line| line.contains("stock.ndjson")).unwrap(),
            "stock-r1",
            Files::lines(file("stock.ndjson")),
        ),
        (
            lines.iter().position(|line| line.contains("transmit people")).unwrap(),
            "people-source",
            Files::csv(file("people.csv")),
        ),
        (
            lines.iter().position(|line| line.contains("people2.csv")).unwrap(),
            "people-r1",
            Files::csv(file("people2.csv")),
        ),
    ];
    let mut faults = Faults::new(&world, &lines, files, Random(seed));
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        faults.strike();
    }
    let mut edited: Vec<_> = tables.into_iter().map(Editor::stop).collect();
    let (counts, files) = faults.end();
    edited.extend(files);
    println!("{counts}; {} edits", edited.iter().map(|edited| edited.edits).sum::<u64>());

    let settled = Instant::now() + SETTLE;
    for replicated in &all {
        for to in &replicated.to {
            let diff = || world.run(&format!("diff {} {to}", replicated.from));
            while diff().code() != Some(0) {
                assert!(Instant::now() < settled, "seed {seed}: {}\n{}", diff().text(), world.logs());
            }
        }
    }
    let mut lost = Vec::new();
    for replicated in &all {
        let there = match replicated.source {
            "goods" => Tables::postgres(&server, &goods).read(),
            "stock" => Tables::sqlite(file("stock.db")).read(),
            _ => Files::csv(file("people.csv")).read(),
        };
        let mine = |name: &str| name.starts_with(replicated.source);
        for edited in edited.iter().filter(|edited| mine(&edited.editor)) {
            lost.extend(edited.missing_from(&there));
        }
        let is_known = |id: &String| {
            id.starts_with("first-") || edited.iter().any(|edited| mine(&edited.editor) && edited.knows(id))
        };
        lost.extend(there.keys().filter(|id| !is_known(id)).map(|id| format!("{id} is there, and nobody made it")));
        lost.extend((0..RECORDS).map(|at| format!("first-{at}")).filter(|id| !there.contains_key(id)));
        let log = world.run(&format!("log {} --json", replicated.source)).exits(0).stdout();
        let revision =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].as_u64().unwrap();
        let mut numbers: Vec<u64> = log.lines().map(revision).collect();
        numbers.sort_unstable();
        assert_eq!(
            numbers,
            (numbers[0]..numbers[0] + numbers.len() as u64).collect::<Vec<_>>(),
            "seed {seed}: the revisions of {} have holes or repeat",
            replicated.source
        );
    }
    assert!(lost.is_empty(), "seed {seed}: lost or undone: {lost:#?}\n{}", world.logs());
}
