//! Keys: bytes that sort as the values do.
//!
//! A key is the concatenation of its values, each self-delimiting, so that comparing two keys as bytes compares their
//! values one after another: absent, null, booleans, integers by size, decimals by size then scale, floats (NaN last),
//! text and bytes bytewise, dates and times in time's order, lists and maps element by element.

use std::fmt;

use num_bigint::{BigInt, Sign};

use crate::row::{DEPTH_MAX, FieldRef};
use crate::text;
use crate::value::{Date, Decimal, Instant, Large, Time, Value, canonical_bits};

/// Goes before the count that tells equal whole-row keys apart; no value begins so.
const OCCURRENCE: u8 = 0xff;

/// Goes before the hash of a row that is too long to be a key as it is; no value begins so.
const HASHED: u8 = 0xfe;

/// The longest key of fields, in bytes: stores have a limit of 64 KiB, and something is put before and behind it.
pub const KEY_BYTES_MAX: usize = 32 * 1024;

/// The longest key of a record, in bytes: that of fields, or of a whole row with its count.
pub const RECORD_KEY_BYTES_MAX: usize = KEY_BYTES_MAX + 1 + size_of::<u32>();

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
    out.push(OCCURRENCE);
    out.extend_from_slice(&occurrence.to_be_bytes());
}

/// A whole row's key without the count that tells equals apart, and that count; 0 for another key.
pub fn split_occurrence(key: &[u8]) -> (&[u8], u32) {
    match key {
        [content @ .., OCCURRENCE, a, b, c, d] => (content, u32::from_be_bytes([*a, *b, *c, *d])),
        content => (content, 0),
    }
}

/// Puts its hash (xxh3, 128 bits) in the place of a whole row that is longer than a key may be, from `start` to the end.
pub(crate) fn shorten(out: &mut Vec<u8>, start: usize) {
    if out.len() - start > KEY_BYTES_MAX {
        let hash = xxhash_rust::xxh3::xxh3_128(&out[start..]);
        out.truncate(start);
        out.push(HASHED);
        out.extend_from_slice(&hash.to_be_bytes());
    }
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

/// A key for messages: its values, separated by commas, text in backticks. Bytes that are no key are shown as such.
pub fn display(key: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut reader = Reader { rest: key };
    while !reader.rest.is_empty() {
        let rest = reader.rest;
        if let [OCCURRENCE, _, _, _, _] = rest {
            break;
        }
        if let Some((hash, rest)) = hashed(rest) {
            parts.push(format!("a long row, {hash:032x}"));
            reader.rest = rest;
            continue;
        }
        match reader.value(0) {
            Some(Value::Text(text)) => {
                let mut shown = String::from('`');
                text.chars().for_each(|char| text::push_printable(&mut shown, char));
                shown.push('`');
                parts.push(shown);
            }
            Some(value) => parts.push(text::display(&value)),
            None => {
                parts.push(rest.escape_ascii().to_string());
                break;
            }
        }
    }
    parts.join(", ")
}

/// The hash that stands for a long row, and what follows it.
fn hashed(key: &[u8]) -> Option<(u128, &[u8])> {
    let (hash, rest) = key.strip_prefix(&[HASHED])?.split_first_chunk()?;
    Some((u128::from_be_bytes(*hash), rest))
}

/// The values of a key, without the count that tells equal whole-row keys apart; `None` for bytes that are no key, or the hash
/// of a row too long to be one.
pub fn values(key: &[u8]) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    let mut reader = Reader { rest: key };
    while !matches!(reader.rest, [] | [OCCURRENCE, _, _, _, _]) {
        values.push(reader.value(0)?);
    }
    Some(values)
}

/// Reads what [`encode`] wrote.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match self.byte()? {
            0 => Value::Absent,
            1 => Value::Null,
            2 => Value::Bool(self.byte()? == 1),
            3 => Value::integer(self.integer()?),
            4 => Value::Decimal(Box::new(self.decimal()?)),
            5 => {
                let ordered = u64::from_be_bytes(self.array()?);
                Value::Float(f64::from_bits(if ordered >> 63 == 1 { ordered ^ 1 << 63 } else { !ordered }))
            }
            6 => Value::Text(String::from_utf8(self.escaped()?).ok()?),
            7 => Value::Bytes(self.escaped()?),
            8 => Value::Date(Date(self.i32()?)),
            9 => Value::Time(Time(u64::from_be_bytes(self.array()?))),
            10 => Value::DateTime(Date(self.i32()?), Time(u64::from_be_bytes(self.array()?))),
            11 => Value::Instant(Instant {
                seconds: (u64::from_be_bytes(self.array()?) ^ 1 << 63) as i64,
                nanos: u32::from_be_bytes(self.array()?),
                offset_seconds: self.i32()?,
            }),
            12 => Value::Uuid(self.array()?),
            13 => {
                let mut values = Vec::new();
                while self.byte()? == 1 {
                    values.push(self.value(depth + 1)?);
                }
                Value::List(values)
            }
            14 => {
                let mut members = Vec::new();
                while self.byte()? == 1 {
                    let name = String::from_utf8(self.escaped()?).ok()?;
                    members.push((name, self.value(depth + 1)?));
                }
                Value::Map(members)
            }
            15 => {
                let text = self.byte()? == 1;
                let hash = self.array()?;
                Value::Large(Box::new(Large { hash, length: u64::from_be_bytes(self.array()?), text }))
            }
            _ => return None,
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(|bytes| (u32::from_be_bytes(bytes) ^ 1 << 31) as i32)
    }

    fn escaped(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            match (self.byte()?, self.rest.first()) {
                (0, Some(mark)) => {
                    self.rest = &self.rest[1..];
                    if *mark == 0 {
                        return Some(bytes);
                    }
                    bytes.push(0);
                }
                (byte, _) => bytes.push(byte),
            }
        }
    }

    /// Sign, and the mask that undoes the complement of negative numbers.
    fn sign(&mut self) -> Option<(Sign, u8)> {
        match self.byte()? {
            0 => Some((Sign::Minus, 0xff)),
            1 => Some((Sign::NoSign, 0)),
            2 => Some((Sign::Plus, 0)),
            _ => None,
        }
    }

    fn integer(&mut self) -> Option<BigInt> {
        let (sign, mask) = self.sign()?;
        if sign == Sign::NoSign {
            return Some(BigInt::default());
        }
        let length = u32::from_be_bytes(self.array::<4>()?.map(|byte| byte ^ mask)) as usize;
        let (magnitude, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let magnitude: Vec<u8> = magnitude.iter().map(|byte| byte ^ mask).collect();
        Some(BigInt::from_bytes_be(sign, &magnitude))
    }

    fn decimal(&mut self) -> Option<Decimal> {
        let (sign, mask) = self.sign()?;
        if sign == Sign::NoSign {
            return Some(Decimal { unscaled: BigInt::default(), scale: self.i32()? });
        }
        let exponent = u64::from_be_bytes(self.array::<8>()?.map(|byte| byte ^ mask)) ^ 1 << 63;
        let mut digits = Vec::new();
        loop {
            match self.byte()? ^ mask {
                0 => break,
                digit @ b'0'..=b'9' => digits.push(digit),
                _ => return None,
            }
        }
        let scale = self.i32()?;
        // The zeros that were left off at the end.
        let length = usize::try_from((exponent as i64).checked_add(scale.into())?).ok()?;
        if length < digits.len() || length > text::DIGITS_MAX {
            return None;
        }
        digits.resize(length, b'0');
        let unscaled = BigInt::parse_bytes(&digits, 10)?;
        Some(Decimal { unscaled: if sign == Sign::Minus { -unscaled } else { unscaled }, scale })
    }
}
