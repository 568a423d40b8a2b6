//! Keys: bytes that sort as the values do.
//!
//! A key is the concatenation of its values, each self-delimiting, so that comparing two keys as bytes compares their
//! values one after another: absent, null, booleans, integers by size, decimals by size then scale, floats (NaN last),
//! text and bytes bytewise, dates and times in time's order, lists and maps element by element.

use std::fmt;

use num_bigint::{BigInt, Sign};

use crate::row::FieldRef;
use crate::value::{Value, canonical_bits};

/// The key of a record, encoded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of these values.
    pub fn of(values: &[Value]) -> Key {
        let mut out = Vec::new();
        for value in values {
            encode(&mut out, value);
        }
        Key(out.into())
    }

    /// A key from bytes that [`Key::as_bytes`] gave.
    pub fn from_trusted(bytes: impl Into<Box<[u8]>>) -> Key {
        Key(bytes.into())
    }

    /// The bytes, which sort as the values do.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// Appends the key encoding of an encoded value.
pub(crate) fn encode_field(out: &mut Vec<u8>, field: FieldRef<'_>) {
    match field.text() {
        Some(text) => {
            out.push(6);
            put_escaped(out, text.as_bytes());
        }
        None => encode(out, &field.value()),
    }
}

/// Appends the count that tells equal whole-row keys apart, from 0.
pub fn encode_occurrence(out: &mut Vec<u8>, occurrence: u32) {
    out.push(0xff);
    out.extend_from_slice(&occurrence.to_be_bytes());
}

fn encode(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Absent => out.push(0),
        Value::Null => out.push(1),
        Value::Bool(bool) => out.extend_from_slice(&[2, u8::from(*bool)]),
        Value::Integer(integer) => {
            out.push(3);
            put_small_integer(out, *integer);
        }
        Value::BigInteger(integer) => {
            out.push(3);
            put_integer(out, integer);
        }
        Value::Decimal(decimal) => {
            out.push(4);
            put_decimal(out, &decimal.unscaled, decimal.scale);
        }
        Value::Float(float) => {
            out.push(5);
            let bits = canonical_bits(*float);
            let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Value::Text(text) => {
            out.push(6);
            put_escaped(out, text.as_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(7);
            put_escaped(out, bytes);
        }
        Value::Date(date) => {
            out.push(8);
            put_i32(out, date.0);
        }
        Value::Time(time) => {
            out.push(9);
            out.extend_from_slice(&time.0.to_be_bytes());
        }
        Value::DateTime(date, time) => {
            out.push(10);
            put_i32(out, date.0);
            out.extend_from_slice(&time.0.to_be_bytes());
        }
        Value::Instant(instant) => {
            out.push(11);
            out.extend_from_slice(&((instant.seconds as u64) ^ 1 << 63).to_be_bytes());
            out.extend_from_slice(&instant.nanos.to_be_bytes());
            put_i32(out, instant.offset_seconds);
        }
        Value::Uuid(uuid) => {
            out.push(12);
            out.extend_from_slice(uuid);
        }
        Value::List(values) => {
            out.push(13);
            for value in values {
                out.push(1);
                encode(out, value);
            }
            out.push(0);
        }
        Value::Map(members) => {
            out.push(14);
            for (name, value) in members {
                out.push(1);
                put_escaped(out, name.as_bytes());
                encode(out, value);
            }
            out.push(0);
        }
        Value::Large(large) => {
            out.push(15);
            out.push(u8::from(large.text));
            out.extend_from_slice(&large.hash);
            out.extend_from_slice(&large.length.to_be_bytes());
        }
    }
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&((value as u32) ^ 1 << 31).to_be_bytes());
}

/// Bytes with 0 escaped as 0 255 and ended by 0 0, so that a prefix sorts first.
fn put_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.contains(&0) {
        for &byte in bytes {
            out.push(byte);
            if byte == 0 {
                out.push(255);
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0, 0]);
}

/// Sign, length of the magnitude, magnitude; the two latter complemented for negative numbers.
fn put_integer(out: &mut Vec<u8>, integer: &BigInt) {
    let (sign, magnitude) = integer.to_bytes_be();
    let length = (magnitude.len() as u32).to_be_bytes();
    match sign {
        Sign::NoSign => out.push(1),
        Sign::Plus => {
            out.push(2);
            out.extend_from_slice(&length);
            out.extend_from_slice(&magnitude);
        }
        Sign::Minus => {
            out.push(0);
            out.extend(length.iter().chain(&magnitude).map(|byte| !byte));
        }
    }
}

/// As [`put_integer`], for the keys that most records have.
fn put_small_integer(out: &mut Vec<u8>, integer: i64) {
    let magnitude = integer.unsigned_abs();
    if magnitude == 0 {
        out.push(1);
        return;
    }
    let length = 8 - magnitude.leading_zeros() / 8;
    let bytes = magnitude.to_be_bytes();
    let bytes = &bytes[8 - length as usize..];
    if integer > 0 {
        out.push(2);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(bytes);
    } else {
        out.push(0);
        out.extend_from_slice(&(!length).to_be_bytes());
        out.extend(bytes.iter().map(|byte| !byte));
    }
}

/// Sign, decimal exponent of the first digit, digits (complemented for negative numbers), then the scale.
fn put_decimal(out: &mut Vec<u8>, unscaled: &BigInt, scale: i32) {
    let digits = unscaled.magnitude().to_string();
    let significant = digits.trim_end_matches('0');
    let exponent = (digits.len() as i64 - i64::from(scale)) as u64 ^ 1 << 63;
    let mut body = exponent.to_be_bytes().to_vec();
    body.extend_from_slice(significant.as_bytes());
    body.push(0);
    match unscaled.sign() {
        Sign::NoSign => out.push(1),
        Sign::Plus => {
            out.push(2);
            out.extend_from_slice(&body);
        }
        Sign::Minus => {
            out.push(0);
            out.extend(body.iter().map(|byte| !byte));
        }
    }
    put_i32(out, scale);
}

/// A key for messages: its values, separated by commas, as far as they are text or integers.
pub fn display(key: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut rest = key;
    while let Some((&tag, body)) = rest.split_first() {
        let (part, after) = match tag {
            0 => ("(absent)".to_owned(), body),
            1 => ("null".to_owned(), body),
            2 if !body.is_empty() => ((body[0] == 1).to_string(), &body[1..]),
            3 => match integer_of(body) {
                Some((integer, after)) => (integer.to_string(), after),
                None => break,
            },
            6 => match text_of(body) {
                Some((text, after)) => (format!("`{text}`"), after),
                None => break,
            },
            0xff if body.len() == 4 => return parts.join(", "),
            _ => break,
        };
        parts.push(part);
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(rest.escape_ascii().to_string());
    }
    parts.join(", ")
}

fn integer_of(body: &[u8]) -> Option<(BigInt, &[u8])> {
    let (&sign, body) = body.split_first()?;
    if sign == 1 {
        return Some((BigInt::default(), body));
    }
    let flip = if sign == 0 { 0xff } else { 0 };
    let (length, body) = body.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(length.map(|byte| byte ^ flip)) as usize;
    if length > body.len() {
        return None;
    }
    let (magnitude, after) = body.split_at(length);
    let magnitude: Vec<u8> = magnitude.iter().map(|byte| byte ^ flip).collect();
    let sign = if sign == 0 { Sign::Minus } else { Sign::Plus };
    Some((BigInt::from_bytes_be(sign, &magnitude), after))
}

fn text_of(body: &[u8]) -> Option<(String, &[u8])> {
    let mut text = Vec::new();
    let mut at = 0;
    loop {
        match (*body.get(at)?, *body.get(at + 1)?) {
            (0, 0) => return Some((String::from_utf8_lossy(&text).into_owned(), &body[at + 2..])),
            (0, _) => {
                text.push(0);
                at += 2;
            }
            (byte, _) => {
                text.push(byte);
                at += 1;
            }
        }
    }
}
