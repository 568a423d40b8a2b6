//! Conflicts and refused edits are decided by hand, once, and what is decided reaches all.

use deltabus_bus::{Clock, SystemClock};
use deltabus_tests::World;
use serde_json::{Value, json};

const SOURCE: &str = "csv:people.csv?key=id";

const PEOPLE: &str = "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n";

fn started() -> World {
    let world = World::new();
    world.write("people.csv", PEOPLE);
    transmit(&world, "source");
    receive(&world);
    world
}

fn transmit(world: &World, policy: &str) {
    world.run(&format!("transmit people {SOURCE} --conflicts {policy} --once")).exits(0);
}

fn receive(world: &World) {
    world.run("receive people sqlite:a.db --name a --reverse --once").exits(0);
    world.run("receive people csv:b.csv?key=id --name b --once").exits(0);
}

fn all_equal(world: &World) {
    receive(world);
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
    world.run(&format!("diff {SOURCE} csv:b.csv?key=id")).exits(0);
}

/// Bob's phone is 888 at the source and was edited to 999; this decides.
fn disagreeing(policy: &str) -> World {
    let world = started();
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '2'");
    receive(&world);
    world.write("people.csv", &PEOPLE.replace("222", "888"));
    transmit(&world, policy);
    all_equal(&world);
    world
}

fn conflicts(world: &World, code: i32) -> Vec<Value> {
    let text = world.run("conflicts people --json").exits(code).stdout();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn revisions(world: &World) -> usize {
    world.run("log people --json").exits(0).stdout().lines().count()
}

#[test]
fn the_edit_that_is_taken_becomes_a_change_of_the_source_and_reaches_all() {
    let world = disagreeing("manual");
    let open = conflicts(&world, 1);
    assert_eq!((open.len(), &open[0]["open"], &open[0]["stands"]), (1, &json!(true), &json!("source")), "{open:?}");
    let id = open[0]["id"].as_str().unwrap().to_owned();
    let answer = world.run(&format!("conflicts people resolve {id} --take edit")).exits(0).stdout();
    assert!(answer.contains("the source was changed, as revision 4"), "{answer}");
    assert_eq!(world.read("people.csv"), PEOPLE.replace("222", "999"));
    all_equal(&world);
    assert_eq!(conflicts(&world, 0).len(), 0);
    let all = world.run("conflicts people --all").exits(0).stdout();
    assert!(all.contains(&id) && all.contains("decided in revision 4"), "{all}");
    let log = world.run("log people").exits(0).stdout();
    assert!(log.contains(&format!("decides {id}")), "{log}");
    // Once more is once, whatever is said.
    for take in ["edit", "source"] {
        let again = world.run(&format!("conflicts people resolve {id} --take {take}")).exits(0).stdout();
        assert!(again.contains("it was decided before"), "{again}");
    }
    assert_eq!(revisions(&world), 4);
}

#[test]
fn the_status_counts_what_nobody_has_decided() {
    let world = disagreeing("manual");
    let counts = || {
        let status: Value = serde_json::from_str(&world.run("status --json").exits(0).stdout()).unwrap();
        let of = |name: &str| status["sources"][0][name].clone();
        [of("conflicts"), of("conflicts_open"), of("dead_letters"), of("counts_complete")]
    };
    assert_eq!(counts(), [json!(1), json!(1), json!(0), json!(true)]);
    let text = world.run("status").exits(0).stdout();
    assert!(text.contains("1 conflict (1 open), not running"), "{text}");
    world.run("conflicts people resolve 3.1 --take source").exits(0);
    assert_eq!(counts(), [json!(0), json!(0), json!(0), json!(true)]);
    // Where a policy decided, it is there to be looked at, and nobody is waited for.
    world.sql("a.db", "UPDATE people SET phone = '777' WHERE id = '1'");
    receive(&world);
    world.write("people.csv", &PEOPLE.replace("111", "666"));
    transmit(&world, "source");
    assert_eq!(counts(), [json!(1), json!(0), json!(0), json!(true)]);
    // An edit that the source can't take.
    world.sql("a.db", "UPDATE people SET phone = '5' WHERE id = '3'");
    receive(&world);
    world.write("people.csv", "id,name\n1,Ann\n2,Bob\n3,Cleo\n");
    transmit(&world, "source");
    assert_eq!(counts(), [json!(1), json!(0), json!(1), json!(true)]);
    let text = world.run("status").exits(0).stdout();
    assert!(text.contains("1 conflict, 1 dead letter, not running"), "{text}");
}

#[test]
fn the_source_that_is_taken_stands_and_closes_the_conflict() {
    let world = disagreeing("manual");
    let answer = world.run("conflicts people resolve 3.1 --take source").exits(0).stdout();
    assert!(answer.contains("closed as revision 4; the source stays as it is"), "{answer}");
    assert_eq!(world.read("people.csv"), PEOPLE.replace("222", "888"));
    all_equal(&world);
    conflicts(&world, 0);
}

#[test]
fn what_a_policy_decided_can_be_decided_otherwise() {
    let world = disagreeing("receiver");
    assert_eq!(world.read("people.csv"), PEOPLE.replace("222", "999"));
    world.run("conflicts people resolve 3.1 --take source").exits(0);
    assert_eq!(world.read("people.csv"), PEOPLE.replace("222", "888"));
    all_equal(&world);
}

#[test]
fn a_source_that_has_moved_on_is_not_overwritten() {
    let world = disagreeing("manual");
    // Not even seen by the transmitter yet.
    world.write("people.csv", &PEOPLE.replace("222", "777"));
    let refused = world.run("conflicts people resolve 3.1 --take edit").exits(2).stderr();
    assert!(refused.contains("field `phone` is \"777\" now"), "{refused}");
    assert_eq!(world.read("people.csv"), PEOPLE.replace("222", "777"));
    assert_eq!(conflicts(&world, 1).len(), 1);
    // Changed by hand to what was wanted, it only has to be closed.
    world.write("people.csv", &PEOPLE.replace("222", "999"));
    let answer = world.run("conflicts people resolve 3.1 --take edit").exits(0).stdout();
    assert!(answer.contains("the source stays as it is"), "{answer}");
    conflicts(&world, 0);
    all_equal(&world);
}

#[test]
fn a_transmitter_that_runs_decides() {
    let world = disagreeing("manual");
    let transmitter = world.start(&format!("transmit people {SOURCE} --conflicts manual"));
    let receiver = world.start("receive people csv:b.csv?key=id --name b");
    world.wait("the log is claimed", || transmitter.log().contains("the log is claimed"));
    let answer = world.run("conflicts people resolve 3.1 --take edit").exits(0).stdout();
    assert!(answer.contains("the source was changed, as revision 4"), "{answer}");
    assert_eq!(world.read("people.csv"), PEOPLE.replace("222", "999"));
    world.wait_equal(SOURCE, "csv:b.csv?key=id");
    let unknown = world.run("conflicts people resolve 1.7 --take edit").exits(2).stderr();
    assert!(unknown.contains("no conflict and no refused edit 1.7"), "{unknown}");
    // It goes on as before.
    world.write("people.csv", &PEOPLE.replace("Ann", "Anna"));
    world.wait_equal(SOURCE, "csv:b.csv?key=id");
    assert!(receiver.stop().success() && transmitter.stop().success());
}

#[test]
fn an_edit_that_deletes_what_the_source_changed_can_be_taken() {
    let world = started();
    world.sql("a.db", "DELETE FROM people WHERE id = '2'");
    receive(&world);
    world.write("people.csv", &PEOPLE.replace("222", "888"));
    transmit(&world, "manual");
    all_equal(&world);
    let open = conflicts(&world, 1);
    assert_eq!((&open[0]["edit_deletes"], &open[0]["stands"]), (&json!(true), &json!("source")), "{open:?}");
    world.run("conflicts people resolve 3.1 --take edit").exits(0);
    assert_eq!(world.read("people.csv"), "id,name,phone\n1,Ann,111\n3,Cleo,333\n");
    all_equal(&world);
}

#[test]
fn a_record_that_an_edit_brought_back_can_go_again() {
    let world = started();
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '2'");
    receive(&world);
    world.write("people.csv", "id,name,phone\n1,Ann,111\n3,Cleo,333\n");
    transmit(&world, "source");
    all_equal(&world);
    assert!(world.read("people.csv").contains("2,Bob,999"));
    world.run("conflicts people resolve 3.1 --take source").exits(0);
    assert_eq!(world.read("people.csv"), "id,name,phone\n1,Ann,111\n3,Cleo,333\n");
    all_equal(&world);
}

/// A decision speaks of an old reverse set: a transmitter that was rebuilt from the log took later ones once more.
#[test]
fn a_decision_takes_nothing_of_the_receiver_twice() {
    let world = disagreeing("manual");
    for phone in ["112", "113"] {
        world.sql("a.db", &format!("UPDATE people SET phone = '{phone}' WHERE id = '1'"));
        receive(&world);
        transmit(&world, "manual");
    }
    world.run("conflicts people resolve 3.1 --take edit").exits(0);
    let after = revisions(&world);
    // Without a state it is rebuilt from the log, and the reverse sets are read again.
    std::fs::remove_dir_all(world.path("state/sources")).unwrap();
    transmit(&world, "manual");
    assert_eq!(revisions(&world), after);
    all_equal(&world);
}

/// The source takes no phone of more than three digits.
fn refusing() -> World {
    let world = World::new();
    let source = rusqlite::Connection::open(world.path("shop.db")).unwrap();
    source
        .execute_batch(
            "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, phone TEXT);
             INSERT INTO people VALUES ('1', 'Ann', '111'), ('2', 'Bob', '222');
             CREATE TRIGGER u BEFORE UPDATE ON people WHEN length(new.phone) > 3 BEGIN SELECT RAISE(ABORT, 'too long'); END",
        )
        .unwrap();
    world.run("transmit people sqlite:shop.db --once").exits(0);
    receive(&world);
    world
        .sql("a.db", "UPDATE people SET phone = '9999' WHERE id = '2'; UPDATE people SET name = 'Anna' WHERE id = '1'");
    receive(&world);
    world.run("transmit people sqlite:shop.db --once").exits(0);
    receive(&world);
    world
}

/// The only one.
fn letter(world: &World) -> Value {
    let letters = world.run("dead-letters people --json").exits(1).stdout();
    serde_json::from_str(letters.trim()).unwrap()
}

fn source_sql(world: &World, statement: &str) {
    rusqlite::Connection::open(world.path("shop.db")).unwrap().execute_batch(statement).unwrap();
}

#[test]
fn an_edit_that_the_source_refused_is_a_dead_letter_and_taken_when_it_can_be() {
    let before = SystemClock.now_millis();
    let world = refusing();
    let letter = letter(&world);
    assert_eq!((&letter["id"], &letter["edited_by"]), (&json!("2.1"), &json!("a")));
    // The first after the time at which it joined.
    let number = letter["reverse_set"].as_u64().unwrap();
    assert!((before..=SystemClock.now_millis()).contains(&(number - 1)), "{number}");
    assert_eq!(letter["fields"], json!({ "phone": { "held": "222", "wanted": "9999" } }));
    assert!(letter["reason"].as_str().unwrap().contains("too long"), "{letter}");
    let text = world.run("dead-letters people").exits(1).stdout();
    let edit = format!("an edit of a (reverse set {number}), refused by the source in revision 2");
    assert!(text.contains(&edit), "{text}");
    let again = world.run("dead-letters people retry 2.1").exits(1).stdout();
    assert!(again.contains("2.1: still open: refused again: ") && again.contains("too long"), "{again}");
    assert_eq!(revisions(&world), 2);
    let wrong = world.run("conflicts people resolve 2.1 --take edit").exits(2).stderr();
    assert!(wrong.contains("deltabus dead-letters people retry 2.1"), "{wrong}");
    source_sql(&world, "DROP TRIGGER u");
    let taken = world.run("dead-letters people retry 2.1").exits(0).stdout();
    assert!(taken.contains("the source was changed, as revision 3"), "{taken}");
    receive(&world);
    world.run("diff sqlite:shop.db sqlite:a.db").exits(0);
    world.run("diff sqlite:shop.db csv:b.csv?key=id").exits(0);
    world.run("dead-letters people").exits(0);
    let before = world.run("dead-letters people retry 2.1").exits(0).stdout();
    assert!(before.contains("it was decided before"), "{before}");
}

#[test]
fn refused_for_another_reason_it_stands_under_a_new_name() {
    let world = refusing();
    source_sql(
        &world,
        "DROP TRIGGER u;
         CREATE TRIGGER u BEFORE UPDATE ON people WHEN length(new.phone) > 3 BEGIN SELECT RAISE(ABORT, 'no such number'); END",
    );
    let again = world.run("dead-letters people retry 2.1").exits(1).stdout();
    assert!(again.contains("refused again, now as 3.1: ") && again.contains("no such number"), "{again}");
    let letters = world.run("dead-letters people --json").exits(1).stdout();
    assert_eq!(letters.lines().count(), 1, "{letters}");
    assert!(letters.contains("\"3.1\"") && letters.contains("no such number"), "{letters}");
    // Where the source was changed meanwhile, it is a conflict.
    source_sql(&world, "DROP TRIGGER u; UPDATE people SET phone = '777' WHERE id = '2'");
    let conflict = world.run("dead-letters people retry 3.1").exits(1).stdout();
    assert!(conflict.contains("it met a changed source, and is conflict 5.1 now"), "{conflict}");
    world.run("dead-letters people").exits(0);
    world.run("conflicts people resolve 5.1 --take edit").exits(0);
    receive(&world);
    world.run("diff sqlite:shop.db sqlite:a.db").exits(0);
}

#[test]
fn a_refused_edit_that_is_dropped_is_gone_and_recorded() {
    let world = refusing();
    let number = &letter(&world)["reverse_set"];
    world.run("dead-letters people drop 2.1").exits(0);
    world.run("dead-letters people").exits(0);
    let all = world.run("dead-letters people --all").exits(0).stdout();
    assert!(all.contains("2.1") && all.contains("decided"), "{all}");
    let decides = format!("decides 2.1, of reverse set {number} of a");
    assert!(world.run("show people 3").exits(0).stdout().contains(&decides), "{decides}");
    let nonsense = world.run("dead-letters people drop oslo").exits(2).stderr();
    assert!(nonsense.contains("they look like oslo/3 or 12.1"), "{nonsense}");
    let stranger = world.run("dead-letters people drop nobody/1").exits(2).stderr();
    assert!(stranger.contains("no receiver `nobody` of `people` has its state here"), "{stranger}");
}
