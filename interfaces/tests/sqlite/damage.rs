//! Broken files, files that crashes left, and files in the way.

use std::fs;

use deltabus_interfaces::{Action, Error, NoContents};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Db, int, put, text};

const PEOPLE: &str = "
    CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
    INSERT INTO people SELECT i, 'somebody called ' || i FROM n";

fn people() -> Collection {
    let fields = vec![Field::new("id", None, 0), Field::new("name", None, 1)];
    let schema = Schema { fields, key: KeySpec::WholeRow }.with_key(&["id"]).unwrap();
    Collection { name: CollectionName::new("people"), schema }
}

/// Scans and writes; whatever comes of it, an error leaves the file as it was.
fn check_harmless(db: &Db) {
    let before = fs::read(&db.path).unwrap();
    let scanned = db.scan();
    assert_eq!(fs::read(&db.path).unwrap(), before, "reading changed it");
    let collection = people();
    let writes = [put(&collection, &[int(1), text("new")], &[1])];
    if db.commit(&collection, &[], Action::Write(&writes)).is_err() {
        assert_eq!(fs::read(&db.path).unwrap(), before, "a failed write changed it: {:?}", scanned.err());
    }
}

#[test]
fn damaged_databases_are_errors_and_stay_as_they_are() {
    let whole = Db::new(PEOPLE);
    let bytes = fs::read(&whole.path).unwrap();
    let damage =
        (any::<prop::sample::Index>(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20));
    let config = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&(damage, any::<bool>()), |((cut, flips), truncated)| {
        let mut bytes = bytes.clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if truncated {
            bytes.truncate(cut.index(bytes.len()));
        }
        let db = Db::missing("");
        fs::write(&db.path, &bytes).unwrap();
        check_harmless(&db);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let db = Db::missing("");
    fs::write(&db.path, "id,name\n1,somebody\n".repeat(100)).unwrap();
    for error in [db.scan().unwrap_err(), db.interface.mark("source/receiver").unwrap_err()] {
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        assert!(error.to_string().contains("app.db") && error.to_string().contains("not a database"), "{error}");
    }
    check_harmless(&db);
    fs::remove_file(&db.path).unwrap();
    fs::create_dir(&db.path).unwrap();
    assert!(matches!(db.scan(), Err(Error::Unsupported { .. })));
}

#[test]
fn a_truncated_database_is_an_error() {
    let db = Db::new(PEOPLE);
    let length = fs::metadata(&db.path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&db.path).unwrap().set_len(length / 2).unwrap();
    assert!(matches!(db.scan(), Err(Error::Data { .. })));
    check_harmless(&db);
}

#[test]
fn a_database_in_the_middle_of_a_crashed_commit_is_read_as_it_was_before() {
    let db = Db::new(PEOPLE);
    let expected = db.tables();
    let other = db.connect();
    // A cache of nothing makes it write into the file before the commit.
    other
        .execute_batch("PRAGMA cache_size = 0; PRAGMA cache_spill = 1; BEGIN; UPDATE people SET name = 'gone'")
        .unwrap();
    let crashed = Db::missing("");
    fs::copy(&db.path, &crashed.path).unwrap();
    let journal = fs::copy(db.path.with_extension("db-journal"), crashed.path.with_extension("db-journal")).unwrap();
    assert!(journal > 0 && fs::read(&db.path).unwrap().windows(4).any(|part| part == b"gone"));
    assert_eq!(crashed.tables(), expected);
    assert_eq!(crashed.scan().unwrap().1, crashed.stamp());
}

#[test]
fn a_log_that_a_crash_left_is_read() {
    let db = Db::new(&format!("PRAGMA journal_mode = WAL; {PEOPLE}"));
    let other = db.connect();
    other.execute_batch("UPDATE people SET name = 'new' WHERE id = 1").unwrap();
    let crashed = Db::missing("");
    fs::copy(&db.path, &crashed.path).unwrap();
    fs::copy(db.path.with_extension("db-wal"), crashed.path.with_extension("db-wal")).unwrap();
    assert_eq!(crashed.rows("people")[0], [int(1), text("new")]);
    let (_, stamp) = crashed.scan().unwrap();
    assert_eq!(stamp, crashed.stamp());
    let collection = crashed.collection("people");
    crashed.write("people", &[put(&collection, &[int(2), text("newer")], &[1])]).unwrap();
    assert_eq!(crashed.rows("people")[1], [int(2), text("newer")]);
}

#[test]
fn a_journal_without_its_database_is_not_given_another_one() {
    for suffix in ["db-wal", "db-journal"] {
        let db = Db::missing("");
        fs::write(db.path.with_extension(suffix), "left over").unwrap();
        let result = db.commit(&people(), &[], Action::Write(&[]));
        assert!(matches!(&result, Err(Error::Unsupported { .. })), "{result:?}");
        assert!(result.unwrap_err().to_string().contains(suffix));
        assert!(!db.path.exists());
    }
}

#[test]
fn a_database_made_meanwhile_is_not_replaced() {
    let db = Db::missing("");
    let collection = people();
    let mut writes =
        [deltabus_interfaces::CollectionWrite { collection: &collection, dropped: &[], action: Action::Write(&[]) }];
    let staged = db.interface.stage(&mut writes, &db.stamp(), None, &NoContents).unwrap();
    assert!(!db.path.exists());
    db.connect().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(staged.commit(), Err(Error::Changed { .. })));
    assert_eq!(db.query("SELECT name FROM sqlite_schema"), ["theirs"]);
    assert_eq!(fs::read_dir(db.folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn an_empty_file_is_a_database_without_tables() {
    let db = Db::missing("");
    fs::write(&db.path, "").unwrap();
    assert!(db.tables().is_empty());
    let collection = people();
    db.commit(&collection, &[], Action::Write(&[put(&collection, &[int(1), text("x")], &[])])).unwrap();
    assert_eq!(db.rows("people"), [[int(1), text("x")]]);
}
