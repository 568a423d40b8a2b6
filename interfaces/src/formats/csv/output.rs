//! The file that comes out: rows, their line ends, the encoding.

use std::io::Write;

use super::encoding::Encoding;
use super::table::{Dialect, line_end};
use crate::file::{Replaced, Replacement};
use crate::{Error, Result};

/// A file being written in a dialect.
pub(super) struct Output {
    replacement: Replacement,
    dialect: Dialect,
    /// The line end of the last row, not written yet: whether the file ends with one is known only at its end.
    pending: &'static [u8],
    first_row: Option<Vec<u8>>,
    encoded: Vec<u8>,
}

impl Output {
    pub(super) fn new(replacement: Replacement, dialect: Dialect) -> Output {
        Output { replacement, dialect, pending: b"", first_row: None, encoded: Vec::new() }
    }

    pub(super) fn delimiter(&self) -> u8 {
        self.dialect.delimiter
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.dialect.encoding
    }

    /// The first row that isn't blank.
    pub(super) fn first_row(&self) -> Option<&[u8]> {
        self.first_row.as_deref()
    }

    /// Whether the encoding has all of `text`; else the first character that it lacks.
    pub(super) fn can_hold(&self, text: &str) -> Result<(), char> {
        match self.dialect.encoding.is_unicode() || text.is_ascii() {
            true => Ok(()),
            false => self.dialect.encoding.encode(text, &mut Vec::new()),
        }
    }

    /// Writes the byte order mark, if there is to be one.
    pub(super) fn begin(&mut self) -> Result<()> {
        let mark = if self.dialect.has_mark { self.dialect.encoding.mark() } else { b"" };
        self.replacement.write_all(mark).map_err(|source| self.replacement.error("write", source))
    }

    /// Writes a row that ends its line with `end`, one of the old file's line ends or none.
    #[inline]
    pub(super) fn row(&mut self, row: &[u8], end: &[u8]) -> Result<()> {
        let pending = std::mem::replace(&mut self.pending, line_end(end));
        self.write(pending)?;
        self.write(row)?;
        if self.first_row.is_none() && !row.is_empty() {
            self.first_row = Some(row.to_vec());
        }
        Ok(())
    }

    /// Writes a new row at the end.
    pub(super) fn append(&mut self, row: &[u8]) -> Result<()> {
        if self.pending.is_empty() && self.first_row.is_some() {
            self.pending = self.dialect.line_end;
        }
        self.row(row, self.dialect.line_end)
    }

    /// Writes `bytes`, which are UTF-8 wherever the file isn't.
    #[inline]
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = if self.dialect.encoding == Encoding::Utf8 {
            self.replacement.write_all(bytes)
        } else {
            let text = std::str::from_utf8(bytes).expect("rows of a decoded file are UTF-8");
            self.encoded.clear();
            let encoded = self.dialect.encoding.encode(text, &mut self.encoded);
            encoded.expect("what comes from the file or was checked by `can_hold` has an encoding");
            self.replacement.write_all(&self.encoded)
        };
        written.map_err(|source| self.replacement.error("write", source))
    }

    /// Ends the file; `ends_open`: without a line end, as the old one did.
    pub(super) fn finish(mut self, ends_open: bool) -> Result<Replaced, Error> {
        if !ends_open {
            let pending = std::mem::take(&mut self.pending);
            self.write(pending)?;
        }
        self.replacement.seal()
    }
}
