//! How a value travels in its line: as it is, quoted-printable or in base64, in some character set.

use super::property::{Attributes, Version};
use crate::formats::content_line::{Line, base64_decode, charset_decode, escape, qp_decode, qp_encode};

/// What a line says of its value's encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    encoding: Encoding,
    charset: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    fn named(name: &str) -> Option<Encoding> {
        const NAMES: &[(&str, Encoding)] = &[
            ("QUOTED-PRINTABLE", Encoding::QuotedPrintable),
            ("BASE64", Encoding::Base64),
            ("B", Encoding::Base64),
            ("7BIT", Encoding::Plain),
            ("8BIT", Encoding::Plain),
        ];
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, encoding)| *encoding)
    }
}

impl Transport {
    /// What `line` says, and all else that it says beside its value.
    pub(super) fn of(line: &Line<'_>) -> (Transport, Attributes) {
        let mut transport = Transport { encoding: Encoding::Plain, charset: None };
        let mut attributes = Attributes { group: line.group.map(str::to_owned), ..Attributes::default() };
        for parameter in &line.parameters {
            let values = parameter.values.iter().map(|value| value.clone().into_owned());
            let first = parameter.values.first().map_or("", |value| value);
            let named = |name| parameter.is(name);
            match parameter.name {
                None if Transport::is_word(first) => {
                    transport.encoding = Encoding::named(first).unwrap_or(transport.encoding);
                }
                None => attributes.types.extend(values),
                Some(_) if named("TYPE") => attributes.types.extend(values),
                Some(_) if named("ENCODING") && Encoding::named(first).is_some() => {
                    transport.encoding = Encoding::named(first).unwrap_or(transport.encoding);
                }
                Some(_) if named("CHARSET") => transport.charset = Some(first.to_owned()),
                Some(name) if named("PREF") && attributes.pref.is_none() && values.len() == 1 => {
                    match canonical_pref(first) {
                        Some(pref) => attributes.pref = Some(pref),
                        None => attributes.add(name, values),
                    }
                }
                Some(name) => attributes.add(name, values),
            }
        }
        (transport, attributes)
    }

    /// Whether a bare word of 2.1 names an encoding. `B` alone could be anything.
    pub(super) fn is_word(word: &str) -> bool {
        word.len() > 1 && Encoding::named(word).is_some()
    }

    pub(super) fn is_plain(&self) -> bool {
        self.encoding == Encoding::Plain
    }

    pub(super) fn is_base64(&self) -> bool {
        self.encoding == Encoding::Base64
    }

    /// Whether the line says anything of it.
    pub(super) fn is_silent(&self) -> bool {
        self.is_plain() && self.charset.is_none()
    }

    /// The text that `raw`, a value or a part of one, stands for; escapes stay.
    pub(super) fn decode(&self, raw: &str) -> Result<String, String> {
        let bytes = match self.encoding {
            Encoding::Plain => return Ok(raw.to_owned()),
            Encoding::QuotedPrintable => qp_decode(raw.as_bytes()).map_err(|at| {
                let found: String = raw.chars().skip(raw[..at].chars().count()).take(3).collect();
                format!("`{}` is no quoted-printable", found.escape_debug())
            })?,
            Encoding::Base64 => base64_decode(raw).ok_or("this is not base64")?,
        };
        let text = charset_decode(self.charset.as_deref(), &bytes).map_err(|problem| problem.text)?;
        Ok(text.into_owned())
    }
}

fn canonical_pref(text: &str) -> Option<u8> {
    text.parse().ok().filter(|pref: &u8| (1..=100).contains(pref) && pref.to_string() == text)
}

/// Text as a value: parameters for its encoding, and the value.
pub(super) fn encode_text(text: &str, version: Version) -> (String, String) {
    match version {
        Version::V21 if needs_quoting(text) || text.contains('\\') => quoted_printable(text, |byte| byte != b'\\'),
        Version::V21 => (String::new(), text.to_owned()),
        Version::V30 | Version::V40 => {
            let mut raw = String::new();
            escape(text, &mut raw);
            (String::new(), raw)
        }
    }
}

/// A value that has no escapes of its own.
pub(super) fn encode_raw(raw: &str, version: Version) -> (String, String) {
    let needs = match version {
        Version::V21 => needs_quoting(raw),
        // Only what would end the line.
        Version::V30 | Version::V40 => raw.contains(['\r', '\n']),
    };
    if needs { quoted_printable(raw, |_| true) } else { (String::new(), raw.to_owned()) }
}

/// Components, each a list of texts where `lists` says so.
pub(super) fn encode_parts(parts: &[Vec<String>], lists: bool, version: Version) -> (String, String) {
    let texts = || parts.iter().flatten();
    let quotes = version == Version::V21 && texts().any(|text| needs_quoting(text) || text.contains('\\'));
    let mut value = String::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            value.push(';');
        }
        for (at, text) in part.iter().enumerate() {
            if at > 0 && lists {
                value.push_str(if version == Version::V21 { "\\," } else { "," });
            }
            match version {
                Version::V21 => {
                    // A semicolon of the text's own is escaped; the backslash before it is no other text's.
                    let mut pieces = text.split(';');
                    let put = |piece: &str, out: &mut String| match quotes {
                        true => qp_encode(piece.as_bytes(), |byte| byte != b'\\', out),
                        false => out.push_str(piece),
                    };
                    put(pieces.next().unwrap_or_default(), &mut value);
                    for piece in pieces {
                        value.push_str("\\;");
                        put(piece, &mut value);
                    }
                }
                Version::V30 | Version::V40 => escape(text, &mut value),
            }
        }
    }
    (if quotes { QUOTED_PRINTABLE.into() } else { String::new() }, value)
}

const QUOTED_PRINTABLE: &str = ";CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE";

fn quoted_printable(text: &str, literal: impl Fn(u8) -> bool) -> (String, String) {
    let mut value = String::new();
    qp_encode(text.as_bytes(), literal, &mut value);
    (QUOTED_PRINTABLE.into(), value)
}

/// What 2.1 can't say as it is: all but printable ASCII, and spaces at the ends, which programs lose.
fn needs_quoting(text: &str) -> bool {
    !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') || text.starts_with(' ') || text.ends_with(' ')
}
