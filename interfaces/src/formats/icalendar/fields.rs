//! Which property is which field, and how its value is written.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use deltabus_record::schema::Field;
use deltabus_record::value::{Kind, Value};

use crate::formats::content_line::Line;

/// The key.
pub(super) const UID: &str = "uid";
/// What sort of component a record is.
pub(super) const COMPONENT: &str = "component";
/// The recurrence overrides of a record.
pub(super) const OVERRIDES: &str = "overrides";
/// The time that an override replaces.
pub(super) const RECURRENCE_ID: &str = "recurrence_id";
/// The alarms.
pub(super) const ALARMS: &str = "alarms";
/// Components inside that are no alarms.
pub(super) const COMPONENTS: &str = "components";
/// Heads of lines that are not the usual ones.
pub(super) const PARAMETERS: &str = "parameters";
/// Properties that are no field.
pub(super) const OTHER: &str = "other";
/// The calendar object that a record is in, where it is not the collection's own.
pub(super) const CALENDAR: &str = "calendar";
/// The definitions of time zones that a record means, where they are not the collection's first.
pub(super) const TIMEZONES: &str = "timezones";
/// A time zone's name.
pub(super) const ZONE: &str = "zone";

/// The property that keeps what no property of the formats could.
pub(super) const FIELD_PROPERTY: &str = "X-DELTABUS-FIELD";

/// The property that marks an override that has no RECURRENCE-ID.
pub(super) const OVERRIDE_PROPERTY: &str = "X-DELTABUS-OVERRIDE";

/// What a field's value is on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// TEXT, escaped.
    Text,
    /// Anything, as it stands (URI, RECUR, DURATION, GEO).
    Raw,
    /// INTEGER.
    Integer,
    /// DATE or DATE-TIME, and the field of its zone.
    Moment(Option<&'static str>),
    /// Carried by another field's line: a zone, the parameters.
    Carried,
    /// A value with parameters.
    Value(Content),
    /// One line for each value with its parameters.
    Values(Content),
    /// Comma-separated texts on one line or several.
    Words,
    /// Comma-separated dates and times on lines with their zones.
    Moments,
    /// Lines as they are.
    Lines,
    /// `VALARM` components.
    Alarms,
    /// Other components.
    Components,
    /// What follows from where a record stands.
    Context,
}

/// What stands behind parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// TEXT, escaped.
    Text,
    /// A URI as it stands, or bytes in base64.
    Uri,
}

/// Where a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In a record.
    Record,
    /// In an override of a recurrence.
    Override,
    /// In an alarm.
    Alarm,
}

/// One field of the fixed schema.
#[derive(Debug)]
pub(super) struct Spec {
    /// Its name.
    pub(super) name: &'static str,
    /// The property; empty where there is none.
    pub(super) property: &'static str,
    /// How its value is written.
    pub(super) shape: Shape,
    kind: Option<Kind>,
    scopes: &'static [Scope],
}

use Scope::{Alarm, Override, Record};

const EVERYWHERE: &[Scope] = &[Record, Override, Alarm];
const ITEMS: &[Scope] = &[Record, Override];

const fn spec(
    name: &'static str,
    property: &'static str,
    shape: Shape,
    kind: Option<Kind>,
    scopes: &'static [Scope],
) -> Spec {
    Spec { name, property, shape, kind, scopes }
}

const TEXT: Option<Kind> = Some(Kind::Text);
const LIST: Option<Kind> = Some(Kind::List);

/// Every field, in the order of the schema.
pub(super) const SPECS: &[Spec] = &[
    spec(UID, "UID", Shape::Text, TEXT, EVERYWHERE),
    spec(COMPONENT, "", Shape::Context, TEXT, &[Record]),
    spec(RECURRENCE_ID, "RECURRENCE-ID", Shape::Moment(Some("recurrence_zone")), None, &[Override]),
    spec("recurrence_zone", "", Shape::Carried, TEXT, &[Override]),
    spec("action", "ACTION", Shape::Text, TEXT, &[Alarm]),
    spec("trigger", "TRIGGER", Shape::Raw, TEXT, &[Alarm]),
    spec("summary", "SUMMARY", Shape::Text, TEXT, EVERYWHERE),
    spec("description", "DESCRIPTION", Shape::Text, TEXT, EVERYWHERE),
    spec("location", "LOCATION", Shape::Text, TEXT, ITEMS),
    spec("start", "DTSTART", Shape::Moment(Some("start_zone")), None, ITEMS),
    spec("start_zone", "", Shape::Carried, TEXT, ITEMS),
    spec("end", "DTEND", Shape::Moment(Some("end_zone")), None, ITEMS),
    spec("end_zone", "", Shape::Carried, TEXT, ITEMS),
    spec("duration", "DURATION", Shape::Raw, TEXT, EVERYWHERE),
    spec("repeat", "REPEAT", Shape::Integer, Some(Kind::Integer), &[Alarm]),
    spec("due", "DUE", Shape::Moment(Some("due_zone")), None, ITEMS),
    spec("due_zone", "", Shape::Carried, TEXT, ITEMS),
    spec("completed", "COMPLETED", Shape::Moment(None), None, ITEMS),
    spec("percent_complete", "PERCENT-COMPLETE", Shape::Integer, Some(Kind::Integer), ITEMS),
    spec("priority", "PRIORITY", Shape::Integer, Some(Kind::Integer), ITEMS),
    spec("status", "STATUS", Shape::Text, TEXT, ITEMS),
    spec("class", "CLASS", Shape::Text, TEXT, ITEMS),
    spec("transparency", "TRANSP", Shape::Text, TEXT, ITEMS),
    spec("rrule", "RRULE", Shape::Raw, TEXT, ITEMS),
    spec("rdates", "RDATE", Shape::Moments, LIST, ITEMS),
    spec("exdates", "EXDATE", Shape::Moments, LIST, ITEMS),
    spec("organizer", "ORGANIZER", Shape::Value(Content::Uri), None, ITEMS),
    spec("attendees", "ATTENDEE", Shape::Values(Content::Uri), LIST, EVERYWHERE),
    spec("contacts", "CONTACT", Shape::Values(Content::Text), LIST, ITEMS),
    spec("categories", "CATEGORIES", Shape::Words, LIST, ITEMS),
    spec("resources", "RESOURCES", Shape::Words, LIST, ITEMS),
    spec("comments", "COMMENT", Shape::Values(Content::Text), LIST, ITEMS),
    spec("url", "URL", Shape::Raw, TEXT, ITEMS),
    spec("geo", "GEO", Shape::Raw, TEXT, ITEMS),
    spec("color", "COLOR", Shape::Text, TEXT, ITEMS),
    spec("images", "IMAGE", Shape::Values(Content::Uri), LIST, ITEMS),
    spec("conferences", "CONFERENCE", Shape::Values(Content::Uri), LIST, ITEMS),
    spec("attachments", "ATTACH", Shape::Values(Content::Uri), LIST, EVERYWHERE),
    spec("related_to", "RELATED-TO", Shape::Values(Content::Text), LIST, EVERYWHERE),
    spec("sequence", "SEQUENCE", Shape::Integer, Some(Kind::Integer), ITEMS),
    spec("created", "CREATED", Shape::Moment(None), None, ITEMS),
    spec("last_modified", "LAST-MODIFIED", Shape::Moment(None), None, ITEMS),
    spec("stamp", "DTSTAMP", Shape::Moment(None), None, ITEMS),
    spec(ZONE, "TZID", Shape::Raw, TEXT, &[Record]),
    spec(ALARMS, "", Shape::Alarms, LIST, ITEMS),
    spec(OVERRIDES, "", Shape::Context, LIST, &[Record]),
    spec(COMPONENTS, "", Shape::Components, LIST, EVERYWHERE),
    spec(PARAMETERS, "", Shape::Carried, Some(Kind::Map), EVERYWHERE),
    spec(OTHER, "", Shape::Lines, LIST, EVERYWHERE),
    spec(CALENDAR, "", Shape::Context, LIST, &[Record]),
    spec(TIMEZONES, "", Shape::Context, Some(Kind::Map), &[Record]),
];

impl Scope {
    /// The field `name` of this scope.
    pub(super) fn spec(self, name: &str) -> Option<&'static Spec> {
        SPECS.iter().find(|spec| spec.name == name && spec.scopes.contains(&self))
    }

    /// The field that a line's property is.
    pub(super) fn spec_of(self, line: &Line<'_>) -> Option<&'static Spec> {
        if line.group.is_some() {
            return None;
        }
        let is = |spec: &&Spec| !spec.property.is_empty() && line.is(spec.property) && spec.scopes.contains(&self);
        SPECS.iter().find(is)
    }

    /// The fields of this scope that stand on lines of their own.
    pub(super) fn specs(self) -> impl Iterator<Item = &'static Spec> {
        SPECS.iter().filter(move |spec| spec.scopes.contains(&self))
    }
}

/// The fields that every collection has.
pub(super) static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(|| {
    let specs = Scope::Record.specs().enumerate();
    specs.map(|(ordinal, spec)| Field::new(spec.name, spec.kind, ordinal as u32)).collect()
});

/// The place of each name in [`SPECS`].
static PLACES: LazyLock<HashMap<&'static str, usize>> =
    LazyLock::new(|| SPECS.iter().enumerate().map(|(place, spec)| (spec.name, place)).collect());

/// Up to this many members are looked through one by one; beyond, halving is quicker.
const LOOKED_THROUGH_MAX: usize = 24;

fn place_of(name: &str) -> usize {
    PLACES.get(name).copied().unwrap_or(SPECS.len())
}

/// Values by the names of their fields: those of the schema in its order, then others by name. None is absent but where
/// that is said against what would follow from a record's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members(Vec<(String, Value)>);

impl Members {
    /// The value of `name`, absent where there is none.
    pub(super) fn get(&self, name: &str) -> &Value {
        self.given(name).unwrap_or(&Value::Absent)
    }

    /// The value of `name`, where there is one or it is said that there is none.
    pub(super) fn given(&self, name: &str) -> Option<&Value> {
        if self.0.len() <= LOOKED_THROUGH_MAX {
            return self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        }
        self.search(name).ok().map(|at| &self.0[at].1)
    }

    /// Sets the value of `name`; absent takes it away.
    pub(super) fn set(&mut self, name: &str, value: Value) {
        match value {
            Value::Absent => drop(self.take(name)),
            value => self.state(name, value),
        }
    }

    /// Sets the value of `name`, also to absent.
    pub(super) fn state(&mut self, name: &str, value: Value) {
        match self.search(name) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name.to_owned(), value)),
        }
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        let wanted = (place_of(name), name);
        self.0.binary_search_by(|(known, _)| (place_of(known), known.as_str()).cmp(&wanted))
    }

    /// Sets many values, of which the last of each name counts; absence is stated for those that say so.
    pub(super) fn overlay(&mut self, values: impl Iterator<Item = (String, Value, bool)>) {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return;
        }
        let ordered = |(name, value): (String, Value)| ((place_of(&name), name), value);
        let mut all: BTreeMap<_, _> = std::mem::take(&mut self.0).into_iter().map(ordered).collect();
        for (name, value, stated) in values {
            let key = (place_of(&name), name);
            match value {
                Value::Absent if !stated => drop(all.remove(&key)),
                value => drop(all.insert(key, value)),
            }
        }
        self.0 = all.into_iter().map(|((_, name), value)| (name, value)).collect();
    }

    /// Takes the value of `name` out, also a stated absence.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.search(name).ok()?;
        Some(self.0.remove(at).1)
    }

    /// The names that have a value or a stated absence.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn into_map(self) -> Value {
        Value::Map(self.0)
    }

    /// The members of a map.
    pub(super) fn of_map(map: &[(String, Value)]) -> Members {
        let mut members = Members::default();
        for (name, value) in map {
            members.set(name, value.clone());
        }
        members
    }
}

/// What a component is called in the field [`COMPONENT`].
const COMPONENT_NAMES: &[(&str, &str)] = &[
    ("VEVENT", "event"),
    ("VTODO", "todo"),
    ("VJOURNAL", "journal"),
    ("VFREEBUSY", "freebusy"),
    ("VTIMEZONE", "timezone"),
    ("VAVAILABILITY", "availability"),
    ("VPOLL", "poll"),
];

/// The component of a calendar's own record.
pub(super) const CALENDAR_COMPONENT: &str = "calendar";

/// `event` for `VEVENT`; names that are not known stay, in upper case.
pub(super) fn component_of(name: &str) -> String {
    let known = COMPONENT_NAMES
        .iter()
        .find(|(known, component)| known.eq_ignore_ascii_case(name) || component.eq_ignore_ascii_case(name));
    match known {
        Some((_, component)) => (*component).to_owned(),
        None if name.eq_ignore_ascii_case(CALENDAR_COMPONENT) => CALENDAR_COMPONENT.to_owned(),
        None => name.to_ascii_uppercase(),
    }
}

/// `VEVENT` for `event`; `None` for what can't be a component's name.
pub(super) fn name_of(component: &str) -> Option<&str> {
    let known = COMPONENT_NAMES.iter().find(|(_, known)| *known == component);
    let name = known.map_or(component, |(name, _)| *name);
    let plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-');
    (plain && !name.is_empty()).then_some(name)
}
