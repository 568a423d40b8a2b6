//! Lines on their way out.

use super::{FOLD_OCTETS, Fold};

/// Appends `line` folded at [`FOLD_OCTETS`], never within a character, and ended with `ending`.
///
/// With [`Fold::Words`] it is folded where there are spaces, and stays longer where there are none.
pub(crate) fn fold(line: &str, how: Fold, ending: &str, out: &mut Vec<u8>) {
    if how == Fold::Words {
        return fold_words(line, ending, out);
    }
    let mut rest = line;
    let mut room = FOLD_OCTETS;
    while rest.len() > room {
        let at = rest.floor_char_boundary(room);
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.extend_from_slice(ending.as_bytes());
        out.push(b' ');
        rest = &rest[at..];
        // The space counts.
        room = FOLD_OCTETS - 1;
    }
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(ending.as_bytes());
}

fn fold_words(line: &str, ending: &str, out: &mut Vec<u8>) {
    let mut rest = line;
    // The first byte stays with what is before: a line of nothing but white space would be a blank one.
    while let Some(at) = (rest.len() > FOLD_OCTETS).then(|| word_break(rest)).flatten() {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.extend_from_slice(ending.as_bytes());
        rest = &rest[at..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(ending.as_bytes());
}

/// The last place that keeps the line short, else the first at all, at which a word stands behind a single space.
fn word_break(line: &str) -> Option<usize> {
    let bytes = line.as_bytes();
    let value = line.find(':').unwrap_or(0) + 1;
    let breaks = |at: &usize| {
        bytes[*at] == b' ' && bytes[*at - 1] != b' ' && bytes.get(*at + 1).is_some_and(|next| *next != b' ')
    };
    let short = (value + 1..bytes.len().min(FOLD_OCTETS + 1)).rev().find(breaks);
    short.or_else(|| (value.max(FOLD_OCTETS) + 1..bytes.len()).find(breaks))
}

/// Appends a line with a quoted-printable value broken by soft line breaks, and ended with `ending`.
pub(crate) fn soft_break(line: &str, ending: &str, out: &mut Vec<u8>) {
    // Up to the colon nothing can be broken.
    let head = line.find(':').map_or(line.len(), |at| at + 1);
    let mut rest = line;
    let mut least = head;
    while rest.len() > FOLD_OCTETS.max(least) {
        let mut at = (FOLD_OCTETS - 1).max(least);
        // Not within `=C3`.
        if let Some(escape) = rest.as_bytes()[at.saturating_sub(2)..at].iter().rposition(|byte| *byte == b'=') {
            let start = at.saturating_sub(2) + escape;
            if start >= least {
                at = start;
            }
        }
        if at == 0 || !rest.is_char_boundary(at) {
            break;
        }
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.push(b'=');
        out.extend_from_slice(ending.as_bytes());
        rest = &rest[at..];
        least = 0;
    }
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(ending.as_bytes());
}

/// `NAME=value,"other value"`, with quotes where a value needs them and the escapes of RFC 6868. Of line breaks there is only
/// one sort: CRLF and CR become it too.
pub(crate) fn parameter(name: &str, values: &[impl AsRef<str>]) -> String {
    let mut out = format!("{name}=");
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let value = value.as_ref();
        let quoted = value.contains([':', ';', ',']);
        out.extend(quoted.then_some('"'));
        let mut chars = value.chars().peekable();
        while let Some(char) = chars.next() {
            match char {
                '^' => out.push_str("^^"),
                '"' => out.push_str("^'"),
                '\r' => {
                    chars.next_if_eq(&'\n');
                    out.push_str("^n");
                }
                '\n' => out.push_str("^n"),
                char => out.push(char),
            }
        }
        out.extend(quoted.then_some('"'));
    }
    out
}

/// Bytes with some ranges replaced; all others stay. Edits are given in the order of the bytes.
#[derive(Debug)]
pub(crate) struct Splice<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    out: Vec<u8>,
}

impl<'a> Splice<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Splice<'a> {
        Splice::within(bytes, 0..bytes.len())
    }

    /// The bytes of `range`; edits are at offsets in `bytes`.
    pub(crate) fn within(bytes: &'a [u8], range: std::ops::Range<usize>) -> Splice<'a> {
        Splice { bytes, at: range.start, end: range.end, out: Vec::with_capacity(range.len() + 256) }
    }

    /// Puts `new` in place of `range` (an empty one inserts, empty bytes remove). Ranges that don't follow the one before
    /// are an error in the caller.
    pub(crate) fn replace(&mut self, range: std::ops::Range<usize>, new: &[u8]) {
        assert!(self.at <= range.start && range.start <= range.end && range.end <= self.end, "edits come in order");
        self.out.extend_from_slice(&self.bytes[self.at..range.start]);
        self.out.extend_from_slice(new);
        self.at = range.end;
    }

    /// The bytes with all edits.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&self.bytes[self.at..self.end]);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fold, Spans};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn folded_lines_are_short_and_come_back(value in "[ aé€𝄞]{0,200}") {
            let line = format!("N:{value}");
            let mut out = Vec::new();
            fold(&line, Fold::Octets, "\r\n", &mut out);
            let text = std::str::from_utf8(&out).unwrap();
            prop_assert!(text.lines().all(|line| line.len() <= FOLD_OCTETS));
            for how in [Fold::Octets, Fold::Words] {
                out.clear();
                fold(&line, how, "\r\n", &mut out);
                let span = Spans::new(&out).next().unwrap().unwrap();
                prop_assert_eq!(span.next, out.len());
                prop_assert_eq!(&*span.unfolded(&out, how), line.as_bytes());
            }
        }

        #[test]
        fn soft_breaks_come_back(value in "(=C3|=A9|a| ){0,100}", name in "X{1,90}") {
            let line = format!("{name};ENCODING=QUOTED-PRINTABLE:{value}.");
            let mut out = Vec::new();
            soft_break(&line, "\n", &mut out);
            let text = std::str::from_utf8(&out).unwrap();
            prop_assert!(text.lines().skip(1).all(|line| line.len() <= FOLD_OCTETS));
            prop_assert!(text.lines().all(|line| !line.ends_with("=C=") && !line.ends_with("==")));
            let span = Spans::new(&out).next().unwrap().unwrap();
            prop_assert_eq!(span.next, out.len());
            prop_assert_eq!(&*span.unfolded(&out, Fold::Words), line.as_bytes());
        }
    }

    #[test]
    fn a_splice_changes_nothing_else() {
        let mut splice = Splice::new(b"abcdef");
        splice.replace(1..2, b"X");
        splice.replace(2..2, b"Y");
        splice.replace(4..6, b"");
        assert_eq!(splice.finish(), b"aXYcd");
    }
}
