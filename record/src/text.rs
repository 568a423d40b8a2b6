//! Canonical text of every value, and back.
//!
//! | kind | text |
//! |---|---|
//! | bool | `true`, `false` |
//! | integer | digits, `-` before |
//! | decimal | digits with as many behind the point as its scale says; `12E+3` for a negative scale |
//! | float | shortest that reads back; `NaN`, `Infinity`, `-Infinity` |
//! | bytes | base64 (RFC 4648, padded) |
//! | date, time, date_time, instant | `2026-11-23`, `06:25:00.5`, `2026-11-23T06:25:00`, `2026-11-23T06:25:00+02:00` or `Z` |
//! | uuid | `123e4567-e89b-12d3-a456-426614174000` |
//! | list, map | JSON; see [`crate::json`] for kinds that JSON lacks |
//! | large | `large:text:<BLAKE3>:<bytes>`, `large:bytes:…` |

use std::fmt::Write as _;

use num_bigint::BigInt;

use crate::json;
use crate::value::{Date, Decimal, Instant, Kind, Large, Time, Value};

/// Values are shown to people up to this many characters.
pub const DISPLAY_CHARS: usize = 80;

/// Decimals with more digits than this behind an exponent aren't parsed: writing them out would fill the memory.
const EXPONENT_MAX: i32 = 1_000_000;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_DAY: u64 = 86_400 * NANOS_PER_SECOND;

/// The canonical text of a value; `None` for absent and null, which have none.
pub fn to_text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Absent | Value::Null => return None,
        Value::Bool(bool) => bool.to_string(),
        Value::Integer(integer) => integer.to_string(),
        Value::BigInteger(integer) => integer.to_string(),
        Value::Decimal(decimal) => decimal_text(decimal),
        Value::Float(float) => float_text(*float),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => base64_text(bytes),
        Value::Date(date) => date_text(*date),
        Value::Time(time) => time_text(*time),
        Value::DateTime(date, time) => format!("{}T{}", date_text(*date), time_text(*time)),
        Value::Instant(instant) => instant_text(instant),
        Value::Uuid(uuid) => uuid_text(uuid),
        Value::List(_) | Value::Map(_) => json::write(value),
        Value::Large(large) => {
            let kind = if large.text { "text" } else { "bytes" };
            format!("large:{kind}:{}:{}", hex(&large.hash), large.length)
        }
    })
}

/// The value of `kind` whose canonical text, or a usual variant of it, is `text`.
pub fn parse(text: &str, kind: Kind) -> Option<Value> {
    match kind {
        Kind::Absent | Kind::Null => None,
        Kind::Bool => match text {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        },
        Kind::Integer => parse_integer(text).map(Value::integer),
        Kind::Decimal => parse_decimal(text).map(|decimal| Value::Decimal(Box::new(decimal))),
        Kind::Float => parse_float(text).map(Value::Float),
        Kind::Text => Some(Value::text(text)),
        Kind::Bytes => parse_base64(text).map(Value::Bytes),
        Kind::Date => parse_date(text).map(Value::Date),
        Kind::Time => parse_time(text).map(Value::Time),
        Kind::DateTime => {
            let (date, time) = text.split_once(['T', ' '])?;
            Some(Value::DateTime(parse_date(date)?, parse_time(time)?))
        }
        Kind::Instant => parse_instant(text).map(Value::Instant),
        Kind::Uuid => parse_uuid(text).map(Value::Uuid),
        Kind::List | Kind::Map => json::read(text).ok().filter(|value| value.kind() == kind),
        Kind::Large => parse_large(text).map(|large| Value::Large(Box::new(large))),
    }
}

/// A value for people: text in quotes, long values cut.
pub fn display(value: &Value) -> String {
    let text = match value {
        Value::Absent => return "(absent)".into(),
        Value::Null => return "null".into(),
        Value::Text(text) => json::quoted(text),
        Value::Bytes(bytes) => {
            format!("{} bytes {}", bytes.len(), base64_text(&bytes[..bytes.len().min(DISPLAY_CHARS)]))
        }
        Value::Large(large) => {
            let kind = if large.text { "text" } else { "bytes" };
            format!("large {kind} of {} bytes, {}", large.length, &hex(&large.hash)[..16])
        }
        value => to_text(value).unwrap_or_default(),
    };
    match text.char_indices().nth(DISPLAY_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn decimal_text(decimal: &Decimal) -> String {
    if decimal.scale <= 0 {
        return format!("{}E+{}", decimal.unscaled, -i64::from(decimal.scale));
    }
    let scale = decimal.scale as usize;
    let digits = decimal.unscaled.magnitude().to_string();
    if scale > EXPONENT_MAX as usize {
        return format!("{}E-{scale}", decimal.unscaled);
    }
    let sign = if decimal.unscaled.sign() == num_bigint::Sign::Minus { "-" } else { "" };
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_integer(text: &str) -> Option<BigInt> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits_only(digits) {
        return None;
    }
    text.parse().ok()
}

/// Exact: every digit written counts, trailing zeros too.
pub fn parse_decimal(text: &str) -> Option<Decimal> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if !digits_only(digits) {
                return None;
            }
            (number, exponent.strip_prefix('+').unwrap_or(exponent).parse::<i64>().ok()?)
        }
        None => (text, 0),
    };
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !digits_only(whole) || !(fraction.is_empty() || digits_only(fraction)) || number.ends_with('.') {
        return None;
    }
    let scale = i32::try_from(fraction.len() as i64 - exponent).ok()?;
    let unscaled: BigInt = format!("{whole}{fraction}").parse().ok()?;
    Some(Decimal { unscaled: if negative { -unscaled } else { unscaled }, scale })
}

fn float_text(float: f64) -> String {
    if float.is_nan() {
        "NaN".into()
    } else if float.is_infinite() {
        if float > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        // Debug is the shortest form that reads back, with `.0` or an exponent that tells it from an integer.
        format!("{float:?}")
    }
}

fn parse_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
            if plain { text.parse().ok() } else { None }
        }
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let index = (bits >> (18 - 6 * i)) as usize & 63;
            text.push(if i <= group.len() { char::from(BASE64[index]) } else { '=' });
        }
    }
    text
}

fn parse_base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let groups = text.as_bytes().chunks(4);
    let last = groups.len();
    for (i, group) in groups.enumerate() {
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && i + 1 != last) {
            return None;
        }
        let mut bits = 0u32;
        for byte in &group[..4 - padding] {
            bits = bits << 6 | BASE64.iter().position(|known| known == byte)? as u32;
        }
        bits <<= 6 * padding as u32;
        let triple = bits.to_be_bytes();
        // Bits beyond the last byte must be zero: one value, one text.
        if triple[4 - padding..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&triple[1..4 - padding]);
    }
    Some(bytes)
}

/// Year, month and day of a date (proleptic Gregorian; after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn civil(date: Date) -> (i64, u32, u32) {
    let z = i64::from(date.0) + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The date of a year, month and day; `None` if there is no such day.
pub fn date_of(year: i64, month: u32, day: u32) -> Option<Date> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year.abs() > 10_000_000 {
        return None;
    }
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let day_of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let date = Date(i32::try_from(era * 146_097 + day_of_era - 719_468).ok()?);
    // The 31st of a month with 30 days comes back as another day.
    (civil(date) == (year, month, day)).then_some(date)
}

fn date_text(date: Date) -> String {
    let (year, month, day) = civil(date);
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:+05}-{month:02}-{day:02}"),
    }
}

fn parse_date(text: &str) -> Option<Date> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let mut parts = digits.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() < 4 || month.len() != 2 || day.len() != 2 {
        return None;
    }
    if ![year, month, day].into_iter().all(digits_only) {
        return None;
    }
    date_of(sign * year.parse::<i64>().ok()?, month.parse().ok()?, day.parse().ok()?)
}

fn time_text(time: Time) -> String {
    let seconds = time.0 / NANOS_PER_SECOND;
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    put_fraction(&mut text, time.0 % NANOS_PER_SECOND);
    text
}

fn put_fraction(text: &mut String, nanos: u64) {
    if nanos > 0 {
        let digits = format!("{nanos:09}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
}

fn parse_time(text: &str) -> Option<Time> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':');
    let (hours, minutes) = (parts.next()?, parts.next()?);
    let seconds = parts.next().unwrap_or("00");
    if parts.next().is_some() || ![hours, minutes, seconds].iter().all(|part| part.len() == 2 && digits_only(part)) {
        return None;
    }
    if fraction.len() > 9 || !(fraction.is_empty() || digits_only(fraction)) || text.ends_with('.') {
        return None;
    }
    let (hours, minutes, seconds): (u64, u64, u64) =
        (hours.parse().ok()?, minutes.parse().ok()?, seconds.parse().ok()?);
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    let time = ((hours * 60 + minutes) * 60 + seconds) * NANOS_PER_SECOND + nanos;
    (minutes < 60 && seconds < 60 && time <= NANOS_PER_DAY).then_some(Time(time))
}

fn instant_text(instant: &Instant) -> String {
    let local = instant.seconds.saturating_add(instant.offset_seconds.into());
    let days = local.div_euclid(86_400);
    let Ok(days) = i32::try_from(days) else {
        // Beyond all calendars: the parts themselves.
        return format!("@{}.{:09}{:+}", instant.seconds, instant.nanos, instant.offset_seconds);
    };
    if instant.nanos >= NANOS_PER_SECOND as u32 || instant.offset_seconds.abs() >= 86_400 || date_limits(days) {
        return format!("@{}.{:09}{:+}", instant.seconds, instant.nanos, instant.offset_seconds);
    }
    let of_day = local.rem_euclid(86_400) as u64 * NANOS_PER_SECOND + u64::from(instant.nanos);
    let mut text = format!("{}T{}", date_text(Date(days)), time_text(Time(of_day)));
    match instant.offset_seconds {
        0 => text.push('Z'),
        offset => {
            let sign = if offset < 0 { '-' } else { '+' };
            let offset = offset.abs();
            let _ = write!(text, "{sign}{:02}:{:02}", offset / 3600, offset / 60 % 60);
            if offset % 60 != 0 {
                let _ = write!(text, ":{:02}", offset % 60);
            }
        }
    }
    text
}

/// Whether a day is so far away that its year isn't parsed.
fn date_limits(days: i32) -> bool {
    civil(Date(days)).0.abs() > 9_999_999
}

fn parse_instant(text: &str) -> Option<Instant> {
    if let Some(parts) = text.strip_prefix('@') {
        let (seconds, rest) = parts.split_once('.')?;
        let at = rest.find(['+', '-'])?;
        return Some(Instant {
            seconds: seconds.parse().ok()?,
            nanos: rest[..at].parse().ok()?,
            offset_seconds: rest[at..].parse().ok()?,
        });
    }
    let (date, rest) = text.split_once(['T', ' '])?;
    let (clock, offset) = match rest.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let sign = if rest.as_bytes()[at] == b'-' { -1 } else { 1 };
            let offset = parse_time(&rest[at + 1..]).filter(|time| time.0 % NANOS_PER_SECOND == 0)?;
            (&rest[..at], sign * (offset.0 / NANOS_PER_SECOND) as i32)
        }
    };
    let (date, time) = (parse_date(date)?, parse_time(clock)?);
    let seconds = i64::from(date.0) * 86_400 + (time.0 / NANOS_PER_SECOND) as i64 - i64::from(offset);
    Some(Instant { seconds, nanos: (time.0 % NANOS_PER_SECOND) as u32, offset_seconds: offset })
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits = hex(uuid);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let dashes = text.bytes().enumerate().all(|(i, byte)| (byte == b'-') == matches!(i, 8 | 13 | 18 | 23));
    if text.len() != 36 || !dashes {
        return None;
    }
    unhex(&text.replace('-', ""))?.try_into().ok()
}

fn parse_large(text: &str) -> Option<Large> {
    let mut parts = text.strip_prefix("large:")?.split(':');
    let text = match parts.next()? {
        "text" => true,
        "bytes" => false,
        _ => return None,
    };
    let hash = unhex(parts.next()?)?.try_into().ok()?;
    let length = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(Large { hash, length, text })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}
