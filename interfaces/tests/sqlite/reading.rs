//! Which tables, columns and rows are read, and how.

use deltabus_interfaces::{Error, Extent, Location, open};
use deltabus_record::schema::KeySpec;
use deltabus_record::value::{Kind, Value};

use super::{Db, int, text};

fn names(db: &Db) -> Vec<String> {
    db.collections().into_iter().map(|collection| collection.name.as_str().to_owned()).collect()
}

const SEVERAL: &str = "
    CREATE TABLE b (id INTEGER PRIMARY KEY AUTOINCREMENT, x); INSERT INTO b (x) VALUES ('one');
    CREATE TABLE a (k TEXT PRIMARY KEY, x) WITHOUT ROWID;
    CREATE TABLE _deltabus (owner TEXT PRIMARY KEY, value BLOB);
    CREATE VIEW v AS SELECT x FROM b;
    CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('found');";

#[test]
fn all_tables_of_the_data_are_read_and_no_others() {
    assert_eq!(names(&Db::new(SEVERAL)), ["a", "b"]);
}

#[test]
fn named_tables_are_read_views_and_virtual_ones_too() {
    let db = Db::with_options("tables=V,f,B,missing", SEVERAL);
    assert_eq!(names(&db), ["b", "f", "v"]);
    let tables = db.tables();
    assert_eq!(tables["v"], [[text("one")]]);
    assert_eq!(tables["f"], [[text("found")]]);
    assert!(!db.interface.single_collection());
    assert!(Db::missing("tables=b").interface.single_collection());
}

#[test]
fn the_key_is_the_primary_key_or_as_the_location_says() {
    let sql = "CREATE TABLE t (a, b INT, c, PRIMARY KEY (c, a)); CREATE TABLE u (a, b)";
    let db = Db::with_options("key.U=B", sql);
    assert_eq!(db.collection("t").schema.key_names(), ["c", "a"]);
    assert_eq!(db.collection("u").schema.key_names(), ["b"]);
    let db = Db::with_options("tables=t&key=b", sql);
    assert_eq!(db.collection("t").schema.key_names(), ["b"]);
    assert_eq!(Db::new(sql).collection("u").schema.key, KeySpec::WholeRow);
    let error = Db::with_options("tables=t&key=x", sql).scan().unwrap_err().to_string();
    assert!(error.contains("`t` has no column `x`") && error.contains("`a`, `b`, `c`"), "{error}");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for options in [
        "table=a",
        "tables=",
        "tables=a,,b",
        "key=a",
        "tables=a,b&key=x",
        "tables=a&key.b=x",
        "busy_timeout=soon",
        "busy_timeout=99999999999",
        "tables=_deltabus",
        "tables=sqlite_schema",
        "tables=a&key=x&key.a=y",
    ] {
        let location = Location::parse(&format!("sqlite:app.db?{options}")).unwrap();
        assert!(matches!(open(&location), Err(Error::Location { .. })), "{options}");
    }
}

#[test]
fn names_may_be_anything() {
    let db = Db::new(
        r#"CREATE TABLE "select" ("from" INTEGER PRIMARY KEY, "a ""b"" c", "Größe", [x.y], 'it''s');
           INSERT INTO "select" VALUES (1, 2, 3, 4, 5)"#,
    );
    let schema = db.collection("select").schema;
    let names: Vec<_> = schema.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["from", "a \"b\" c", "Größe", "x.y", "it's"]);
    assert_eq!(db.rows("select"), [[int(1), int(2), int(3), int(4), int(5)]]);
}

#[test]
fn fields_carry_what_their_columns_declare() {
    let db = Db::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n VARCHAR(20), r DOUBLE, d DATE, x,
                         g AS (id + 1), s AS (id + 2) STORED, b BLOB);
         CREATE TABLE u (id INTEGER PRIMARY KEY, t TEXT, a ANY) STRICT;
         CREATE TABLE w (id INTEGER PRIMARY KEY, x) WITHOUT ROWID;
         CREATE TABLE d (id INTEGER PRIMARY KEY DESC)",
    );
    let fields = |table| {
        let fields = db.collection(table).schema.fields;
        fields.into_iter().map(|field| (field.name, field.declared.unwrap_or_default(), field.kind)).collect::<Vec<_>>()
    };
    let field = |name: &str, declared: &str, kind| (name.to_owned(), declared.to_owned(), kind);
    assert_eq!(
        fields("t"),
        [
            field("id", "INTEGER PRIMARY KEY", Some(Kind::Integer)),
            field("n", "VARCHAR(20)", Some(Kind::Text)),
            field("r", "DOUBLE", Some(Kind::Float)),
            field("d", "DATE", None),
            field("x", "", None),
            field("b", "BLOB", Some(Kind::Bytes)),
        ]
    );
    assert_eq!(
        fields("u"),
        [
            field("id", "INTEGER PRIMARY KEY", Some(Kind::Integer)),
            field("t", "TEXT STRICT", Some(Kind::Text)),
            field("a", "ANY STRICT", None),
        ]
    );
    assert_eq!(fields("w")[0], field("id", "INTEGER", Some(Kind::Integer)));
    assert_eq!(fields("d")[0], field("id", "INTEGER", Some(Kind::Integer)));
}

#[test]
fn every_storage_class_is_read_as_it_is() {
    let db = Db::new(
        "CREATE TABLE t (x);
         INSERT INTO t VALUES (NULL), (-9223372036854775808), (0.5), (''), ('a' || char(0) || 'b'), (x''), (x'00ff'), (9e999)",
    );
    let expected = [
        Value::Null,
        int(i64::MIN),
        Value::Float(0.5),
        text(""),
        text("a\0b"),
        Value::Bytes(vec![]),
        Value::Bytes(vec![0, 255]),
        Value::Float(f64::INFINITY),
    ];
    assert_eq!(db.rows("t"), expected.map(|value| vec![value]));
}

#[test]
fn rows_come_in_an_order_that_stays() {
    let db = Db::new(
        "CREATE TABLE r (k TEXT PRIMARY KEY); INSERT INTO r VALUES ('b'), ('c'), ('a');
         CREATE TABLE w (k TEXT PRIMARY KEY, x) WITHOUT ROWID; INSERT INTO w VALUES ('b', 1), ('c', 2), ('a', 3);
         CREATE TABLE o (rowid TEXT, oid TEXT); INSERT INTO o VALUES ('z', 'z'), ('a', 'a')",
    );
    assert_eq!(db.rows("r"), [[text("b")], [text("c")], [text("a")]]);
    assert_eq!(db.rows("w"), [[text("a"), int(3)], [text("b"), int(1)], [text("c"), int(2)]]);
    assert_eq!(db.rows("o"), [[text("z"), text("z")], [text("a"), text("a")]]);
}

#[test]
fn text_that_is_not_utf_8_is_an_error_that_says_where() {
    let db = Db::new(
        "CREATE TABLE t (x, y); INSERT INTO t VALUES (1, 'fine'); INSERT INTO t VALUES (2, CAST(x'ff' AS TEXT))",
    );
    let error = db.scan().unwrap_err().to_string();
    assert!(error.contains("table `t`, record 2: rowid 2, column `y`"), "{error}");
}

#[test]
fn a_scan_sees_one_state_while_others_write() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)";
    let db = Db::new(&format!(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE a (i INTEGER PRIMARY KEY, x TEXT); {rows} INSERT INTO a SELECT i, 'some text to fill blocks' FROM n;
         CREATE TABLE b (i INTEGER PRIMARY KEY); INSERT INTO b VALUES (1)"
    ));
    let other = db.connect();
    let mut scan = db.interface.scan(None).unwrap();
    scan.start(0, Extent::Whole).unwrap();
    scan.next().unwrap();
    other.execute_batch("DELETE FROM a WHERE i > 10; INSERT INTO b VALUES (2), (3); CREATE TABLE c (x)").unwrap();
    let mut count = 1;
    while scan.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 30_000);
    scan.start(1, Extent::Whole).unwrap();
    assert!(scan.next().unwrap().is_some());
    assert!(scan.next().unwrap().is_none());
    assert!(scan.next().unwrap().is_none());
    scan.finish().unwrap();
    assert_ne!(*scan.stamp(), db.stamp());
    let after = db.tables();
    assert_eq!((after["a"].len(), after["b"].len(), after["c"].len()), (10, 3, 0));
}

#[test]
fn a_scan_given_up_holds_no_lock() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)";
    let db =
        Db::new(&format!("CREATE TABLE t (i, x); {rows} INSERT INTO t SELECT i, 'some text to fill blocks' FROM n"));
    let mut scan = db.interface.scan(None).unwrap();
    scan.start(0, Extent::Whole).unwrap();
    scan.next().unwrap();
    let other = db.connect();
    assert!(other.execute_batch("DELETE FROM t").is_err(), "the scan's read transaction is open");
    drop(scan);
    other.execute_batch("DELETE FROM t").unwrap();
    // Skipping the rest of a table is no trouble either.
    let db = Db::new(SEVERAL);
    let mut scan = db.interface.scan(None).unwrap();
    scan.start(0, Extent::Whole).unwrap();
    scan.start(1, Extent::Whole).unwrap();
    assert!(scan.next().unwrap().is_some());
    assert_eq!(scan.position().to_string(), format!("{}, table `b`, record 1", db.path.display()));
}

#[test]
fn reading_leaves_the_file_as_it_is() {
    let db = Db::new("CREATE TABLE t (x); INSERT INTO t VALUES (1)");
    let before = std::fs::read(&db.path).unwrap();
    db.tables();
    db.interface.mark("source/receiver").unwrap();
    assert_eq!(std::fs::read(&db.path).unwrap(), before);
    assert_eq!(std::fs::read_dir(db.folder.path()).unwrap().count(), 1);
}
