//! A file opened: its dialect, its columns, its rows.

use std::collections::HashSet;
use std::io::Seek;
use std::os::unix::fs::FileExt;

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use deltabus_record::text;
use deltabus_record::value::Kind;
use xxhash_rust::xxh3::Xxh3;

use super::cell;
use super::encoding::Encoding;
use super::rows::Rows;
use super::settings::{Markers, Settings, Types};
use crate::file::Reading;
use crate::{Error, Result};

/// A file opened for reading, its header read.
pub(super) struct Table {
    pub(super) reading: Reading,
    pub(super) dialect: Dialect,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Rows,
    /// The blank lines before the first row, as they are.
    pub(super) blank: Vec<u8>,
    /// The current row is the first record, which nobody has taken yet (a file without header).
    waiting: bool,
}

/// How a file writes rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) encoding: Encoding,
    pub(super) has_mark: bool,
    pub(super) delimiter: u8,
    pub(super) line_end: &'static [u8],
}

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Table {
    /// Opens the file behind `reading`, which stands in `place`.
    pub(super) fn open(reading: Reading, place: &str, settings: &Settings) -> Result<Table> {
        let mut table = Table::open_named(reading, place, settings)?;
        if settings.types == Types::Infer && !table.columns.is_empty() {
            let kinds = table.infer(&settings.markers)?;
            table = Table::open_named(table.reading, place, settings)?;
            for (column, kind) in table.columns.iter_mut().zip(kinds) {
                column.kind = kind;
            }
        }
        Ok(table)
    }

    /// Goes on to the next line that holds a record or is blank; `false` after the last.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<bool> {
        if self.waiting {
            self.waiting = false;
            return Ok(true);
        }
        self.rows.advance()
    }

    /// Goes on to the next record; `false` after the last.
    #[inline]
    pub(super) fn advance_record(&mut self) -> Result<bool> {
        loop {
            if !self.advance()? {
                return Ok(false);
            }
            if !self.rows.is_blank() {
                return Ok(true);
            }
        }
    }

    /// Appends all values of the current record to `row`.
    pub(super) fn decode(&self, markers: &Markers, row: &mut RowBuilder) -> Result<()> {
        let text = self.text()?;
        let mut count = 0;
        for range in self.rows.cells() {
            if let Some(column) = self.columns.get(count) {
                let start = range.start;
                let read = cell::read(&text[range], column.kind, markers, row);
                read.map_err(|problem| self.rows.error_at(start, format!("column `{}`: {problem}", column.name)))?;
            }
            count += 1;
        }
        if count != self.columns.len() { Err(self.ragged(count)) } else { Ok(()) }
    }

    /// The current row, checked to be text.
    pub(super) fn text(&self) -> Result<&str> {
        let bytes = self.rows.row();
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            let problem = format!(
                "not UTF-8 (byte 0x{:02X}); if the file has another encoding, name it: `?encoding=latin1`",
                bytes[at]
            );
            self.rows.error_at(at, problem)
        })?;
        if memchr::memchr(0, bytes).is_some() {
            self.refuse_nul(bytes)?;
        }
        Ok(text)
    }

    /// The error that the current row has `count` cells.
    #[cold]
    pub(super) fn ragged(&self, count: usize) -> Error {
        let expected = self.columns.len();
        let problem =
            format!("{count} {}, but the first row has {expected}", if count == 1 { "field" } else { "fields" });
        self.rows.error_at(0, problem)
    }

    /// What the file holds, as a collection called `name`.
    pub(super) fn collection(&self, name: CollectionName, settings: &Settings) -> Result<Collection> {
        let fields = self.columns.iter().enumerate();
        let fields: Vec<_> =
            fields.map(|(slot, column)| Field::new(&column.name, Some(column.kind), slot as u32)).collect();
        let mut schema = Schema { fields, key: KeySpec::WholeRow };
        // A file without columns has nothing that could lack the key; it is about to be filled.
        if !settings.key.is_empty() && !self.columns.is_empty() {
            let names: Vec<_> = settings.key.iter().map(String::as_str).collect();
            schema = schema.with_key(&names).map_err(|error| self.rows.error_at(0, error.to_string()))?;
        }
        Ok(Collection { name, schema })
    }

    /// Names all that gives the bytes of a row their meaning.
    pub(super) fn layout(&self, settings: &Settings) -> u64 {
        let mut hasher = Xxh3::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.dialect.encoding.name().as_bytes());
        part(&[self.dialect.delimiter, u8::from(settings.header)]);
        part(settings.markers.null.as_bytes());
        part(settings.markers.absent.as_bytes());
        for column in &self.columns {
            part(column.name.as_bytes());
            part(&[column.kind as u8]);
        }
        for name in &settings.key {
            part(name.as_bytes());
        }
        hasher.digest()
    }

    fn open_named(mut reading: Reading, place: &str, settings: &Settings) -> Result<Table> {
        reading.rewind()?;
        let mut file = reading.handle()?;
        let io = |source| Error::Io { doing: "read", path: place.into(), source };
        let mut front = [0; 4];
        let length = file.read_at(&mut front, 0).map_err(io)?;
        let mark = Encoding::of_mark(&front[..length]);
        let encoding = match (mark, settings.encoding) {
            (Some((found, _)), Some(named)) if found != named => {
                let position = crate::Position { place: place.into(), line: Some(1), column: Some(1), record: None };
                let problem = format!(
                    "the file begins with the byte order mark of {}, but `encoding={}` was given",
                    found.name(),
                    named.name()
                );
                return Err(Error::Data { position, problem });
            }
            (Some((found, length)), _) => {
                file.seek(std::io::SeekFrom::Start(length as u64)).map_err(io)?;
                found
            }
            (None, named) => named.unwrap_or(Encoding::Utf8),
        };
        let mut rows = Rows::new(encoding.decoder(file), place.to_owned(), settings.delimiter.unwrap_or(b','));
        let delimiter = match settings.delimiter {
            Some(delimiter) => delimiter,
            None => rows.sniff()?,
        };
        let dialect = Dialect { encoding, has_mark: mark.is_some(), delimiter, line_end: b"\n" };
        let mut table = Table { reading, dialect, columns: Vec::new(), rows, blank: Vec::new(), waiting: false };
        while table.rows.advance()? {
            let line_end = line_end(table.rows.line_end());
            if table.rows.is_blank() {
                table.blank.extend_from_slice(line_end);
                continue;
            }
            if !line_end.is_empty() {
                table.dialect.line_end = line_end;
            }
            table.columns = table.read_columns(settings)?;
            table.waiting = !settings.header;
            break;
        }
        Ok(table)
    }

    fn read_columns(&self, settings: &Settings) -> Result<Vec<Column>> {
        let text = self.text()?;
        let mut seen = HashSet::new();
        let mut columns = Vec::new();
        for range in self.rows.cells() {
            let start = range.start;
            let name = if settings.header {
                cell::unquote(&text[range]).into_owned()
            } else {
                (columns.len() + 1).to_string()
            };
            if name.is_empty() {
                return Err(self.rows.error_at(start, "a column without a name in the header"));
            }
            if name.contains('\0') {
                return Err(self.rows.error_at(start, "a NUL character in the header"));
            }
            if !seen.insert(name.clone()) {
                return Err(self.rows.error_at(start, format!("a second column named `{name}`")));
            }
            columns.push(Column { kind: settings.kind(&name), name });
        }
        if let Types::Named(kinds) = &settings.types {
            // Not an error: a column that the source dropped goes here too, while the location still names it.
            for name in kinds.keys().filter(|name| !seen.contains(*name)) {
                tracing::warn!(
                    place = self.rows.position().place,
                    column = name,
                    "`types` names a column that is not there"
                );
            }
        }
        Ok(columns)
    }

    /// A NUL in a quoted cell is text; anywhere else it speaks of another encoding or a file that is no text at all.
    #[cold]
    fn refuse_nul(&self, bytes: &[u8]) -> Result<()> {
        for range in self.rows.cells() {
            let cell = &bytes[range.clone()];
            if cell.first() != Some(&b'"')
                && let Some(at) = memchr::memchr(0, cell)
            {
                let problem = "a NUL character; if the file is UTF-16, say so: `?encoding=utf-16le`";
                return Err(self.rows.error_at(range.start + at, problem));
            }
        }
        Ok(())
    }

    /// For each column the first kind of which all its cells are the canonical text; text where they aren't of any, or
    /// where no cell tells.
    fn infer(&mut self, markers: &Markers) -> Result<Vec<Kind>> {
        let mut kinds: Vec<_> = self.columns.iter().map(|_| (INFERRED.to_vec(), false)).collect();
        while self.advance_record()? {
            let text = self.text()?;
            for (range, (kinds, told)) in self.rows.cells().zip(&mut kinds) {
                let raw = &text[range];
                if raw.is_empty() || raw == markers.null || raw == markers.absent || kinds.is_empty() {
                    continue;
                }
                *told = true;
                let cell = cell::unquote(raw);
                kinds.retain(|&kind| is_canonical(&cell, kind));
            }
        }
        let kind = |(kinds, told): (Vec<Kind>, bool)| kinds.first().copied().filter(|_| told).unwrap_or(Kind::Text);
        Ok(kinds.into_iter().map(kind).collect())
    }
}

/// The kinds that are looked for, the narrower first.
const INFERRED: [Kind; 8] =
    [Kind::Integer, Kind::Decimal, Kind::Bool, Kind::Date, Kind::Time, Kind::DateTime, Kind::Instant, Kind::Uuid];

/// Whether a cell says a value of `kind` in the one way in which it would be written.
fn is_canonical(text: &str, kind: Kind) -> bool {
    let again = text::parse(text, kind).and_then(|value| cell::text_of(&value, kind));
    again.is_some_and(|again| again == text)
}

/// A line end of a file as a constant.
pub(super) fn line_end(bytes: &[u8]) -> &'static [u8] {
    match bytes {
        b"\r\n" => b"\r\n",
        b"\r" => b"\r",
        b"\n" => b"\n",
        _ => b"",
    }
}
