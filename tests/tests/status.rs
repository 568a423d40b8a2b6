//! The status: who is how far, here and elsewhere; looked at, watched in a terminal, and waited for.
#![cfg(target_os = "linux")]

use std::process::Stdio;

use deltabus_tests::managed::Managed;
use deltabus_tests::terminal::Terminal;
use deltabus_tests::{Running, World};
use serde_json::Value;

const SOURCE: &str = "csv:people.csv?key=id";
const PEOPLE: &str = "id,name\n1,Ann\n2,Bob\n";

fn world() -> World {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    world
}

fn transmit_once(world: &World) {
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
}

/// A receiver with a state directory of its own, as on another machine.
fn far(world: &World, name: &str) -> Running {
    let bus = world.bus_url();
    let line = format!("receive people json:{name}.json?key=id --name {name} --state state-{name} --bus {bus}");
    let running = world.start_as("far", world.command(&line));
    world.wait("it has the data", || world.path(&format!("{name}.json")).exists());
    running
}

fn near(world: &World) -> Running {
    let running = world.start("receive people sqlite:near.db --name near");
    world.wait_equal(SOURCE, "sqlite:near.db");
    running
}

fn status(world: &World, options: &str) -> Value {
    serde_json::from_str(&world.run(&format!("status --json {options}")).exits(0).stdout()).expect("it is JSON")
}

/// The entry of a receiver.
fn receiver(world: &World, name: &str) -> Option<Value> {
    let status = status(world, "");
    let receivers = status["receivers"].as_array().expect("there is a list").clone();
    receivers.into_iter().find(|receiver| receiver["receiver"] == name)
}

#[test]
fn a_receiver_elsewhere_is_seen_and_remembered_when_it_has_gone() {
    let world = world();
    let transmitter = world.start(&format!("transmit people {SOURCE}"));
    world.wait("it is published", || world.run("log people").code() == Some(0));
    let _near = near(&world);
    let oslo = far(&world, "oslo");
    let there = receiver(&world, "oslo").expect("it is called and answers");
    assert_eq!((&there["here"], &there["gone"], &there["lag"]), (&false.into(), &false.into(), &0.into()), "{there}");
    assert_eq!((&there["revision"], &there["records"]), (&1.into(), &2.into()), "{there}");
    let text = world.run("status").exits(0).stdout();
    assert!(text.contains("running elsewhere"), "{text}");

    assert!(oslo.stop().success());
    world.wait("its last word is written down", || {
        receiver(&world, "oslo").is_some_and(|oslo| oslo["gone"] == true && oslo["seen_millis"].as_u64() > Some(0))
    });
    // Whoever wasn't there and has another clock, another state directory, knows it from the bus; also when nobody transmits.
    assert!(transmitter.stop().success());
    let elsewhere = status(&world, &format!("--bus {} --state state-new", world.bus_url()));
    let names: Vec<_> =
        elsewhere["receivers"].as_array().into_iter().flatten().map(|r| (&r["receiver"], &r["gone"])).collect();
    assert_eq!(names, [(&"near".into(), &false.into()), (&"oslo".into(), &true.into())], "{elsewhere}");
    let text = world.run("status").exits(0).stdout();
    assert!(text.contains("gone, last seen"), "{text}");
    assert_eq!(status(&world, "people")["sources"].as_array().map(Vec::len), Some(1));
    let unknown = world.run("status nobody").exits(2);
    assert!(unknown.stderr().contains("no source `nobody`"), "{}", unknown.text());
}

#[test]
fn what_is_lacked_is_told_in_sets_and_seconds_and_what_came_is_drawn() {
    let world = world();
    transmit_once(&world);
    world.run("receive people near.csv?key=id --name near --once").exits(0);
    for changes in ["3,Cleo\n", "3,Cleo\n4,Dan\n5,Eve\n"] {
        world.write("people.csv", &format!("{PEOPLE}{changes}"));
        transmit_once(&world);
    }
    let near = receiver(&world, "near").expect("it is known");
    assert_eq!((&near["lag"], &near["gone"]), (&2.into(), &true.into()), "{near}");
    assert!(near["lag_seconds"].is_u64(), "{near}");
    let status = status(&world, "");
    let changes = &status["sources"][0]["throughput"]["changes"];
    let sum: u64 = changes.as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
    assert_eq!(sum, 3, "{status}");
    let text = world.run("status").exits(0).stdout();
    assert!(text.contains("2 sets, ") && text.contains("CHANGES IN 10 MIN"), "{text}");
}

#[test]
fn a_destination_that_could_not_be_written_is_at_no_revision() {
    let world = world();
    transmit_once(&world);
    world.write("bad.json", "no JSON");
    world.run("receive people json:bad.json?key=id --name bad --once").exits(2);
    let bad = receiver(&world, "bad").expect("it is known");
    assert_eq!((&bad["revision"], &bad["lag"]), (&0.into(), &1.into()), "{bad}");
    world.run("status people --revision 1").exits(1);
    world.write("bad.json", "[]");
    world.run("receive people json:bad.json?key=id --name bad --once").exits(0);
    world.run("status people --revision 1").exits(0);
}

#[test]
fn a_name_that_was_mistyped_is_told_and_leaves_nothing_in_the_status() {
    let world = world();
    transmit_once(&world);
    let ran = world.run("receive peopel people.csv?key=id --once").exits(2);
    assert!(ran.stderr().contains("no source `peopel` (it has `people`)"), "{}", ran.text());
    let sources = status(&world, "");
    let names: Vec<_> = sources["sources"].as_array().into_iter().flatten().map(|source| &source["source"]).collect();
    assert_eq!(names, [&Value::from("people")]);
    assert_eq!(sources["receivers"], serde_json::json!([]));
}

#[test]
fn who_receives_before_anything_is_transmitted_waits_and_says_so_once() {
    let world = world();
    world.run("bus start").exits(0);
    let receiver = world.start("receive people people.json?key=id");
    world.wait("it says what it waits for", || receiver.log().contains("waiting until it is transmitted"));
    let _transmitter = world.start(&format!("transmit people {SOURCE}"));
    world.wait_equal(SOURCE, "people.json?key=id");
    assert_eq!(receiver.log().matches("waiting until").count(), 1, "{}", receiver.log());
    assert!(!receiver.log().contains("ERROR"), "{}", receiver.log());
}

#[test]
fn the_watch_is_drawn_in_place_follows_the_terminals_size_and_gives_it_back() {
    let world = world();
    let _transmitter = world.start(&format!("transmit people {SOURCE}"));
    world.wait("it is published", || world.run("log people").code() == Some(0));
    let name = "a-receiver-with-a-name-that-is-longer-than-a-terminal-is-wide";
    let _far = far(&world, name);
    let mut terminal = Terminal::start(&world, 80, 24, "LANG=C.UTF-8", "status --watch");
    world.wait("it is drawn", || terminal.picture().lines.iter().any(|line| line.starts_with("people ")));
    let picture = terminal.picture();
    assert!(picture.alternate && !picture.cursor, "{picture:?}");
    assert!(terminal.written().contains("\u{1b}[32mrunning"), "colours are used");
    assert!(terminal.written().contains('▁'), "Unicode is used");
    let fits = |columns: usize| {
        let picture = terminal.picture();
        // A frame may be half written.
        picture.lines.iter().all(|line| line.chars().count() <= columns)
            && picture.lines.iter().any(|line| line.starts_with("a-r") && line.contains('…'))
    };
    assert!(fits(80), "{:?}", terminal.picture());

    // What happens is seen, in the same place.
    world.write("people.csv", &format!("{PEOPLE}3,Cleo\n"));
    world.wait("the new revision is shown", || {
        terminal.picture().lines.iter().any(|line| line.split_whitespace().take(2).eq(["people", "2"]))
    });
    let frames = terminal.picture().frames;
    assert!(frames >= 2);
    assert_eq!(terminal.picture().lines.iter().filter(|line| line.starts_with("people ")).count(), 1);
    terminal.resize(40, 12);
    world.wait("it is narrower", || fits(40));
    terminal.resize(200, 50);
    world.wait("it is wide", || terminal.picture().lines.iter().any(|line| line.starts_with(name)));

    terminal.press("\u{3}");
    world.wait("it has ended", || terminal.has_ended());
    let picture = terminal.picture();
    assert!(!picture.alternate && picture.cursor, "{picture:?}");
    assert_eq!(terminal.end(), (0, true));
}

#[test]
fn the_terminal_is_given_back_whatever_ends_the_watch() {
    let world = world();
    transmit_once(&world);
    for signal in ["TERM", "HUP", "QUIT", "INT"] {
        let line = "status --watch & DELTABUS=$!; read GO; kill -$SIGNAL $DELTABUS; wait $DELTABUS";
        let mut terminal = Terminal::start(&world, 80, 24, &format!("SIGNAL={signal};"), line);
        world.wait("it is drawn", || terminal.picture().alternate && terminal.picture().frames > 0);
        terminal.press("\n");
        world.wait("it has ended", || terminal.has_ended());
        let picture = terminal.picture();
        assert!(!picture.alternate && picture.cursor, "{signal}: {picture:?}");
        assert_eq!(terminal.end().0, 0, "{signal}");
    }
    // An error before the first look: nothing was drawn at all.
    let terminal = Terminal::start(&world, 80, 24, "", "status --watch --bus nats://127.0.0.1:1");
    world.wait("it has failed", || terminal.has_ended());
    assert!(!terminal.written().contains("1049h"), "{}", terminal.written());
    assert_eq!(terminal.end(), (2, true));
}

#[test]
fn without_unicode_and_colours_the_watch_does_without() {
    let world = world();
    transmit_once(&world);
    let mut terminal = Terminal::start(&world, 40, 24, "NO_COLOR=1 LANG=C", "status --watch");
    world.wait("it is drawn", || terminal.picture().lines.iter().any(|line| line.starts_with("people ")));
    terminal.press("\u{3}");
    world.wait("it has ended", || terminal.has_ended());
    let written = terminal.written();
    assert!(written.split("ended: ").next().is_some_and(str::is_ascii), "{written}");
    assert!(!written.contains("\u{1b}[1m") && !written.contains("\u{1b}[2m"), "{written}");
    assert_eq!(terminal.end(), (0, true));
}

#[test]
fn where_there_is_no_terminal_the_watch_is_plain_text_and_ends_with_its_reader() {
    let world = world();
    transmit_once(&world);
    let watch = world.start("status --watch");
    world.wait("it was said twice", || watch.log().matches("SOURCE").count() >= 2);
    assert!(!watch.log().contains('\u{1b}'), "{}", watch.log());
    assert!(watch.stop().success());
    let json = world.start("status --watch --json");
    world.wait("it was said twice", || json.log().lines().filter(|line| line.starts_with("{\"bus\"")).count() >= 2);
    drop(json);
    // Who reads goes away.
    let mut command = world.command("status --watch");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it can be started");
    drop(child.stdout.take());
    world.wait("it ends", || child.try_wait().expect("a child").is_some());
    assert!(child.wait().expect("it has ended").success());
}

#[test]
fn transmitting_waits_until_the_revision_is_at_the_destinations() {
    let world = world();
    transmit_once(&world);
    let near = near(&world);
    let oslo = far(&world, "oslo");
    let publish = |content: &str, wait: &str| {
        world.write("people.csv", &format!("{PEOPLE}{content}"));
        world.run(&format!("transmit people {SOURCE} --once {wait}"))
    };
    let has = |what: &str| world.read("oslo.json").contains(what);

    for (name, wait) in
        [("Cleo", "--wait 2"), ("Dan", "--wait all"), ("Eve", "--wait near,oslo"), ("Fay", "--wait oslo --wait near")]
    {
        let ran = publish(&format!("3,{name}\n"), wait).exits(0);
        assert!(ran.stdout().contains("has arrived"), "{}", ran.text());
        assert!(has(name), "{wait}");
        world.run(&format!("diff {SOURCE} sqlite:near.db")).exits(0);
    }
    // One of them hangs. It is known to be there, and lacks what comes.
    oslo.freeze();
    for wait in ["--wait 2", "--wait all", "--wait near,oslo"] {
        let late = publish(&format!("3,Gus\n4,{}\n", wait.len()), &format!("{wait} --timeout 1s")).exits(1);
        assert!(
            late.stderr().contains("has not arrived") && late.stderr().contains("oslo (at revision 5"),
            "{}",
            late.text()
        );
        assert!(!late.stderr().contains("near (at"), "{}", late.text());
    }
    publish("3,Hal\n", "--wait 1").exits(0);
    publish("3,Ida\n", "--wait near").exits(0);
    let revision = status(&world, "")["sources"][0]["revision"].as_u64().expect("it has a number");
    let where_is = |revision: u64| world.run(&format!("status people --revision {revision}"));
    let not_yet = where_is(revision).exits(1);
    assert!(not_yet.stdout().contains("is not everywhere yet"), "{}", not_yet.text());
    let arrived = |revision: u64| -> Value {
        let ran = world.run(&format!("status --revision {revision} --json"));
        serde_json::from_str(&ran.stdout()).expect("it is JSON")
    };
    let json = arrived(revision);
    let by_name: Vec<_> =
        json["receivers"].as_array().into_iter().flatten().map(|r| (&r["receiver"], &r["arrived"])).collect();
    assert_eq!(by_name, [(&"near".into(), &true.into()), (&"oslo".into(), &false.into())], "{json}");
    where_is(1).exits(0);
    oslo.thaw();
    world.wait("it is everywhere", || where_is(revision).code() == Some(0));
    assert!(has("Ida"));
    let later = where_is(revision + 1).exits(1);
    assert!(later.stdout().contains("not published yet"), "{}", later.text());
    assert_eq!(arrived(revision + 1)["published"], false);

    // Who has gone is not waited for, unless it is named; and what it lacks is not everywhere.
    assert!(near.stop().success());
    publish("3,Jo\n", "--wait all").exits(0);
    let gone = publish("3,Kim\n", "--wait near --timeout 1s").exits(1);
    assert!(gone.stderr().contains("gone, last seen"), "{}", gone.text());
    where_is(revision + 2).exits(1);
    for (wrong, words) in [("--wait near,2", "one kind at a time"), ("--wait NEAR", "`all`")] {
        let ran = publish("3,Kim\n", wrong).exits(2);
        assert!(ran.stderr().contains(words), "{}", ran.text());
    }
}

#[test]
fn under_a_manager_what_it_was_told_counts() {
    let world = World::new();
    let managed = Managed::start(&world, "");
    world.write("people.csv", PEOPLE);
    managed.token("shop", "--publish people");
    managed.token("crm", "--read people");
    managed.token("spy", "--read people");
    let transmit = |wait: &str| world.run(&managed.line("shop", &format!("transmit people {SOURCE} --once {wait}")));
    transmit("").exits(0);
    let nobody = transmit("--wait all --timeout 1s").exits(1);
    assert!(nobody.stderr().contains("no receiver is there"), "{}", nobody.text());
    let crm = world.start(&managed.line("crm", "receive people crm.csv?key=id"));
    world.wait_equal(SOURCE, "crm.csv?key=id");
    world.write("people.csv", &format!("{PEOPLE}3,Cleo\n"));
    transmit("--wait crm").exits(0);
    world.run(&format!("diff {SOURCE} crm.csv?key=id")).exits(0);
    let asked = |name: &str, line: &str| world.run(&managed.line(name, line));
    asked("shop", "status people --revision 2").exits(0);
    let status: Value = serde_json::from_str(&asked("shop", "status --json").exits(0).stdout()).expect("it is JSON");
    let crm_there = &status["receivers"][0];
    assert_eq!(
        (&crm_there["receiver"], &crm_there["here"], &crm_there["gone"]),
        (&"crm".into(), &false.into(), &false.into()),
        "{status}"
    );

    // Receivers learn nothing of each other, and have no new rights.
    world.run(&managed.line("spy", "receive people spy.csv?key=id --once")).exits(0);
    let seen: Value = serde_json::from_str(&asked("spy", "status --json").exits(0).stdout()).expect("it is JSON");
    let names: Vec<_> = seen["receivers"].as_array().into_iter().flatten().map(|r| &r["receiver"]).collect();
    assert_eq!(names, [&Value::from("spy")], "{seen}");
    drop(crm);
}
