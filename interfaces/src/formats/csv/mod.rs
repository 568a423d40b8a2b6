//! CSV and TSV (RFC 4180, and what else is called so).
//!
//! | in the file | is |
//! |---|---|
//! | an empty cell, quoted or not | the empty text; null in a column that `types` gives a kind other than text |
//! | `\N`, not quoted (option `null`) | null |
//! | `\A`, not quoted (option `absent`) | absent |
//! | anything else | text, or the canonical text of the column's kind (`deltabus_record::text`) |
//! | a line without any character | nothing; it stays where it is |
//!
//! The delimiter is read off the first row (of comma, semicolon, tab and bar the one that divides most cells) unless the
//! option `delimiter` names it or the file is TSV; quoting is the same in both. A byte order mark decides on the encoding,
//! else the option `encoding`, else it is UTF-8. LF, CRLF and CR end a row, mixed too.
//!
//! Writing keeps what it needn't change byte for byte: the dialect, untouched cells, columns that the collection lacks, the
//! order of columns and rows, blank lines, a missing line end at the end. A changed cell is quoted if it was or has to be;
//! new rows come at the end, quoted column by column as the rows there are. A cell that looks like a formula is data as any
//! other.

mod cell;
mod encoding;
mod find;
mod output;
mod read;
mod rows;
mod settings;
mod table;
mod write;

use deltabus_record::convert;
use deltabus_record::schema::Field;
use deltabus_record::text;

use deltabus_record::value::{Kind, KindSet, Value};

use crate::file::FileStore;
use crate::{
    CollectionWrite, Content, Contents, Interface, Location, Mark, Notify, Refusal, Result, Scan, Staged, Stamp,
    Watching, stem,
};
use encoding::Encoding;
use read::CsvScan;
use settings::Settings;
use table::Table;

/// A CSV or TSV file.
pub(crate) struct Csv {
    file: FileStore,
    settings: Settings,
}

impl Csv {
    /// The file at `location`; the options are checked, nothing is read.
    pub(crate) fn open(location: &Location) -> Result<Csv> {
        Ok(Csv { file: FileStore::new(&location.path), settings: Settings::of(location)? })
    }

    fn table(&self) -> Result<Table> {
        Table::open(self.file.open()?, &self.file.place(), &self.settings)
    }

    /// The encoding, where it lacks some of Unicode's characters.
    fn narrow_encoding(&self) -> Option<Encoding> {
        self.settings.encoding.filter(|encoding| !encoding.is_unicode())
    }
}

impl Interface for Csv {
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
        let table = self.table()?;
        let collection = table.collection(stem(self.file.path()), &self.settings)?;
        let layout = table.layout(&self.settings);
        Ok(Box::new(CsvScan { table, collection, layout, markers: self.settings.markers.clone() }))
    }

    fn verbatim(&self, field: &Field) -> KindSet {
        match (field.kind.unwrap_or(Kind::Text), self.narrow_encoding()) {
            // Some text can't be written: each value is looked at.
            (Kind::Text | Kind::List | Kind::Map, Some(_)) => KindSet::of(&[Kind::Absent, Kind::Null]),
            (kind, _) => KindSet::of(&[Kind::Absent, Kind::Null, kind]),
        }
    }

    fn project(&self, value: Value, field: &Field) -> Result<Value, Refusal> {
        let kind = field.kind.unwrap_or(Kind::Text);
        let value = match value {
            Value::Absent | Value::Null => return Ok(value),
            value if value.kind() == kind => value,
            value if kind == Kind::Text => {
                convert::project(value, KindSet::of(&[Kind::Absent, Kind::Null, Kind::Text]))
            }
            value => convert::coerce(&value, kind).ok_or_else(|| {
                let (shown, found) = (text::display(&value), value.kind().name());
                Refusal { reason: format!("{shown} ({found}) can't stand in a column of {}", kind.name()) }
            })?,
        };
        if let Some(encoding) = self.narrow_encoding()
            && let Some(text) = text::to_text(&value)
            && let Err(char) = encoding.encode(&text, &mut Vec::new())
        {
            return Err(lacks(encoding, char));
        }
        Ok(value)
    }

    fn field_for(&self, field: &Field) -> Field {
        Field { kind: Some(self.settings.kind(&field.name)), declared: None, ..field.clone() }
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

/// The refusal of a character that an encoding lacks.
fn lacks(encoding: Encoding, char: char) -> Refusal {
    Refusal { reason: format!("{} has no character {char:?} (U+{:04X})", encoding.name(), u32::from(char)) }
}
