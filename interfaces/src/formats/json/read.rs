//! Reading: the document's records one by one, decoded only where asked.

use std::collections::HashMap;

use deltabus_record::json;
use deltabus_record::row::RowBuilder;
use deltabus_record::schema::{Collection, Field, KeySpec, Schema};
use deltabus_record::value::{Kind, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::document::{self, Item, unquoted};
use super::{Found, Json, Shape};
use crate::{Decoded, Extent, Fingerprint, Position, Result, Scan, Stamp};

/// One view of a document.
pub(super) struct JsonScan<'a> {
    json: &'a Json,
    text: String,
    stamp: Stamp,
    items: Vec<Item>,
    is_object: bool,
    collections: Vec<Collection>,
    slots: HashMap<String, usize>,
    layout: u64,
    /// The current record's place plus one.
    at: usize,
    values: Vec<Value>,
}

impl<'a> JsonScan<'a> {
    pub(super) fn open(json: &'a Json) -> Result<JsonScan<'a>> {
        let (text, stamp) = json.read()?;
        let (items, is_object) = match json.find(&text)? {
            Found::Records(container) => (container.items, container.is_object),
            Found::Nothing { root: None, .. } => (Vec::new(), json.shape == Shape::Object),
            Found::Nothing { root: Some(place), .. } => {
                let pointer = json.pointer.join("/");
                return Err(json.problem_at(&text, place.start, format!("there is nothing at `/{pointer}`")));
            }
        };
        let mut fields = Fields::default();
        if is_object {
            fields.note(json.name_field().to_owned(), Some(Kind::Text));
        }
        for item in &items {
            let members =
                document::container(&text, item.value.start).map_err(|problem| json.problem(&text, problem))?;
            for member in &members.items {
                let name = unquoted(member.name.of(&text));
                if is_object && name == json.name_field() {
                    let problem = format!(
                        "a record has a member `{name}`, which is what its own name is called; choose another with `key=`"
                    );
                    return Err(json.problem_at(&text, member.name.start, problem));
                }
                fields.note(name, kind_at(text.as_bytes(), member.value.start, member.value.end));
            }
        }
        let layout = xxh3_64(fields.names.join("\0").as_bytes()) ^ u64::from(is_object);
        let slots = fields.slots.clone();
        let schema = fields.schema();
        let keys: Vec<&str> = match is_object {
            true => vec![json.name_field()],
            false => json.key.iter().map(String::as_str).collect(),
        };
        // A file without records has no fields yet: then there is no key to be checked.
        let schema = match keys.is_empty() || (items.is_empty() && !is_object) {
            true => schema,
            false => schema.with_key(&keys).map_err(|error| json.problem_at(&text, 0, error.to_string()))?,
        };
        let collections = vec![Collection { name: json.name(), schema }];
        let values = Vec::new();
        Ok(JsonScan { json, text, stamp, items, is_object, collections, slots, layout, at: 0, values })
    }
}

impl Scan for JsonScan<'_> {
    fn collections(&self) -> &[Collection] {
        &self.collections
    }

    fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    fn layout(&self, _index: usize) -> u64 {
        self.layout
    }

    fn bytes_total(&self) -> Option<u64> {
        Some(self.text.len() as u64)
    }

    fn bytes_read(&self) -> u64 {
        self.at.checked_sub(1).and_then(|at| self.items.get(at)).map_or(0, |item| item.value.end as u64)
    }

    fn start(&mut self, _index: usize, _extent: Extent) -> Result<()> {
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Fingerprint>> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        self.at += 1;
        let name = xxh3_64(item.name.of(&self.text).as_bytes());
        Ok(Some(Fingerprint(xxh3_64_with_seed(item.value.of(&self.text).as_bytes(), name))))
    }

    fn decode(&mut self, row: &mut RowBuilder) -> Result<Decoded> {
        let Some(item) = self.at.checked_sub(1).and_then(|at| self.items.get(at)) else { return Ok(Decoded::Record) };
        self.values.clear();
        self.values.resize(self.slots.len(), Value::Absent);
        if self.is_object {
            self.values[0] = Value::Text(unquoted(item.name.of(&self.text)));
        }
        let members = document::container(&self.text, item.value.start);
        let members = members.map_err(|problem| self.json.problem(&self.text, problem))?;
        for member in &members.items {
            let name = unquoted(member.name.of(&self.text));
            let value = json::read(member.value.of(&self.text)).map_err(|error| {
                self.json.problem_at(&self.text, member.value.start + error.at, error.problem.to_owned())
            })?;
            if let Some(slot) = self.slots.get(&name) {
                self.values[*slot] = value;
            }
        }
        for value in &self.values {
            row.push(value);
        }
        Ok(Decoded::Record)
    }

    fn position(&self) -> Position {
        let start = self.at.checked_sub(1).and_then(|at| self.items.get(at)).map_or(0, |item| item.value.start);
        let line = self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let column = self.text[..start].rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        Position { place: self.json.file.place(), line: Some(line), column: Some(column), record: None }
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
