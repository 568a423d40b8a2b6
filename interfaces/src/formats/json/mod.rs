//! JSON (RFC 8259) and NDJSON: records are objects, in an array, in an object by name, or one a line.
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
mod read;
mod write;

use deltabus_record::convert;
use deltabus_record::schema::{CollectionName, Field};
use deltabus_record::value::{Kind, KindSet, Value};

use crate::file::FileStore;
use crate::{
    CollectionWrite, Content, Contents, Error, Interface, Location, Mark, Notify, Position, Refusal, Result, Scan,
    Staged, Stamp, Watching, stem,
};
use document::{Container, Problem, Span, Walker};

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

/// How records lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Array,
    Object,
    Lines,
}

/// A JSON or NDJSON file.
pub(crate) struct Json {
    file: FileStore,
    key: Vec<String>,
    /// Where in the document the records are.
    pointer: Vec<String>,
    /// How records lie in a file that is made.
    shape: Shape,
}

impl Json {
    /// The file at `location`; the options are checked, nothing is read.
    pub(crate) fn open(location: &Location) -> Result<Json> {
        let mut options = location.options.clone();
        let key = options.take("key").map(|key| key.split(',').map(str::to_owned).collect()).unwrap_or_default();
        let (pointer, shape) = if location.interface == "ndjson" {
            options.finish(location, &["key"])?;
            (Vec::new(), Shape::Lines)
        } else {
            let pointer = pointer(location, &options.take("at").unwrap_or_default())?;
            let shape = match options.take("shape").as_deref() {
                None | Some("array") => Shape::Array,
                Some("object") => Shape::Object,
                Some(other) => {
                    return Err(location.error(format!("`shape` is `array` or `object`, not `{other}`")));
                }
            };
            options.finish(location, &["key", "at", "shape"])?;
            (pointer, shape)
        };
        Ok(Json { file: FileStore::new(&location.path), key, pointer, shape })
    }

    fn name(&self) -> CollectionName {
        match self.pointer.last() {
            Some(last) => CollectionName::new(last.as_str()),
            None => stem(self.file.path()),
        }
    }

    /// What a record's name is called where records are members.
    fn name_field(&self) -> &str {
        self.key.first().map_or(NAME_FIELD, String::as_str)
    }

    fn problem(&self, text: &str, problem: Problem) -> Error {
        self.problem_at(text, problem.at, problem.text)
    }

    fn problem_at(&self, text: &str, at: usize, problem: String) -> Error {
        let before = &text[..text.floor_char_boundary(at)];
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        let position = Position { place: self.file.place(), line: Some(line), column: Some(column), record: None };
        Error::Data { position, problem }
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

    /// Finds the records of a document.
    fn find(&self, text: &str) -> Result<Found> {
        let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        if self.shape == Shape::Lines {
            return self.find_lines(text, start);
        }
        let mut walker = Walker::at(text, start);
        walker.space();
        if walker.peek().is_none() {
            return Ok(Found::Nothing { root: None, depth: 0 });
        }
        let root = walker.value(0).map_err(|problem| self.problem(text, problem))?;
        walker.space();
        if walker.peek().is_some() {
            let problem = "the document is over, but more follows; is this NDJSON?".to_owned();
            return Err(self.problem_at(text, walker.position(), problem));
        }
        let resolved = document::resolve(text, root, &self.pointer).map_err(|problem| self.problem(text, problem))?;
        let here = match resolved {
            Ok(here) => here,
            Err((deepest, depth)) => return Ok(Found::Nothing { root: Some(deepest), depth }),
        };
        if !matches!(text.as_bytes()[here.start], b'[' | b'{') {
            let problem = "records are an array or an object of objects; `at` names another place".to_owned();
            return Err(self.problem_at(text, here.start, problem));
        }
        let container = document::container(text, here.start).map_err(|problem| self.problem(text, problem))?;
        for item in &container.items {
            self.expect_object(text, item.value)?;
        }
        Ok(Found::Records(container))
    }

    fn find_lines(&self, text: &str, start: usize) -> Result<Found> {
        let mut items = Vec::new();
        let mut at = start;
        while at < text.len() {
            let end = memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |length| at + length);
            let line = &text[at..end];
            let begin = at + (line.len() - line.trim_ascii_start().len());
            if begin < end {
                let mut walker = Walker::at(&text[..end], begin);
                let value = walker.value(0).map_err(|problem| self.problem(text, problem))?;
                walker.space();
                if walker.position() < end {
                    let problem = "more than one value in a line".to_owned();
                    return Err(self.problem_at(text, walker.position(), problem));
                }
                self.expect_object(text, value)?;
                let none = Span { start: value.start, end: value.start };
                items.push(document::Item { name: none, value, whole: Span { start: at, end } });
            }
            at = end + 1;
        }
        Ok(Found::Records(Container { span: Span { start, end: text.len() }, is_object: false, items }))
    }

    fn expect_object(&self, text: &str, value: Span) -> Result<()> {
        match text.as_bytes()[value.start] {
            b'{' => Ok(()),
            _ => Err(self.problem_at(text, value.start, "a record must be an object".into())),
        }
    }
}

/// What a document holds.
enum Found {
    /// The records.
    Records(Container),
    /// The place of the records isn't there: the deepest that is, and how many steps of the pointer lead to it.
    Nothing { root: Option<Span>, depth: usize },
}

fn pointer(location: &Location, text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = text.strip_prefix('/') else {
        return Err(
            location.error(format!("`at` is a JSON Pointer and begins with `/`, as in `/people`, not `{text}`"))
        );
    };
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
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
        if self.shape == Shape::Object && field.name == self.name_field() && value.kind() != Kind::Text {
            let reason = format!("a record's name must be text, not {}", value.kind().name());
            return Err(Refusal { reason });
        }
        Ok(value)
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
        true
    }

    fn content(&self) -> Result<Option<Content>> {
        self.file.content()
    }
}
