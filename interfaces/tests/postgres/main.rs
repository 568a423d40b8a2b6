//! What PostgreSQL's interface promises beyond the conformance suite, checked with a real server and other connections.

mod concurrency;
mod constraints;
mod hints;
mod reading;
#[cfg(shared_data)]
mod sakila;
mod values;
mod writing;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use deltabus_interfaces::{
    Action, CollectionWrite, Decoded, Error, Extent, Interface, Location, NoContents, RecordWrite, Records, Stamp, open,
};
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, Schema};
use deltabus_record::value::{Decimal, Value};
use deltabus_test_servers::postgres::{Lease, Server, lease, shared};

/// A database of its own.
struct Db {
    server: Host,
    name: String,
    interface: Box<dyn Interface>,
}

/// The server that all tests share, or one where nobody else's transactions count.
#[derive(Clone)]
enum Host {
    Shared(&'static Server),
    Alone(Arc<Lease>),
}

impl Deref for Host {
    type Target = Server;

    fn deref(&self) -> &Server {
        match self {
            Host::Shared(server) => server,
            Host::Alone(lease) => lease,
        }
    }
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
        Db::on(Host::Shared(shared()), options, sql)
    }

    /// A database on a server where nobody else writes.
    fn alone(sql: &str) -> Db {
        Db::on(Host::Alone(Arc::new(lease())), "", sql)
    }

    fn on(server: Host, options: &str, sql: &str) -> Db {
        let name = server.database();
        if !sql.is_empty() {
            server.run(&name, sql);
        }
        let interface = open(&Location::parse(&server.location(&name, options)).unwrap()).unwrap();
        Db { server, name, interface }
    }

    /// The same database with other options.
    fn reopened(&self, options: &str) -> Db {
        self.reopened_as("postgres", options)
    }

    /// The same database as another user.
    fn reopened_as(&self, user: &str, options: &str) -> Db {
        let location = self.server.location_as(user, &self.name, options);
        Db {
            server: self.server.clone(),
            name: self.name.clone(),
            interface: open(&Location::parse(&location).unwrap()).unwrap(),
        }
    }

    /// Runs statements as another program; gives what they print, columns separated by `|`.
    fn run(&self, sql: &str) -> String {
        self.server.run(&self.name, sql)
    }

    fn stamp(&self) -> Stamp {
        self.interface.stamp().unwrap()
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
                let row = Row::from_bytes(row.as_bytes()).expect("a scan gives canonical rows");
                let mut values = row.values();
                values.resize(collection.schema.fields.len(), Value::Absent);
                rows.push(values);
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

    /// Stages and commits actions, each on a collection, at the database as it is.
    fn commit<'a>(&self, actions: Vec<(&'a Collection, Action<'a>)>) -> Result<Stamp, Error> {
        let stamp = self.stamp();
        self.commit_at(&stamp, actions)
    }

    fn commit_at<'a>(&self, expected: &Stamp, actions: Vec<(&'a Collection, Action<'a>)>) -> Result<Stamp, Error> {
        let write =
            |(collection, action): (&'a Collection, Action<'a>)| CollectionWrite { collection, dropped: &[], action };
        let mut writes: Vec<_> = actions.into_iter().map(write).collect();
        self.interface.stage(&mut writes, expected, None, &NoContents)?.commit()
    }

    /// Writes records, looking again where another test's transaction ended at the wrong moment, as whoever writes would.
    fn write(&self, table: &str, writes: &[RecordWrite]) -> Result<Stamp, Error> {
        loop {
            match self.commit(vec![(&self.collection(table), Action::Write(writes))]) {
                Err(Error::Changed { .. }) => {}
                result => return result,
            }
        }
    }

    /// Makes every table of `source` here, as this database would have it, with all rows; checks that they are the same.
    fn load_all(&self, source: &Db) {
        let (tables, _) = source.scan().unwrap();
        let collections: Vec<Collection> = source.collections().iter().map(|it| self.made_of(it)).collect();
        let rows: Vec<&Vec<Vec<Value>>> = collections.iter().map(|it| &tables[it.name.as_str()]).collect();
        let mut records: Vec<_> = collections.iter().zip(rows).map(|(it, rows)| Rows::new(&it.schema, rows)).collect();
        let actions = collections.iter().zip(&mut records).map(|(it, records)| (it, Action::Load(records)));
        self.commit(actions.collect()).unwrap();
        assert_eq!(self.sorted_tables(), source.sorted_tables());
    }

    fn sorted_tables(&self) -> Tables {
        let mut tables = self.tables();
        tables.values_mut().for_each(|rows| rows.sort_by_cached_key(|row| Row::of(row).as_bytes().to_vec()));
        tables
    }

    /// `source`'s collection as this store makes it.
    fn made_of(&self, source: &Collection) -> Collection {
        let fields = source.schema.fields.iter().map(|field| self.interface.field_for(field)).collect();
        Collection { name: source.name.clone(), schema: Schema { fields, key: source.schema.key.clone() } }
    }
}

/// Rows as a stream of records.
struct Rows<'a> {
    schema: &'a Schema,
    rows: std::slice::Iter<'a, Vec<Value>>,
    key: Vec<u8>,
    row: Row,
}

impl<'a> Rows<'a> {
    fn new(schema: &'a Schema, rows: &'a [Vec<Value>]) -> Rows<'a> {
        Rows { schema, rows: rows.iter(), key: Vec::new(), row: Row::default() }
    }
}

impl Records for Rows<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let Some(values) = self.rows.next() else { return Ok(false) };
        self.row = Row::of(values);
        self.key.clear();
        self.schema.key_into(self.row.as_bytes(), 0, &mut self.key);
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn row(&self) -> &[u8] {
        self.row.as_bytes()
    }
}

/// A write that changes these slots of the record, or brings it in.
fn put(collection: &Collection, values: &[Value], changed: &[u32]) -> RecordWrite {
    let row = Row::of(values);
    RecordWrite::Put { key: collection.schema.key_of(row.as_bytes(), 0), row, changed: changed.to_vec() }
}

/// A write that brings the record in.
fn insert(collection: &Collection, values: &[Value]) -> RecordWrite {
    put(collection, values, &(0..values.len() as u32).collect::<Vec<_>>())
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

fn decimal(unscaled: i64, scale: i32) -> Value {
    Value::Decimal(Box::new(Decimal { unscaled: unscaled.into(), scale }))
}
