//! Several writers of one database, and connections that break.

use std::sync::mpsc;
use std::time::Duration;

use deltabus_interfaces::{Action, CollectionWrite, Error, Mark, NoContents, Signal};

use deltabus_test_servers::postgres::shared;

use super::{Db, insert, int, put, removal, text};

const THREE: &str = "CREATE TABLE t (id int PRIMARY KEY, c text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')";

fn three() -> Db {
    Db::new(THREE)
}

/// The same where no other test's transaction ends at the wrong moment.
fn three_alone() -> Db {
    Db::alone(THREE)
}

#[test]
fn only_records_that_others_wrote_are_in_the_way() {
    let db = three_alone();
    let collection = db.collection("t");
    let stamp = db.stamp();
    db.run("UPDATE t SET c = 'theirs' WHERE id = 1");
    for write in [put(&collection, &[int(1), text("ours")], &[1]), removal(&collection, &[int(1), text("a")])] {
        let result = db.commit_at(&stamp, vec![(&collection, Action::Write(&[write]))]);
        assert!(matches!(result, Err(Error::Changed { .. })), "{result:?}");
    }
    db.commit_at(&stamp, vec![(&collection, Action::Write(&[put(&collection, &[int(2), text("ours")], &[1])]))])
        .unwrap();
    assert_eq!(db.rows("t"), [[int(1), text("theirs")], [int(2), text("ours")], [int(3), text("c")]]);
    // Inserted by both.
    db.run("INSERT INTO t VALUES (4, 'theirs')");
    let result =
        db.commit_at(&stamp, vec![(&collection, Action::Write(&[insert(&collection, &[int(4), text("ours")])]))]);
    assert!(matches!(result, Err(Error::Changed { .. })), "{result:?}");
    // An edit outranks a deletion.
    db.run("DELETE FROM t WHERE id = 3");
    db.commit_at(&stamp, vec![(&collection, Action::Write(&[put(&collection, &[int(3), text("ours")], &[1])]))])
        .unwrap();
    assert_eq!(db.run("SELECT c FROM t WHERE id = 3"), "ours");
}

#[test]
fn a_table_that_was_altered_is_looked_at_again() {
    for change in
        ["ALTER TABLE t ADD COLUMN d int", "DROP TABLE t", "ALTER TABLE t RENAME TO u", "ALTER TABLE t DROP COLUMN c"]
    {
        let db = three_alone();
        let collection = db.collection("t");
        let stamp = db.stamp();
        db.run(change);
        let write = [put(&collection, &[int(1), text("ours")], &[1])];
        let result = db.commit_at(&stamp, vec![(&collection, Action::Write(&write))]);
        assert!(matches!(result, Err(Error::Changed { .. })), "{change}: {result:?}");
    }
}

#[test]
fn a_row_written_between_stage_and_commit_waits_for_us() {
    let db = three();
    let collection = db.collection("t");
    let writes = [put(&collection, &[int(1), text("ours")], &[1])];
    let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&writes) }];
    let staged = db.interface.stage(&mut writes, &db.stamp(), None, &NoContents).unwrap();
    // Nothing is seen of it, and other rows are free.
    assert_eq!(db.rows("t")[0], [int(1), text("a")]);
    db.run("UPDATE t SET c = 'theirs' WHERE id = 2");
    let (name, server) = (db.name.clone(), shared());
    let (started, waiting) = mpsc::channel();
    let other = std::thread::spawn(move || {
        started.send(()).unwrap();
        server.run(&name, "UPDATE t SET c = c || ' theirs' WHERE id = 1")
    });
    waiting.recv().unwrap();
    staged.commit().unwrap();
    other.join().unwrap();
    assert_eq!(db.rows("t")[0], [int(1), text("ours theirs")]);
}

#[test]
fn a_row_that_another_transaction_holds_is_theirs_or_ours() {
    for end in ["COMMIT PREPARED", "ROLLBACK PREPARED"] {
        let db = three_alone();
        let collection = db.collection("t");
        let stamp = db.stamp();
        let name = format!("held_{}", db.name);
        db.run(&format!("BEGIN; UPDATE t SET c = 'theirs' WHERE id = 1; PREPARE TRANSACTION '{name}'"));
        let result = std::thread::scope(|scope| {
            let staging = scope.spawn(|| {
                let write = [put(&collection, &[int(1), text("ours")], &[1])];
                db.commit_at(&stamp, vec![(&collection, Action::Write(&write))])
            });
            // Until it waits for the row.
            while db.run("SELECT count(*) FROM pg_locks WHERE NOT granted") == "0" && !staging.is_finished() {}
            db.run(&format!("{end} '{name}'"));
            staging.join().unwrap()
        });
        match end {
            "COMMIT PREPARED" => assert!(matches!(result, Err(Error::Changed { .. })), "{result:?}"),
            _ => drop(result.unwrap()),
        }
    }
}

#[test]
fn whoever_waits_too_long_is_told_so() {
    let db = three().reopened("lock_timeout=50");
    let collection = db.collection("t");
    let name = format!("locked_{}", db.name);
    db.run(&format!("BEGIN; UPDATE t SET c = 'theirs' WHERE id = 1; PREPARE TRANSACTION '{name}'"));
    let result = db.write("t", &[put(&collection, &[int(1), text("ours")], &[1])]);
    assert!(matches!(result, Err(Error::Locked { .. })), "{result:?}");
    db.run(&format!("ROLLBACK PREPARED '{name}'"));
}

#[test]
fn deadlocks_are_tried_again() {
    // Both write the same rows in opposite orders, again and again.
    let db = three();
    let collection = db.collection("t");
    let (server, name) = (shared(), db.name.clone());
    let other = std::thread::spawn(move || {
        let round = "BEGIN; UPDATE t SET c = 'x' WHERE id = 3; UPDATE t SET c = 'x' WHERE id = 1; COMMIT;";
        let attempt = format!("DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN UPDATE t SET c = 'x' WHERE id = 3;
            UPDATE t SET c = 'x' WHERE id = 1; EXCEPTION WHEN deadlock_detected THEN NULL; END; END LOOP; END $$; {round}");
        server.run(&name, &attempt);
    });
    let mut committed = 0;
    while committed < 30 {
        let writes = [put(&collection, &[int(1), text("y")], &[1]), put(&collection, &[int(3), text("y")], &[1])];
        match db.write("t", &writes) {
            Ok(_) => committed += 1,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
    other.join().unwrap();
}

#[test]
fn a_connection_that_breaks_leaves_nothing_and_another_takes_its_place() {
    let db = three_alone();
    let collection = db.collection("t");
    let mark = Mark { owner: "s/r".into(), value: vec![1] };
    let writes = [put(&collection, &[int(1), text("ours")], &[1])];
    let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&writes) }];
    let stamp = db.stamp();
    let staged = db.interface.stage(&mut writes, &stamp, Some(&mark), &NoContents).unwrap();
    let kill = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    db.run(kill);
    let error = staged.commit().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error:?}");
    assert_eq!(db.interface.mark("s/r").unwrap(), None);
    assert_eq!(db.rows("t")[0], [int(1), text("a")]);
    db.run(kill);
    db.interface.stage(&mut writes, &stamp, Some(&mark), &NoContents).unwrap().commit().unwrap();
    assert_eq!(db.interface.mark("s/r").unwrap(), Some(vec![1]));
    // In the middle of a scan.
    db.run("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(10, 50000) g");
    let mut scan = db.interface.scan(None).unwrap();
    scan.start(0, deltabus_interfaces::Extent::Whole).unwrap();
    db.run(kill);
    let error = loop {
        match scan.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a scan that broke off was taken for a whole one"),
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error:?}");
}

#[test]
fn a_notification_wakes() {
    let db = three().reopened("notify=Deltabus%20wake");
    let (sender, receiver) = mpsc::channel();
    let notify = std::sync::Arc::new(move |signal: Signal| {
        let _ = sender.send(signal);
    });
    let watching = db.interface.watch(notify).unwrap().expect("a channel is named");
    let patience = Duration::from_secs(30);
    let mut heard = Err(mpsc::RecvTimeoutError::Timeout);
    let end = std::time::Instant::now() + patience;
    while heard.is_err() && std::time::Instant::now() < end {
        // It may not listen yet.
        db.run("NOTIFY \"Deltabus wake\"");
        heard = receiver.recv_timeout(Duration::from_millis(100));
    }
    assert_eq!(heard, Ok(Signal::Written));
    drop(watching);
    let silent = three();
    assert!(silent.interface.watch(std::sync::Arc::new(|_| ())).unwrap().is_none());
}

#[tokio::test]
async fn calls_may_come_from_another_runtime() {
    tokio::task::spawn_blocking(|| {
        let db = three();
        assert_eq!(db.rows("t").len(), 3);
    })
    .await
    .unwrap();
    let db = three();
    let collection = db.collection("t");
    db.write("t", &[insert(&collection, &[int(9), text("z")])]).unwrap();
    assert_eq!(db.rows("t").len(), 4);
}
