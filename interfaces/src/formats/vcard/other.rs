//! The field `other`: properties without a field of their own, as they stand, and components inside a card.

use std::borrow::Cow;

use deltabus_record::text;
use deltabus_record::value::Value;

use super::fields::has_place;
use super::shape::{parameters_of, parameters_value};
use crate::formats::content_line::{Charsets, Event, Events, Line, charset_encode, is_name, parameter};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Other {
    /// A property; the value with its escapes and encodings. A parameter without a name has the bare words of 2.1.
    Property { group: Option<String>, name: String, parameters: Vec<(String, Vec<String>)>, value: String },
    /// `BEGIN` to `END`, unfolded, lines divided by LF.
    Component(String),
}

impl Other {
    /// The property that stands in `line`.
    pub(super) fn read(line: &Line<'_>) -> Other {
        let mut parameters: Vec<(String, Vec<String>)> = Vec::new();
        for parameter in &line.parameters {
            let name = parameter.name.unwrap_or_default();
            let values = parameter.values.iter().map(|value| value.clone().into_owned());
            match parameters.iter_mut().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
                Some((_, known)) => known.extend(values),
                None => parameters.push((name.to_owned(), values.collect())),
            }
        }
        let group = line.group.map(str::to_owned);
        Other::Property { group, name: line.name.to_owned(), parameters, value: line.value.clone().into_owned() }
    }

    /// Its lines, unfolded, as bytes: a value may be in a character set of its own, unless the file has one for all.
    pub(super) fn lines(&self, charsets: Charsets) -> Vec<Vec<u8>> {
        match self {
            Other::Component(text) => text.split('\n').map(|line| line.as_bytes().to_vec()).collect(),
            Other::Property { group, name, parameters, value } => {
                let mut out = group.as_ref().map(|group| format!("{group}.")).unwrap_or_default();
                out.push_str(name);
                for (name, values) in parameters {
                    if name.is_empty() {
                        values.iter().for_each(|word| {
                            out.push(';');
                            out.push_str(word);
                        });
                    } else {
                        out.push(';');
                        out.push_str(&parameter(name, values));
                    }
                }
                out.push(':');
                let mut bytes = out.into_bytes();
                let is_charset = |(name, _): &&(String, _)| name.eq_ignore_ascii_case("CHARSET");
                let charset = parameters.iter().find(is_charset).filter(|_| charsets == Charsets::OfValues);
                let label = charset.and_then(|(_, values)| values.first());
                let encoded = label.and_then(|label| charset_encode(label, value));
                bytes.extend_from_slice(&encoded.unwrap_or(Cow::Borrowed(value.as_bytes())));
                vec![bytes]
            }
        }
    }

    /// The map in the field.
    pub(super) fn value(&self) -> Value {
        let member = |name: &str, value: Value| (name.to_owned(), value);
        Value::Map(match self {
            Other::Component(text) => vec![member("component", Value::text(text.as_str()))],
            Other::Property { group, name, parameters, value } => {
                let mut members = vec![member("name", Value::text(name.as_str()))];
                members.push(member("value", Value::text(value.as_str())));
                members.extend(group.as_ref().map(|group| member("group", Value::text(group.as_str()))));
                if !parameters.is_empty() {
                    members.push(member("params", parameters_value(parameters)));
                }
                members
            }
        })
    }

    /// What the map in the field means; `None` where it can't stand in a card so that it comes back.
    pub(super) fn of(value: &Value) -> Option<Other> {
        let Value::Map(members) = value else { return None };
        let (mut group, mut name, mut text, mut parameters, mut component) =
            (None, None, String::new(), Vec::new(), None);
        for (member, value) in members {
            match (member.as_str(), value) {
                (_, Value::Absent | Value::Null) => {}
                ("group", Value::Text(value)) => group = Some(value.clone()),
                ("name", Value::Text(value)) => name = Some(value.clone()),
                ("component", Value::Text(value)) => component = Some(value.replace("\r\n", "\n")),
                ("params", Value::Map(value)) => parameters = parameters_of(value)?,
                ("value", value) => text = text::to_text(value)?,
                _ => return None,
            }
        }
        let other = match (component, name) {
            (Some(component), None) if group.is_none() && parameters.is_empty() && text.is_empty() => {
                Other::Component(component)
            }
            (None, Some(name)) if is_name(&name) && group.as_deref().is_none_or(is_name) && !has_place(&name) => {
                Other::Property { group, name, parameters, value: text }
            }
            _ => return None,
        };
        other.comes_back().then_some(other)
    }

    fn comes_back(&self) -> bool {
        let lines = self.lines(Charsets::OfValues);
        // One line is one line, and no soft line break makes two of them one.
        let joined =
            |line: &Vec<u8>| line.ends_with(b"=") || line.is_empty() || line.contains(&b'\r') || line.contains(&b'\n');
        if lines.iter().any(joined) {
            return false;
        }
        match self {
            Other::Property { .. } => {
                lines.len() == 1 && Line::parse(&lines[0]).is_ok_and(|line| Other::read(&line) == *self)
            }
            Other::Component(text) => {
                let mut events = Events::new(text.as_bytes());
                let starts_within = text.split('\n').any(|line| line.starts_with([' ', '\t']));
                let mut count = 0;
                loop {
                    match events.next() {
                        Ok(Some(Event::End(span, _))) => {
                            count += 1;
                            if events.depth() == 0 && span.next != text.len() {
                                return false;
                            }
                        }
                        Ok(Some(_)) => count += 1,
                        // As many logical lines as physical ones: nothing is folded.
                        Ok(None) => return !starts_within && count == lines.len(),
                        Err(_) => return false,
                    }
                }
            }
        }
    }
}
