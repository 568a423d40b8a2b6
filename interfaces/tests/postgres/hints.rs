//! What need not be read again.

use std::collections::BTreeMap;

use deltabus_interfaces::{Extent, Stamp};
use deltabus_record::row::RowBuilder;
use deltabus_record::value::Value;

use super::{Db, insert, int, text};

/// What a scan since `stamp` offers for the first table and gives.
fn since(db: &Db, stamp: &Stamp) -> (Extent, Vec<Vec<Value>>, Stamp) {
    let mut scan = db.interface.scan(Some(stamp)).unwrap();
    let extent = scan.extent(0);
    scan.start(0, extent).unwrap();
    let mut rows = Vec::new();
    let mut row = RowBuilder::default();
    while scan.next().unwrap().is_some() {
        row.clear();
        let _ = scan.decode(&mut row).unwrap();
        rows.push(row.row().values());
    }
    scan.finish().unwrap();
    (extent, rows, scan.stamp().clone())
}

fn ten() -> Db {
    Db::alone(
        "CREATE TABLE t (id int PRIMARY KEY, c text); INSERT INTO t SELECT g, 'c' || g FROM generate_series(1, 10) g",
    )
}

#[test]
fn only_rows_written_since_are_read() {
    let db = ten();
    let (extent, rows, first) = since(&db, &Stamp(b"not ours".to_vec()));
    assert_eq!((extent, rows.len()), (Extent::Whole, 10));
    let (extent, rows, _) = since(&db, &first);
    assert_eq!((extent, rows.len()), (Extent::Since { kept: 10 }, 0));
    db.run("UPDATE t SET c = 'new' WHERE id = 3; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (11, 'eleven')");
    let (extent, rows, second) = since(&db, &first);
    assert_eq!(extent, Extent::Since { kept: 8 });
    assert_eq!(rows, [[int(3), text("new")], [int(11), text("eleven")]]);
    let (extent, rows, _) = since(&db, &second);
    assert_eq!((extent, rows.len()), (Extent::Since { kept: 10 }, 0));
    db.run("VACUUM FREEZE t");
    assert_eq!(since(&db, &second).0, Extent::Since { kept: 10 });
}

#[test]
fn rows_of_transactions_that_were_running_are_read() {
    let db = ten();
    db.run(
        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (20, 'sub'); RELEASE a; UPDATE t SET c = 'late' WHERE id = 1;
            PREPARE TRANSACTION 'late'",
    );
    let first = db.scan().unwrap().1;
    db.run("INSERT INTO t VALUES (30, 'other')");
    assert_eq!(since(&db, &first).1, [[int(30), text("other")]]);
    let second = db.scan().unwrap().1;
    db.run("COMMIT PREPARED 'late'");
    // The row of a finished transaction that is younger may be given too; those of the late one must.
    for stamp in [&first, &second] {
        let rows: BTreeMap<_, _> = since(&db, stamp).1.into_iter().map(|row| (format!("{:?}", row[0]), row)).collect();
        assert!(
            rows.contains_key(&format!("{:?}", int(1))) && rows.contains_key(&format!("{:?}", int(20))),
            "{rows:?}"
        );
    }
}

#[test]
fn a_long_transaction_elsewhere_does_not_make_everything_new() {
    let db = ten();
    let name = format!("long_{}", db.name);
    db.run(&format!("CREATE TABLE other (id int); BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION '{name}'"));
    let only = db.reopened("tables=t");
    only.run("UPDATE t SET c = 'x'");
    let first = only.scan().unwrap().1;
    only.run("UPDATE t SET c = 'y' WHERE id = 2");
    assert_eq!(since(&only, &first).0, Extent::Since { kept: 9 });
    db.run(&format!("ROLLBACK PREPARED '{name}'"));
}

#[test]
fn what_the_catalog_changes_is_read_whole() {
    for change in [
        "ALTER TABLE t ADD COLUMN d int DEFAULT 5",
        "ALTER TABLE t ALTER COLUMN c TYPE varchar(20)",
        "TRUNCATE t",
        "BEGIN; CREATE TABLE u AS SELECT * FROM t; TRUNCATE t; INSERT INTO t SELECT * FROM u; COMMIT; DROP TABLE u",
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, c text); INSERT INTO t VALUES (1, 'c1')",
        "CLUSTER t USING t_pkey",
        "VACUUM FULL t",
        "ALTER TABLE t RENAME COLUMN c TO d",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    ] {
        let db = ten();
        let first = db.scan().unwrap().1;
        db.run(change);
        let (extent, rows, _) = since(&db, &first);
        assert_eq!(extent, Extent::Whole, "{change}");
        assert_eq!(rows, db.rows("t"), "{change}");
    }
}

#[test]
fn labels_partitions_and_hidden_rows_are_minded() {
    let db = Db::alone(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE t (id int PRIMARY KEY, m mood); INSERT INTO t VALUES (1, 'sad')",
    );
    let first = db.scan().unwrap().1;
    assert_eq!(since(&db, &first).0, Extent::Since { kept: 1 });
    db.run("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'");
    let (extent, rows, _) = since(&db, &first);
    assert_eq!((extent, rows), (Extent::Whole, vec![vec![int(1), text("blue")]]));

    let db = Db::alone(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE TABLE p2 (id int NOT NULL); INSERT INTO p2 VALUES (15); INSERT INTO t VALUES (5)",
    );
    let only = db.reopened("tables=t");
    let first = only.scan().unwrap().1;
    assert_eq!(since(&only, &first).0, Extent::Since { kept: 1 });
    db.run("ALTER TABLE t ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)");
    assert_eq!(since(&only, &first).0, Extent::Whole);
    db.run("TRUNCATE p1");
    assert_eq!(since(&only, &first).1, [[int(15)]]);

    let db = ten();
    let role = format!("some_{}", db.name);
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON t TO {role} USING (id < 3)"
    ));
    let some = db.reopened_as(&role, "");
    let first = some.scan().unwrap().1;
    assert_eq!(since(&some, &first), (Extent::Whole, some.rows("t"), first.clone()));
    assert_eq!(some.rows("t").len(), 2);
    // Another role sees others.
    assert_eq!(since(&db, &first).0, Extent::Whole);
}

#[test]
fn our_own_commit_is_a_state_to_go_on_from() {
    let db = ten();
    let first = db.scan().unwrap().1;
    let collection = db.collection("t");
    // Another commit in between, so that ours can't be told from it.
    db.run("INSERT INTO t VALUES (12, 'other')");
    let ours = db
        .commit_at(
            &first,
            vec![(&collection, deltabus_interfaces::Action::Write(&[insert(&collection, &[int(13), text("ours")])]))],
        )
        .unwrap();
    assert_ne!(ours, db.stamp());
    let (extent, rows, _) = since(&db, &ours);
    assert_eq!(extent, Extent::Since { kept: 10 });
    assert_eq!(rows, [[int(12), text("other")], [int(13), text("ours")]]);
    // What we wrote we may write again; what others wrote we may not.
    let write = |id: i64, c: &str| super::put(&collection, &[int(id), text(c)], &[1]);
    db.commit_at(&ours, vec![(&collection, deltabus_interfaces::Action::Write(&[write(13, "again")]))]).unwrap();
    let result = db.commit_at(&ours, vec![(&collection, deltabus_interfaces::Action::Write(&[write(12, "again")]))]);
    assert!(matches!(result, Err(deltabus_interfaces::Error::Changed { .. })), "{result:?}");
}
