//! What people see.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use deltabus_record::change::Change;
use deltabus_record::diff::Difference;
use deltabus_record::json;
use deltabus_record::row::Row;
use deltabus_record::schema::{CollectionName, Schema};
use deltabus_record::text::{display, is_obeyed, printable};
use deltabus_record::value::Value;
use indicatif::{ProgressBar, ProgressStyle};

use crate::arguments::Global;

/// A spinner on a terminal; nothing elsewhere.
pub(crate) fn spinner(global: &Global, text: &str) -> ProgressBar {
    if global.quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Colours for differences, where they are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// For standard output.
    pub(crate) fn for_stdout() -> Paint {
        Paint { on: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// None at all.
    #[cfg(test)]
    pub(crate) fn none() -> Paint {
        Paint { on: false }
    }

    /// Wherever it goes.
    #[cfg(test)]
    pub(crate) fn always() -> Paint {
        Paint { on: true }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// Prints one differing record for people.
pub(crate) fn print_difference(
    out: &mut dyn Write,
    paint: Paint,
    collection: &CollectionName,
    schema: &Schema,
    difference: &Difference,
) -> io::Result<()> {
    let key = key_text(schema, difference);
    let collection = printable(collection.as_str());
    match (&difference.before, &difference.after) {
        (None, Some(row)) => writeln!(out, "{} {collection} {key}  {}", paint.green("+"), fields_text(schema, row)),
        (Some(row), None) => writeln!(out, "{} {collection} {key}  {}", paint.red("-"), fields_text(schema, row)),
        (Some(before), Some(after)) => {
            let changed: Vec<String> = deltabus_record::diff::fields(before, after)
                .into_iter()
                .map(|field| {
                    let name = printable(&name_of(schema, field.slot));
                    format!("{name}: {} -> {}", display(&field.before), display(&field.after))
                })
                .collect();
            writeln!(out, "{} {collection} {key}  {}", paint.yellow("~"), changed.join(", "))
        }
        (None, None) => Ok(()),
    }
}

/// What a difference is called in JSON.
pub(crate) fn kind_of(difference: &Difference) -> &'static str {
    match (&difference.before, &difference.after) {
        (None, _) => "insert",
        (_, None) => "delete",
        _ => "update",
    }
}

/// Prints one differing record as a JSON object, which ends with what is `more` to say.
pub(crate) fn print_difference_json(
    out: &mut dyn Write,
    collection: &CollectionName,
    schema: &Schema,
    difference: &Difference,
    more: &[(&str, Value)],
) -> io::Result<()> {
    let empty = Row::default();
    let (before, after) = (difference.before.as_ref(), difference.after.as_ref());
    let change = kind_of(difference);
    let fields: Vec<(String, Value)> = deltabus_record::diff::fields(before.unwrap_or(&empty), after.unwrap_or(&empty))
        .into_iter()
        .map(|field| {
            let mut sides = Vec::new();
            for (name, value) in [("before", field.before), ("after", field.after)] {
                if value != Value::Absent {
                    sides.push((name.to_owned(), value));
                }
            }
            (name_of(schema, field.slot), Value::Map(sides))
        })
        .collect();
    let key: Vec<(String, Value)> = key_values(schema, before.or(after).unwrap_or(&empty));
    let mut object = vec![
        ("collection".into(), Value::text(collection.as_str())),
        ("key".into(), Value::Map(key)),
        ("change".into(), Value::text(change)),
        ("fields".into(), Value::Map(fields)),
    ];
    object.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    writeln!(out, "{}", json::write(&Value::Map(object)))
}

/// A change as a difference, as far as it tells: of an update only the fields that differ.
pub(crate) fn difference_of(change: &Change) -> Difference {
    let key = change.key().clone();
    match change {
        Change::Insert { row, .. } => Difference { key, before: None, after: Some(row.clone()) },
        Change::Delete { row, .. } => Difference { key, before: Some(row.clone()), after: None },
        Change::Update { fields, .. } => {
            let slots = fields.iter().map(|field| field.slot as usize + 1).max().unwrap_or(0);
            let mut before = vec![Value::Absent; slots];
            let mut after = before.clone();
            for field in fields {
                before[field.slot as usize] = field.before.clone();
                after[field.slot as usize] = field.after.clone();
            }
            Difference { key, before: Some(Row::of(&before)), after: Some(Row::of(&after)) }
        }
    }
}

pub(crate) fn name_of(schema: &Schema, slot: u32) -> String {
    schema.fields.get(slot as usize).map_or_else(|| format!("field {slot}"), |field| field.name.clone())
}

pub(crate) fn key_values(schema: &Schema, row: &Row) -> Vec<(String, Value)> {
    let values = row.values();
    let value = |name: &str| schema.slot(name).and_then(|slot| values.get(slot).cloned()).unwrap_or(Value::Absent);
    let named = schema.key_names().into_iter().map(|name| (name.to_owned(), value(name)));
    named.filter(|(_, value)| *value != Value::Absent).collect()
}

pub(crate) fn key_text(schema: &Schema, difference: &Difference) -> String {
    let names = schema.key_names();
    if names.is_empty() {
        return "(row)".into();
    }
    let row = difference.before.as_ref().or(difference.after.as_ref());
    let values = row.map(|row| key_values(schema, row)).unwrap_or_default();
    if values.len() == names.len() {
        let shown = values.iter().map(|(name, value)| format!("{}={}", printable(name), plain(value)));
        return shown.collect::<Vec<_>>().join(" ");
    }
    // Of an update only what differs is known; the key itself says the rest.
    format!(
        "{}={}",
        printable(&names.join(",")),
        deltabus_record::key::display(difference.key.as_bytes()).replace('`', "")
    )
}

/// A value without quotes where that can't be misread.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) if !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || is_obeyed(c)) => {
            text.clone()
        }
        value => display(value),
    }
}

pub(crate) fn fields_text(schema: &Schema, row: &Row) -> String {
    let values = row.values();
    let keys = schema.key_names();
    let shown = schema.ordered().into_iter().filter(|(_, field)| !keys.contains(&field.name.as_str()));
    let shown = shown.filter_map(|(slot, field)| {
        let value = values.get(slot).filter(|value| **value != Value::Absent)?;
        Some(format!("{}: {}", printable(&field.name), display(value)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Bytes for people: `12 B`, `3.4 kB`, `1.2 MB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..=999 => format!("{bytes} B"),
        1_000..=999_999 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// `1 change`, `2 changes`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// A point in time for people, in the local zone.
pub(crate) fn time_text(millis: u64) -> String {
    let Ok(time) = jiff::Timestamp::from_millisecond(millis as i64) else { return "?".into() };
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
