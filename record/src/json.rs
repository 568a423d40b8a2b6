//! Values as JSON text and back, exactly.
//!
//! JSON's own kinds are written as such: null, booleans, integers, decimals (with a point or an exponent, so that `5e0` is
//! the decimal 5), text, lists and maps. Every other kind is a tagged object that holds the value's text:
//! `{"$deltabus":"bytes","value":"aGk="}`. A map whose first member is itself called `$deltabus` is tagged `map`.

use std::collections::HashSet;

use crate::row::DEPTH_MAX;
use crate::text;
use crate::value::{Kind, Value};

/// The member that tells a tagged object from a map.
const TAG: &str = "$deltabus";

/// How deep the text may nest: a map may be wrapped in a tag, which is at most twice the depth of the value.
const NESTING_MAX: usize = 2 * DEPTH_MAX + 2;

const TOO_DEEP: &str = "nested too deeply";

/// Text that isn't JSON, or not JSON that stands for a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: &'static str,
    /// Where, counted in bytes.
    pub at: usize,
}

/// Up to this many members, names are compared one with another; beyond, a set is built.
const NAMES_COMPARED_MAX: usize = 16;

/// The JSON text of `value`, without white space.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    put(&mut out, value);
    out
}

/// Text in JSON's quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    put_text(&mut out, text);
    out
}

fn put(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(_) | Value::Integer(_) | Value::BigInteger(_) => {
            out.push_str(&text::to_text(value).expect("booleans and integers have text"));
        }
        Value::Decimal(decimal) => {
            let literal = text::decimal_text(decimal);
            out.push_str(&literal);
            if !literal.contains(['.', 'E']) {
                out.push_str("e0");
            }
        }
        Value::Text(text) => put_text(out, text),
        Value::List(values) => {
            out.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put(out, value);
            }
            out.push(']');
        }
        Value::Map(members) => match members.first() {
            Some((name, _)) if name == TAG => put_tagged(out, Kind::Map, |out| put_members(out, members)),
            _ => put_members(out, members),
        },
        _ => put_tagged(out, value.kind(), |out| {
            put_text(out, &text::to_text(value).unwrap_or_default());
        }),
    }
}

/// Reads one value, strictly by RFC 8259; a tagged object gives the value that it holds.
///
/// Refused besides what is not JSON: a name that occurs twice in an object, half a surrogate pair, values nested deeper
/// than [`DEPTH_MAX`] and numbers of more than [`text::DIGITS_MAX`] digits.
pub fn read(text: &str) -> Result<Value, JsonError> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.spaces();
    if reader.at < text.len() {
        return reader.error("more text than one value");
    }
    if !nests_within(&value, DEPTH_MAX) { reader.error(TOO_DEEP) } else { Ok(value) }
}

fn nests_within(value: &Value, depth: usize) -> bool {
    match value {
        Value::List(values) => {
            values.is_empty() || depth > 0 && values.iter().all(|value| nests_within(value, depth - 1))
        }
        Value::Map(members) => {
            members.is_empty() || depth > 0 && members.iter().all(|(_, value)| nests_within(value, depth - 1))
        }
        _ => true,
    }
}

fn put_members(out: &mut String, members: &[(String, Value)]) {
    out.push('{');
    for (i, (name, value)) in members.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        put_text(out, name);
        out.push(':');
        put(out, value);
    }
    out.push('}');
}

fn put_tagged(out: &mut String, kind: Kind, put_value: impl FnOnce(&mut String)) {
    out.push_str("{\"");
    out.push_str(TAG);
    out.push_str("\":\"");
    out.push_str(kind.name());
    out.push_str("\",\"value\":");
    put_value(out);
    out.push('}');
}

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    let mut done = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[done..i]);
        done = i + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                out.push_str("\\u00");
                out.push(if byte >= 0x10 { '1' } else { '0' });
                out.push(char::from_digit(u32::from(byte) % 16, 16).expect("a remainder of 16 is a hex digit"));
            }
        }
    }
    out.push_str(&text[done..]);
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn error<T>(&self, problem: &'static str) -> Result<T, JsonError> {
        Err(JsonError { problem, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take_if(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), JsonError> {
        self.spaces();
        if self.take_if(byte) { Ok(()) } else { self.error(problem) }
    }

    /// One value with the white space before it.
    fn value(&mut self, nesting: usize) -> Result<Value, JsonError> {
        if nesting > NESTING_MAX {
            return self.error(TOO_DEEP);
        }
        self.spaces();
        match self.peek() {
            Some(b'n') => self.literal("null", Value::Null),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'"') => self.string().map(Value::Text),
            Some(b'[') => self.list(nesting),
            Some(b'{') => Ok(untag(self.members(nesting)?).unwrap_or_else(Value::Map)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.error("no value"),
            None => self.error("cut off"),
        }
    }

    fn literal(&mut self, literal: &str, value: Value) -> Result<Value, JsonError> {
        if !self.text[self.at..].starts_with(literal) {
            return self.error("no value");
        }
        self.at += literal.len();
        Ok(value)
    }

    fn list(&mut self, nesting: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut values = Vec::new();
        self.spaces();
        if self.take_if(b']') {
            return Ok(Value::List(values));
        }
        loop {
            values.push(self.value(nesting + 1)?);
            self.spaces();
            if self.take_if(b']') {
                return Ok(Value::List(values));
            }
            self.expect(b',', "neither `,` nor `]` after a list's value")?;
        }
    }

    fn members(&mut self, nesting: usize) -> Result<Vec<(String, Value)>, JsonError> {
        self.at += 1;
        self.spaces();
        let mut members = Vec::new();
        if self.take_if(b'}') {
            return Ok(members);
        }
        loop {
            self.spaces();
            let name = self.string()?;
            self.expect(b':', "no `:` after a member's name")?;
            self.spaces();
            // The map inside a tag is a map as it stands, whatever its first member.
            let in_tag = name == "value" && matches!(members.as_slice(), [(tag, kind)] if is_map_tag(tag, kind));
            let value = match self.peek() {
                Some(b'{') if in_tag && nesting < NESTING_MAX => Value::Map(self.members(nesting + 1)?),
                _ => self.value(nesting + 1)?,
            };
            members.push((name, value));
            self.spaces();
            if self.take_if(b'}') {
                break;
            }
            self.expect(b',', "neither `,` nor `}` after a member")?;
        }
        if distinct_names(&members) { Ok(members) } else { self.error("two members of one name") }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.expect(b'"', "no `\"` where a name should begin")?;
        let mut string = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            string.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => {
                    self.at += 1;
                    string.push(self.escape()?);
                }
                Some(_) => return self.error("a control character in text"),
                None => return self.error("text without an end"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let char = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.error("an unknown escape"),
        };
        self.at += 1;
        Ok(char)
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        const HALF: &str = "half a character";
        let first = self.unit()?;
        let code = match first {
            0xd800..0xdc00 => {
                if !(self.take_if(b'\\') && self.take_if(b'u')) {
                    return self.error(HALF);
                }
                match self.unit()? {
                    second @ 0xdc00..0xe000 => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => return self.error(HALF),
                }
            }
            _ => first,
        };
        char::from_u32(code).map_or_else(|| self.error(HALF), Ok)
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return self.error("an unknown escape");
            };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        self.take_if(b'-');
        if !self.take_if(b'0') {
            self.digits()?;
        }
        let mut kind = Kind::Integer;
        if self.take_if(b'.') {
            kind = Kind::Decimal;
            self.digits()?;
        }
        if self.take_if(b'e') || self.take_if(b'E') {
            kind = Kind::Decimal;
            let _ = self.take_if(b'+') || self.take_if(b'-');
            self.digits()?;
        }
        let value = text::parse(&self.text[start..self.at], kind);
        value.map_or_else(|| Err(JsonError { problem: "a number beyond all limits", at: start }), Ok)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { self.error("not a number") }
    }
}

fn is_map_tag(name: &str, kind: &Value) -> bool {
    name == TAG && matches!(kind, Value::Text(kind) if kind == Kind::Map.name())
}

/// The value of a tagged object; the members back where they are none.
fn untag(members: Vec<(String, Value)>) -> Result<Value, Vec<(String, Value)>> {
    let [(tag, Value::Text(kind)), (name, value)] = members.as_slice() else {
        return Err(members);
    };
    if tag != TAG || name != "value" {
        return Err(members);
    }
    let found = match (Kind::from_name(kind), value) {
        (Some(Kind::Map), Value::Map(_)) => Some(value.clone()),
        (Some(Kind::Absent), Value::Text(text)) if text.is_empty() => Some(Value::Absent),
        (Some(kind), Value::Text(text)) if is_tagged(kind) => text::parse(text, kind),
        _ => None,
    };
    found.ok_or(members)
}

/// Whether values of `kind` are written as tagged objects.
fn is_tagged(kind: Kind) -> bool {
    use Kind::{Absent, Bool, Decimal, Integer, List, Map, Null, Text};
    !matches!(kind, Absent | Null | Bool | Integer | Decimal | Text | List | Map)
}

/// Whether no name occurs twice.
pub(crate) fn distinct_names(members: &[(String, Value)]) -> bool {
    if members.len() <= NAMES_COMPARED_MAX {
        return members.iter().enumerate().all(|(i, (name, _))| members[..i].iter().all(|(other, _)| other != name));
    }
    let mut names = HashSet::with_capacity(members.len());
    members.iter().all(|(name, _)| names.insert(name.as_str()))
}
