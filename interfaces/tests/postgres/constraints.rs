//! What holds rows together: keys, foreign keys, unique values.

use deltabus_interfaces::{Action, Error};
use deltabus_record::value::Value;

use super::{Db, Rows, insert, int, put, removal, text};

#[test]
fn unique_values_change_places() {
    for (column, constraint) in [
        ("int NOT NULL", "UNIQUE (u)"),
        ("int", "UNIQUE (u)"),
        ("varchar(3) NOT NULL", "UNIQUE (u)"),
        ("uuid NOT NULL", "UNIQUE (u)"),
        ("date NOT NULL", "UNIQUE (u)"),
        ("bytea NOT NULL", "UNIQUE (u)"),
        ("int NOT NULL", "UNIQUE (u) DEFERRABLE"),
        ("int NOT NULL", "EXCLUDE USING btree (u WITH =)"),
        ("text NOT NULL", "UNIQUE (u, w)"),
    ] {
        let [a, b, c] = match column.split(' ').next().unwrap() {
            "int" => ["1", "2", "3"],
            "uuid" => [
                "00000000-0000-0000-0000-000000000001",
                "00000000-0000-0000-0000-000000000002",
                "00000000-0000-0000-0000-000000000003",
            ],
            "date" => ["2020-01-01", "2020-01-02", "2020-01-03"],
            "bytea" => ["\\x01", "\\x02", "\\x03"],
            _ => ["aaa", "bbb", "ccc"],
        };
        let db = Db::alone(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, u {column}, w int DEFAULT 7, {constraint});
             CREATE TABLE child (id int PRIMARY KEY, t int NOT NULL REFERENCES t ON DELETE CASCADE);
             INSERT INTO t (id, u) VALUES (1, '{a}'), (2, '{b}'), (3, '{c}'); INSERT INTO child VALUES (1, 1), (2, 2)"
        ));
        let rows = db.rows("t");
        let collection = db.collection("t");
        let with = |row: &[Value], u: &[Value]| vec![row[0].clone(), u[1].clone(), row[2].clone()];
        // Round: 1 gets that of 2, 2 that of 3; 3 goes, 4 gets that of 1.
        let writes = [
            put(&collection, &with(&rows[0], &rows[1]), &[1]),
            put(&collection, &with(&rows[1], &rows[2]), &[1]),
            removal(&collection, &rows[2]),
            insert(&collection, &[int(4), rows[0][1].clone(), int(7)]),
        ];
        db.write("t", &writes).unwrap_or_else(|error| panic!("{column} {constraint}: {error:?}"));
        let found: Vec<_> = db.rows("t").into_iter().map(|row| row[1].clone()).collect();
        assert_eq!(found, [rows[1][1].clone(), rows[2][1].clone(), rows[0][1].clone()], "{column} {constraint}");
        let writes =
            [put(&collection, &with(&rows[0], &rows[2]), &[1]), put(&collection, &with(&rows[1], &rows[1]), &[1])];
        db.write("t", &writes).unwrap_or_else(|error| panic!("{column} {constraint}: {error:?}"));
        assert_eq!(db.run("SELECT count(*) FROM child"), "2", "{column} {constraint}");
    }
}

#[test]
fn parents_come_before_children_and_go_after_them() {
    let db = Db::alone(
        "CREATE TABLE a_child (id int PRIMARY KEY, parent int NOT NULL);
         CREATE TABLE b_parent (id int PRIMARY KEY, c text);
         ALTER TABLE a_child ADD FOREIGN KEY (parent) REFERENCES b_parent ON DELETE RESTRICT;",
    );
    let (child, parent) = (db.collection("a_child"), db.collection("b_parent"));
    let children = [vec![int(1), int(10)], vec![int(2), int(20)]];
    let parents = [vec![int(10), text("x")], vec![int(20), text("y")]];
    db.commit(vec![
        (&child, Action::Load(&mut Rows::new(&child.schema, &children))),
        (&parent, Action::Load(&mut Rows::new(&parent.schema, &parents))),
    ])
    .unwrap();
    // A child moves to a new parent, its old one goes.
    db.commit(vec![
        (&child, Action::Write(&[put(&child, &[int(1), int(30)], &[1])])),
        (&parent, Action::Write(&[removal(&parent, &parents[0]), insert(&parent, &[int(30), text("z")])])),
    ])
    .unwrap();
    // Both go.
    db.commit(vec![
        (&child, Action::Write(&[removal(&child, &children[1])])),
        (&parent, Action::Write(&[removal(&parent, &parents[1])])),
    ])
    .unwrap();
    assert_eq!(db.rows("a_child"), [[int(1), int(30)]]);
    assert_eq!(db.rows("b_parent"), [[int(30), text("z")]]);
    let result = db.write("a_child", &[insert(&child, &[int(9), int(99)])]);
    db.commit(vec![(&parent, Action::Remove), (&child, Action::Remove)]).unwrap();
    assert!(db.stamp().is_missing());
    let Err(Error::Write { place, key, problem }) = result else { panic!("{result:?}") };
    assert!(place.contains("a_child") && key == "9" && problem.contains("foreign key"), "{place} {key} {problem}");
}

#[test]
fn circles_of_foreign_keys_are_written() {
    for deferrable in ["DEFERRABLE", ""] {
        let db = Db::alone(&format!(
            "CREATE TABLE store (id int PRIMARY KEY, manager int NOT NULL);
             CREATE TABLE staff (id int PRIMARY KEY, store int NOT NULL REFERENCES store {deferrable}, boss int REFERENCES staff {deferrable});
             ALTER TABLE store ADD FOREIGN KEY (manager) REFERENCES staff {deferrable};"
        ));
        let (store, staff) = (db.collection("store"), db.collection("staff"));
        let stores = [vec![int(1), int(10)]];
        let people = [vec![int(10), int(1), int(11)], vec![int(11), int(1), int(10)]];
        db.commit(vec![
            (&store, Action::Load(&mut Rows::new(&store.schema, &stores))),
            (&staff, Action::Load(&mut Rows::new(&staff.schema, &people))),
        ])
        .unwrap();
        db.commit(vec![
            (&store, Action::Write(&[insert(&store, &[int(2), int(20)])])),
            (&staff, Action::Write(&[insert(&staff, &[int(20), int(2), int(20)])])),
        ])
        .unwrap();
        assert_eq!(db.rows("store").len(), 2);
        db.commit(vec![
            (&store, Action::Write(&[removal(&store, &[int(2), int(20)])])),
            (&staff, Action::Write(&[removal(&staff, &[int(20), int(2), int(20)])])),
        ])
        .unwrap();
        assert_eq!(db.rows("staff").len(), 2);
        let conditions = db.run("SELECT bool_or(condeferrable) FROM pg_constraint WHERE contype = 'f'");
        assert_eq!(conditions, if deferrable.is_empty() { "f" } else { "t" });
        let dangling = db.write("staff", &[insert(&staff, &[int(30), int(3), Value::Null])]);
        assert!(dangling.is_err(), "{dangling:?}");
    }
}

#[test]
fn a_record_that_breaks_a_rule_is_named() {
    let db = Db::alone("CREATE TABLE t (id int PRIMARY KEY, c int CHECK (c > 0), d text NOT NULL)");
    let collection = db.collection("t");
    for (values, what) in [([int(1), int(-1), text("x")], "check"), ([int(2), int(1), Value::Null], "null")] {
        let result = db.write("t", &[insert(&collection, &values)]);
        let Err(Error::Write { place, key, problem }) = result else { panic!("{result:?}") };
        assert!(place.contains("`t`") && !key.is_empty() && problem.contains(what), "{place} {key} {problem}");
    }
    assert!(db.rows("t").is_empty());
}
