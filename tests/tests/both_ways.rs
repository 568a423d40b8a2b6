//! Edits made at destinations come back, and all converge.

use deltabus_tests::World;

const SOURCE: &str = "csv:people.csv?key=id";

fn world_with_two_receivers() -> World {
    let world = World::new();
    world.write("people.csv", "id,name,phone,city\n1,Ann,111,Oslo\n2,Bob,222,Rome\n3,Cleo,333,Kyiv\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    receive(&world);
    world
}

fn receive(world: &World) {
    world.run("receive people sqlite:a.db --name a --reverse --once").exits(0);
    world.run("receive people json:b.json?key=id --name b --reverse --once").exits(0);
}

fn edit_json(world: &World, from: &str, to: &str) {
    let text = world.read("b.json");
    assert!(text.contains(from), "{text}");
    world.write("b.json", &text.replace(from, to));
}

fn all_equal(world: &World) {
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
    world.run(&format!("diff {SOURCE} json:b.json?key=id")).exits(0);
}

/// Edits go out, are taken and come back.
fn exchange(world: &World) {
    receive(world);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    receive(world);
}

#[test]
fn edits_of_different_fields_of_one_record_end_up_everywhere() {
    let world = world_with_two_receivers();
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '1'");
    edit_json(&world, "\"Oslo\"", "\"Bergen\"");
    exchange(&world);
    assert_eq!(world.read("people.csv"), "id,name,phone,city\n1,Ann,999,Bergen\n2,Bob,222,Rome\n3,Cleo,333,Kyiv\n");
    all_equal(&world);
    world.run("conflicts people").exits(0);
}

#[test]
fn edits_of_one_field_are_a_conflict_that_the_policy_decides() {
    let world = world_with_two_receivers();
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '2'");
    edit_json(&world, "\"222\"", "\"888\"");
    exchange(&world);
    all_equal(&world);
    let conflicts = world.run("conflicts people").exits(1).stdout();
    for part in ["222", "999", "888", "phone"] {
        assert!(conflicts.contains(part), "{conflicts}");
    }
}

#[test]
fn inserts_and_deletes_at_destinations_come_back() {
    let world = world_with_two_receivers();
    world.sql("a.db", "INSERT INTO people VALUES ('4', 'Dan', '444', 'Nice'); DELETE FROM people WHERE id = '3'");
    exchange(&world);
    assert_eq!(world.read("people.csv"), "id,name,phone,city\n1,Ann,111,Oslo\n2,Bob,222,Rome\n4,Dan,444,Nice\n");
    all_equal(&world);
}

#[test]
fn an_edit_brings_a_deleted_record_back_whole() {
    let world = world_with_two_receivers();
    // Both on their way at once; then with the delete already in the log.
    world.sql("a.db", "DELETE FROM people WHERE id = '3'");
    edit_json(&world, "\"333\"", "\"777\"");
    exchange(&world);
    assert_eq!(world.read("people.csv"), "id,name,phone,city\n1,Ann,111,Oslo\n2,Bob,222,Rome\n3,Cleo,777,Kyiv\n");
    all_equal(&world);
    world.write("people.csv", "id,name,phone,city\n1,Ann,111,Oslo\n3,Cleo,777,Kyiv\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    edit_json(&world, "\"222\"", "\"555\"");
    exchange(&world);
    assert_eq!(world.read("people.csv"), "id,name,phone,city\n1,Ann,111,Oslo\n3,Cleo,777,Kyiv\n2,Bob,555,Rome\n");
    all_equal(&world);
    world.run("conflicts people").exits(1);
}

#[test]
fn without_reverse_an_edit_is_drift_and_stands_until_the_source_changes_that_field() {
    let world = World::new();
    world.write("people.csv", "id,name,phone\n1,Ann,111\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people csv:copy.csv?key=id --once").exits(0);
    world.write("copy.csv", "id,name,phone\n1,Anne,111\n");
    world.write("people.csv", "id,name,phone\n1,Ann,222\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people csv:copy.csv?key=id --once").exits(0);
    assert_eq!(world.read("copy.csv"), "id,name,phone\n1,Anne,222\n");
    world.write("people.csv", "id,name,phone\n1,Anna,222\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people csv:copy.csv?key=id --once").exits(0);
    assert_eq!(world.read("copy.csv"), "id,name,phone\n1,Anna,222\n");
}

#[test]
fn an_edit_is_sent_once_whatever_is_run_again() {
    let world = world_with_two_receivers();
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '1'");
    for _ in 0..3 {
        exchange(&world);
    }
    all_equal(&world);
    let log = world.run("log people --json").exits(0).stdout();
    assert_eq!(log.lines().count(), 2, "{log}");
}

/// A receiver's configuration with this in its destination, both ways.
fn selecting(world: &World, selection: &str) {
    let destination = "[[destination]]\nsource = \"people\"\nlocation = \"sqlite:a.db\"\nreverse = true\n";
    world.write("receiver.toml", &format!("name = \"a\"\n\n{destination}{selection}\n"));
}

/// What another selection lacks was deleted at the source, and what it renames was edited there.
#[test]
fn another_selection_is_no_edit_and_edits_made_before_it_count() {
    let world = World::new();
    world.write("people.csv", "id,name,phone,city\n1,Ann,111,Oslo\n2,Bob,222,Rome\n3,Cleo,333,Oslo\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    selecting(&world, "where = 'city == \"Oslo\"'");
    world.run("receive --config receiver.toml --once").exits(0);
    world.sql("a.db", "UPDATE people SET phone = '999' WHERE id = '3'");
    selecting(&world, "where = 'city == \"Rome\"'\nfields = { telephone = \"phone\" }\nomit = [\"name\"]");
    world.run("receive --config receiver.toml --once").exits(0);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    assert_eq!(world.read("people.csv"), "id,name,phone,city\n1,Ann,111,Oslo\n2,Bob,222,Rome\n3,Cleo,999,Oslo\n");
    let held: Vec<(String, String)> = rusqlite::Connection::open(world.path("a.db"))
        .unwrap()
        .prepare("SELECT id, telephone FROM people")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(held, [("2".to_owned(), "222".to_owned())]);
}

/// Received without its configuration, a destination was filled with what its `where` leaves out.
#[test]
fn a_receiver_remembers_its_selection() {
    let world = World::new();
    world.write("people.csv", "id,name,city\n1,Ann,Oslo\n2,Bob,Rome\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    selecting(&world, "where = 'city == \"Oslo\"'");
    world.run("receive --config receiver.toml --once").exits(0);
    world.write("people.csv", "id,name,city\n1,Anna,Oslo\n2,Bobby,Rome\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people sqlite:a.db --name a --reverse --once").exits(0);
    world.write("oslo.csv", "id,name,city\n1,Anna,Oslo\n");
    world.run("diff csv:oslo.csv?key=id sqlite:a.db").exits(0);
    assert_eq!(world.read("people.csv"), "id,name,city\n1,Anna,Oslo\n2,Bobby,Rome\n");
}

/// The record stayed at the destination, and was sent back as a new one again and again.
#[test]
fn an_edit_that_takes_a_record_out_of_the_selection_is_sent_once_and_the_record_goes() {
    let world = World::new();
    world.write("people.csv", "id,name,city\n1,Ann,Oslo\n2,Bob,Oslo\n");
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    selecting(&world, "where = 'city == \"Oslo\"'");
    world.run("receive --config receiver.toml --once").exits(0);
    world
        .sql("a.db", "UPDATE people SET city = 'Rome' WHERE id = '1'; INSERT INTO people VALUES ('3', 'Cleo', 'Kyiv')");
    for _ in 0..3 {
        world.run("receive --config receiver.toml --once").exits(0);
        world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    }
    assert_eq!(world.read("people.csv"), "id,name,city\n1,Ann,Rome\n2,Bob,Oslo\n3,Cleo,Kyiv\n");
    world.write("oslo.csv", "id,name,city\n2,Bob,Oslo\n");
    world.run("diff csv:oslo.csv?key=id sqlite:a.db").exits(0);
    assert_eq!(world.run("log people --json").exits(0).stdout().lines().count(), 2);
}
