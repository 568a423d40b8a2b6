//! What SQLite's interface promises beyond the conformance suite, checked with real database files and other connections.

mod damage;
mod reading;
mod stamps;
mod values;
mod writing;

use std::collections::BTreeMap;
use std::path::PathBuf;

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error, Extent, Interface, Location, Mark, NoContents, RecordWrite, Stamp, open,
};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::Collection;
use deltabus_record::value::Value;
use rusqlite::Connection;

/// A database in a folder that goes with it.
struct Db {
    interface: Box<dyn Interface>,
    path: PathBuf,
    folder: tempfile::TempDir,
}

/// All rows in the order read, by table.
type Tables = BTreeMap<String, Vec<Vec<Value>>>;

impl Db {
    /// A database that `sql` made.
    fn new(sql: &str) -> Db {
        Db::with_options("", sql)
    }

    /// The same with options in the location.
    fn with_options(options: &str, sql: &str) -> Db {
        let db = Db::missing(options);
        db.connect().execute_batch(sql).unwrap();
        db
    }

    /// A database that isn't there.
    fn missing(options: &str) -> Db {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let location = format!("sqlite:{}?{options}", path.display());
        Db { interface: open(&Location::parse(&location).unwrap()).unwrap(), path, folder }
    }

    /// Another program's connection, which doesn't wait.
    fn connect(&self) -> Connection {
        let connection = Connection::open(&self.path).unwrap();
        connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        connection
    }

    /// The stamp, once it stays: right after another program's commit it may be in doubt.
    fn stamp(&self) -> Stamp {
        loop {
            let stamp = self.interface.stamp().unwrap();
            if self.interface.stamp().unwrap() == stamp {
                return stamp;
            }
        }
    }

    fn collections(&self) -> Vec<Collection> {
        self.interface.scan(None).unwrap().collections().to_vec()
    }

    fn collection(&self, name: &str) -> Collection {
        let collections = self.collections();
        collections.into_iter().find(|collection| collection.name.as_str() == name).expect("a table of this name")
    }

    fn scan(&self) -> Result<(Tables, Stamp), Error> {
        let mut scan = self.interface.scan(None)?;
        let mut tables = Tables::new();
        for (index, collection) in scan.collections().to_vec().into_iter().enumerate() {
            scan.start(index, Extent::Whole)?;
            let rows = tables.entry(collection.name.as_str().to_owned()).or_default();
            let mut row = RowBuilder::default();
            while scan.next()?.is_some() {
                row.clear();
                assert_eq!(scan.decode(&mut row)?, Decoded::Record);
                rows.push(row.row().values());
            }
        }
        scan.finish()?;
        Ok((tables, scan.stamp().clone()))
    }

    fn tables(&self) -> Tables {
        self.scan().unwrap().0
    }

    fn rows(&self, table: &str) -> Vec<Vec<Value>> {
        self.tables().remove(table).expect("a table of this name")
    }

    /// Stages and commits one action at the database as it is.
    fn commit<'a>(
        &self,
        collection: &'a Collection,
        dropped: &'a [String],
        action: Action<'a>,
    ) -> Result<Stamp, Error> {
        let mut writes = [CollectionWrite { collection, dropped, action }];
        self.interface.stage(&mut writes, &self.stamp(), None, &NoContents)?.commit()
    }

    fn write(&self, table: &str, writes: &[RecordWrite]) -> Result<Stamp, Error> {
        self.commit(&self.collection(table), &[], Action::Write(writes))
    }

    /// What `sql` gives, one text for each row.
    fn query(&self, sql: &str) -> Vec<String> {
        let connection = self.connect();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

/// A write that changes these slots of the record, or brings it in.
fn put(collection: &Collection, values: &[Value], changed: &[u32]) -> RecordWrite {
    let row = Row::of(values);
    RecordWrite::Put { key: collection.schema.key_of(row.as_bytes(), 0), row, changed: changed.to_vec() }
}

fn removal(collection: &Collection, values: &[Value]) -> RecordWrite {
    let row = Row::of(values);
    RecordWrite::Remove { key: collection.schema.key_of(row.as_bytes(), 0), row }
}

fn int(integer: i64) -> Value {
    Value::Integer(integer)
}

fn text(text: &str) -> Value {
    Value::text(text)
}

fn mark(value: &str) -> Mark {
    Mark { owner: "source/receiver".into(), value: value.into() }
}
