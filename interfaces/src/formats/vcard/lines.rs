//! A card's lines: of new cards, and those that an edit touches.

use std::collections::HashMap;
use std::ops::Range;

use deltabus_record::text;
use deltabus_record::value::Value;

use super::card::{Card, CardAt, CardLine, Cards, Item};
use super::changes::{Step, steps};
use super::extras::Extras;
use super::fields::{self, FIELDS, FieldOf};
use super::other::Other;
use super::property::{Meaning, Property, Version};
use super::transport::Transport;
use super::{Text, extension, others_of, shape};
use crate::formats::content_line::{self, Charsets, Fold, Line, Problem, Splice, escape, line_ending, soft_break};

/// A card that is made from a record.
#[derive(Debug, Default)]
pub(super) struct NewCard {
    pub(super) uid: Option<String>,
    version: Option<String>,
    /// Properties by their field's place.
    properties: Vec<(usize, Property)>,
    others: Vec<Other>,
    carried: Vec<(String, Value)>,
}

impl NewCard {
    /// Takes in the value of the field `name`.
    pub(super) fn set(&mut self, name: &str, value: Value) {
        match (name, &value) {
            (_, Value::Absent | Value::Null) => {}
            (fields::UID, value) => self.uid = text::to_text(value).filter(|uid| !uid.is_empty()),
            (fields::VERSION, value) => self.version = text::to_text(value),
            (name, _) => match Wanted::of(name, value) {
                Wanted::Properties(at, properties) => {
                    self.properties.extend(properties.into_iter().map(|property| (at, property)));
                }
                Wanted::Others(others) => self.others.extend(others),
                Wanted::Carried(value) => self.carried.push((name.to_owned(), value)),
                Wanted::Nothing => {}
            },
        }
    }

    /// Appends the card; `version` where the record says none.
    pub(super) fn write(self, version: Version, charsets: Charsets, ending: &str, out: &mut Vec<u8>) {
        let name = self.version.unwrap_or_else(|| version.name().to_owned());
        let version = Version::named(Some(&name));
        let put = Put { version, charsets, ending };
        put.line(b"BEGIN:VCARD", out);
        put.line(format!("VERSION:{name}").as_bytes(), out);
        if let Some(uid) = &self.uid {
            put.uid(uid, out);
        }
        for (at, field) in FIELDS.iter().enumerate() {
            for (_, property) in self.properties.iter().filter(|(own, _)| *own == at) {
                put.property(field, property, out);
            }
        }
        self.others.iter().for_each(|other| put.other(other, out));
        self.carried.iter().for_each(|(name, value)| put.carried(name, value, out));
        put.line(b"END:VCARD", out);
    }
}

/// What a field's value is to become in a card.
enum Wanted {
    Properties(usize, Vec<Property>),
    Others(Vec<Other>),
    Carried(Value),
    Nothing,
}

impl Wanted {
    fn of(name: &str, value: Value) -> Wanted {
        if matches!(value, Value::Absent | Value::Null) {
            return Wanted::Nothing;
        }
        if name == fields::OTHER {
            return others_of(&value).map_or(Wanted::Carried(value), Wanted::Others);
        }
        match FIELDS.iter().position(|known| known.field == name) {
            Some(at) => match shape::properties_of(&FIELDS[at], &value) {
                Some(properties) => Wanted::Properties(at, properties),
                None => Wanted::Carried(value),
            },
            None => Wanted::Carried(value),
        }
    }
}

/// Writes lines in a card's dialect.
struct Put<'a> {
    version: Version,
    charsets: Charsets,
    ending: &'a str,
}

impl Put<'_> {
    /// A line, folded as its version has it.
    fn line(&self, line: &[u8], out: &mut Vec<u8>) {
        let Ok(text) = std::str::from_utf8(line) else {
            // Of another character set: where its characters end is not known here.
            out.extend_from_slice(line);
            out.extend_from_slice(self.ending.as_bytes());
            return;
        };
        let head = text.split_once(':').map_or("", |(head, _)| head).to_ascii_uppercase();
        if head.contains("QUOTED-PRINTABLE") {
            soft_break(text, self.ending, out);
        } else if head.contains("ENCODING=BASE64") {
            content_line::fold(text, Fold::Octets, self.ending, out);
            // In 2.1 a blank line ends it.
            out.extend_from_slice(self.ending.as_bytes());
        } else {
            content_line::fold(text, self.version.fold(), self.ending, out);
        }
    }

    fn uid(&self, uid: &str, out: &mut Vec<u8>) {
        let mut line = "UID:".to_owned();
        escape(uid, &mut line);
        match self.version {
            // It is read before the version is known.
            Version::V21 => {
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(self.ending.as_bytes());
            }
            _ => self.line(line.as_bytes(), out),
        }
    }

    fn property(&self, field: &FieldOf, property: &Property, out: &mut Vec<u8>) {
        self.line(property.write(field, self.version).as_bytes(), out);
    }

    fn other(&self, other: &Other, out: &mut Vec<u8>) {
        other.lines(self.charsets).iter().for_each(|line| self.line(line, out));
    }

    fn carried(&self, name: &str, value: &Value, out: &mut Vec<u8>) {
        if let Some(line) = extension::write(name, value) {
            self.line(line.as_bytes(), out);
        }
    }
}

/// A card's bytes with some fields changed: only the lines of what differs are others.
pub(super) fn edit(
    text: &Text,
    at: &CardAt,
    card: &Card,
    key: &str,
    extras: &Extras,
    wanted: &[(&str, Value)],
) -> Vec<u8> {
    let own = &text.content[at.range.clone()];
    let ending = line_ending(own);
    let named = card.lines.iter().find_map(|line| match &line.item {
        Item::Version(name) => Some(name.as_str()),
        _ => None,
    });
    let version = wanted.iter().find(|(name, _)| *name == fields::VERSION).and_then(|(_, value)| text::to_text(value));
    if version.is_some_and(|version| Some(version.as_str()) != named) {
        return rebuilt(text, at, card, key, extras, wanted, ending);
    }
    let mut edits =
        Edits { text, card, put: Put { version: card.version, charsets: text.charsets(), ending }, edits: Vec::new() };
    for (name, value) in wanted {
        match *name {
            fields::VERSION => {}
            fields::UID => edits.uid(&text::to_text(value).unwrap_or_default()),
            name => edits.field(name, value.clone()),
        }
    }
    edits.finish(at.range.clone())
}

/// The card in another version: every line is written anew.
fn rebuilt(
    text: &Text,
    at: &CardAt,
    card: &Card,
    key: &str,
    extras: &Extras,
    wanted: &[(&str, Value)],
    ending: &str,
) -> Vec<u8> {
    let mut new = NewCard::default();
    let names = super::read::names(extras);
    let values = card.clone().values(key, extras);
    let mut changed: HashMap<&str, &Value> = wanted.iter().map(|(name, value)| (*name, value)).collect();
    for (name, value) in names.iter().zip(values) {
        let value = changed.remove(name).cloned().unwrap_or(value);
        // A key that was made of names stays so; the caller sees to it that it stays.
        if *name != fields::UID || at.uid.is_some() {
            new.set(name, value);
        }
    }
    for (name, value) in wanted.iter().filter(|(name, _)| changed.contains_key(name)) {
        new.set(name, value.clone());
    }
    let mut out = Vec::new();
    new.write(card.version, text.charsets(), ending, &mut out);
    out
}

/// A card's bytes with a `UID` put in.
pub(super) fn pin(bytes: &[u8], uid: &str, charsets: Charsets) -> Result<Vec<u8>, Problem> {
    let cards = Cards::find(bytes, charsets, None)?;
    let Some(at) = cards.cards.first() else { return Ok(bytes.to_vec()) };
    let card = Card::read(bytes, at, charsets)?;
    let mut line = Vec::new();
    Put { version: card.version, charsets, ending: line_ending(bytes) }.uid(uid, &mut line);
    let mut splice = Splice::new(bytes);
    splice.replace(card.top()..card.top(), &line);
    Ok(splice.finish())
}

impl Card {
    /// Where a `UID` is put: behind the version, which 4.0 wants first.
    fn top(&self) -> usize {
        match self.lines.first() {
            Some(CardLine { span, item: Item::Version(_) }) => span.next,
            _ => self.begin,
        }
    }
}

/// The edits of one card, collected.
struct Edits<'a> {
    text: &'a Text,
    card: &'a Card,
    put: Put<'a>,
    edits: Vec<(Range<usize>, Vec<u8>)>,
}

impl Edits<'_> {
    fn uid(&mut self, uid: &str) {
        let mut line = Vec::new();
        self.put.uid(uid, &mut line);
        let old = self.card.lines.iter().find(|line| matches!(&line.item, Item::Uid(old) if !old.is_empty()));
        let place = old.map_or(self.card.top()..self.card.top(), |line| line.span.start..line.span.next);
        self.edits.push((place, line));
    }

    fn field(&mut self, name: &str, value: Value) {
        // What was carried in place of properties is replaced as a whole.
        let carried: Vec<_> = self
            .card
            .lines
            .iter()
            .filter(|line| matches!(&line.item, Item::Extension(own, _) if own == name))
            .collect();
        let wanted = Wanted::of(name, value);
        match &wanted {
            Wanted::Carried(value) if matches!(carried.as_slice(), [line] if line.item == Item::Extension(name.to_owned(), value.clone())) =>
                {}
            Wanted::Carried(value) => {
                let mut new = Vec::new();
                self.put.carried(name, value, &mut new);
                let place =
                    carried.first().map_or(self.card.end..self.card.end, |line| line.span.start..line.span.next);
                self.edits.push((place, new));
                for line in carried.iter().skip(1) {
                    self.edits.push((line.span.start..line.span.next, Vec::new()));
                }
            }
            _ => carried.iter().for_each(|line| self.edits.push((line.span.start..line.span.next, Vec::new()))),
        }
        let card = self.card;
        if name == fields::OTHER {
            let old: Vec<_> = card
                .lines
                .iter()
                .filter_map(|line| match &line.item {
                    Item::Other(other) => Some((line, other)),
                    _ => None,
                })
                .collect();
            let new = if let Wanted::Others(others) = wanted { others } else { Vec::new() };
            self.list(&old, &new, |put, _, other, out| put.other(other, out));
        } else if let Some(at) = FIELDS.iter().position(|known| known.field == name) {
            let old: Vec<_> = card
                .lines
                .iter()
                .filter_map(|line| match &line.item {
                    Item::Field(own, property) if *own == at => Some((line, property)),
                    _ => None,
                })
                .collect();
            let new = if let Wanted::Properties(_, properties) = wanted { properties } else { Vec::new() };
            let text = self.text;
            self.list(&old, &new, |put, old, property, out| {
                let kept = old.and_then(|(line, _)| put.with_head(&text.content, line, &FIELDS[at], property));
                match kept {
                    Some(line) => put.line(line.as_bytes(), out),
                    None => put.property(&FIELDS[at], property, out),
                }
            });
        }
    }

    /// Turns the lines of `old` into those of `new`.
    fn list<T: PartialEq>(
        &mut self,
        old: &[(&CardLine, &T)],
        new: &[T],
        write: impl Fn(&Put<'_>, Option<(&CardLine, &T)>, &T, &mut Vec<u8>),
    ) {
        let olds: Vec<&T> = old.iter().map(|(_, it)| *it).collect();
        let news: Vec<&T> = new.iter().collect();
        // New lines come behind the last that was met, else before the first there is, else at the end.
        let mut place = old.first().map_or(self.card.end, |(line, _)| line.span.start);
        for step in steps(&olds, &news) {
            match step {
                Step::Keep(at) => place = self.range(old[at].0).end,
                Step::Remove(at) => {
                    let range = self.range(old[at].0);
                    place = range.end;
                    self.edits.push((range, Vec::new()));
                }
                Step::Replace(at, with) => {
                    let range = self.range(old[at].0);
                    place = range.end;
                    let mut out = Vec::new();
                    let span = &old[at].0.span;
                    // Its own line end, should the file have several.
                    let ending = line_ending(&self.text.content[span.end..span.next]);
                    write(&Put { ending, ..self.put }, Some(old[at]), &new[with], &mut out);
                    self.edits.push((range, out));
                }
                Step::Insert(with) => {
                    let mut out = Vec::new();
                    write(&self.put, None, &new[with], &mut out);
                    self.edits.push((place..place, out));
                }
            }
        }
    }

    /// A line with the blank one that ends base64 in 2.1.
    fn range(&self, line: &CardLine) -> Range<usize> {
        let span = &line.span;
        let content = &self.text.content;
        let is_bytes = matches!(&line.item, Item::Field(_, Property { meaning: Meaning::Bytes { .. }, .. }));
        let ending = &content[span.end..span.next];
        let blank = is_bytes && self.card.version == Version::V21 && content[span.next..].starts_with(ending);
        span.start..span.next + if blank { ending.len() } else { 0 }
    }

    fn finish(mut self, range: Range<usize>) -> Vec<u8> {
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut splice = Splice::within(&self.text.content, range);
        for (range, new) in self.edits {
            splice.replace(range, &new);
        }
        splice.finish()
    }
}

impl Put<'_> {
    /// The line of `property` with all before the colon as it stands in `line`, if that means the same.
    fn with_head(&self, content: &[u8], line: &CardLine, field: &FieldOf, property: &Property) -> Option<String> {
        let unfolded = line.span.unfolded(content, self.version.fold());
        let old_line = Line::parse_in(&unfolded, self.charsets).ok()?;
        let (encoding, value) = property.encode(field, self.version);
        if !encoding.is_empty() || !Transport::of(&old_line).0.is_silent() {
            return None;
        }
        let new = format!("{}:{value}", old_line.head);
        let parsed = Line::parse_in(new.as_bytes(), self.charsets).ok()?;
        (Property::read(&parsed, field, self.version).as_ref() == Ok(property)).then_some(new)
    }
}
