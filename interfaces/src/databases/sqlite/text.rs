//! The text of values in columns.

use deltabus_record::value::Value;

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

pub(super) fn display(value: &Value) -> String {
    format!("{value:?}")
}
