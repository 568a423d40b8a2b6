//! `plan` says what receiving would change, and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use deltabus_tests::World;

const SOURCE: &str = "csv:people.csv?key=id";

fn published(people: &str) -> World {
    let world = World::new();
    publish(&world, people);
    world
}

fn publish(world: &World, people: &str) {
    world.write("people.csv", people);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
}

/// Every file below a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// Plans, and holds that neither the destination nor anything that a receiver remembers was touched.
fn plan(world: &World, line: &str, code: i32) -> String {
    let held = |world: &World| {
        let destination = std::fs::read(world.path("a.db")).ok();
        (files(&world.path("state/receivers")), destination)
    };
    let before = held(world);
    let ran = world.run(&format!("plan {line}")).exits(code);
    assert!(held(world) == before, "something was written\n{}", ran.text());
    let left = std::fs::read_dir(world.path("state/scratch")).into_iter().flatten().flatten();
    assert_eq!(left.filter(|entry| entry.path().is_dir()).count(), 0, "scratch was left");
    ran.stdout()
}

#[test]
fn of_a_new_destination_everything_is_planned_and_nothing_made() {
    let world = published("id,name\n1,Ann\n2,Bob\n");
    let text = plan(&world, "people sqlite:a.db", 1);
    assert!(text.contains("+ people id=1  name: \"Ann\"\n+ people id=2  name: \"Bob\"\n"), "{text}");
    assert!(text.contains("collection people is made") && text.contains("2 added, 0 changed, 0 removed"), "{text}");
    assert!(!world.path("a.db").exists() && !world.path("state/receivers").exists());
}

#[test]
fn what_waits_in_the_log_is_planned_field_by_field_and_receiving_does_just_that() {
    let world = published("id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n");
    world.run("receive people sqlite:a.db --once").exits(0);
    plan(&world, "people sqlite:a.db", 0);
    publish(&world, "id,name,phone\n1,Anna,111\n2,Bob,222\n4,Dan,444\n");
    publish(&world, "id,name,phone,city\n1,Anna,999,Oslo\n2,Bob,222,\n4,Dan,444,\n");
    let text = plan(&world, "people sqlite:a.db", 1);
    assert!(text.contains("collection people gets city\n"), "{text}");
    assert!(
        text.contains(
            "~ people id=1  name: \"Ann\" -> \"Anna\", phone: \"111\" -> \"999\", city: (absent) -> \"Oslo\""
        ),
        "{text}"
    );
    assert!(text.contains("- people id=3") && text.contains("+ people id=4"), "{text}");
    assert!(text.contains("sqlite:a.db would be at revision 3\n"), "{text}");
    let stat = plan(&world, "people sqlite:a.db --stat", 1);
    assert!(stat.contains("people: 1 added, 2 changed, 1 removed\n"), "{stat}");
    let lines = plan(&world, "people sqlite:a.db --json", 1);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ann = lines.iter().find(|line| line["change"] == "update" && line["key"]["id"] == "1").unwrap();
    assert_eq!(ann["fields"]["phone"], serde_json::json!({ "before": "111", "after": "999" }));
    assert_eq!(lines.last().unwrap()["revision"], 3);

    world.run("receive people sqlite:a.db --once").exits(0);
    let text = plan(&world, "people sqlite:a.db", 0);
    assert!(text.contains("nothing would change at sqlite:a.db: revision 3"), "{text}");
}

#[test]
fn edits_made_there_are_counted_and_neither_sent_nor_undone() {
    let world = published("id,name,phone\n1,Ann,111\n2,Bob,222\n");
    world.run("receive people sqlite:a.db --name a --reverse --once").exits(0);
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '1'");
    publish(&world, "id,name,phone\n1,Anna,111\n2,Bob,222\n");
    // Without being told, by name and by place: it was a receiver that sends edits back.
    for line in ["people sqlite:a.db", "people sqlite:a.db --name a --reverse"] {
        let text = plan(&world, line, 1);
        assert!(text.contains("~ people id=1  name: \"Ann\" -> \"Anna\"\n"), "{text}");
        assert!(text.contains("1 edit made there would be sent back\n"), "{text}");
    }
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    assert_eq!(world.read("people.csv"), "id,name,phone\n1,Anna,111\n2,Bob,222\n");
}

#[test]
fn drift_is_told_and_stands() {
    let world = published("id,name,phone\n1,Ann,111\n2,Bob,222\n");
    world.run("receive people sqlite:a.db --once").exits(0);
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '1'");
    publish(&world, "id,name,phone\n1,Ann,111\n2,Bobby,222\n");
    let text = plan(&world, "people sqlite:a.db", 1);
    assert!(text.contains("1 record there differs from the source and would stand\n"), "{text}");
    assert!(text.contains("0 added, 1 changed, 0 removed"), "{text}");
}

#[test]
fn what_receiving_would_refuse_planning_refuses() {
    let world = published("id,name\n1,Ann\n");
    world.write("b.csv", "id,name\n1,Ann\n7,Gus\n8,Hal\n9,Ida\n");
    let planned = world.run("plan people csv:b.csv?key=id").exits(2).stderr();
    let received = world.run("receive people csv:b.csv?key=id --once").exits(2).stderr();
    assert_eq!(planned, received);
    assert!(planned.contains("they would be deleted"), "{planned}");
}

#[test]
fn a_running_receiver_is_named() {
    let world = published("id,name\n1,Ann\n");
    let receiver = world.start("receive people sqlite:a.db --name a");
    world.wait_equal(SOURCE, "sqlite:a.db");
    let refused = world.run("plan people sqlite:a.db").exits(2).stderr();
    assert!(refused.contains("receiver `a` of `people` runs (process "), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert!(receiver.stop().success());
}

#[test]
fn the_selection_is_that_of_the_file_or_else_the_one_remembered() {
    let world = published("id,name,city\n1,Ann,Oslo\n2,Bob,Rome\n");
    let destination =
        "[[destination]]\nsource = \"people\"\nlocation = \"sqlite:a.db\"\nfields = { town = \"city\" }\n";
    world.write("receiver.toml", &format!("name = \"a\"\n\n{destination}where = 'city == \"Oslo\"'\n"));
    let text = plan(&world, "--config receiver.toml", 1);
    assert!(text.contains("+ people id=1  name: \"Ann\", town: \"Oslo\"\n") && !text.contains("id=2"), "{text}");
    world.run("receive --config receiver.toml --once").exits(0);
    plan(&world, "people sqlite:a.db", 0);
    world.write("other.toml", &format!("name = \"a\"\n\n{destination}where = 'city == \"Rome\"'\n"));
    let text = plan(&world, "--config other.toml", 1);
    assert!(text.contains("- people id=1") && text.contains("+ people id=2"), "{text}");
    plan(&world, "--config receiver.toml", 0);
}
