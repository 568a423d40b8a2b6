//! What the world around does to processes: full and locked disks, locked and damaged destinations, broken connections.
//! Each is said clearly, nothing is lost, and all goes on when it is over.

use deltabus_tests::broker::Broker;
#[cfg(target_os = "linux")]
use deltabus_tests::namespace::{SmallDisk, in_namespace};
use deltabus_tests::proxy::Proxy;
use deltabus_tests::{World, catalogue};

const SOURCE: &str = "csv:source.csv?key=id";
const TRANSMIT: &str = "transmit goods csv:source.csv?key=id --once";

#[cfg(target_os = "linux")]
/// Room that a step may still need when a disk is as good as full: less than any step here takes.
const LEFT_BYTES: usize = 4096;

/// A source in which every record is new with each version, and nothing packs well.
fn all_new(version: u64) -> String {
    let row = |at: u64| format!("{at},{:x}\n", (at + version * 7_919).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    std::iter::once("id,value\n".to_owned()).chain((0..20_000).map(row)).collect()
}

/// The first version is everywhere, the second at the source.
fn second_version(receives: &[&str]) -> World {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run(TRANSMIT).exits(0);
    for receive in receives {
        world.run(receive).exits(0);
    }
    world.write("source.csv", &catalogue::csv(2));
    world
}

#[cfg(target_os = "linux")]
/// A command fails because the disk is full; it says so and where, and what stands there is as before.
fn is_full(world: &World, line: &str, place: &str) {
    let ran = world.run(line).exits(2);
    let said = ran.stderr();
    assert!(said.contains("No space left") || said.contains("disk is full"), "{}", ran.text());
    assert!(said.contains(place), "{place} isn't named: {}", ran.text());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_a_destination() {
    in_namespace("a_full_disk_under_a_destination", || {
        for (location, file) in
            [("csv:small/copy.csv?key=id", "small/copy.csv"), ("sqlite:small/copy.db", "small/copy.db")]
        {
            let world = World::new();
            let small = world.path("small");
            let disk = SmallDisk::mount(&small, 4);
            let receive = format!("receive goods {location} --once");
            world.write("source.csv", &catalogue::csv(1));
            world.run(TRANSMIT).exits(0);
            world.run(&receive).exits(0);
            let before = std::fs::read(world.path(file)).unwrap();
            world.write("source.csv", &catalogue::csv(2));
            world.run(TRANSMIT).exits(0);
            disk.fill(LEFT_BYTES);
            is_full(&world, &receive, file);
            assert!(std::fs::read(world.path(file)).unwrap() == before, "{file} was touched");
            disk.free();
            world.run(&receive).exits(0);
            world.run(&format!("diff {SOURCE} {location}")).exits(0);
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_state() {
    in_namespace("a_full_disk_under_the_state", || {
        let world = World::new();
        let disk_place = world.path("small");
        let disk = SmallDisk::mount(&disk_place, 64);
        world.run("bus start").exits(0);
        let there = format!("--state small/state --bus {}", world.bus_url());
        let (transmit, receive) =
            (format!("{TRANSMIT} {there}"), format!("receive goods csv:copy.csv?key=id --once {there}"));
        world.write("source.csv", &all_new(1));
        world.run(&transmit).exits(0);
        world.run(&receive).exits(0);
        world.write("source.csv", &all_new(2));
        disk.fill(0);
        is_full(&world, &transmit, "small/state");
        disk.free();
        world.run(&transmit).exits(0);
        disk.fill(0);
        is_full(&world, &receive, "small/state");
        disk.free();
        world.run(&receive).exits(0);
        world.run(&format!("diff {SOURCE} csv:copy.csv?key=id")).exits(0);
        let log = world.run(&format!("log goods --json --bus {}", world.bus_url())).exits(0).stdout();
        assert_eq!(log.lines().count(), 2, "{log}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_the_broker() {
    in_namespace("a_full_disk_under_the_broker", || {
        let world = World::new();
        let disk_place = world.path("small");
        let disk = SmallDisk::mount(&disk_place, 64);
        world.run("bus start --state small/state").exits(0);
        let url = world.bus_url_with("--state small/state");
        let (transmit, receive) =
            (format!("{TRANSMIT} --bus {url}"), format!("receive goods csv:copy.csv?key=id --once --bus {url}"));
        world.write("source.csv", &all_new(1));
        world.run(&transmit).exits(0);
        world.run(&receive).exits(0);
        world.write("source.csv", &all_new(2));
        disk.fill(0);
        let ran = world.run(&transmit).exits(2);
        assert!(ran.stderr().contains("the bus did not answer; its log may say why (a full disk"), "{}", ran.text());
        disk.free();
        // The server gives JetStream up when it can't write; it has to be started again.
        world.run("bus stop --state small/state").exits(0);
        world.run("bus start --state small/state").exits(0);
        let url = world.bus_url_with("--state small/state");
        world.run(&format!("{TRANSMIT} --bus {url}")).exits(0);
        world.run(&format!("receive goods csv:copy.csv?key=id --once --bus {url}")).exits(0);
        world.run(&format!("diff {SOURCE} csv:copy.csv?key=id")).exits(0);
        world.run("bus stop --state small/state").exits(0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_nobody_may_write() {
    in_namespace("a_folder_that_nobody_may_write", || {
        for location in ["csv:small/copy.csv?key=id", "sqlite:small/copy.db"] {
            let world = World::new();
            let small = world.path("small");
            let disk = SmallDisk::mount(&small, 8);
            let receive = format!("receive goods {location} --once");
            world.write("source.csv", &catalogue::csv(1));
            world.run(TRANSMIT).exits(0);
            world.run(&receive).exits(0);
            world.write("source.csv", &catalogue::csv(2));
            world.run(TRANSMIT).exits(0);
            disk.lock();
            let ran = world.run(&receive).exits(2);
            assert!(ran.stderr().contains("small"), "{}", ran.text());
            let said = ran.stderr();
            assert!(said.contains("Read-only") || said.contains("permission denied"), "{}", ran.text());
            disk.unlock();
            world.run(&receive).exits(0);
            world.run(&format!("diff {SOURCE} {location}")).exits(0);
        }
    });
}

#[test]
fn a_destination_that_another_program_holds_locked() {
    let world = second_version(&["receive goods sqlite:copy.db?busy_timeout=100 --once"]);
    world.run(TRANSMIT).exits(0);
    let other = rusqlite::Connection::open(world.path("copy.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let ran = world.run("receive goods sqlite:copy.db?busy_timeout=100 --once").exits(2);
    assert!(ran.stderr().contains("locked"), "{}", ran.text());
    let receiver = world.start("receive goods sqlite:copy.db?busy_timeout=100");
    world.wait("the receiver says that it waits", || receiver.log().contains("locked"));
    other.execute_batch("ROLLBACK").unwrap();
    world.wait_equal(SOURCE, "sqlite:copy.db");
    assert!(receiver.stop().success());
}

#[test]
fn a_destination_deleted_truncated_or_replaced_by_hand() {
    let receives =
        ["receive goods csv:copy.csv?key=id --name one --once", "receive goods sqlite:copy.db --name two --once"];
    let world = second_version(&receives);
    for file in ["copy.csv", "copy.db"] {
        std::fs::remove_file(world.path(file)).unwrap();
    }
    world.run(TRANSMIT).exits(0);
    for receive in receives {
        world.run(receive).exits(0);
    }
    world.run(&format!("diff {SOURCE} csv:copy.csv?key=id")).exits(0);
    world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);

    // Truncated: what is left of it is no edit, and whoever wants it as it was says so.
    let whole = world.read("copy.csv");
    std::fs::write(world.path("copy.csv"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(world.path("copy.db"), &std::fs::read(world.path("copy.db")).unwrap()[..5000]).unwrap();
    world.write("source.csv", &catalogue::csv(3));
    world.run(TRANSMIT).exits(0);
    for (receive, file) in receives.iter().zip(["copy.csv", "copy.db"]) {
        let ran = world.run(receive);
        assert!(ran.code() == Some(0) || ran.stderr().contains(file), "{}", ran.text());
        std::fs::remove_file(world.path(file)).unwrap();
        world.run(receive).exits(0);
    }
    world.run(&format!("diff {SOURCE} csv:copy.csv?key=id")).exits(0);
    world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);
}

#[test]
fn connections_that_hang_break_and_half_close() {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run("bus start").exits(0);
    let (near, far) = (Proxy::before(&world.bus_url()), Proxy::before(&world.bus_url()));
    let transmitter = world.start(&format!("transmit goods {SOURCE} --poll 1s --bus {}", near.url()));
    let receiver = world.start(&format!("receive goods sqlite:copy.db --reverse --bus {}", far.url()));
    world.wait_equal(SOURCE, "sqlite:copy.db");
    let mut version = 1;
    let mut next = || {
        version = version % catalogue::VERSIONS + 1;
        world.write("source.csv", &catalogue::csv(version));
    };
    for proxy in [&near, &far] {
        proxy.delay(150);
        next();
        world.wait_equal(SOURCE, "sqlite:copy.db");
        proxy.delay(0);
        // In the middle of what is under way.
        next();
        proxy.cut();
        world.wait_equal(SOURCE, "sqlite:copy.db");
        next();
        proxy.half_close();
        world.wait_equal(SOURCE, "sqlite:copy.db");
        // Nothing arrives, and nobody says so.
        for lose in [Proxy::deafen, Proxy::mute] {
            lose(proxy, true);
            next();
            std::thread::park_timeout(std::time::Duration::from_millis(500));
            lose(proxy, false);
            proxy.cut();
            world.wait_equal(SOURCE, "sqlite:copy.db");
        }
        // The bus can't be reached at all for a while.
        proxy.close(true);
        proxy.cut();
        next();
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        proxy.close(false);
        world.wait_equal(SOURCE, "sqlite:copy.db");
    }
    let log = world.run("log goods --json").exits(0).stdout();
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].as_u64().unwrap();
    let mut numbers: Vec<u64> = log.lines().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert!(transmitter.stop().success());
    assert!(receiver.stop().success());
}

/// The settings of a broker with these limits.
fn limited(limits: &str) -> String {
    format!("jetstream {{ store_dir: broker, {limits} }}\nmax_payload: 16384\n")
}

#[test]
fn a_broker_at_its_limits() {
    let world = World::new();
    world.write("source.csv", &all_new(1));
    let small = Broker::start(&world, &limited("max_file_store: 1MB"));
    let ran = world.run(&format!("{TRANSMIT} --bus {}", small.url())).exits(2);
    assert!(ran.stderr().contains("max_file_store"), "{}", ran.text());
    drop(small);
    // Room enough, but no message over 16 KiB: larger sets and snapshots go in parts.
    let large = Broker::start(&world, &limited("max_file_store: 4GB"));
    for version in 1..4 {
        world.write("source.csv", &all_new(version));
        world.run(&format!("{TRANSMIT} --bus {}", large.url())).exits(0);
        world.run(&format!("receive goods sqlite:copy.db --once --bus {}", large.url())).exits(0);
        world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);
    }
    // Edits, too, however many.
    let copy = rusqlite::Connection::open(world.path("copy.db")).unwrap();
    copy.execute_batch("UPDATE source SET value = value || 'x'").unwrap();
    let receive = format!("receive goods sqlite:copy.db --reverse --once --bus {}", large.url());
    world.run(&receive).exits(0);
    world.run(&format!("{TRANSMIT} --bus {}", large.url())).exits(0);
    world.run(&receive).exits(0);
    world.run(&format!("diff {SOURCE} sqlite:copy.db")).exits(0);
    let changed = world.read("source.csv").lines().filter(|line| line.ends_with('x')).count();
    assert_eq!(changed, 20_000);
}
