//! `restore` writes what a source was.

use deltabus_tests::World;

const SOURCE: &str = "csv:people.csv?key=id";

/// What the source was at each revision, beginning with 1.
const STATES: [&str; 6] = [
    "id,name,phone\n1,Ann,111\n2,Bob,222\n3,Cleo,333\n",
    "id,name,phone\n1,Anna,111\n2,Bob,222\n",
    "id,name,phone,city\n1,Anna,111,Oslo\n2,Bob,222,\n4,Dan,444,Nice\n",
    "id,name,city\n1,Anna,Oslo\n2,Bob,Rome\n4,Dan,Nice\n",
    "id,name,city\n2,Bob,Rome\n4,Daniel,Nice\n",
    "id,name,city\n2,Bob,Rome\n4,Daniel,Nice\n5,Eve,Kyiv\n",
];

/// A source with all of [`STATES`] behind it, and a snapshot of revision `snapshot`.
fn history(snapshot: usize) -> World {
    let world = World::new();
    for (at, state) in STATES.iter().enumerate() {
        publish(&world, state);
        if at + 1 == snapshot {
            world.run("snapshot people").exits(0);
        }
        world.write(&format!("then-{}.csv", at + 1), state);
    }
    world
}

fn publish(world: &World, state: &str) {
    world.write("people.csv", state);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
}

/// When a revision was made, as RFC 3339 has it.
fn time_of(world: &World, revision: u64) -> String {
    let log = world.run("log people --json").exits(0).stdout();
    let mut lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let line = lines.find(|line| line["revision"] == revision).unwrap();
    rfc3339(line["time_millis"].as_u64().unwrap())
}

fn rfc3339(millis: u64) -> String {
    let statement = format!("SELECT strftime('%Y-%m-%dT%H:%M:%f', {millis} / 1000.0, 'unixepoch') || 'Z'");
    rusqlite::Connection::open_in_memory().unwrap().query_row(&statement, [], |row| row.get(0)).unwrap()
}

#[test]
fn every_retained_revision_comes_back_in_any_format_over_anything() {
    // Backwards from the snapshot, and forwards.
    for snapshot in [4, 6] {
        let world = history(snapshot);
        for at in [6, 1, 5, 3] {
            for location in ["csv:back.csv?key=id", "sqlite:back.db"] {
                world.run(&format!("restore people {location} --at {at}")).exits(0);
                world.run(&format!("diff csv:then-{at}.csv?key=id {location}")).exits(0);
            }
        }
        let again = world.run("restore people sqlite:back.db --at 3").exits(0).stdout();
        assert!(again.contains("0 records written"), "{again}");
        world.run("restore people json:back.json?key=id --at 2").exits(0);
        world.run("diff csv:then-2.csv?key=id json:back.json?key=id").exits(0);
        assert!(!world.path("state/receivers").exists());
    }
}

#[test]
fn a_place_is_proven_equal_to_a_revision_that_is_past() {
    // Backwards from the snapshot, and forwards.
    for snapshot in [4, 6] {
        let world = history(snapshot);
        for at in [6, 5, 3, 2, 1] {
            world.run(&format!("restore people sqlite:back.db --at {at}")).exits(0);
            for location in [format!("csv:then-{at}.csv?key=id"), "sqlite:back.db".to_owned()] {
                let text = world.run(&format!("verify people {location} --at {at}")).exits(0).stdout();
                assert!(text.contains(&format!("{location} equals people at revision {at}")), "{text}");
            }
        }
        // Another revision's state is not that one's; what is wrong is listed.
        let ran = world.run("verify people csv:then-5.csv?key=id --at 6 --json").exits(1).stdout();
        assert!(ran.contains(r#""key":{"id":"5"},"problem":"missing""#), "{ran}");
        assert!(ran.contains(r#""revision":6"#) && ran.contains(r#""behind":0"#), "{ran}");
        // Revision 5 had no field `phone`, though the source had one before.
        world.write("more.csv", "id,name,city,phone,mine\n2,Bob,Rome,222,x\n4,Daniel,Nice,444,y\n");
        let text = world.run("verify people csv:more.csv?key=id --at 5").exits(1).stdout();
        assert!(text.contains("+ field phone of collection more is there"), "{text}");
        assert!(text.contains("0 records differ") && !text.contains("mine"), "{text}");
        world.write("more.csv", "id,name,city,mine\n2,Bob,Rome,x\n4,Daniel,Nice,y\n");
        let text = world.run("verify people csv:more.csv?key=id --at 5").exits(0).stdout();
        assert!(text.contains("the source has gone on since by 1 revision"), "{text}");
        // By time; and what isn't there.
        let time = time_of(&world, 2);
        world.run(&format!("verify people csv:then-2.csv?key=id --at {time}")).exits(0);
        let none = world.run("verify people csv:then-2.csv?key=id --at 9").exits(2).stderr();
        assert!(none.contains("has no revision 9 yet"), "{none}");
        world.run("verify people csv:then-2.csv?key=id --at 2 --repair").exits(2);
        // Nothing was written for it.
        assert!(!world.path("state/receivers").exists());
    }
}

#[test]
fn what_a_receiver_holds_of_the_source_is_what_is_compared_with_its_past() {
    let world = history(6);
    let config =
        "name = 'a'\n[[destination]]\nsource = 'people'\nlocation = 'sqlite:a.db'\nwhere = \"city == 'Rome'\"\n";
    world.write("receiver.toml", config);
    world.run("receive --config receiver.toml --once").exits(0);
    for config in ["people sqlite:a.db --name a", "--config receiver.toml"] {
        let text = world.run(&format!("verify {config} --at 4")).exits(0).stdout();
        assert!(text.contains("equals people at revision 4: 1 record"), "{text}");
        world.run(&format!("verify {config} --at 3")).exits(1);
    }
}

#[test]
fn only_what_differs_is_written_and_what_the_source_never_had_stays() {
    let world = history(1);
    world.write("mine.csv", "id,name,notes,phone\n3,Cleo,hers,333\n1,Ann,his,999\n");
    let text = world.run("restore people csv:mine.csv?key=id --at 1").exits(0).stdout();
    assert!(text.contains("revision 1 of people of ") && text.contains("2 records written"), "{text}");
    assert_eq!(world.read("mine.csv"), "id,name,notes,phone\n3,Cleo,hers,333\n1,Ann,his,111\n2,Bob,,222\n");
}

#[test]
fn a_dry_run_shows_it_and_writes_nothing() {
    let world = history(3);
    world.write("back.csv", STATES[2]);
    let text = world.run("restore people csv:back.csv?key=id --at 1 --dry-run").exits(0).stdout();
    assert!(text.contains("collection back loses city\n"), "{text}");
    assert!(text.contains("~ back id=1  name: \"Anna\" -> \"Ann\"\n"), "{text}");
    assert!(text.contains("- back id=4") && text.contains("+ back id=3  name: \"Cleo\", phone: \"333\"\n"), "{text}");
    assert!(text.contains("csv:back.csv?key=id would be revision 1 of people"), "{text}");
    let stat = world.run("restore people csv:back.csv?key=id --at 1 --dry-run --stat --json").exits(0).stdout();
    assert!(stat.contains("{\"collection\":\"back\",\"inserts\":1,\"updates\":1,\"deletes\":1}"), "{stat}");
    assert_eq!(world.read("back.csv"), STATES[2]);
    world.run("restore people sqlite:never.db --at 1 --dry-run").exits(0);
    assert!(!world.path("never.db").exists() && !world.path("state/receivers").exists());
}

#[test]
fn a_time_names_what_the_source_was_then() {
    let world = history(4);
    for at in [1, 3, 6] {
        let time = time_of(&world, at);
        world.run(&format!("restore people csv:back.csv?key=id --at {time}")).exits(0);
        world.run(&format!("diff csv:then-{at}.csv?key=id csv:back.csv?key=id")).exits(0);
    }
    let long_ago = world.run("restore people csv:back.csv?key=id --at 2001-01-01").exits(2).stderr();
    assert!(long_ago.contains("the oldest retained is revision 1 (since 20"), "{long_ago}");
    let future = world.run("restore people csv:back.csv?key=id --at 2999-12-31").exits(2).stderr();
    assert!(future.contains("2999-12-31 is yet to come; `people` is at revision 6"), "{future}");
    let nonsense = world.run("restore people csv:back.csv?key=id --at yesterday").exits(2).stderr();
    assert!(nonsense.contains("neither a revision's number nor a time"), "{nonsense}");
    world.run("diff csv:then-6.csv?key=id csv:back.csv?key=id").exits(0);
}

#[test]
fn what_is_no_longer_retained_names_the_oldest_that_is() {
    let world = history(6);
    let unknown = world.run("restore people csv:back.csv?key=id --at 9").exits(2).stderr();
    assert!(unknown.contains("`people` has no revision 9 yet; the newest is 6"), "{unknown}");
    // The log is lost; the transmitter founds it anew with what it has.
    world.run("bus stop").exits(0);
    std::fs::remove_dir_all(world.path("state/bus")).unwrap();
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    publish(&world, STATES[4]);
    for at in ["5", "2001-01-01"] {
        let gone = world.run(&format!("restore people csv:back.csv?key=id --at {at}")).exits(2).stderr();
        assert!(gone.contains("the oldest retained is revision 6 (since 20"), "{gone}");
        assert_eq!(gone.lines().count(), 1, "{gone}");
    }
    assert!(!world.path("back.csv").exists());
    world.run("restore people csv:back.csv?key=id --at 6").exits(0);
    assert_eq!(world.read("back.csv"), STATES[5]);
}

#[test]
fn a_source_restored_to_what_it_was_takes_all_destinations_along() {
    let world = history(2);
    world.run("receive people sqlite:copy.db --once").exits(0);
    world.run(&format!("restore people {SOURCE} --at 3")).exits(0);
    world.run(&format!("diff csv:then-3.csv?key=id {SOURCE}")).exits(0);
    world.run(&format!("transmit people {SOURCE} --once")).exits(0);
    world.run("receive people sqlite:copy.db --once").exits(0);
    world.run("diff csv:then-3.csv?key=id sqlite:copy.db").exits(0);
    // Restored where a receiver keeps a destination, it is an edit, and said to be.
    let text = world.run("restore people sqlite:copy.db --at 1").exits(0).stderr();
    assert!(text.contains("keeps sqlite:copy.db"), "{text}");
}

#[test]
fn tables_that_the_source_got_later_go_and_those_it_lost_come_back() {
    let world = World::new();
    let source = rusqlite::Connection::open(world.path("shop.db")).unwrap();
    let transmit = || world.run("transmit shop sqlite:shop.db --once").exits(0);
    source
        .execute_batch("CREATE TABLE goods (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO goods VALUES (1, 'tea')")
        .unwrap();
    transmit();
    source
        .execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, good INTEGER); INSERT INTO orders VALUES (7, 1)")
        .unwrap();
    transmit();
    source.execute_batch("DELETE FROM goods; DROP TABLE goods").unwrap();
    world.run("transmit shop sqlite:shop.db --once");
    world.run("confirm shop");
    transmit();
    world.run("snapshot shop").exits(0);
    let back = rusqlite::Connection::open(world.path("back.db")).unwrap();
    back.execute_batch("CREATE TABLE mine (id INTEGER PRIMARY KEY)").unwrap();
    let tables = || {
        let sql =
            "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name)";
        back.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    for (at, wanted) in [(2, "goods mine orders"), (3, "mine orders"), (1, "goods mine")] {
        world.run(&format!("restore shop sqlite:back.db --at {at}")).exits(0);
        assert_eq!(tables(), wanted, "revision {at}");
    }
}

#[test]
fn contents_of_files_come_back() {
    let world = World::new();
    std::fs::create_dir(world.path("notes")).unwrap();
    let content = |seed: u64| (0..200_000u64).map(|at| (at.wrapping_mul(seed) >> 7) as u8).collect::<Vec<_>>();
    for revision in 1..=3 {
        std::fs::write(world.path("notes/large.bin"), content(revision + 40)).unwrap();
        std::fs::write(world.path("notes/small.txt"), format!("revision {revision}")).unwrap();
        world.run("transmit notes tree:notes --once").exits(0);
    }
    world.run("restore notes tree:then --at 2").exits(0);
    assert!(std::fs::read(world.path("then/large.bin")).unwrap() == content(42));
    assert_eq!(world.read("then/small.txt"), "revision 2");
}
