//! The canonical text of every value, and back.
//!
//! | kind | text |
//! |---|---|
//! | bool | `true`, `false` |
//! | integer | `-12` |
//! | decimal | `1.00`; `1E+3`, `1.2E-9` where the point would stand far away |
//! | float | the shortest digits that give the same number: `1.0`, `1e300`, `NaN`, `Infinity`, `-Infinity` |
//! | text | itself |
//! | bytes | base64 (RFC 4648, padded) |
//! | date, time, date_time | `2024-02-29`, `23:59:59.5`, `2024-02-29T23:59:59.5`; years beyond four digits with their sign |
//! | instant | `2024-02-29T23:59:59+02:00`, `Z` for no offset |
//! | uuid | lower-case hexadecimal with hyphens |
//! | list, map | JSON ([`crate::json`]) |
//! | large | `large:text:HASH:LENGTH`, `large:bytes:HASH:LENGTH` |
//!
//! Absent and null have no text. The text alone doesn't tell the kind; together they give the very same value back:
//!
//! ```
//! use deltabus_record::text::{parse, to_text};
//! use deltabus_record::value::{Date, Value};
//!
//! let value = Value::Date(Date(19_782));
//! let text = to_text(&value).unwrap();
//! assert_eq!(text, "2024-02-29");
//! assert_eq!(parse(&text, value.kind()), Some(value));
//! ```

use num_bigint::BigInt;

use crate::value::{Decimal, Kind, Large, Value};
use crate::{base64, calendar, json};

/// How many digits a number may have to be read, about as many as PostgreSQL's `numeric` has: reading takes time by the
/// square of the digits.
pub const DIGITS_MAX: usize = 150_000;

/// How many characters of a value [`display`] shows.
pub const DISPLAY_CHARS_MAX: usize = 120;

/// A decimal below 1 has at most this many zeros behind the point before it is written with an exponent.
const LEADING_ZEROS_MAX: i64 = 6;

/// The canonical text of `value`; `None` for absent and null.
pub fn to_text(value: &Value) -> Option<String> {
    let mut out = String::new();
    match value {
        Value::Absent | Value::Null => return None,
        Value::Text(text) => out.clone_from(text),
        Value::Bool(bool) => out = bool.to_string(),
        Value::Integer(integer) => out = integer.to_string(),
        Value::BigInteger(integer) => out = integer.to_string(),
        Value::Decimal(decimal) => out = decimal_text(decimal),
        Value::Float(float) => out = float_text(*float),
        Value::Bytes(bytes) => out = base64::encode(bytes),
        Value::Date(date) => calendar::write_date(&mut out, *date),
        Value::Time(time) => calendar::write_time(&mut out, *time),
        Value::DateTime(date, time) => calendar::write_date_time(&mut out, *date, *time),
        Value::Instant(instant) => calendar::write_instant(&mut out, *instant),
        Value::Uuid(uuid) => out = uuid_text(uuid),
        Value::List(_) | Value::Map(_) => out = json::write(value),
        Value::Large(large) => out = large_text(large),
    }
    Some(out)
}

/// The value of `kind` that `text` says; `None` if it says none.
///
/// The canonical text is always read. Besides: numbers with zeros in front, floats and decimals in any spelling of plain
/// digits with a point and an exponent, times without seconds or with zeros at the end, a space for the `T`, `z` and
/// `+00:00` for the `Z`, upper-case UUIDs, JSON with spaces. Numbers of more than [`DIGITS_MAX`] digits are not read.
pub fn parse(text: &str, kind: Kind) -> Option<Value> {
    match kind {
        Kind::Absent | Kind::Null => None,
        Kind::Bool => match text {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        },
        Kind::Integer => parse_integer(text),
        Kind::Decimal => parse_decimal(text).map(|decimal| Value::Decimal(Box::new(decimal))),
        Kind::Float => parse_float(text).map(Value::Float),
        Kind::Text => Some(Value::text(text)),
        Kind::Bytes => base64::decode(text).map(Value::Bytes),
        Kind::Date => calendar::parse_date(text).map(Value::Date),
        Kind::Time => calendar::parse_time(text).map(Value::Time),
        Kind::DateTime => calendar::parse_date_time(text).map(|(date, time)| Value::DateTime(date, time)),
        Kind::Instant => calendar::parse_instant(text).map(Value::Instant),
        Kind::Uuid => parse_uuid(text).map(Value::Uuid),
        Kind::List | Kind::Map => json::read(text).ok().filter(|value| value.kind() == kind),
        Kind::Large => parse_large(text).map(|large| Value::Large(Box::new(large))),
    }
}

/// The value for people to read: text in quotes, long values cut with `…`.
pub fn display(value: &Value) -> String {
    match value {
        Value::Absent => "(absent)".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Text(text) => {
            let mut out = String::from('"');
            for (i, char) in text.chars().enumerate() {
                match char {
                    _ if i == DISPLAY_CHARS_MAX => {
                        out.push('…');
                        break;
                    }
                    '"' | '\\' => out.extend(['\\', char]),
                    _ => push_printable(&mut out, char),
                }
            }
            out.push('"');
            out
        }
        Value::Bytes(bytes) => {
            let shown = &bytes[..bytes.len().min(DISPLAY_CHARS_MAX / 4)];
            let dots = if shown.len() < bytes.len() { "…" } else { "" };
            format!("{} bytes <{}{dots}>", bytes.len(), base64::encode(shown))
        }
        Value::Large(large) => {
            format!("large {} of {} bytes", if large.text { "text" } else { "value" }, large.length)
        }
        _ => {
            let text = to_text(value).unwrap_or_default();
            let mut out = String::with_capacity(text.len().min(DISPLAY_CHARS_MAX + 4));
            text.chars().take(DISPLAY_CHARS_MAX).for_each(|char| push_printable(&mut out, char));
            if text.chars().nth(DISPLAY_CHARS_MAX).is_some() {
                out.push('…');
            }
            out
        }
    }
}

/// Text for people, as names and messages that come from elsewhere: what a terminal would obey is escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|char| push_printable(&mut out, char));
    out
}

/// Whether a terminal would do something else with a character than show it where it stands: controls, line ends among them,
/// and the characters that turn the direction of what follows (Unicode Technical Report 36, 2.1).
pub fn is_obeyed(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends a character; one that would garble a terminal is escaped.
pub(crate) fn push_printable(out: &mut String, char: char) {
    if is_obeyed(char) { out.extend(char.escape_default()) } else { out.push(char) }
}

/// As Java's `BigDecimal.toString`, which keeps the scale and gives every decimal a text of its own.
pub(crate) fn decimal_text(decimal: &Decimal) -> String {
    let digits = decimal.unscaled.magnitude().to_string();
    let sign = if decimal.unscaled.sign() == num_bigint::Sign::Minus { "-" } else { "" };
    let scale = i64::from(decimal.scale);
    let exponent = digits.len() as i64 - 1 - scale;
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    if scale > 0 && exponent >= -LEADING_ZEROS_MAX {
        let scale = scale as usize;
        return match digits.len().checked_sub(scale) {
            Some(point @ 1..) => format!("{sign}{}.{}", &digits[..point], &digits[point..]),
            // Not by a width: those of the standard library end at 65,535.
            _ => format!("{sign}0.{}{digits}", "0".repeat(scale - digits.len())),
        };
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    format!("{sign}{first}{point}{rest}E{exponent:+}")
}

fn float_text(float: f64) -> String {
    if float.is_nan() {
        "NaN".to_owned()
    } else if float.is_infinite() {
        if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        // The shortest digits that read back as the same number, with `.0` or an exponent.
        format!("{float:?}")
    }
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        push_hex(&mut out, *byte);
    }
    out
}

fn large_text(large: &Large) -> String {
    let mut hash = String::with_capacity(64);
    for byte in large.hash {
        push_hex(&mut hash, byte);
    }
    format!("large:{}:{hash}:{}", if large.text { "text" } else { "bytes" }, large.length)
}

fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn parse_integer(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain {
        return None;
    }
    if let Ok(small) = text.parse() {
        return Some(Value::Integer(small));
    }
    let unsigned = parse_digits(digits)?;
    Some(Value::integer(if text.len() > digits.len() { -unsigned } else { unsigned }))
}

/// The number that digits say; zeros in front don't count.
fn parse_digits(digits: &str) -> Option<BigInt> {
    let digits = digits.trim_start_matches('0');
    match digits.len() {
        0 => Some(BigInt::default()),
        1..=DIGITS_MAX => digits.parse().ok(),
        _ => None,
    }
}

/// `-` digits `.` digits `E` exponent, all but the first digits optional.
struct Number<'a> {
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
    negative: bool,
}

impl<'a> Number<'a> {
    fn of(text: &'a str) -> Option<Number<'a>> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], Number::exponent(&rest[at + 1..])?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return None;
        }
        Some(Number { whole, fraction, exponent, negative })
    }

    fn exponent(text: &str) -> Option<i64> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        // Ten digits hold every scale of 32 bits and then some.
        let plain = matches!(digits.len(), 1..=11) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { text.parse().ok() } else { None }
    }
}

fn parse_decimal(text: &str) -> Option<Decimal> {
    let number = Number::of(text)?;
    let scale = i32::try_from(number.fraction.len() as i64 - number.exponent).ok()?;
    let digits = format!("{}{}", number.whole, number.fraction);
    let mut unscaled = parse_digits(&digits)?;
    if number.negative {
        unscaled = -unscaled;
    }
    Some(Decimal { unscaled, scale })
}

fn parse_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => {
            Number::of(text)?;
            // Digits that only infinity could stand for say another number.
            text.parse().ok().filter(|float: &f64| float.is_finite())
        }
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut digits = Vec::with_capacity(32);
    for (i, byte) in text.bytes().enumerate() {
        match i {
            8 | 13 | 18 | 23 if byte == b'-' => {}
            8 | 13 | 18 | 23 => return None,
            _ => digits.push(byte),
        }
    }
    parse_hex(&digits)
}

fn parse_large(text: &str) -> Option<Large> {
    let mut parts = text.strip_prefix("large:")?.split(':');
    let is_text = match parts.next()? {
        "text" => true,
        "bytes" => false,
        _ => return None,
    };
    let hash = parse_hex(parts.next()?.as_bytes())?;
    let length = parts.next()?;
    let length = length.parse().ok().filter(|number: &u64| number.to_string() == length)?;
    parts.next().is_none().then_some(Large { hash, length, text: is_text })
}

fn parse_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}
