//! Values as the text that PostgreSQL reads, for parameters and for `COPY` in its text format.

use std::fmt::Write;

use deltabus_record::row::FieldRef;
use deltabus_record::text;
use deltabus_record::value::{Date, Kind, Time, Value};

use super::array;
use super::decode::decimal_text;
use super::types::{Form, refuse};
use crate::Refusal;

const SECONDS_PER_DAY: i64 = 86_400;

/// Appends a projected value's text to `out`; `false` for null.
pub(super) fn put_field(out: &mut String, field: FieldRef<'_>, form: &Form) -> Result<bool, Refusal> {
    if let Some(text) = field.text() {
        // The server would take the text to end there.
        if text.contains('\0') {
            return Err(refuse("PostgreSQL's text can't hold the character NUL"));
        }
        out.push_str(text);
        return Ok(true);
    }
    if matches!(field.kind(), Kind::Absent | Kind::Null) {
        return Ok(false);
    }
    put(out, &field.value(), form)?;
    Ok(true)
}

/// Appends the text of a value that is not null.
pub(super) fn put(out: &mut String, value: &Value, form: &Form) -> Result<(), Refusal> {
    match (value, form) {
        (Value::Text(text), _) => out.push_str(text),
        (Value::Bool(bool), _) => out.push(if *bool { 't' } else { 'f' }),
        (Value::Integer(integer), _) => append(out, format_args!("{integer}")),
        (Value::BigInteger(integer), _) => append(out, format_args!("{integer}")),
        (Value::Decimal(decimal), _) => out.push_str(&decimal_text(decimal)),
        (Value::Bytes(bytes), _) => {
            out.push_str("\\x");
            bytes.iter().for_each(|byte| {
                out.push(HEX[usize::from(byte >> 4)].into());
                out.push(HEX[usize::from(byte & 15)].into());
            });
        }
        (Value::Date(date), _) => put_date(out, *date, ""),
        (Value::DateTime(date, time), _) => {
            let mut clock = String::from(" ");
            clock.push_str(&clock_text(*time));
            put_date(out, *date, &clock);
        }
        (Value::Instant(instant), _) => {
            let days = instant.seconds.div_euclid(SECONDS_PER_DAY);
            let seconds = instant.seconds.rem_euclid(SECONDS_PER_DAY) as u64;
            let time = Time(seconds * 1_000_000_000 + u64::from(instant.nanos));
            let date = Date(i32::try_from(days).map_err(|_| refuse("the instant is beyond those of PostgreSQL"))?);
            put_date(out, date, &format!(" {}+00", clock_text(time)));
        }
        (Value::List(values), Form::Array(element)) => {
            array::write(out, values, &mut |out, value| put(out, value, element))?;
        }
        (Value::Float(_) | Value::Time(_) | Value::Uuid(_), _) => {
            out.push_str(&text::to_text(value).unwrap_or_default())
        }
        _ => return Err(refuse(format!("PostgreSQL has no {}; it must be projected first", value.kind().name()))),
    }
    Ok(())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn append(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = out.write_fmt(arguments);
}

fn clock_text(time: Time) -> String {
    text::to_text(&Value::Time(time)).unwrap_or_default()
}

/// Years before the first are counted from 1 BC.
fn put_date(out: &mut String, date: Date, rest: &str) {
    let written = text::to_text(&Value::Date(date)).unwrap_or_default();
    // `-0044-03-15`, `+12345-01-01`: the year with its sign, then month and day.
    let (sign, digits) = match written.as_bytes().first() {
        Some(b'-') => (-1, &written[1..]),
        Some(b'+') => (1, &written[1..]),
        _ => (1, written.as_str()),
    };
    let (year, day) = digits.split_once('-').unwrap_or((digits, ""));
    let year = sign * year.parse::<i64>().unwrap_or_default();
    match year > 0 {
        true => append(out, format_args!("{year:04}-{day}{rest}")),
        false => append(out, format_args!("{:04}-{day}{rest} BC", 1 - year)),
    }
}

/// Appends a text as a field of `COPY`'s text format.
pub(super) fn put_copied(out: &mut Vec<u8>, text: &str) {
    let mut done = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[done..at]);
        out.extend_from_slice(escape);
        done = at + 1;
    }
    out.extend_from_slice(&text.as_bytes()[done..]);
}
