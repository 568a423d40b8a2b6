//! A property as it is meant, and as a line of each version says it.
//!
//! What a property means does not depend on the version in which it is written; reading what was written gives the very
//! same property in each. Encodings (`ENCODING`, `CHARSET`) are the line's matter alone.
//!
//! | | 2.1 | 3.0 | 4.0 |
//! |---|---|---|---|
//! | types | bare words, else `TYPE=` | `TYPE=a,b` | `TYPE=a,b` |
//! | `pref: 1` | `PREF` | `TYPE=pref` | `PREF=1` |
//! | text beyond ASCII, or of several lines | quoted-printable, `CHARSET=UTF-8` | itself, `\n` | itself, `\n` |
//! | bytes | `ENCODING=BASE64`, `TYPE=JPEG` | `ENCODING=b`, `TYPE=JPEG` | a `data:` URI |
//! | a URI in their place | `VALUE=URL` | `VALUE=uri` | itself |
//! | a date | `1985-04-12` | `1985-04-12` | `19850412` |

use deltabus_record::text;
use deltabus_record::value::{Date, Kind, Value};

use super::fields::{Content, FieldOf};
use super::transport::{Transport, encode_raw, encode_text};
use crate::formats::content_line::{
    self, Line, Problem, base64_decode, base64_encode, escape, parameter, split, unescape,
};

/// The dialect of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V21,
    V30,
    V40,
}

impl Version {
    /// The dialect that `VERSION:` names. What comes after 4.0 is read as that; a card that says nothing as 3.0.
    pub(super) fn named(name: Option<&str>) -> Version {
        match name.map(str::trim) {
            Some("2.1" | "2.0" | "1.0") => Version::V21,
            Some("3.0") | None => Version::V30,
            Some(_) => Version::V40,
        }
    }

    /// What `VERSION:` says.
    pub(super) fn name(self) -> &'static str {
        match self {
            Version::V21 => "2.1",
            Version::V30 => "3.0",
            Version::V40 => "4.0",
        }
    }

    /// How its lines are folded.
    pub(super) fn fold(self) -> content_line::Fold {
        match self {
            Version::V21 => content_line::Fold::Words,
            Version::V30 | Version::V40 => content_line::Fold::Octets,
        }
    }
}

/// A property as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) attributes: Attributes,
    pub(super) meaning: Meaning,
}

/// What is said beside the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) group: Option<String>,
    /// `TYPE`, and the bare words of 2.1; as written.
    pub(super) types: Vec<String>,
    /// 1 is the most preferred.
    pub(super) pref: Option<u8>,
    /// What sort of thing a URI leads to, for media only.
    pub(super) media: Option<String>,
    /// All other parameters in order, names distinct.
    pub(super) parameters: Vec<(String, Vec<String>)>,
}

/// The value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Text(String),
    Raw(String),
    Date(Date),
    /// Components, each a list of at least one text.
    Parts(Vec<Vec<String>>),
    Texts(Vec<String>),
    Bytes {
        media: String,
        bytes: Vec<u8>,
    },
}

impl Attributes {
    pub(super) fn is_empty(&self) -> bool {
        *self == Attributes::default()
    }

    /// The first value of the parameter `name`.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        found.1.first().map(String::as_str)
    }

    /// What `VALUE` says the value is, in lower case.
    fn value_type(&self) -> Option<String> {
        self.parameter("VALUE").map(str::to_ascii_lowercase)
    }

    fn take(&mut self, name: &str) -> Option<Vec<String>> {
        let at = self.parameters.iter().position(|(own, _)| own.eq_ignore_ascii_case(name))?;
        Some(self.parameters.remove(at).1)
    }

    /// Adds to the parameter `name`, which is in the list once.
    pub(super) fn add(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        match self.parameters.iter_mut().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
            Some((_, known)) => known.extend(values),
            None => self.parameters.push((name.to_owned(), values.into_iter().collect())),
        }
    }

    /// Brings what can be said in two ways into one: `TYPE="a,b"` is two types (RFC 6350, 5.6), a type `pref` is the
    /// preference 1, unless another is given.
    pub(super) fn settle(&mut self) {
        if self.types.iter().any(|word| word.is_empty() || word.contains(',')) {
            let words = self.types.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty());
            self.types = words.map(str::to_owned).collect();
        }
        if self.pref.is_none() && self.types.iter().any(|word| word.eq_ignore_ascii_case("pref")) {
            self.types.retain(|word| !word.eq_ignore_ascii_case("pref"));
            self.pref = Some(1);
        }
    }
}

impl Property {
    /// What `line` means, as a property of `field`. Problems are at offsets in the unfolded line.
    pub(super) fn read(line: &Line<'_>, field: &FieldOf, version: Version) -> Result<Property, Problem> {
        let at = line.head.len() + 1;
        let (transport, mut attributes) = Transport::of(line);
        let is_media = matches!(field.content, Content::Media(_));
        if is_media && version != Version::V40 {
            // What else is called a type says what sort of thing it is.
            attributes.settle();
            let mut words = std::mem::take(&mut attributes.types).into_iter();
            attributes.media = words.next();
            attributes.types = attributes.take(TYPES_OF_MEDIA).unwrap_or_default();
            attributes.types.extend(words);
        }
        let whole = || transport.decode(&line.value).map_err(|text| Problem::new(at, text));
        let meaning = match content_of(field.content, &attributes) {
            Content::Text if transport.is_plain() && version != Version::V21 => {
                Meaning::Text(unescape(&line.value).into_owned())
            }
            Content::Text if transport.is_base64() => Meaning::Text(whole()?),
            Content::Text => {
                let raw = if version == Version::V21 { line.value.replace("\\;", ";") } else { line.value.to_string() };
                let decoded = transport.decode(&raw).map_err(|text| Problem::new(at, text))?;
                Meaning::Text(if version == Version::V21 { decoded } else { unescape(&decoded).into_owned() })
            }
            Content::Raw => Meaning::Raw(whole()?),
            Content::Date => {
                let raw = whole()?;
                let is_date = matches!(attributes.value_type().as_deref(), None | Some("date"));
                match date(&raw).filter(|_| is_date) {
                    Some(date) => {
                        attributes.take("VALUE");
                        Meaning::Date(date)
                    }
                    None => Meaning::Raw(raw),
                }
            }
            Content::Parts(_) | Content::Organisation => {
                let lists = field.content != Content::Organisation;
                Meaning::Parts(parts(&line.value, lists, version, &transport).map_err(|text| Problem::new(at, text))?)
            }
            Content::Texts => {
                let decode = |part: &str| transport.decode(part).map(|part| unescape(&part).into_owned());
                let texts: Result<Vec<_>, _> = split(&line.value, b',').into_iter().map(decode).collect();
                Meaning::Texts(texts.map_err(|text| Problem::new(at, text))?)
            }
            Content::Media(sort) => {
                if transport.is_base64() {
                    let bytes = base64_decode(&line.value).ok_or_else(|| Problem::new(at, "this is not base64"))?;
                    let media = attributes.media.take().or_else(|| sniff(&bytes).map(str::to_owned));
                    let media = settled_media(&media.unwrap_or_else(|| UNKNOWN_MEDIA.to_owned()), sort);
                    Meaning::Bytes { media, bytes }
                } else {
                    media_of_uri(whole()?)
                }
            }
        };
        let mut property = Property { attributes, meaning };
        property.settle(field);
        Ok(property)
    }

    /// Brings what can be said in several ways into the one in which it is read.
    pub(super) fn settle(&mut self, field: &FieldOf) {
        self.attributes.settle();
        if let Content::Media(sort) = field.content {
            if matches!(self.attributes.value_type().as_deref(), Some("uri" | "url")) {
                self.attributes.take("VALUE");
            }
            if self.attributes.media.is_none() {
                let media = self.attributes.take("MEDIATYPE");
                self.attributes.media = media.and_then(|media| media.into_iter().next());
            }
            if let Some(media) = &mut self.attributes.media {
                *media = settled_media(media, sort);
            }
            if let Meaning::Bytes { media, .. } = &mut self.meaning {
                *media = settled_media(media, sort);
                // The bytes' own type says it already.
                self.attributes.media = None;
            }
        }
        match &mut self.meaning {
            Meaning::Text(text) => one_line_break(text),
            Meaning::Texts(texts) => texts.iter_mut().for_each(one_line_break),
            Meaning::Parts(parts) => parts.iter_mut().flatten().for_each(one_line_break),
            Meaning::Raw(_) | Meaning::Date(_) | Meaning::Bytes { .. } => {}
        }
        self.attributes.parameters.iter_mut().flat_map(|(_, values)| values).for_each(one_line_break);
        self.attributes.types.iter_mut().for_each(one_line_break);
    }

    /// The line that says it in `version`, unfolded.
    pub(super) fn write(&self, field: &FieldOf, version: Version) -> String {
        let (encoding, value) = self.encode(field, version);
        let mut head = self.attributes.head(field.property, field.content, &self.meaning, version);
        head.push_str(&encoding);
        format!("{head}:{value}")
    }

    /// The parameters that say how the value is encoded, and the value.
    pub(super) fn encode(&self, field: &FieldOf, version: Version) -> (String, String) {
        match &self.meaning {
            Meaning::Text(text) => encode_text(text, version),
            Meaning::Raw(raw) => encode_raw(raw, version),
            Meaning::Date(date) => (String::new(), date_text(*date, version)),
            Meaning::Parts(parts) => {
                let lists = field.content != Content::Organisation;
                super::transport::encode_parts(parts, lists, version)
            }
            Meaning::Texts(texts) => {
                let mut raw = String::new();
                for (at, text) in texts.iter().enumerate() {
                    if at > 0 {
                        raw.push(',');
                    }
                    escape(text, &mut raw);
                }
                encode_raw(&raw, version)
            }
            Meaning::Bytes { media, bytes } => match version {
                Version::V21 => (";ENCODING=BASE64".into(), base64_encode(bytes)),
                Version::V30 => (";ENCODING=b".into(), base64_encode(bytes)),
                Version::V40 => (String::new(), format!("data:{media};base64,{}", base64_encode(bytes))),
            },
        }
    }
}

impl Attributes {
    /// Group, name and parameters, as `version` says them.
    fn head(&self, name: &str, content: Content, meaning: &Meaning, version: Version) -> String {
        let mut out = String::new();
        if let Some(group) = &self.group {
            out.push_str(group);
            out.push('.');
        }
        out.push_str(name);
        let media_sort = match content {
            Content::Media(sort) if version != Version::V40 => Some(sort),
            _ => None,
        };
        let mut types = self.types.clone();
        // A preference of 1 has a type of its own in the older versions, if that wouldn't be taken for another word.
        let pref_word = self.pref == Some(1)
            && version != Version::V40
            && !types.iter().any(|word| word.eq_ignore_ascii_case("pref"));
        if let Some(sort) = media_sort {
            let media = match meaning {
                Meaning::Bytes { media, .. } => Some(media),
                _ => self.media.as_ref(),
            };
            if !types.is_empty() {
                out.push(';');
                out.push_str(&parameter(TYPES_OF_MEDIA, &types));
            }
            types = media.map(|media| vec![media_word(media, sort)]).unwrap_or_default();
        }
        if pref_word {
            types.push(if version == Version::V21 { "PREF" } else { "pref" }.to_owned());
        } else if let Some(pref) = self.pref {
            out.push_str(&format!(";PREF={pref}"));
        }
        if !types.is_empty() {
            if version == Version::V21 && media_sort.is_none() && types.iter().all(|word| is_bare(word)) {
                types.iter().for_each(|word| {
                    out.push(';');
                    out.push_str(word);
                });
            } else {
                out.push(';');
                out.push_str(&parameter("TYPE", &types));
            }
        }
        if let Some(media) = self.media.as_ref().filter(|_| version == Version::V40) {
            out.push(';');
            out.push_str(&parameter("MEDIATYPE", &[media]));
        }
        if media_sort.is_some() && matches!(meaning, Meaning::Raw(_)) && self.parameter("VALUE").is_none() {
            out.push_str(if version == Version::V21 { ";VALUE=URL" } else { ";VALUE=uri" });
        }
        for (name, values) in &self.parameters {
            out.push(';');
            out.push_str(&parameter(name, values));
        }
        out
    }
}

/// The types of a photo in 2.1 and 3.0, where `TYPE` says its format.
pub(super) const TYPES_OF_MEDIA: &str = "X-TYPES";

/// How the value is written, given what `VALUE` says.
fn content_of(content: Content, attributes: &Attributes) -> Content {
    match (content, attributes.value_type().as_deref()) {
        (Content::Text, Some("uri" | "url")) => Content::Raw,
        (Content::Raw, Some("text")) => Content::Text,
        (content, _) => content,
    }
}

/// The meaning of `text` as a property with these attributes has it.
pub(super) fn meaning_of_text(text: String, content: Content, attributes: &Attributes) -> Meaning {
    match content_of(content, attributes) {
        Content::Text => Meaning::Text(text),
        Content::Date => match date(&text).filter(|_| attributes.value_type().is_none()) {
            Some(date) => Meaning::Date(date),
            None => Meaning::Raw(text),
        },
        Content::Media(_) => media_of_uri(text),
        _ => Meaning::Raw(text),
    }
}

/// Words that can stand alone in 2.1: nothing else is written so there.
fn is_bare(word: &str) -> bool {
    !word.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !Transport::is_word(word)
}

/// There is one sort of line break in a card.
fn one_line_break(text: &mut String) {
    if text.contains('\r') {
        *text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
}

/// The components of a value, each a list of texts where `lists` says so.
fn parts(raw: &str, lists: bool, version: Version, transport: &Transport) -> Result<Vec<Vec<String>>, String> {
    let mut out = Vec::new();
    for part in split_parts(raw, version) {
        let texts = match (lists, version) {
            (false, _) => vec![part],
            (true, Version::V21) => part.split("\\,").collect(),
            (true, _) => split(part, b','),
        };
        let decode = |text: &str| match version {
            Version::V21 => transport.decode(&text.replace("\\;", ";")),
            _ => transport.decode(text).map(|text| unescape(&text).into_owned()),
        };
        out.push(texts.into_iter().map(decode).collect::<Result<Vec<_>, _>>()?);
    }
    Ok(out)
}

/// The components between semicolons. In 2.1 a backslash escapes nothing but a semicolon, not even itself.
fn split_parts(raw: &str, version: Version) -> Vec<&str> {
    if version != Version::V21 {
        return split(raw, b';');
    }
    let bytes = raw.as_bytes();
    let mut parts = Vec::new();
    let mut start = 0;
    for at in memchr::memchr_iter(b';', bytes) {
        if at > 0 && bytes[at - 1] == b'\\' {
            continue;
        }
        parts.push(&raw[start..at]);
        start = at + 1;
    }
    parts.push(&raw[start..]);
    parts
}

/// A whole date, as `1985-04-12` or `19850412`.
fn date(raw: &str) -> Option<Date> {
    let dashed = match raw.len() {
        8 if raw.bytes().all(|byte| byte.is_ascii_digit()) => format!("{}-{}-{}", &raw[..4], &raw[4..6], &raw[6..]),
        10 => raw.to_owned(),
        _ => return None,
    };
    match text::parse(&dashed, Kind::Date) {
        Some(Value::Date(date)) if text::to_text(&Value::Date(date)).as_deref() == Some(&dashed) => Some(date),
        _ => None,
    }
}

/// Whether the date has a year of four digits, so that every version can say it.
pub(super) fn is_plain_date(value: Date) -> bool {
    text::to_text(&Value::Date(value)).is_some_and(|shown| date(&shown) == Some(value))
}

fn date_text(date: Date, version: Version) -> String {
    let text = text::to_text(&Value::Date(date)).unwrap_or_default();
    if version == Version::V40 { text.replace('-', "") } else { text }
}

/// The type of bytes of which nothing is known.
pub(super) const UNKNOWN_MEDIA: &str = "application/octet-stream";

/// `data:TYPE;base64,…` is bytes; any other URI is itself.
fn media_of_uri(uri: String) -> Meaning {
    let inline = uri.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    let inline = inline.and_then(|(media, digits)| {
        let bytes = base64_decode(digits)?;
        // What would not come back in the same form stays as it is.
        let exact = !media.is_empty() && is_settled(media) && base64_encode(&bytes) == digits;
        exact.then(|| Meaning::Bytes { media: media.to_owned(), bytes })
    });
    inline.unwrap_or(Meaning::Raw(uri))
}

/// The URI that says the bytes.
pub(super) fn data_uri(media: &str, bytes: &[u8]) -> String {
    format!("data:{media};base64,{}", base64_encode(bytes))
}

fn is_settled(media: &str) -> bool {
    media.contains('/')
        && !media.contains([',', '\r', '\n', '"'])
        && !media.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A media type in full and in lower case: `JPEG` of a photo is `image/jpeg`.
fn settled_media(media: &str, sort: &str) -> String {
    let lower: String =
        media.trim().to_lowercase().chars().filter(|char| !matches!(char, ',' | '\r' | '\n' | '"')).collect();
    match lower.contains('/') {
        true => lower,
        false if lower.is_empty() => UNKNOWN_MEDIA.to_owned(),
        false => format!("{sort}/{lower}"),
    }
}

/// The word of 2.1 and 3.0 for a media type.
fn media_word(media: &str, sort: &str) -> String {
    let word = media.strip_prefix(sort).and_then(|rest| rest.strip_prefix('/'));
    match word {
        Some(word) if is_bare(word) && word != "pref" => word.to_ascii_uppercase(),
        _ => media.to_owned(),
    }
}

/// The type that bytes say of themselves.
pub(super) fn sniff(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some("audio/wav"),
        [b'O', b'g', b'g', b'S', ..] => Some("audio/ogg"),
        _ => None,
    }
}
