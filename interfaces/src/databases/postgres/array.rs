//! Arrays: their shape, and as PostgreSQL writes them.
//!
//! <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>

use deltabus_record::value::Value;

use super::types::DIMENSIONS_MAX;

/// The length in each dimension; `None` where the lists are no array: of several depths or lengths, or empty inside.
pub(super) fn dimensions(values: &[Value]) -> Option<Vec<usize>> {
    if values.is_empty() {
        return Some(Vec::new());
    }
    let mut lengths = vec![values.len()];
    let is_list = matches!(values[0], Value::List(_));
    let mut inner = None;
    for value in values {
        match value {
            Value::List(values) if is_list && !values.is_empty() => {
                let found = dimensions(values)?;
                match &inner {
                    None => inner = Some(found),
                    Some(inner) if *inner == found => {}
                    Some(_) => return None,
                }
            }
            Value::List(_) => return None,
            _ if is_list => return None,
            _ => {}
        }
    }
    lengths.extend(inner.unwrap_or_default());
    (lengths.len() <= DIMENSIONS_MAX).then_some(lengths)
}

/// Whether `text` is an array with bounds, one of which doesn't begin at 1: `[0:1]={…}`.
pub(super) fn has_bounds(text: &str) -> bool {
    let Some((bounds, rest)) = text.split_once('=') else { return false };
    let Some(bounds) = bounds.strip_prefix('[').and_then(|bounds| bounds.strip_suffix(']')) else { return false };
    let mut moved = false;
    for bound in bounds.split("][") {
        let Some((low, high)) = bound.split_once(':') else { return false };
        let (Ok(low), Ok(high)) = (low.parse::<i32>(), high.parse::<i32>()) else { return false };
        if high < low {
            return false;
        }
        moved |= low != 1;
    }
    moved && rest.starts_with('{') && rest.ends_with('}')
}

/// Appends a list as an array; `put` appends the text of an element that is not null.
pub(super) fn write<E>(
    out: &mut String,
    values: &[Value],
    put: &mut dyn FnMut(&mut String, &Value) -> Result<(), E>,
) -> Result<(), E> {
    out.push('{');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        match value {
            Value::Null | Value::Absent => out.push_str("NULL"),
            Value::List(values) => write(out, values, put)?,
            value => {
                let mut text = String::new();
                put(&mut text, value)?;
                push_quoted(out, &text);
            }
        }
    }
    out.push('}');
    Ok(())
}

/// Appends an element in quotes, which every element may have, whether it needs them or not.
fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        if matches!(char, '"' | '\\') {
            out.push('\\');
        }
        out.push(char);
    }
    out.push('"');
}
