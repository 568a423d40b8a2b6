//! Making and altering tables.

use deltabus_record::schema::{Field, KeySpec, Schema};

use super::connection::{Failure, Session, first};
use super::table::{NAME_BYTES_MAX, Sort, Table, TableName, quote};
use super::types::{self, Form};
use super::write::Stop;
use crate::{Action, CollectionWrite, Error};

/// Why PostgreSQL can't have this name for something.
pub(super) fn unusable(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        name if name.contains('\0') => Some("it has the character NUL in it"),
        name if name.len() > NAME_BYTES_MAX => Some("it is longer than 63 bytes"),
        _ => None,
    }
}

/// Makes or alters the table as `write` asks; gives it as it then is. One that is made to be loaded has no key yet:
/// [`add_key`] is for afterwards.
pub(super) fn define(
    session: &Session,
    name: &TableName,
    found: Option<Table>,
    write: &CollectionWrite<'_>,
    place: &str,
) -> Result<Option<Table>, Stop> {
    let failed =
        |failure| Stop::Server { failure, place: place.to_owned(), doing: "making or altering the table", key: None };
    let unsupported = |problem: String| Err(Stop::Error(Error::Unsupported { place: place.to_owned(), problem }));
    if let Some(table) = found.as_ref().filter(|table| !matches!(table.sort, Sort::Table | Sort::Partitioned)) {
        let what = if table.sort == Sort::View { "a view" } else { "a foreign table" };
        return unsupported(format!("this is {what}, which can only be read"));
    }
    if let Action::Remove = write.action {
        return Ok(None);
    }
    let schema = &write.collection.schema;
    for (_, field) in schema.ordered() {
        if let Some(problem) = unusable(&field.name) {
            return unsupported(format!(
                "PostgreSQL can't have a column named `{}`: {problem}",
                field.name.escape_debug()
            ));
        }
    }
    let Some(table) = found else {
        create(session, name, write, place)?;
        return Table::named(session, name).map_err(failed);
    };
    let mut changes = Vec::new();
    for (_, field) in schema.ordered() {
        if table.generated.contains(&field.name) {
            return unsupported(format!("column `{}` is generated and can't be written; omit the field", field.name));
        }
        if table.column(&field.name).is_none() {
            let column_type = column_type(session, field).map_err(failed)?;
            changes.push(format!("ADD COLUMN {} {column_type}", quote(&field.name)));
        }
    }
    for dropped in write.dropped {
        if table.column(dropped).is_none() {
            continue;
        }
        let column = quote(dropped);
        // A view or the like that holds on to it: the column is emptied instead.
        let sql = "SELECT EXISTS (SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid
            AND a.attnum = d.refobjsubid WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
            AND a.attname = $2 AND d.deptype = 'n')";
        let held = session.query(sql, vec![Box::new(table.oid), Box::new(dropped.clone())]);
        match held.and_then(|rows| first(&rows)).map_err(failed)? {
            false => changes.push(format!("DROP COLUMN {column}")),
            true => session.batch(&format!("UPDATE {} SET {column} = NULL", table.from())).map_err(failed)?,
        }
    }
    if changes.is_empty() {
        return Ok(Some(table));
    }
    session.batch(&format!("ALTER TABLE {} {}", name.sql(), changes.join(", "))).map_err(failed)?;
    Table::named(session, name).map_err(failed)
}

/// Makes the key of a table that was made without it and then loaded: an index that is built of all rows at once takes a part
/// of the time and of the log that one takes which grows row by row.
pub(super) fn add_key(session: &Session, table: &Table, schema: &Schema, place: &str) -> Result<(), Stop> {
    let Some(key) = key_sql(schema) else { return Ok(()) };
    session.batch(&format!("ALTER TABLE {} ADD {key}", table.name.sql())).map_err(|failure| {
        // Two records may be one to the database.
        let key = Some("of some record".into());
        Stop::Server { failure, place: place.to_owned(), doing: "making the key", key }
    })
}

fn key_sql(schema: &Schema) -> Option<String> {
    let names: Vec<_> = schema.key_names().into_iter().map(quote).collect();
    (!names.is_empty()).then(|| format!("PRIMARY KEY ({})", names.join(", ")))
}

fn create(session: &Session, name: &TableName, write: &CollectionWrite<'_>, place: &str) -> Result<(), Stop> {
    let schema = &write.collection.schema;
    let failed =
        |failure| Stop::Server { failure, place: place.to_owned(), doing: "making or altering the table", key: None };
    let key: &[u32] = match &schema.key {
        KeySpec::Fields(slots) => slots,
        KeySpec::WholeRow => &[],
    };
    let mut parts = Vec::new();
    for (slot, field) in schema.ordered() {
        let not_null = if key.contains(&(slot as u32)) { " NOT NULL" } else { "" };
        parts.push(format!("{} {}{not_null}", quote(&field.name), column_type(session, field).map_err(failed)?));
    }
    if parts.is_empty() {
        return Err(Stop::Error(Error::Unsupported {
            place: place.to_owned(),
            problem: "a table without a column can't be made".into(),
        }));
    }
    if !matches!(write.action, Action::Load(_)) {
        parts.extend(key_sql(schema));
    }
    session.batch(&format!("CREATE TABLE {} ({})", name.sql(), parts.join(", "))).map_err(failed)
}

/// The type of a column for `field`: its own where the database has such a type, made of the same; else what that is made
/// of.
fn column_type(session: &Session, field: &Field) -> Result<String, Failure> {
    let declared = field.declared.as_deref().unwrap_or_default();
    let base = types::base_sql(declared).unwrap_or_else(|| Form::of(field).sql());
    let own = types::own_name(declared).filter(|name| is_type_name(name));
    if let Some(own) = own {
        let sql = "SELECT to_regtype($1)::oid";
        let found: Option<u32> = first(&session.query(sql, vec![Box::new(own.to_owned())])?)?;
        if let Some(oid) = found
            && let Some((printed, made_of)) = super::table::type_of(session, oid)?
            && made_of == base
        {
            return Ok(printed);
        }
    }
    Ok(base)
}

/// Whether `name` is a type's name, with a schema perhaps and quotes, and nothing else.
fn is_type_name(name: &str) -> bool {
    let name = name.strip_suffix("[]").unwrap_or(name);
    let mut quoted = false;
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|char| {
            quoted ^= char == '"';
            char == '"' || quoted && !char.is_control() || char.is_alphanumeric() || matches!(char, '_' | '.' | '$')
        })
        && !quoted
}
