//! Rows for `COPY … FROM STDIN (FORMAT binary)`, each value as its type's `…_recv` function reads it.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html>; the server reads dates, times and numbers several times faster
//! than from text.

use deltabus_record::row::FieldRef;
use deltabus_record::value::{Decimal, Kind, Value};
use num_bigint::Sign;

use super::decode::EPOCH_DAYS;
use super::types::{Form, refuse};
use crate::Refusal;

/// Signature, no flags, no extension.
pub(super) const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// In place of a row's count of fields.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

const DAY_MICROS: i64 = 86_400_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// Decimal digits in one of `numeric`'s own, and the number of these.
const DIGITS_EACH: u32 = 4;
const DIGIT_BASE: u128 = 10_000;

/// Whether values of this form can be sent so.
pub(super) fn is_possible(form: &Form) -> bool {
    !matches!(form, Form::Array(_) | Form::Printed(_))
}

/// Appends a projected value with its length in front.
pub(super) fn put_field(out: &mut Vec<u8>, field: FieldRef<'_>, form: &Form) -> Result<(), Refusal> {
    if matches!(field.kind(), Kind::Absent | Kind::Null) {
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(());
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    match field.text() {
        Some(text) => put_text(out, text, form),
        None => put_value(out, &field.value(), form),
    }
    .ok_or_else(|| {
        refuse(format!("no {} of type {} can be sent; it must be projected first", field.kind().name(), form.sql()))
    })?;
    let length = i32::try_from(out.len() - start - 4).map_err(|_| refuse("a value of 2 GiB or more can't be sent"))?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &str, form: &Form) -> Option<()> {
    match (form, text) {
        (Form::Date, "infinity") => out.extend_from_slice(&i32::MAX.to_be_bytes()),
        (Form::Date, "-infinity") => out.extend_from_slice(&i32::MIN.to_be_bytes()),
        (Form::Timestamp(_) | Form::Timestamptz(_), "infinity") => out.extend_from_slice(&i64::MAX.to_be_bytes()),
        (Form::Timestamp(_) | Form::Timestamptz(_), "-infinity") => out.extend_from_slice(&i64::MIN.to_be_bytes()),
        (Form::Text | Form::Char(_) | Form::VarChar(_) | Form::Name | Form::Json, text) if !text.contains('\0') => {
            out.extend_from_slice(text.as_bytes());
        }
        (Form::Jsonb, text) => {
            // The form's version.
            out.push(1);
            out.extend_from_slice(text.as_bytes());
        }
        _ => return None,
    }
    Some(())
}

fn put_value(out: &mut Vec<u8>, value: &Value, form: &Form) -> Option<()> {
    match (value, form) {
        (Value::Bool(bool), Form::Bool) => out.push((*bool).into()),
        (Value::Integer(integer), Form::Int2) => out.extend_from_slice(&i16::try_from(*integer).ok()?.to_be_bytes()),
        (Value::Integer(integer), Form::Int4) => out.extend_from_slice(&i32::try_from(*integer).ok()?.to_be_bytes()),
        (Value::Integer(integer), Form::Int8) => out.extend_from_slice(&integer.to_be_bytes()),
        (Value::Integer(integer), Form::Oid) => out.extend_from_slice(&u32::try_from(*integer).ok()?.to_be_bytes()),
        (Value::Float(float), Form::Float4) => out.extend_from_slice(&(*float as f32).to_be_bytes()),
        (Value::Float(float), Form::Float8) => out.extend_from_slice(&float.to_be_bytes()),
        (Value::Decimal(decimal), Form::Numeric(_)) => put_numeric(out, decimal)?,
        (Value::Float(float), Form::Numeric(_)) if !float.is_finite() => {
            let sign: u16 = match float {
                _ if float.is_nan() => 0xc000,
                _ if *float > 0.0 => 0xd000,
                _ => 0xf000,
            };
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&sign.to_be_bytes());
            out.extend_from_slice(&[0; 2]);
        }
        (Value::Bytes(bytes), Form::Bytea) => out.extend_from_slice(bytes),
        (Value::Date(date), Form::Date) => out.extend_from_slice(&date.0.checked_sub(EPOCH_DAYS)?.to_be_bytes()),
        (Value::Time(time), Form::Time(_)) => out.extend_from_slice(&(time.0 / 1_000).to_be_bytes()),
        (Value::DateTime(date, time), Form::Timestamp(_)) => {
            let days = i64::from(date.0) - i64::from(EPOCH_DAYS);
            let micros = days.checked_mul(DAY_MICROS)?.checked_add((time.0 / 1_000) as i64)?;
            out.extend_from_slice(&micros.to_be_bytes());
        }
        (Value::Instant(instant), Form::Timestamptz(_)) => {
            let seconds = instant.seconds.checked_sub(i64::from(EPOCH_DAYS) * 86_400)?;
            let micros = seconds.checked_mul(MICROS_PER_SECOND)?.checked_add((instant.nanos / 1_000).into())?;
            out.extend_from_slice(&micros.to_be_bytes());
        }
        (Value::Uuid(uuid), Form::Uuid) => out.extend_from_slice(uuid),
        _ => return None,
    }
    Some(())
}

/// As `numeric_recv` reads it: count, weight, sign and scale, then digits of base 10,000.
fn put_numeric(out: &mut Vec<u8>, decimal: &Decimal) -> Option<()> {
    let scale = u32::try_from(decimal.scale).ok()?;
    // Zeros that bring the last digit before a multiple of four behind the point.
    let pad = (DIGITS_EACH - scale % DIGITS_EACH) % DIGITS_EACH;
    let behind = i64::from((scale + pad) / DIGITS_EACH);
    let mut digits: Vec<u16> = Vec::new();
    let magnitude = decimal.unscaled.magnitude();
    match u128::try_from(magnitude).ok().and_then(|number| number.checked_mul(10_u128.pow(pad))) {
        Some(mut number) => {
            while number > 0 {
                digits.push((number % DIGIT_BASE) as u16);
                number /= DIGIT_BASE;
            }
        }
        None => {
            let mut text = magnitude.to_string();
            text.extend(std::iter::repeat_n('0', pad as usize));
            for four in text.as_bytes().rchunks(DIGITS_EACH as usize) {
                digits.push(four.iter().fold(0, |digit, byte| digit * 10 + u16::from(byte - b'0')));
            }
        }
    }
    // From the last to the first; zeros at the end are left off.
    let weight = digits.len() as i64 - behind - 1;
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = &digits[zeros..];
    let sign: u16 = if decimal.unscaled.sign() == Sign::Minus { 0x4000 } else { 0 };
    let weight = if digits.is_empty() { 0 } else { i16::try_from(weight).ok()? };
    out.extend_from_slice(&u16::try_from(digits.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::try_from(scale).ok()?.to_be_bytes());
    digits.iter().rev().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
    Some(())
}
