//! Records that come in.

use deltabus_record::value::Value;

use super::agenda::{CALENDAR_KEY, Kind, Part, calendar_value, zone_key};
use super::component::{Style, Unwritable, write};
use super::document::{VCALENDAR, VTIMEZONE};
use super::fields::{CALENDAR, CALENDAR_COMPONENT, COMPONENT, Members, Scope, TIMEZONES, ZONE};
use super::item::{header_lines, item_bytes, kind_of, plain_header, stated, zone_members};
use super::property::{is_line, write_line};
use super::write::{Layout, Rewriting};
use crate::formats::content_line::{Fold, line_ending};
use crate::{Error, Result};

impl Rewriting {
    /// Brings new records in: in the first calendar object, in one with their header, outside any, or in files of their own.
    pub(super) fn place(&mut self, mut new: Vec<(String, Members)>) -> Result<()> {
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

    /// Puts time zones and components in the home's calendar object, which is made where missing.
    pub(super) fn bring_home(&mut self, made: Vec<u8>, zones: Vec<u8>, items: Vec<u8>) {
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

/// The beginning of a calendar object.
fn header_text(header: &[String], ending: &str) -> Vec<u8> {
    let mut out = format!("BEGIN:{VCALENDAR}{ending}").into_bytes();
    for line in header {
        write_line(line, Fold::Octets, ending, &mut out);
    }
    out
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether a value is the header of a calendar object that can be written so.
fn is_header(value: &Value) -> bool {
    let Value::List(lines) = value else { return false };
    let lines: Vec<&str> =
        lines.iter().filter_map(|line| if let Value::Text(line) = line { Some(line.as_str()) } else { None }).collect();
    let Some((begin, rest)) = lines.split_first() else { return false };
    // vCalendar 1.0 folds in another way: its lines are kept elsewhere.
    let plain = |line: &&str| is_line(line, Fold::Octets) && !line.to_ascii_uppercase().starts_with("VERSION:1");
    matches!(value, Value::List(all) if all.len() == lines.len())
        && *begin == format!("BEGIN:{VCALENDAR}")
        && rest.iter().all(plain)
}
