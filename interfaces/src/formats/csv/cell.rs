//! Cells: a value as it stands between two delimiters.

use std::borrow::Cow;

use deltabus_record::row::{FieldRef, RowBuilder};
use deltabus_record::text;
use deltabus_record::value::{Kind, Value};

use super::rows::DELIMITERS;
use super::settings::Markers;
use crate::Refusal;

/// Appends the value of the raw cell `cell` in a column of `kind` to `row`; the error says what is wrong with it.
#[inline]
pub(super) fn read(cell: &str, kind: Kind, markers: &Markers, row: &mut RowBuilder) -> Result<(), String> {
    let quoted = cell.as_bytes().first() == Some(&b'"');
    if !quoted {
        if cell == markers.null {
            row.push(&Value::Null);
            return Ok(());
        }
        if cell == markers.absent {
            row.push(&Value::Absent);
            return Ok(());
        }
        if kind == Kind::Text {
            row.push_text(cell);
            return Ok(());
        }
    }
    read_typed(cell, quoted, kind, row)
}

fn read_typed(cell: &str, quoted: bool, kind: Kind, row: &mut RowBuilder) -> Result<(), String> {
    let text = unquote(cell);
    if kind == Kind::Text {
        row.push_text(&text);
        return Ok(());
    }
    // No bytes at all are `""`; for every other kind an empty cell has no value, quoted or not.
    if text.is_empty() && !(quoted && kind == Kind::Bytes) {
        row.push(&Value::Null);
        return Ok(());
    }
    match text::parse(&text, kind) {
        Some(value) => {
            row.push(&value);
            Ok(())
        }
        None => {
            let text = text::display(&Value::text(text.into_owned()));
            Err(format!("{text} is no {}, which `types` says of this column", kind.name()))
        }
    }
}

/// The text of a raw cell.
pub(super) fn unquote(cell: &str) -> Cow<'_, str> {
    match cell.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if inner.contains('"') => Cow::Owned(inner.replace("\"\"", "\"")),
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Borrowed(cell),
    }
}

/// The text of `value` in a column of `kind`, without quotes; `None` for absent and null.
pub(super) fn text_of(value: &Value, kind: Kind) -> Option<String> {
    match value {
        // A whole number needs no `E+0` where the column says that it is a decimal.
        Value::Decimal(decimal) if kind == Kind::Decimal && decimal.scale == 0 => Some(decimal.unscaled.to_string()),
        value => text::to_text(value),
    }
}

/// Writes cells in one dialect.
#[derive(Clone, Debug)]
pub(super) struct CellWriter {
    markers: Markers,
    /// The file has one column only, so that an empty cell would be a blank line.
    alone: bool,
    /// Which bytes make quotes necessary.
    special: [bool; 256],
}

impl CellWriter {
    pub(super) fn new(delimiter: u8, markers: &Markers, columns: usize) -> CellWriter {
        let mut special = [false; 256];
        for byte in [delimiter, b'"', b'\n', b'\r', 0] {
            special[usize::from(byte)] = true;
        }
        CellWriter { markers: markers.clone(), alone: columns == 1, special }
    }

    /// The same for a row from which the delimiter is sniffed: whatever could be taken for one is quoted.
    pub(super) fn for_sniffed_row(&self) -> CellWriter {
        let mut writer = self.clone();
        for byte in DELIMITERS {
            writer.special[usize::from(byte)] = true;
        }
        writer
    }

    /// Appends `field` as a cell of a column of `kind`; `quoted`: with quotes even where none are needed.
    pub(super) fn write(
        &self,
        field: FieldRef<'_>,
        kind: Kind,
        quoted: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        match field.kind() {
            Kind::Absent => self.write_marker(&self.markers.absent, out),
            Kind::Null if kind != Kind::Text && !self.alone && !self.markers.absent.is_empty() => Ok(()),
            Kind::Null => self.write_marker(&self.markers.null, out),
            found if found != kind && kind != Kind::Text => {
                let reason = format!("a value of the kind {} can't stand in a column of {}", found.name(), kind.name());
                Err(Refusal { reason })
            }
            found => match field.text() {
                Some(text) => {
                    self.write_text(text, quoted, out);
                    Ok(())
                }
                None => {
                    let text = text_of(&field.value(), kind);
                    let text = text.ok_or_else(|| Refusal { reason: format!("a cell can't hold {}", found.name()) })?;
                    self.write_text(&text, quoted || text.is_empty(), out);
                    Ok(())
                }
            },
        }
    }

    /// Appends `text` as a cell.
    pub(super) fn write_text(&self, text: &str, quoted: bool, out: &mut Vec<u8>) {
        if !quoted && !self.needs_quotes(text) {
            out.extend_from_slice(text.as_bytes());
            return;
        }
        out.push(b'"');
        let mut rest = text.as_bytes();
        while let Some(at) = memchr::memchr(b'"', rest) {
            out.extend_from_slice(&rest[..=at]);
            out.push(b'"');
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
        out.push(b'"');
    }

    fn write_marker(&self, marker: &str, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.alone && marker.is_empty() {
            let reason = "an empty cell alone in its line would be a blank line; choose another `null` or `absent`";
            return Err(Refusal { reason: reason.into() });
        }
        out.extend_from_slice(marker.as_bytes());
        Ok(())
    }

    fn needs_quotes(&self, text: &str) -> bool {
        text.bytes().any(|byte| self.special[usize::from(byte)])
            || text == self.markers.null
            || text == self.markers.absent
            || (self.alone && text.is_empty())
            // At the front of a file it would be a byte order mark.
            || text.starts_with('\u{feff}')
    }
}
