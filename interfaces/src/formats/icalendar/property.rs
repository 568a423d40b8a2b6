//! One property's line to a value and back.
//!
//! A line becomes a value only if the value makes the line again: letter by letter, or differing in nothing but escapes and
//! quotes that mean the same. Any other line is kept as it is, among the [`super::fields::OTHER`].

use deltabus_record::json;
use deltabus_record::text;
use deltabus_record::value::{Kind, Value};

use super::fields::{Content, FIELD_PROPERTY, Members, PARAMETERS, Shape, Spec};
use crate::formats::content_line::{
    Fold, Line, Spans, base64_decode, base64_encode, charset_decode, charset_encode, escape, parameter, qp_decode,
    qp_encode, split, unescape,
};

/// The member that holds the value beside its parameters.
const VALUE: &str = "value";
/// The member that holds the values of a line beside their zone.
const VALUES: &str = "values";
/// The zone of the values of a line.
const VALUES_ZONE: &str = "zone";
/// The values' parameters by name.
const VALUE_PARAMETERS: &str = "parameters";
/// What stands for the zone in a head: it is a field of its own.
const ZONE_MARK: &str = "TZID";
/// The same, for a zone that is in quotes without need.
const QUOTED_ZONE_MARK: &str = "TZID=\"\"";

/// What a line of a single value says.
#[derive(Debug, PartialEq)]
pub(super) struct Single {
    pub(super) value: Value,
    pub(super) zone: Option<String>,
    /// Everything before the colon, where it isn't what is usual.
    pub(super) head: Option<String>,
}

/// Reads the line of a field that has a single value.
pub(super) fn read_single(spec: &Spec, text: &str, line: &Line<'_>) -> Option<Single> {
    let single = match spec.shape {
        Shape::Text => Single { value: Value::Text(read_text(line)?), zone: None, head: odd_head(spec, line) },
        Shape::Raw => Single { value: Value::text(&*line.value), zone: None, head: odd_head(spec, line) },
        Shape::Integer => {
            let value = text::parse(&line.value, Kind::Integer)?;
            Single { value, zone: None, head: odd_head(spec, line) }
        }
        Shape::Moment(zone) => read_moment(spec, line, zone.is_some())?,
        Shape::Value(content) => Single { value: read_value(content, line)?, zone: None, head: None },
        _ => return None,
    };
    let is_plain = single.head.is_none() && single.zone.is_none();
    match spec.shape {
        // The head is kept as it is, and so is the value.
        Shape::Raw => return Some(single),
        // Escapes are all that could differ.
        Shape::Text if is_plain => return Some(single),
        Shape::Moment(_) if is_plain && line.head == spec.property && !matches!(single.value, Value::Date(_)) => {
            return Some(single);
        }
        _ => {}
    }
    let again = write_single(spec, &single.value, single.zone.as_deref(), single.head.as_deref())?;
    let same = match spec.shape {
        // Escapes and the spelling of quoted-printable may differ.
        Shape::Text => {
            Line::parse(again.as_bytes()).ok().and_then(|line| read_text(&line)).map(Value::Text)? == single.value
        }
        // What is a date says so, which many programs forget.
        Shape::Moment(_) => again == text || again.replacen(";VALUE=DATE", "", 1) == *text,
        Shape::Value(_) => line.name == spec.property,
        _ => again == text,
    };
    same.then_some(single)
}

/// The line of a field's single value; `None` for what can't stand there.
pub(super) fn write_single(spec: &Spec, value: &Value, zone: Option<&str>, head: Option<&str>) -> Option<String> {
    let plain_head = head.unwrap_or(spec.property);
    match (spec.shape, value) {
        (Shape::Text, Value::Text(text)) => {
            let mut line = format!("{plain_head}:");
            if let Some(head) = head
                && let Ok(parsed) = Line::parse(line.as_bytes())
                && is_quoted_printable(&parsed)
            {
                let label = parsed.parameter("CHARSET");
                let mut out = format!("{head}:");
                let bytes = charset_encode(label.as_deref().unwrap_or("utf-8"), text)?;
                qp_encode(&bytes, |byte| byte != b';', &mut out);
                return Some(out);
            }
            escape(text, &mut line);
            Some(line)
        }
        (Shape::Raw, Value::Text(text)) => Some(format!("{plain_head}:{text}")),
        (Shape::Integer, Value::Integer(_) | Value::BigInteger(_)) => {
            Some(format!("{plain_head}:{}", text::to_text(value)?))
        }
        (Shape::Moment(_), _) => {
            let raw = moment_text(value)?;
            Some(format!("{}:{raw}", moment_head(spec, value, zone, head)?))
        }
        (Shape::Value(content), _) => write_value(spec.property, content, value),
        _ => None,
    }
}

/// The head where it is not the usual.
fn odd_head(spec: &Spec, line: &Line<'_>) -> Option<String> {
    (line.head != spec.property).then(|| line.head.to_owned())
}

fn read_text(line: &Line<'_>) -> Option<String> {
    if !is_quoted_printable(line) {
        return Some(unescape(&line.value).into_owned());
    }
    let bytes = qp_decode(line.value.as_bytes()).ok()?;
    let label = line.parameter("CHARSET");
    charset_decode(label.as_deref(), &bytes).ok().map(|text| text.into_owned())
}

/// Whether the value is in quoted-printable (vCalendar 1.0).
fn is_quoted_printable(line: &Line<'_>) -> bool {
    line.parameters.iter().any(|parameter| {
        (parameter.name.is_none() || parameter.is("ENCODING"))
            && parameter.values.iter().any(|value| value.eq_ignore_ascii_case("QUOTED-PRINTABLE"))
    })
}

fn read_moment(spec: &Spec, line: &Line<'_>, zoned: bool) -> Option<Single> {
    let value = parse_moment(&line.value)?;
    let zones = || line.parameters.iter().filter(|parameter| parameter.is("TZID"));
    let zone = match zones().next() {
        Some(parameter) if zoned => Some(parameter.values.first()?.to_string()),
        _ => None,
    };
    if zoned && (zones().count() > 1 || zones().any(|parameter| parameter.values.len() != 1)) {
        return None;
    }
    if line.head == spec.property {
        return Some(Single { value, zone: None, head: None });
    }
    let usual = moment_head(spec, &value, zone.as_deref(), None)?;
    if line.head == usual || usual.replacen(";VALUE=DATE", "", 1) == line.head {
        return Some(Single { value, zone, head: None });
    }
    // The zone is a field of its own: the head has a mark in its place.
    let mut head = String::new();
    for (at, piece) in pieces(line.head).into_iter().enumerate() {
        if at > 0 {
            head.push(';');
        }
        match piece.split_once('=') {
            Some((name, raw)) if zoned && name == ZONE_MARK => {
                let needless = raw.starts_with('"') && !raw.contains([':', ';', ',']);
                head.push_str(if needless { QUOTED_ZONE_MARK } else { ZONE_MARK });
            }
            _ => head.push_str(piece),
        }
    }
    if matches!(value, Value::Date(_)) && !line.parameters.iter().any(|parameter| parameter.is("VALUE")) {
        head.push_str(";VALUE=DATE");
    }
    Some(Single { value, zone, head: Some(head) })
}

/// All before the colon of a line with a date or time.
fn moment_head(spec: &Spec, value: &Value, zone: Option<&str>, head: Option<&str>) -> Option<String> {
    let is_date = matches!(value, Value::Date(_));
    let Some(head) = head else {
        let mut out = spec.property.to_owned();
        if is_date {
            out.push_str(";VALUE=DATE");
        }
        if let Some(zone) = zone {
            out.push(';');
            out.push_str(&parameter("TZID", &[zone]));
        }
        return Some(out);
    };
    let mut out = String::new();
    let (mut zone_left, mut typed) = (zone, false);
    for (at, piece) in pieces(head).into_iter().enumerate() {
        let mut piece = piece.to_owned();
        if at > 0 {
            if piece == ZONE_MARK || piece == QUOTED_ZONE_MARK {
                let Some(zone) = zone_left.take() else { continue };
                let quoted = piece == QUOTED_ZONE_MARK;
                piece = parameter("TZID", &[zone]);
                if quoted && !piece.contains('"') {
                    piece = format!("TZID=\"{}\"", &piece["TZID=".len()..]);
                }
            } else if piece.get(..6).is_some_and(|name| name.eq_ignore_ascii_case("VALUE=")) {
                let says_date = piece[6..].eq_ignore_ascii_case("DATE");
                match (is_date, says_date) {
                    (true, false) => piece = "VALUE=DATE".to_owned(),
                    (false, true) => continue,
                    _ => {}
                }
                typed = true;
            }
            out.push(';');
        }
        out.push_str(&piece);
    }
    if is_date && !typed {
        out.push_str(";VALUE=DATE");
    }
    if let Some(zone) = zone_left {
        out.push(';');
        out.push_str(&parameter("TZID", &[zone]));
    }
    Some(out)
}

/// The name and the parameters of a head, as they stand.
fn pieces(head: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, byte) in head.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                pieces.push(&head[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&head[start..]);
    pieces
}

/// The date, local time or instant that `raw` is (RFC 5545, 3.3.4 and 3.3.5).
pub(super) fn parse_moment(raw: &str) -> Option<Value> {
    let bytes = raw.as_bytes();
    let digits = |from: usize, to: usize| bytes.get(from..to).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    if !digits(0, 8) {
        return None;
    }
    let mut iso = String::with_capacity(24);
    iso.extend([&raw[..4], "-", &raw[4..6], "-", &raw[6..8]]);
    let kind = match bytes.len() {
        8 => Kind::Date,
        15 | 16 if bytes[8] == b'T' && digits(9, 15) => {
            let (hour, minute, second) = (&raw[9..11], &raw[11..13], &raw[13..15]);
            // A leap second, or an hour that no day has, is kept as it is written.
            if hour > "23" || minute > "59" || second > "59" {
                return None;
            }
            iso.extend(["T", hour, ":", minute, ":", second]);
            match bytes.get(15) {
                None => Kind::DateTime,
                Some(b'Z') => {
                    iso.push('Z');
                    Kind::Instant
                }
                Some(_) => return None,
            }
        }
        _ => return None,
    };
    text::parse(&iso, kind)
}

/// The way back; `None` for what iCalendar has no form for: fractions of seconds, years of more than four digits, offsets.
pub(super) fn moment_text(value: &Value) -> Option<String> {
    match value {
        Value::Date(_) | Value::DateTime(..) => {}
        Value::Instant(instant) if instant.offset_seconds == 0 => {}
        _ => return None,
    }
    let iso = text::to_text(value)?;
    if iso.starts_with(['+', '-']) || iso.contains('.') {
        return None;
    }
    let raw: String = iso.chars().filter(|char| !matches!(char, '-' | ':')).collect();
    parse_moment(&raw).is_some().then_some(raw)
}

/// Reads one line of a list.
pub(super) fn read_element(spec: &Spec, line: &Line<'_>, is_first: bool) -> Option<Vec<Value>> {
    if line.name != spec.property {
        return None;
    }
    match spec.shape {
        Shape::Values(content) => read_value(content, line).map(|value| vec![value]),
        Shape::Words if line.parameters.is_empty() && line.head == spec.property => {
            let words = split(&line.value, b',').into_iter().map(|word| Value::text(&*unescape(word)));
            // The first line's words stand for themselves; another line's are a list in the list.
            Some(if is_first { words.collect() } else { vec![Value::List(words.collect())] })
        }
        Shape::Moments => {
            let values = line.value.split(',').map(parse_moment).collect::<Option<Vec<_>>>()?;
            let zone = line.parameter("TZID").map(|zone| zone.to_string());
            let element = match (zone, values) {
                (Some(zone), values) => Value::Map(vec![
                    (VALUES_ZONE.to_owned(), Value::Text(zone)),
                    (VALUES.to_owned(), Value::List(values)),
                ]),
                (None, mut values) if values.len() == 1 => values.remove(0),
                (None, values) => Value::List(values),
            };
            let again = write_moments(spec, &element)?;
            let head = again.split_once(&*line.value)?.0.strip_suffix(':')?.to_owned();
            (head == line.head || head.replacen(";VALUE=DATE", "", 1) == line.head).then(|| vec![element])
        }
        _ => None,
    }
}

/// The lines of a list.
pub(super) fn write_elements(spec: &Spec, value: &Value) -> Option<Vec<String>> {
    let Value::List(elements) = value else { return None };
    match spec.shape {
        Shape::Values(content) => elements.iter().map(|element| write_value(spec.property, content, element)).collect(),
        Shape::Moments => elements.iter().map(|element| write_moments(spec, element)).collect(),
        Shape::Words => {
            let first: Vec<_> = elements.iter().take_while(|element| matches!(element, Value::Text(_))).collect();
            let mut lines = Vec::new();
            if !first.is_empty() {
                lines.push(words(spec.property, first.iter().copied())?);
            }
            for element in &elements[first.len()..] {
                let Value::List(more) = element else { return None };
                lines.push(words(spec.property, more.iter())?);
            }
            Some(lines)
        }
        _ => None,
    }
}

fn words<'a>(property: &str, words: impl Iterator<Item = &'a Value>) -> Option<String> {
    let mut line = format!("{property}:");
    for (at, word) in words.enumerate() {
        let Value::Text(word) = word else { return None };
        if at > 0 {
            line.push(',');
        }
        escape(word, &mut line);
    }
    Some(line)
}

fn write_moments(spec: &Spec, element: &Value) -> Option<String> {
    let (zone, values) = match element {
        Value::List(values) => (None, values.as_slice()),
        Value::Map(members) => match members.as_slice() {
            [(zone_name, Value::Text(zone)), (values_name, Value::List(values))]
                if zone_name == VALUES_ZONE && values_name == VALUES =>
            {
                (Some(zone.as_str()), values.as_slice())
            }
            _ => return None,
        },
        single => (None, std::slice::from_ref(single)),
    };
    let first = values.first()?;
    let raw = values.iter().map(moment_text).collect::<Option<Vec<_>>>()?;
    let dates = values.iter().filter(|value| matches!(value, Value::Date(_))).count();
    if dates != 0 && dates != values.len() {
        return None;
    }
    Some(format!("{}:{}", moment_head(spec, first, zone, None)?, raw.join(",")))
}

/// A value with its parameters: the value alone where there are none.
fn read_value(content: Content, line: &Line<'_>) -> Option<Value> {
    let mut parameters: Vec<(String, Value)> = Vec::new();
    for given in &line.parameters {
        let name = given.name?;
        if parameters.iter().any(|(known, _)| known == name) {
            return None;
        }
        let value = match given.values.as_slice() {
            [one] => Value::text(&**one),
            many => Value::List(many.iter().map(|value| Value::text(&**value)).collect()),
        };
        parameters.push((name.to_owned(), value));
    }
    if is_quoted_printable(line) {
        return None;
    }
    let base64 = line.parameter("ENCODING").is_some_and(|encoding| encoding.eq_ignore_ascii_case("BASE64"));
    let value = match content {
        Content::Text => Value::Text(unescape(&line.value).into_owned()),
        Content::Uri => match base64_decode(&line.value).filter(|_| base64) {
            Some(bytes) if base64_encode(&bytes) == *line.value => Value::Bytes(bytes),
            _ => Value::text(&*line.value),
        },
    };
    let value = match parameters.is_empty() {
        true => value,
        false => Value::Map(vec![(VALUE.to_owned(), value), (VALUE_PARAMETERS.to_owned(), Value::Map(parameters))]),
    };
    let again = write_value(line.name, content, &value)?;
    let again = Line::parse(again.as_bytes()).ok()?;
    let same = again.parameters == line.parameters
        && match content {
            Content::Text => unescape(&again.value) == unescape(&line.value),
            Content::Uri => again.value == line.value,
        };
    same.then_some(value)
}

fn write_value(property: &str, content: Content, value: &Value) -> Option<String> {
    let (value, parameters) = match value {
        Value::Map(members) => match members.as_slice() {
            [(value_name, value), (parameters_name, Value::Map(parameters))]
                if value_name == VALUE && parameters_name == VALUE_PARAMETERS && !parameters.is_empty() =>
            {
                (value, parameters.as_slice())
            }
            _ => return None,
        },
        value => (value, &[][..]),
    };
    let mut line = property.to_owned();
    for (name, value) in parameters {
        let values: Vec<&str> = match value {
            Value::Text(value) => vec![value],
            Value::List(values) if values.len() != 1 => values
                .iter()
                .map(|value| match value {
                    Value::Text(value) => Some(value.as_str()),
                    _ => None,
                })
                .collect::<Option<_>>()?,
            _ => return None,
        };
        line.push(';');
        line.push_str(&parameter(name, &values));
    }
    line.push(':');
    match (content, value) {
        (Content::Text, Value::Text(text)) => escape(text, &mut line),
        (Content::Uri, Value::Text(text)) => line.push_str(text),
        (Content::Uri, Value::Bytes(bytes)) => line.push_str(&base64_encode(bytes)),
        _ => return None,
    }
    Some(line)
}

/// The line that keeps the value of a field for which the formats have no property, or none that could hold it.
///
/// ```text
/// X-DELTABUS-FIELD;X-NAME=rooms;X-KIND=integer:12
/// X-DELTABUS-FIELD;X-KIND=json:["a name with\u0000 control characters"\,{}]
/// ```
pub(super) fn field_line(name: &str, value: &Value) -> String {
    let odd = |text: &str| text.chars().any(|char| char.is_control() && !matches!(char, '\n' | '\t'));
    let text = match value {
        Value::Text(text) => Some(text.clone()),
        Value::List(_) | Value::Map(_) => Some(json::write(value)),
        value => text::to_text(value),
    };
    let text = text.unwrap_or_default();
    let hidden = name.to_ascii_uppercase().contains("QUOTED-PRINTABLE") || name.contains('"');
    let (head, text) =
        if value.kind() != Kind::Absent && (odd(name) || name.contains(['\n', '\t']) || odd(&text) || hidden) {
            let pair = Value::List(vec![Value::text(name), value.clone()]);
            (parameter("X-KIND", &["json"]), json::write(&pair))
        } else if value.kind() == Kind::Text {
            (parameter("X-NAME", &[name]), text)
        } else {
            let kind = parameter("X-KIND", &[value.kind().name()]);
            (format!("{};{kind}", parameter("X-NAME", &[name])), text)
        };
    let mut line = format!("{FIELD_PROPERTY};{head}:");
    escape(&text, &mut line);
    line
}

/// The field and value that [`field_line`] wrote.
pub(super) fn read_field_line(line: &Line<'_>) -> Option<(String, Value)> {
    if line.group.is_some() || !line.is(FIELD_PROPERTY) {
        return None;
    }
    let text = unescape(&line.value);
    let kind = line.parameter("X-KIND");
    let Some(name) = line.parameter("X-NAME") else {
        return match json::read(&text).ok()? {
            Value::List(pair) if kind.as_deref() == Some("json") => match <[Value; 2]>::try_from(pair).ok()? {
                [Value::Text(name), value] if value.kind() != Kind::Absent => Some((name, value)),
                _ => None,
            },
            _ => None,
        };
    };
    let value = match kind.as_deref().map_or(Some(Kind::Text), Kind::from_name)? {
        Kind::Absent => Value::Absent,
        Kind::Null => Value::Null,
        kind => text::parse(&text, kind)?,
    };
    Some((name.into_owned(), value))
}

/// The head of a field's line and the zone that a member says.
pub(super) fn head_of<'a>(members: &'a Members, name: &str) -> Option<&'a str> {
    let Value::Map(heads) = members.get(PARAMETERS) else { return None };
    match heads.iter().find(|(known, _)| known == name) {
        Some((_, Value::Text(head))) => Some(head),
        _ => None,
    }
}

/// Whether a line made of a value is one logical line, and no bracket of a component.
pub(super) fn is_line(text: &str, fold: Fold) -> bool {
    if text.bytes().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return false;
    }
    let Ok(line) = Line::parse(text.as_bytes()) else { return false };
    if line.is("BEGIN")
        || line.is("END")
        || (text.ends_with('=') && text.to_ascii_uppercase().contains("QUOTED-PRINTABLE"))
    {
        return false;
    }
    let mut bytes = b"A:\r\n".to_vec();
    write_line(text, fold, "\r\n", &mut bytes);
    let start = bytes.len();
    bytes.extend_from_slice(b"B:\r\n");
    let mut spans = Spans::new(&bytes);
    let Ok(Some(_)) = spans.next() else { return false };
    matches!(spans.next(), Ok(Some(span)) if span.next == start && *span.unfolded(&bytes, fold) == *text.as_bytes())
}

/// Appends a logical line, folded.
pub(super) fn write_line(text: &str, fold: Fold, ending: &str, out: &mut Vec<u8>) {
    match Line::parse(text.as_bytes()) {
        Ok(line) if is_quoted_printable(&line) => crate::formats::content_line::soft_break(text, ending, out),
        _ => crate::formats::content_line::fold(text, fold, ending, out),
    }
}
