//! What tables a database has, and how they are named in statements.

use deltabus_record::schema::{Field, KeySpec, Schema};
use rusqlite::Connection;

use super::types::{self, ROWID_SUFFIX, STRICT_SUFFIX};
use super::{Selection, is_own};

/// The names by which a table's rowid can be called, where no column has taken them.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A table, view or virtual table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) sort: Sort,
    pub(super) strict: bool,
    /// The columns that hold values, in declared order.
    pub(super) columns: Vec<Field>,
    /// Names of generated and hidden columns.
    pub(super) computed: Vec<String>,
    /// The primary key's columns, by place in `columns`.
    pub(super) primary_key: Vec<usize>,
    /// What the rowid can be called, where there is one.
    pub(super) rowid: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Table,
    View,
    Virtual,
}

impl Table {
    /// The tables that `selection` means, in the order of their names.
    pub(super) fn selected(connection: &Connection, selection: &Selection) -> Result<Vec<Table>, rusqlite::Error> {
        let mut statement = connection.prepare(
            "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type <> 'shadow' ORDER BY name",
        )?;
        let mut rows = statement.query([])?;
        let mut tables = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let sort = match row.get_ref(1)?.as_str()? {
                "view" => Sort::View,
                "virtual" => Sort::Virtual,
                _ => Sort::Table,
            };
            let wanted = match selection.tables.is_empty() {
                true => sort == Sort::Table,
                false => selection.tables.iter().any(|named| named.eq_ignore_ascii_case(&name)),
            };
            if wanted && !is_own(&name) {
                tables.push(Table::of(connection, name, sort, row.get(2)?, row.get(3)?)?);
            }
        }
        Ok(tables)
    }

    /// The table of that name, in any case of letters, if it is there.
    pub(super) fn named(connection: &Connection, name: &str) -> Result<Option<Table>, rusqlite::Error> {
        let selection = Selection { tables: vec![name.to_owned()], keys: Default::default() };
        Ok(Table::selected(connection, &selection)?.pop())
    }

    fn of(
        connection: &Connection,
        name: String,
        sort: Sort,
        without_rowid: bool,
        strict: bool,
    ) -> Result<Table, rusqlite::Error> {
        let mut table = Table {
            name,
            sort,
            strict,
            columns: Vec::new(),
            computed: Vec::new(),
            primary_key: Vec::new(),
            rowid: None,
        };
        let mut statement = connection.prepare("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?)")?;
        let mut rows = statement.query([&table.name])?;
        let mut primary_key = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let mut declared: String = row.get(1)?;
            let place: i64 = row.get(2)?;
            let hidden: i64 = row.get(3)?;
            if hidden != 0 {
                table.computed.push(name);
                continue;
            }
            if strict {
                declared.push_str(STRICT_SUFFIX);
            }
            let ordinal = table.columns.len();
            if place > 0 {
                primary_key.push((place, ordinal));
            }
            table.columns.push(types::field_of_column(&name, declared, ordinal as u32));
        }
        primary_key.sort_unstable();
        table.primary_key = primary_key.into_iter().map(|(_, ordinal)| ordinal).collect();
        if sort == Sort::Table && !without_rowid {
            let is_free = |alias: &&str| !table.all_names().any(|name| name.eq_ignore_ascii_case(alias));
            table.rowid = ROWID_NAMES.into_iter().find(is_free);
            // A primary key that has no index of its own is the rowid itself.
            let indexed =
                connection.prepare("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'")?.exists([&table.name])?;
            if let ([only], false) = (table.primary_key.as_slice(), indexed) {
                let field = &mut table.columns[*only];
                *field = types::field_of_column(&field.name, format!("INTEGER{ROWID_SUFFIX}"), field.ordinal);
            }
        }
        Ok(table)
    }

    fn all_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str()).chain(self.computed.iter().map(String::as_str))
    }

    /// The place of the column of that name, in any case of letters.
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// The fields and the key: that of `key`, else the primary key, else the whole row. The error names the column of `key`
    /// that is not there.
    pub(super) fn schema(&self, key: Option<&[String]>) -> Result<Schema, String> {
        let fields = self.columns.clone();
        let slots = match key {
            Some(key) => {
                let slot = |name: &String| self.column(name).map(|slot| slot as u32).ok_or_else(|| name.clone());
                key.iter().map(slot).collect::<Result<Vec<u32>, String>>()?
            }
            None => self.primary_key.iter().map(|&slot| slot as u32).collect(),
        };
        let key = if slots.is_empty() { KeySpec::WholeRow } else { KeySpec::Fields(slots) };
        Ok(Schema { fields, key })
    }

    /// The statement that reads all columns and, last, the rowid where there is one; in an order that stays.
    pub(super) fn select(&self, schema: &Schema) -> String {
        let mut columns: Vec<_> = self.columns.iter().map(|column| quote(&column.name)).collect();
        columns.extend(self.rowid.map(str::to_owned));
        if columns.is_empty() {
            columns.push("NULL".into());
        }
        let order = match (self.rowid, &schema.key) {
            (Some(rowid), _) => vec![rowid.to_owned()],
            (None, KeySpec::Fields(slots)) => {
                slots.iter().map(|&slot| quote(&self.columns[slot as usize].name)).collect()
            }
            (None, KeySpec::WholeRow) => Vec::new(),
        };
        let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
        format!("SELECT {} FROM main.{}{order}", columns.join(", "), quote(&self.name))
    }
}

/// A name as it stands in a statement.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
