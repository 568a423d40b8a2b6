//! What tables a database has, and how they are named in statements.

use std::collections::HashMap;

use deltabus_record::schema::{Collection, CollectionName, Field, KeySpec, Schema};
use tokio_postgres::Row;
use xxhash_rust::xxh3::xxh3_64;

use super::connection::{Failure, Session};
use super::types::{self, Form};
use super::{MARK_TABLE, Selection};
use crate::{Location, Result};

/// Names longer than this are cut by the server.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// A table or view.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) name: TableName,
    /// What a source calls it.
    pub(super) collection: String,
    pub(super) sort: Sort,
    /// The columns that hold values, in declared order.
    pub(super) columns: Vec<Column>,
    /// Names of generated columns.
    pub(super) generated: Vec<String>,
    /// The primary key's columns, by place in `columns`.
    pub(super) primary_key: Vec<usize>,
    /// Everything that says what the rows' bytes mean, but for the rows.
    pub(super) fingerprint: u64,
    /// Whether a row's `xmin` says when what is read of it last changed.
    pub(super) dated: bool,
    /// Whether something happens at a write that the writer doesn't say: rules, cascades.
    pub(super) reactive: bool,
    /// Whether triggers do.
    pub(super) triggers: bool,
    /// Whether rules take the place of inserting.
    pub(super) insert_rules: bool,
    /// Whether we own it, or may act as its owner.
    pub(super) owned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Table,
    Partitioned,
    View,
    Foreign,
}

/// A table's schema and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) name: String,
}

impl TableName {
    /// As it stands in a statement.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// A column that holds values of its own.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) field: Field,
    pub(super) form: Form,
    /// Its type in a statement, without length or scale: what a text is cast to.
    pub(super) cast: String,
    /// Its values come as text: `col::text` (or `col::text[]`).
    pub(super) as_text: bool,
    pub(super) not_null: bool,
    /// The sequence that gives it values, as a statement has it.
    pub(super) sequence: Option<String>,
}

/// A type as the catalog has it.
struct Type {
    name: String,
    sort: i8,
    builtin: bool,
    base: u32,
    base_modifier: i32,
    element: u32,
    is_array: bool,
}

impl Table {
    /// The tables that `selection` means, in the order of their names.
    pub(super) fn selected(session: &Session, selection: &Selection) -> Result<Vec<Table>, Failure> {
        let filter = "c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'";
        let rows = if selection.tables.is_empty() {
            let sql = format!(
                "{TABLES} WHERE {filter} AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                 AND n.nspname = current_schema() AND c.relname <> '{MARK_TABLE}'
                 ORDER BY c.relname COLLATE \"C\""
            );
            session.query(&sql, Vec::new())?
        } else {
            let schemas: Vec<_> = selection.tables.iter().map(|table| table.schema.clone()).collect();
            let names: Vec<_> = selection.tables.iter().map(|table| table.name.clone()).collect();
            let sql = format!(
                "{TABLES} JOIN unnest($1::text[], $2::text[]) WITH ORDINALITY w (schema, name, at)
                 ON n.nspname = coalesce(w.schema, current_schema()) AND c.relname = w.name
                 WHERE {filter} ORDER BY w.at"
            );
            session.query(&sql, vec![Box::new(schemas), Box::new(names)])?
        };
        Table::complete(session, rows)
    }

    /// The table of that name, if it is there.
    pub(super) fn named(session: &Session, name: &TableName) -> Result<Option<Table>, Failure> {
        let sql = format!("{TABLES} WHERE n.nspname = $1 AND c.relname = $2");
        let rows = session.query(&sql, vec![Box::new(name.schema.clone()), Box::new(name.name.clone())])?;
        Ok(Table::complete(session, rows)?.pop())
    }

    fn complete(session: &Session, rows: Vec<Row>) -> Result<Vec<Table>, Failure> {
        let mut tables = Vec::with_capacity(rows.len());
        let oids: Vec<u32> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        if oids.is_empty() {
            return Ok(tables);
        }
        let columns = session.query(COLUMNS, vec![Box::new(oids.clone())])?;
        let mut ids: Vec<u32> = columns.iter().map(|row| row.try_get(2)).collect::<Result<_, _>>()?;
        ids.sort_unstable();
        ids.dedup();
        let types = types_of(session, ids)?;
        for row in rows {
            let oid: u32 = row.try_get(0)?;
            let name = TableName { schema: row.try_get(1)?, name: row.try_get(2)? };
            let in_default: bool = row.try_get(3)?;
            let kind: i8 = row.try_get(4)?;
            let restricted: bool = row.try_get(6)?;
            let foreign_parts: bool = row.try_get(7)?;
            let sort = match kind as u8 {
                b'r' => Sort::Table,
                b'p' => Sort::Partitioned,
                b'f' => Sort::Foreign,
                _ => Sort::View,
            };
            let mut table = Table {
                oid,
                collection: if in_default { name.name.clone() } else { format!("{}.{}", name.schema, name.name) },
                name,
                sort,
                columns: Vec::new(),
                generated: Vec::new(),
                primary_key: Vec::new(),
                fingerprint: 0,
                dated: matches!(sort, Sort::Table | Sort::Partitioned) && !restricted && !foreign_parts,
                reactive: row.try_get(8)?,
                triggers: row.try_get(12)?,
                insert_rules: row.try_get(9)?,
                owned: row.try_get(10)?,
            };
            let mut said = format!("{}\n{}", table.name.sql(), row.try_get::<_, String>(5)?);
            let mut places = HashMap::new();
            for column in &columns {
                if column.try_get::<_, u32>(0)? != oid {
                    continue;
                }
                said.push('\n');
                said.push_str(&column.try_get::<_, String>(8)?);
                let name: String = column.try_get(1)?;
                if column.try_get::<_, bool>(6)? {
                    table.generated.push(name);
                    continue;
                }
                let at = table.columns.len();
                places.insert(column.try_get::<_, i16>(3)?, at);
                let (column, pure) = column_of(column, name, at as u32, &types)?;
                table.dated &= pure;
                said.push_str(column.field.declared.as_deref().unwrap_or_default());
                table.columns.push(column);
            }
            let key: Vec<i16> = row.try_get(11)?;
            // A key with a generated column in it is none that could be written.
            let key: Option<Vec<usize>> = key.iter().map(|number| places.get(number).copied()).collect();
            table.primary_key = key.unwrap_or_default();
            table.fingerprint = xxh3_64(said.as_bytes());
            tables.push(table);
        }
        Ok(tables)
    }

    /// The place of the column of that name.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.field.name == name)
    }

    /// The table as a source has it: the key is that of `selection`, else the primary key, else the whole row.
    pub(super) fn collection(&self, selection: &Selection, location: &Location) -> Result<Collection> {
        let fields: Vec<Field> = self.columns.iter().map(|column| column.field.clone()).collect();
        let slots = match selection.keys.get(&self.collection) {
            Some(key) => {
                let slot = |name: &String| match self.column(name) {
                    Some(slot) => Ok(slot as u32),
                    None => {
                        let columns: Vec<_> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
                        Err(location.error(format!(
                            "table `{}` has no column `{name}` to be its key; it has {}",
                            self.collection,
                            columns.join(", ")
                        )))
                    }
                };
                key.iter().map(slot).collect::<Result<Vec<u32>>>()?
            }
            None => self.primary_key.iter().map(|&slot| slot as u32).collect(),
        };
        let key = if slots.is_empty() { KeySpec::WholeRow } else { KeySpec::Fields(slots) };
        Ok(Collection { name: CollectionName::new(self.collection.as_str()), schema: Schema { fields, key } })
    }

    /// How the rows that are this table's own are named: old-style children are tables of their own.
    pub(super) fn from(&self) -> String {
        match self.sort {
            Sort::Table => format!("ONLY {}", self.name.sql()),
            _ => self.name.sql(),
        }
    }

    /// The columns as they are read, each in a form of [`Column::form`].
    pub(super) fn select_list(&self) -> String {
        let column = |column: &Column| {
            let name = quote(&column.field.name);
            match (column.as_text, &column.form) {
                (true, Form::Array(_)) => format!("{name}::text[]"),
                (true, _) => format!("{name}::text"),
                (false, _) => name,
            }
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// ` ORDER BY` the primary key: an order that stays, for which there is an index.
    pub(super) fn order(&self) -> String {
        if self.primary_key.is_empty() {
            return String::new();
        }
        let names: Vec<_> = self.primary_key.iter().map(|&at| quote(&self.columns[at].field.name)).collect();
        format!(" ORDER BY {}", names.join(", "))
    }
}

/// A name as it stands in a statement.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Oid, schema, name, whether that is the default schema, kind, what else gives the rows their meaning (the files of the
/// table and of all partitions, row security), whether row security restricts us, whether a partition is a foreign table,
/// whether writes have consequences, whether inserts have rules, whether we own it, the primary key's column numbers,
/// whether there are triggers.
const TABLES: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text, n.nspname = current_schema(), c.relkind,
        concat_ws(' ', c.relkind, c.relfilenode, c.relrowsecurity,
            CASE WHEN c.relkind = 'p' THEN (SELECT string_agg(p.relid || ':' || q.relfilenode, ',' ORDER BY p.relid)
                FROM pg_partition_tree(c.oid) p JOIN pg_class q ON q.oid = p.relid) END),
        row_security_active(c.oid),
        c.relkind = 'p' AND EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class q ON q.oid = p.relid
            WHERE q.relkind = 'f'),
        c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
            OR EXISTS (SELECT FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f'
                AND (k.confupdtype NOT IN ('a', 'r') OR k.confdeltype NOT IN ('a', 'r'))),
        c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '3'),
        pg_has_role(c.relowner, 'USAGE'),
        ARRAY(SELECT k.attnum::int2 FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, at)
            WHERE i.indrelid = c.oid AND i.indisprimary AND k.at <= i.indnkeyatts ORDER BY k.at),
        EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";

/// Table, name, type, number, modifier, type's name with modifier, whether generated, not null, what else gives
/// it its meaning, type without modifier, sequence.
const COLUMNS: &str = "
    SELECT a.attrelid, a.attname::text, a.atttypid, a.attnum, a.atttypmod, format_type(a.atttypid, a.atttypmod),
        a.attgenerated <> '', a.attnotnull,
        concat_ws(' ', a.attname, a.attnum, a.atttypid, a.atttypmod, a.attmissingval::text, a.attcollation, a.attgenerated,
            (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder) FROM pg_enum e
                WHERE e.enumtypid IN (a.atttypid, (SELECT typelem FROM pg_type t WHERE t.oid = a.atttypid)))),
        format_type(a.atttypid, -1),
        CASE WHEN a.attidentity <> '' OR a.atthasdef THEN
            pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) END
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

/// The types, what domains among them are made of, and the elements of arrays.
fn types_of(session: &Session, ids: Vec<u32>) -> Result<HashMap<u32, Type>, Failure> {
    let sql = "WITH RECURSIVE t AS (
            SELECT * FROM pg_type WHERE oid = ANY($1)
            UNION SELECT p.* FROM t JOIN pg_type p ON p.oid <> 0 AND p.oid IN (t.typbasetype, t.typelem))
        SELECT oid, format_type(oid, NULL), typtype, typnamespace = 'pg_catalog'::regnamespace, typbasetype, typtypmod,
            typelem, typcategory = 'A' AND typlen = -1 AND typelem <> 0 AND oid NOT IN ('int2vector'::regtype, 'oidvector'::regtype)
        FROM t";
    let rows = session.query(sql, vec![Box::new(ids)])?;
    let mut types = HashMap::with_capacity(rows.len());
    for row in rows {
        let found = Type {
            name: row.try_get(1)?,
            sort: row.try_get(2)?,
            builtin: row.try_get(3)?,
            base: row.try_get(4)?,
            base_modifier: row.try_get(5)?,
            element: row.try_get(6)?,
            is_array: row.try_get(7)?,
        };
        types.insert(row.try_get(0)?, found);
    }
    Ok(types)
}

/// A type as statements name it, and what it is made of; `None` where there is none.
pub(super) fn type_of(session: &Session, oid: u32) -> Result<Option<(String, String)>, Failure> {
    let types = types_of(session, vec![oid])?;
    let Some(found) = types.get(&oid) else { return Ok(None) };
    let resolved = resolve(oid, &found.name, &types, 0);
    Ok(Some((found.name.clone(), resolved.base)))
}

/// The column, and whether its values' text depends on nothing but them and what the fingerprint has.
fn column_of(row: &Row, name: String, ordinal: u32, types: &HashMap<u32, Type>) -> Result<(Column, bool), Failure> {
    let id: u32 = row.try_get(2)?;
    let printed: String = row.try_get(5)?;
    let resolved = resolve(id, &printed, types, 0);
    let form = Form::parse(&resolved.base).unwrap_or(Form::Text);
    let declared = match resolved.base == renamed(&printed) {
        true => resolved.base.clone(),
        false => types::declared_as(&printed, &resolved.base),
    };
    let mut field = Field::new(name, Some(form.kind()), ordinal);
    field.declared = Some(declared);
    let column = Column {
        field,
        form,
        cast: row.try_get(9)?,
        as_text: resolved.as_text,
        not_null: row.try_get(7)?,
        sequence: row.try_get(10)?,
    };
    Ok((column, resolved.pure))
}

/// What a type comes to.
struct Resolved {
    /// One of those that [`Form::parse`] knows.
    base: String,
    as_text: bool,
    pure: bool,
}

/// How deep domains over domains and arrays of domains are followed; the catalog has no cycles.
const TYPES_DEEP_MAX: usize = 64;

fn resolve(id: u32, printed: &str, types: &HashMap<u32, Type>, depth: usize) -> Resolved {
    let other = |pure| Resolved { base: "text".into(), as_text: true, pure };
    let Some(found) = types.get(&id).filter(|_| depth < TYPES_DEEP_MAX) else { return other(false) };
    if found.is_array {
        let Some(element) = types.get(&found.element) else { return other(false) };
        let element_printed = printed.strip_suffix("[]").unwrap_or(&element.name);
        let element = resolve(found.element, element_printed, types, depth + 1);
        // An array of a domain over arrays is no array of more dimensions.
        return match element.base.ends_with("[]") {
            true => other(false),
            false => Resolved { base: format!("{}[]", element.base), ..element },
        };
    }
    match found.sort as u8 {
        b'd' => {
            let base = types.get(&found.base).map_or("text", |base| base.name.as_str());
            let printed = with_modifier(base, found.base_modifier);
            resolve(found.base, &printed, types, depth + 1)
        }
        b'e' => Resolved { base: "text".into(), as_text: false, pure: true },
        _ if found.builtin => match Form::parse(&renamed(printed)) {
            Some(Form::Printed(_)) => Resolved { base: renamed(printed), as_text: true, pure: true },
            Some(_) => Resolved { base: renamed(printed), as_text: false, pure: true },
            // `regclass` and its like print what other catalogs say.
            None => other(false),
        },
        _ => other(false),
    }
}

/// The names that elsewhere mean wider types.
fn renamed(printed: &str) -> String {
    let (name, array) = printed.strip_suffix("[]").map_or((printed, ""), |name| (name, "[]"));
    let name = match name {
        "smallint" => "int2",
        "integer" => "int4",
        "real" => "float4",
        other => other,
    };
    format!("{name}{array}")
}

/// A domain's base type with its modifier, as `format_type` prints it.
fn with_modifier(base: &str, modifier: i32) -> String {
    if modifier < 0 {
        return base.to_owned();
    }
    // The header of a varlena is counted in.
    let length = modifier - 4;
    match base {
        "numeric" => {
            // Eleven bits, of which the scale's may be negative.
            let scale = (length & 0x7ff) ^ 1024;
            format!("numeric({},{})", (length >> 16) & 0xffff, scale - 1024)
        }
        "character varying" | "character" => format!("{base}({length})"),
        _ if base.starts_with("time") => match base.split_once(' ') {
            Some((name, zone)) => format!("{name}({modifier}) {zone}"),
            None => base.to_owned(),
        },
        _ => base.to_owned(),
    }
}
