//! Character sets: of a whole file, and of a single value (`CHARSET=`).

use std::borrow::Cow;

use super::Problem;

/// How the characters of a file are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileEncoding {
    /// The only one in which single values may be of another character set.
    Utf8,
    Utf16Le,
    Utf16Be,
    /// ISO 8859-1: byte n is U+00n.
    Latin1,
    /// As browsers read it (WHATWG), where every byte is some character.
    Windows1252,
}

/// The form of a file, which is kept when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileForm {
    /// Its encoding.
    pub(crate) encoding: FileEncoding,
    /// Whether a byte order mark stands in front.
    pub(crate) mark: bool,
}

impl FileEncoding {
    /// The names for options.
    pub(crate) const NAMES: [(&str, FileEncoding); 5] = [
        ("utf-8", FileEncoding::Utf8),
        ("utf-16le", FileEncoding::Utf16Le),
        ("utf-16be", FileEncoding::Utf16Be),
        ("latin1", FileEncoding::Latin1),
        ("windows-1252", FileEncoding::Windows1252),
    ];

    /// The encoding of that name.
    pub(crate) fn from_name(name: &str) -> Option<FileEncoding> {
        FileEncoding::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, encoding)| *encoding)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        FileEncoding::NAMES.iter().find(|(_, encoding)| *encoding == self).map_or("", |(name, _)| name)
    }

    /// Whether it has all of Unicode.
    pub(crate) fn is_unicode(self) -> bool {
        !matches!(self, FileEncoding::Latin1 | FileEncoding::Windows1252)
    }

    /// The first character of `text` that this encoding lacks.
    pub(crate) fn lacks(self, text: &str) -> Option<char> {
        match self {
            FileEncoding::Latin1 => text.chars().find(|char| u8::try_from(*char).is_err()),
            FileEncoding::Windows1252 => text.chars().find(|char| windows_1252(*char).is_none()),
            _ => None,
        }
    }

    fn mark(self) -> &'static [u8] {
        match self {
            FileEncoding::Utf8 => &[0xef, 0xbb, 0xbf],
            FileEncoding::Utf16Le => &[0xff, 0xfe],
            FileEncoding::Utf16Be => &[0xfe, 0xff],
            FileEncoding::Latin1 | FileEncoding::Windows1252 => &[],
        }
    }

    fn of_mark(bytes: &[u8]) -> Option<FileEncoding> {
        [FileEncoding::Utf8, FileEncoding::Utf16Le, FileEncoding::Utf16Be]
            .into_iter()
            .find(|encoding| bytes.starts_with(encoding.mark()))
    }
}

impl FileForm {
    /// What a new file is.
    pub(crate) fn new(given: Option<FileEncoding>) -> FileForm {
        let encoding = given.unwrap_or(FileEncoding::Utf8);
        FileForm { encoding, mark: matches!(encoding, FileEncoding::Utf16Le | FileEncoding::Utf16Be) }
    }

    /// A file's content without byte order mark, in UTF-8 but for values of other character sets in a UTF-8 file. The
    /// encoding is what the mark says, else `given`, else UTF-8; it is never guessed.
    ///
    /// Problems are at offsets in the content decoded so far, which comes with them for [`super::place`].
    pub(crate) fn decode(
        bytes: Vec<u8>,
        given: Option<FileEncoding>,
    ) -> Result<(FileForm, Vec<u8>), (Vec<u8>, Problem)> {
        let marked = FileEncoding::of_mark(&bytes);
        let encoding = marked.or(given).unwrap_or(FileEncoding::Utf8);
        let form = FileForm { encoding, mark: marked.is_some() };
        let body = &bytes[if form.mark { encoding.mark().len() } else { 0 }..];
        let content = match encoding {
            FileEncoding::Utf8 if form.mark => body.to_vec(),
            FileEncoding::Utf8 => return Ok((form, bytes)),
            FileEncoding::Utf16Le | FileEncoding::Utf16Be => utf_16(body, encoding)?,
            FileEncoding::Latin1 => body.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes(),
            FileEncoding::Windows1252 => {
                encoding_rs::WINDOWS_1252.decode_without_bom_handling(body).0.into_owned().into_bytes()
            }
        };
        Ok((form, content))
    }

    /// The file with `content`; a character that the encoding lacks is the error, with its offset.
    pub(crate) fn encode(self, content: Vec<u8>) -> Result<Vec<u8>, Problem> {
        let mark = if self.mark { self.encoding.mark() } else { &[] };
        if self.encoding == FileEncoding::Utf8 {
            return Ok(if self.mark { [mark, &content].concat() } else { content });
        }
        let text = std::str::from_utf8(&content).map_err(|error| {
            let text =
                format!("a value in a character set of its own can't stand in a file in {}", self.encoding.name());
            Problem::new(error.valid_up_to(), text)
        })?;
        if let Some(char) = self.encoding.lacks(text) {
            let text_at = text.find(char).unwrap_or_default();
            let problem = format!("{} has no character {char:?} (U+{:04X})", self.encoding.name(), u32::from(char));
            return Err(Problem::new(text_at, problem));
        }
        let mut out = mark.to_vec();
        match self.encoding {
            FileEncoding::Utf16Le => out.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
            FileEncoding::Utf16Be => out.extend(text.encode_utf16().flat_map(u16::to_be_bytes)),
            FileEncoding::Windows1252 => out.extend(text.chars().filter_map(windows_1252)),
            _ => out.extend(text.chars().filter_map(|char| u8::try_from(char).ok())),
        }
        Ok(out)
    }
}

/// The characters of a value in the character set `label`; UTF-8 where none is named.
pub(crate) fn decode<'a>(label: Option<&str>, value: &'a [u8]) -> Result<Cow<'a, str>, Problem> {
    let named = match label {
        None => None,
        Some(label) => Some(known(label).ok_or_else(|| {
            Problem::new(0, format!("`CHARSET={}` is no character set known here", label.escape_debug()))
        })?),
    };
    match named.filter(|charset| *charset != encoding_rs::UTF_8) {
        None => std::str::from_utf8(value).map(Cow::Borrowed).map_err(|error| {
            let text =
                "these bytes are not UTF-8; another character set must be named, by `CHARSET` or the option `encoding`";
            Problem::new(error.valid_up_to(), text)
        }),
        Some(charset) => charset
            .decode_without_bom_handling_and_without_replacement(value)
            .ok_or_else(|| Problem::new(0, format!("the value is not of its character set {}", charset.name()))),
    }
}

/// The bytes of `text` in the character set `label`; `None` where it lacks a character or nobody knows it.
pub(crate) fn encode<'a>(label: &str, text: &'a str) -> Option<Cow<'a, [u8]>> {
    let charset = known(label)?;
    // Of UTF-16 only the reading is known here.
    let (bytes, used, lacking) = charset.encode(text);
    (!lacking && used == charset).then_some(bytes)
}

fn known(label: &str) -> Option<&'static encoding_rs::Encoding> {
    encoding_rs::Encoding::for_label_no_replacement(label.as_bytes())
}

fn windows_1252(char: char) -> Option<u8> {
    let mut text = [0; 4];
    let (bytes, _, unmappable) = encoding_rs::WINDOWS_1252.encode(char.encode_utf8(&mut text));
    match *bytes {
        [byte] if !unmappable => Some(byte),
        _ => None,
    }
}

fn utf_16(body: &[u8], encoding: FileEncoding) -> Result<Vec<u8>, (Vec<u8>, Problem)> {
    let unit = |pair: &[u8]| match encoding {
        FileEncoding::Utf16Le => u16::from_le_bytes([pair[0], pair[1]]),
        _ => u16::from_be_bytes([pair[0], pair[1]]),
    };
    let mut out = String::with_capacity(body.len());
    let mut problem = (body.len() % 2 == 1).then_some("half of a 16-bit unit at the end");
    for char in char::decode_utf16(body.chunks_exact(2).map(unit)) {
        match char {
            Ok(char) => out.push(char),
            Err(_) => {
                problem = Some("half of a surrogate pair");
                break;
            }
        }
    }
    match problem {
        None => Ok(out.into_bytes()),
        Some(problem) => {
            let at = out.len();
            Err((out.into_bytes(), Problem::new(at, format!("not {}: {problem}", encoding.name()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn files_come_back_from_every_encoding(text in any::<String>(), mark in any::<bool>()) {
            for (_, encoding) in FileEncoding::NAMES {
                let form = FileForm { encoding, mark: mark && !encoding.mark().is_empty() };
                match form.encode(text.clone().into_bytes()) {
                    Ok(bytes) if form.mark || FileEncoding::of_mark(&bytes).is_none() => {
                        let (again, content) = FileForm::decode(bytes, Some(encoding)).unwrap();
                        prop_assert_eq!((again, content), (form, text.clone().into_bytes()));
                    }
                    Ok(_) => {}
                    Err(problem) => prop_assert!(!encoding.is_unicode() && text.is_char_boundary(problem.at)),
                }
            }
        }

        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for (_, encoding) in FileEncoding::NAMES {
                if let Ok((form, content)) = FileForm::decode(bytes.clone(), Some(encoding)) {
                    prop_assert_eq!(form.encode(content).unwrap(), bytes.clone());
                }
            }
        }
    }

    #[test]
    fn broken_utf_16_is_told_with_its_place() {
        let (content, problem) = FileForm::decode(b"\xff\xfea\0\n\0\0\xd8".to_vec(), None).unwrap_err();
        assert_eq!((content, problem.at), (b"a\n".to_vec(), 2));
    }
}
