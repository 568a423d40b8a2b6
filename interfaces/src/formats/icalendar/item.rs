//! A record's members as those of its components.

use deltabus_record::value::Value;

use super::agenda::{CALENDAR_KEY, Kind, PLAIN_HEADER, zone_key};
use super::component::{Component, Style, Unwritable, write};
use super::document::{VCALENDAR, VTIMEZONE};
use super::fields::{
    CALENDAR, CALENDAR_COMPONENT, COMPONENT, Members, OTHER, OVERRIDE_PROPERTY, OVERRIDES, Scope, TIMEZONES, UID, ZONE,
    component_of, name_of,
};
use crate::formats::content_line::{Fold, Line};

/// What was said of a record as a whole.
pub(super) const CONTEXT: [&str; 4] = [COMPONENT, OVERRIDES, CALENDAR, TIMEZONES];

/// What a record with these members is.
pub(super) fn kind_of(key: &str, members: &Members) -> Kind {
    match members.get(COMPONENT) {
        Value::Text(component) if component == "timezone" => Kind::Zone,
        Value::Text(component) if component == CALENDAR_COMPONENT && key == CALENDAR_KEY => Kind::Calendar,
        _ => Kind::Item,
    }
}

/// The component's name, where a component can have it.
pub(super) fn members_name(members: &Members) -> Option<&str> {
    match members.get(COMPONENT) {
        Value::Text(component) => name_of(component).filter(|name| *name != VCALENDAR && *name != VTIMEZONE),
        _ => None,
    }
}

pub(super) fn plain_header() -> Members {
    let mut members = Members::default();
    members.set(OTHER, Value::List(PLAIN_HEADER.iter().map(|line| Value::text(*line)).collect()));
    members.set(COMPONENT, Value::text(CALENDAR_COMPONENT));
    members
}

/// The members for a component's own lines: what is said of the record as a whole is said only where it isn't what
/// follows anyway.
pub(super) fn stated(members: &Members, follows: &[(&str, Value)]) -> Members {
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

pub(super) fn zone_members(key: &str, members: &Members, follows: &[(&str, Value)]) -> Members {
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
pub(super) struct Item {
    pub(super) master: Option<Members>,
    pub(super) overrides: Vec<Members>,
}

impl Item {
    pub(super) fn new(key: &str, members: &Members, follows: &[(&str, Value)], same_name: bool) -> Item {
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

pub(super) fn map_of(value: &Value) -> Option<Members> {
    match value {
        Value::Map(map) => Some(Members::of_map(map)),
        _ => None,
    }
}

/// The components of a new record that stands in a calendar with the field [`CALENDAR`] `stands`.
pub(super) fn item_bytes(
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
pub(super) fn marked(mut bytes: Vec<u8>, style: Style) -> Vec<u8> {
    let component = Component::parse(&bytes, 0..bytes.len(), 1, style.fold);
    let says = |line: &str| {
        let parsed = Line::parse(line.as_bytes());
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
pub(super) fn line_length(bytes: &[u8], ending: &str) -> usize {
    bytes
        .windows(ending.len())
        .position(|window| window == ending.as_bytes())
        .map_or(bytes.len(), |at| at + ending.len())
}

/// The lines of a calendar object's header.
pub(super) fn header_lines(bytes: &[u8], fold: Fold) -> Vec<String> {
    let component = Component::parse(bytes, 0..bytes.len(), 1, fold);
    component.map(|component| component.lines().map(str::to_owned).collect()).unwrap_or_default()
}
