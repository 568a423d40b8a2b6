//! Writing: documents with some components spliced.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use deltabus_record::row::RowReader;
use deltabus_record::schema::{Collection, KeySpec};
use deltabus_record::value::Value;

use super::agenda::{Agenda, CALENDAR_KEY, Kind, PLAIN_HEADER, Part, Record, calendar_value, zone_key};
use super::component::{Component, Style, Unwritable, common, rewrite, write};
use super::document::{Document, VCALENDAR, VTIMEZONE};
use super::fields::{
    CALENDAR, CALENDAR_COMPONENT, COMPONENT, Members, OTHER, OVERRIDE_PROPERTY, OVERRIDES, Scope, TIMEZONES, UID, ZONE,
    component_of, name_of,
};
use crate::formats::content_line::{Fold, Line, Spans, Splice, line_ending};
use crate::{Action, CollectionWrite, Error, RecordWrite, Result};

/// What was said of a record as a whole.
const CONTEXT: [&str; 4] = [COMPONENT, OVERRIDES, CALENDAR, TIMEZONES];

/// What is to become of one record: its members, or nothing.
struct Wanted {
    key: String,
    members: Option<Members>,
}

/// Edits of one document.
#[derive(Default)]
struct Edits {
    ranges: Vec<(Range<usize>, Vec<u8>)>,
    /// What comes in at the end.
    tail: Vec<u8>,
}

/// A set of documents on its way to the next. The first is the home of the calendar's own record and of time zones, there
/// or not.
pub(super) struct Rewriting {
    agenda: Agenda,
    layout: Layout,
    edits: Vec<Edits>,
    /// The header from now on, where it is another.
    header: Option<Vec<String>>,
    /// Definitions of time zones that are new, changed, or gone.
    zones: HashMap<String, Option<Vec<u8>>>,
    /// Components that go.
    removed: HashSet<Part>,
    /// What was written in each object: its time zones must be there too.
    written: BTreeMap<(usize, usize), Vec<u8>>,
    /// New files, with the key of the record in each.
    files: Vec<(String, Vec<u8>)>,
}

/// Where new records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In the one document.
    One,
    /// Each in a document of its own, but for the calendar's own record and time zones.
    Each,
}

/// What is to become of the documents.
#[derive(Debug)]
pub(super) struct Rewritten {
    /// For each document its next content: as it is, another, or none at all.
    pub(super) documents: Vec<Next>,
    /// New documents, with the key of the record in each.
    pub(super) new: Vec<(String, Vec<u8>)>,
}

/// What is to become of one document.
#[derive(Debug)]
pub(super) enum Next {
    Same,
    Content(Vec<u8>),
    Gone,
}

impl Rewriting {
    /// Begins with what is there.
    pub(super) fn new(agenda: Agenda, layout: Layout) -> Rewriting {
        let edits = agenda.documents.iter().map(|_| Edits::default()).collect();
        Rewriting {
            agenda,
            layout,
            edits,
            header: None,
            zones: HashMap::new(),
            removed: HashSet::new(),
            written: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    /// Applies a write to the documents.
    pub(super) fn run(mut self, write: &mut CollectionWrite<'_>) -> Result<Rewritten> {
        let wanted = self.wanted(write)?;
        let mut new = Vec::new();
        for wanted in wanted {
            if let Some(members) = self.edit(wanted)? {
                new.push(members);
            }
        }
        self.place(new)?;
        self.complete_zones();
        let gone = self.gone();
        let edits = std::mem::take(&mut self.edits);
        let next = |(at, edits): (usize, Edits)| match gone.contains(&at) {
            true => Next::Gone,
            false if edits.ranges.is_empty() && edits.tail.is_empty() => Next::Same,
            false => Next::Content(spliced(&self.agenda.documents[at], edits)),
        };
        Ok(Rewritten { documents: edits.into_iter().enumerate().map(next).collect(), new: self.files })
    }

    /// The definition of a time zone by its key, as it will be.
    fn definition(&self, key: &str) -> Option<Vec<u8>> {
        match self.zones.get(key) {
            Some(definition) => definition.clone(),
            None => {
                let record = &self.agenda.records[self.agenda.find(key)?];
                let part = (record.kind == Kind::Zone).then(|| record.parts[0])?;
                Some(self.agenda.documents[part.document].unit_bytes(self.agenda.unit(part)).to_vec())
            }
        }
    }

    /// The definitions of the time zones that components mean, those left out that are `there`.
    fn definitions(&self, components: &[u8], timezones: &Value, there: &[&str]) -> Vec<u8> {
        let mut names: Vec<String> = there.iter().map(|name| (*name).to_owned()).collect();
        let mut out = Vec::new();
        let mut spans = Spans::new(components);
        while let Ok(Some(span)) = spans.next() {
            let unfolded = span.unfolded(components, Fold::Octets);
            let line = Line::parse(&unfolded).ok();
            let Some(name) = line.and_then(|line| line.parameter("TZID").map(|name| name.into_owned())) else {
                continue;
            };
            if names.contains(&name) {
                continue;
            }
            let key = match timezones {
                Value::Map(map) => map.iter().find(|(zone, _)| *zone == name).map(|(_, key)| key),
                _ => None,
            };
            let key = match key {
                Some(Value::Text(key)) => key.clone(),
                _ => zone_key(&name),
            };
            out.extend(self.definition(&key).unwrap_or_default());
            names.push(name);
        }
        if let Value::Map(map) = timezones {
            for (name, key) in map {
                if let Value::Text(key) = key
                    && !names.contains(name)
                {
                    out.extend(self.definition(key).unwrap_or_default());
                    names.push(name.clone());
                }
            }
        }
        out
    }

    /// Whether the definitions that `timezones` names are there to be put beside a component.
    fn are_there(&self, timezones: &Value) -> bool {
        let Value::Map(map) = timezones else { return *timezones == Value::Absent };
        map.iter().all(|(zone, key)| match key {
            Value::Text(key) if *key != zone_key(zone) => self.definition(key).is_some_and(|definition| {
                let component = Component::parse(&definition, 0..definition.len(), 1, Fold::Octets);
                component.is_ok_and(|component| {
                    *component.decode(Scope::Record).members.get(ZONE) == Value::text(zone.as_str())
                })
            }),
            _ => false,
        })
    }

    /// Puts the time zones beside what was written, where they are not: but for the home, which has its own.
    fn complete_zones(&mut self) {
        for ((document, object), bytes) in std::mem::take(&mut self.written) {
            if (document, object) == (0, 0) {
                continue;
            }
            let parts = |(place, unit): (usize, &super::document::Unit)| {
                let part = Part { document, place };
                let stays = unit.object == Some(object) && !self.removed.contains(&part);
                if stays { unit.zone.clone() } else { None }
            };
            let units = self.agenda.documents[document].units.iter().enumerate();
            let there: Vec<String> = units.filter_map(parts).collect();
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            let missing = self.definitions(&bytes, &Value::Absent, &there);
            if !missing.is_empty() {
                let at = self.agenda.documents[document].objects[object].first;
                self.edits[document].ranges.insert(0, (at..at, missing));
            }
        }
    }

    /// The documents that go, since nothing is left in them. Time zones that were only there find a home.
    fn gone(&mut self) -> HashSet<usize> {
        let mut gone = HashSet::new();
        if self.layout == Layout::One {
            return gone;
        }
        for (at, document) in self.agenda.documents.iter().enumerate().skip(1) {
            let part = |place: usize| Part { document: at, place };
            let has_items = document.units.iter().any(|unit| unit.name != VTIMEZONE);
            let left = |(place, unit): (usize, &super::document::Unit)| {
                !self.removed.contains(&part(place)) && (!has_items || unit.name != VTIMEZONE)
            };
            let touched = (0..document.units.len()).any(|place| self.removed.contains(&part(place)));
            if touched && !document.units.iter().enumerate().any(left) && self.edits[at].tail.is_empty() {
                gone.insert(at);
            }
        }
        let mut homeless = Vec::new();
        for record in self.agenda.records.iter().filter(|record| record.kind == Kind::Zone) {
            let stays = |part: &Part| !self.removed.contains(part) && !gone.contains(&part.document);
            let was = |part: &Part| !self.removed.contains(part);
            if !record.parts.iter().any(stays) && record.parts.iter().any(was) {
                homeless.push(record.key.clone());
            }
        }
        let definitions: Vec<u8> = homeless.iter().filter_map(|key| self.definition(key)).flatten().collect();
        if !definitions.is_empty() {
            self.bring_home(Vec::new(), definitions, Vec::new());
        }
        gone
    }

    /// Puts time zones and components in the home's calendar object, which is made where missing.
    fn bring_home(&mut self, made: Vec<u8>, zones: Vec<u8>, items: Vec<u8>) {
        let document = &self.agenda.documents[0];
        let ending = line_ending(&document.bytes);
        match document.objects.first() {
            Some(object) => {
                let (first, end) = (object.first, object.end);
                let ranges = &mut self.edits[0].ranges;
                if !zones.is_empty() {
                    ranges.push((first..first, zones));
                }
                if !items.is_empty() {
                    ranges.push((end..end, items));
                }
            }
            None => {
                let close = format!("END:{VCALENDAR}{ending}");
                let tail = &mut self.edits[0].tail;
                if tail.is_empty() || !made.is_empty() {
                    let mut open = made;
                    if open.is_empty() {
                        open = header_text(self.header.as_ref().unwrap_or(&self.agenda.header), ending);
                    } else {
                        open.truncate(open.len() - close.len());
                    }
                    tail.extend([open, zones, items, close.into_bytes()].concat());
                } else {
                    // It was made just now; what else is new stands behind its end.
                    let at = find(tail, close.as_bytes()).unwrap_or(tail.len());
                    tail.splice(at..at, [zones, items].concat());
                }
            }
        }
    }

    /// What each write leads to, as members.
    fn wanted(&self, write: &mut CollectionWrite<'_>) -> Result<Vec<Wanted>> {
        let collection = write.collection;
        check_key(collection, &self.agenda.documents[0].place)?;
        let mut wanted: Vec<Wanted> = Vec::new();
        match &mut write.action {
            Action::Remove => {}
            Action::Load(records) => {
                let has_records = !self.agenda.records.is_empty();
                if has_records {
                    let problem = "records can only be loaded where there are none".to_owned();
                    return Err(Error::Unsupported { place: self.agenda.documents[0].place.clone(), problem });
                }
                while records.advance().map_err(Error::Records)? {
                    let values: Vec<_> = RowReader::new(records.row()).map(|field| field.value()).collect();
                    let (key, members) = self.members(collection, &values, None, &Members::default())?;
                    wanted.push(Wanted { key, members: Some(members) });
                }
            }
            Action::Write(writes) => {
                for write in *writes {
                    match write {
                        RecordWrite::Put { row, changed, .. } => {
                            let values = row.values();
                            let key = self.key(collection, &values)?;
                            let found = self.agenda.find(&key).map(|record| &self.agenda.records[record]);
                            let (only, before) = match found {
                                Some(record) => (Some(changed.as_slice()), self.agenda.decode(record)?),
                                None => (None, Members::default()),
                            };
                            let (key, members) = self.members(collection, &values, only, &before)?;
                            wanted.push(Wanted { key, members: Some(members) });
                        }
                        RecordWrite::Remove { row, .. } => {
                            wanted.push(Wanted { key: self.key(collection, &row.values())?, members: None });
                        }
                    }
                }
            }
        }
        let dropped: Vec<_> =
            write.dropped.iter().filter(|name| *name != UID && *name != COMPONENT).map(String::as_str).collect();
        if !dropped.is_empty() {
            for record in &self.agenda.records {
                if !wanted.iter().any(|wanted| wanted.key == record.key) {
                    let mut members = self.agenda.decode(record)?;
                    if dropped.iter().any(|name| members.given(name).is_some()) {
                        dropped.iter().for_each(|name| drop(members.take(name)));
                        wanted.push(Wanted { key: record.key.clone(), members: Some(members) });
                    }
                }
            }
            for members in wanted.iter_mut().filter_map(|wanted| wanted.members.as_mut()) {
                let kept = |name: &str| collection.schema.slot(name).is_some();
                dropped.iter().filter(|name| !kept(name)).for_each(|name| drop(members.take(name)));
            }
        }
        Ok(wanted)
    }

    fn key(&self, collection: &Collection, values: &[Value]) -> Result<String> {
        let slot = collection.schema.slot(UID).unwrap_or_default();
        match values.get(slot) {
            Some(Value::Text(key)) => Ok(key.clone()),
            other => Err(Error::Write {
                place: self.agenda.documents[0].place.clone(),
                key: format!("{:?}", other.unwrap_or(&Value::Absent)),
                problem: "a UID must be text".into(),
            }),
        }
    }

    /// The members of a row over those that are there; `only` these slots count.
    fn members(
        &self,
        collection: &Collection,
        values: &[Value],
        only: Option<&[u32]>,
        before: &Members,
    ) -> Result<(String, Members)> {
        let mut members = before.clone();
        for (slot, field) in collection.schema.ordered() {
            let counts = only.is_none_or(|only| only.contains(&(slot as u32)));
            if counts && field.name != UID {
                members.set(&field.name, values.get(slot).cloned().unwrap_or(Value::Absent));
            }
        }
        if members.given(COMPONENT).is_none() {
            members.set(COMPONENT, Value::text("event"));
        }
        Ok((self.key(collection, values)?, members))
    }

    /// Edits the record where it is there; gives the members of one that has to come in.
    fn edit(&mut self, wanted: Wanted) -> Result<Option<(String, Members)>> {
        let Some(place) = self.agenda.find(&wanted.key) else {
            return Ok(wanted.members.map(|members| (wanted.key, members)));
        };
        let record = &self.agenda.records[place];
        let (kind, parts, key) = (record.kind, record.parts.clone(), record.key.clone());
        let failed = |unwritable: Unwritable, place: &str| Error::Write {
            place: place.to_owned(),
            key: format!("{key:?}"),
            problem: unwritable.0,
        };
        let Some(members) = wanted.members else {
            self.take_out(&key, kind, &parts).map_err(|problem| failed(problem, ""))?;
            return Ok(None);
        };
        if self.agenda.decode(&self.agenda.records[place])? == members {
            return Ok(None);
        }
        if kind_of(&key, &members) != kind {
            // Another sort of component stands elsewhere.
            self.take_out(&key, kind, &parts).map_err(|problem| failed(problem, ""))?;
            return Ok(Some((key, members)));
        }
        let place_name = self.agenda.documents[parts[0].document].place.clone();
        let done = match kind {
            Kind::Calendar => self.set_header(&parts, &members),
            Kind::Zone => self.edit_zone(&key, &parts, &members),
            Kind::Item => self.edit_item(place, &members),
        };
        done.map_err(|problem| failed(problem, &place_name))?;
        Ok(None)
    }

    fn take_out(&mut self, key: &str, kind: Kind, parts: &[Part]) -> Result<(), Unwritable> {
        match kind {
            Kind::Calendar => return self.set_header(parts, &plain_header()),
            Kind::Zone => drop(self.zones.insert(key.to_owned(), None)),
            Kind::Item => {}
        }
        for part in parts {
            let range = self.agenda.unit(*part).range.clone();
            self.edits[part.document].ranges.push((range, Vec::new()));
            self.removed.insert(*part);
        }
        Ok(())
    }

    /// Gives the objects another header.
    fn set_header(&mut self, objects: &[Part], members: &Members) -> Result<(), Unwritable> {
        let members = stated(members, &[(COMPONENT, Value::text(CALENDAR_COMPONENT))]);
        for part in objects {
            let document = &self.agenda.documents[part.document];
            let object = &document.objects[part.place];
            let style = Style { fold: object.fold, ending: line_ending(&document.bytes) };
            let (old, _) = self.agenda.header_bytes(*part);
            let mut new = rewrite(&old, Scope::Record, &members, style)?;
            self.header = Some(header_lines(&new, style.fold));
            // The `END` stays where it is.
            new.truncate(new.len() - (object.range.end - object.end));
            let edits = &mut self.edits[part.document].ranges;
            edits.push((object.range.start..object.first, new));
            for span in object.header.iter().filter(|span| span.start >= object.first) {
                edits.push((span.start..span.next, Vec::new()));
            }
        }
        Ok(())
    }

    fn edit_zone(&mut self, key: &str, parts: &[Part], members: &Members) -> Result<(), Unwritable> {
        for part in parts {
            let unit = self.agenda.unit(*part);
            let document = &self.agenda.documents[part.document];
            let style = Style { fold: unit.fold, ending: line_ending(&document.bytes) };
            let follows =
                [(COMPONENT, Value::text(component_of(&unit.name))), (CALENDAR, self.agenda.zone_calendar(parts[0]))];
            let new = rewrite(document.unit_bytes(unit), Scope::Record, &zone_members(key, members, &follows), style)?;
            self.zones.entry(key.to_owned()).or_insert_with(|| Some(new.clone()));
            self.edits[part.document].ranges.push((unit.range.clone(), new));
        }
        Ok(())
    }

    fn edit_item(&mut self, place: usize, members: &Members) -> Result<(), Unwritable> {
        let record: &Record = &self.agenda.records[place];
        let first = record.parts[0];
        let unit = self.agenda.unit(first);
        let document = &self.agenda.documents[first.document];
        let style = Style { fold: unit.fold, ending: line_ending(&document.bytes) };
        let follows = [
            (COMPONENT, Value::Text(component_of(&unit.name))),
            (CALENDAR, self.agenda.calendar_of(first)),
            (TIMEZONES, self.agenda.timezones_of(first)),
        ];
        let name = members_name(members).unwrap_or("VEVENT");
        let same_name = name == unit.name;
        let item = Item::new(&record.key, members, &follows, same_name);
        let mut edits: Vec<(usize, Range<usize>, Vec<u8>)> = Vec::new();

        let (masters, old): (Vec<Part>, Vec<Part>) =
            record.parts.iter().partition(|part| !self.agenda.unit(**part).overrides);
        let renamed = |source: &[u8], scope: Scope, wanted: &Members, style: Style| match same_name {
            true => rewrite(source, scope, wanted, style),
            false => write(name, scope, wanted, style),
        };
        match (masters.first(), &item.master) {
            (Some(part), Some(wanted)) => {
                let (document, unit) = (&self.agenda.documents[part.document], self.agenda.unit(*part));
                let style = Style { fold: unit.fold, ending: line_ending(&document.bytes) };
                let new = renamed(document.unit_bytes(unit), Scope::Record, wanted, style)?;
                edits.push((part.document, unit.range.clone(), new));
            }
            (Some(part), None) => edits.push((part.document, self.agenda.unit(*part).range.clone(), Vec::new())),
            (None, Some(wanted)) => {
                let at = self.agenda.unit(first).range.start;
                edits.push((first.document, at..at, write(name, Scope::Record, wanted, style)?));
            }
            (None, None) => {}
        }
        let mut before = Vec::new();
        for part in &old {
            let component = self.agenda.component(*part).map_err(|error| Unwritable(error.to_string()))?;
            before.push(component.decode(Scope::Override).members);
        }
        // Overrides that stay, whatever comes before and after them; in between one takes another's place.
        let (front, back) = common(&before, &item.overrides);
        let after = &item.overrides[front..item.overrides.len() - back];
        let middle = &old[front..old.len() - back];
        for (at, part) in middle.iter().enumerate() {
            let (document, unit) = (&self.agenda.documents[part.document], self.agenda.unit(*part));
            let style = Style { fold: unit.fold, ending: line_ending(&document.bytes) };
            let new = match after.get(at) {
                Some(wanted) => marked(renamed(document.unit_bytes(unit), Scope::Override, wanted, style)?, style),
                None => Vec::new(),
            };
            edits.push((part.document, unit.range.clone(), new));
        }
        if !same_name {
            for part in old[..front].iter().chain(&old[old.len() - back..]) {
                let (document, unit) = (&self.agenda.documents[part.document], self.agenda.unit(*part));
                let style = Style { fold: unit.fold, ending: line_ending(&document.bytes) };
                let component = self.agenda.component(*part).map_err(|error| Unwritable(error.to_string()))?;
                let wanted = component.decode(Scope::Override).members;
                let new = marked(write(name, Scope::Override, &wanted, style)?, style);
                edits.push((part.document, unit.range.clone(), new));
            }
        }
        if let Some(more) = after.get(middle.len()..)
            && !more.is_empty()
        {
            let behind = match (front + middle.len()).checked_sub(1) {
                Some(last) => old[last],
                None => *masters.first().unwrap_or(&first),
            };
            let at = self.agenda.unit(behind).range.end;
            let mut bytes = Vec::new();
            for wanted in more {
                bytes.extend(marked(write(name, Scope::Override, wanted, style)?, style));
            }
            edits.push((behind.document, at..at, bytes));
        }
        if let Some(object) = unit.object {
            let all = edits.iter().filter(|(document, ..)| *document == first.document);
            let bytes = all.flat_map(|(_, _, new)| new.iter().copied());
            self.written.entry((first.document, object)).or_default().extend(bytes);
        }
        for (document, range, new) in edits {
            self.edits[document].ranges.push((range, new));
        }
        Ok(())
    }

    /// Brings new records in: in the first calendar object, in one with their header, outside any, or in files of their own.
    fn place(&mut self, mut new: Vec<(String, Members)>) -> Result<()> {
        let document = &self.agenda.documents[0];
        let ending = line_ending(&document.bytes);
        let place = document.place.clone();
        let failed = |key: &str, unwritable: Unwritable| Error::Write {
            place: place.clone(),
            key: format!("{key:?}"),
            problem: unwritable.0,
        };
        let has_home = !document.objects.is_empty();
        let is_bare = !document.units.is_empty();
        let fold = document.objects.first().map_or(Fold::Octets, |object| object.fold);
        let style = Style { fold, ending };
        let own = new.iter().position(|(key, members)| kind_of(key, members) == Kind::Calendar);
        let own = own.map(|at| new.remove(at));
        let recorded = own.is_some()
            || self.agenda.find(CALENDAR_KEY).is_some_and(|at| self.agenda.records[at].kind == Kind::Calendar);

        // The header, of objects that are there and of one that is made.
        let mut made = Vec::new();
        if let Some((key, members)) = &own {
            let objects: Vec<Part> = self.agenda.objects().collect();
            let objects: Vec<Part> = objects
                .into_iter()
                .filter(|part| self.agenda.header_of(part.document, part.place) == self.agenda.header)
                .collect();
            self.set_header(&objects, members).map_err(|problem| failed(key, problem))?;
            if !has_home {
                let members = stated(members, &[(COMPONENT, Value::text(CALENDAR_COMPONENT))]);
                made = write(VCALENDAR, Scope::Record, &members, style).map_err(|problem| failed(key, problem))?;
                self.header = Some(header_lines(&made, fold));
            }
        }
        let header = self.header.clone().unwrap_or_else(|| self.agenda.header.clone());

        // Time zones first: components bring those along that they mean.
        let (mut zones, mut bare) = (Vec::new(), Vec::new());
        let mut variants = Vec::new();
        for (key, members) in new.iter().filter(|(key, members)| kind_of(key, members) == Kind::Zone) {
            let nowhere = is_nowhere(members);
            let calendar = if nowhere { members.get(CALENDAR).clone() } else { Value::Absent };
            let follows = [(COMPONENT, Value::text("timezone")), (CALENDAR, calendar)];
            let bytes = write(VTIMEZONE, Scope::Record, &zone_members(key, members, &follows), style);
            let bytes = bytes.map_err(|problem| failed(key, problem))?;
            if nowhere {
                bare.extend(bytes);
                continue;
            }
            self.zones.insert(key.clone(), Some(bytes.clone()));
            // The definition that a name means by itself comes before others.
            match members.get(ZONE) {
                Value::Text(zone) if zone_key(zone) != *key => variants.push((key.clone(), bytes)),
                _ => zones.extend(bytes),
            }
        }

        let mut items = Vec::new();
        let mut others: Vec<Other> = Vec::new();
        for (key, members) in new.iter().filter(|(key, members)| kind_of(key, members) == Kind::Item) {
            let calendar = members.get(CALENDAR);
            let nowhere = is_nowhere(members);
            let apart = self.layout == Layout::Each;
            let elsewhere = (recorded || apart) && is_header(calendar) && *calendar != calendar_value(&header);
            let stands = if nowhere || elsewhere { calendar.clone() } else { Value::Absent };
            let bare_timezones = Value::Absent;
            let beside = (elsewhere || apart) && !nowhere && self.are_there(members.get(TIMEZONES));
            let timezones = if beside { members.get(TIMEZONES) } else { &bare_timezones };
            let bytes =
                item_bytes(key, members, stands, timezones.clone(), style).map_err(|problem| failed(key, problem))?;
            let own_header = match calendar {
                Value::List(lines) if elsewhere => lines
                    .iter()
                    .skip(1)
                    .filter_map(|line| match line {
                        Value::Text(line) => Some(line.clone()),
                        _ => None,
                    })
                    .collect(),
                _ => header.clone(),
            };
            if apart {
                let mut file = Vec::new();
                if nowhere {
                    file = bytes;
                } else {
                    file.extend(header_text(&own_header, ending));
                    file.extend(self.definitions(&bytes, timezones, &[]));
                    file.extend(bytes);
                    file.extend(format!("END:{VCALENDAR}{ending}").into_bytes());
                }
                self.files.push((key.clone(), file));
            } else if nowhere {
                bare.extend(bytes);
            } else if elsewhere {
                let fits = |other: &&mut Other| other.header == own_header && other.timezones == *timezones;
                match others.iter_mut().find(fits) {
                    Some(other) => other.components.extend(bytes),
                    None => others.push(Other { header: own_header, timezones: timezones.clone(), components: bytes }),
                }
            } else {
                items.extend(bytes);
            }
        }
        // Another definition of a name stands where it is meant, beside the components that mean it.
        let meant = |key: &String| {
            others.iter().any(|other| matches!(&other.timezones, Value::Map(map) if map.iter().any(|(_, value)| *value == Value::text(key.as_str()))))
        };
        for (key, bytes) in &variants {
            if !meant(key) {
                zones.extend_from_slice(bytes);
            }
        }

        let alone = zones.is_empty() && items.is_empty() && own.is_none();
        let wants_object = match self.layout {
            // A file of nothing but components outside any calendar stays one.
            Layout::One => !alone || (!is_bare && bare.is_empty()),
            Layout::Each => !alone,
        };
        if has_home || wants_object {
            if !has_home && made.is_empty() {
                made = write(VCALENDAR, Scope::Record, &plain_own(), style)
                    .map_err(|problem| failed(CALENDAR_KEY, problem))?;
            }
            self.bring_home(made, zones, items);
        }
        for other in others {
            self.elsewhere(other, ending);
        }
        self.edits[0].tail.extend(bare);
        Ok(())
    }

    /// Puts components in a calendar object of their header, behind the first.
    fn elsewhere(&mut self, other: Other, ending: &str) {
        let document = &self.agenda.documents[0];
        let fits = |object: &usize| {
            self.agenda.header_of(0, *object) == other.header && self.agenda.timezones_in(0, *object) == other.timezones
        };
        match (1..document.objects.len()).find(fits) {
            Some(object) => {
                let at = document.objects[object].end;
                self.written.entry((0, object)).or_default().extend_from_slice(&other.components);
                self.edits[0].ranges.push((at..at, other.components));
            }
            None => {
                let definitions = self.definitions(&other.components, &other.timezones, &[]);
                let mut text = header_text(&other.header, ending);
                text.extend(definitions);
                text.extend(other.components);
                text.extend(format!("END:{VCALENDAR}{ending}").into_bytes());
                self.edits[0].tail.extend(text);
            }
        }
    }
}

/// Components for a calendar object of its own.
struct Other {
    header: Vec<String>,
    timezones: Value,
    components: Vec<u8>,
}

/// Whether a record stands outside any calendar object.
fn is_nowhere(members: &Members) -> bool {
    matches!(members.get(CALENDAR), Value::List(lines) if lines.is_empty())
}

fn plain_own() -> Members {
    stated(&plain_header(), &[(COMPONENT, Value::text(CALENDAR_COMPONENT))])
}

/// The lines of a calendar object's header.
fn header_lines(bytes: &[u8], fold: Fold) -> Vec<String> {
    let component = Component::parse(bytes, 0..bytes.len(), 1, fold);
    component.map(|component| component.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// The beginning of a calendar object.
fn header_text(header: &[String], ending: &str) -> Vec<u8> {
    let mut out = format!("BEGIN:{VCALENDAR}{ending}").into_bytes();
    for line in header {
        super::property::write_line(line, Fold::Octets, ending, &mut out);
    }
    out
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The document with its edits.
fn spliced(document: &Document, mut edits: Edits) -> Vec<u8> {
    edits.ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut splice = Splice::new(&document.bytes);
    for (range, new) in edits.ranges {
        splice.replace(range, &new);
    }
    let mut bytes = splice.finish();
    if !edits.tail.is_empty() {
        if !bytes.is_empty() && !bytes.ends_with(b"\n") && !bytes.ends_with(b"\r") {
            bytes.extend_from_slice(line_ending(&document.bytes).as_bytes());
        }
        bytes.extend(edits.tail);
    }
    bytes
}

fn check_key(collection: &Collection, place: &str) -> Result<()> {
    let names = collection.schema.key_names();
    if collection.schema.key != KeySpec::WholeRow && names == [UID] {
        return Ok(());
    }
    let problem = match names.as_slice() {
        [] => "records of a calendar have the key `uid`, these have none".to_owned(),
        names => format!(
            "records of a calendar have the key `uid`, not `{0}`; map it with `uid = \"{0}\"`",
            names.join("`, `")
        ),
    };
    Err(Error::Unsupported { place: place.to_owned(), problem })
}

/// What a record with these members is.
fn kind_of(key: &str, members: &Members) -> Kind {
    match members.get(COMPONENT) {
        Value::Text(component) if component == "timezone" => Kind::Zone,
        Value::Text(component) if component == CALENDAR_COMPONENT && key == CALENDAR_KEY => Kind::Calendar,
        _ => Kind::Item,
    }
}

/// The component's name, where a component can have it.
fn members_name(members: &Members) -> Option<&str> {
    match members.get(COMPONENT) {
        Value::Text(component) => name_of(component).filter(|name| *name != VCALENDAR && *name != VTIMEZONE),
        _ => None,
    }
}

fn plain_header() -> Members {
    let mut members = Members::default();
    members.set(OTHER, Value::List(PLAIN_HEADER.iter().map(|line| Value::text(*line)).collect()));
    members.set(COMPONENT, Value::text(CALENDAR_COMPONENT));
    members
}

/// Whether a value is the header of a calendar object that can be written so.
fn is_header(value: &Value) -> bool {
    let Value::List(lines) = value else { return false };
    let lines: Vec<&str> =
        lines.iter().filter_map(|line| if let Value::Text(line) = line { Some(line.as_str()) } else { None }).collect();
    let Some((begin, rest)) = lines.split_first() else { return false };
    // vCalendar 1.0 folds in another way: its lines are kept elsewhere.
    let plain = |line: &&str| {
        super::property::is_line(line, Fold::Octets) && !line.to_ascii_uppercase().starts_with("VERSION:1")
    };
    matches!(value, Value::List(all) if all.len() == lines.len())
        && *begin == format!("BEGIN:{VCALENDAR}")
        && rest.iter().all(plain)
}

/// The members for a component's own lines: what is said of the record as a whole is said only where it isn't what
/// follows anyway.
fn stated(members: &Members, follows: &[(&str, Value)]) -> Members {
    let mut own = members.clone();
    for name in CONTEXT {
        let said = own.take(name).unwrap_or(Value::Absent);
        let follow = follows.iter().find(|(known, _)| *known == name).map_or(&Value::Absent, |(_, value)| value);
        if said != *follow {
            own.state(name, said);
        }
    }
    own
}

fn zone_members(key: &str, members: &Members, follows: &[(&str, Value)]) -> Members {
    let mut own = stated(members, follows);
    let natural = match members.get(ZONE) {
        Value::Text(zone) => zone_key(zone) == key,
        _ => false,
    };
    if !natural {
        own.set(UID, Value::text(key));
    }
    own
}

/// A record's components.
struct Item {
    master: Option<Members>,
    overrides: Vec<Members>,
}

impl Item {
    fn new(key: &str, members: &Members, follows: &[(&str, Value)], same_name: bool) -> Item {
        let maps = match members.get(OVERRIDES) {
            Value::List(overrides) => overrides.iter().map(map_of).collect::<Option<Vec<_>>>().unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut follows = follows.to_vec();
        if !maps.is_empty() {
            follows.push((OVERRIDES, members.get(OVERRIDES).clone()));
        }
        if !same_name && let Some(name) = members_name(members) {
            follows.retain(|(known, _)| *known != COMPONENT);
            follows.push((COMPONENT, Value::Text(component_of(name))));
        }
        let mut own = stated(members, &follows);
        let with_key = |mut members: Members| {
            members.set(UID, Value::text(key));
            members
        };
        let mut overrides: Vec<_> = maps.into_iter().map(with_key).collect();
        let context_only = own.names().all(|name| CONTEXT.contains(&name));
        let master = match overrides.first_mut() {
            Some(first) if context_only => {
                for name in own.names().map(str::to_owned).collect::<Vec<_>>() {
                    first.state(&name, own.take(&name).unwrap_or(Value::Absent));
                }
                None
            }
            _ => Some(with_key(own)),
        };
        Item { master, overrides }
    }
}

fn map_of(value: &Value) -> Option<Members> {
    match value {
        Value::Map(map) => Some(Members::of_map(map)),
        _ => None,
    }
}

/// The components of a new record that stands in a calendar with the field [`CALENDAR`] `stands`.
fn item_bytes(
    key: &str,
    members: &Members,
    stands: Value,
    timezones: Value,
    style: Style,
) -> Result<Vec<u8>, Unwritable> {
    let name = members_name(members).unwrap_or("VEVENT");
    let follows = [(COMPONENT, Value::Text(component_of(name))), (CALENDAR, stands), (TIMEZONES, timezones)];
    let item = Item::new(key, members, &follows, true);
    let mut bytes = Vec::new();
    if let Some(master) = &item.master {
        bytes.extend(write(name, Scope::Record, master, style)?);
    }
    for wanted in &item.overrides {
        bytes.extend(marked(write(name, Scope::Override, wanted, style)?, style));
    }
    Ok(bytes)
}

/// An override says which instance it replaces; one that doesn't is marked.
fn marked(mut bytes: Vec<u8>, style: Style) -> Vec<u8> {
    let component = Component::parse(&bytes, 0..bytes.len(), 1, style.fold);
    let says = |line: &str| {
        let parsed = crate::formats::content_line::Line::parse(line.as_bytes());
        parsed.is_ok_and(|line| line.group.is_none() && (line.is("RECURRENCE-ID") || line.is(OVERRIDE_PROPERTY)))
    };
    if component.is_ok_and(|component| !component.lines().any(says)) {
        let first = line_length(&bytes, style.ending);
        let mark = format!("{OVERRIDE_PROPERTY}:TRUE{}", style.ending);
        bytes.splice(first..first, mark.into_bytes());
    }
    bytes
}

/// The length of the first line, with its end.
fn line_length(bytes: &[u8], ending: &str) -> usize {
    bytes
        .windows(ending.len())
        .position(|window| window == ending.as_bytes())
        .map_or(bytes.len(), |at| at + ending.len())
}
