//! A real PostgreSQL to another, to SQLite and to JSON, both ways, while somebody keeps writing.
#![cfg(shared_data)]

use std::path::PathBuf;

use deltabus_test_servers::postgres::{Server, lease};
use deltabus_tests::World;

fn sakila_file(name: &str) -> PathBuf {
    PathBuf::from(env!("DELTABUS_SHARED_DATA")).join("sakila-postgres").join(name)
}

/// All tables in one document.
const DOCUMENT: &str = "json:sakila.json?shape=tables";

/// How many times somebody writes at each end.
const WRITES: u32 = 15;

fn write(server: &Server, database: &str, sql: &str) {
    server.run(database, sql);
}

#[test]
fn sakila_follows_both_ways_while_rows_keep_changing() {
    let world = World::new();
    let (first, second) = (lease(), lease());
    let (source, copy) = (first.database(), second.database());
    first.run_file(&source, &sakila_file("postgres-sakila-schema.sql"));
    first.run_file(&source, &sakila_file("postgres-sakila-insert-data-using-copy.sql"));
    let (from, to) = (first.location(&source, ""), second.location(&copy, ""));
    world.run(&format!("transmit sakila {from} --once")).exits(0);
    world.run(&format!("receive sakila {to} --name copy --reverse --once")).exits(0);
    world.run("receive sakila sqlite:sakila.db --name lite --once").exits(0);
    world.run(&format!("receive sakila {DOCUMENT} --name document --once")).exits(0);
    let running = [
        world.start(&format!("transmit sakila {from}")),
        world.start(&format!("receive sakila {to} --name copy --reverse")),
        world.start("receive sakila sqlite:sakila.db --name lite"),
        world.start(&format!("receive sakila {DOCUMENT} --name document")),
    ];
    for at in 1..=WRITES {
        write(
            &first,
            &source,
            &format!(
                "UPDATE film SET rental_rate = rental_rate + 0.01 WHERE film_id = {at};
                 INSERT INTO actor (first_name, last_name) VALUES ('new {at}', 'one');
                 DELETE FROM film_actor WHERE film_id = {at}"
            ),
        );
        write(&second, &copy, &format!("UPDATE address SET phone = 'edited {at}' WHERE address_id = {at}"));
    }
    let edited = || first.run(&source, "SELECT count(*) FROM address WHERE phone LIKE 'edited %'");
    world.wait("all edits are at the source", || edited() == WRITES.to_string());
    world.wait_equal(&from, &to);
    world.wait_equal(&from, "sqlite:sakila.db");
    world.wait_equal(&from, DOCUMENT);
    for program in running {
        program.stop();
    }
}
