//! A slow, stopped or broken receiver costs the transmitter and the others nothing.

use deltabus_test_servers::postgres::lease;
use deltabus_tests::{World, catalogue};

const SOURCE: &str = "csv:source.csv?key=id";

/// Makes every statement that changes the table wait for some seconds.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
    CREATE TRIGGER wait AFTER INSERT OR UPDATE OR DELETE ON source FOR EACH STATEMENT EXECUTE FUNCTION wait()";

fn revision(world: &World, receiver: &str) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&world.run("status --json").exits(0).stdout()).unwrap();
    let receivers = status["receivers"].as_array().unwrap();
    let found = receivers.iter().find(|found| found["receiver"] == receiver).expect("it has been here");
    found["revision"].as_u64().unwrap()
}

#[test]
fn the_others_go_on_at_once() {
    let world = World::new();
    let server = lease();
    let database = server.database();
    let slow = server.location(&database, "tables=source");
    world.write("source.csv", &catalogue::csv(1));
    world.run(&format!("transmit goods {SOURCE} --once")).exits(0);
    world.run(&format!("receive goods {slow} --name slow --once")).exits(0);
    world.run("receive goods csv:frozen.csv?key=id --name frozen --once").exits(0);
    // A constraint that the source breaks: this one stops, and says so.
    world.run("receive goods sqlite:broken.db --name broken --once").exits(0);
    let broken = rusqlite::Connection::open(world.path("broken.db")).unwrap();
    broken.execute_batch("CREATE TRIGGER no BEFORE UPDATE ON source BEGIN SELECT RAISE(ABORT, 'never'); END").unwrap();
    server.run(&database, SLOW);

    let transmitter = world.start(&format!("transmit goods {SOURCE} --poll 1s"));
    let slow_one = world.start(&format!("receive goods {slow} --name slow"));
    let frozen = world.start("receive goods csv:frozen.csv?key=id --name frozen");
    let broken_one = world.start("receive goods sqlite:broken.db --name broken");
    let quick = world.start("receive goods sqlite:quick.db --name quick");
    world.wait_equal(SOURCE, "sqlite:quick.db");
    frozen.freeze();
    for version in 2..=catalogue::VERSIONS {
        world.write("source.csv", &catalogue::csv(version));
        world.wait_equal(SOURCE, "sqlite:quick.db");
    }
    let reached = revision(&world, "quick");
    for behind in ["slow", "frozen", "broken"] {
        assert!(revision(&world, behind) < reached, "{behind} was not held up at all");
    }
    // And each of them catches up when it can.
    world.wait("the broken one says why", || broken_one.log().contains("never"));
    broken.execute_batch("DROP TRIGGER no").unwrap();
    server.run(&database, "DROP TRIGGER wait ON source");
    frozen.thaw();
    drop(broken_one);
    let broken_one = world.start("receive goods sqlite:broken.db --name broken");
    for location in [slow.as_str(), "csv:frozen.csv?key=id", "sqlite:broken.db"] {
        world.wait_equal(SOURCE, location);
    }
    for program in [transmitter, slow_one, frozen, broken_one, quick] {
        assert!(program.stop().success());
    }
}
