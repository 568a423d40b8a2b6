//! Properties as values of fields, and back.
//!
//! A field's value depends on its properties only, and every value of a field stands for the same properties in every
//! version: so each field is converted alone.

use deltabus_record::value::{Kind, Value};
use deltabus_record::{json, text};

use super::fields::{Content, FieldOf, Holds};
use super::property::{
    Attributes, Meaning, Property, TYPES_OF_MEDIA, Version, data_uri, is_plain_date, meaning_of_text, sniff,
};
use crate::formats::content_line::{Line, PARAMETERS_MAX, is_name};

/// How many components a name, address or organisation may say that it has.
const COMPONENTS_MAX: usize = 256;

/// The value of `field` that holds `properties`, in order.
pub(super) fn value_of(field: &FieldOf, properties: &[Property]) -> Value {
    let Some((first, more)) = properties.split_first() else { return Value::Absent };
    match field.holds {
        Holds::List if field.content == Content::Texts => Value::List(texts_value(field, properties)),
        Holds::List => Value::List(properties.iter().map(|it| Value::Map(entry_of(field, it))).collect()),
        Holds::Map => {
            let mut members = entry_of(field, first);
            if !more.is_empty() {
                let more = more.iter().map(|it| Value::Map(entry_of(field, it))).collect();
                members.push(("more".into(), Value::List(more)));
            }
            Value::Map(members)
        }
        Holds::One => {
            if let (Some(bare), []) = (bare(first), more)
                && (is_plain_text(field, &bare) || read(field, &bare).is_some_and(|again| again == properties))
            {
                return bare;
            }
            let entry = |it| Value::Map(entry_of(field, it));
            let whole = match more {
                [] => entry(first),
                _ => Value::List(properties.iter().map(entry).collect()),
            };
            Value::Text(json::write(&whole))
        }
    }
}

/// Whether the text can't be taken for anything but itself.
fn is_plain_text(field: &FieldOf, value: &Value) -> bool {
    match (field.content, value) {
        (Content::Text | Content::Raw, Value::Text(text)) => !text.trim_start().starts_with(['{', '[']),
        _ => false,
    }
}

/// The properties that `value` stands for in `field`; `None` where they would not come back from every version.
pub(super) fn properties_of(field: &FieldOf, value: &Value) -> Option<Vec<Property>> {
    let properties = read(field, value)?;
    let come_back = properties.iter().all(|property| comes_back(field, property));
    (come_back && !properties.is_empty()).then_some(properties)
}

fn comes_back(field: &FieldOf, property: &Property) -> bool {
    let plain_bytes = matches!(property.meaning, Meaning::Bytes { .. }) && property.attributes.is_empty();
    plain_bytes
        || [Version::V21, Version::V30, Version::V40].into_iter().all(|version| {
            let line = property.write(field, version);
            let quoted = line.to_ascii_uppercase().contains("QUOTED-PRINTABLE");
            let joins = quoted && line.ends_with('=');
            !line.contains(['\r', '\n'])
                && !joins
                && Line::parse(line.as_bytes())
                    .is_ok_and(|line| Property::read(&line, field, version).as_ref() == Ok(property))
        })
}

/// As [`properties_of`], unchecked.
fn read(field: &FieldOf, value: &Value) -> Option<Vec<Property>> {
    match (field.holds, value) {
        (_, Value::Absent | Value::Null | Value::Large(_)) => None,
        (_, Value::Text(text)) => match as_json(text).and_then(|value| read_parsed(field, &value)) {
            Some(properties) => Some(properties),
            None => Some(vec![of_text(field, text.clone())]),
        },
        (Holds::One, Value::Bytes(bytes)) => match (field.content, sniff(bytes)) {
            (Content::Media(_), media) => {
                let media = media.unwrap_or(super::property::UNKNOWN_MEDIA).to_owned();
                Some(vec![plain(field, Meaning::Bytes { media, bytes: bytes.clone() })])
            }
            _ => Some(vec![of_text(field, text::to_text(value)?)]),
        },
        (Holds::One, Value::Date(date)) if field.content == Content::Date && is_plain_date(*date) => {
            Some(vec![plain(field, Meaning::Date(*date))])
        }
        // A list or map of a single field is told as JSON in text only, so that it comes back as the kind it was.
        (Holds::One, Value::List(_) | Value::Map(_)) => None,
        (Holds::List, Value::List(_)) | (Holds::Map, Value::Map(_)) => read_parsed(field, value),
        (Holds::List | Holds::Map, Value::List(_) | Value::Map(_)) => None,
        (_, scalar) => Some(vec![of_text(field, text::to_text(scalar)?)]),
    }
}

/// Lists and maps that may be told as JSON.
fn as_json(text: &str) -> Option<Value> {
    let first = text.trim_start().as_bytes().first();
    if matches!(first, Some(b'{' | b'[')) { json::read(text).ok() } else { None }
}

fn read_parsed(field: &FieldOf, value: &Value) -> Option<Vec<Property>> {
    match (field.holds, value) {
        (Holds::List, Value::List(values)) if field.content == Content::Texts => read_texts(field, values),
        (Holds::List | Holds::One, Value::List(values)) => values.iter().map(|it| read_entry(field, it)).collect(),
        (Holds::One, Value::Map(_)) => Some(vec![read_entry(field, value)?]),
        (Holds::Map, Value::Map(members)) => {
            let (more, own): (Vec<_>, Vec<_>) = members.iter().cloned().partition(|(name, _)| name == "more");
            let mut properties = vec![read_entry(field, &Value::Map(own))?];
            match more.into_iter().next() {
                None | Some((_, Value::Absent | Value::Null)) => {}
                Some((_, Value::List(values))) => {
                    for value in &values {
                        properties.push(read_entry(field, value)?);
                    }
                }
                Some(_) => return None,
            }
            Some(properties)
        }
        _ => None,
    }
}

fn plain(field: &FieldOf, meaning: Meaning) -> Property {
    let mut property = Property { attributes: Attributes::default(), meaning };
    property.settle(field);
    property
}

/// Text that is no JSON.
fn of_text(field: &FieldOf, text: String) -> Property {
    let meaning = match field.content {
        Content::Parts(names) => {
            let mut parts = vec![vec![String::new()]; names.len()];
            parts[0] = vec![text];
            Meaning::Parts(parts)
        }
        Content::Organisation => Meaning::Parts(vec![vec![text]]),
        Content::Texts => Meaning::Texts(vec![text]),
        Content::Media(_) => match text::parse(&text, Kind::Bytes) {
            // Bytes are told in base64 where there is nothing but text.
            Some(Value::Bytes(bytes)) if sniff(&bytes).is_some() => {
                let media = sniff(&bytes).unwrap_or_default().to_owned();
                Meaning::Bytes { media, bytes }
            }
            _ => meaning_of_text(text, field.content, &Attributes::default()),
        },
        content => meaning_of_text(text, content, &Attributes::default()),
    };
    plain(field, meaning)
}

/// The value of a property that says nothing beside it.
fn bare(property: &Property) -> Option<Value> {
    if !property.attributes.is_empty() {
        return None;
    }
    match &property.meaning {
        Meaning::Date(date) => Some(Value::Date(*date)),
        Meaning::Bytes { media, bytes } if sniff(bytes) == Some(media) => Some(Value::Bytes(bytes.clone())),
        meaning => text_of(meaning).map(Value::Text),
    }
}

fn text_of(meaning: &Meaning) -> Option<String> {
    match meaning {
        Meaning::Text(text) | Meaning::Raw(text) => Some(text.clone()),
        Meaning::Date(date) => text::to_text(&Value::Date(*date)),
        Meaning::Bytes { media, bytes } => Some(data_uri(media, bytes)),
        Meaning::Parts(_) | Meaning::Texts(_) => None,
    }
}

/// Texts stand alone; a second line of them, and one that says more, is a map.
fn texts_value(field: &FieldOf, properties: &[Property]) -> Vec<Value> {
    let mut out = Vec::new();
    let mut after_run = false;
    for property in properties {
        match &property.meaning {
            Meaning::Texts(texts) if property.attributes.is_empty() && !after_run => {
                out.extend(texts.iter().map(|text| Value::text(text.as_str())));
                after_run = true;
            }
            _ => {
                out.push(Value::Map(entry_of(field, property)));
                after_run = false;
            }
        }
    }
    out
}

fn read_texts(field: &FieldOf, values: &[Value]) -> Option<Vec<Property>> {
    let mut properties = Vec::new();
    let mut run: Option<Vec<String>> = None;
    let end = |run: &mut Option<Vec<String>>, properties: &mut Vec<Property>| {
        properties.extend(run.take().map(|texts| plain(field, Meaning::Texts(texts))));
    };
    for value in values {
        match value {
            Value::Map(_) => {
                end(&mut run, &mut properties);
                properties.push(read_entry(field, value)?);
            }
            Value::List(_) => return None,
            scalar => run.get_or_insert_default().push(text::to_text(scalar)?),
        }
    }
    end(&mut run, &mut properties);
    Some(properties)
}

/// A property as a map.
fn entry_of(field: &FieldOf, property: &Property) -> Vec<(String, Value)> {
    let mut members = Vec::new();
    let mut put = |name: &str, value: Value| members.push((name.to_owned(), value));
    match (&property.meaning, field.content) {
        (Meaning::Parts(parts), Content::Parts(names)) => {
            for (name, part) in names.iter().zip(parts) {
                if *part != [""] {
                    put(name, part_value(part));
                }
            }
            if parts.len() < names.len() {
                put("components", Value::Integer(parts.len() as i64));
            }
            if let Some(extra) = parts.get(names.len()..).filter(|extra| !extra.is_empty()) {
                put("extra", Value::List(extra.iter().map(|part| part_value(part)).collect()));
            }
        }
        (Meaning::Parts(parts), _) => {
            let mut texts = parts.iter().flatten().map(|text| Value::text(text.as_str()));
            put("name", texts.next().unwrap_or(Value::Absent));
            let units: Vec<_> = texts.collect();
            if !units.is_empty() {
                put("units", Value::List(units));
            }
        }
        (Meaning::Texts(texts), _) => {
            put("values", Value::List(texts.iter().map(|text| Value::text(text.as_str())).collect()));
        }
        (meaning, _) => put("value", Value::Text(text_of(meaning).unwrap_or_default())),
    }
    let Attributes { group, types, pref, media, parameters } = &property.attributes;
    if !types.is_empty() {
        put("types", Value::List(types.iter().map(|word| Value::text(word.as_str())).collect()));
    }
    if let Some(pref) = pref {
        put("pref", Value::Integer((*pref).into()));
    }
    let is_label = |(name, values): &&(String, Vec<String>)| name == LABEL && values.len() == 1;
    if let Some((_, values)) = parameters.iter().find(is_label) {
        put("label", Value::text(values[0].as_str()));
    }
    if let Some(group) = group {
        put("group", Value::text(group.as_str()));
    }
    if let Some(media) = media {
        put("media", Value::text(media.as_str()));
    }
    let rest: Vec<_> = parameters.iter().filter(|it| !is_label(it)).cloned().collect();
    if !rest.is_empty() {
        put("params", parameters_value(&rest));
    }
    members
}

/// The parameter of an address that has a name of its own in the map.
const LABEL: &str = "LABEL";

fn part_value(part: &[String]) -> Value {
    match part {
        [text] => Value::text(text.as_str()),
        texts => Value::List(texts.iter().map(|text| Value::text(text.as_str())).collect()),
    }
}

/// Parameters as a map: a text, or a list of several.
pub(super) fn parameters_value(parameters: &[(String, Vec<String>)]) -> Value {
    Value::Map(parameters.iter().map(|(name, values)| (name.clone(), part_value(values))).collect())
}

/// The parameters in a map.
pub(super) fn parameters_of(members: &[(String, Value)]) -> Option<Vec<(String, Vec<String>)>> {
    let mut parameters: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in members {
        let values = part_of(value)?;
        let known = parameters.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if known || !(name.is_empty() || is_name(name)) || parameters.len() == PARAMETERS_MAX {
            return None;
        }
        parameters.push((name.clone(), values));
    }
    Some(parameters)
}

/// One text or several.
fn part_of(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::List(values) if values.is_empty() => Some(vec![String::new()]),
        Value::List(values) => values.iter().map(scalar_text).collect(),
        value => Some(vec![scalar_text(value)?]),
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::List(_) | Value::Map(_) | Value::Large(_) => None,
        value => text::to_text(value),
    }
}

fn read_entry(field: &FieldOf, value: &Value) -> Option<Property> {
    let Value::Map(members) = value else {
        // In a list a text is as good as a map that has nothing else.
        let scalar = field.holds == Holds::List && !matches!(value, Value::List(_));
        return if scalar { Some(of_text(field, scalar_text(value)?)) } else { None };
    };
    let mut attributes = Attributes::default();
    let (mut value, mut texts, mut components, mut extra) = (None, None, None, Vec::new());
    let mut parts: Vec<Vec<String>> = Vec::new();
    let names = match field.content {
        Content::Parts(names) => names,
        _ => &[],
    };
    for (name, member) in members {
        if matches!(member, Value::Absent | Value::Null) {
            continue;
        }
        if let Some(at) = names.iter().position(|own| own == name) {
            parts.resize((at + 1).max(parts.len()), vec![String::new()]);
            parts[at] = part_of(member)?;
            continue;
        }
        let organisation = field.content == Content::Organisation;
        match (name.as_str(), member) {
            ("value", Value::Bytes(bytes)) if matches!(field.content, Content::Media(_)) => {
                value = Some(data_uri(sniff(bytes).unwrap_or(super::property::UNKNOWN_MEDIA), bytes));
            }
            ("value", member) => value = Some(scalar_text(member)?),
            ("values", member) if field.content == Content::Texts => texts = Some(part_of(member)?),
            ("name", member) if organisation => {
                parts.resize(parts.len().max(1), vec![String::new()]);
                parts[0] = vec![scalar_text(member)?];
            }
            ("units", member) if organisation => {
                parts.resize(1, vec![String::new()]);
                parts.extend(part_of(member)?.into_iter().map(|unit| vec![unit]));
            }
            ("components", Value::Integer(count)) if !names.is_empty() => components = usize::try_from(*count).ok(),
            ("extra", Value::List(values)) if !names.is_empty() => {
                extra = values.iter().map(part_of).collect::<Option<_>>()?;
            }
            ("types", member) => attributes.types = part_of(member)?,
            ("pref", Value::Integer(pref)) => attributes.pref = Some(u8::try_from(*pref).ok()?),
            ("label", member) => attributes.add(LABEL, [scalar_text(member)?]),
            ("group", Value::Text(group)) if is_name(group) => attributes.group = Some(group.clone()),
            ("media", Value::Text(media)) if matches!(field.content, Content::Media(_)) => {
                attributes.media = Some(media.clone());
            }
            ("params", Value::Map(members)) => {
                for (name, values) in parameters_of(members)? {
                    let upper = name.to_ascii_uppercase();
                    match upper.as_str() {
                        "" | "TYPE" => attributes.types.extend(values),
                        "ENCODING" | "CHARSET" | TYPES_OF_MEDIA => return None,
                        _ => attributes.add(&name, values),
                    }
                }
            }
            _ => return None,
        }
    }
    let is_list = matches!(field.content, Content::Parts(_) | Content::Organisation | Content::Texts);
    if is_list && value.is_some() {
        return None;
    }
    let meaning = match field.content {
        Content::Parts(names) => {
            let count = components.filter(|count| (1..=COMPONENTS_MAX).contains(count)).unwrap_or(names.len());
            let count = if extra.is_empty() { count.min(names.len()).max(parts.len()) } else { names.len() };
            if extra.len() > COMPONENTS_MAX {
                return None;
            }
            parts.resize(count, vec![String::new()]);
            parts.extend(extra);
            Meaning::Parts(parts)
        }
        Content::Organisation => {
            parts.resize(parts.len().max(1), vec![String::new()]);
            Meaning::Parts(parts)
        }
        Content::Texts => Meaning::Texts(texts.unwrap_or_else(|| vec![String::new()])),
        content => meaning_of_text(value.unwrap_or_default(), content, &attributes),
    };
    let mut property = Property { attributes, meaning };
    property.settle(field);
    Some(property)
}
