//! A file as stretches of bytes: calendar objects, the components in them, and what tells which record each belongs to.

use std::ops::Range;

use deltabus_record::value::{Kind, Value};
use xxhash_rust::xxh3::Xxh3Default;

use super::fields::{OVERRIDE_PROPERTY, Scope, UID};
use super::property::read_field_line;
use crate::formats::content_line::{
    Charsets, Event, Events, FileForm, Fold, Line, Problem, Span, Spans, place, unescape,
};
use crate::{Error, Position};

/// The calendar object's component.
pub(super) const VCALENDAR: &str = "VCALENDAR";
/// A time zone's component.
pub(super) const VTIMEZONE: &str = "VTIMEZONE";

/// One file's content and what stands where in it.
#[derive(Debug)]
pub(super) struct Document {
    /// The file, for messages.
    pub(super) place: String,
    /// The content in UTF-8.
    pub(super) bytes: Vec<u8>,
    /// How it is stored.
    pub(super) form: FileForm,
    pub(super) objects: Vec<Object>,
    pub(super) units: Vec<Unit>,
}

/// One `VCALENDAR`.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// From `BEGIN` to behind `END`.
    pub(super) range: Range<usize>,
    /// Its first line's number.
    pub(super) line: u64,
    /// Its own properties.
    pub(super) header: Vec<Span>,
    /// Where the first component in it begins, or its `END`.
    pub(super) first: usize,
    /// Where its `END` begins.
    pub(super) end: usize,
    /// How its lines are folded: vCalendar 1.0 folds between words.
    pub(super) fold: Fold,
}

/// One component below a calendar object, or outside any.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// `VEVENT` …
    pub(super) name: String,
    /// From `BEGIN` to behind `END`.
    pub(super) range: Range<usize>,
    /// Its first line's number.
    pub(super) line: u64,
    /// The calendar object that it is in.
    pub(super) object: Option<usize>,
    pub(super) fold: Fold,
    /// What its UID says.
    pub(super) uid: Option<String>,
    /// The name of the time zone that it defines.
    pub(super) zone: Option<String>,
    /// Whether it overrides one instance of a recurrence.
    pub(super) overrides: bool,
    /// Fields of other sources, with the kinds of their values.
    pub(super) fields: Vec<(String, Kind)>,
}

impl Document {
    /// Finds the objects and components in a file's bytes.
    pub(super) fn parse(
        place: String,
        bytes: Vec<u8>,
        encoding: Option<crate::formats::content_line::FileEncoding>,
    ) -> Result<Document, Error> {
        let (form, bytes) =
            FileForm::decode(bytes, encoding).map_err(|(content, problem)| data_error(&place, &content, problem))?;
        let mut document = Document { place, bytes, form, objects: Vec::new(), units: Vec::new() };
        match document.find() {
            Ok((objects, units)) => {
                document.objects = objects;
                document.units = units;
                Ok(document)
            }
            Err(problem) => Err(document.error(problem)),
        }
    }

    /// A problem as an error with file, line and column.
    pub(super) fn error(&self, problem: Problem) -> Error {
        data_error(&self.place, &self.bytes, problem)
    }

    /// Where a line stands, for messages.
    pub(super) fn position(&self, line: u64) -> Position {
        Position { place: self.place.clone(), line: Some(line), column: Some(1), record: None }
    }

    /// A component's bytes.
    pub(super) fn unit_bytes(&self, unit: &Unit) -> &[u8] {
        &self.bytes[unit.range.clone()]
    }

    fn find(&self) -> Result<(Vec<Object>, Vec<Unit>), Problem> {
        if let Err(error) = std::str::from_utf8(&self.bytes) {
            self.check_characters(error.valid_up_to())?;
        }
        let mut objects: Vec<Object> = Vec::new();
        let mut units: Vec<Unit> = Vec::new();
        let mut object: Option<usize> = None;
        // The component that is open, and the depth at which its own lines stand.
        let mut open: Option<(Unit, usize)> = None;
        let mut events = Events::new(&self.bytes);
        while let Some(event) = events.next()? {
            let depth = events.depth();
            match event {
                Event::Begin(span, name) if depth == 1 && name == VCALENDAR => {
                    object = Some(objects.len());
                    objects.push(Object {
                        range: span.start..span.next,
                        line: span.line,
                        header: Vec::new(),
                        first: 0,
                        end: 0,
                        fold: Fold::Octets,
                    });
                }
                Event::Begin(span, name) if open.is_none() => {
                    let fold = object.map_or(Fold::Octets, |object| objects[object].fold);
                    if let Some(object) = object
                        && objects[object].first == 0
                    {
                        objects[object].first = span.start;
                    }
                    let unit = Unit {
                        name,
                        range: span.start..span.next,
                        line: span.line,
                        object,
                        fold,
                        uid: None,
                        zone: None,
                        overrides: false,
                        fields: Vec::new(),
                    };
                    open = Some((unit, depth));
                }
                Event::Begin(..) => {}
                Event::Line(span) => match self.check(span).map(|()| &mut open)? {
                    Some((unit, own)) if *own == depth => self.note(unit, span)?,
                    Some(_) => {}
                    None => {
                        if let Some(object) = object {
                            let object = &mut objects[object];
                            object.header.push(span);
                            if is_version_1(&span.unfolded(&self.bytes, Fold::Octets)) {
                                object.fold = Fold::Words;
                            }
                        }
                    }
                },
                Event::End(span, _) => match open.take_if(|(_, own)| *own == depth + 1) {
                    Some((mut unit, _)) => {
                        unit.range.end = span.next;
                        units.push(unit);
                    }
                    None if depth == 0 => {
                        if let Some(object) = object.take() {
                            let object = &mut objects[object];
                            object.range.end = span.next;
                            object.end = span.start;
                            if object.first == 0 {
                                object.first = span.start;
                            }
                        }
                    }
                    None => {}
                },
            }
        }
        Ok((objects, units))
    }

    /// Fails for what is no line, wherever it stands: a broken file is told of before anything is done with it.
    fn check(&self, span: Span) -> Result<(), Problem> {
        let raw = &self.bytes[span.start..span.end];
        let plain =
            raw.iter().position(|byte| matches!(byte, b':' | b';' | b'"' | b',' | b'=') || !byte.is_ascii_graphic());
        // Most lines are a name, a colon and a value.
        if plain.is_some_and(|at| at > 0 && raw[at] == b':') {
            return Ok(());
        }
        let unfolded = span.unfolded(&self.bytes, Fold::Octets);
        let parsed = Line::parse_in(&unfolded, Charsets::OfFile).or_else(|_| Line::parse(&unfolded));
        let failed = |problem: Problem| Problem::new(span.origin(&self.bytes, Fold::Octets, problem.at), problem.text);
        parsed.map(drop).map_err(failed)
    }

    /// Notes what a component's own line says about which record it is.
    fn note(&self, unit: &mut Unit, span: Span) -> Result<(), Problem> {
        let raw = &self.bytes[span.start..span.end];
        let begins =
            |name: &str| raw.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()));
        let is_zone = unit.name == VTIMEZONE && begins("TZID");
        if !(begins("UID") || is_zone || begins("RECURRENCE-ID") || begins("X-DELTABUS-")) {
            return Ok(());
        }
        let text = logical(&self.bytes, span, unit.fold)?;
        let line = parse_line(&self.bytes, span, unit.fold, &text)?;
        if line.group.is_some() {
            return Ok(());
        }
        if line.is("UID") && unit.uid.is_none() {
            unit.uid = Some(unescape(&line.value).into_owned());
        } else if is_zone && line.is("TZID") && unit.zone.is_none() {
            unit.zone = Some(line.value.to_string());
        } else if line.is("RECURRENCE-ID") || line.is(OVERRIDE_PROPERTY) {
            unit.overrides = true;
        } else if let Some((name, value)) = read_field_line(&line) {
            match (name.as_str(), value) {
                (UID, Value::Text(uid)) => unit.uid = Some(uid),
                (name, value) if Scope::Record.spec(name).is_none() => {
                    unit.fields.push((name.to_owned(), value.kind()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Of lines that are not UTF-8, each must say which character set it is in.
    fn check_characters(&self, from: usize) -> Result<(), Problem> {
        let mut spans = Spans::new(&self.bytes);
        while let Some(span) = spans.next()? {
            if span.next > from {
                let unfolded = span.unfolded(&self.bytes, Fold::Octets);
                if std::str::from_utf8(&unfolded).is_err() {
                    Line::parse(&unfolded).map_err(|problem| {
                        Problem::new(span.origin(&self.bytes, Fold::Octets, problem.at), problem.text)
                    })?;
                }
            }
        }
        Ok(())
    }
}

fn is_version_1(line: &[u8]) -> bool {
    matches!(Line::parse(line), Ok(line) if line.is("VERSION") && line.value.trim() == "1.0")
}

fn data_error(place_name: &str, bytes: &[u8], problem: Problem) -> Error {
    let (line, column) = place(bytes, problem.at);
    let position = Position { place: place_name.to_owned(), line: Some(line), column: Some(column), record: None };
    Error::Data { position, problem: problem.text }
}

/// A logical line as text. A value in a character set of its own is brought into UTF-8, and says so.
///
/// What is UTF-8 is taken for that whatever `CHARSET` says: the file was in another encoding as a whole, or the program that
/// wrote it meant well.
pub(super) fn logical(bytes: &[u8], span: Span, fold: Fold) -> Result<String, Problem> {
    let unfolded = span.unfolded(bytes, fold);
    if unfolded.is_ascii() {
        return Ok(String::from_utf8_lossy(&unfolded).into_owned());
    }
    let failed = |problem: Problem| Problem::new(span.origin(bytes, fold, problem.at), problem.text);
    let text = std::str::from_utf8(&unfolded);
    let head_length = unfolded.iter().position(|byte| *byte == b':').unwrap_or(unfolded.len());
    let named = unfolded[..head_length].to_ascii_uppercase().windows(8).any(|window| window == b"CHARSET=");
    if let (Ok(text), false) = (text, named) {
        return Ok(text.to_owned());
    }
    let charsets = if text.is_ok() { Charsets::OfFile } else { Charsets::OfValues };
    let line = Line::parse_in(&unfolded, charsets).map_err(failed)?;
    let mut head = line.head.to_owned();
    if let Some(at) = head.to_ascii_uppercase().find("CHARSET=").filter(|_| !line.value.is_ascii()) {
        let start = at + "CHARSET=".len();
        let length = head[start..].find(';').unwrap_or(head.len() - start);
        head.replace_range(start..start + length, "UTF-8");
    }
    Ok(format!("{head}:{}", line.value))
}

/// Takes a logical line apart, with problems at their place in the file.
pub(super) fn parse_line<'t>(bytes: &[u8], span: Span, fold: Fold, text: &'t str) -> Result<Line<'t>, Problem> {
    Line::parse(text.as_bytes()).map_err(|problem| Problem::new(span.origin(bytes, fold, problem.at), problem.text))
}

/// A hash of what the lines of a stretch say, however they are folded.
pub(super) fn lines_hash(bytes: &[u8], range: Range<usize>, fold: Fold) -> Result<u128, Problem> {
    let mut hasher = Xxh3Default::new();
    let mut spans = Spans::within(bytes, range, 1);
    while let Some(span) = spans.next()? {
        hasher.update(&span.unfolded(bytes, fold));
        hasher.update(b"\n");
    }
    Ok(hasher.digest128())
}
