//! What is read of which tables.

use deltabus_interfaces::{Error, Extent, Location, Stamp, open};
use deltabus_record::schema::KeySpec;
use deltabus_record::value::Value;

use super::{Db, int, text};

#[test]
fn tables_have_their_names_columns_and_keys() {
    let db = Db::new(
        r#"CREATE TABLE "Mixed Case" ("Id" int, "order" text, "a""b" text, PRIMARY KEY ("order", "Id"));
           CREATE TABLE plain (a int, b int UNIQUE);
           CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED, c text);
           CREATE TABLE _deltabus (owner text PRIMARY KEY, value bytea);
           CREATE VIEW v AS SELECT 1 AS one;
           INSERT INTO "Mixed Case" VALUES (1, 'x', 'y'); INSERT INTO g VALUES (3, DEFAULT, 'c');"#,
    );
    let collections = db.collections();
    let names: Vec<_> = collections.iter().map(|collection| collection.name.as_str()).collect();
    assert_eq!(names, ["Mixed Case", "g", "plain"]);
    assert_eq!(collections[0].schema.key, KeySpec::Fields(vec![1, 0]));
    assert_eq!(collections[2].schema.key, KeySpec::WholeRow);
    assert_eq!(db.rows("Mixed Case"), [[int(1), text("x"), text("y")]]);
    assert_eq!(db.rows("g"), [[int(3), text("c")]]);
}

#[test]
fn views_foreign_schemas_and_partial_lists_are_read_where_they_are_named() {
    let db = Db::with_options(
        r#"tables=v,other."T.x",m&key.v=one&key.other.T.x=a"#,
        r#"CREATE SCHEMA other; CREATE TABLE other."T.x" (a int, b text); INSERT INTO other."T.x" VALUES (7, 'z');
           CREATE TABLE t (a int PRIMARY KEY); CREATE VIEW v AS SELECT 1 AS one, NULL::text AS none;
           CREATE MATERIALIZED VIEW m AS SELECT 2 AS two;"#,
    );
    let names: Vec<_> = db.collections().iter().map(|collection| collection.name.as_str().to_owned()).collect();
    assert_eq!(names, ["v", "other.T.x", "m"]);
    assert_eq!(db.rows("v"), [[int(1), Value::Null]]);
    assert_eq!(db.rows("other.T.x"), [[int(7), text("z")]]);
    assert_eq!(db.rows("m"), [[int(2)]]);
    assert_eq!(db.collections()[0].schema.key, KeySpec::Fields(vec![0]));
    let whole = db.reopened("schema=other");
    assert_eq!(whole.rows("T.x"), [[int(7), text("z")]]);
}

#[test]
fn every_row_is_in_one_collection() {
    let db = Db::new(
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (extra text) INHERITS (parent);
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x');
         CREATE TABLE part (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
         CREATE TABLE part_2 PARTITION OF part DEFAULT;
         INSERT INTO part VALUES (1, '2020-05-05'), (2, '1999-01-01');",
    );
    let tables = db.tables();
    assert_eq!(tables.keys().collect::<Vec<_>>(), ["child", "parent", "part"]);
    assert_eq!(tables["parent"], [[int(1)]]);
    assert_eq!(tables["child"], [[int(2), text("x")]]);
    assert_eq!(tables["part"].len(), 2);
}

#[test]
fn a_scan_sees_one_state_whatever_happens_meanwhile() {
    let db = Db::new(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
         INSERT INTO a SELECT generate_series(1, 1000); INSERT INTO b VALUES (1);",
    );
    let mut scan = db.interface.scan(None).unwrap();
    scan.start(0, Extent::Whole).unwrap();
    assert!(scan.next().unwrap().is_some());
    db.run("BEGIN; DELETE FROM a; DELETE FROM b; COMMIT");
    let mut count = 1;
    while scan.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 1000);
    scan.start(1, Extent::Whole).unwrap();
    assert!(scan.next().unwrap().is_some());
    assert!(scan.next().unwrap().is_none());
    // Again, and from where it was left.
    scan.start(0, Extent::Whole).unwrap();
    assert!(scan.next().unwrap().is_some());
    scan.start(1, Extent::Whole).unwrap();
    assert!(scan.next().unwrap().is_some());
    assert_ne!(*scan.stamp(), db.stamp());
    drop(scan);
    assert!(db.rows("a").is_empty());
}

#[test]
fn a_scan_left_alone_holds_nobody_up() {
    let db = Db::new(
        "CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g",
    );
    for _ in 0..8 {
        let mut scan = db.interface.scan(None).unwrap();
        scan.start(0, Extent::Whole).unwrap();
        assert!(scan.next().unwrap().is_some());
    }
    // More open scans than threads, each with rows on their way.
    let scans: Vec<_> = (0..6)
        .map(|_| {
            let mut scan = db.interface.scan(None).unwrap();
            scan.start(0, Extent::Whole).unwrap();
            scan
        })
        .collect();
    assert_eq!(db.rows("a").len(), 20_000);
    drop(scans);
    db.run("DROP TABLE a");
}

#[test]
fn reading_takes_no_more_than_the_right_to_read() {
    let db = Db::new("CREATE TABLE t (id serial PRIMARY KEY, c text); INSERT INTO t (c) VALUES ('x')");
    let role = format!("reader_{}", db.name);
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}; REVOKE CREATE, TEMP ON DATABASE {} FROM PUBLIC",
        db.name
    ));
    let reader = db.reopened_as(&role, "");
    assert_eq!(reader.rows("t"), [[int(1), text("x")]]);
    assert_eq!(reader.interface.mark("a/b").unwrap(), None);
    let stamp = reader.stamp();
    let mut scan = reader.interface.scan(Some(&stamp)).unwrap();
    assert_eq!(scan.extent(0), Extent::Since { kept: 1 });
    scan.finish().unwrap();
    let collection = reader.collection("t");
    let error = reader.write("t", &[super::insert(&collection, &[int(2), text("y")])]).unwrap_err();
    assert!(format!("{error:?}").contains("permission denied"), "{error:?}");
    db.run("CREATE TABLE hidden (id int)");
    let error = reader.scan().unwrap_err();
    assert!(format!("{error:?}").contains("permission denied"), "{error:?}");
}

#[test]
fn what_is_not_there_is_missing_and_what_does_not_answer_is_an_error() {
    let db = Db::new("");
    assert_eq!(db.stamp(), Stamp::MISSING);
    assert!(matches!(db.scan(), Err(Error::Missing { .. })));
    db.run("CREATE TABLE other (id int)");
    assert_eq!(db.reopened("tables=some").stamp(), Stamp::MISSING);
    let nowhere = db.server.location("no_such_database", "");
    let nowhere = open(&Location::parse(&nowhere).unwrap()).unwrap();
    assert_eq!(nowhere.stamp().unwrap(), Stamp::MISSING);
    assert_eq!(nowhere.mark("a/b").unwrap(), None);
    let silent = open(&Location::parse("postgres://u:secret@/db?host=/nonexistent").unwrap()).unwrap();
    let error = silent.stamp().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error:?}");
}

#[test]
fn no_message_shows_the_password() {
    for given in [
        "postgres://u:s3cret@/db?host=/nonexistent",
        "postgresql://u:s3cret@localhost:1/db",
        "postgres://u@/db?host=/nonexistent&password=s3cret",
        "postgres://u:s3cret@localhost/db?nonsense=1",
        "postgres://u:s3cret@localhost/db?port=x",
        "postgres://u:s3cret/x@localhost/db",
        "postgres://u:s3cret?x@localhost/db",
        "postgres://u:s3cret%zz@localhost/db",
        "postgres://u:s3cret@localhost/db?password=s3cret",
    ] {
        let shown = match Location::parse(given) {
            Ok(location) => match open(&location) {
                Ok(interface) => format!("{location} {location:?} {:?}", interface.stamp().unwrap_err()),
                Err(error) => format!("{location} {location:?} {error} {error:?}"),
            },
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains("s3cret"), "{given}: {shown}");
    }
}

#[test]
fn options_are_known_or_refused() {
    let parse = |given: &str| Location::parse(given).and_then(|location| open(&location).map(drop));
    assert!(
        parse("postgres://u:p%40w@h:5433,[::1]:5434/db?tables=a,b&key.a=x&schema=s&notify=c&sslmode=verify-full")
            .is_ok()
    );
    assert!(parse("postgresql://%2Fvar%2Frun/db?connect_timeout=3&application_name=x").is_ok());
    for wrong in [
        "postgres://h/db?tabels=a",
        "postgres://h/db?tables=a,,b",
        "postgres://h/db?tables=_deltabus",
        "postgres://h/db?key=a",
        "postgres://h/db?tables=a,b&key=x",
        "postgres://h/db?tables=a&key.b=x",
        "postgres://h/db?tables=a&key=x&key.a=y",
        "postgres://h/db?tables=a.b.c",
        "postgres://h/db?lock_timeout=soon",
        "postgres://h/db?sslmode=maybe",
        "postgres:db",
    ] {
        assert!(matches!(parse(wrong), Err(Error::Location { .. })), "{wrong}");
    }
}
