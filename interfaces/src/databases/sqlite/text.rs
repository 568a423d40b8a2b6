//! The text of values in columns: text, booleans and numbers. Other kinds have none here and are refused.

use deltabus_record::value::{Decimal, Value};

/// How long a value may be in a message, in characters: enough to recognise it.
const DISPLAY_CHARS: usize = 60;

/// The largest power of ten that is written as zeros; beyond it `1E+400` is.
const ZEROS_MAX: u32 = 60;

/// The canonical text of `value`; `None` for absent, null and the kinds that have none.
pub(super) fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(integer) => Some(integer.to_string()),
        Value::BigInteger(integer) => Some(integer.to_string()),
        Value::Decimal(decimal) => Some(decimal_text(decimal)),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Float(float) if float.is_nan() => Some("NaN".into()),
        Value::Float(float) if float.is_infinite() => {
            Some(if *float > 0.0 { "Infinity".into() } else { "-Infinity".into() })
        }
        Value::Float(float) => Some(format!("{float:?}")),
        _ => None,
    }
}

/// All digits with the point at its place; an exponent where that would take zeros that are not part of the value.
fn decimal_text(decimal: &Decimal) -> String {
    let text = decimal.unscaled.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    match u32::try_from(decimal.scale) {
        Ok(0) => text,
        Ok(scale) if scale as usize >= digits.len() + ZEROS_MAX as usize => format!("{sign}{digits}E-{scale}"),
        Ok(scale) => {
            let digits = format!("{digits:0>width$}", width = scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
            format!("{sign}{whole}.{fraction}")
        }
        Err(_) => format!("{sign}{digits}E+{}", decimal.scale.unsigned_abs()),
    }
}

/// `value` for messages.
pub(super) fn display(value: &Value) -> String {
    let whole = match value {
        Value::Text(text) => format!("{text:?}"),
        other => to_text(other).unwrap_or_else(|| other.kind().name().to_owned()),
    };
    match whole.char_indices().nth(DISPLAY_CHARS) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}
