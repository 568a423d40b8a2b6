//! Rows: the values of one record, encoded.
//!
//! A row is the values of a schema's fields in slot order, each a tag byte and its payload, trailing absent values left
//! out. The encoding is canonical (one value, one encoding), so that equal rows are equal bytes. It is the form in which
//! records lie in the state store, travel in change sets and are hashed for the digest:
//!
//! | tag | value | payload |
//! |---|---|---|
//! | 0 | absent | |
//! | 1 | null | |
//! | 2, 3 | false, true | |
//! | 4 | integer | zigzag LEB128 |
//! | 5 | integer beyond 64 bits | length, two's complement big-endian |
//! | 6 | decimal | zigzag scale, length, unscaled two's complement big-endian |
//! | 7 | float | IEEE 754 bits, 8 bytes little-endian, one NaN |
//! | 8 | text of 128 bytes or more | length, UTF-8 |
//! | 9 | bytes | length, bytes |
//! | 10 | date | zigzag days since 1970-01-01 |
//! | 11 | time | nanoseconds since midnight |
//! | 12 | local date and time | zigzag days, nanoseconds |
//! | 13 | instant | zigzag seconds, nanoseconds, zigzag offset seconds |
//! | 14 | uuid | 16 bytes |
//! | 15 | list | count, values |
//! | 16 | map | count, then length, name and value of each |
//! | 17, 18 | large bytes, large text | 32 bytes BLAKE3, length |
//! | 128 + n | text of n bytes, n < 128 | UTF-8 |
//!
//! Lengths and counts are unsigned LEB128.

use std::sync::LazyLock;

use num_bigint::{BigInt, BigUint};

use crate::text::DIGITS_MAX;
use crate::value::{Date, Decimal, Instant, Kind, Large, Time, Value, canonical_bits};

/// How deep lists and maps may nest; deeper input is refused, so that no input exhausts the stack.
pub const DEPTH_MAX: usize = 128;

/// Up to this many bytes a number has at most [`DIGITS_MAX`] digits for certain.
const NUMBER_BYTES_SURE: usize = 62_286;

/// With so many it may have, or have a few more; beyond, it has more.
const NUMBER_BYTES_MAX: usize = NUMBER_BYTES_SURE + 1;

/// The first number of more than [`DIGITS_MAX`] digits.
static TOO_MANY_DIGITS: LazyLock<BigUint> = LazyLock::new(|| BigUint::from(10_u8).pow(DIGITS_MAX as u32));

const NOT_CANONICAL: &str = "value not in canonical form";
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Bytes that are not a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an encoded row: {problem} at byte {at}")]
pub struct RowError {
    /// What is wrong.
    pub problem: &'static str,
    /// Where, counted in bytes from the start of the row.
    pub at: usize,
}

/// The encoded values of one record, in slot order.
#[derive(Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Row(Box<[u8]>);

impl Row {
    /// Encodes `values`, in slot order.
    pub fn of(values: &[Value]) -> Row {
        let mut builder = RowBuilder::default();
        for value in values {
            builder.push(value);
        }
        builder.row()
    }

    /// A row from bytes that come from outside; every value is checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Row, RowError> {
        check(bytes)?;
        Ok(Row(bytes.into()))
    }

    /// A row from bytes that [`Row::as_bytes`] gave (the state store's own); not checked again.
    pub fn from_trusted(bytes: impl Into<Box<[u8]>>) -> Row {
        Row(bytes.into())
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// All values, in slot order; trailing absent ones are not there.
    pub fn values(&self) -> Vec<Value> {
        RowReader::new(&self.0).map(|field| field.value()).collect()
    }

    /// The row with its values in other slots: for each, the one that its value is in here.
    pub fn in_slots(&self, slots: &[Option<usize>]) -> Row {
        let fields: Vec<FieldRef<'_>> = RowReader::new(&self.0).collect();
        let mut placed = RowBuilder::default();
        for slot in slots {
            placed.push_encoded(slot.and_then(|slot| fields.get(slot).copied()).unwrap_or(FieldRef::ABSENT));
        }
        placed.row()
    }

    /// The first slot beyond `fields`, if the row has a value there.
    pub fn beyond(&self, fields: usize) -> Option<usize> {
        beyond(&self.0, fields)
    }

    /// The value in `slot`.
    pub fn value(&self, slot: usize) -> Value {
        RowReader::new(&self.0).nth(slot).map_or(Value::Absent, |field| field.value())
    }
}

/// The first slot beyond `fields`, if the encoded row has a value there.
pub fn beyond(row: &[u8], fields: usize) -> Option<usize> {
    RowReader::new(row).nth(fields).map(|_| fields)
}

/// Checks bytes that come from outside to be a row, without keeping one.
pub fn check(bytes: &[u8]) -> Result<(), RowError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut last_absent = false;
    while cursor.at < bytes.len() {
        last_absent = bytes[cursor.at] == 0;
        cursor.check(0)?;
    }
    if last_absent { cursor.error("trailing absent value") } else { Ok(()) }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

/// One encoded value inside a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef<'a>(&'a [u8]);

impl<'a> FieldRef<'a> {
    /// The encoding of [`Value::Absent`].
    pub const ABSENT: FieldRef<'static> = FieldRef(&[0]);

    /// The encoded bytes, tag included.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// What kind of value this is, without decoding it.
    pub fn kind(self) -> Kind {
        match self.0[0] {
            0 => Kind::Absent,
            1 => Kind::Null,
            2 | 3 => Kind::Bool,
            4 | 5 => Kind::Integer,
            6 => Kind::Decimal,
            7 => Kind::Float,
            9 => Kind::Bytes,
            10 => Kind::Date,
            11 => Kind::Time,
            12 => Kind::DateTime,
            13 => Kind::Instant,
            14 => Kind::Uuid,
            15 => Kind::List,
            16 => Kind::Map,
            17 | 18 => Kind::Large,
            _ => Kind::Text,
        }
    }

    /// The text, if this is text; borrowed, nothing is copied.
    pub fn text(self) -> Option<&'a str> {
        let bytes = match self.0[0] {
            tag if tag >= 128 => &self.0[1..],
            8 => {
                let mut cursor = Cursor { bytes: self.0, at: 1 };
                let length = cursor.unsigned().ok()? as usize;
                &self.0[cursor.at..cursor.at + length]
            }
            _ => return None,
        };
        std::str::from_utf8(bytes).ok()
    }

    /// Whether this is `value`; texts are compared where they lie.
    pub fn is(self, value: &Value) -> bool {
        match value {
            Value::Text(text) => self.text() == Some(text),
            value => self.value() == *value,
        }
    }

    /// The value, decoded.
    pub fn value(self) -> Value {
        Cursor { bytes: self.0, at: 0 }.value(0).expect("a row holds only what was encoded")
    }
}

/// The encoded values of a row one by one, in slot order.
#[derive(Clone, Debug)]
pub struct RowReader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> RowReader<'a> {
    /// Reads an encoded row ([`Row::as_bytes`]).
    pub fn new(row: &'a [u8]) -> RowReader<'a> {
        RowReader { cursor: Cursor { bytes: row, at: 0 } }
    }

    /// The values that are left, encoded.
    pub fn rest(&self) -> &'a [u8] {
        &self.cursor.bytes[self.cursor.at..]
    }
}

impl<'a> Iterator for RowReader<'a> {
    type Item = FieldRef<'a>;

    fn next(&mut self) -> Option<FieldRef<'a>> {
        let start = self.cursor.at;
        if start >= self.cursor.bytes.len() {
            return None;
        }
        self.cursor.skip().expect("a row holds only what was encoded");
        Some(FieldRef(&self.cursor.bytes[start..self.cursor.at]))
    }
}

/// Builds one row after another in a buffer that is used again.
#[derive(Clone, Debug, Default)]
pub struct RowBuilder {
    bytes: Vec<u8>,
    /// Where the last value that is not absent ends.
    end: usize,
}

impl RowBuilder {
    /// Starts a new row.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.end = 0;
    }

    /// Appends the value of the next slot.
    pub fn push(&mut self, value: &Value) {
        encode(&mut self.bytes, value);
        if !matches!(value, Value::Absent) {
            self.end = self.bytes.len();
        }
    }

    /// Appends text to the next slot without building a [`Value`].
    pub fn push_text(&mut self, text: &str) {
        encode_text(&mut self.bytes, text);
        self.end = self.bytes.len();
    }

    /// Appends an integer to the next slot without building a [`Value`].
    pub fn push_integer(&mut self, value: i64) {
        self.bytes.push(4);
        put_signed(&mut self.bytes, value);
        self.end = self.bytes.len();
    }

    /// Appends an encoded value to the next slot.
    pub fn push_encoded(&mut self, field: FieldRef<'_>) {
        self.bytes.extend_from_slice(field.0);
        if field.0[0] != 0 {
            self.end = self.bytes.len();
        }
    }

    /// Appends all values of an encoded row ([`Row::as_bytes`]), one a slot.
    pub fn push_row(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        if !row.is_empty() {
            self.end = self.bytes.len();
        }
    }

    /// The row's canonical bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// The row so far.
    pub fn row(&self) -> Row {
        Row(self.as_bytes().into())
    }
}

/// Appends the encoding of `value`.
pub fn encode(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Absent => out.push(0),
        Value::Null => out.push(1),
        Value::Bool(false) => out.push(2),
        Value::Bool(true) => out.push(3),
        Value::Integer(integer) => {
            out.push(4);
            put_signed(out, *integer);
        }
        Value::BigInteger(integer) => {
            out.push(5);
            put_bytes(out, &integer.to_signed_bytes_be());
        }
        Value::Decimal(decimal) => {
            out.push(6);
            put_signed(out, decimal.scale.into());
            put_bytes(out, &decimal.unscaled.to_signed_bytes_be());
        }
        Value::Float(float) => {
            out.push(7);
            out.extend_from_slice(&canonical_bits(*float).to_le_bytes());
        }
        Value::Text(text) => encode_text(out, text),
        Value::Bytes(bytes) => {
            out.push(9);
            put_bytes(out, bytes);
        }
        Value::Date(date) => {
            out.push(10);
            put_signed(out, date.0.into());
        }
        Value::Time(time) => {
            out.push(11);
            put_unsigned(out, time.0);
        }
        Value::DateTime(date, time) => {
            out.push(12);
            put_signed(out, date.0.into());
            put_unsigned(out, time.0);
        }
        Value::Instant(instant) => {
            out.push(13);
            put_signed(out, instant.seconds);
            put_unsigned(out, instant.nanos.into());
            put_signed(out, instant.offset_seconds.into());
        }
        Value::Uuid(uuid) => {
            out.push(14);
            out.extend_from_slice(uuid);
        }
        Value::List(values) => {
            out.push(15);
            put_unsigned(out, values.len() as u64);
            for value in values {
                encode(out, value);
            }
        }
        Value::Map(members) => {
            out.push(16);
            put_unsigned(out, members.len() as u64);
            for (name, value) in members {
                put_bytes(out, name.as_bytes());
                encode(out, value);
            }
        }
        Value::Large(large) => {
            out.push(if large.text { 18 } else { 17 });
            out.extend_from_slice(&large.hash);
            put_unsigned(out, large.length);
        }
    }
}

/// Decodes one value from the front of `bytes`, which come from outside; also says how many bytes it took.
pub fn decode(bytes: &[u8]) -> Result<(Value, usize), RowError> {
    Cursor { bytes, at: 0 }.check(0)?;
    let mut cursor = Cursor { bytes, at: 0 };
    let value = cursor.value(0)?;
    Ok((value, cursor.at))
}

fn encode_text(out: &mut Vec<u8>, text: &str) {
    if text.len() < 128 {
        out.push(128 | text.len() as u8);
    } else {
        out.push(8);
        put_unsigned(out, text.len() as u64);
    }
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Whether a two's complement number takes no byte more than it has to.
fn is_minimal(bytes: &[u8]) -> bool {
    match bytes {
        [] => false,
        [0, second, ..] => *second >= 0x80,
        [0xff, second, ..] => *second < 0x80,
        _ => true,
    }
}

#[derive(Clone, Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error<T>(&self, problem: &'static str) -> Result<T, RowError> {
        Err(RowError { problem, at: self.at })
    }

    fn byte(&mut self) -> Result<u8, RowError> {
        let Some(&byte) = self.bytes.get(self.at) else {
            return self.error("cut off");
        };
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], RowError> {
        if length > (self.bytes.len() - self.at) as u64 {
            return self.error("cut off");
        }
        let start = self.at;
        self.at += length as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn unsigned(&mut self) -> Result<u64, RowError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return self.error("number too large");
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.error("number too long")
    }

    fn signed(&mut self) -> Result<i64, RowError> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn signed_32(&mut self) -> Result<i32, RowError> {
        let value = self.signed()?;
        i32::try_from(value).or_else(|_| self.error("number too large"))
    }

    fn run(&mut self) -> Result<&'a [u8], RowError> {
        let length = self.unsigned()?;
        self.take(length)
    }

    fn string(&mut self, bytes: &'a [u8]) -> Result<String, RowError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.error("text is not UTF-8"),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, RowError> {
        if depth > DEPTH_MAX {
            return self.error("nested too deeply");
        }
        Ok(match self.byte()? {
            0 => Value::Absent,
            1 => Value::Null,
            2 => Value::Bool(false),
            3 => Value::Bool(true),
            4 => Value::Integer(self.signed()?),
            5 => Value::integer(BigInt::from_signed_bytes_be(self.run()?)),
            6 => {
                let scale = self.signed_32()?;
                let unscaled = BigInt::from_signed_bytes_be(self.run()?);
                Value::Decimal(Box::new(Decimal { unscaled, scale }))
            }
            7 => {
                let bits = u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes were taken"));
                Value::Float(f64::from_bits(bits))
            }
            8 => {
                let bytes = self.run()?;
                Value::Text(self.string(bytes)?)
            }
            9 => Value::Bytes(self.run()?.to_vec()),
            10 => Value::Date(Date(self.signed_32()?)),
            11 => Value::Time(Time(self.unsigned()?)),
            12 => Value::DateTime(Date(self.signed_32()?), Time(self.unsigned()?)),
            13 => {
                let seconds = self.signed()?;
                let nanos = self.unsigned()?;
                let Ok(nanos) = u32::try_from(nanos) else {
                    return self.error("number too large");
                };
                Value::Instant(Instant { seconds, nanos, offset_seconds: self.signed_32()? })
            }
            14 => Value::Uuid(self.take(16)?.try_into().expect("16 bytes were taken")),
            15 => {
                let count = self.unsigned()?;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Value::List(values)
            }
            16 => {
                let count = self.unsigned()?;
                let mut members = Vec::new();
                for _ in 0..count {
                    let name = self.run()?;
                    let name = self.string(name)?;
                    members.push((name, self.value(depth + 1)?));
                }
                Value::Map(members)
            }
            tag @ (17 | 18) => {
                let hash = self.take(32)?.try_into().expect("32 bytes were taken");
                Value::Large(Box::new(Large { hash, length: self.unsigned()?, text: tag == 18 }))
            }
            tag if tag >= 128 => {
                let bytes = self.take(u64::from(tag & 0x7f))?;
                Value::Text(self.string(bytes)?)
            }
            _ => return self.error("unknown tag"),
        })
    }

    /// Steps over one value from outside: whether it is one, in its one canonical form.
    fn check(&mut self, depth: usize) -> Result<(), RowError> {
        if depth > DEPTH_MAX {
            return self.error("nested too deeply");
        }
        match self.byte()? {
            0..=3 => {}
            4 => drop(self.canonical_unsigned()?),
            5 => {
                // Eight bytes and less are a small integer.
                let bytes = self.canonical_run()?;
                if bytes.len() < 9 || !is_minimal(bytes) {
                    return self.error(NOT_CANONICAL);
                }
                self.digits(bytes)?;
            }
            6 => {
                self.canonical_signed_32()?;
                let bytes = self.canonical_run()?;
                if !is_minimal(bytes) {
                    return self.error(NOT_CANONICAL);
                }
                self.digits(bytes)?;
            }
            7 => {
                let bits = u64::from_le_bytes(self.take(8)?.try_into().expect("8 bytes were taken"));
                if canonical_bits(f64::from_bits(bits)) != bits {
                    return self.error(NOT_CANONICAL);
                }
            }
            8 => {
                let bytes = self.canonical_run()?;
                if bytes.len() < 128 {
                    return self.error(NOT_CANONICAL);
                }
                self.utf8(bytes)?;
            }
            9 => drop(self.canonical_run()?),
            10 => drop(self.canonical_signed_32()?),
            11 => drop(self.canonical_unsigned()?),
            12 => {
                self.canonical_signed_32()?;
                self.canonical_unsigned()?;
            }
            13 => {
                self.canonical_unsigned()?;
                if self.canonical_unsigned()? >= NANOS_PER_SECOND {
                    return self.error("a second of too many nanoseconds");
                }
                self.canonical_signed_32()?;
            }
            14 => drop(self.take(16)?),
            15 => {
                // A count from outside costs nothing: every value takes a byte at least, so the bytes end first.
                for _ in 0..self.canonical_unsigned()? {
                    self.check(depth + 1)?;
                }
            }
            16 => {
                let mut names = Vec::new();
                for _ in 0..self.canonical_unsigned()? {
                    let name = self.canonical_run()?;
                    self.utf8(name)?;
                    names.push(name);
                    self.check(depth + 1)?;
                }
                names.sort_unstable();
                if names.windows(2).any(|two| two[0] == two[1]) {
                    return self.error("two members of one name");
                }
            }
            17 | 18 => {
                self.take(32)?;
                self.canonical_unsigned()?;
            }
            tag if tag >= 128 => {
                let bytes = self.take(u64::from(tag & 0x7f))?;
                self.utf8(bytes)?;
            }
            _ => return self.error("unknown tag"),
        }
        Ok(())
    }

    fn utf8(&self, bytes: &[u8]) -> Result<(), RowError> {
        if std::str::from_utf8(bytes).is_err() { self.error("text is not UTF-8") } else { Ok(()) }
    }

    /// Printing a number takes time by the square of its digits: none has more than can be read.
    fn digits(&self, bytes: &[u8]) -> Result<(), RowError> {
        let too_many = match bytes.len() {
            0..=NUMBER_BYTES_SURE => false,
            NUMBER_BYTES_MAX => *BigInt::from_signed_bytes_be(bytes).magnitude() >= *TOO_MANY_DIGITS,
            _ => true,
        };
        if too_many { self.error("a number of too many digits") } else { Ok(()) }
    }

    /// A number without superfluous zeros.
    fn canonical_unsigned(&mut self) -> Result<u64, RowError> {
        let start = self.at;
        let value = self.unsigned()?;
        if self.at - start > 1 && self.bytes[self.at - 1] == 0 { self.error(NOT_CANONICAL) } else { Ok(value) }
    }

    fn canonical_signed_32(&mut self) -> Result<(), RowError> {
        // Zigzag maps 32 bits to 32 bits.
        if self.canonical_unsigned()? > u32::MAX.into() { self.error("number too large") } else { Ok(()) }
    }

    fn canonical_run(&mut self) -> Result<&'a [u8], RowError> {
        let length = self.canonical_unsigned()?;
        self.take(length)
    }

    /// Steps over one value without building it.
    fn skip(&mut self) -> Result<(), RowError> {
        let tag = self.byte()?;
        match tag {
            0..=3 => {}
            4 | 10 | 11 => drop(self.unsigned()?),
            5 | 8 | 9 => drop(self.run()?),
            6 => {
                self.unsigned()?;
                self.run()?;
            }
            7 => drop(self.take(8)?),
            12 => {
                self.unsigned()?;
                self.unsigned()?;
            }
            13 => {
                self.unsigned()?;
                self.unsigned()?;
                self.unsigned()?;
            }
            14 => drop(self.take(16)?),
            15 => {
                for _ in 0..self.unsigned()? {
                    self.skip()?;
                }
            }
            16 => {
                for _ in 0..self.unsigned()? {
                    self.run()?;
                    self.skip()?;
                }
            }
            17 | 18 => {
                self.take(32)?;
                self.unsigned()?;
            }
            tag if tag >= 128 => drop(self.take(u64::from(tag & 0x7f))?),
            _ => return self.error("unknown tag"),
        }
        Ok(())
    }
}
