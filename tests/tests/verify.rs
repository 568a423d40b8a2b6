//! `verify` proves a destination equal or says what differs, and `--repair` mends just that.

use deltabus_bus::{Clock, SystemClock};
use deltabus_record::key::Key;
use deltabus_record::row::Row;
use deltabus_record::schema::{CollectionName, ReceiverName, SourceName};
use deltabus_record::value::Value;
use deltabus_state::{Owner, StateDirectory};
use deltabus_tests::{World, catalogue};
use serde_json::{Value as Json, json};

const SOURCE: &str = "csv:people.csv?key=id";

const PEOPLE: &str = "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n4,Dan,444\n";

fn published(people: &str) -> World {
    let world = World::new();
    publish(&world, people);
    world
}

fn publish(world: &World, people: &str) {
    world.write("people.csv", people);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
}

/// Records and summary that `verify --json` gives.
fn verify(world: &World, line: &str, code: i32) -> (Vec<Json>, Json) {
    let ran = world.run(&format!("verify {line} --json")).exits(code);
    let mut lines: Vec<Json> = ran.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap_or_else(|| panic!("{}", ran.text()));
    (lines, summary)
}

#[test]
fn equal_destinations_are_proven_by_the_digest_that_is_in_the_log() {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run("transmit goods csv:source.csv?key=id --once").exits(0);
    world.write("source.csv", &catalogue::csv(2));
    world.run("transmit goods csv:source.csv?key=id --once").exits(0);
    let log = world.run("log goods --json").exits(0).stdout();
    let newest: Json = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    for location in ["sqlite:copy.db", "json:copy.json?key=id", "csv:copy.csv?key=id"] {
        world.run(&format!("receive goods {location} --once")).exits(0);
        let (unequal, summary) = verify(&world, &format!("goods {location}"), 0);
        assert_eq!(unequal, [] as [Json; 0]);
        assert_eq!((&summary["equal"], &summary["basis"]), (&json!(true), &json!("state")), "{summary}");
        assert_eq!((&summary["revision"], &summary["digest"]), (&json!(2), &newest["digest"]), "{summary}");
        assert_eq!((&summary["records"], &summary["ranges_read"]), (&newest["records"], &json!(0)), "{summary}");
    }
    let text = world.run("verify goods sqlite:copy.db").exits(0).stdout();
    assert!(text.contains("sqlite:copy.db equals goods at revision 2: "), "{text}");
}

#[test]
fn only_ranges_that_differ_are_read_in_detail() {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run("transmit goods csv:source.csv?key=id --once").exits(0);
    world.run("receive goods sqlite:a.db --once").exits(0);
    world.sql("a.db", "UPDATE source SET name = 'another' WHERE id = '1500'");
    let (unequal, summary) = verify(&world, "goods sqlite:a.db", 1);
    assert_eq!(unequal.len(), 1);
    assert!(summary["ranges"].as_u64().unwrap() >= 3, "{summary}");
    assert_eq!(summary["ranges_read"], 1, "{summary}");
}

#[test]
fn what_differs_is_listed_and_mended_once_and_nothing_else_is_touched() {
    let world = published(PEOPLE);
    world.run("receive people sqlite:a.db --once").exits(0);
    world.sql(
        "a.db",
        "ALTER TABLE people ADD COLUMN notes TEXT; UPDATE people SET notes = 'mine';
         UPDATE people SET phone = '999' WHERE id = '1'; DELETE FROM people WHERE id = '2';
         INSERT INTO people VALUES ('9', 'Ida', '909', 'hers');
         CREATE TABLE written (what TEXT);
         CREATE TRIGGER u AFTER UPDATE ON people BEGIN INSERT INTO written VALUES ('update ' || new.id); END;
         CREATE TRIGGER i AFTER INSERT ON people BEGIN INSERT INTO written VALUES ('insert ' || new.id); END;
         CREATE TRIGGER d AFTER DELETE ON people BEGIN INSERT INTO written VALUES ('delete ' || old.id); END;",
    );
    let (unequal, summary) = verify(&world, "people sqlite:a.db", 1);
    let fields = json!({ "phone": { "expected": "111", "found": "999" } });
    let changed = json!({ "collection": "people", "key": { "id": "1" }, "problem": "differs", "cause": "drift", "fields": fields });
    assert_eq!(unequal[0], changed);
    let problems: Vec<_> = unequal.iter().map(|line| (&line["key"]["id"], &line["problem"])).collect();
    assert_eq!(
        problems,
        [(&json!("1"), &json!("differs")), (&json!("2"), &json!("missing")), (&json!("9"), &json!("extra"))]
    );
    assert_eq!((&summary["equal"], &summary["differing"]), (&json!(false), &json!(3)), "{summary}");

    let text = world.run("verify people sqlite:a.db").exits(1).stdout();
    assert!(text.contains("~ people id=1  phone: expected \"111\", found \"999\"\n"), "{text}");
    assert!(text.contains("- people id=2  missing: name: \"Bob\", phone: \"222\"\n"), "{text}");
    assert!(text.contains("+ people id=9  not in the source: "), "{text}");

    let text = world.run("verify people sqlite:a.db --repair").exits(0).stdout();
    assert!(text.contains("3 records mended\nsqlite:a.db equals people at revision 1"), "{text}");
    let database = rusqlite::Connection::open(world.path("a.db")).unwrap();
    let all = |sql: &str| -> String { database.query_row(sql, [], |row| row.get(0)).unwrap() };
    let written = "SELECT group_concat(what, ', ') FROM (SELECT what FROM written ORDER BY what)";
    assert_eq!(all(written), "delete 9, insert 2, update 1");
    assert_eq!(all("SELECT notes FROM people WHERE id = '1'"), "mine");
    world.run("verify people sqlite:a.db --repair").exits(0);
    world.run("receive people sqlite:a.db --once").exits(0);
    assert_eq!(all(written), "delete 9, insert 2, update 1");
}

#[test]
fn a_destination_that_is_gone_is_missing_and_made_anew() {
    let world = published(PEOPLE);
    world.run("receive people csv:b.csv?key=id --once").exits(0);
    std::fs::remove_file(world.path("b.csv")).unwrap();
    let (lines, _) = verify(&world, "people csv:b.csv?key=id", 1);
    assert_eq!(lines, [json!({ "collection": "people", "problem": "missing", "records": 4 })]);
    world.run("verify people csv:b.csv?key=id --repair").exits(0);
    assert_eq!(world.read("b.csv"), PEOPLE);
}

#[test]
fn equal_rows_are_counted() {
    let world = World::new();
    world.write("log.csv", "what\na\nb\na\n");
    world.run("transmit log csv:log.csv --once").exits(0);
    world.run("receive log csv:copy.csv --once").exits(0);
    verify(&world, "log csv:copy.csv", 0);
    world.write("copy.csv", "what\na\nb\nb\na\na\n");
    let (unequal, _) = verify(&world, "log csv:copy.csv", 1);
    assert_eq!(unequal.len(), 2, "{unequal:?}");
    assert!(unequal.iter().all(|line| line["problem"] == "extra"), "{unequal:?}");
    world.run("verify log csv:copy.csv --repair").exits(0);
    world.run("diff csv:log.csv csv:copy.csv").exits(0);
}

#[test]
fn edits_on_their_way_are_named_and_never_undone_without_being_told() {
    let world = published(PEOPLE);
    let before = SystemClock.now_millis();
    world.run("receive people sqlite:a.db --reverse --once").exits(0);
    let joined = before..=SystemClock.now_millis();
    let phone = |id: &str| -> String {
        let database = rusqlite::Connection::open(world.path("a.db")).unwrap();
        database.query_row("SELECT phone FROM people WHERE id = ?", [id], |row| row.get(0)).unwrap()
    };
    // Sent, and not yet answered.
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '1'");
    world.run("receive people sqlite:a.db --reverse --once").exits(0);
    let (unequal, _) = verify(&world, "people sqlite:a.db", 1);
    assert_eq!(unequal[0]["cause"], json!("pending"), "{unequal:?}");
    // The first after the time at which it joined.
    assert!(unequal[0]["reverse_set"].as_u64().is_some_and(|number| joined.contains(&(number - 1))), "{unequal:?}");
    let text = world.run("verify people sqlite:a.db --repair").exits(1);
    assert!(text.stderr().contains("stay until the source has answered"), "{}", text.text());
    assert_eq!(phone("1"), "999");
    // Not yet sent.
    world.sql("a.db", "UPDATE people SET phone = '888' WHERE id = '2'");
    let (unequal, _) = verify(&world, "people sqlite:a.db", 1);
    assert_eq!(unequal.iter().map(|line| &line["cause"]).collect::<Vec<_>>(), ["pending", "edit"]);
    let text = world.run("verify people sqlite:a.db --repair").exits(1);
    assert!(text.stderr().contains("nothing was mended"), "{}", text.text());
    assert_eq!((phone("1"), phone("2")), ("999".into(), "888".into()));
    let text = world.run("verify people sqlite:a.db --repair --discard-edits").exits(1);
    assert!(text.stdout().contains("1 record mended"), "{}", text.text());
    assert_eq!((phone("1"), phone("2")), ("999".into(), "222".into()));
    // What was discarded is not sent later; what was sent is answered.
    world.run("receive people sqlite:a.db --reverse --once").exits(0);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people sqlite:a.db --reverse --once").exits(0);
    assert_eq!(world.read("people.csv"), PEOPLE.replace("111", "999"));
    verify(&world, "people sqlite:a.db", 0);
}

#[test]
fn a_receiver_that_runs_is_verified_and_mends_itself_when_asked() {
    let world = published(PEOPLE);
    let receiver = world.start("receive people sqlite:a.db --name a");
    world.wait_equal(SOURCE, "sqlite:a.db");
    let (_, summary) = verify(&world, "people sqlite:a.db", 0);
    assert_eq!((&summary["equal"], &summary["basis"]), (&json!(true), &json!("bus: receiver runs")), "{summary}");
    assert!(summary["process"].is_u64(), "{summary}");
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '1'; DELETE FROM people WHERE id = '2'");
    let text = world.run("verify people sqlite:a.db").exits(1).stdout();
    assert!(text.contains("receiver `a` runs (process ") && text.contains("2 records differ"), "{text}");
    let text = world.run("verify people sqlite:a.db --repair").exits(0).stdout();
    assert!(text.contains("2 records mended"), "{text}");
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
    // It goes on as before.
    publish(&world, &PEOPLE.replace("Ann", "Anna"));
    world.wait_equal(SOURCE, "sqlite:a.db");
    assert!(receiver.stop().success());
}

#[test]
fn while_source_and_destination_change_all_the_time_nothing_wrong_is_found() {
    let world = World::new();
    world.write("source.csv", &catalogue::csv(1));
    world.run("transmit goods csv:source.csv?key=id --once").exits(0);
    let _transmitter = world.start("transmit goods csv:source.csv?key=id");
    let _database = world.start("receive goods sqlite:copy.db");
    let _file = world.start("receive goods csv:copy.csv?key=id");
    for location in ["sqlite:copy.db", "csv:copy.csv?key=id"] {
        world.wait_equal("csv:source.csv?key=id", location);
    }
    for version in [2, 3, 4, 5, 3, 1] {
        world.write("source.csv", &catalogue::csv(version));
        for location in ["sqlite:copy.db", "csv:copy.csv?key=id"] {
            let (unequal, summary) = verify(&world, &format!("goods {location}"), 0);
            assert_eq!((unequal.len(), &summary["equal"]), (0, &json!(true)), "{summary}");
        }
    }
}

/// The receiver's own copy agrees with the destination, and both are wrong.
#[test]
fn a_copy_of_the_source_whose_records_have_not_the_logs_digest_proves_nothing() {
    let world = published(PEOPLE);
    world.run("receive people sqlite:a.db --name a --once").exits(0);
    world.sql("a.db", "UPDATE people SET name = 'Bert' WHERE id = '2'");
    let (source, receiver) = (SourceName::new("people").unwrap(), ReceiverName::new("a").unwrap());
    let state = StateDirectory::open(world.path("state")).unwrap();
    let store = state.store(&Owner::Receiver { source, receiver }).unwrap();
    let mut batch = store.batch();
    let row = Row::of(&["2", "Bert", "222"].map(Value::text));
    batch.put(&CollectionName::new("people"), Key::of(&[Value::text("2")]).as_bytes(), row.as_bytes()).unwrap();
    batch.commit().unwrap();
    drop(store);
    let (unequal, summary) = verify(&world, "people sqlite:a.db", 1);
    assert_eq!(summary["basis"], "bus: state damaged", "{summary}");
    assert_eq!(unequal[0]["fields"], json!({ "name": { "expected": "Bob", "found": "Bert" } }));
    // What is an edit and what is damage can't be told.
    let refused = world.run("verify people sqlite:a.db --reverse --repair").exits(2).stderr();
    assert!(refused.contains("can't be told from damage"), "{refused}");
    world.run("verify people sqlite:a.db --repair --discard-edits").exits(0);
    let (_, summary) = verify(&world, "people sqlite:a.db", 0);
    assert_eq!(summary["basis"], "state", "{summary}");
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
}

#[test]
fn a_copy_of_another_history_proves_nothing_though_its_number_is_right() {
    let world = published(&PEOPLE.replace("Bob", "Bert"));
    world.run("receive people sqlite:a.db --once").exits(0);
    world.run("bus stop").exits(0);
    for lost in ["state/bus", "state/sources"] {
        std::fs::remove_dir_all(world.path(lost)).unwrap();
    }
    publish(&world, PEOPLE);
    let (unequal, summary) = verify(&world, "people sqlite:a.db", 1);
    assert_eq!((&summary["revision"], &summary["basis"]), (&json!(1), &json!("bus: state damaged")), "{summary}");
    assert_eq!(unequal.len(), 1, "{unequal:?}");
    world.run("verify people sqlite:a.db --repair").exits(0);
    verify(&world, "people sqlite:a.db", 0);
}

#[test]
fn without_a_receiver_the_bus_tells_and_repair_says_what_to_do() {
    let world = published(PEOPLE);
    world.run("copy csv:people.csv?key=id sqlite:a.db").exits(0);
    let (_, summary) = verify(&world, "people sqlite:a.db", 0);
    assert_eq!(summary["basis"], "bus: no receiver here", "{summary}");
    publish(&world, &PEOPLE.replace("222", "229"));
    let text = world.run("verify people sqlite:a.db").exits(1).stdout();
    assert!(text.contains("phone: expected \"229\", found \"222\""), "{text}");
    let refused = world.run("verify people sqlite:a.db --repair").exits(2).stderr();
    assert!(refused.contains("`deltabus receive people 'sqlite:a.db' --once` makes it equal"), "{refused}");
    assert!(!world.path("state/receivers").exists());
}

#[test]
fn a_destination_that_is_behind_is_proven_at_the_revision_it_has_reached() {
    let world = published(PEOPLE);
    world.run("receive people sqlite:a.db --once").exits(0);
    publish(&world, &PEOPLE.replace("Ann", "Anna"));
    publish(&world, &PEOPLE.replace("Ann", "Hannah"));
    let text = world.run("verify people sqlite:a.db").exits(0).stdout();
    assert!(text.contains("equals people at revision 1: 4 records"), "{text}");
    assert!(text.contains("the log goes on: 2 sets to receive"), "{text}");
    // The log lost the revision: the destination is compared with what there is.
    world.run("bus stop").exits(0);
    std::fs::remove_dir_all(world.path("state/bus")).unwrap();
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    let (unequal, summary) = verify(&world, "people sqlite:a.db", 1);
    assert_eq!((&summary["basis"], &summary["revision"]), (&json!("bus: state expired"), &json!(3)), "{summary}");
    assert_eq!(unequal.len(), 1, "{unequal:?}");
    world.run("verify people sqlite:a.db --repair").exits(0);
    verify(&world, "people sqlite:a.db", 0);
}

#[test]
fn the_part_that_was_selected_is_verified_under_its_own_names() {
    let world = published("id,name,city\n1,Ann,Oslo\n2,Bob,Rome\n3,Cleo,Oslo\n");
    let destination = "[[destination]]\nsource = \"people\"\nlocation = \"sqlite:a.db\"\n";
    let selection = "where = 'city == \"Oslo\"'\nfields = { town = \"city\" }\nomit = [\"name\"]\n";
    world.write("receiver.toml", &format!("name = \"a\"\n\n{destination}{selection}"));
    world.run("receive --config receiver.toml --once").exits(0);
    for line in ["--config receiver.toml", "people sqlite:a.db"] {
        let (_, summary) = verify(&world, line, 0);
        assert_eq!((&summary["records"], &summary["revision"]), (&json!(2), &json!(1)), "{summary}");
    }
    world.sql("a.db", "UPDATE people SET town = 'Kyiv' WHERE id = '3'");
    let (unequal, _) = verify(&world, "people sqlite:a.db", 1);
    assert_eq!(unequal[0]["fields"], json!({ "city": { "expected": "Oslo", "found": "Kyiv" } }));
    world.run("verify people sqlite:a.db --repair").exits(0);
    verify(&world, "--config receiver.toml", 0);
}
