//! Writing: places are made for collections that have none, then records are spliced in, out and over.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use deltabus_record::json;
use deltabus_record::row::{Row, RowReader};
use deltabus_record::schema::{Collection, CollectionName, KeySpec};
use deltabus_record::value::Value;

use super::document::{self, Container, Item, Span, unquoted};
use super::find::{Bed, Document, Place};
use super::settings::Shape;
use super::splice::Splices;
use super::style::{Spaces, Style, colon_of};
use super::{Json, KEYS};
use crate::formats::wanted::Wanted;
use crate::{Action, CollectionWrite, Error, RecordWrite, Result, Staged, Stamp};

/// Builds the document that `writes` lead to; see [`crate::Interface::stage`].
pub(super) fn stage(json: &Json, writes: &mut [CollectionWrite<'_>], expected: &Stamp) -> Result<Box<dyn Staged>> {
    let removes = |write: &CollectionWrite<'_>| matches!(write.action, Action::Remove);
    let removals: HashSet<_> =
        writes.iter().filter(|write| removes(write)).map(|write| write.collection.name.clone()).collect();
    let mut writes: Vec<_> = writes.iter_mut().filter(|write| !removes(write)).collect();
    let whole_file = json.settings.shape != Shape::Tables && json.settings.pointer.is_empty();
    if writes.is_empty() && (removals.is_empty() || expected.is_missing()) {
        return Ok(Box::new(json.file.keep(expected)?));
    }
    if writes.is_empty() && whole_file {
        return Ok(Box::new(json.file.remove(expected)?));
    }
    let mut replacement = json.file.replace(expected)?;
    let text = match expected.is_missing() {
        true => String::new(),
        false => {
            let (text, stamp) = json.read()?;
            if stamp != *expected {
                return Err(Error::Changed { place: json.file.place() });
            }
            text
        }
    };
    let document = Rewrite { json, removals }.run(Document::parse(json, text)?, &mut writes)?;
    let failed = |error| Error::Io { doing: "write", path: json.file.path().to_owned(), source: error };
    replacement.write_all(document.as_bytes()).map_err(failed)?;
    Ok(Box::new(replacement.seal()?))
}

/// A document on its way to a new one.
struct Rewrite<'a> {
    json: &'a Json,
    /// The collections that go.
    removals: HashSet<CollectionName>,
}

impl Rewrite<'_> {
    fn run(&self, document: Document, writes: &mut [&mut CollectionWrite<'_>]) -> Result<String> {
        let document = match self.json.settings.shape {
            Shape::Tables => self.with_tables(document, writes)?,
            _ => self.with_place(document, writes)?,
        };
        let mut splices = Splices::of(&document.text);
        for write in writes.iter_mut() {
            let bed = match self.json.settings.shape {
                Shape::Tables => document.beds.iter().find(|bed| bed.name == write.collection.name),
                _ => document.beds.first(),
            };
            let bed = bed.expect("a place was made for it");
            Writing {
                json: self.json,
                text: &document.text,
                bed,
                collection: write.collection,
                dropped: write.dropped,
                style: self.style(&document.text, bed),
                emptied: self.empties(write.collection),
            }
            .splice(&mut splices, &mut write.action)?;
        }
        if self.json.settings.shape != Shape::Tables && writes.is_empty() {
            // The collection went, the document around it stays.
            for bed in &document.beds {
                let all = vec![true; bed.records.items.len()];
                splices.change(&bed.records, &all, &[], &Spaces::default());
            }
        }
        Ok(splices.apply())
    }

    /// Whether what `collection` is written to loses all its records first.
    fn empties(&self, collection: &Collection) -> bool {
        match self.json.settings.shape {
            Shape::Tables => self.removals.contains(&collection.name),
            _ => !self.removals.is_empty(),
        }
    }

    /// How records come into `bed`.
    fn style(&self, text: &str, bed: &Bed) -> Style {
        match self.json.settings.shape {
            Shape::Lines => Style::of_lines(text, &bed.records),
            _ => Style::of(text, &bed.records),
        }
    }

    fn parse(&self, text: String) -> Result<Document> {
        Document::parse(self.json, text)
    }

    fn unsupported(&self, problem: String) -> Error {
        Error::Unsupported { place: self.json.file.place(), problem }
    }

    /// The document with a place for one collection.
    fn with_place(&self, document: Document, writes: &[&mut CollectionWrite<'_>]) -> Result<Document> {
        if let [_, second, ..] = writes {
            let name = &second.collection.name;
            let problem =
                format!("holds one collection, and `{name}` is a second; `shape=tables` makes it hold several");
            return Err(self.unsupported(problem));
        }
        let settings = &self.json.settings;
        let empty = if settings.shape == Shape::Object { "{}" } else { "[]" };
        self.with_value(document, empty)
    }

    /// The document with `value` where `at` leads, if nothing is there.
    fn with_value(&self, document: Document, value: &str) -> Result<Document> {
        let pointer = &self.json.settings.pointer;
        match &document.place {
            Place::Here | Place::Tables { .. } => Ok(document),
            Place::Empty => {
                let text = format!("{}{}\n", document.text, nested(pointer, value, ""));
                self.parse(text)
            }
            Place::Missing { object, depth } => {
                let style = Style::of(&document.text, object);
                let colon = colon_of(&document.text, object).unwrap_or_else(|| style.colon.clone());
                let name = json::quoted(&pointer[*depth]);
                let inner = match style.records.first.rsplit_once('\n') {
                    Some((_, indentation)) => nested(&pointer[depth + 1..], value, indentation),
                    None => pointer[depth + 1..]
                        .iter()
                        .rev()
                        .fold(value.to_owned(), |inner, token| format!("{{{}{colon}{inner}}}", json::quoted(token))),
                };
                let mut splices = Splices::of(&document.text);
                let kept = vec![false; object.items.len()];
                splices.change(object, &kept, &[format!("{name}{colon}{inner}")], &style.records);
                self.parse(splices.apply())
            }
        }
    }

    /// The document without the tables that go, and with a place for each that comes.
    fn with_tables(&self, document: Document, writes: &[&mut CollectionWrite<'_>]) -> Result<Document> {
        let document = self.with_value(document, "{}")?;
        let Place::Tables { tables, keys } = &document.place else { return Ok(document) };
        let text = &document.text;
        let written: HashSet<_> = writes.iter().map(|write| write.collection.name.as_str()).collect();
        let gone = |name: &str| self.removals.iter().any(|gone| gone.as_str() == name) && !written.contains(name);
        let beds: HashMap<_, _> = document.beds.iter().map(|bed| (bed.member, bed.name.as_str())).collect();
        let mut removed = vec![false; tables.items.len()];
        for (at, removed) in removed.iter_mut().enumerate() {
            *removed = beds.get(&Some(at)).is_some_and(|name| gone(name));
        }
        let style = Style::of(text, tables);
        let colon = colon_of(text, tables).unwrap_or_else(|| style.colon.clone());
        let (mut added, mut added_keys) = (Vec::new(), Vec::new());
        for write in writes {
            let collection = write.collection;
            let name = collection.name.as_str();
            if document.beds.iter().any(|bed| bed.name == collection.name) {
                continue;
            }
            if !self.json.settings.selects(name) {
                return Err(self.unsupported(format!("`tables` doesn't name `{name}`")));
            }
            if let Some(odd) = tables.items.iter().find(|item| unquoted(item.name.of(text)) == name) {
                let problem = format!("`{name}` is there already and holds no records");
                return Err(self.json.problem_at(text, odd.value.start, problem));
            }
            let name = json::quoted(name);
            added.push(format!("{name}{colon}[]"));
            if collection.schema.key != KeySpec::WholeRow
                && self.json.settings.key_of(collection.name.as_str()).is_none()
            {
                let key: Vec<_> = collection.schema.key_names().into_iter().map(json::quoted).collect();
                added_keys.push(format!("{name}{colon}[{}]", key.join(", ")));
            }
        }
        let unnamed = |keys: &Container| keys.items.iter().map(|item| gone(&unquoted(item.name.of(text)))).collect();
        let unnamed: Vec<bool> = keys.as_ref().map(unnamed).unwrap_or_default();
        if added.is_empty() && !removed.contains(&true) && !unnamed.contains(&true) {
            return Ok(document);
        }
        let mut splices = Splices::of(text);
        match keys {
            Some(keys) => {
                splices.change(keys, &unnamed, &added_keys, &Style::of(text, keys).records);
            }
            None if added_keys.is_empty() => {}
            None => added.insert(0, {
                let spaces = style.records.first.rsplit_once('\n').map_or_else(Style::line, |(_, at)| Style::lines(at));
                format!("{}{colon}{}", json::quoted(KEYS), spaces.container(true, &added_keys))
            }),
        }
        splices.change(tables, &removed, &added, &style.records);
        let text = splices.apply();
        self.parse(text)
    }
}

/// `value` inside an object for each token, each on a line of its own.
fn nested(tokens: &[String], value: &str, indentation: &str) -> String {
    let Some((token, rest)) = tokens.split_first() else { return value.to_owned() };
    let style = Style::lines(indentation);
    let inner = style.records.first.rsplit('\n').next().unwrap_or_default();
    style.container(true, &[style.member(&json::quoted(token), &nested(rest, value, inner))])
}

/// One collection being written.
struct Writing<'a> {
    json: &'a Json,
    text: &'a str,
    bed: &'a Bed,
    collection: &'a Collection,
    dropped: &'a [String],
    style: Style,
    /// What is there goes first.
    emptied: bool,
}

impl Writing<'_> {
    fn splice(&self, splices: &mut Splices<'_>, action: &mut Action<'_>) -> Result<()> {
        let items = &self.bed.records.items;
        let mut removed = vec![self.emptied; items.len()];
        let mut added = Vec::new();
        match action {
            Action::Remove => {}
            Action::Load(_) if !items.is_empty() && !self.emptied => {
                let problem = "records can only be loaded where there are none".to_owned();
                return Err(Error::Unsupported { place: self.json.file.place(), problem });
            }
            Action::Load(records) => {
                while records.advance().map_err(Error::Records)? {
                    added.push(self.record(records.row())?);
                }
            }
            Action::Write(writes) => {
                let mut wanted = Wanted::new(self.collection, writes);
                for (item, removed) in items.iter().zip(&mut removed).filter(|(_, removed)| !**removed) {
                    match wanted.take(&self.key(item)?) {
                        Some(RecordWrite::Remove { .. }) => *removed = true,
                        Some(RecordWrite::Put { row, changed, .. }) => self.change(splices, item, row, changed)?,
                        None if self.dropped.is_empty() => {}
                        None => self.change(splices, item, &Row::default(), &[])?,
                    }
                }
                for row in wanted.rest() {
                    added.push(self.record(row.as_bytes())?);
                }
            }
        }
        match self.json.settings.shape {
            Shape::Lines => self.change_lines(splices, &removed, &added),
            _ => splices.change(&self.bed.records, &removed, &added, &self.style.records),
        }
        Ok(())
    }

    /// The key of a record that is there; nothing else of it is decoded.
    fn key(&self, item: &Item) -> Result<Vec<u8>> {
        let schema = &self.collection.schema;
        let whole_row = schema.key == KeySpec::WholeRow;
        let names: HashSet<&str> = schema.key_names().into_iter().collect();
        let mut values = vec![Value::Absent; schema.fields.len()];
        if let Some(slot) = self.bed.name_field().and_then(|name| schema.slot(name)) {
            values[slot] = Value::Text(unquoted(item.name.of(self.text)));
        }
        for member in self.members(item)?.items {
            let name = unquoted(member.name.of(self.text));
            if (whole_row || names.contains(name.as_str()))
                && let Some(slot) = schema.slot(&name)
            {
                values[slot] = self.json.value(self.text, member.value)?;
            }
        }
        let mut key = Vec::new();
        schema.key_content_into(Row::of(&values).as_bytes(), &mut key);
        Ok(key)
    }

    fn members(&self, item: &Item) -> Result<Container> {
        let members = document::container(self.text, item.value.start);
        members.map_err(|problem| self.json.problem_at(self.text, problem.at, problem.text))
    }

    /// Writes some members of a record that is there.
    fn change(&self, splices: &mut Splices<'_>, item: &Item, row: &Row, changed: &[u32]) -> Result<()> {
        let schema = &self.collection.schema;
        let members = self.members(item)?;
        let values = row.values();
        let mut wanted: HashMap<&str, &Value> = HashMap::new();
        for slot in changed {
            if let Some(field) = schema.fields.get(*slot as usize)
                && self.bed.name_field() != Some(field.name.as_str())
            {
                wanted.insert(&field.name, values.get(*slot as usize).unwrap_or(&Value::Absent));
            }
        }
        let mut removed = vec![false; members.items.len()];
        for (member, removed) in members.items.iter().zip(&mut removed) {
            let name = unquoted(member.name.of(self.text));
            match wanted.remove(name.as_str()) {
                Some(Value::Absent) => *removed = true,
                Some(value) => splices.replace(member.value, json::write(value)),
                None => *removed = self.dropped.contains(&name),
            }
        }
        let colon = colon_of(self.text, &members).unwrap_or_else(|| self.style.colon.clone());
        let mut added = Vec::new();
        for (_, field) in schema.ordered() {
            match wanted.get(field.name.as_str()) {
                Some(Value::Absent) | None => {}
                Some(value) => added.push(format!("{}{colon}{}", json::quoted(&field.name), json::write(value))),
            }
        }
        let spaces = Spaces::of(self.text, &members).unwrap_or_else(|| self.style.members.clone());
        splices.change(&members, &removed, &added, &spaces);
        Ok(())
    }

    /// The text of a record that comes in, with its name where records have names.
    fn record(&self, row: &[u8]) -> Result<String> {
        let values: Vec<_> = RowReader::new(row).collect();
        let mut members = Vec::new();
        let mut name = None;
        for (slot, field) in self.collection.schema.ordered() {
            let value = values.get(slot).map_or(Value::Absent, |value| value.value());
            if self.bed.name_field() == Some(field.name.as_str()) {
                name = Some(value);
            } else if value != Value::Absent {
                members.push((json::quoted(&field.name), json::write(&value)));
            }
        }
        let record = self.style.record(&members);
        match (self.bed.name_field(), name) {
            (None, _) => Ok(record),
            (Some(_), Some(Value::Text(name))) => {
                let colon = colon_of(self.text, &self.bed.records).unwrap_or_else(|| self.style.colon.clone());
                Ok(format!("{}{colon}{record}", json::quoted(&name)))
            }
            (Some(field), _) => {
                let problem =
                    format!("records that are members of an object need a field `{field}` of text, their name");
                Err(Error::Unsupported { place: self.json.file.place(), problem })
            }
        }
    }

    /// Takes lines out and brings lines in behind the last. Each keeps its own end, blank lines and no end at all included.
    fn change_lines(&self, splices: &mut Splices<'_>, removed: &[bool], added: &[String]) {
        let (text, items) = (self.text, &self.bed.records.items);
        let end = match text.rfind('\n') {
            Some(at) if text[..at].ends_with('\r') => "\r\n",
            _ => "\n",
        };
        let start = self.bed.records.span.start;
        let open = start < text.len() && !text.ends_with('\n');
        let gone_open =
            open && items.last().is_some_and(|last| last.whole.end == text.len()) && removed.ends_with(&[true]);
        // The last line has no end: with it goes the end of the line before, unless another comes in its place.
        let tail = match (gone_open, added) {
            (false, _) => items.len(),
            (true, []) => last_run(items, removed),
            (true, _) => items.len() - 1,
        };
        for item in items.iter().zip(removed).take(tail).filter(|(_, removed)| **removed).map(|(item, _)| item) {
            splices.replace(Span { start: item.whole.start, end: item.whole.end + 1 }, String::new());
        }
        match (gone_open, added) {
            (true, []) => {
                let before = &text[start..items[tail].whole.start];
                let line = before.strip_suffix('\n').map_or(before, |line| line.strip_suffix('\r').unwrap_or(line));
                splices.replace(Span { start: start + line.len(), end: text.len() }, String::new());
            }
            (true, _) => splices.replace(items[tail].whole, added.join(end)),
            (false, []) => {}
            (false, _) if open => {
                splices.insert(text.len(), added.iter().map(|line| format!("{end}{line}")).collect());
            }
            (false, _) => splices.insert(text.len(), added.iter().map(|line| format!("{line}{end}")).collect()),
        }
    }
}

/// Where the lines begin that go together up to the last, without a blank one in between.
fn last_run(items: &[Item], removed: &[bool]) -> usize {
    let mut first = items.len() - 1;
    while first > 0 && removed[first - 1] && items[first - 1].whole.end + 1 == items[first].whole.start {
        first -= 1;
    }
    first
}
