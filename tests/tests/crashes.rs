//! Killed in the middle, started again: nothing lost, nothing twice, all equal.

use deltabus_tests::{World, catalogue, kill};

const SOURCE: &str = "csv:source.csv?key=id";
const TRANSMIT: &str = "transmit goods csv:source.csv?key=id --poll 1s";
const RECEIVE: [&str; 2] = ["receive goods sqlite:copy.db --name one", "receive goods csv:copy.csv?key=id --name two"];

fn all_equal(world: &World) {
    world.wait_equal(SOURCE, "sqlite:copy.db");
    world.wait_equal(SOURCE, "csv:copy.csv?key=id");
}

/// Plays all versions; at the third, `fault` strikes while it is on its way.
fn play(fault: impl Fn(&World, &mut Vec<deltabus_tests::Running>)) {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    let mut running = vec![world.start(TRANSMIT), world.start(RECEIVE[0]), world.start(RECEIVE[1])];
    all_equal(&world);
    world.write("source.csv", &catalogue::csv(2));
    all_equal(&world);
    world.write("source.csv", &catalogue::csv(3));
    fault(&world, &mut running);
    all_equal(&world);
    for version in 4..=catalogue::VERSIONS {
        world.write("source.csv", &catalogue::csv(version));
        all_equal(&world);
    }
    let log = world.run("log goods --json").exits(0).stdout();
    let numbers: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].as_u64().unwrap())
        .collect();
    let mut once = numbers.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), numbers.len(), "a revision stands twice in {numbers:?}");
    assert_eq!(once, (once[0]..=*once.last().unwrap()).collect::<Vec<_>>(), "a revision is missing");
}

#[test]
fn the_transmitter_is_killed() {
    play(|world, running| {
        running.remove(0).kill();
        running.insert(0, world.start(TRANSMIT));
    });
}

#[test]
fn a_receiver_is_killed() {
    play(|world, running| {
        running.pop().unwrap().kill();
        running.push(world.start(RECEIVE[1]));
    });
}

#[test]
fn the_broker_is_killed() {
    // Whoever uses it starts it again.
    play(|world, _| kill(world.broker_pid()));
}
