//! The records of one file or of a folder's files: which components make up which record, and under which key.

use std::collections::{HashMap, HashSet};

use deltabus_record::value::Value;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::component::Component;
use super::document::{Document, Object, VCALENDAR, VTIMEZONE, lines_hash};
use super::fields::{CALENDAR, CALENDAR_COMPONENT, COMPONENT, Members, OVERRIDES, Scope, TIMEZONES, UID, component_of};
use crate::formats::content_line::Problem;
use crate::{Error, Fingerprint, Position};

/// The key of the collection's own calendar record.
pub(super) const CALENDAR_KEY: &str = "calendar:";
/// What the key of a time zone begins with.
const ZONE_PREFIX: &str = "tzid:";
/// What a key begins with that was made for a component without UID.
const MADE_PREFIX: &str = "no-uid:";

/// The header of a calendar object that deltabus makes by itself. An object with no more than that has no record.
pub(super) const PLAIN_HEADER: [&str; 2] = ["VERSION:2.0", "PRODID:-//deltabus//deltabus//EN"];

/// All documents, and the records in them.
#[derive(Debug)]
pub(super) struct Agenda {
    pub(super) documents: Vec<Document>,
    pub(super) records: Vec<Record>,
    places: HashMap<String, usize>,
    /// How many components without UID have each hash.
    made: HashMap<u64, u32>,
    /// The header that records have without saying so.
    pub(super) header: Vec<String>,
    /// The headers of each document's objects.
    headers: Vec<Vec<Vec<String>>>,
    /// A hash of what each object says of its records, 0 for nothing.
    hashes: Vec<Vec<u64>>,
    /// What follows for the field [`TIMEZONES`] of the records in each object, where anything does: `(document, object)`.
    timezones: HashMap<(usize, usize), Value>,
}

/// One record.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) kind: Kind,
    /// Its components, or for a calendar's own record the calendar objects: `(document, place)`.
    pub(super) parts: Vec<Part>,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event, to-do, journal …: one component and its overrides.
    Item,
    /// A time zone; all its parts say the same.
    Zone,
    /// The calendar itself; all its parts have the same header.
    Calendar,
}

/// A component by its document and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Part {
    pub(super) document: usize,
    pub(super) place: usize,
}

impl Agenda {
    /// Sorts the components of `documents` into records. The header that records have without saying so is that of the first
    /// document's first calendar object, or what deltabus writes by itself.
    pub(super) fn new(documents: Vec<Document>) -> Result<Agenda, Error> {
        let plain: Vec<String> = PLAIN_HEADER.iter().map(|line| (*line).to_owned()).collect();
        let mut headers = Vec::with_capacity(documents.len());
        for document in &documents {
            let of_document: Result<Vec<_>, _> =
                document.objects.iter().map(|object| header_of(document, object)).collect();
            headers.push(of_document.map_err(|problem| document.error(problem))?);
        }
        let mut agenda = Agenda {
            documents,
            records: Vec::new(),
            places: HashMap::new(),
            made: HashMap::new(),
            header: plain,
            headers,
            hashes: Vec::new(),
            timezones: HashMap::new(),
        };
        if let Some(header) = agenda.headers.first().and_then(|headers| headers.first())
            && *header != agenda.header
        {
            agenda.header = header.clone();
            agenda.add(CALENDAR_KEY.to_owned(), Kind::Calendar, Part { document: 0, place: 0 });
        }
        // The names and keys of the time zones in each object.
        let mut zones: HashMap<(usize, usize), Vec<(String, String)>> = HashMap::new();
        for at in 0..agenda.documents.len() {
            agenda.sort_in(at, &mut zones)?;
        }
        let others = zones.into_iter().map(|(object, zones)| (object, others_of(&zones)));
        agenda.timezones = others.filter(|(_, others)| *others != Value::Absent).collect();
        let hash = |(at, headers): (usize, &Vec<Vec<String>>)| {
            headers.iter().enumerate().map(|(object, header)| agenda.place_hash(at, object, header)).collect()
        };
        agenda.hashes = agenda.headers.iter().enumerate().map(hash).collect();
        Ok(agenda)
    }

    /// The record of a key.
    pub(super) fn find(&self, key: &str) -> Option<usize> {
        self.places.get(key).copied()
    }

    fn add(&mut self, key: String, kind: Kind, part: Part) {
        self.places.insert(key.clone(), self.records.len());
        self.records.push(Record { key, kind, parts: vec![part] });
    }

    fn sort_in(&mut self, at: usize, zones: &mut HashMap<(usize, usize), Vec<(String, String)>>) -> Result<(), Error> {
        if let Some(calendar) =
            self.find(CALENDAR_KEY).filter(|calendar| self.records[*calendar].kind == Kind::Calendar)
        {
            for (place, header) in self.headers[at].iter().enumerate() {
                let part = Part { document: at, place };
                // The first is there already.
                if *header == self.header && (at, place) != (0, 0) {
                    self.records[calendar].parts.push(part);
                }
            }
        }
        for place in 0..self.documents[at].units.len() {
            let document = &self.documents[at];
            let unit = &document.units[place];
            let part = Part { document: at, place };
            if unit.name == VTIMEZONE {
                let (key, known) = self.zone_key(part).map_err(|problem| self.documents[at].error(problem))?;
                let unit = &self.documents[at].units[place];
                if let (Some(zone), Some(object)) = (&unit.zone, unit.object) {
                    zones.entry((at, object)).or_default().push((zone.clone(), key.clone()));
                }
                match known {
                    Some(record) => self.records[record].parts.push(part),
                    None => self.add(key, Kind::Zone, part),
                }
                continue;
            }
            let key = match &unit.uid {
                Some(uid) => uid.clone(),
                None => {
                    let made = lines_hash(&document.bytes, unit.range.clone(), unit.fold);
                    let made = made.map_err(|problem| document.error(problem))? as u64;
                    // Equal components are told apart by their order.
                    loop {
                        let count = self.made.entry(made).or_default();
                        *count += 1;
                        let key = match count {
                            1 => format!("{MADE_PREFIX}{made:016x}"),
                            count => format!("{MADE_PREFIX}{made:016x}-{count}"),
                        };
                        if !self.places.contains_key(&key) {
                            break key;
                        }
                    }
                }
            };
            match self.find(&key) {
                None => self.add(key, Kind::Item, part),
                Some(record) => self.join(record, part)?,
            }
        }
        Ok(())
    }

    /// Adds a component to the record of its UID; only one may be no override.
    fn join(&mut self, record: usize, part: Part) -> Result<(), Error> {
        let unit = self.unit(part);
        let document = &self.documents[part.document];
        let known = &self.records[record];
        let rival = match known.kind {
            Kind::Item if unit.overrides => None,
            Kind::Item => known.parts.iter().find(|part| !self.unit(**part).overrides),
            _ => known.parts.first(),
        };
        if let Some(rival) = rival {
            let other = match known.kind {
                Kind::Calendar => document.position(self.documents[rival.document].objects[rival.place].line),
                _ => self.position(*rival),
            };
            return Err(Error::DuplicateKey {
                position: document.position(unit.line),
                key: format!("{:?}", known.key),
                other: other.to_string(),
            });
        }
        self.records[record].parts.push(part);
        Ok(())
    }

    /// The key of a time zone, and the record if there is one that says the same.
    fn zone_key(&self, part: Part) -> Result<(String, Option<usize>), Problem> {
        let unit = self.unit(part);
        let hash = |part: Part| {
            let unit = self.unit(part);
            lines_hash(&self.documents[part.document].bytes, unit.range.clone(), unit.fold)
        };
        let own = hash(part)?;
        let natural = match (&unit.uid, &unit.zone) {
            (Some(uid), _) => uid.clone(),
            (None, Some(zone)) => zone_key(zone),
            (None, None) => format!("{MADE_PREFIX}{:016x}", own as u64),
        };
        let mut key = natural.clone();
        let mut count = 0u32;
        loop {
            let Some(record) = self.find(&key) else { return Ok((key, None)) };
            let known = &self.records[record];
            if known.kind == Kind::Zone && hash(known.parts[0])? == own {
                return Ok((key, Some(record)));
            }
            // Another definition of the name: its key says which.
            count += 1;
            key = match count {
                1 => format!("{natural}#{:08x}", own as u32),
                count => format!("{natural}#{:08x}-{count}", own as u32),
            };
        }
    }

    pub(super) fn unit(&self, part: Part) -> &super::document::Unit {
        &self.documents[part.document].units[part.place]
    }

    /// What follows for a record's field [`CALENDAR`] from where a component stands.
    pub(super) fn calendar_of(&self, part: Part) -> Value {
        let Some(object) = self.unit(part).object else { return Value::List(Vec::new()) };
        let header = &self.headers[part.document][object];
        if *header == self.header { Value::Absent } else { calendar_value(header) }
    }

    /// All calendar objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = Part> {
        let documents = self.documents.iter().enumerate();
        documents.flat_map(|(document, found)| (0..found.objects.len()).map(move |place| Part { document, place }))
    }

    /// The header of an object.
    pub(super) fn header_of(&self, document: usize, object: usize) -> &[String] {
        &self.headers[document][object]
    }

    /// What follows for a record's field [`TIMEZONES`].
    pub(super) fn timezones_of(&self, part: Part) -> Value {
        self.unit(part).object.map_or(Value::Absent, |object| self.timezones_in(part.document, object))
    }

    /// The same by the object.
    pub(super) fn timezones_in(&self, document: usize, object: usize) -> Value {
        self.timezones.get(&(document, object)).cloned().unwrap_or(Value::Absent)
    }

    /// All that a record says, [`UID`] aside.
    pub(super) fn decode(&self, record: &Record) -> Result<Members, Error> {
        if record.kind == Kind::Calendar {
            let part = record.parts[0];
            let (bytes, object) = self.header_bytes(part);
            let component = Component::parse(&bytes, 0..bytes.len(), 1, object.fold);
            let component = component.map_err(|problem| {
                self.documents[part.document].error(Problem::new(object.range.start + problem.at, problem.text))
            })?;
            let mut members = component.decode(Scope::Record).members;
            members.set(COMPONENT, Value::text(CALENDAR_COMPONENT));
            return Ok(members);
        }
        let mut members = Members::default();
        let mut overrides = Vec::new();
        let first = record.parts[0];
        for part in &record.parts {
            let unit = self.unit(*part);
            let scope = if unit.overrides { Scope::Override } else { Scope::Record };
            let mut own = self.component(*part)?.decode(scope).members;
            own.take(UID);
            if unit.overrides {
                // What was said of the whole record stands in its first component.
                for name in [COMPONENT, CALENDAR, TIMEZONES, OVERRIDES] {
                    if let Some(value) = own.take(name) {
                        members.state(name, value);
                    }
                }
                overrides.push(own.into_map());
            } else {
                for name in own.names().map(str::to_owned).collect::<Vec<_>>() {
                    members.state(&name, own.get(&name).clone());
                }
            }
            if record.kind == Kind::Zone {
                break;
            }
        }
        let mut follows = |name: &str, value: Value| match members.take(name) {
            Some(said) => members.set(name, said),
            None => members.set(name, value),
        };
        follows(COMPONENT, Value::Text(component_of(&self.unit(first).name)));
        if !overrides.is_empty() {
            follows(OVERRIDES, Value::List(overrides));
        }
        follows(
            CALENDAR,
            if record.kind == Kind::Zone { self.zone_calendar(&record.parts) } else { self.calendar_of(first) },
        );
        follows(TIMEZONES, if record.kind == Kind::Zone { Value::Absent } else { self.timezones_of(first) });
        Ok(members)
    }

    /// A time zone belongs to all calendars, or stands (also) outside any.
    pub(super) fn zone_calendar(&self, parts: &[Part]) -> Value {
        let outside = parts.iter().any(|part| self.unit(*part).object.is_none());
        if outside { Value::List(Vec::new()) } else { Value::Absent }
    }

    /// A component taken apart.
    pub(super) fn component(&self, part: Part) -> Result<Component, Error> {
        let document = &self.documents[part.document];
        let unit = self.unit(part);
        Component::parse(&document.bytes, unit.range.clone(), unit.line, unit.fold)
            .map_err(|problem| document.error(problem))
    }

    /// A calendar object without the components in it.
    pub(super) fn header_bytes(&self, part: Part) -> (Vec<u8>, &Object) {
        let document = &self.documents[part.document];
        let object = &document.objects[part.place];
        (header_bytes(document, object), object)
    }

    /// The fingerprint of a record: of its bytes, and of what follows from where they stand.
    pub(super) fn fingerprint(&self, record: &Record) -> Fingerprint {
        let mut hash = xxh3_64(record.key.as_bytes());
        if record.kind == Kind::Calendar {
            let (bytes, _) = self.header_bytes(record.parts[0]);
            return Fingerprint(xxh3_64_with_seed(&bytes, hash));
        }
        for part in &record.parts {
            let document = &self.documents[part.document];
            hash = xxh3_64_with_seed(document.unit_bytes(self.unit(*part)), hash);
            if record.kind == Kind::Zone {
                break;
            }
        }
        let first = record.parts[0];
        let place = match self.unit(first).object {
            _ if record.kind == Kind::Zone => u64::from(self.zone_calendar(&record.parts) != Value::Absent),
            None => 1,
            Some(object) => self.hashes[first.document][object],
        };
        Fingerprint(if place == 0 { hash } else { xxh3_64_with_seed(&place.to_le_bytes(), hash) })
    }

    fn place_hash(&self, at: usize, object: usize, header: &[String]) -> u64 {
        let timezones = self.timezones_in(at, object);
        if *header == self.header && timezones == Value::Absent {
            return 0;
        }
        let mut text = header.join("\n");
        if let Value::Map(map) = timezones {
            for (zone, key) in map {
                text.push_str(&format!("\0{zone}\0{key:?}"));
            }
        }
        xxh3_64(text.as_bytes()) | 2
    }

    /// Whether a record's key doesn't stand in it, nor is the name of its time zone.
    pub(super) fn is_unsaid(&self, record: &Record) -> bool {
        if record.kind == Kind::Calendar {
            return false;
        }
        let unit = self.unit(record.parts[0]);
        unit.uid.is_none() && unit.zone.as_deref().is_none_or(|zone| zone_key(zone) != record.key)
    }

    /// How many bytes a record takes.
    pub(super) fn length(&self, record: &Record) -> u64 {
        match record.kind {
            Kind::Calendar => 0,
            _ => record.parts.iter().map(|part| self.unit(*part).range.len() as u64).sum(),
        }
    }

    /// Where a record stands, for messages.
    pub(super) fn position_of(&self, record: &Record) -> Position {
        let part = record.parts[0];
        match record.kind {
            Kind::Calendar => {
                let document = &self.documents[part.document];
                document.position(document.objects[part.place].line)
            }
            _ => self.position(part),
        }
    }

    /// Where a component stands, for messages.
    pub(super) fn position(&self, part: Part) -> Position {
        self.documents[part.document].position(self.unit(part).line)
    }
}

/// Of an object's time zones, by name and key, those whose name stands for another definition elsewhere; absent for none.
fn others_of(zones: &[(String, String)]) -> Value {
    let first = zones.iter().filter(|(zone, key)| *key == zone_key(zone)).map(|(zone, _)| zone.as_str());
    let mut said: HashSet<&str> = first.collect();
    let others = zones.iter().filter(|(zone, _)| said.insert(zone));
    let map: Vec<_> = others.map(|(zone, key)| (zone.clone(), Value::text(key.as_str()))).collect();
    if map.is_empty() { Value::Absent } else { Value::Map(map) }
}

/// The key of a time zone.
pub(super) fn zone_key(zone: &str) -> String {
    format!("{ZONE_PREFIX}{zone}")
}

/// What keys have in common of which each depends on the others: `no-uid:HASH` of `no-uid:HASH-2`, `tzid:NAME` of
/// `tzid:NAME#HASH`. `None` for keys that depend on nothing.
pub(super) fn made_base(key: &str) -> Option<&str> {
    if key.starts_with(MADE_PREFIX) {
        return Some(key.get(..MADE_PREFIX.len() + 16).unwrap_or(key));
    }
    key.starts_with(ZONE_PREFIX).then(|| key.rsplit_once('#').map_or(key, |(base, _)| base))
}

/// A header as the value of the field [`CALENDAR`].
pub(super) fn calendar_value(header: &[String]) -> Value {
    let begin = std::iter::once(Value::text(format!("BEGIN:{VCALENDAR}")));
    Value::List(begin.chain(header.iter().map(|line| Value::text(line.as_str()))).collect())
}

/// A calendar object without the components in it.
pub(super) fn header_bytes(document: &Document, object: &Object) -> Vec<u8> {
    let mut bytes = document.bytes[object.range.start..object.first].to_vec();
    for span in object.header.iter().filter(|span| span.start >= object.first) {
        bytes.extend_from_slice(&document.bytes[span.start..span.next]);
    }
    bytes.extend_from_slice(&document.bytes[object.end..object.range.end]);
    bytes
}

fn header_of(document: &Document, object: &Object) -> Result<Vec<String>, Problem> {
    object.header.iter().map(|span| super::document::logical(&document.bytes, *span, object.fold)).collect()
}
