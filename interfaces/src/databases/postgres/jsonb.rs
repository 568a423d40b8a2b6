//! JSON as `jsonb` keeps it: of a name that occurs twice the last value, names by length and then by bytes, numbers as
//! `numeric` prints them.
//!
//! <https://www.postgresql.org/docs/current/datatype-json.html>; the order is that of `lengthCompareJsonbString`.

use deltabus_record::row::DEPTH_MAX;
use deltabus_record::text;
use deltabus_record::value::{Decimal, Kind, Value};

use super::types::NUMERIC_SCALE_MAX;

/// Digits before the point that `numeric` can have.
const WHOLE_MAX: i64 = 131_072;

/// How many digits the exponents of all numbers of a text may come to: `1e131071` has eight characters here, and 131,072 in
/// PostgreSQL.
const EXPONENT_DIGITS_MAX: usize = 1_000_000;

/// Checks that `text` is JSON, as the type `json` asks.
pub(super) fn check(text: &str) -> Result<(), String> {
    Reader { text, at: 0, only_checks: true, exponent_digits: 0 }.all().map(drop)
}

/// The text that `jsonb` prints for `text`.
pub(super) fn normal(text: &str) -> Result<String, String> {
    let value = Reader { text, at: 0, only_checks: false, exponent_digits: 0 }.all()?;
    let mut out = String::with_capacity(text.len());
    value.put(&mut out);
    Ok(out)
}

enum Json {
    /// As it is printed: null, booleans and numbers.
    Literal(String),
    Text(String),
    Array(Vec<Json>),
    /// In their order, distinct.
    Object(Vec<(String, Json)>),
}

impl Json {
    fn put(&self, out: &mut String) {
        match self {
            Json::Literal(literal) => out.push_str(literal),
            Json::Text(text) => put_text(out, text),
            Json::Array(values) => {
                out.push('[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    value.put(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    put_text(out, name);
                    out.push_str(": ");
                    value.put(out);
                }
                out.push('}');
            }
        }
    }
}

/// As `escape_json` in PostgreSQL's `json.c`.
fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            char if (char as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", char as u32)),
            char => out.push(char),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Whether the text stays as it is, `\u0000` and all numbers included: the type `json`.
    only_checks: bool,
    /// How many digits the numbers so far have in PostgreSQL that they don't have here.
    exponent_digits: usize,
}

impl Reader<'_> {
    fn all(mut self) -> Result<Json, String> {
        let value = self.value(0)?;
        self.spaces();
        if self.at < self.text.len() { self.error("more text than one value") } else { Ok(value) }
    }

    fn error<T>(&self, problem: &str) -> Result<T, String> {
        Err(format!("{problem} at byte {}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEPTH_MAX {
            return self.error("nested too deeply");
        }
        self.spaces();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for literal in ["null", "true", "false"] {
                    if self.text[self.at..].starts_with(literal) {
                        self.at += literal.len();
                        return Ok(Json::Literal(literal.into()));
                    }
                }
                self.error("no value")
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, String> {
        self.at += 1;
        let mut values = Vec::new();
        self.spaces();
        if self.take(b']') {
            return Ok(Json::Array(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            self.spaces();
            if self.take(b']') {
                return Ok(Json::Array(values));
            }
            if !self.take(b',') {
                return self.error("neither `,` nor `]`");
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        self.at += 1;
        let mut members: Vec<(String, Json)> = Vec::new();
        self.spaces();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.spaces();
            if self.peek() != Some(b'"') {
                return self.error("no name");
            }
            let name = self.string()?;
            self.spaces();
            if !self.take(b':') {
                return self.error("no `:`");
            }
            members.push((name, self.value(depth + 1)?));
            self.spaces();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return self.error("neither `,` nor `}`");
            }
        }
        // Stable: of equal names the last stays last.
        members.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes())));
        let mut distinct: Vec<(String, Json)> = Vec::with_capacity(members.len());
        for member in members {
            match distinct.last_mut().filter(|last| last.0 == member.0) {
                Some(last) => *last = member,
                None => distinct.push(member),
            }
        }
        Ok(Json::Object(distinct))
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
            let Some(plain) = plain else { return self.error("the text has no end") };
            out.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let escape = self.peek();
                    self.at += 1;
                    out.push(match escape {
                        Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => self.unicode()?,
                        _ => return self.error("no such escape"),
                    });
                }
                _ => return self.error("a control character that is not escaped"),
            }
        }
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex()?;
        let code = match first {
            0 if !self.only_checks => return self.error("jsonb can't hold \\u0000"),
            0xd800..=0xdbff => {
                if !(self.take(b'\\') && self.take(b'u')) {
                    return self.error("half a surrogate pair");
                }
                let second = self.hex()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return self.error("half a surrogate pair");
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            code => code,
        };
        match char::from_u32(code) {
            Some(char) => Ok(char),
            None => self.error("half a surrogate pair"),
        }
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(digits) = digits else { return self.error("no four hexadecimal digits") };
        self.at += 4;
        u32::from_str_radix(digits, 16).or_else(|_| self.error("no four hexadecimal digits"))
    }

    fn number(&mut self) -> Result<Json, String> {
        let start = self.at;
        self.take(b'-');
        let digits = |reader: &mut Self| {
            let start = reader.at;
            while matches!(reader.peek(), Some(b'0'..=b'9')) {
                reader.at += 1;
            }
            reader.at - start
        };
        let zero = self.peek() == Some(b'0');
        let whole = digits(self);
        if whole == 0 || zero && whole > 1 {
            return self.error("not a number");
        }
        if self.take(b'.') && digits(self) == 0 {
            return self.error("not a number");
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            if digits(self) == 0 {
                return self.error("not a number");
            }
        }
        let literal = &self.text[start..self.at];
        if self.only_checks {
            // Only checked: `json` keeps every digit.
            return Ok(Json::Literal(literal.into()));
        }
        let plain = match text::parse(literal, Kind::Decimal) {
            Some(Value::Decimal(decimal)) => plain(&decimal),
            _ => None,
        };
        if let Some(plain) = &plain {
            self.exponent_digits += plain.len().saturating_sub(literal.len());
        }
        match plain {
            Some(_) if self.exponent_digits > EXPONENT_DIGITS_MAX => {
                self.error("too many digits that exponents stand for")
            }
            Some(plain) => Ok(Json::Literal(plain)),
            None => self.error("a number beyond those of numeric"),
        }
    }
}

/// As `numeric` prints it, without an exponent; `None` where it is too large, or its digits too many.
fn plain(decimal: &Decimal) -> Option<String> {
    let digits = decimal.unscaled.magnitude().to_string();
    let negative = decimal.unscaled.sign() == num_bigint::Sign::Minus;
    let scale = i64::from(decimal.scale);
    let zero = digits == "0";
    if scale > i64::from(NUMERIC_SCALE_MAX) || !zero && digits.len() as i64 - scale > WHOLE_MAX {
        return None;
    }
    let mut out = String::new();
    if negative {
        out.push('-');
    }
    if scale <= 0 {
        out.push_str(&digits);
        if !zero {
            out.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
        }
        return Some(out);
    }
    let scale = scale as usize;
    match digits.len().checked_sub(scale) {
        Some(point @ 1..) => {
            out.push_str(&digits[..point]);
            out.push('.');
            out.push_str(&digits[point..]);
        }
        _ => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', scale - digits.len()));
            out.push_str(&digits);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nine characters each become 131,072.
    #[test]
    fn exponents_stand_for_so_many_digits_and_no_more() {
        let numbers = |count: usize| format!("[{}0]", "1e131071,".repeat(count));
        assert!(normal(&numbers(7)).is_ok_and(|normal| normal.len() > 900_000));
        assert!(normal(&numbers(8)).is_err_and(|problem| problem.contains("too many digits")));
        assert!(check(&numbers(1000)).is_ok());
        assert!(normal(&format!("[{}]", "1e-16383,".repeat(1000))).is_err());
    }
}
