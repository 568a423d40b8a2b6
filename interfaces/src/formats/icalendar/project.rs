//! What a value becomes in a field, before it is written.
//!
//! Stores that know only text give back what a calendar said as text; here it becomes again what it was. What a field can't
//! be is left as it is: it goes to a line of our own.

use deltabus_record::json;
use deltabus_record::text;
use deltabus_record::value::{Instant, Kind, Value};

use super::fields::{
    CALENDAR, COMPONENT, Members, OVERRIDES, PARAMETERS, Scope, Shape, Spec, TIMEZONES, UID, component_of,
};
use super::property::parse_moment;

/// The form in which `value` will be read back from the field `name`.
pub(super) fn project(value: Value, name: &str, scope: Scope) -> Value {
    let Some(spec) = scope.spec(name) else { return value };
    let value = match (spec.shape, value) {
        (Shape::Context, Value::Absent | Value::Null) if name == COMPONENT => Value::text("event"),
        (_, Value::Null | Value::Absent) => Value::Absent,
        (_, value) if name == UID => plain_text(value),
        (Shape::Text | Shape::Raw, value) => plain_text(value),
        (Shape::Carried, value) if name != PARAMETERS => plain_text(value),
        (Shape::Context, value) if name == COMPONENT => match plain_text(value) {
            Value::Text(text) => Value::Text(component_of(&text)),
            other => other,
        },
        (Shape::Context, value) if name == OVERRIDES => list(value, |element| members(element, Scope::Override)),
        (Shape::Integer, Value::Text(text)) => text::parse(&text, Kind::Integer).unwrap_or(Value::Text(text)),
        (Shape::Moment(_), value) => moment(value),
        (Shape::Value(_), value) => element(structure(value)),
        (Shape::Alarms, value) => list(value, |element| members(element, Scope::Alarm)),
        (Shape::Words, value) => words(value),
        (Shape::Moments, value) => list(value, moments),
        (Shape::Values(_), value) => list(value, element),
        (Shape::Lines | Shape::Components, value) => list(value, |element| element),
        (Shape::Carried, value) => match structure(value) {
            Value::Map(mut heads) => {
                heads.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Map(heads)
            }
            other => other,
        },
        (Shape::Context, value) => structure(value),
        (_, value) => value,
    };
    settle(spec, value)
}

/// Empty lists and maps are the same as nothing, but for the calendar: there they say that a component is in none.
fn settle(spec: &Spec, value: Value) -> Value {
    match value {
        Value::List(values) if values.is_empty() && spec.name != CALENDAR => Value::Absent,
        Value::Map(members) if members.is_empty() => Value::Absent,
        value => value,
    }
}

/// Text of anything that has one.
fn plain_text(value: Value) -> Value {
    match value {
        Value::Text(_) | Value::Large(_) => value,
        value => text::to_text(&value).map_or(Value::Absent, Value::Text),
    }
}

/// A list or map where its text is given.
fn structure(value: Value) -> Value {
    match value {
        Value::Text(text) if text.starts_with(['[', '{']) => match json::read(&text) {
            Ok(read @ (Value::List(_) | Value::Map(_))) => read,
            _ => Value::Text(text),
        },
        value => value,
    }
}

/// A list with its elements brought into their form; a single text is a list of one.
fn list(value: Value, element: impl Fn(Value) -> Value) -> Value {
    match structure(value) {
        Value::List(values) => Value::List(values.into_iter().map(element).collect()),
        single @ (Value::Text(_)
        | Value::Map(_)
        | Value::Date(_)
        | Value::DateTime(..)
        | Value::Instant(_)
        | Value::Bytes(_)) => Value::List(vec![element(single)]),
        other => other,
    }
}

/// Dates, local times and instants in UTC.
fn moment(value: Value) -> Value {
    match value {
        Value::Text(text) => {
            let read =
                [Kind::Date, Kind::DateTime, Kind::Instant].into_iter().find_map(|kind| text::parse(&text, kind));
            match read {
                Some(read) => moment(read),
                None => parse_moment(&text).unwrap_or(Value::Text(text)),
            }
        }
        Value::Instant(instant) => Value::Instant(Instant { offset_seconds: 0, ..instant }),
        value => value,
    }
}

/// One line of dates and times.
fn moments(element: Value) -> Value {
    match element {
        Value::List(values) => Value::List(values.into_iter().map(moment).collect()),
        Value::Map(mut members) => {
            for (_, value) in &mut members {
                if let Value::List(values) = value {
                    *values = std::mem::take(values).into_iter().map(moment).collect();
                }
            }
            Value::Map(members)
        }
        single => moment(single),
    }
}

/// A value with its parameters; the value alone where there are none.
fn element(element: Value) -> Value {
    match element {
        Value::Bytes(_) => {
            let parameters = [("ENCODING", "BASE64"), ("VALUE", "BINARY")];
            let parameters = parameters.map(|(name, value)| (name.to_owned(), Value::text(value)));
            let members = [("value", element), ("parameters", Value::Map(parameters.to_vec()))];
            Value::Map(members.map(|(name, value)| (name.to_owned(), value)).to_vec())
        }
        Value::Map(mut members) => {
            members.retain(|(_, value)| !matches!(value, Value::Absent | Value::Null));
            members.retain(|(name, value)| name != "parameters" || !matches!(value, Value::Map(map) if map.is_empty()));
            match members.as_slice() {
                [(name, value @ (Value::Text(_) | Value::Bytes(_)))] if name == "value" => element_alone(value.clone()),
                _ => Value::Map(members),
            }
        }
        other => other,
    }
}

fn element_alone(value: Value) -> Value {
    if matches!(value, Value::Bytes(_)) { element(value) } else { value }
}

/// Texts in front stand for the words of the first line; each list behind them for another line.
fn words(value: Value) -> Value {
    let values = match list(value, |element| element) {
        Value::List(values) => values,
        other => return other,
    };
    let mut out: Vec<Value> = Vec::new();
    let mut behind = false;
    for value in values {
        match value {
            Value::Text(word) if behind => match out.last_mut() {
                Some(Value::List(line)) => line.push(Value::Text(word)),
                _ => out.push(Value::Text(word)),
            },
            Value::List(line) => {
                behind = true;
                out.push(Value::List(line));
            }
            other => out.push(other),
        }
    }
    Value::List(out)
}

/// The members of an override or alarm, each in its form and in the order in which they are read.
fn members(element: Value, scope: Scope) -> Value {
    let Value::Map(given) = element else { return element };
    let mut members = Members::default();
    for (name, value) in given {
        // An override is of its record's key, component and calendar.
        if scope == Scope::Override && [UID, COMPONENT, OVERRIDES, CALENDAR, TIMEZONES].contains(&name.as_str()) {
            continue;
        }
        let value = if scope.spec(&name).is_some() { project(value, &name, scope) } else { value };
        members.set(&name, value);
    }
    members.into_map()
}
