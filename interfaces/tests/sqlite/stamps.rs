//! Noticing what others commit.

use super::{Db, int, mark, put};
use deltabus_interfaces::{Action, CollectionWrite, Error, NoContents};

/// How many commits in a row, quicker than a file system's clock ticks.
const COMMITS: usize = 100;

/// Checks that each of many commits moves the stamp, and that nothing else does.
fn check_every_commit(db: &Db, commit: impl Fn(usize)) {
    let stamp = || db.interface.stamp().unwrap();
    let mut before = stamp();
    for at in 0..COMMITS {
        commit(at);
        let after = stamp();
        assert_ne!(before, after, "commit {at} went unnoticed");
        before = after;
    }
}

#[test]
fn every_commit_moves_the_stamp_whatever_the_journal() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "WAL"] {
        let db = Db::new(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (x); INSERT INTO t VALUES (0)"));
        let other = db.connect();
        other.execute_batch(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF")).unwrap();
        check_every_commit(&db, |at| {
            other.execute("UPDATE t SET x = ?", [at as i64 + 1]).unwrap();
        });
    }
}

#[test]
fn every_commit_moves_the_stamp_when_the_log_comes_and_goes() {
    let db = Db::new("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (0)");
    check_every_commit(&db, |at| {
        // Closing the last connection moves the log into the database and removes it.
        let other = db.connect();
        other.execute_batch("PRAGMA synchronous = OFF").unwrap();
        other.execute("UPDATE t SET x = ?", [at as i64 + 1]).unwrap();
    });
    let other = db.connect();
    check_every_commit(&db, |at| {
        other.execute("UPDATE t SET x = ?", [-(at as i64)]).unwrap();
        if at % 3 == 0 {
            other.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        }
    });
}

#[test]
fn what_did_not_change_keeps_its_stamp() {
    for mode in ["DELETE", "WAL"] {
        let db = Db::new(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (x); INSERT INTO t VALUES (0)"));
        let other = db.connect();
        other.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let (_, stamp) = db.scan().unwrap();
        assert_eq!(db.stamp(), stamp, "{mode}");
        assert_eq!(db.scan().unwrap().1, stamp, "{mode}");
        other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2); ROLLBACK").unwrap();
        assert_eq!(db.stamp(), stamp, "{mode}");
    }
}

#[test]
fn our_own_commit_has_the_stamp_that_is_found_later() {
    for mode in ["DELETE", "WAL"] {
        let db = Db::new(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, x)"));
        for connected in [false, true] {
            let other = connected.then(|| {
                let other = db.connect();
                other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
                other
            });
            let collection = db.collection("t");
            for x in 0..3 {
                let stamp = db.write("t", &[put(&collection, &[int(1), int(x)], &[1])]).unwrap();
                assert_eq!(db.stamp(), stamp, "{mode}, {connected}");
                assert_eq!(db.rows("t"), [[int(1), int(x)]]);
                assert_eq!(db.stamp(), stamp, "{mode}, {connected}, read");
            }
            drop(other);
        }
    }
}

#[test]
fn a_commit_between_scan_and_stage_is_not_overwritten() {
    for mode in ["DELETE", "WAL"] {
        let db = Db::new(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, x)"));
        let other = db.connect();
        let collection = db.collection("t");
        let (_, stamp) = db.scan().unwrap();
        other.execute_batch("INSERT INTO t VALUES (1, 'theirs')").unwrap();
        let puts = [put(&collection, &[int(1), int(5)], &[1])];
        let mut writes = [CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&puts) }];
        let result = db.interface.stage(&mut writes, &stamp, Some(&mark("1")), &NoContents).map(drop);
        assert!(matches!(result, Err(Error::Changed { .. })), "{mode}: {result:?}");
        assert_eq!(db.query("SELECT x FROM t"), ["theirs"]);
        assert_eq!(db.interface.mark("source/receiver").unwrap(), None);
    }
}
