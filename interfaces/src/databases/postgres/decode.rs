//! Rows of `COPY … (FORMAT binary)` as rows of the universal format.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html>; the values are as each type's `…_send` function writes them.

use deltabus_record::row::RowBuilder;
use deltabus_record::text;
use deltabus_record::value::{Date, Decimal, Instant, Time, Value};
use num_bigint::BigInt;

use super::types::{DIMENSIONS_MAX, Form, shortest};

/// Days from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
pub(super) const EPOCH_DAYS: i32 = 10_957;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Decimal digits in one of `numeric`'s own.
const DIGITS_EACH: i64 = 4;
const DIGIT_MAX: u16 = 9_999;

/// Appends the fields of one row, each in its form; the error names the field that isn't.
pub(super) fn row(bytes: &[u8], forms: &[Form], out: &mut RowBuilder) -> Result<(), usize> {
    let mut reader = Reader { rest: bytes };
    let count = reader.i16().ok_or(0_usize)?;
    if usize::try_from(count) != Ok(forms.len()) {
        return Err(0);
    }
    for (at, form) in forms.iter().enumerate() {
        let length = reader.i32().ok_or(at)?;
        if length < 0 {
            out.push(&Value::Null);
            continue;
        }
        let bytes = reader.take(length as usize).ok_or(at)?;
        field(bytes, form, out).ok_or(at)?;
    }
    Ok(())
}

fn field(bytes: &[u8], form: &Form, out: &mut RowBuilder) -> Option<()> {
    match form {
        Form::Int2 => out.push_integer(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Form::Int4 => out.push_integer(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Form::Int8 => out.push_integer(i64::from_be_bytes(bytes.try_into().ok()?)),
        Form::Oid => out.push_integer(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        Form::Text | Form::Char(_) | Form::VarChar(_) | Form::Name | Form::Json | Form::Printed(_) => {
            out.push_text(std::str::from_utf8(bytes).ok()?);
        }
        Form::Jsonb => {
            let [1, text @ ..] = bytes else { return None };
            out.push_text(std::str::from_utf8(text).ok()?);
        }
        form => out.push(&value(bytes, form)?),
    }
    Some(())
}

fn value(bytes: &[u8], form: &Form) -> Option<Value> {
    Some(match form {
        Form::Bool => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return None,
        },
        Form::Int2 => Value::Integer(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Form::Int4 => Value::Integer(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Form::Int8 => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
        Form::Oid => Value::Integer(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        Form::Float4 => Value::Float(shortest(f32::from_be_bytes(bytes.try_into().ok()?))),
        Form::Float8 => Value::Float(f64::from_be_bytes(bytes.try_into().ok()?)),
        Form::Numeric(_) => numeric(bytes)?,
        Form::Text | Form::Char(_) | Form::VarChar(_) | Form::Name | Form::Json | Form::Printed(_) => {
            Value::text(std::str::from_utf8(bytes).ok()?)
        }
        Form::Jsonb => {
            let [1, text @ ..] = bytes else { return None };
            Value::text(std::str::from_utf8(text).ok()?)
        }
        Form::Bytea => Value::Bytes(bytes.to_vec()),
        Form::Date => match i32::from_be_bytes(bytes.try_into().ok()?) {
            i32::MAX => Value::text("infinity"),
            i32::MIN => Value::text("-infinity"),
            days => Value::Date(Date(days.checked_add(EPOCH_DAYS)?)),
        },
        Form::Time(_) => {
            let micros = u64::try_from(i64::from_be_bytes(bytes.try_into().ok()?)).ok()?;
            Value::Time(Time(micros.checked_mul(1_000)?))
        }
        Form::Timestamp(_) => match seconds(bytes)? {
            Moment::At { seconds, micros } => {
                let days = i32::try_from(seconds.div_euclid(SECONDS_PER_DAY)).ok()?;
                let nanos = seconds.rem_euclid(SECONDS_PER_DAY) * 1_000_000_000 + micros * 1_000;
                Value::DateTime(Date(days), Time(nanos as u64))
            }
            Moment::Never(text) => Value::text(text),
        },
        Form::Timestamptz(_) => match seconds(bytes)? {
            Moment::At { seconds, micros } => {
                Value::Instant(Instant { seconds, nanos: micros as u32 * 1_000, offset_seconds: 0 })
            }
            Moment::Never(text) => Value::text(text),
        },
        Form::Uuid => Value::Uuid(bytes.try_into().ok()?),
        Form::Array(element) => array(bytes, element)?,
    })
}

enum Moment {
    /// Seconds since 1970, and the microseconds within.
    At {
        seconds: i64,
        micros: i64,
    },
    Never(&'static str),
}

fn seconds(bytes: &[u8]) -> Option<Moment> {
    Some(match i64::from_be_bytes(bytes.try_into().ok()?) {
        i64::MAX => Moment::Never("infinity"),
        i64::MIN => Moment::Never("-infinity"),
        micros => Moment::At {
            seconds: micros.div_euclid(MICROS_PER_SECOND) + i64::from(EPOCH_DAYS) * SECONDS_PER_DAY,
            micros: micros.rem_euclid(MICROS_PER_SECOND),
        },
    })
}

/// As `numeric_send` writes it: count, weight, sign and scale, then digits of base 10,000.
fn numeric(bytes: &[u8]) -> Option<Value> {
    let mut reader = Reader { rest: bytes };
    let count = usize::try_from(reader.i16()?).ok()?;
    let weight = i64::from(reader.i16()?);
    let sign = reader.i16()? as u16;
    let scale = reader.i16()? as u16;
    let negative = match sign {
        0x0000 => false,
        0x4000 => true,
        0xc000 => return Some(Value::Float(f64::NAN)),
        0xd000 => return Some(Value::Float(f64::INFINITY)),
        0xf000 => return Some(Value::Float(f64::NEG_INFINITY)),
        _ => return None,
    };
    let digits = reader.take(count.checked_mul(2)?)?;
    let digits = digits.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    if digits.clone().any(|digit| digit > DIGIT_MAX) {
        return None;
    }
    // The value is all digits as one integer, times 10,000 to the power of `weight - count + 1`.
    let behind = DIGITS_EACH * (count as i64 - 1 - weight);
    let more = i64::from(scale) - behind;
    let unscaled = if count <= 4 && (-3..=0).contains(&more) {
        let whole = digits.fold(0_u64, |whole, digit| whole * 10_000 + u64::from(digit));
        BigInt::from(whole / 10_u64.pow((-more) as u32))
    } else if count <= 4 && (0..=3).contains(&more) {
        let whole = digits.fold(0_u64, |whole, digit| whole * 10_000 + u64::from(digit));
        BigInt::from(u128::from(whole) * 10_u128.pow(more as u32))
    } else if count == 0 {
        BigInt::default()
    } else {
        let mut decimal = String::with_capacity(count * 4 + 8);
        for digit in digits {
            decimal.push_str(&format!("{digit:04}"));
        }
        // PostgreSQL's own have no more: <https://www.postgresql.org/docs/current/datatype-numeric.html>.
        if decimal.len() as i64 + more > text::DIGITS_MAX as i64 {
            return None;
        }
        match more {
            0.. => decimal.extend(std::iter::repeat_n('0', usize::try_from(more).ok()?)),
            // Zeros beyond the scale: four digits at a time are sent.
            _ => decimal.truncate(decimal.len().checked_sub(usize::try_from(-more).ok()?)?),
        }
        decimal.parse().ok()?
    };
    let unscaled = if negative { -unscaled } else { unscaled };
    Some(Value::Decimal(Box::new(Decimal { unscaled, scale: scale.into() })))
}

/// As `array_send` writes it: dimensions, whether there are nulls, the element's type, length and first index of each
/// dimension, then the elements.
fn array(bytes: &[u8], element: &Form) -> Option<Value> {
    let mut reader = Reader { rest: bytes };
    let dimensions = usize::try_from(reader.i32()?).ok().filter(|dimensions| *dimensions <= DIMENSIONS_MAX)?;
    let _nulls = reader.i32()?;
    let _element = reader.i32()?;
    let mut lengths = Vec::with_capacity(dimensions);
    let mut bounds = String::new();
    let mut moved = false;
    for _ in 0..dimensions {
        // No dimension is empty: of lists of nothing, there could be any number in no bytes at all.
        let length = usize::try_from(reader.i32()?).ok().filter(|length| *length > 0)?;
        let low = reader.i32()?;
        moved |= low != 1;
        bounds.push_str(&format!("[{low}:{}]", i64::from(low) + length as i64 - 1));
        lengths.push(length);
    }
    if lengths.is_empty() {
        return Some(Value::List(Vec::new()));
    }
    let list = elements(&mut reader, &lengths, element)?;
    if !moved {
        return Some(Value::List(list));
    }
    let mut out = bounds;
    out.push('=');
    super::array::write(&mut out, &list, &mut |out, value| super::encode::put(out, value, element)).ok()?;
    Some(Value::Text(out))
}

fn elements(reader: &mut Reader<'_>, lengths: &[usize], form: &Form) -> Option<Vec<Value>> {
    let (length, inner) = lengths.split_first()?;
    // Each takes four bytes at least, so a length from outside reserves nothing.
    let mut values = Vec::with_capacity((*length).min(reader.rest.len() / 4 + 1));
    for _ in 0..*length {
        if !inner.is_empty() {
            values.push(Value::List(elements(reader, inner, form)?));
            continue;
        }
        values.push(match reader.i32()? {
            bytes @ 0.. => value(reader.take(bytes as usize)?, form)?,
            _ => Value::Null,
        });
    }
    Some(values)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }
}

/// The number's text, as PostgreSQL would read it.
pub(super) fn decimal_text(decimal: &Decimal) -> String {
    text::to_text(&Value::Decimal(Box::new(decimal.clone()))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// Two thousand million empty lists take no bytes at all.
    #[test]
    fn an_array_of_an_empty_dimension_is_none() {
        let array = |lengths: &[i32]| {
            let mut longs = vec![lengths.len() as i32, 0, 23];
            lengths.iter().for_each(|length| longs.extend([*length, 1]));
            let bytes: Vec<u8> = longs.iter().flat_map(|long| long.to_be_bytes()).collect();
            value(&bytes, &Form::Array(Box::new(Form::Int4)))
        };
        assert_eq!(array(&[]), Some(Value::List(Vec::new())));
        for lengths in [&[0][..], &[i32::MAX, 0], &[i32::MAX, i32::MAX, 0], &[-1], &[i32::MAX]] {
            assert_eq!(array(lengths), None, "{lengths:?}");
        }
    }

    /// The longest that can be said would be several times longer than any that PostgreSQL keeps.
    #[test]
    fn a_numeric_beyond_all_limits_is_none() {
        let one = words(&[1, 0, 0, 0, 1]);
        assert_eq!(numeric(&one), text::parse("1", deltabus_record::value::Kind::Decimal));
        let far = words(&[1, 32_767, 0, 16_383, 1]);
        assert!(matches!(numeric(&far), Some(Value::Decimal(_))));
        let farther = words(&[1, 32_767, 0, 65_535, 1]);
        assert_eq!(numeric(&farther), None);
        // A digit of base 10,000 is at most 9,999.
        assert_eq!(numeric(&words(&[1, 0, 0, 0, 10_000])), None);
    }
}
