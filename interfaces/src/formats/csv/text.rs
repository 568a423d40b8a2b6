//! The text of values in cells.

use deltabus_record::value::{Kind, KindSet, Value};

pub(super) fn to_text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Absent | Value::Null => return None,
        Value::Text(text) => text.clone(),
        Value::Integer(integer) => integer.to_string(),
        Value::Bool(bool) => bool.to_string(),
        Value::Float(float) => format!("{float:?}"),
        other => format!("{other:?}"),
    })
}

pub(super) fn parse(text: &str, kind: Kind) -> Option<Value> {
    match kind {
        Kind::Text => Some(Value::text(text)),
        Kind::Integer => text.parse().ok().map(Value::Integer),
        Kind::Bool => text.parse().ok().map(Value::Bool),
        Kind::Float => text.parse().ok().map(Value::Float),
        _ => None,
    }
}

pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        other => format!("{other:?}"),
    }
}

pub(super) fn project(value: Value, native: KindSet) -> Value {
    if native.contains(value.kind()) { value } else { to_text(&value).map_or(Value::Null, Value::Text) }
}

pub(super) fn coerce(value: Value, kind: Kind) -> Option<Value> {
    let text = to_text(&value)?;
    parse(&text, kind).filter(|found| to_text(found).as_ref() == Some(&text))
}
