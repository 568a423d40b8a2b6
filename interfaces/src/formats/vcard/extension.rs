//! Values that no vCard property holds, in a property of deltabus's own.
//!
//! ```text
//! X-DELTABUS-FIELD;NAME=salary;KIND=integer:5000
//! X-DELTABUS-FIELD;NAME=city:Oslo
//! ```
//!
//! `NAME` is the field's name, `KIND` the value's kind where it is not text; the value is the canonical text
//! (`deltabus_record::text`) with the escapes of RFC 6350, in every version. Text with a carriage return, for which there is
//! no escape, is written as JSON, `KIND=json`.

use deltabus_record::value::{Kind, Value};
use deltabus_record::{json, text};

use crate::formats::content_line::{Line, Problem, escape, parameter, unescape};

/// The property's name.
pub(super) const PROPERTY: &str = "X-DELTABUS-FIELD";

const JSON: &str = "json";

/// The field and the value that `line` carries.
pub(super) fn read(line: &Line<'_>) -> Result<(String, Value), Problem> {
    let at = line.head.len() + 1;
    let name = line.parameter("NAME").ok_or_else(|| Problem::new(0, format!("{PROPERTY} needs a parameter `NAME`")))?;
    let raw = unescape(&line.value);
    let value = match line.parameter("KIND").as_deref() {
        None => Some(Value::text(raw.into_owned())),
        Some(JSON) => json::read(&raw).ok(),
        Some(kind) => Kind::from_name(kind).and_then(|kind| text::parse(&raw, kind)),
    };
    let value = value.ok_or_else(|| Problem::new(at, format!("this is no value of the kind that {PROPERTY} names")))?;
    Ok((name.into_owned(), value))
}

/// The field that `line` carries a value of, and its kind; the value is not looked at.
pub(super) fn read_kind(line: &Line<'_>) -> Result<(String, Kind), Problem> {
    let name = line.parameter("NAME").ok_or_else(|| Problem::new(0, format!("{PROPERTY} needs a parameter `NAME`")))?;
    let kind = match line.parameter("KIND").as_deref() {
        None | Some(JSON) => Some(Kind::Text),
        Some(kind) => Kind::from_name(kind),
    };
    let kind = kind.ok_or_else(|| Problem::new(0, format!("{PROPERTY} names a kind that doesn't exist")))?;
    Ok((name.into_owned(), kind))
}

/// The line that carries `value`; `None` for what can't be carried: nothing, and references.
pub(super) fn write(name: &str, value: &Value) -> Option<String> {
    let mut out = format!("{PROPERTY};{}", parameter("NAME", &[name]));
    let raw = match value {
        Value::Absent | Value::Null | Value::Large(_) => return None,
        Value::Text(text) if !text.contains('\r') => text.clone(),
        Value::Text(_) => {
            out.push_str(";KIND=json");
            json::write(value)
        }
        value => {
            out.push_str(";KIND=");
            out.push_str(value.kind().name());
            text::to_text(value)?
        }
    };
    out.push(':');
    escape(&raw, &mut out);
    Some(out)
}
