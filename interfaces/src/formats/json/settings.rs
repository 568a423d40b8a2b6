//! What a location says about a document.

use std::collections::BTreeMap;

use crate::{Location, Result};

const OPTIONS: &[&str] = &["key", "at", "shape", "tables", "key.TABLE"];
const LINES_OPTIONS: &[&str] = &["key"];

/// How records lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Objects in an array.
    Array,
    /// Objects by name in an object.
    Object,
    /// An object a line.
    Lines,
    /// Several collections by name in an object, each an array or an object of objects.
    Tables,
}

/// The options of a location.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where in the document the records or tables are.
    pub(super) pointer: Vec<String>,
    /// The shape of a file that is made; lines and tables are so in any case.
    pub(super) shape: Shape,
    /// The key of the one collection.
    pub(super) key: Vec<String>,
    /// Which tables; empty for all.
    pub(super) tables: Vec<String>,
    /// Keys by table.
    keys: BTreeMap<String, Vec<String>>,
}

impl Settings {
    pub(super) fn of(location: &Location) -> Result<Settings> {
        let mut options = location.options.clone();
        let list = |option: &str, value: &str| -> Result<Vec<String>> {
            let names: Vec<_> = value.split(',').map(str::to_owned).collect();
            match names.iter().any(String::is_empty) {
                true => Err(location.error(format!("option `{option}` has an empty name in `{value}`"))),
                false => Ok(names),
            }
        };
        let key = options.take("key").map_or(Ok(Vec::new()), |value| list("key", &value))?;
        if location.interface == "ndjson" {
            options.finish(location, LINES_OPTIONS)?;
            let (tables, keys) = Default::default();
            return Ok(Settings { pointer: Vec::new(), shape: Shape::Lines, key, tables, keys });
        }
        let pointer = pointer(location, &options.take("at").unwrap_or_default())?;
        let tables = options.take("tables").map_or(Ok(Vec::new()), |value| list("tables", &value))?;
        let mut keys = BTreeMap::new();
        for (table, value) in options.take_prefixed("key.") {
            let option = format!("key.{table}");
            if !tables.is_empty() && !tables.contains(&table) {
                return Err(location.error(format!("option `{option}`: `tables` doesn't name `{table}`")));
            }
            keys.insert(table, list(&option, &value)?);
        }
        let of_tables = !tables.is_empty() || !keys.is_empty();
        let shape = match options.take("shape").as_deref() {
            None if of_tables => Shape::Tables,
            None => Shape::Array,
            Some("tables") => Shape::Tables,
            Some(_) if of_tables => {
                return Err(location.error("options `tables` and `key.TABLE` go with `shape=tables`"));
            }
            Some("array") => Shape::Array,
            Some("object") => Shape::Object,
            Some(other) => {
                return Err(location.error(format!("`shape` is `array`, `object` or `tables`, not `{other}`")));
            }
        };
        if shape == Shape::Tables && !key.is_empty() {
            return Err(location.error("of several tables each has a key of its own: say `key.TABLE=…`"));
        }
        if shape == Shape::Object && key.len() > 1 {
            return Err(location.error("records by name have one key field, which is their name"));
        }
        options.finish(location, OPTIONS)?;
        Ok(Settings { pointer, shape, key, tables, keys })
    }

    /// Whether the table is one of those asked for.
    pub(super) fn selects(&self, table: &str) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|named| named == table)
    }

    /// The key that was given for a table.
    pub(super) fn key_of(&self, table: &str) -> Option<&[String]> {
        self.keys.get(table).map(Vec::as_slice)
    }

    /// The pointer as it is written.
    pub(super) fn at(&self) -> String {
        self.pointer.iter().map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1"))).collect()
    }
}

/// The tokens of a JSON Pointer (RFC 6901).
fn pointer(location: &Location, text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = text.strip_prefix('/') else {
        return Err(
            location.error(format!("`at` is a JSON Pointer and begins with `/`, as in `/people`, not `{text}`"))
        );
    };
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}
