//! Encoded values as parameters of statements.

use deltabus_record::row::FieldRef;
use deltabus_record::value::{Kind, Value};
use rusqlite::Statement;
use rusqlite::types::{Null, ToSqlOutput, ValueRef};

/// Binds an encoded value; `false` where SQLite can't hold it: it was not projected.
pub(super) fn bind(statement: &mut Statement<'_>, index: usize, field: FieldRef<'_>) -> Result<bool, rusqlite::Error> {
    if let Some(text) = field.text() {
        statement.raw_bind_parameter(index, text)?;
        return Ok(true);
    }
    match field.kind() {
        Kind::Absent | Kind::Null => statement.raw_bind_parameter(index, Null)?,
        Kind::Integer | Kind::Float | Kind::Bytes => match field.value() {
            Value::Integer(integer) => statement.raw_bind_parameter(index, integer)?,
            // SQLite would store NULL.
            Value::Float(float) if !float.is_nan() => statement.raw_bind_parameter(index, float)?,
            Value::Bytes(bytes) => {
                statement.raw_bind_parameter(index, ToSqlOutput::Borrowed(ValueRef::Blob(&bytes)))?;
            }
            _ => return Ok(false),
        },
        _ => return Ok(false),
    }
    Ok(true)
}
