//! Splits a stream into rows, and a row into cells, without looking at what they mean.
//!
//! A quote is special only where a cell begins; inside quotes a doubled quote is a quote, and delimiters and line ends are
//! text. LF, CRLF and CR end a row, wherever they come.

use std::io::Read;
use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2};

use crate::file::Blocks;
use crate::{Error, Position, Result};

/// A row longer than this is taken for damage, most likely a quote that nobody closed.
const ROW_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A stream of rows; lines without any cell are given too, so that a writer can keep them.
pub(super) struct Rows {
    blocks: Blocks<Box<dyn Read + Send>>,
    place: String,
    delimiter: u8,
    row: Row,
    /// Where in the bytes not yet taken the next quote stands, or their length.
    next_quote: usize,
    /// Where the next carriage return stands, or the length.
    next_return: usize,
    /// Where the next line feed stands, or the length; 0 where it has to be looked for. Kept, so that a file without any
    /// is not searched to its end for each row.
    next_feed: usize,
}

/// The current row, as offsets into the bytes not yet taken.
#[derive(Default)]
struct Row {
    length: usize,
    end_length: usize,
    quoted: bool,
    /// Line on which it begins, counted from 1; 0 before the first row.
    line: u64,
    /// How many line ends it has, its own included.
    lines: u64,
}

/// Where a row ends.
enum End {
    At {
        length: usize,
        end_length: usize,
        quoted: bool,
    },
    /// The bytes at hand don't tell.
    Beyond,
    /// The bytes can't be a row.
    Broken {
        at: usize,
        problem: &'static str,
    },
}

impl Rows {
    /// Rows of `stream`, which stands in `place`.
    pub(super) fn new(stream: Box<dyn Read + Send>, place: String, delimiter: u8) -> Rows {
        Rows::over(Blocks::new(stream), place, delimiter)
    }

    fn over(blocks: Blocks<Box<dyn Read + Send>>, place: String, delimiter: u8) -> Rows {
        Rows { blocks, place, delimiter, row: Row::default(), next_quote: 0, next_return: 0, next_feed: 0 }
    }

    /// Sets the delimiter to what the first row tells; to be called before [`Rows::advance`].
    pub(super) fn sniff(&mut self) -> Result<u8> {
        self.blocks.fill().map_err(|error| self.read_error(error))?;
        self.delimiter = sniff(self.blocks.unread());
        Ok(self.delimiter)
    }

    /// Goes on to the next line; `false` after the last.
    #[inline]
    pub(super) fn advance(&mut self) -> Result<bool> {
        let past = self.row.length + self.row.end_length;
        self.blocks.take(past);
        self.next_quote = self.next_quote.saturating_sub(past);
        self.next_return = self.next_return.saturating_sub(past);
        self.next_feed = self.next_feed.saturating_sub(past);
        self.row.line += self.row.lines;
        let bytes = self.blocks.unread();
        // Most rows by far: no quote and no carriage return before the line feed.
        if self.next_feed == 0 && self.next_quote > 0 {
            self.next_feed = memchr(b'\n', bytes).unwrap_or(bytes.len());
        }
        let length = self.next_feed;
        if self.next_quote > 0
            && length < bytes.len()
            && length < self.next_quote
            && length <= self.next_return.saturating_add(1)
        {
            let crlf = self.next_return + 1 == length;
            if crlf || length < self.next_return {
                let length = length - usize::from(crlf);
                self.row =
                    Row { length, end_length: 1 + usize::from(crlf), quoted: false, line: self.row.line, lines: 1 };
                if crlf {
                    self.next_return = memchr(b'\r', &bytes[length + 1..]).map_or(bytes.len(), |at| length + 1 + at);
                }
                return Ok(true);
            }
        }
        self.advance_slowly()
    }

    /// The row's bytes, without its line end.
    #[inline]
    pub(super) fn row(&self) -> &[u8] {
        &self.blocks.unread()[..self.row.length]
    }

    /// The row's bytes that end its line; empty where the stream ends without.
    pub(super) fn line_end(&self) -> &[u8] {
        &self.blocks.unread()[self.row.length..self.row.length + self.row.end_length]
    }

    /// Whether it is a line without any cell.
    #[inline]
    pub(super) fn is_blank(&self) -> bool {
        self.row.length == 0
    }

    /// The row's cells, raw.
    pub(super) fn cells(&self) -> Cells<'_> {
        Cells::new(self.row(), self.delimiter, self.row.quoted)
    }

    /// Where the row begins.
    pub(super) fn position(&self) -> Position {
        Position { place: self.place.clone(), line: Some(self.row.line.max(1)), column: None, record: None }
    }

    /// How many bytes lie behind the current row.
    pub(super) fn taken(&self) -> u64 {
        self.blocks.taken() + (self.row.length + self.row.end_length) as u64
    }

    /// An error at byte `at` of the current row.
    pub(super) fn error_at(&self, at: usize, problem: impl Into<String>) -> Error {
        self.error_in(&self.row()[..at.min(self.row.length)], problem)
    }

    /// An error at the end of `before`, which begins with the current row.
    fn error_in(&self, before: &[u8], problem: impl Into<String>) -> Error {
        let line_start = memchr::memrchr2(b'\n', b'\r', before).map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() as u64 + 1;
        let line = self.row.line.max(1) + count_lines(before);
        let position = Position { place: self.place.clone(), line: Some(line), column: Some(column), record: None };
        Error::Data { position, problem: problem.into() }
    }

    #[cold]
    fn read_error(&self, error: std::io::Error) -> Error {
        match error.downcast::<super::encoding::NotEncoded>() {
            Ok(damage) => Error::Data {
                position: Position {
                    place: self.place.clone(),
                    line: Some(damage.line),
                    column: Some(damage.column),
                    record: None,
                },
                problem: damage.problem,
            },
            Err(source) => Error::Io { doing: "read", path: self.place.clone().into(), source },
        }
    }

    /// Finds the row's end with all rules.
    fn advance_slowly(&mut self) -> Result<bool> {
        let line = self.row.line.max(1);
        self.row = Row { line, ..Row::default() };
        loop {
            let bytes = self.blocks.unread();
            if bytes.is_empty() && self.blocks.ended() {
                return Ok(false);
            }
            match find_end(bytes, self.delimiter, self.blocks.ended()) {
                End::At { length, end_length, quoted } => {
                    let lines = if quoted { count_lines(&bytes[..length]) + 1 } else { 1 };
                    let past = length + end_length;
                    let next = |byte| memchr(byte, &bytes[past..]).map_or(bytes.len(), |at| past + at);
                    if self.next_quote < past {
                        self.next_quote = next(b'"');
                    }
                    if self.next_return < past {
                        self.next_return = next(b'\r');
                    }
                    self.row = Row { length, end_length, quoted, line, lines };
                    return Ok(true);
                }
                End::Broken { at, problem } => return Err(self.error_in(&bytes[..at], problem)),
                End::Beyond if bytes.len() > ROW_BYTES_MAX => {
                    return Err(self.error_in(&[], format!("a row of more than {ROW_BYTES_MAX} bytes begins here")));
                }
                End::Beyond => {
                    self.blocks.fill().map_err(|error| self.read_error(error))?;
                    // What is known of the bytes at hand is no longer so; 0 lets it be found afresh.
                    (self.next_quote, self.next_return, self.next_feed) = (0, 0, 0);
                }
            }
        }
    }
}

/// Where the row at the front of `bytes` ends; `ended`: nothing comes behind them.
fn find_end(bytes: &[u8], delimiter: u8, ended: bool) -> End {
    let mut at = 0;
    let mut quoted = false;
    // `at` is where a cell begins, or after an odd quote inside an unquoted cell.
    let mut cell_start = true;
    let mut line_end = None;
    let mut no_line_end = false;
    loop {
        if cell_start && bytes.get(at) == Some(&b'"') {
            quoted = true;
            let opened = at;
            match closing_quote(bytes, at) {
                Some(closed) if closed + 1 < bytes.len() || ended => at = closed + 1,
                None if ended => return End::Broken { at: opened, problem: "a quote is opened here and never closed" },
                _ => return End::Beyond,
            }
            match bytes.get(at) {
                Some(&byte) if byte == delimiter => at += 1,
                None | Some(b'\n' | b'\r') => return end_at(bytes, at, ended, quoted),
                Some(_) => {
                    let problem = "text after the closing quote; a quote inside a quoted field is written twice";
                    return End::Broken { at, problem };
                }
            }
            continue;
        }
        // No quote is open here: the next line end ends the row, unless a cell before it opens one.
        if !no_line_end && line_end.is_none_or(|line_end| line_end < at) {
            line_end = memchr2(b'\n', b'\r', &bytes[at..]).map(|found| at + found);
            // Not looked for again at each of many quotes.
            no_line_end = line_end.is_none();
        }
        match memchr(b'"', &bytes[at..line_end.unwrap_or(bytes.len())]) {
            Some(found) => {
                let quote = at + found;
                cell_start = quote > at && bytes[quote - 1] == delimiter;
                at = quote + usize::from(!cell_start);
            }
            None if line_end.is_none() && !ended => return End::Beyond,
            None => return end_at(bytes, line_end.unwrap_or(bytes.len()), ended, quoted),
        }
    }
}

/// The row that ends at `length`, where a line end begins or the bytes end.
fn end_at(bytes: &[u8], length: usize, ended: bool, quoted: bool) -> End {
    let end_length = match (bytes.get(length), bytes.get(length + 1)) {
        (None, _) => 0,
        (Some(b'\r'), Some(b'\n')) => 2,
        (Some(b'\r'), None) if !ended => return End::Beyond,
        _ => 1,
    };
    End::At { length, end_length, quoted }
}

/// Where the quoted cell that opens at `opened` closes.
#[inline]
fn closing_quote(bytes: &[u8], opened: usize) -> Option<usize> {
    let mut at = opened + 1;
    loop {
        at = find_near(b'"', bytes, at)?;
        if bytes.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// The first `byte` from `from` on. Cells are short: eight bytes at a time, before a call that is worth it for long ones.
#[inline]
fn find_near(byte: u8, bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const NEAR_WORDS: usize = 4;
    let mut at = from;
    for _ in 0..NEAR_WORDS {
        let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        // Bytes that match become 0; the lowest high bit of the sum marks the first (Hacker's Delight, 6-1).
        let matching = u64::from_le_bytes(*word) ^ (ONES * u64::from(byte));
        let zeros = matching.wrapping_sub(ONES) & !matching & HIGHS;
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + memchr(byte, bytes.get(at..)?)?)
}

/// How many line ends there are, a CRLF counted once.
fn count_lines(bytes: &[u8]) -> u64 {
    if memchr2(b'\n', b'\r', bytes).is_none() {
        return 0;
    }
    let mut lines = memchr_iter(b'\n', bytes).count();
    for at in memchr_iter(b'\r', bytes) {
        lines += usize::from(bytes.get(at + 1) != Some(&b'\n'));
    }
    lines as u64
}

/// The cells of one row as ranges of its bytes, quotes included.
pub(super) struct Cells<'a> {
    row: &'a [u8],
    delimiter: u8,
    quoted: bool,
    /// Where the next cell begins; beyond the row after the last.
    at: usize,
}

impl<'a> Cells<'a> {
    /// The cells of `row`, which is whole; `quoted`: some of them may be quoted.
    pub(super) fn new(row: &'a [u8], delimiter: u8, quoted: bool) -> Cells<'a> {
        Cells { row, delimiter, quoted, at: 0 }
    }
}

impl Iterator for Cells<'_> {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        if start > self.row.len() {
            return None;
        }
        let from = if self.quoted && self.row.get(start) == Some(&b'"') {
            closing_quote(self.row, start).map_or(self.row.len(), |closed| closed + 1)
        } else {
            start
        };
        let end = find_near(self.delimiter, self.row, from).unwrap_or(self.row.len());
        self.at = end + 1;
        Some(start..end)
    }
}

/// The delimiters that are looked for, the likelier first.
pub(super) const DELIMITERS: [u8; 4] = *b",;\t|";

/// The delimiter of the first row of `bytes`: the one that divides most cells; a comma where there is a single cell.
pub(super) fn sniff(bytes: &[u8]) -> u8 {
    let counts = count_delimiters(bytes, DELIMITERS);
    let most = (0..DELIMITERS.len()).rev().max_by_key(|&index| counts[index]).unwrap_or(0);
    DELIMITERS[most]
}

/// How often each of `candidates` divides cells in the first row of `bytes`, which may end anywhere.
///
/// As the delimiter isn't known yet, a quote opens a cell behind any of them.
fn count_delimiters<const N: usize>(bytes: &[u8], candidates: [u8; N]) -> [usize; N] {
    let mut counts = [0; N];
    let mut cell_start = true;
    let mut at = bytes.iter().position(|byte| !matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
    while let Some(&byte) = bytes.get(at) {
        let candidate = candidates.iter().position(|&candidate| candidate == byte);
        match byte {
            b'\n' | b'\r' => break,
            b'"' if cell_start => match closing_quote(bytes, at) {
                Some(closed) => at = closed,
                None => break,
            },
            _ => {}
        }
        if let Some(candidate) = candidate {
            counts[candidate] += 1;
        }
        cell_start = candidate.is_some();
        at += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All rows with their lines, split as this module does, in blocks of `block` bytes.
    fn split(bytes: &[u8], block: usize) -> Result<Vec<(u64, Vec<Vec<u8>>)>> {
        let stream: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(bytes.to_vec()));
        let mut rows = Rows::over(Blocks::with_block(stream, block), "test".into(), b',');
        let mut found = Vec::new();
        let mut again = Vec::new();
        while rows.advance()? {
            again.extend_from_slice(rows.row());
            again.extend_from_slice(rows.line_end());
            if !rows.is_blank() {
                let cells = rows.cells().map(|range| unquoted(&rows.row()[range])).collect();
                found.push((rows.position().line.unwrap(), cells));
            }
        }
        assert_eq!(again, bytes, "rows and line ends are the file");
        assert_eq!(rows.taken(), bytes.len() as u64);
        Ok(found)
    }

    fn unquoted(cell: &[u8]) -> Vec<u8> {
        match cell.strip_prefix(b"\"") {
            None => cell.to_vec(),
            Some(rest) => {
                let inner = rest.strip_suffix(b"\"").unwrap();
                String::from_utf8(inner.to_vec()).unwrap().replace("\"\"", "\"").into_bytes()
            }
        }
    }

    /// The same by another parser.
    fn reference(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
        let records = reader.byte_records().map(|record| record.unwrap());
        records.map(|record| record.iter().map(<[u8]>::to_vec).collect()).collect()
    }

    fn text() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec!["\"", "\"\"", ",", "\n", "\r", "\r\n", "a", "bc", "12345678", "ü", " "]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    /// Text that is valid however it was put together.
    fn table() -> impl Strategy<Value = String> {
        let cell =
            prop_oneof!["[a-z0-9ü ]{0,40}", text().prop_map(|text| format!("\"{}\"", text.replace('"', "\"\"")))];
        let row = (prop::collection::vec(cell, 1..6), prop::sample::select(vec!["\n", "\r\n", "\r"]));
        let row = row.prop_map(|(cells, end)| cells.join(",") + end);
        prop::collection::vec(row, 0..10).prop_map(|rows| rows.concat())
    }

    proptest! {
        #[test]
        fn rows_are_those_of_another_parser(text in prop_oneof![text(), table()], block in 1usize..64) {
            if let Ok(rows) = split(text.as_bytes(), block) {
                let rows: Vec<_> = rows.into_iter().map(|(_, cells)| cells).collect();
                prop_assert_eq!(rows, reference(text.as_bytes()));
            }
        }

        #[test]
        fn valid_tables_are_read(text in table(), block in 1usize..64) {
            prop_assert!(split(text.as_bytes(), block).is_ok());
        }

        #[test]
        fn blocks_make_no_difference(text in text(), block in 1usize..64) {
            let whole = split(text.as_bytes(), 4096).map_err(|error| error.to_string());
            prop_assert_eq!(split(text.as_bytes(), block).map_err(|error| error.to_string()), whole);
        }

        #[test]
        fn the_near_search_finds_what_memchr_finds(bytes in prop::collection::vec(0u8..4, 0..80), from in 0usize..90) {
            let expected = bytes.get(from..).and_then(|rest| memchr(2, rest)).map(|at| from + at);
            prop_assert_eq!(find_near(2, &bytes, from), expected);
        }
    }

    #[test]
    fn lines_are_counted_through_quotes_and_blank_lines() {
        let rows = split(b"a\r\n\r\n\"x\ny\r\nz\",\"\"\nb\rc", 7).unwrap();
        let lines: Vec<_> = rows.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 6, 7]);
    }

    /// Each was once searched for a line end, or a line feed, to the end of the block.
    #[test]
    fn many_quotes_and_other_line_ends_take_no_longer_than_others() {
        const MANY: usize = 1_000_000;
        let quotes = split(&b"x\"".repeat(MANY), 2 * MANY).unwrap();
        assert_eq!(quotes.len(), 1);
        let returns = split(&b"x\r".repeat(MANY / 10), 2 * MANY).unwrap();
        assert_eq!(returns.len(), MANY / 10);
        let mixed = split(&b"x\ry\r\nz\n\n".repeat(1000), 64).unwrap();
        assert_eq!(mixed.len(), 3000);
        assert_eq!(mixed[2999].0, 3999);
    }

    #[test]
    fn the_delimiter_is_the_one_that_divides_most_cells() {
        for (text, delimiter) in [
            ("a,b;c,d", b','),
            ("a;b;c", b';'),
            ("\n\na\tb", b'\t'),
            ("a|b|\"c,d,e\"", b'|'),
            ("\"a;b;c\"", b','),
            ("\"a\n;;;\",b\n;;;;", b','),
            ("a", b','),
            ("", b','),
            ("a,b;c", b','),
        ] {
            assert_eq!(char::from(sniff(text.as_bytes())), char::from(delimiter), "{text:?}");
        }
    }
}
