//! Cards in a file: where they stand, what tells them apart, and what they say.

use std::collections::HashMap;
use std::ops::Range;

use deltabus_record::text;
use deltabus_record::value::Value;

use super::extension;
use super::extras::{EXTRAS_MAX, Extras};
use super::fields::{self, FIELDS, by_property};
use super::other::Other;
use super::property::{Property, Version};
use super::shape;
use super::transport::Transport;
use crate::formats::content_line::{Charsets, Event, Events, Fold, Line, Problem, Span, Spans, unescape};

/// A card's place.
#[derive(Clone, Debug)]
pub(super) struct CardAt {
    /// From `BEGIN` to behind the line end of `END`.
    pub(super) range: Range<usize>,
    /// The line of `BEGIN`.
    pub(super) line: u64,
    /// What `UID` says, if it says anything.
    pub(super) uid: Option<String>,
    /// What stands in for a missing `UID`: a hash of the names; zeros where there is one.
    pub(super) identity: [u8; 32],
}

/// The cards of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Cards {
    pub(super) cards: Vec<CardAt>,
    /// The key of each.
    pub(super) keys: Vec<String>,
    /// The fields that vCard has no property for.
    pub(super) extras: Extras,
}

impl Cards {
    /// Finds the cards in `content`. Nothing else may stand there but blank lines. `scope`, where there is one, takes the
    /// place of the names in the keys of cards without a `UID`.
    pub(super) fn find(content: &[u8], charsets: Charsets, scope: Option<[u8; 32]>) -> Result<Cards, Problem> {
        let mut found = Cards::default();
        let mut events = Events::new(content);
        let mut names: Vec<Span> = Vec::new();
        let mut open: Option<(Span, Option<String>)> = None;
        while let Some(event) = events.next()? {
            match (event, events.depth()) {
                (Event::Begin(span, name), 1) => {
                    if name != "VCARD" {
                        let text = format!("a file of cards has `BEGIN:VCARD`, not `BEGIN:{}`", name.escape_debug());
                        return Err(Problem::new(span.start, text));
                    }
                    open = Some((span, None));
                    names.clear();
                }
                (Event::Line(span), 1) => match name_of(&content[span.start..span.end]) {
                    [b'U' | b'u', rest @ ..] if rest.eq_ignore_ascii_case(b"ID") => {
                        if let Some((_, uid @ None)) = &mut open {
                            let read = read_line(content, span, Fold::Octets, charsets, text_of_line);
                            *uid = Some(read?).filter(|uid| !uid.is_empty());
                        }
                    }
                    name if name.eq_ignore_ascii_case(b"FN") || name.eq_ignore_ascii_case(b"N") => {
                        names.push(span);
                    }
                    name if name.eq_ignore_ascii_case(extension::PROPERTY.as_bytes()) => {
                        let read = read_line(content, span, Fold::Octets, charsets, extension::read_kind);
                        let (name, kind) = read?;
                        if !is_own(&name) && !found.extras.note(&name, Some(kind)) {
                            return Err(Problem::new(
                                span.start,
                                format!("more than {EXTRAS_MAX} fields of deltabus's own"),
                            ));
                        }
                    }
                    _ => {}
                },
                (Event::End(span, _), 0) => {
                    if let Some((begin, uid)) = open.take() {
                        let range = begin.start..span.next;
                        let identity = match (&uid, scope) {
                            (Some(_), _) => [0; 32],
                            (None, Some(scope)) => scope,
                            (None, None) => identity(content, &names, begin.start..span.end),
                        };
                        found.cards.push(CardAt { range, line: begin.line, uid, identity });
                    }
                }
                _ => {}
            }
        }
        found.keys = keys(found.cards.iter().map(|card| (card.uid.as_deref(), &card.identity)));
        Ok(found)
    }
}

/// Whether a field of that name has a property of its own here.
pub(super) fn is_own(field: &str) -> bool {
    [fields::UID, fields::VERSION, fields::OTHER].contains(&field) || fields::by_field(field).is_some()
}

/// What tells a card without a `UID` apart: what the lines `FN` and `N` say; of a card without a name all that it says.
fn identity(content: &[u8], names: &[Span], whole: Range<usize>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut named = false;
    for span in names {
        let line = span.unfolded(content, Fold::Octets);
        let value = memchr::memchr(b':', &line).map_or(&[][..], |at| &line[at + 1..]);
        if value.iter().any(|byte| !matches!(byte, b';' | b' ')) {
            named = true;
            hasher.update(&name_of(&line).to_ascii_uppercase());
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value);
        }
    }
    if !named {
        hasher.update(&content[whole]);
    }
    hasher.finalize().into()
}

/// The keys of cards: the `UID`, else one made of the identity and how many cards of the same have gone before.
pub(super) fn keys<'a>(cards: impl Iterator<Item = (Option<&'a str>, &'a [u8; 32])>) -> Vec<String> {
    let mut counts: HashMap<&[u8; 32], u64> = HashMap::new();
    let key = |(uid, identity): (Option<&'a str>, &'a [u8; 32])| match uid {
        Some(uid) => uid.to_owned(),
        None => {
            let count = counts.entry(identity).or_default();
            *count += 1;
            made_uid(&[identity, &count.to_le_bytes()])
        }
    };
    cards.map(key).collect()
}

/// A UID made of what `parts` say: always the same of the same (a UUID of version 8, RFC 9562).
pub(super) fn made_uid(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("deltabus 2026-11 vcard uid");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    format!("urn:uuid:{}", text::to_text(&Value::Uuid(uuid)).unwrap_or_default())
}

/// The name in a raw line, without its group; a fold within a name is not looked for.
fn name_of(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| matches!(byte, b':' | b';')).unwrap_or(line.len());
    let full = line[..end].trim_ascii();
    match memchr::memchr(b'.', full) {
        Some(dot) => &full[dot + 1..],
        None => full,
    }
}

/// Reads the line at `span`; problems are at offsets in `content`.
fn read_line<T>(
    content: &[u8],
    span: Span,
    fold: Fold,
    charsets: Charsets,
    read: impl FnOnce(&Line<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let line = span.unfolded(content, fold);
    let parsed = Line::parse_in(&line, charsets).and_then(|line| read(&line));
    parsed.map_err(|problem| Problem::new(span.origin(content, fold, problem.at), problem.text))
}

/// A value that is text in every version, such as a UID.
fn text_of_line(line: &Line<'_>) -> Result<String, Problem> {
    let (transport, _) = Transport::of(line);
    let decoded = transport.decode(&line.value).map_err(|text| Problem::new(line.head.len() + 1, text))?;
    Ok(unescape(&decoded).into_owned())
}

/// A card, decoded.
#[derive(Clone, Debug)]
pub(super) struct Card {
    pub(super) version: Version,
    /// Its lines between `BEGIN` and `END`.
    pub(super) lines: Vec<CardLine>,
    /// Where `END` begins.
    pub(super) end: usize,
    /// Where the line after `BEGIN` begins.
    pub(super) begin: usize,
}

/// One of a card's lines, or a component in it.
#[derive(Clone, Debug)]
pub(super) struct CardLine {
    pub(super) span: Span,
    pub(super) item: Item,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Version(String),
    Uid(String),
    /// A property, and its place in [`FIELDS`].
    Field(usize, Property),
    Other(Other),
    Extension(String, Value),
}

impl Card {
    /// Decodes the card at `at`.
    pub(super) fn read(content: &[u8], at: &CardAt, charsets: Charsets) -> Result<Card, Problem> {
        let mut events = Events::over(content, Spans::within(content, at.range.clone(), at.line));
        let mut spans = Vec::new();
        let mut card = Card { version: Version::V30, lines: Vec::new(), end: at.range.end, begin: at.range.start };
        let mut component: Option<(Span, Vec<Span>)> = None;
        let mut named = None;
        while let Some(event) = events.next()? {
            match (event, events.depth()) {
                (Event::Begin(span, _), 1) => card.begin = span.next,
                (Event::End(span, _), 0) => card.end = span.start,
                (Event::Begin(span, _), 2) => component = Some((span, vec![span])),
                (Event::End(span, _), 1) => {
                    if let Some((mut whole, mut lines)) = component.take() {
                        lines.push(span);
                        (whole.end, whole.next) = (span.end, span.next);
                        spans.push((whole, lines));
                    }
                }
                (Event::Begin(span, _) | Event::Line(span) | Event::End(span, _), depth) => {
                    if let Some((_, lines)) = component.as_mut().filter(|_| depth > 1) {
                        lines.push(span);
                        continue;
                    }
                    if named.is_none() && name_of(&content[span.start..span.end]).eq_ignore_ascii_case(b"VERSION") {
                        named = Some(read_line(content, span, Fold::Octets, charsets, |line| {
                            Ok(line.value.trim().to_owned())
                        })?);
                    }
                    spans.push((span, Vec::new()));
                }
            }
        }
        card.version = Version::named(named.as_deref());
        let fold = card.version.fold();
        for (span, lines) in spans {
            let item = match lines.is_empty() {
                true => read_line(content, span, fold, charsets, |line| Item::read(line, card.version))?,
                false => Item::Other(component_at(content, &lines, fold)?),
            };
            card.lines.push(CardLine { span, item });
        }
        Ok(card)
    }

    /// The values of the row: key, fields, version, other, and the fields `extras`.
    pub(super) fn values(self, key: &str, extras: &Extras) -> Vec<Value> {
        let mut values = vec![Value::Absent; FIELDS.len() + 3 + extras.len()];
        values[0] = Value::text(key);
        let mut properties: Vec<Vec<Property>> = vec![Vec::new(); FIELDS.len()];
        let mut others = Vec::new();
        let mut carried = Vec::new();
        for line in self.lines {
            match line.item {
                Item::Version(version) => values[VERSION_SLOT] = Value::Text(version),
                Item::Uid(_) => {}
                Item::Field(at, property) => properties[at].push(property),
                Item::Other(other) => others.push(other.value()),
                Item::Extension(name, value) => carried.push((name, value)),
            }
        }
        for ((slot, field), properties) in FIELDS.iter().enumerate().zip(properties) {
            values[slot + 1] = shape::value_of(field, &properties);
        }
        if !others.is_empty() {
            values[OTHER_SLOT] = Value::List(others);
        }
        for (name, value) in carried {
            let slot = slot_of(&name).or_else(|| Some(OTHER_SLOT + 1 + extras.place(&name)?));
            // What a real property says outranks what was carried in its place.
            if let Some(slot) = slot.filter(|slot| *slot > 0 && values[*slot] == Value::Absent) {
                values[slot] = value;
            }
        }
        values
    }
}

/// The slot of `version` in a row as it is read.
pub(super) const VERSION_SLOT: usize = FIELDS.len() + 1;

/// The slot of `other`.
pub(super) const OTHER_SLOT: usize = FIELDS.len() + 2;

/// The slot of a field that is there in every file.
fn slot_of(field: &str) -> Option<usize> {
    match field {
        fields::UID => Some(0),
        fields::VERSION => Some(VERSION_SLOT),
        fields::OTHER => Some(OTHER_SLOT),
        field => FIELDS.iter().position(|known| known.field == field).map(|at| at + 1),
    }
}

impl Item {
    fn read(line: &Line<'_>, version: Version) -> Result<Item, Problem> {
        if line.is("VERSION") {
            return Ok(Item::Version(line.value.trim().to_owned()));
        }
        if line.is("UID") {
            return text_of_line(line).map(Item::Uid);
        }
        if line.is(extension::PROPERTY) {
            return extension::read(line).map(|(name, value)| Item::Extension(name, value));
        }
        match by_property(line.name) {
            Some(field) => {
                let at = FIELDS.iter().position(|known| known == field).unwrap_or_default();
                Property::read(line, field, version).map(|property| Item::Field(at, property))
            }
            None => Ok(Item::Other(Other::read(line))),
        }
    }
}

/// The component whose lines stand at `spans`.
fn component_at(content: &[u8], spans: &[Span], fold: Fold) -> Result<Other, Problem> {
    let mut text = String::new();
    for span in spans {
        let line = span.unfolded(content, fold);
        let line = std::str::from_utf8(&line).map_err(|error| {
            let at = span.origin(content, fold, error.valid_up_to());
            Problem::new(at, "a component inside a card must be UTF-8")
        })?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
    Ok(Other::Component(text))
}
