//! Text in values: the escapes of RFC 6350 (3.4) and RFC 5545 (3.3.11), which are the same.

use std::borrow::Cow;

/// Appends `text` with backslash, comma, semicolon and line break escaped. Of line breaks there is only one sort: CRLF and
/// CR become it too.
pub(crate) fn escape(text: &str, out: &mut String) {
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' | ',' | ';' => out.extend(['\\', char]),
            '\r' => {
                chars.next_if_eq(&'\n');
                out.push_str("\\n");
            }
            '\n' => out.push_str("\\n"),
            char => out.push(char),
        }
    }
}

/// Text without its escapes: `\n` and `\N` are line breaks; `\\`, `\,`, `\;` and, as some programs write it, `\:` are the
/// second character. A backslash before anything else is itself.
pub(crate) fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(char) = chars.next() {
        let plain = match (char, chars.peek()) {
            ('\\', Some('n' | 'N')) => '\n',
            ('\\', Some(next @ ('\\' | ',' | ';' | ':'))) => *next,
            _ => {
                out.push(char);
                continue;
            }
        };
        chars.next();
        out.push(plain);
    }
    Cow::Owned(out)
}

/// The parts of `raw` between separators that no backslash escapes, escapes still in them.
pub(crate) fn split(raw: &str, separator: u8) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, byte) in raw.bytes().enumerate() {
        if byte == separator && !escaped {
            parts.push(&raw[start..at]);
            start = at + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.push(&raw[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_lists_come_back(texts in prop::collection::vec("[a\\\\,;:\nNné]{0,8}", 1..4)) {
            let mut raw = String::new();
            for (at, text) in texts.iter().enumerate() {
                if at > 0 {
                    raw.push(',');
                }
                escape(text, &mut raw);
            }
            prop_assert!(!raw.contains('\n'));
            let again: Vec<_> = split(&raw, b',').into_iter().map(|part| unescape(part).into_owned()).collect();
            prop_assert_eq!(again, texts);
        }
    }

    #[test]
    fn odd_escapes_stay() {
        assert_eq!(unescape(r"a\b\\n\:\"), r"ab\n:\".replacen("ab", r"a\b", 1));
        let mut out = String::new();
        escape("a\r\nb\rc\n", &mut out);
        assert_eq!(out, r"a\nb\nc\n");
    }
}
