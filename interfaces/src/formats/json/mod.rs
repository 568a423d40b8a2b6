//! JSON (RFC 8259) and NDJSON: records are objects, in an array, in an object by name, or one a line.
//!
//! With `shape=tables` a document holds several collections, each an array or an object of records, by name in an object.
//! Its member `$keys` says which fields are keys: `{"$keys": {"film": ["id"]}, "film": [{"id": 1}]}`; options
//! `key.TABLE=` overrule it. Members that hold no records at all are no tables and stay as they are.
//!
//! | in the file | is |
//! |---|---|
//! | a member that isn't there | absent |
//! | `null`, `true`, `"text"`, `[…]`, `{…}` | null, bool, text, list, map |
//! | a number without point and exponent | an integer of any size |
//! | any other number | a decimal, with the very digits |
//! | `{"$deltabus": "<kind>", "value": "<canonical text>"}` | a value of another kind |
//!
//! Values of kinds that JSON lacks are written as their canonical text (`deltabus_record::text`). Writing keeps what it
//! needn't change byte for byte: white space, the order of members and records, the rest of the document, the digits of
//! numbers. New records look like their neighbours.

mod document;
mod find;
mod read;
mod settings;
mod splice;
mod style;
mod write;

use deltabus_record::convert;
use deltabus_record::json;
use deltabus_record::schema::{Collection, CollectionName, Field};
use deltabus_record::value::{Kind, KindSet, Value};

use crate::file::FileStore;
use crate::{
    CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Position, Refusal, Result, Scan,
    Staged, Stamp, Watching, stem,
};
use document::Span;
use settings::{Settings, Shape};

/// What JSON holds as it is.
const NATIVE: KindSet = KindSet::of(&[
    Kind::Absent,
    Kind::Null,
    Kind::Bool,
    Kind::Integer,
    Kind::Decimal,
    Kind::Text,
    Kind::List,
    Kind::Map,
]);

/// The same without those that may hold others inside.
const VERBATIM: KindSet =
    KindSet::of(&[Kind::Absent, Kind::Null, Kind::Bool, Kind::Integer, Kind::Decimal, Kind::Text]);

/// The field that holds a record's name where records are the members of an object.
const NAME_FIELD: &str = "key";

/// The member of an object of tables that says which fields are keys; no table is called so.
const KEYS: &str = "$keys";

/// A JSON or NDJSON file.
pub(crate) struct Json {
    file: FileStore,
    settings: Settings,
}

impl Json {
    /// The file at `location`; the options are checked, nothing is read.
    pub(crate) fn open(location: &Location) -> Result<Json> {
        Ok(Json { settings: Settings::of(location)?, file: FileStore::new(&location.path) })
    }

    /// What the one collection is called.
    fn name(&self) -> CollectionName {
        match self.settings.pointer.last() {
            Some(last) => CollectionName::new(last.as_str()),
            None => stem(self.file.path()),
        }
    }

    fn problem_at(&self, text: &str, at: usize, problem: String) -> Error {
        Error::Data { position: self.position(text, at), problem }
    }

    /// Line and column of the byte `at`, both from 1.
    fn position(&self, text: &str, at: usize) -> Position {
        let before = &text[..text.floor_char_boundary(at)];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        Position { place: self.file.place(), line: Some(line), column: Some(column), record: None }
    }

    /// The value that is written at `span`.
    fn value(&self, text: &str, span: Span) -> Result<Value> {
        json::read(span.of(text))
            .map_err(|error| self.problem_at(text, span.start + error.at, error.problem.to_owned()))
    }

    /// Reads the whole file as text.
    fn read(&self) -> Result<(String, Stamp)> {
        let mut reading = self.file.open()?;
        let stamp = reading.stamp().clone();
        let bytes = reading.read_all()?;
        reading.check()?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            self.problem_at(&text, good, "this is not UTF-8".into())
        })?;
        Ok((text, stamp))
    }
}

impl Interface for Json {
    fn stamp(&self) -> Result<Stamp> {
        self.file.stamp()
    }

    fn watch(&self, notify: Notify) -> Result<Option<Watching>> {
        Ok(Some(Watching::files(&self.file.watch(), notify)?))
    }

    fn commits(&self) -> bool {
        false
    }

    fn scan(&self, _since: Option<&Stamp>) -> Result<Box<dyn Scan + '_>> {
        Ok(Box::new(read::JsonScan::open(self)?))
    }

    fn verbatim(&self, _field: &Field) -> KindSet {
        VERBATIM
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        let value = convert::project(value, NATIVE);
        let name_field = self.settings.key.first().map_or(NAME_FIELD, String::as_str);
        if self.settings.shape == Shape::Object && field.name == name_field && value.kind() != Kind::Text {
            let reason = format!("a record's name must be text, not {}", value.kind().name());
            return Err(Refusal { reason });
        }
        Ok(value)
    }

    fn takes(&self, collection: &Collection) -> Result<(), Refusal> {
        match self.settings.shape == Shape::Tables && collection.name.as_str() == KEYS {
            true => Err(Refusal {
                reason: format!("a table can't be called `{KEYS}`, which says what the others' keys are"),
            }),
            false => Ok(()),
        }
    }

    fn field_for(&self, field: &Field) -> Field {
        Field { kind: field.kind.filter(|kind| NATIVE.contains(*kind)), declared: None, ..field.clone() }
    }

    fn stage(
        &self,
        writes: &mut [CollectionWrite<'_>],
        expected: &Stamp,
        _mark: Option<&Mark>,
        _contents: &dyn Contents,
    ) -> Result<Box<dyn Staged + '_>> {
        write::stage(self, writes, expected)
    }

    fn mark(&self, _owner: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn transactional(&self) -> bool {
        false
    }

    fn single_collection(&self) -> bool {
        self.settings.shape != Shape::Tables
    }

    fn content(&self) -> Result<Option<Content>> {
        self.file.content()
    }
}
