//! Reading: the document's records one by one, decoded only where asked.

use std::collections::HashMap;

use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Json;
use super::document::{self, Item, unquoted};
use super::find::{Bed, Document, Place};
use crate::{Decoded, Extent, Fingerprint, Position, Result, Scan, Stamp};

/// One view of a document.
pub(super) struct JsonScan<'a> {
    json: &'a Json,
    text: String,
    stamp: Stamp,
    tables: Vec<Table>,
    collections: Vec<Collection>,
    /// Which collection is being read.
    index: usize,
    /// The current record's place plus one.
    at: usize,
    values: Vec<Value>,
}

/// The records of one collection.
struct Table {
    items: Vec<Item>,
    is_object: bool,
    slots: HashMap<String, usize>,
    layout: u64,
}

impl<'a> JsonScan<'a> {
    pub(super) fn open(json: &'a Json) -> Result<JsonScan<'a>> {
        let (text, stamp) = json.read()?;
        let Document { text, beds, place } = Document::parse(json, text)?;
        if let Place::Missing { object, .. } = place {
            let problem =
                format!("there is nothing at `{}`; to begin with no records, put `[]` there", json.settings.at());
            return Err(json.problem_at(&text, object.span.start, problem));
        }
        let mut tables = Vec::with_capacity(beds.len());
        let mut collections = Vec::with_capacity(beds.len());
        for bed in beds {
            let (table, collection) = Table::of(json, &text, bed)?;
            tables.push(table);
            collections.push(collection);
        }
        Ok(JsonScan { json, text, stamp, tables, collections, index: 0, at: 0, values: Vec::new() })
    }

    /// The current record.
    fn item(&self) -> Option<&Item> {
        self.tables.get(self.index)?.items.get(self.at.checked_sub(1)?)
    }
}

impl Table {
    fn of(json: &Json, text: &str, bed: Bed) -> Result<(Table, Collection)> {
        let name_field = bed.name_field().map(str::to_owned);
        let mut fields = Fields::default();
        if let Some(name) = &name_field {
            if bed.key.len() > 1 {
                let problem = format!("the records of `{}` have names, so the key is one field, their name", bed.name);
                return Err(json.problem_at(text, bed.records.span.start, problem));
            }
            fields.note(name.clone(), Some(Kind::Text));
        }
        for item in &bed.records.items {
            let members = document::container(text, item.value.start)
                .map_err(|problem| json.problem_at(text, problem.at, problem.text))?;
            for member in &members.items {
                let name = unquoted(member.name.of(text));
                if name_field.as_ref() == Some(&name) {
                    let problem = format!(
                        "a record has a member `{name}`, which is what its own name is called; choose another as the key"
                    );
                    return Err(json.problem_at(text, member.name.start, problem));
                }
                fields.note(name, kind_at(text.as_bytes(), member.value.start, member.value.end));
            }
        }
        // Records that all have other keys can't lack all fields of it, so where several do, the location is wrong. Else the
        // last record that had a field of the key may be gone: its fields are there all the same.
        if bed.records.items.len() <= 1 || bed.key.iter().any(|name| fields.slots.contains_key(name)) {
            bed.key.iter().for_each(|name| fields.note(name.clone(), None));
        }
        let layout = xxh3_64(fields.names.join("\0").as_bytes()) ^ u64::from(bed.records.is_object);
        let slots = fields.slots.clone();
        let schema = fields.schema();
        let key: Vec<&str> = match &name_field {
            Some(name) => vec![name],
            None => bed.key.iter().map(String::as_str).collect(),
        };
        let schema = match key.is_empty() {
            true => schema,
            false => {
                let at = bed.records.span.start;
                schema
                    .with_key(&key)
                    .map_err(|error| json.problem_at(text, at, format!("in `{}` {error}", bed.name)))?
            }
        };
        let (items, is_object) = (bed.records.items, bed.records.is_object);
        Ok((Table { items, is_object, slots, layout }, Collection { name: bed.name, schema }))
    }
}

impl Scan for JsonScan<'_> {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, index: usize) -> u64 {
        self.tables[index].layout
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.text.len() as u64)
    }

    fn bytes_read(&self) -> u64 {
        self.item().map_or(0, |item| item.value.end as u64)
    }

    fn start(&mut self, index: usize, _extent: Extent) -> Result<()> {
        self.index = index;
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        let Some(item) = self.tables.get(self.index).and_then(|table| table.items.get(self.at)) else {
            return Ok(None);
        };
        self.at += 1;
        let name = xxh3_64(item.name.of(&self.text).as_bytes());
        Ok(Some(Fingerprint(xxh3_64_with_seed(item.value.of(&self.text).as_bytes(), name))))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        let Some(item) = self.item().copied() else { return Ok(Decoded::Record) };
        let table = &self.tables[self.index];
        self.values.clear();
        self.values.resize(table.slots.len(), Value::Absent);
        if table.is_object {
            self.values[0] = Value::Text(unquoted(item.name.of(&self.text)));
        }
        let members = document::container(&self.text, item.value.start);
        let members = members.map_err(|problem| self.json.problem_at(&self.text, problem.at, problem.text))?;
        for member in &members.items {
            let name = unquoted(member.name.of(&self.text));
            let value = self.json.value(&self.text, member.value)?;
            if let Some(slot) = table.slots.get(&name) {
                self.values[*slot] = value;
            }
        }
        for value in &self.values {
            row.push(value);
        }
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        self.json.position(&self.text, self.item().map_or(0, |item| item.value.start))
    }

    fn finish(&mut self) -> Result<()> {
        // The file was read as a whole, and checked then.
        Ok(())
    }
}

/// The fields met, in the order of their first appearance.
#[derive(Default)]
struct Fields {
    names: Vec<String>,
    slots: HashMap<String, usize>,
    /// `None`: nothing but null so far; `Some(None)`: several kinds.
    kinds: Vec<Option<Option<Kind>>>,
}

impl Fields {
    fn note(&mut self, name: String, kind: Option<Kind>) {
        let slot = match self.slots.get(&name) {
            Some(slot) => *slot,
            None => {
                let slot = self.names.len();
                self.slots.insert(name.clone(), slot);
                self.names.push(name);
                self.kinds.push(None);
                slot
            }
        };
        if let Some(kind) = kind {
            let known = &mut self.kinds[slot];
            *known = match known {
                None => Some(Some(kind)),
                Some(Some(before)) if *before == kind => Some(Some(kind)),
                Some(_) => Some(None),
            };
        }
    }

    fn schema(self) -> Schema {
        let field = |(ordinal, (name, kind)): (usize, (String, Option<Option<Kind>>))| {
            Field::new(name, kind.flatten(), ordinal as u32)
        };
        let fields = self.names.into_iter().zip(self.kinds).enumerate().map(field).collect();
        Schema { fields, key: KeySpec::WholeRow }
    }
}

/// The kind of a value by its first bytes; `None` for null. An object may stand for any kind.
fn kind_at(text: &[u8], start: usize, end: usize) -> Option<Kind> {
    Some(match text[start] {
        b'n' => return None,
        b't' | b'f' => Kind::Bool,
        b'"' => Kind::Text,
        b'[' => Kind::List,
        b'{' => Kind::Map,
        _ if text[start..end].iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') => Kind::Integer,
        _ => Kind::Decimal,
    })
}
