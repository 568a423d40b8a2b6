//! One source, destinations of four formats, version by version.

use deltabus_tests::{World, catalogue};

const SOURCE: &str = "csv:source.csv?key=id";
const DESTINATIONS: [&str; 4] =
    ["sqlite:copy.db", "json:copy.json?key=id", "ndjson:copy.ndjson?key=id", "csv:copy.csv?key=id"];

#[test]
fn every_version_arrives_in_every_format_and_late_joiners_end_equal() {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    let _transmitter = world.start(&format!("transmit goods {SOURCE} --poll 1s"));
    let _receivers: Vec<_> =
        DESTINATIONS.iter().map(|location| world.start(&format!("receive goods {location}"))).collect();
    for version in 1..=catalogue::VERSIONS {
        world.write("source.csv", &catalogue::csv(version));
        for destination in DESTINATIONS {
            world.wait_equal(SOURCE, destination);
        }
        if version == 4 {
            world.run("receive goods csv:late.csv?key=id --once").exits(0);
            world.run(&format!("diff {SOURCE} csv:late.csv?key=id")).exits(0);
        }
    }
    world.run("receive goods csv:late.csv?key=id --once").exits(0);
    world.run(&format!("diff {SOURCE} csv:late.csv?key=id")).exits(0);
}

#[test]
fn one_round_at_a_time_needs_nothing_running() {
    let world = World::new();
    for version in 1..=3 {
        world.write("source.csv", &catalogue::csv(version));
        world.run(&format!("transmit goods {SOURCE} --once")).exits(0);
        for destination in DESTINATIONS {
            world.run(&format!("receive goods {destination} --once")).exits(0);
            world.run(&format!("diff {SOURCE} {destination}")).exits(0);
        }
    }
    let log = world.run("log goods").exits(0).stdout();
    assert!(log.lines().count() >= 3, "{log}");
    world.run("show goods 2").exits(0);
    world.run("show goods 99").exits(2);
}

#[test]
fn a_destination_keeps_what_the_source_lacks() {
    let world = World::new();
    world.write("source.csv", "id,name\n1,Ann\n2,Bob\n");
    world.write("copy.csv", "name;remark;id\r\nAnne;\"tall; blond\";1\r\n");
    world.run("transmit people csv:source.csv?key=id --once").exits(0);
    world.run("receive people csv:copy.csv?key=id --once").exits(0);
    let copy = world.read("copy.csv");
    assert!(copy.starts_with("name;remark;id\r\nAnn;\"tall; blond\";1\r\nBob;"), "{copy}");
}
