//! Writing single records, tables and marks.

use deltabus_interfaces::{Action, CollectionWrite, Error, NoContents};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};

use super::{Db, int, mark, put, removal, text};

/// The problem that a write must have.
fn problem<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(error @ Error::Write { .. }) => error.to_string(),
        other => panic!("not refused as a record: {other:?}"),
    }
}

#[test]
fn only_changed_fields_are_written_and_what_else_is_there_stays() {
    let db = Db::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, extra DEFAULT 'none');
         INSERT INTO t VALUES (1, 'a1', 'b1', 'kept'), (2, 'a2', 'b2', 'kept too');
         CREATE TABLE log (what);
         CREATE TRIGGER noted AFTER UPDATE ON t BEGIN INSERT INTO log VALUES ('updated ' || new.id); END",
    );
    let mut collection = db.collection("t");
    collection.schema.fields.truncate(3);
    let writes = [
        put(&collection, &[int(1), text("new"), text("not written")], &[1]),
        put(&collection, &[int(2), text("a2"), text("b2")], &[]),
        put(&collection, &[int(3), text("a3")], &[]),
    ];
    db.commit(&collection, &[], Action::Write(&writes)).unwrap();
    let expected = [
        [int(1), text("new"), text("b1"), text("kept")],
        [int(2), text("a2"), text("b2"), text("kept too")],
        [int(3), text("a3"), Value::Null, text("none")],
    ];
    assert_eq!(db.rows("t"), expected);
    assert_eq!(db.query("SELECT what FROM log"), ["updated 1"]);
}

#[test]
fn keys_of_several_columns_of_any_name_and_sort_are_found() {
    for ending in ["", "WITHOUT ROWID", "STRICT"] {
        let db = Db::new(&format!(
            r#"CREATE TABLE "order" ("group" TEXT, "it""s" INT, "Value" TEXT, PRIMARY KEY ("it""s", "group")) {ending}"#
        ));
        let collection = db.collection("order");
        let row = |group: &str, its, value: &str| [text(group), int(its), text(value)];
        let all = [row("a", 1, "1"), row("a", 2, "2"), row("b", 1, "3")];
        db.write("order", &all.each_ref().map(|row| put(&collection, row, &[2]))).unwrap();
        let writes = [
            put(&collection, &row("a", 2, "changed"), &[2]),
            removal(&collection, &all[0]),
            removal(&collection, &row("none", 1, "such")),
        ];
        db.write("order", &writes).unwrap();
        let mut rows = db.rows("order");
        rows.sort_by_cached_key(|row| format!("{row:?}"));
        assert_eq!(rows, [row("a", 2, "changed"), row("b", 1, "3")], "{ending}");
    }
}

#[test]
fn a_key_is_compared_byte_by_byte_even_where_its_column_is_not() {
    let db = Db::new("CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE, x); INSERT INTO t VALUES ('abc', 1)");
    let collection = db.collection("t");
    let refused = db.write("t", &[put(&collection, &[text("ABC"), int(2)], &[1])]);
    assert!(problem(refused).contains("UNIQUE"));
    let writes = [put(&collection, &[text("ABC"), int(2)], &[1]), removal(&collection, &[text("abc"), int(1)])];
    db.write("t", &writes).unwrap();
    assert_eq!(db.rows("t"), [[text("ABC"), int(2)]]);
}

#[test]
fn unique_values_can_change_places() {
    for column in [
        "u INT UNIQUE",
        "u INT NOT NULL UNIQUE",
        "u INT NOT NULL UNIQUE CHECK (typeof(u) = 'integer')",
        "u INT UNIQUE ON CONFLICT REPLACE",
        "u INT NOT NULL UNIQUE ON CONFLICT IGNORE",
    ] {
        let db = Db::new(&format!(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, {column}, extra);
             INSERT INTO t VALUES (1, 10, 'x'), (2, 20, 'y'), (3, 30, 'z');
             CREATE TABLE child (t INT REFERENCES t ON DELETE CASCADE); INSERT INTO child VALUES (1), (2), (3)"
        ));
        let collection = db.collection("t");
        let row = |id, u| [int(id), int(u)];
        let writes = [
            put(&collection, &row(1, 20), &[1]),
            put(&collection, &row(2, 30), &[1]),
            put(&collection, &row(3, 40), &[1]),
            put(&collection, &row(4, 10), &[1]),
        ];
        db.write("t", &writes).unwrap();
        let expected = [
            [int(1), int(20), text("x")],
            [int(2), int(30), text("y")],
            [int(3), int(40), text("z")],
            [int(4), int(10), Value::Null],
        ];
        assert_eq!(db.rows("t"), expected, "{column}");
        let swap = [put(&collection, &row(1, 30), &[1]), put(&collection, &row(2, 20), &[1])];
        db.write("t", &swap).unwrap();
        assert_eq!(db.query("SELECT group_concat(u) FROM (SELECT u FROM t ORDER BY id)"), ["30,20,40,10"], "{column}");
        assert_eq!(db.rows("child").len(), 3, "{column}: nothing was deleted on the way");
        // A value that somebody keeps is a conflict, not to be taken from them.
        let taken = [put(&collection, &row(1, 40), &[1])];
        assert!(problem(db.write("t", &taken)).contains("key 1"), "{column}");
        assert_eq!(db.query("SELECT group_concat(u) FROM (SELECT u FROM t ORDER BY id)"), ["30,20,40,10"], "{column}");
    }
}

#[test]
fn unique_indexes_over_several_columns_or_expressions_can_change_places_too() {
    let db = Db::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT NOT NULL, b TEXT);
         CREATE UNIQUE INDEX i ON t (a, b); CREATE UNIQUE INDEX e ON t (lower(b));
         INSERT INTO t VALUES (1, 'x', 'one'), (2, 'x', 'two')",
    );
    let collection = db.collection("t");
    let writes = [
        put(&collection, &[int(1), text("x"), text("TWO")], &[2]),
        put(&collection, &[int(2), text("x"), text("ONE")], &[2]),
    ];
    db.write("t", &writes).unwrap();
    assert_eq!(db.query("SELECT group_concat(b) FROM (SELECT b FROM t ORDER BY id)"), ["TWO,ONE"]);
}

#[test]
fn a_record_that_the_table_refuses_is_named_and_nothing_is_kept() {
    let db = Db::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x CHECK (x < 10), must TEXT NOT NULL);
         INSERT INTO t VALUES (1, 1, 'here');
         CREATE TABLE silent (id INTEGER PRIMARY KEY, x);
         CREATE TRIGGER no BEFORE INSERT ON silent BEGIN SELECT raise(IGNORE); END",
    );
    let mut collection = db.collection("t");
    let kept = || assert_eq!(db.rows("t"), [[int(1), int(1), text("here")]]);
    let write = |collection: &Collection, writes: &[_]| db.commit(collection, &[], Action::Write(writes));
    let first = put(&collection, &[int(1), int(2), text("here")], &[1]);
    let too_large = problem(write(&collection, &[first.clone(), put(&collection, &[int(1), int(11)], &[1])]));
    assert!(too_large.contains("table `t`") && too_large.contains("CHECK constraint failed"), "{too_large}");
    kept();
    collection.schema.fields.truncate(2);
    let lacking = problem(write(&collection, &[first, put(&collection, &[int(7), int(2)], &[1])]));
    assert!(lacking.contains("key 7") && lacking.contains("NOT NULL constraint failed: t.must"), "{lacking}");
    kept();
    let silent = db.collection("silent");
    assert!(problem(write(&silent, &[put(&silent, &[int(1), int(2)], &[1])])).contains("trigger"));
}

#[test]
fn foreign_keys_are_checked_at_the_end() {
    let db = Db::new(
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INT REFERENCES parent);
         CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    );
    let (child, parent) = (db.collection("child"), db.collection("parent"));
    let stage = |parents: &[_]| {
        let children = [put(&child, &[int(1), int(5)], &[1])];
        let mut writes = [
            CollectionWrite { collection: &child, dropped: &[], action: Action::Write(&children) },
            CollectionWrite { collection: &parent, dropped: &[], action: Action::Write(parents) },
        ];
        db.interface.stage(&mut writes, &db.stamp(), Some(&mark("1")), &NoContents).unwrap().commit()
    };
    let refused = problem(stage(&[]));
    assert!(refused.contains("table `child`") && refused.contains("`parent`"), "{refused}");
    assert_eq!(db.rows("child").len(), 0);
    assert_eq!(db.interface.mark("source/receiver").unwrap(), None);
    stage(&[put(&parent, &[int(5)], &[])]).unwrap();
    assert_eq!((db.rows("child").len(), db.rows("parent").len()), (1, 1));
}

#[test]
fn whole_rows_go_one_by_one_and_only_exact_ones() {
    let db =
        Db::new("CREATE TABLE t (a, b, extra); INSERT INTO t (a, b) VALUES (1, 'x'), (1.0, 'x'), ('1', 'x'), (1, 'x')");
    let mut collection = db.collection("t");
    collection.schema.fields.truncate(2);
    let writes = [
        removal(&collection, &[int(1), text("x")]),
        removal(&collection, &[text("1"), text("x")]),
        removal(&collection, &[int(9), text("x")]),
        put(&collection, &[Value::Null], &[]),
    ];
    db.commit(&collection, &[], Action::Write(&writes)).unwrap();
    assert_eq!(db.query("SELECT typeof(a) FROM t"), ["real", "integer", "null"]);
}

#[test]
fn a_missing_table_is_made_with_its_key_and_missing_columns_are_added() {
    let db = Db::new("CREATE TABLE other (x); CREATE TABLE old (id INTEGER PRIMARY KEY) STRICT");
    let field = |name: &str, kind, at| db.interface.field_for(&Field::new(name, Some(kind), at));
    let fields = vec![field("k", Kind::Text, 0), field("n", Kind::Integer, 1), field("flag", Kind::Bool, 2)];
    let schema = Schema { fields, key: KeySpec::WholeRow }.with_key(&["k", "n"]).unwrap();
    let new = Collection { name: CollectionName::new("new \"table\""), schema: schema.clone() };
    db.commit(&new, &[], Action::Write(&[put(&new, &[text("a"), int(1), int(0)], &[])])).unwrap();
    assert_eq!(db.collection("new \"table\"").schema, schema);
    assert_eq!(
        db.query("SELECT name || ' ' || type || ' ' || \"notnull\" FROM pragma_table_info('new \"table\"')"),
        ["k TEXT 1", "n INTEGER 1", "flag BOOLEAN 0"]
    );
    let mut old = db.collection("old");
    old.schema.fields.push(field("flag", Kind::Bool, 1));
    old.schema.fields.push(db.interface.field_for(&Field::new("any", None, 2)));
    db.commit(&old, &[], Action::Write(&[put(&old, &[int(1), int(1), text("x")], &[])])).unwrap();
    assert_eq!(db.rows("old"), [[int(1), int(1), text("x")]]);
    assert_eq!(db.query("SELECT name FROM pragma_table_list WHERE name LIKE 'other'"), ["other"]);
}

#[test]
fn dropped_fields_go_or_are_emptied() {
    let db = Db::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, plain, used, must NOT NULL UNIQUE); CREATE INDEX i ON t (used);
         INSERT INTO t VALUES (1, 2, 3, 4)",
    );
    let mut collection = db.collection("t");
    collection.schema.fields.truncate(1);
    let drop = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        db.commit(&collection, &names, Action::Write(&[]))
    };
    drop(&["PLAIN", "used", "unknown"]).unwrap();
    assert_eq!(db.rows("t"), [[int(1), Value::Null, int(4)]]);
    assert!(matches!(drop(&["must"]), Err(Error::Unsupported { .. })));
    assert_eq!(db.rows("t"), [[int(1), Value::Null, int(4)]]);
}

#[test]
fn what_can_not_be_written_says_so() {
    let db = Db::with_options(
        "tables=v,f,g,t",
        "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE VIEW v AS SELECT id FROM t;
         CREATE VIRTUAL TABLE f USING fts5(body); CREATE TABLE g (id INTEGER PRIMARY KEY, twice AS (id * 2))",
    );
    let unsupported = |collection: &Collection| match db.commit(collection, &[], Action::Write(&[])) {
        Err(error @ Error::Unsupported { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(unsupported(&db.collection("v")).contains("a view"));
    assert!(unsupported(&db.collection("f")).contains("a virtual table"));
    let with = |table: &str, name: &str| {
        let mut collection = db.collection(table);
        collection.schema.fields.push(Field::new(name, None, 9));
        collection
    };
    assert!(unsupported(&with("g", "Twice")).contains("generated"));
    assert!(unsupported(&with("t", "ID")).contains("one column"));
    assert!(unsupported(&with("t", "a\0b")).contains("a\\0b"));
    let mut own = db.collection("t");
    own.name = CollectionName::new("_DELTABUS");
    assert!(unsupported(&own).contains("name"));
    let unprojected =
        db.commit(&with("t", "x"), &[], Action::Write(&[put(&db.collection("t"), &[int(1), Value::Bool(true)], &[1])]));
    assert!(matches!(unprojected, Err(Error::Refused { .. })), "{unprojected:?}");
}

#[test]
fn one_named_table_stands_for_the_single_collection() {
    let db = Db::missing("tables=contacts");
    let schema = Schema {
        fields: vec![db.interface.field_for(&Field::new("id", Some(Kind::Integer), 0))],
        key: KeySpec::WholeRow,
    };
    let people = Collection { name: CollectionName::new("people"), schema: schema.with_key(&["id"]).unwrap() };
    db.commit(&people, &[], Action::Write(&[put(&people, &[int(1)], &[])])).unwrap();
    db.commit(&people, &[], Action::Write(&[put(&people, &[int(2)], &[])])).unwrap();
    assert_eq!(db.rows("contacts"), [[int(1)], [int(2)]]);
    assert_eq!(db.query("SELECT name FROM sqlite_schema"), ["contacts"]);
    db.commit(&people, &[], Action::Remove).unwrap();
    assert!(db.tables().is_empty());
}

#[test]
fn data_and_mark_are_committed_together_or_not_at_all() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let collection = db.collection("t");
    let puts = [put(&collection, &[int(1)], &[])];
    let stage = |value: &str| {
        let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&puts) }];
        db.interface.stage(&mut writes, &db.stamp(), Some(&mark(value)), &NoContents).unwrap()
    };
    let before = db.stamp();
    let staged = stage("first");
    assert!(db.query("SELECT id FROM t").is_empty(), "not visible before the commit");
    drop(staged);
    assert_eq!(db.stamp(), before);
    assert_eq!(db.interface.mark("source/receiver").unwrap(), None);
    stage("second").commit().unwrap();
    stage("third").commit().unwrap();
    assert_eq!(db.interface.mark("source/receiver").unwrap(), Some(b"third".to_vec()));
    assert_eq!(db.interface.mark("source/another").unwrap(), None);
    assert_eq!(db.rows("t").len(), 1);
}

#[test]
fn a_lock_that_somebody_holds_is_an_error_to_try_again() {
    for mode in ["DELETE", "WAL"] {
        let db = Db::with_options(
            "busy_timeout=1",
            &format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)"),
        );
        let collection = db.collection("t");
        let puts = [put(&collection, &[int(1)], &[])];
        let other = db.connect();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = db.commit(&collection, &[], Action::Write(&puts)).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }) && error.is_transient(), "{mode}: {error:?}");
        other.execute_batch("ROLLBACK").unwrap();
        db.commit(&collection, &[], Action::Write(&puts)).unwrap();
        // While we hold the lock the others wait.
        let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&puts) }];
        let staged = db.interface.stage(&mut writes, &db.stamp(), None, &NoContents).unwrap();
        assert!(other.execute_batch("DELETE FROM t").is_err(), "{mode}");
        db.stamp();
        assert!(other.execute_batch("DELETE FROM t").is_err(), "{mode}: looking at the stamp dropped the lock");
        staged.commit().unwrap();
        other.execute_batch("DELETE FROM t").unwrap();
    }
}

#[test]
fn a_reader_in_the_way_of_a_commit_is_an_error_and_nothing_is_kept() {
    let db = Db::with_options("busy_timeout=1", "CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let collection = db.collection("t");
    let other = db.connect();
    other.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let mut statement = other.prepare("SELECT count(*) FROM t").unwrap();
    let mut reading = statement.query([]).unwrap();
    reading.next().unwrap();
    let error = db.write("t", &[put(&collection, &[int(1)], &[])]).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    drop(reading);
    drop(statement);
    other.execute_batch("COMMIT").unwrap();
    assert!(db.rows("t").is_empty());
}
