//! What a destination or a source refuses goes to the dead letters, and the rest goes on.

use deltabus_test_servers::postgres::lease;
use deltabus_tests::World;
use serde_json::{Value, json};

const SOURCE: &str = "csv:people.csv?key=id";

const PEOPLE: &str = "id,name,age\n1,Ann,31\n2,Bob,32\n3,Cleo,33\n";

/// Nobody here is a hundred.
const RULES: &str = "CREATE TABLE IF NOT EXISTS people (id TEXT PRIMARY KEY NOT NULL, name TEXT, age TEXT);
    CREATE TRIGGER i BEFORE INSERT ON people WHEN length(new.age) > 2 BEGIN SELECT RAISE(ABORT, 'too old'); END;
    CREATE TRIGGER u BEFORE UPDATE ON people WHEN length(new.age) > 2 BEGIN SELECT RAISE(ABORT, 'too old'); END;";

fn publish(world: &World, people: &str) {
    world.write("people.csv", people);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
}

fn configure(world: &World, more: &str) {
    let destination = "[[destination]]\nsource = \"people\"\nlocation = \"sqlite:a.db\"\non_error = \"dead-letter\"\n";
    world.write("receiver.toml", &format!("name = \"a\"\n\n{destination}{more}"));
}

/// A destination with rules that holds [`PEOPLE`].
fn ruled(more: &str) -> World {
    let world = World::new();
    publish(&world, PEOPLE);
    configure(&world, more);
    world.sql("a.db", RULES);
    receive(&world);
    world
}

fn receive(world: &World) -> String {
    world.run("receive --config receiver.toml --once").exits(0).stdout()
}

/// The destination's rows, `id name age`.
fn held(world: &World) -> Vec<String> {
    let database = rusqlite::Connection::open(world.path("a.db")).unwrap();
    let mut rows = database.prepare("SELECT id || ' ' || name || ' ' || age FROM people ORDER BY id").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn letters(world: &World, code: i32) -> Vec<Value> {
    let text = world.run("dead-letters people --json").exits(code).stdout();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_refused_is_listed_with_its_values_and_the_rest_goes_on() {
    let world = ruled("");
    publish(&world, "id,name,age\n1,Anna,31\n2,Bob,132\n4,Dan,134\n5,Eve,35\n");
    assert!(receive(&world).contains("2 dead letters"));
    assert_eq!(held(&world), ["1 Anna 31", "2 Bob 32", "5 Eve 35"]);
    let letters = letters(&world, 1);
    assert_eq!(letters.len(), 2);
    let bob = letters.iter().find(|letter| letter["key"].as_str().unwrap().contains('2')).unwrap();
    assert_eq!((&bob["change"], &bob["revision"], &bob["attempts"]), (&json!("update"), &json!(2), &json!(1)), "{bob}");
    assert_eq!(bob["fields"], json!({ "age": { "held": "32", "wanted": "132" } }));
    assert!(bob["reason"].as_str().unwrap().contains("too old"), "{bob}");
    let text = world.run("dead-letters people").exits(1).stdout();
    for part in
        ["a/1  ", "insert people", "age: \"32\" -> \"132\"", "refused by sqlite:a.db at revision 2", "2 dead letters"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(world.run("dead-letters people --json").exits(1).stdout().lines().count(), 2);
    // They are no drift, and stay through rounds without news.
    assert!(receive(&world).contains("nothing new"));
    let status: Value = serde_json::from_str(&world.run("status --json").exits(0).stdout()).unwrap();
    assert_eq!(
        (&status["receivers"][0]["dead_letters"], &status["receivers"][0]["drift"]),
        (&json!(2), &json!(0)),
        "{status}"
    );
}

#[test]
fn by_default_the_destination_stops_and_says_why() {
    let world = ruled("");
    let stops = world.read("receiver.toml").replace("dead-letter", "stop");
    world.write("receiver.toml", &stops);
    publish(&world, "id,name,age\n1,Anna,31\n2,Bob,132\n3,Cleo,33\n");
    let failed = world.run("receive --config receiver.toml --once").exits(2).stderr();
    assert!(failed.contains("too old"), "{failed}");
    assert_eq!(held(&world), ["1 Ann 31", "2 Bob 32", "3 Cleo 33"]);
}

#[test]
fn a_later_change_of_the_record_is_tried_as_a_whole() {
    let world = ruled("");
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bob,132"));
    receive(&world);
    // Refused again, also what would be taken by itself: nothing is applied on a wrong base.
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bobby,132"));
    receive(&world);
    assert_eq!(held(&world)[1], "2 Bob 32");
    let again = letters(&world, 1);
    assert_eq!((again.len(), &again[0]["id"], &again[0]["attempts"]), (1, &json!("a/1"), &json!(2)), "{again:?}");
    assert_eq!((&again[0]["first_revision"], &again[0]["revision"]), (&json!(2), &json!(3)));
    assert_eq!(again[0]["fields"]["name"], json!({ "held": "Bob", "wanted": "Bobby" }));
    // Taken: what was refused before comes along.
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bobby,42"));
    receive(&world);
    assert_eq!(held(&world)[1], "2 Bobby 42");
    assert_eq!(letters(&world, 0).len(), 0);
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
    world.run("verify people sqlite:a.db").exits(0);
}

#[test]
fn a_change_taken_back_is_no_dead_letter_any_more() {
    let world = ruled("");
    publish(&world, &format!("{}4,Dan,134\n", PEOPLE.replace("2,Bob,32", "2,Bob,132")));
    receive(&world);
    assert_eq!(letters(&world, 1).len(), 2);
    publish(&world, PEOPLE);
    receive(&world);
    assert_eq!(letters(&world, 0).len(), 0);
    world.run("verify people sqlite:a.db").exits(0);
}

#[test]
fn retry_applies_what_the_destination_takes_by_now() {
    let world = ruled("");
    publish(&world, &format!("{}4,Dan,134\n", PEOPLE.replace("2,Bob,32", "2,Bob,132")));
    receive(&world);
    let refused = world.run("dead-letters people retry a/1").exits(1).stdout();
    assert!(refused.contains("a/1: refused again: ") && refused.contains("too old"), "{refused}");
    assert_eq!(letters(&world, 1)[0]["attempts"], 2);
    world.sql("a.db", "DROP TRIGGER i; DROP TRIGGER u");
    let applied = world.run("dead-letters people retry a/1 a/2").exits(0).stdout();
    assert_eq!(applied, "a/1: applied\na/2: applied\n");
    assert_eq!(held(&world), ["1 Ann 31", "2 Bob 132", "3 Cleo 33", "4 Dan 134"]);
    // Once more is once.
    let again = world.run("dead-letters people retry a/1").exits(0).stdout();
    assert!(again.contains("it was applied or dropped before"), "{again}");
    assert_eq!(letters(&world, 0).len(), 0);
    world.run("verify people sqlite:a.db").exits(0);
}

#[test]
fn what_is_dropped_is_not_tried_until_the_source_changes_it_again() {
    let world = ruled("");
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bob,132"));
    receive(&world);
    world.run("dead-letters people drop a/1").exits(0);
    assert_eq!(letters(&world, 0).len(), 0);
    let all = world.run("dead-letters people --all").exits(0).stdout();
    assert!(all.contains("a/1") && all.contains("dropped"), "{all}");
    let differs = world.run("verify people sqlite:a.db").exits(1).stdout();
    assert!(differs.contains("age: expected \"132\", found \"32\"  (refused: "), "{differs}");
    world.sql("a.db", "DROP TRIGGER i; DROP TRIGGER u");
    receive(&world);
    assert_eq!(held(&world)[1], "2 Bob 32");
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bobby,132"));
    receive(&world);
    assert_eq!(held(&world)[1], "2 Bobby 132");
    world.run("verify people sqlite:a.db").exits(0);
}

#[test]
fn verify_names_dead_letters_and_repair_tries_them_again() {
    let world = ruled("");
    publish(&world, &format!("{}4,Dan,134\n", PEOPLE.replace("2,Bob,32", "2,Bob,132")));
    receive(&world);
    let differs = world.run("verify people sqlite:a.db --json").exits(1).stdout();
    let lines: Vec<Value> = differs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["cause"], &lines[0]["dead_letter"]),
        (3, &json!("refused"), &json!("a/1")),
        "{differs}"
    );
    let text = world.run("verify --config receiver.toml --repair").exits(1);
    assert!(text.stderr().contains("`deltabus dead-letters people` lists it"), "{}", text.text());
    assert_eq!(letters(&world, 1).iter().map(|letter| &letter["attempts"]).collect::<Vec<_>>(), [2, 2]);
    world.sql("a.db", "DROP TRIGGER i; DROP TRIGGER u");
    world.run("verify --config receiver.toml --repair").exits(0);
    assert_eq!(letters(&world, 0).len(), 0);
}

#[test]
fn joining_fills_a_destination_with_all_that_it_takes() {
    let world = World::new();
    let many: String = (10..3_000).map(|id| format!("{id},many,{}\n", if id % 700 == 0 { 100 } else { 50 })).collect();
    publish(&world, &format!("{PEOPLE}{many}"));
    configure(&world, "");
    world.sql("a.db", RULES);
    assert!(receive(&world).contains("4 dead letters"));
    assert_eq!(held(&world).len(), 3 + 2_990 - 4);
    assert_eq!(letters(&world, 1).len(), 4);
    // Joined again, all is tried again, and nothing else is written.
    world.run("bus stop").exits(0);
    std::fs::remove_dir_all(world.path("state/bus")).unwrap();
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    receive(&world);
    assert_eq!(letters(&world, 1).len(), 4);
    world.sql("a.db", "DROP TRIGGER i");
    world.run("dead-letters people retry a/1 a/2 a/3 a/4").exits(0);
    world.run(&format!("diff {SOURCE} sqlite:a.db")).exits(0);
}

/// It was sent back as an edit, and undid the source's change.
#[test]
fn what_a_destination_refused_is_no_edit_and_edits_of_it_still_are() {
    let world = ruled("reverse = true\n");
    publish(&world, &format!("{}4,Dan,134\n", PEOPLE.replace("2,Bob,32", "2,Bob,132")));
    for _ in 0..2 {
        receive(&world);
        world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    }
    let source = || world.read("people.csv");
    assert_eq!(source(), format!("{}4,Dan,134\n", PEOPLE.replace("2,Bob,32", "2,Bob,132")));
    // An edit of another field is merged; what was refused stays refused.
    world.sql("a.db", "UPDATE people SET name = 'Robert' WHERE id = '2'");
    for _ in 0..2 {
        receive(&world);
        world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    }
    assert!(source().contains("2,Robert,132\n"), "{}", source());
    assert_eq!(held(&world)[1], "2 Robert 32");
    assert_eq!(letters(&world, 1).len(), 2);
    // Somebody brings it there by hand.
    world.sql("a.db", "DROP TRIGGER i; DROP TRIGGER u; UPDATE people SET age = '132' WHERE id = '2'");
    receive(&world);
    assert_eq!(letters(&world, 1).len(), 1);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    assert_eq!(world.run("log people --json").exits(0).stdout().lines().count(), 3);
}

#[test]
fn a_running_receiver_lists_them_and_tries_them_again_when_asked() {
    let world = ruled("");
    let receiver = world.start("receive --config receiver.toml");
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bob,132").replace("Ann", "Anna"));
    world.wait("the change is applied", || held(&world)[0] == "1 Anna 31");
    world.wait("it is listed", || world.run("dead-letters people").code() == Some(1));
    world.run("dead-letters people retry a/1").exits(1);
    world.sql("a.db", "DROP TRIGGER u");
    world.run("dead-letters people retry a/1").exits(0);
    assert_eq!(held(&world)[1], "2 Bob 132");
    assert!(receiver.stop().success());
    assert_eq!(letters(&world, 0).len(), 0);
}

#[test]
fn what_refers_to_something_that_was_refused_comes_when_that_does() {
    let world = World::new();
    let shop = rusqlite::Connection::open(world.path("shop.db")).unwrap();
    shop.execute_batch(
        "CREATE TABLE goods (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE orders (id INTEGER PRIMARY KEY, good INTEGER);
         INSERT INTO goods VALUES (1, 'tea')",
    )
    .unwrap();
    world.run("transmit people sqlite:shop.db --once").exits(0);
    configure(&world, "");
    world.sql(
        "a.db",
        "CREATE TABLE goods (id INTEGER PRIMARY KEY, name TEXT CHECK (name <> 'rum'));
         CREATE TABLE orders (id INTEGER PRIMARY KEY, good INTEGER REFERENCES goods (id))",
    );
    receive(&world);
    // Order 7 comes before what it refers to, and order 8 refers to what is refused.
    shop.execute_batch("INSERT INTO orders VALUES (7, 3), (8, 2); INSERT INTO goods VALUES (2, 'rum'), (3, 'oil')")
        .unwrap();
    world.run("transmit people sqlite:shop.db --once").exits(0);
    assert!(receive(&world).contains("2 dead letters"));
    let database = rusqlite::Connection::open(world.path("a.db")).unwrap();
    let count = |table: &str| -> i64 {
        database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("goods"), count("orders")), (2, 1));
    shop.execute_batch("UPDATE goods SET name = 'ale' WHERE id = 2").unwrap();
    world.run("transmit people sqlite:shop.db --once").exits(0);
    receive(&world);
    assert_eq!((count("goods"), letters(&world, 1).len()), (3, 1));
    world.run("dead-letters people retry a/2").exits(0);
    world.run("diff sqlite:shop.db sqlite:a.db").exits(0);
}

#[test]
fn a_value_that_a_format_has_no_place_for_is_one_too() {
    let world = World::new();
    publish(&world, PEOPLE);
    let location = "csv:b.csv?key=id&encoding=latin1";
    let destination =
        format!("[[destination]]\nsource = \"people\"\nlocation = \"{location}\"\non_error = \"dead-letter\"\n");
    world.write("receiver.toml", &format!("name = \"a\"\n\n{destination}"));
    receive(&world);
    publish(&world, "id,name,age\n1,Ann\u{e9},31\n2,\u{3a9},32\n3,Cleo,33\n");
    assert!(receive(&world).contains("1 dead letter"));
    let bytes = std::fs::read(world.path("b.csv")).unwrap();
    assert_eq!(bytes, b"id,name,age\n1,Ann\xe9,31\n2,Bob,32\n3,Cleo,33\n");
    let letters = letters(&world, 1);
    assert_eq!(letters[0]["fields"]["name"], json!({ "held": "Bob", "wanted": "\u{3a9}" }));
    let differs = world.run(&format!("verify people {location}")).exits(1).stdout();
    assert!(differs.contains("(refused, dead letter a/1: "), "{differs}");
    publish(&world, "id,name,age\n1,Ann\u{e9},31\n2,O,32\n3,Cleo,33\n");
    receive(&world);
    world.run(&format!("verify people {location}")).exits(0);
}

#[test]
fn postgres_refuses_single_rows_by_constraint_and_by_trigger() {
    let world = World::new();
    let server = lease();
    let database = server.database();
    server.run(
        &database,
        "CREATE TABLE people (id text PRIMARY KEY, name text, age text CHECK (length(age) < 3));
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF new.name = 'Eve' THEN RAISE EXCEPTION 'not Eve'; END IF; RETURN new; END $$;
         CREATE TRIGGER no BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION no()",
    );
    publish(&world, PEOPLE);
    let location = server.location(&database, "");
    let destination =
        format!("[[destination]]\nsource = \"people\"\nlocation = \"{location}\"\non_error = \"dead-letter\"\n");
    world.write("receiver.toml", &format!("name = \"a\"\n\n{destination}"));
    receive(&world);
    publish(&world, "id,name,age\n1,Anna,31\n2,Bob,132\n3,Eve,33\n4,Dan,34\n");
    assert!(receive(&world).contains("2 dead letters"));
    let rows =
        server.run(&database, "SELECT string_agg(id || ' ' || name || ' ' || age, ', ' ORDER BY id) FROM people");
    assert_eq!(rows, "1 Anna 31, 2 Bob 32, 3 Cleo 33, 4 Dan 34");
    let reasons: Vec<String> = letters(&world, 1).iter().map(|letter| letter["reason"].to_string()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("people_age_check")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("not Eve")), "{reasons:?}");
    server.run(&database, "ALTER TABLE people DROP CONSTRAINT people_age_check; DROP TRIGGER no ON people");
    world.run("dead-letters people retry a/1 a/2").exits(0);
    world.run(&format!("diff {SOURCE} {location}")).exits(0);
}

/// The destination has the set, and the process was killed before it could remember.
#[test]
fn a_state_older_than_the_destination_does_not_take_what_was_refused_for_an_edit() {
    let world = ruled("reverse = true\n");
    let state = "state/receivers/people/a";
    copy(&world.path(state), &world.path("before"));
    publish(&world, &PEOPLE.replace("2,Bob,32", "2,Bob,132").replace("Ann", "Anna"));
    receive(&world);
    std::fs::remove_dir_all(world.path(state)).unwrap();
    copy(&world.path("before"), &world.path(state));
    for _ in 0..2 {
        receive(&world);
        world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    }
    assert_eq!(world.read("people.csv"), PEOPLE.replace("2,Bob,32", "2,Bob,132").replace("Ann", "Anna"));
    assert_eq!(held(&world), ["1 Anna 31", "2 Bob 32", "3 Cleo 33"]);
    assert_eq!(letters(&world, 1).len(), 1);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
