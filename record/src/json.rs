//! Values as JSON text and back, losing nothing.
//!
//! Null, booleans, integers, decimals, text, lists and maps are what they are in JSON. A decimal with no digits behind the
//! point is written with an exponent, so that it isn't taken for an integer. Other kinds are an object
//! `{"$deltabus": "<kind>", "value": "<canonical text>"}`; a map whose first member is called `$deltabus` is one of kind
//! `map`, its value the map's members in a list of pairs.

use num_bigint::BigInt;

use crate::row::DEPTH_MAX;
use crate::text;
use crate::value::{Kind, Value};

const TAG: &str = "$deltabus";

/// Text that isn't JSON, or not JSON that stands for a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: &'static str,
    /// Where, counted in bytes.
    pub at: usize,
}

/// The JSON text of a value, without white space.
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
        Value::Text(text) => put_text(out, text),
        Value::Bool(_) | Value::Integer(_) | Value::BigInteger(_) | Value::Decimal(_) => {
            out.push_str(&text::to_text(value).unwrap_or_default());
        }
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
        Value::Map(members) if members.first().is_some_and(|(name, _)| name == TAG) => {
            out.push_str("{\"$deltabus\":\"map\",\"value\":[");
            for (i, (name, value)) in members.iter().enumerate() {
                out.push_str(if i > 0 { ",[" } else { "[" });
                put_text(out, name);
                out.push(',');
                put(out, value);
                out.push(']');
            }
            out.push_str("]}");
        }
        Value::Map(members) => {
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
        other => {
            out.push_str("{\"$deltabus\":\"");
            out.push_str(other.kind().name());
            out.push_str("\",\"value\":");
            put_text(out, &text::to_text(other).unwrap_or_default());
            out.push('}');
        }
    }
}

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if (control as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", control as u32)),
            char => out.push(char),
        }
    }
    out.push('"');
}

/// Reads a value from JSON text; nothing may follow it.
pub fn read(text: &str) -> Result<Value, JsonError> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() { reader.error("more text than one value") } else { Ok(value) }
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

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, wanted: u8, problem: &'static str) -> Result<(), JsonError> {
        self.space();
        if self.peek() != Some(wanted) {
            return self.error(problem);
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth > DEPTH_MAX {
            return self.error("nested too deeply");
        }
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'[') => self.list(depth),
            Some(b'{') => self.map(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                for (word, value) in [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))]
                {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                self.error("no value")
            }
            None => self.error("cut off"),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut values = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(values));
                }
                _ => return self.error("neither `,` nor `]` after a list's value"),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut members: Vec<(String, Value)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Map(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.error("a member without a name");
            }
            let name = self.string()?;
            if !names.insert(name.clone()) {
                return self.error("two members of one name");
            }
            self.expect(b':', "no `:` after a member's name")?;
            let value = self.value(depth + 1)?;
            members.push((name, value));
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return self.untagged(members);
                }
                _ => return self.error("neither `,` nor `}` after a member"),
            }
        }
    }

    /// A map, or the value of another kind that it stands for.
    fn untagged(&self, mut members: Vec<(String, Value)>) -> Result<Value, JsonError> {
        if members.first().is_none_or(|(name, _)| name != TAG) {
            return Ok(Value::Map(members));
        }
        let value =
            if members.len() == 2 && members[1].0 == "value" { members.pop().map(|(_, value)| value) } else { None };
        let kind = match &members[0].1 {
            Value::Text(kind) => Kind::from_name(kind),
            _ => None,
        };
        let value = match (kind, value) {
            (Some(Kind::Absent), Some(_)) => Some(Value::Absent),
            (Some(Kind::Map), Some(Value::List(pairs))) => pairs_of(pairs).map(Value::Map),
            (Some(kind), Some(Value::Text(text))) => text::parse(&text, kind),
            _ => None,
        };
        value.map_or_else(|| self.error("a `$deltabus` object that stands for no value"), Ok)
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let literal = &self.text[start..self.at];
        let digits = literal.strip_prefix('-').unwrap_or(literal);
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        let value = if leading_zero {
            None
        } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            // `-0` is no integer: its sign would be lost.
            if literal == "-0" { Some(Value::Float(-0.0)) } else { literal.parse::<BigInt>().ok().map(Value::integer) }
        } else {
            text::parse(literal, Kind::Decimal)
        };
        value.map_or_else(|| Err(JsonError { problem: "not a number", at: start }), Ok)
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(end) = rest.find(|char: char| char == '"' || char == '\\' || (char as u32) < 0x20) else {
                return self.error("text without an end");
            };
            out.push_str(&rest[..end]);
            self.at += end + 1;
            match rest.as_bytes()[end] {
                b'"' => return Ok(out),
                b'\\' => out.push(self.escape()?),
                _ => return self.error("a control character in text"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let Some(byte) = self.peek() else { return self.error("cut off") };
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                let code = match unit {
                    0xd800..=0xdbff => {
                        if !self.text[self.at..].starts_with("\\u") {
                            return self.error("half a character");
                        }
                        self.at += 2;
                        let low = self.unit()?;
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return self.error("half a character");
                        }
                        0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                    }
                    unit => unit,
                };
                return char::from_u32(code).map_or_else(|| self.error("half a character"), Ok);
            }
            _ => return self.error("an unknown escape"),
        })
    }

    fn unit(&mut self) -> Result<u32, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digits) = digits else { return self.error("an unknown escape") };
        self.at += 4;
        u32::from_str_radix(digits, 16).or_else(|_| self.error("an unknown escape"))
    }
}

fn pairs_of(pairs: Vec<Value>) -> Option<Vec<(String, Value)>> {
    let pair = |pair: Value| match pair {
        Value::List(pair) => match <[Value; 2]>::try_from(pair).ok()? {
            [Value::Text(name), value] => Some((name, value)),
            _ => None,
        },
        _ => None,
    };
    pairs.into_iter().map(pair).collect()
}
