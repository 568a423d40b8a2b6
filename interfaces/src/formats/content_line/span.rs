//! Logical lines in bytes: where each stands, how it is folded, and on which line of the file.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::{LINE_BYTES_MAX, Problem};

/// How a continued line becomes one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    /// The line end and the one space or tab after it go (RFC 2425, 6350, 5545).
    Octets,
    /// Only the line end goes, the white space stays: lines are folded where white space is (RFC 822, vCard 2.1).
    Words,
}

/// One logical line: `start..end` without the line end, `start..next` with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its first byte.
    pub(crate) start: usize,
    /// Behind its last byte, folds included.
    pub(crate) end: usize,
    /// Behind its line end; the same as `end` where the file ends without one.
    pub(crate) next: usize,
    /// The physical line on which it begins, counted from 1.
    pub(crate) line: u64,
    /// Whether it is continued.
    folded: bool,
}

impl Span {
    /// The line without folds and soft line breaks; borrowed where there are none.
    pub(crate) fn unfolded<'a>(&self, bytes: &'a [u8], fold: Fold) -> Cow<'a, [u8]> {
        let raw = &bytes[self.start..self.end];
        if !self.folded {
            return Cow::Borrowed(raw);
        }
        let mut out = Vec::with_capacity(raw.len());
        self.pieces(bytes, fold, |piece| out.extend_from_slice(&bytes[piece]));
        Cow::Owned(out)
    }

    /// The offset in the file of an offset in the unfolded line.
    pub(crate) fn origin(&self, bytes: &[u8], fold: Fold, at: usize) -> usize {
        let mut left = at;
        let mut origin = None;
        self.pieces(bytes, fold, |piece| {
            if origin.is_none() {
                match left.checked_sub(piece.len()) {
                    Some(rest) if rest > 0 => left = rest,
                    _ => origin = Some(piece.start + left),
                }
            }
        });
        origin.unwrap_or(self.end)
    }

    /// The parts that make up the unfolded line, in order.
    fn pieces(&self, bytes: &[u8], fold: Fold, mut piece: impl FnMut(std::ops::Range<usize>)) {
        let soft = self.folded && is_quoted_printable(&bytes[self.start..self.end]);
        let mut at = self.start;
        let mut begin = at;
        while at < self.end {
            let (end, next) = physical(&bytes[..self.end], at);
            let breaks = soft && end > begin && bytes[end - 1] == b'=' && next < self.end;
            piece(begin..end - usize::from(breaks));
            // Behind a soft line break all that follows is the value's own.
            begin = match (breaks, fold) {
                (false, Fold::Octets) => (next + 1).min(self.end),
                _ => next,
            };
            at = next;
        }
    }
}

/// The logical lines of bytes, one after another. Blank lines between them are passed over.
#[derive(Clone, Debug)]
pub(crate) struct Spans<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    line: u64,
}

impl<'a> Spans<'a> {
    /// All of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Spans<'a> {
        Spans::within(bytes, 0..bytes.len(), 1)
    }

    /// The lines in `range`, which begins with line number `line`.
    pub(crate) fn within(bytes: &'a [u8], range: std::ops::Range<usize>, line: u64) -> Spans<'a> {
        Spans { bytes, at: range.start, end: range.end, line }
    }

    /// The next logical line; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Span>, Problem> {
        let bytes = &self.bytes[..self.end];
        loop {
            if self.at >= bytes.len() {
                return Ok(None);
            }
            let start = self.at;
            let line = self.line;
            let (end, next) = self.physical(bytes, start);
            if end == start {
                continue;
            }
            if matches!(bytes[start], b' ' | b'\t') {
                if bytes[start..end].iter().all(|byte| matches!(byte, b' ' | b'\t')) {
                    continue;
                }
                return Err(Problem::new(
                    start,
                    "white space begins the line, but there is no line that it could continue",
                ));
            }
            let mut span = Span { start, end, next, line, folded: false };
            // Most lines aren't continued: what tells is at hand.
            let soft = end > start && bytes[end - 1] == b'=' && is_quoted_printable(&bytes[start..end]);
            if soft || matches!(bytes.get(next), Some(b' ' | b'\t')) {
                self.go_on(bytes, &mut span, soft)?;
            }
            return Ok(Some(span));
        }
    }

    /// Takes in the physical lines that continue `span`.
    fn go_on(&mut self, bytes: &[u8], span: &mut Span, mut soft: bool) -> Result<(), Problem> {
        let quoted_printable = soft || is_quoted_printable(&bytes[span.start..span.end]);
        while span.next < bytes.len() && (soft || matches!(bytes[span.next], b' ' | b'\t')) {
            let begin = span.next;
            let (end, next) = self.physical(bytes, begin);
            span.folded = true;
            span.end = end;
            span.next = next;
            soft = quoted_printable && end > begin && bytes[end - 1] == b'=';
            if end - span.start > LINE_BYTES_MAX {
                let text = format!("this line and its continuations are longer than {LINE_BYTES_MAX} bytes");
                return Err(Problem::new(span.start, text));
            }
        }
        Ok(())
    }

    fn physical(&mut self, bytes: &[u8], at: usize) -> (usize, usize) {
        let (end, next) = physical(bytes, at);
        self.line += 1;
        self.at = next;
        (end, next)
    }
}

/// Where the physical line that begins at `at` ends, without and with its line end: CRLF, LF, CR, or CR CRLF, which careless
/// programs make of CRLF.
fn physical(bytes: &[u8], at: usize) -> (usize, usize) {
    let Some(length) = memchr2(b'\n', b'\r', &bytes[at..]) else { return (bytes.len(), bytes.len()) };
    let end = at + length;
    let next = match bytes[end..] {
        [b'\r', b'\r', b'\n', ..] => end + 3,
        [b'\r', b'\n', ..] => end + 2,
        _ => end + 1,
    };
    (end, next)
}

/// Whether a line's parameters say that its value is quoted-printable.
fn is_quoted_printable(line: &[u8]) -> bool {
    const NAME: &[u8] = b"QUOTED-PRINTABLE";
    let head = &line[..memchr(b':', line).unwrap_or(line.len())];
    head.len() > NAME.len() && head.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME))
}

/// Line and column of the byte at `at`, both counted from 1, the column in characters.
pub(crate) fn place(bytes: &[u8], at: usize) -> (u64, u64) {
    let at = at.min(bytes.len());
    let (mut line, mut start) = (1, 0);
    while start < at {
        let (_, next) = physical(bytes, start);
        if next > at || next == start || (next == bytes.len() && !ends_line(bytes)) {
            break;
        }
        start = next;
        line += 1;
    }
    let column = bytes[start..at].iter().filter(|byte| (**byte & 0xc0) != 0x80).count() as u64 + 1;
    (line, column)
}

fn ends_line(bytes: &[u8]) -> bool {
    matches!(bytes.last(), Some(b'\n' | b'\r'))
}

/// The first line end in `bytes`; CRLF, as the formats want it, where there is none.
pub(crate) fn line_ending(bytes: &[u8]) -> &'static str {
    match memchr2(b'\n', b'\r', bytes).map(|at| &bytes[at..]) {
        Some([b'\n', ..]) => "\n",
        Some([b'\r', b'\n', ..] | [b'\r', b'\r', b'\n', ..]) | None => "\r\n",
        Some(_) => "\r",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8], fold: Fold) -> Vec<String> {
        let mut spans = Spans::new(bytes);
        let mut out = Vec::new();
        while let Some(span) = spans.next().unwrap() {
            out.push(String::from_utf8(span.unfolded(bytes, fold).into_owned()).unwrap());
        }
        out
    }

    #[test]
    fn line_ends_of_every_sort_end_lines() {
        let bytes = b"A:1\r\nB:2\nC:3\rD:4\r\r\n\r\n\n  \nE:5";
        assert_eq!(lines(bytes, Fold::Octets), ["A:1", "B:2", "C:3", "D:4", "E:5"]);
    }

    #[test]
    fn folds_are_taken_out() {
        let bytes = "N:a\r\n b\n\tc\r  d\r\nM:é".as_bytes();
        assert_eq!(lines(bytes, Fold::Octets), ["N:abc d", "M:é"]);
        assert_eq!(lines(bytes, Fold::Words), ["N:a b\tc  d", "M:é"]);
        // Within a character too.
        assert_eq!(lines(b"N:\xc3\r\n \xa9", Fold::Octets), ["N:é"]);
    }

    #[test]
    fn soft_line_breaks_are_taken_out_of_quoted_printable_only() {
        let bytes = b"N;ENCODING=quoted-printable:a=\r\n  b=\r\nc=3D\r\nURL:x=\r\nM:y";
        assert_eq!(lines(bytes, Fold::Words), ["N;ENCODING=quoted-printable:a  bc=3D", "URL:x=", "M:y"]);
        let folded = b"N;ENCODING=QUOTED-PRINTABLE:a\r\n b=\r\n c";
        assert_eq!(lines(folded, Fold::Octets), ["N;ENCODING=QUOTED-PRINTABLE:ab c"]);
        assert_eq!(lines(b"N;QUOTED-PRINTABLE:a=", Fold::Words), ["N;QUOTED-PRINTABLE:a="]);
    }

    #[test]
    fn a_continuation_of_nothing_is_told() {
        let bytes = b"\r\n x:1";
        assert_eq!(Spans::new(bytes).next().unwrap_err().at, 2);
    }

    #[test]
    fn places_are_lines_and_columns() {
        let bytes = "A:1\r\nBé:2\rC\n".as_bytes();
        let places: Vec<_> = [0, 3, 5, 8, 9, 11, 12, 13].map(|at| place(bytes, at)).to_vec();
        assert_eq!(places, [(1, 1), (1, 4), (2, 1), (2, 3), (2, 4), (3, 1), (3, 2), (4, 1)]);
        assert_eq!(place(b"A", 1), (1, 2));
    }

    proptest! {
        #[test]
        fn spans_lie_one_behind_the_other_and_know_their_line(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "A:1", "B;QUOTED-PRINTABLE:", "=", "\r\n", "\n", "\r", " ", "\t", "é", ":", ";",
            ]), 0..30),
        ) {
            let text = pieces.concat();
            let bytes = text.as_bytes();
            let mut spans = Spans::new(bytes);
            let mut before = 0;
            while let Ok(Some(span)) = spans.next() {
                prop_assert!(before <= span.start && span.start < span.end && span.end <= span.next);
                prop_assert_eq!(place(bytes, span.start), (span.line, 1));
                for fold in [Fold::Octets, Fold::Words] {
                    let unfolded = span.unfolded(bytes, fold);
                    for at in 0..unfolded.len() {
                        let origin = span.origin(bytes, fold, at);
                        prop_assert!(origin < span.end || at == unfolded.len(), "{} {:?}", at, span);
                    }
                }
                before = span.next;
            }
        }
    }
}
