//! A store under test: made in a folder or a schema of its own, written and read through its interface only.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use deltabus_interfaces::{
    Action, CollectionWrite, Contents, Decoded, Error, Extent, Fingerprint, Interface, Location, Mark, RecordWrite,
    Records, Stamp, open,
};
use deltabus_record::key::Key;
use deltabus_record::row::{Row, RowBuilder};
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Large, Value};
use deltabus_test_servers::postgres::{Lease, lease};
use proptest::prelude::BoxedStrategy;

/// One line of the suite's table.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// What the messages call it.
    pub(crate) name: &'static str,
    /// The file that the locations name.
    pub(crate) file: &'static str,
    /// A file inside that, where it is a folder.
    pub(crate) inside: Option<&'static str>,
    /// A location whose records have the key [`Case::key`]; `{}` stands for the file's path, `{postgres}` for a database
    /// with a schema that isn't there.
    pub(crate) keyed: &'static str,
    /// What the key's field is called.
    pub(crate) key: &'static str,
    /// Fields that the store has by itself, whatever is written to it: nobody else looks at them.
    pub(crate) own: &'static [&'static str],
    /// A location whose records have no key but themselves, where the store can have such.
    pub(crate) whole_row: Option<&'static str>,
    /// The kind of the key's values.
    pub(crate) key_kind: Kind,
    /// Kinds of the fields `a`, `b`, `c` at the source; `None`: values of any kind.
    pub(crate) kinds: [Option<Kind>; 3],
    /// What others may write without [`Error::Changed`].
    pub(crate) shared: Shared,
    /// Other fields than `id`, `a`, `b`, `c`, for stores whose fields are fixed.
    pub(crate) shape: Option<&'static Shape>,
}

/// The records of a store whose fields are fixed.
pub(crate) struct Shape {
    /// The fields with their kinds; the first is the key.
    pub(crate) fields: &'static [(&'static str, Kind)],
    /// A record at the source.
    pub(crate) record: fn() -> BoxedStrategy<Vec<Value>>,
    /// A record that the store takes, of this number.
    pub(crate) plain: fn(i64) -> Vec<Value>,
}

/// What several writers of a store share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    /// The store as a whole: it is at the state expected, or it isn't.
    Store,
    /// Each record by itself.
    Records,
}

const POSTGRES: &str = "{postgres}";

/// A row by the names of its fields.
pub(crate) type Named = BTreeMap<String, Value>;

/// A store in a folder that goes with it.
pub(crate) struct Store {
    pub(crate) interface: Box<dyn Interface>,
    pub(crate) collection: Collection,
    pub(crate) path: PathBuf,
    contents: Chest,
    inside: Option<&'static str>,
    own: &'static [&'static str],
    shared: Shared,
    _folder: tempfile::TempDir,
    _server: Option<Lease>,
}

/// The contents of the references among the values.
#[derive(Default)]
struct Chest(Mutex<BTreeMap<[u8; 32], Vec<u8>>>);

impl Chest {
    fn keep(&self, bytes: Vec<u8>) -> Value {
        let large = Large { hash: *blake3::hash(&bytes).as_bytes(), length: bytes.len() as u64, text: false };
        self.0.lock().unwrap().insert(large.hash, bytes);
        Value::Large(Box::new(large))
    }
}

impl Contents for Chest {
    fn read<'a>(&'a self, large: &Large, _: Option<&Path>) -> Result<Box<dyn Read + Send + 'a>, Error> {
        Ok(Box::new(Cursor::new(self.0.lock().unwrap()[&large.hash].clone())))
    }
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) rows: Vec<Named>,
    pub(crate) fingerprints: Vec<Fingerprint>,
    pub(crate) layout: u64,
    pub(crate) stamp: Stamp,
}

impl Store {
    /// A store with records of the key [`Case::key`] and the fields `a`, `b`, `c`; nothing is there yet.
    pub(crate) fn keyed(case: &Case) -> Store {
        Store::at(case, case.keyed, &[case.shape.map_or(case.key, |shape| shape.fields[0].0)])
    }

    /// The same with whole-row keys.
    pub(crate) fn whole_row(case: &Case) -> Option<Store> {
        case.whole_row.map(|location| Store::at(case, location, &[]))
    }

    fn at(case: &Case, location: &str, key: &[&str]) -> Store {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(case.file);
        let mut location = location.replace("{}", path.to_str().unwrap());
        // Stores that are looked at together share no server: its stamps move with every commit.
        let server = location.contains(POSTGRES).then(lease);
        if let Some(server) = &server {
            let schema = format!("schema={}", server.fresh_name());
            location = location.replace(POSTGRES, &server.location("postgres", &schema));
        }
        let interface = open(&Location::parse(&location).unwrap()).unwrap();
        let [a, b, c] = case.kinds;
        let fields = match case.shape {
            None => vec![(case.key, Some(case.key_kind)), ("a", a), ("b", b), ("c", c)],
            Some(shape) => shape.fields.iter().map(|(name, kind)| (*name, Some(*kind))).collect(),
        };
        let fields = fields.into_iter().enumerate().map(|(at, (name, kind))| Field::new(name, kind, at as u32));
        let mut store = Store {
            interface,
            collection: collection(Vec::new(), key),
            path,
            contents: Chest::default(),
            shared: case.shared,
            _folder: folder,
            _server: server,
            inside: case.inside,
            own: case.own,
        };
        store.collection = collection(fields.map(|field| store.interface.field_for(&field)).collect(), key);
        store
    }

    /// What is read back after `values` were written; `None` where the store refuses one of them.
    pub(crate) fn project(&self, values: &[Value]) -> Option<Vec<Value>> {
        let fields = &self.collection.schema.fields;
        assert_eq!(values.len(), fields.len());
        values.iter().zip(fields).map(|(value, field)| self.project_value(value, field)).collect()
    }

    fn project_value(&self, value: &Value, field: &Field) -> Option<Value> {
        match self.project_kind(value, field)? {
            // A field of references gives bytes back as the reference to them.
            Value::Bytes(bytes) if field.kind == Some(Kind::Large) => Some(self.contents.keep(bytes)),
            value => Some(value),
        }
    }

    fn project_kind(&self, value: &Value, field: &Field) -> Option<Value> {
        if self.interface.verbatim(field).contains(value.kind()) {
            return Some(value.clone());
        }
        let once = self.interface.project(value.clone(), field).ok()?;
        if !self.interface.verbatim(field).contains(once.kind()) {
            let twice = self.interface.project(once.clone(), field);
            assert_eq!(twice.as_ref(), Ok(&once), "projecting {value:?} twice");
        }
        Some(once)
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.interface.stamp().unwrap()
    }

    /// Puts `bytes` where the store's data are, and gives the file that they are in.
    pub(crate) fn plant(&self, bytes: &[u8]) -> PathBuf {
        let path = match self.inside {
            None => self.path.clone(),
            Some(inside) => {
                std::fs::create_dir_all(&self.path).unwrap();
                self.path.join(inside)
            }
        };
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Reads everything.
    pub(crate) fn scan(&self) -> Result<Found, Error> {
        let mut scan = self.interface.scan(None)?;
        let mut found = Found { rows: Vec::new(), fingerprints: Vec::new(), layout: 0, stamp: scan.stamp().clone() };
        for index in 0..scan.collections().len() {
            let schema = scan.collections()[index].schema.clone();
            found.layout = scan.layout(index);
            scan.start(index, Extent::Whole)?;
            let mut row = RowBuilder::default();
            while let Some(fingerprint) = scan.next()? {
                row.clear();
                assert_eq!(scan.decode(&mut row)?, Decoded::Record);
                let row = Row::from_bytes(row.as_bytes()).expect("a scan gives canonical rows");
                found.fingerprints.push(fingerprint);
                let mut row = named(&schema, &row);
                row.retain(|name, _| !self.own.contains(&name.as_str()));
                found.rows.push(row);
            }
        }
        scan.finish()?;
        Ok(found)
    }

    /// Where references among the values are read from.
    pub(crate) fn contents(&self) -> &dyn Contents {
        &self.contents
    }

    /// The rows there, sorted, so that stores of any order compare.
    pub(crate) fn rows(&self) -> Vec<Named> {
        sorted(self.scan().unwrap().rows)
    }

    /// Loads rows of projected values into the missing or empty store.
    pub(crate) fn load(&self, rows: &[Vec<Value>]) -> Stamp {
        self.load_into(&self.collection, rows)
    }

    /// The same with a collection of other fields.
    pub(crate) fn load_into(&self, collection: &Collection, rows: &[Vec<Value>]) -> Stamp {
        let mut records = Rows::new(collection, rows);
        self.commit(collection, &[], Action::Load(&mut records), &self.stamp()).unwrap()
    }

    /// Writes records.
    pub(crate) fn write(&self, writes: &[RecordWrite]) -> Stamp {
        self.commit(&self.collection, &[], Action::Write(writes), &self.stamp()).unwrap()
    }

    /// Stages and commits one action, and checks what commits promise.
    pub(crate) fn commit<'a>(
        &self,
        collection: &'a Collection,
        dropped: &'a [String],
        action: Action<'a>,
        expected: &Stamp,
    ) -> Result<Stamp, Error> {
        let mark = Mark { owner: "source/receiver".into(), value: format!("{expected:?}").into_bytes() };
        let mut writes = [CollectionWrite { collection, dropped, action }];
        let staged = self.interface.stage(&mut writes, expected, Some(&mark), &self.contents)?;
        let content = staged.content();
        let stamp = staged.commit()?;
        // Where a transaction that was dropped is still ending, a commit can't tell that it was alone.
        let as_it_is = stamp == self.stamp() || self.shared == Shared::Records;
        assert!(as_it_is, "the stamp after a commit is the commit's");
        if self.interface.transactional() {
            assert_eq!(self.interface.mark(&mark.owner)?, Some(mark.value));
        } else {
            assert_eq!(self.interface.content()?, content, "the content is as staged");
        }
        Ok(stamp)
    }

    /// The key of a row of projected values.
    pub(crate) fn key(&self, values: &[Value]) -> Key {
        self.collection.schema.key_of(Row::of(values).as_bytes(), 0)
    }

    /// A write that brings `values` in, or over `before`.
    pub(crate) fn put(&self, before: Option<&[Value]>, values: &[Value]) -> RecordWrite {
        let slots = 0..values.len();
        let changed = slots.filter(|&slot| before.is_none_or(|before| before[slot] != values[slot]));
        RecordWrite::Put {
            key: self.key(values),
            row: Row::of(values),
            changed: changed.map(|slot| slot as u32).collect(),
        }
    }

    /// A write that takes `values` out.
    pub(crate) fn removal(&self, values: &[Value]) -> RecordWrite {
        RecordWrite::Remove { key: self.key(values), row: Row::of(values) }
    }

    /// What a field has that was never written: absent, or null where the store doesn't know the difference.
    pub(crate) fn project_absent(&self) -> Value {
        let field = self.interface.field_for(&Field::new("new", Some(Kind::Text), 9));
        self.project_value(&Value::Absent, &field).unwrap()
    }

    /// `values` by the names of this store's fields.
    pub(crate) fn named(&self, values: &[Value]) -> Named {
        named(&self.collection.schema, &Row::of(values))
    }
}

/// A collection called as a file `records` is.
pub(crate) fn collection(fields: Vec<Field>, key: &[&str]) -> Collection {
    let schema = Schema { fields, key: KeySpec::WholeRow };
    let schema = if key.is_empty() { schema } else { with_key(schema, key) };
    Collection { name: CollectionName::new("records"), schema }
}

fn with_key(schema: Schema, key: &[&str]) -> Schema {
    if schema.fields.is_empty() { schema } else { schema.with_key(key).unwrap() }
}

/// Rows in an order of their own, to be compared as sets.
pub(crate) fn sorted(mut rows: Vec<Named>) -> Vec<Named> {
    rows.sort_by_cached_key(|row| format!("{row:?}"));
    rows
}

/// An absent value is as good as no field: stores without a schema of their own don't tell these apart.
fn named(schema: &Schema, row: &Row) -> Named {
    let name = |(slot, field): (usize, &Field)| (field.name.clone(), row.value(slot));
    schema.ordered().into_iter().map(name).filter(|(_, value)| *value != Value::Absent).collect()
}

/// Rows as a stream of records.
pub(crate) struct Rows<'a> {
    schema: &'a Schema,
    rows: std::slice::Iter<'a, Vec<Value>>,
    key: Vec<u8>,
    row: Row,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(collection: &'a Collection, rows: &'a [Vec<Value>]) -> Rows<'a> {
        Rows { schema: &collection.schema, rows: rows.iter(), key: Vec::new(), row: Row::default() }
    }
}

impl Records for Rows<'_> {
    fn advance(&mut self) -> Result<bool, Box<dyn StdError + Send + Sync>> {
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
