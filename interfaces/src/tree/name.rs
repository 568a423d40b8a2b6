//! Names that are no UTF-8, as text and back.
//!
//! A name of valid UTF-8 is itself. In another, each byte that belongs to no character is written `\xHH`, two lower-case
//! hexadecimal digits. So that this can be told from a name that happens to read so, the backslash of each `\xHH` that
//! stands in a name for real is itself written `\x5c`.

use std::borrow::Cow;

/// The text of a path or link target.
pub(super) fn to_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.as_bytes().windows(4).any(is_escape) => Cow::Borrowed(text),
        _ => Cow::Owned(escaped(bytes)),
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        for (at, char) in valid.char_indices() {
            match valid.as_bytes().get(at..at + 4).is_some_and(is_escape) {
                true => out.push_str("\\x5c"),
                false => out.push(char),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The bytes that [`to_text`] made the text of; `None` for text that it never makes.
pub(super) fn to_bytes(text: &str) -> Option<Cow<'_, [u8]>> {
    if !text.as_bytes().windows(4).any(is_escape) {
        return Some(Cow::Borrowed(text.as_bytes()));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        match rest.get(..4).filter(|start| is_escape(start)) {
            Some(escape) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&escape[2..]).ok()?, 16).ok()?);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    (to_text(&bytes) == text).then_some(Cow::Owned(bytes))
}

fn is_escape(bytes: &[u8]) -> bool {
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    matches!(bytes, [b'\\', b'x', high, low] if digit(high) && digit(low))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_names_that_need_it_are_escaped() {
        for name in ["a", "ü\\x", "\\xg1", "\\x4", "a\\xFF"] {
            assert_eq!(to_text(name.as_bytes()), name);
        }
        assert_eq!(to_text(b"a\xff\\x41"), "a\\xff\\x5cx41");
        assert_eq!(to_text(b"\\x41"), "\\x5cx41");
        // Text that stands for what has a text of its own.
        assert_eq!(to_bytes("\\x41"), None);
        assert_eq!(to_bytes("\\x2f"), None);
    }

    fn names() -> impl Strategy<Value = Vec<u8>> {
        let piece =
            prop::sample::select(vec![&b"a"[..], b"\\x", b"\\", b"x", b"4", b"ff", b"5c", b"\xff", b"\xc3", b"\xa4"]);
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in names()) {
            let text = to_text(&name);
            let bytes = to_bytes(&text);
            prop_assert_eq!(bytes.as_deref(), Some(&name[..]));
        }

        #[test]
        fn no_text_stands_for_another_name(text in names().prop_map(|name| String::from_utf8_lossy(&name).into_owned())) {
            if let Some(bytes) = to_bytes(&text) {
                prop_assert_eq!(to_text(&bytes), text.as_str());
            }
        }
    }
}
