//! Records that are there: edited, or taken out.

use std::collections::HashSet;
use std::ops::Range;

use deltabus_record::value::Value;

use super::agenda::{Kind, Part, Record, made_base};
use super::component::{Style, Unwritable, common, rewrite, write};
use super::fields::{CALENDAR, CALENDAR_COMPONENT, COMPONENT, Members, Scope, TIMEZONES, component_of};
use super::item::{Item, header_lines, kind_of, marked, members_name, plain_header, stated, zone_members};
use super::wanted::Wanted;
use super::write::Rewriting;
use crate::formats::content_line::line_ending;
use crate::{Error, Result};

impl Rewriting {
    /// Edits the record where it is there; gives the members of one that has to come in.
    pub(super) fn edit(&mut self, wanted: Wanted) -> Result<Option<(String, Members)>> {
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

    /// Gives components their keys in writing which would have others once what is `wanted` was done: those without UID, and
    /// second definitions of a time zone, whose keys depend on what stands before them.
    pub(super) fn pin(&mut self, wanted: &[Wanted]) -> Result<()> {
        let touched: HashSet<&str> = wanted.iter().map(|wanted| wanted.key.as_str()).collect();
        let bases: HashSet<&str> = touched.iter().filter_map(|key| made_base(key)).collect();
        if bases.is_empty() {
            return Ok(());
        }
        for place in 0..self.agenda.records.len() {
            let record = &self.agenda.records[place];
            let is_made =
                self.agenda.is_unsaid(record) && made_base(&record.key).is_some_and(|base| bases.contains(base));
            if !is_made || touched.contains(record.key.as_str()) {
                continue;
            }
            let (key, kind, parts) = (record.key.clone(), record.kind, record.parts.clone());
            let members = self.agenda.decode(record)?;
            let done = match kind {
                Kind::Zone => self.edit_zone(&key, &parts, &members),
                _ => self.edit_item(place, &members),
            };
            done.map_err(|Unwritable(problem)| Error::Write {
                place: self.agenda.documents[parts[0].document].place.clone(),
                key: format!("{key:?}"),
                problem,
            })?;
        }
        Ok(())
    }

    pub(super) fn take_out(&mut self, key: &str, kind: Kind, parts: &[Part]) -> Result<(), Unwritable> {
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
    pub(super) fn set_header(&mut self, objects: &[Part], members: &Members) -> Result<(), Unwritable> {
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

    pub(super) fn edit_zone(&mut self, key: &str, parts: &[Part], members: &Members) -> Result<(), Unwritable> {
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

    pub(super) fn edit_item(&mut self, place: usize, members: &Members) -> Result<(), Unwritable> {
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
}
