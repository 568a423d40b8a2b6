//! Wall clocks that jump, each machine's for itself.
#![cfg(target_os = "linux")]

use deltabus_tests::World;
use deltabus_tests::clock::Clock;

const SOURCE: &str = "csv:people.csv?key=id";
const YEAR: i64 = 365 * 24 * 3600;

/// The revisions and their times that the log has, oldest first.
fn revisions(world: &World) -> Vec<(u64, u64)> {
    let log = world.run("log people --json").exits(0).stdout();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["revision"].as_u64().unwrap(), line["time_millis"].as_u64().unwrap())
    };
    let mut revisions: Vec<_> = log.lines().map(line).collect();
    revisions.sort_unstable();
    revisions
}

#[test]
fn clocks_that_jump_lose_nothing_and_the_logs_times_never_fall() {
    let world = World::new();
    world.write("people.csv", "id,name,phone\n1,Ann,0\n2,Bob,0\n");
    let clocks = ["source", "a", "b"].map(|name| Clock::new(&world, name));
    let lines = [
        "transmit people csv:people.csv?key=id --conflicts latest",
        "receive people sqlite:a.db --name a --reverse",
        "receive people csv:b.csv?key=id --name b --reverse",
    ];
    let _running: Vec<_> = clocks.iter().zip(lines).map(|(clock, line)| clock.start(&world, line)).collect();
    let equal = || {
        world.wait_equal(SOURCE, "sqlite:a.db");
        world.wait_equal(SOURCE, "csv:b.csv?key=id");
    };
    equal();
    let jumps = [[YEAR, 0, 0], [-YEAR, 10 * YEAR, -3600], [-YEAR, -20 * YEAR, 3600], [0, 0, YEAR], [0, 0, 0]];
    for (round, jump) in (1..).zip(jumps) {
        clocks.iter().zip(jump).for_each(|(clock, seconds)| clock.jump(seconds));
        // An edit at each end, each of a field of its own, and a record that goes and one that comes.
        let at_source = world.read("people.csv").replace(&format!("Ann,{}", round - 1), &format!("Ann,{round}"));
        world.write("people.csv", &format!("{at_source}{},New,{round}\n", 10 + round));
        world.sql("a.db", &format!("UPDATE people SET name = 'Bob {round}' WHERE id = '2'"));
        let all_have = |text: &str| {
            world.wait(&format!("all have {text}: {}", world.read("people.csv")), || {
                ["people.csv", "b.csv"].iter().all(|file| world.read(file).contains(text))
            });
        };
        all_have(&format!("Ann,{round}"));
        all_have(&format!("Bob {round}"));
        equal();
        let at_b = world.read("b.csv").replace(&format!("{},New,{round}\n", 10 + round), "");
        world.write("b.csv", &at_b);
        world.wait("the record goes", || !world.read("people.csv").contains("New"));
        equal();
    }
    assert_eq!(world.read("people.csv"), "id,name,phone\n1,Ann,5\n2,Bob 5,0\n");
    world.run("conflicts people").exits(0);
    let revisions = revisions(&world);
    assert!(revisions.iter().map(|(number, _)| *number).eq(1..=revisions.len() as u64), "{revisions:?}");
    assert!(revisions.is_sorted_by_key(|(_, time)| *time), "{revisions:?}");
    // They were seen to jump.
    let (first, last) = (revisions[0].1, revisions[revisions.len() - 1].1);
    assert!(last - first > YEAR as u64 * 900, "{revisions:?}");
}
