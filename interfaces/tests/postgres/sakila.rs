//! The sakila database, whole: enums, domains, arrays, full text, views, triggers, rules and inheritance.

use std::path::{Path, PathBuf};

use deltabus_interfaces::Action;
use deltabus_record::schema::{Collection, Schema};

use super::Db;

fn shared_file(name: &str) -> PathBuf {
    Path::new(env!("DELTABUS_SHARED_DATA")).join("sakila-postgres").join(name)
}

fn sakila() -> Db {
    let db = Db::new("");
    db.server.run_file(&db.name, &shared_file("postgres-sakila-schema.sql"));
    db.server.run_file(&db.name, &shared_file("postgres-sakila-insert-data-using-copy.sql"));
    db
}

#[test]
fn sakila_is_read_and_written_whole() {
    let db = sakila();
    let tables = db.tables();
    assert_eq!(tables.len(), 21);
    assert_eq!(tables["film"].len(), 1000);
    assert_eq!(
        tables["payment"].len()
            + tables
                .iter()
                .filter(|(name, _)| name.starts_with("payment_p"))
                .map(|(_, rows)| rows.len())
                .sum::<usize>(),
        16_049
    );
    let copy = Db::new("");
    copy.load_all(&db);
    assert_eq!(copy.run("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'film'::regclass AND attname = 'fulltext'"), "tsvector");
    // What was made is read as what it was made of.
    let made: Vec<Schema> = copy.collections().into_iter().map(|collection| collection.schema).collect();
    let of: Vec<Schema> = db.collections().into_iter().map(|collection| collection.schema).collect();
    assert_eq!(made.len(), of.len());
    for (made, of) in made.iter().zip(&of) {
        assert_eq!(made.key, of.key);
        assert!(made.fields.iter().zip(&of.fields).all(|(made, of)| (&made.name, made.kind) == (&of.name, of.kind)));
    }
}

#[test]
fn sakila_is_loaded_into_its_own_schema() {
    let db = sakila();
    let other = Db::new("");
    other.server.run_file(&other.name, &shared_file("postgres-sakila-schema.sql"));
    let (tables, _) = db.scan().unwrap();
    let collections: Vec<Collection> = other.collections();
    let mut records: Vec<_> =
        collections.iter().map(|it| super::Rows::new(&it.schema, &tables[it.name.as_str()])).collect();
    let actions: Vec<_> =
        collections.iter().zip(&mut records).map(|(it, records)| (it, Action::Load(records))).collect();
    other.commit(actions).unwrap();
    assert_eq!(other.sorted_tables(), db.sorted_tables());
    // Its circle of foreign keys is as it was.
    assert_eq!(other.run("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND condeferrable"), "0");
}

#[test]
fn views_of_sakila_are_sources() {
    let db = sakila().reopened("tables=film_list,actor_info&key.film_list=fid,category&key.actor_info=actor_id");
    let tables = db.tables();
    assert_eq!(tables["actor_info"].len(), 200);
    assert_eq!(tables["film_list"].len(), db.run("SELECT count(*) FROM film_list").parse::<usize>().unwrap());
}
