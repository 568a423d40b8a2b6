//! Character encodings: files in any of them are read and written through UTF-8.

use std::collections::VecDeque;
use std::io::{self, Read};

/// How characters are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
    /// ISO 8859-1: byte n is U+00n.
    Latin1,
    /// As browsers read it (WHATWG), where every byte is some character.
    Windows1252,
}

/// Bytes that are not of the encoding.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub(super) struct NotEncoded {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) problem: String,
}

impl Encoding {
    pub(super) const NAMES: [(&str, Encoding); 5] = [
        ("utf-8", Encoding::Utf8),
        ("utf-16le", Encoding::Utf16Le),
        ("utf-16be", Encoding::Utf16Be),
        ("latin1", Encoding::Latin1),
        ("windows-1252", Encoding::Windows1252),
    ];

    pub(super) fn name(self) -> &'static str {
        Encoding::NAMES.iter().find(|(_, encoding)| *encoding == self).map_or("", |(name, _)| name)
    }

    pub(super) fn from_name(name: &str) -> Option<Encoding> {
        let name = name.to_ascii_lowercase();
        Encoding::NAMES.iter().find(|(known, _)| *known == name).map(|(_, encoding)| *encoding)
    }

    /// The encoding whose byte order mark stands at the front of `bytes`, with the mark's length.
    pub(super) fn of_mark(bytes: &[u8]) -> Option<(Encoding, usize)> {
        match bytes {
            [0xef, 0xbb, 0xbf, ..] => Some((Encoding::Utf8, 3)),
            [0xff, 0xfe, ..] => Some((Encoding::Utf16Le, 2)),
            [0xfe, 0xff, ..] => Some((Encoding::Utf16Be, 2)),
            _ => None,
        }
    }

    /// Its byte order mark; none where characters are single bytes.
    pub(super) fn mark(self) -> &'static [u8] {
        match self {
            Encoding::Utf8 => &[0xef, 0xbb, 0xbf],
            Encoding::Utf16Le => &[0xff, 0xfe],
            Encoding::Utf16Be => &[0xfe, 0xff],
            Encoding::Latin1 | Encoding::Windows1252 => &[],
        }
    }

    /// Whether it has all of Unicode.
    pub(super) fn is_unicode(self) -> bool {
        !matches!(self, Encoding::Latin1 | Encoding::Windows1252)
    }

    /// Appends `text` in this encoding; the first character that it lacks is the error.
    pub(super) fn encode(self, text: &str, out: &mut Vec<u8>) -> Result<(), char> {
        match self {
            Encoding::Utf8 => out.extend_from_slice(text.as_bytes()),
            Encoding::Utf16Le => out.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
            Encoding::Utf16Be => out.extend(text.encode_utf16().flat_map(u16::to_be_bytes)),
            Encoding::Latin1 => {
                for char in text.chars() {
                    out.push(u8::try_from(char).map_err(|_| char)?);
                }
            }
            Encoding::Windows1252 => {
                for char in text.chars() {
                    out.push(windows_1252(char).ok_or(char)?);
                }
            }
        }
        Ok(())
    }

    /// UTF-8 from a stream in this encoding, which stands behind any byte order mark.
    pub(super) fn decoder(self, stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
        match self {
            Encoding::Utf8 => Box::new(stream),
            _ => Box::new(Decoder {
                stream,
                encoding: self,
                bytes: Vec::new(),
                decoded: VecDeque::new(),
                ended: false,
                line: 1,
                column: 1,
            }),
        }
    }
}

fn windows_1252(char: char) -> Option<u8> {
    let mut text = [0; 4];
    let (bytes, _, unmappable) = encoding_rs::WINDOWS_1252.encode(char.encode_utf8(&mut text));
    match *bytes {
        [byte] if !unmappable => Some(byte),
        _ => None,
    }
}

struct Decoder<R> {
    stream: R,
    encoding: Encoding,
    /// Bytes read and not yet decoded: less than a character after each step.
    bytes: Vec<u8>,
    /// UTF-8 not yet given out.
    decoded: VecDeque<u8>,
    ended: bool,
    line: u64,
    column: u64,
}

/// How much is decoded in one step.
const STEP_BYTES: usize = 64 * 1024;

impl<R: Read> Decoder<R> {
    fn step(&mut self) -> io::Result<()> {
        let before = self.bytes.len();
        self.bytes.resize(before + STEP_BYTES, 0);
        let read = self.stream.read(&mut self.bytes[before..]);
        self.bytes.truncate(before + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        let mut text = String::with_capacity(STEP_BYTES * 2);
        match self.encoding {
            Encoding::Utf16Le | Encoding::Utf16Be => self.step_utf_16(&mut text)?,
            Encoding::Windows1252 => {
                text.push_str(&encoding_rs::WINDOWS_1252.decode_without_bom_handling(&self.bytes).0);
                self.bytes.clear();
            }
            Encoding::Latin1 | Encoding::Utf8 => {
                text.extend(self.bytes.iter().map(|&byte| char::from(byte)));
                self.bytes.clear();
            }
        }
        self.decoded.extend(text.as_bytes());
        Ok(())
    }

    fn step_utf_16(&mut self, text: &mut String) -> io::Result<()> {
        let mut whole = self.bytes.len() & !1;
        let unit = |pair: &[u8]| match self.encoding {
            Encoding::Utf16Le => u16::from_le_bytes([pair[0], pair[1]]),
            _ => u16::from_be_bytes([pair[0], pair[1]]),
        };
        // The second half of a character may still come.
        if !self.ended && whole >= 2 && (0xd800..0xdc00).contains(&unit(&self.bytes[whole - 2..whole])) {
            whole -= 2;
        }
        let mut problem = None;
        for char in char::decode_utf16(self.bytes[..whole].chunks_exact(2).map(unit)) {
            match char {
                Ok(char) => {
                    text.push(char);
                    (self.line, self.column) =
                        if char == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
                }
                Err(_) => {
                    problem = Some("half of a surrogate pair");
                    break;
                }
            }
        }
        self.bytes.drain(..whole);
        if self.ended && !self.bytes.is_empty() {
            problem = problem.or(Some("half of a 16-bit unit at the end"));
        }
        match problem {
            None => Ok(()),
            Some(problem) => Err(io::Error::other(NotEncoded {
                line: self.line,
                column: self.column,
                problem: format!("not {}: {problem}", self.encoding.name()),
            })),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.decoded.is_empty() && !self.ended {
            self.step()?;
        }
        self.decoded.read(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(encoding: Encoding, bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        encoding.decoder(io::Cursor::new(bytes.to_vec())).read_to_string(&mut text)?;
        Ok(text)
    }

    proptest! {
        #[test]
        fn text_comes_back_from_every_encoding(text in any::<String>()) {
            for (_, encoding) in Encoding::NAMES {
                let mut bytes = Vec::new();
                match encoding.encode(&text, &mut bytes) {
                    Ok(()) => prop_assert_eq!(decode(encoding, &bytes).unwrap(), text.as_str()),
                    Err(_) => prop_assert!(!encoding.is_unicode()),
                }
            }
        }
    }

    #[test]
    fn every_byte_of_the_single_byte_encodings_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for encoding in [Encoding::Latin1, Encoding::Windows1252] {
            let text = decode(encoding, &bytes).unwrap();
            let mut again = Vec::new();
            encoding.encode(&text, &mut again).unwrap();
            assert_eq!(again, bytes, "{encoding:?}");
        }
    }

    #[test]
    fn broken_utf_16_is_told_with_its_place() {
        for (bytes, place) in [(&b"a\0\n\0b\0\0\xd8c\0"[..], (2, 2)), (b"a\0b", (1, 2)), (b"a\0\0\xd8", (1, 2))] {
            let error = decode(Encoding::Utf16Le, bytes).unwrap_err().downcast::<NotEncoded>().unwrap();
            assert_eq!((error.line, error.column), place, "{bytes:?}");
        }
    }
}
