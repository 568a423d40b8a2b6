//! The text of values in cells: text, integers, booleans and floats. Other kinds have none here and are refused.

use deltabus_record::value::{Kind, Value};

/// The kinds that a cell can say.
pub(super) const KINDS: [Kind; 4] = [Kind::Bool, Kind::Integer, Kind::Float, Kind::Text];

/// The canonical text of `value`; `None` for absent, null and the kinds that have none.
pub(super) fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(integer) => Some(integer.to_string()),
        Value::BigInteger(integer) => Some(integer.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Float(float) if float.is_nan() => Some("NaN".into()),
        Value::Float(float) if float.is_infinite() => {
            Some(if *float > 0.0 { "Infinity".into() } else { "-Infinity".into() })
        }
        Value::Float(float) => Some(format!("{float:?}")),
        _ => None,
    }
}

/// The value of `kind` that `text` says.
pub(super) fn parse(text: &str, kind: Kind) -> Option<Value> {
    match kind {
        Kind::Text => Some(Value::text(text)),
        Kind::Integer => text.parse().ok().map(Value::integer),
        Kind::Bool => text.parse().ok().map(Value::Bool),
        Kind::Float => text.parse().ok().map(Value::Float),
        _ => None,
    }
}

/// `value` for messages.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        other => to_text(other).unwrap_or_else(|| other.kind().name().to_owned()),
    }
}

/// `value` as a value of `kind`, if that has the same text.
pub(super) fn coerce(value: &Value, kind: Kind) -> Option<Value> {
    let text = to_text(value)?;
    parse(&text, kind).filter(|found| to_text(found).as_ref() == Some(&text))
}
